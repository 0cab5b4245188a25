"""The operators of ``targeting`` by name, and an interpreter of whole expressions.

The code that ``targeting_code`` writes calls the same functions, and leaves to the interpreter
only what ``map`` and its like do for each member.
"""

from __future__ import annotations

from control_plane.feature_flags.targeting_operators import (
    affirmation,
    at_least,
    at_most,
    contained,
    difference,
    different,
    dig,
    ends_with,
    equals,
    fractional,
    greater,
    joined,
    largest,
    less,
    logged,
    merged,
    missing,
    missing_some,
    negation,
    part,
    product,
    quotient,
    remainder,
    same,
    smallest,
    starts_with,
    total,
    unequal,
    variable,
)
from control_plane.feature_flags.targeting_values import LISTS, MAPPINGS, plain, truthy
from control_plane.feature_flags.targeting_versions import sem_ver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MAX_ROUNDS = 100_000

FRACTIONAL = "fractional"
EAGER: dict[str, Callable[..., Any]] = {
    "==": equals,
    "!=": unequal,
    "===": same,
    "!==": different,
    "<": less,
    "<=": at_most,
    ">": greater,
    ">=": at_least,
    "!": negation,
    "!!": affirmation,
    "+": total,
    "*": product,
    "-": difference,
    "/": quotient,
    "%": remainder,
    "min": smallest,
    "max": largest,
    "cat": joined,
    "substr": part,
    "in": contained,
    "merge": merged,
    "log": logged,
    "starts_with": starts_with,
    "ends_with": ends_with,
    "sem_ver": sem_ver,
}
"""Operators of their operands alone."""
OF_DATA: dict[str, Callable[..., Any]] = {
    "var": variable,
    "missing": missing,
    "missing_some": missing_some,
}
"""Operators that also look at the context."""
ITERATING = {
    "filter": "_filter",
    "map": "_map",
    "reduce": "_reduce",
    "all": "_all",
    "some": "_some",
    "none": "_none",
}
LAZY = {"if": "_if", "?:": "_if", "and": "_and", "or": "_or", **ITERATING}
"""Operators that do not evaluate all of their operands, or not on this context."""
OPERATORS = frozenset((*EAGER, *OF_DATA, *LAZY, FRACTIONAL))


class Interpreter:
    """Interprets expressions; ``version`` is how ``fractional`` buckets."""

    __slots__ = ("_rounds", "_version")

    def __init__(self, version: str) -> None:
        self._version = version
        self._rounds = 0

    def apply(self, logic: Any, data: Any) -> Any:
        """The value of an expression.

        Raises:
            ValueError: for an operator that there is not, and at the bounds named above.
            Exception: whatever else flagd's evaluation would end with.
        """
        if type(logic) in LISTS:
            return [self.apply(member, data) for member in logic]
        if type(logic) not in MAPPINGS or len(logic) != 1:
            return logic
        operator, operands = next(iter(logic.items()))
        if type(operands) not in LISTS:
            operands = [operands]
        if operator in LAZY:
            return getattr(self, LAZY[operator])(operands, data)
        values = [self.apply(operand, data) for operand in operands]
        if operator in EAGER:
            return EAGER[operator](*values)
        if operator in OF_DATA:
            return OF_DATA[operator](data, *values)
        if operator != FRACTIONAL:
            raise ValueError(f"expected an operator of flagd, found {operator!r}")
        data = plain(data)
        if type(data) not in MAPPINGS and values and type(plain(values[0])) in LISTS:
            raise ValueError("expected a context with a targeting key, found none")
        flag_key, key = dig(data, "$flagd", "flagKey") or "", plain(dig(data, "targetingKey"))
        return fractional(self._version, flag_key, key, tuple(values))

    def _if(self, operands: list[Any], data: Any) -> Any:
        for index in range(0, len(operands) - 1, 2):
            if truthy(self.apply(operands[index], data)):
                return self.apply(operands[index + 1], data)
        return self.apply(operands[-1], data) if len(operands) % 2 else None

    def _and(self, operands: list[Any], data: Any) -> Any:
        value = None
        for operand in operands:
            value = self.apply(operand, data)
            if not truthy(value):
                break
        return value

    def _or(self, operands: list[Any], data: Any) -> Any:
        value = None
        for operand in operands:
            value = self.apply(operand, data)
            if truthy(value):
                break
        return value

    def _items(self, operands: list[Any], data: Any) -> list[Any] | None:
        items = plain(self.apply(operands[0], data))
        return items if type(items) in LISTS else None

    def _each(self, operands: list[Any], items: list[Any]) -> Iterator[Any]:
        logic = operands[1] if len(operands) > 1 else None
        for item in items:
            yield self._once(logic, plain(item))

    def _once(self, logic: Any, data: Any) -> Any:
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            raise ValueError(f"expected at most {MAX_ROUNDS} rounds, found more")
        return self.apply(logic, data)

    def _filter(self, operands: list[Any], data: Any) -> list[Any]:
        if len(operands) < 2:
            return []
        items = self._items(operands, data) or []
        kept = self._each(operands, items)
        return [item for item, keep in zip(items, kept, strict=True) if truthy(keep)]

    def _map(self, operands: list[Any], data: Any) -> list[Any]:
        if not operands:
            return []
        return list(self._each(operands, self._items(operands, data) or []))

    def _reduce(self, operands: list[Any], data: Any) -> Any:
        if not operands:
            return None
        logic = operands[1] if len(operands) > 1 else None
        made = operands[2] if len(operands) > 2 else None
        for item in self._items(operands, data) or []:
            made = self._once(logic, {"accumulator": made, "current": item})
        return made

    def _all(self, operands: list[Any], data: Any) -> bool:
        if len(operands) < 2:
            return False
        items = self._items(operands, data)
        return bool(items) and all(map(truthy, self._each(operands, items or [])))

    def _some(self, operands: list[Any], data: Any) -> bool:
        if len(operands) < 2:
            return False
        return any(map(truthy, self._each(operands, self._items(operands, data) or [])))

    def _none(self, operands: list[Any], data: Any) -> bool:
        return not self._some(operands, data)
