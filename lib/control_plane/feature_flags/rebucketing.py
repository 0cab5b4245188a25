"""Which units a change of a flag would move, found by asking both definitions about a sample.

Units are asked for as callers of the flag are: under the attribute that its splits go by. A sample
without real units is ``unit-0``, ``unit-1``, …: hashed, they spread as any others do. Segments
have no members here and other flags serve nothing, as only a node knows them.
"""

from __future__ import annotations

from control_plane.feature_flags.compile import VARIANTS, Compiler, Function, PlainContext
from control_plane.feature_flags.definition import buckets, parse_definition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Asking = Callable[[str], str | None]


class Moves:
    """What a change does to a sample: how many units go from which variant to which.

    ``pairs`` has those that stay, too; None is the caller's default.
    """

    __slots__ = ("pairs", "units")

    def __init__(self, pairs: dict[tuple[str | None, str | None], int]) -> None:
        self.pairs = pairs
        self.units = sum(pairs.values())

    @property
    def moved(self) -> int:
        """How many units get another variant."""
        return sum(count for (before, after), count in self.pairs.items() if before != after)


def moves(
    name: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    units: Iterable[str],
    *,
    by: str,
    context: Mapping[str, Any],
    now: float,
) -> Moves:
    """Compare two definitions (merged metadata) of a flag unit by unit.

    Raises:
        ManifestInvalid: one of them breaks the rules.
    """
    one, other = (_asking(name, each, by, context, now) for each in (before, after))
    pairs: dict[tuple[str | None, str | None], int] = {}
    for unit in units:
        pair = one(unit), other(unit)
        pairs[pair] = pairs.get(pair, 0) + 1
    return Moves(pairs)


def sample(size: int) -> Iterable[str]:
    """So many units that stand for real ones."""
    return (f"unit-{number}" for number in range(size))


def split_attribute(metadata: Mapping[str, Any]) -> str | None:
    """The attribute that the first split or range of a definition goes by; None without one."""
    flag = parse_definition(metadata)
    if flag.targeting is not None:
        # What its ``fractional`` goes by may be computed; without a unit of its own it is this.
        return "targeting_key"
    for rule in flag.rules:
        for bucket in buckets(rule.conditions):
            return ".".join(bucket.by or rule.by)
        if rule.split:
            return ".".join(rule.by)
    return None


def _asking(
    name: str, metadata: Mapping[str, Any], by: str, context: Mapping[str, Any], now: float
) -> Asking:
    flag = Compiler().compile(name, metadata)
    answers: dict[str, Callable[..., Any]] = {
        "members": lambda *_: False,
        "served": lambda *_: None,
        "now": lambda: now,
    }
    answer = flag.bound(VARIANTS, tuple([answers[need] for need in flag.needs]))
    if answer.__class__ is not Function:
        constant: str | None = answer
        return lambda unit: constant
    keys = by.split(".")

    def ask(unit: str) -> str | None:
        shown = PlainContext(_with(context, keys, unit))
        variant: str | None = answer(None, None, shown)
        return variant

    return ask


def _with(context: Any, keys: list[str], unit: str) -> dict[str, Any]:
    """The context with the unit at a path inside it; what lies beside the path stays."""
    around = context if isinstance(context, dict) else {}
    inner = _with(around.get(keys[0]), keys[1:], unit) if len(keys) > 1 else unit
    return {**around, keys[0]: inner}
