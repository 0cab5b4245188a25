"""Finding a unit that a flag's real rules put where a test wants it.

Candidates are tried one after another, always the same ones in the same order, and each is
evaluated as an application would evaluate it; nothing is counted. So a test that names a variant
keeps working when percentages, salts or rules change, and fails with a reason when they leave no
way to that variant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from control_plane.feature_flags.evaluation import DISABLED, ERROR, STATIC
from control_plane.feature_flags.evaluator import FlagEvaluator

CANDIDATES = 100_000
"""A variant of weight 1 in 10,000 is found among so many in all but one of 20,000 flags."""

U = TypeVar("U", str, int)
_ARGUMENTS = ("user_id", "tenant_id")
_SAME_FOR_ALL = (STATIC, DISABLED, ERROR)


def find_unit(
    flags: FlagEvaluator,
    flag: str,
    variant: str,
    by: str,
    given: Mapping[str, Any],
    among: Iterable[U] | None,
    definition: Mapping[str, Any],
) -> U | str:
    """The first candidate whose evaluation serves the variant.

    ``given`` are the caller's other arguments, ``definition`` is the flag's metadata as evaluated.

    Raises:
        ValueError: none is served it; says what they are served, and why the last one is.
    """
    variants = definition["variants"]
    if variant not in variants:
        raise ValueError(
            f"flag {flag}: expected one of the variants {', '.join(variants)}, found {variant!r}"
        )
    ways = _ways_to(definition, variant)
    served: Counter[str] = Counter()
    unit: U | str | None = None
    caller: dict[str, Any] = {}
    candidates: Iterable[U | str] = (
        (f"unit-{number}" for number in range(CANDIDATES)) if among is None else among
    )
    for unit in islice(candidates, CANDIDATES):
        caller = _caller(by, unit, given)
        evaluation = flags.evaluate(flag, None, **caller)
        if evaluation.variant == variant:
            return unit
        served[str(evaluation.variant or evaluation.error_code)] += 1
        if evaluation.reason in _SAME_FOR_ALL:
            break
        if ways == []:
            # Kills and flags that are disabled have answered above.
            raise ValueError(
                f"flag {flag}: expected a variant that somebody is served, found {variant!r}, which"
                " no override, no weight above 0 and no default serves"
            )
    if unit is None:
        raise ValueError(f"flag {flag}: expected candidates to try, found none")
    steps = "; ".join(flags.explain(flag, **caller).steps)
    told = ", ".join(f"{name!r} {count}" for name, count in served.most_common())
    known = f"; it is served by {', '.join(ways)}" if ways else ""
    raise ValueError(
        f"flag {flag}: expected a {by} that is served {variant!r}, found {told}{known}; "
        f"{by} {unit!r}: {steps}"
    )


def _ways_to(metadata: Mapping[str, Any], variant: str) -> list[str] | None:
    """What in a flag's definition serves a variant, in words; None where only evaluating tells."""
    if "targeting" in metadata or not metadata.get("enabled", True):
        return None
    found = [
        f"overrides of {attribute}"
        for attribute, units in metadata.get("overrides", {}).items()
        if variant in units.values()
    ]
    for rule in metadata.get("rules", ()):
        serve = rule["serve"]
        if serve == variant:
            found.append(f"rule {rule['name']}")
        elif isinstance(serve, list):
            found += _shares(rule, serve, variant)
    return [*found, "the default"] if variant == metadata.get("default") else found


def _shares(rule: Mapping[str, Any], serve: list[dict[str, Any]], variant: str) -> list[str]:
    """The rule's share for the variant, if it has one above 0."""
    weight = sum(entry["weight"] for entry in serve if entry["variant"] == variant)
    total = sum(entry["weight"] for entry in serve)
    by = rule.get("by", "targeting key")
    return [f"rule {rule['name']} ({weight} of {total} by {by})"] if weight else []


def _caller(by: str, unit: str | int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an evaluation for this unit; ``by`` may lead into the context by dots."""
    if by in _ARGUMENTS:
        return {**given, by: unit}
    first, *rest = by.split(".")
    context = dict(given.get("context") or {})
    place = context
    for key in rest:
        place[first] = dict(place.get(first) or {})
        place, first = place[first], key
    place[first] = unit
    return {**given, "context": context}
