"""Edits of a flag's document that operators make by one word: on, off, rollout.

Each edits ``metadata.environments.<E>`` and nothing else, so what the flag does in other
environments, and what its file says for all of them, stays. Documents in, documents out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from control_plane.errors import ManifestInvalid, NotFound

RULE: Final = "rollout"
_FINEST: Final = 1000


def with_enabled(document: Mapping[str, Any], environment: str, enabled: bool) -> dict[str, Any]:
    """The flag with ``enabled`` set for one environment; switched on, its rules decide again."""
    edited, block = _environment_block(document, environment)
    block["enabled"] = enabled
    return edited


def with_rollout(
    document: Mapping[str, Any],
    environment: str,
    percent: Fraction,
    *,
    variant: str | None = None,
    by: str | None = None,
) -> dict[str, Any]:
    """The flag with its rule ``rollout`` serving ``variant`` to ``percent`` of the units.

    ``variant`` defaults to the true one of a boolean flag; the rest get the flag's default. A rule
    of that name that is there keeps its condition, and its ``by`` unless another is given. The
    chosen variant comes first, so that raising the percentage moves nobody out of it.

    Raises:
        ManifestInvalid: a percentage outside 0 to 100 or finer than a thousandth.
        NotFound: the flag has no such variant.
    """
    if not 0 <= percent <= 100 or (percent * _FINEST).denominator != 1:
        raise ManifestInvalid(
            f"rollout: expected a percentage from 0 to 100 in thousandths, found {float(percent)}"
        )
    edited, block = _environment_block(document, environment)
    chosen = _variant(edited, variant)
    rest = _rest(edited, block, chosen)
    rule = _rule(edited, block)
    rule["serve"] = _split(percent, chosen, rest)
    if by is not None:
        rule["by"] = by
    rules = block.setdefault("rules", [])
    rules[:] = [each for each in rules if each.get("name") != RULE] + [rule]
    return edited


def _environment_block(
    document: Mapping[str, Any], environment: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    edited = copy.deepcopy(dict(document))
    block = edited["metadata"].setdefault("environments", {}).setdefault(environment, {})
    return edited, block


def _variant(document: Mapping[str, Any], named: str | None) -> str:
    variants = document["metadata"]["variants"]
    if named is not None:
        if named not in variants:
            raise NotFound(
                f"flag/{document['name']}: expected one of the variants {', '.join(variants)},"
                f" found {named!r}"
            )
        return named
    for name, value in variants.items():
        if value is True:
            return str(name)
    raise ManifestInvalid(
        f"flag/{document['name']}: expected a variant to roll out, found none;"
        f" pass --variant with one of {', '.join(variants)}"
    )


def _rest(document: Mapping[str, Any], block: Mapping[str, Any], chosen: str) -> str:
    """What the others get: the default, and if that is the chosen one, what ``disabled`` names."""
    metadata = document["metadata"]
    variants = block.get("variants", metadata["variants"])
    candidates = [
        block.get("default", metadata.get("default")),
        block.get("disabled", metadata.get("disabled")),
        *(name for name, value in variants.items() if value is False),
    ]
    for name in candidates:
        if name is not None and name != chosen:
            return str(name)
    raise ManifestInvalid(
        f"flag/{document['name']}: expected a default other than {chosen} for the rest, found none"
    )


def _rule(document: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """The rule named ``rollout`` as it stands for the environment, or a new one."""
    for rules in (block.get("rules", []), document["metadata"].get("rules", [])):
        for rule in rules:
            if rule.get("name") == RULE:
                return dict(copy.deepcopy(rule))
    return {"name": RULE}


def _split(percent: Fraction, chosen: str, rest: str) -> list[dict[str, Any]]:
    scale = 1 if percent.denominator == 1 else _FINEST
    weight = int(percent * scale)
    return [
        {"variant": chosen, "weight": weight},
        {"variant": rest, "weight": 100 * scale - weight},
    ]
