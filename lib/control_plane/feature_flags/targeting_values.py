"""Values of a ``targeting`` expression: what JSON has, and what they count as elsewhere.

False are null, false, 0, NaN, "" and the empty list; a mapping is true, even an empty one. As a
number null is 0, true 1, text what it spells, a list of one member that member, all else NaN. As
text a list is its members joined by commas. What JSON has not is null.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_TEXT = 1 << 20
MAX_MEMBERS = 100_000
_BEYOND_DOUBLE = 1 << 1024

NAN = float("nan")


class JsonList(list):  # type: ignore[type-arg]  # typing is not loaded
    """A list that code can hold as a constant: debuggers hash code, constants included."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]


class JsonMapping(dict):  # type: ignore[type-arg]
    """A mapping that code can hold as a constant, as ``JsonList``."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]


LISTS = frozenset((list, JsonList))
MAPPINGS = frozenset((dict, JsonMapping))
NUMBERS = frozenset((int, float, bool))
_OURS = frozenset((str, int, float, bool, type(None))) | LISTS | MAPPINGS


def plain(value: Any) -> Any:
    """The value as JSON has it; null for what JSON has not.

    By type and not ``isinstance``, which would ask the value itself what it claims to be; of a
    subclass (an Enum that is a str, say) the value it holds.
    """
    kind = type(value)
    if kind in _OURS:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, dict):
        return dict(dict.items(value))
    if issubclass(kind, (list, tuple)):
        return [*(list.__iter__(value) if issubclass(kind, list) else tuple.__iter__(value))]
    return None


def truthy(value: Any = None) -> bool:
    """Whether a value counts as true."""
    kind = type(value)
    if kind is bool:
        return bool(value)
    if kind not in _OURS:
        value = plain(value)
        kind = type(value)
    if kind is float:
        return bool(value) and value == value
    return kind in MAPPINGS or bool(value)


def number(value: Any) -> Any:
    """A value as a number; NaN for what is none."""
    value = plain(value)
    kind = type(value)
    while kind in LISTS:
        if len(value) != 1:
            return NAN if value else 0
        value = plain(value[0])
        kind = type(value)
    if kind in NUMBERS:
        return value
    if value is None:
        return 0
    if kind in MAPPINGS or value.strip().lower() in ("inf", "-inf", "+inf"):
        return NAN
    try:
        return float(value)
    except ValueError:
        return NAN


def text(value: Any) -> str:
    """A value as text.

    Raises:
        ValueError: for more than ``MAX_TEXT`` characters.
        RecursionError: for lists that are too deep.
    """
    value = plain(value)
    if type(value) is str:
        return value  # X
    written = Written()
    _spell(value, written)
    return "".join(written.parts)


class Written:
    """Parts of a text that is being made; few objects can stand for an endless one."""

    __slots__ = ("_size", "parts")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._size = 0

    def add(self, piece: str) -> None:
        self.parts.append(piece)
        # One more for each, so that empty pieces come to an end, too.
        self._size += len(piece) + 1
        if self._size > MAX_TEXT:
            raise ValueError(f"expected text of at most {MAX_TEXT} characters, found more")


def _spell(value: Any, written: Written) -> None:
    value = plain(value)
    kind = type(value)
    if kind is str:
        written.add(value)
    elif kind is float:
        written.add(f"{value:.15g}")
    elif kind is int or kind is bool:
        written.add(str(value))
    elif kind in LISTS:
        for index, member in enumerate(value):
            if index:
                written.add(",")
            _spell(member, written)
    else:
        written.add("null" if value is None else "[object Object]")


def within_double(made: Any) -> Any:
    if type(made) is int and not -_BEYOND_DOUBLE < made < _BEYOND_DOUBLE:
        raise ValueError("expected a number a double can hold, found a larger one")
    return made
