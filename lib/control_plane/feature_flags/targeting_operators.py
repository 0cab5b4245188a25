"""What the operators of a ``targeting`` expression answer: JsonLogic as flagd runs it.

flagd's implementations in Go, Python, Java and JavaScript differ in corners of JsonLogic; where
they do, these are openfeature-flagd-core's answers, oddities included:

* false are null, false, 0, NaN, "" and the empty list; a mapping is true, even an empty one.
* ``==`` of two types compares numbers: true is 1, null is 0 beside a number or bool and equal to
  null only beside the rest, "5" is 5, [5] is 5, a list beside text is its members joined by
  commas. Two lists or mappings are equal when they are one and the same.
* ``<`` and its like compare numbers when one side is a number, else text when one side is text,
  else numbers again; what is no number is NaN and compares false. A third operand makes a chain.
* ``var`` with a default gives it for null, too; ``in`` finds 1 where true is listed.
* ``starts_with``, ``ends_with`` and ``sem_ver`` give null for operands that are not theirs,
  ``fractional`` where it finds no unit, weight or bucket.

What differs on purpose: values JSON has not are null here, ``log`` writes nothing, and where an
expression or a context could make an evaluation long or large, it ends with ``ValueError``: texts
of over 1 MiB made by ``cat``, lists of over 100,000 members made by ``merge``, numbers made beyond
a double, 100,000 rounds of ``map`` and its like in one evaluation of one of them.

``apply`` interprets an expression; the code ``targeting`` writes calls the same functions and
leaves to it only what ``map`` and its like do for each member.
"""

from __future__ import annotations

from control_plane.feature_flags.flagd_bucketing import (
    MAX_TOTAL_WEIGHT,
    V3,
    cbor,
    hash32,
    position,
    text_bytes,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MAX_TEXT = 1 << 20
MAX_MEMBERS = 100_000
MAX_ROUNDS = 100_000
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


_LISTS = frozenset((list, JsonList))
_MAPPINGS = frozenset((dict, JsonMapping))
_NUMBERS = frozenset((int, float, bool))
_OURS = frozenset((str, int, float, bool, type(None))) | _LISTS | _MAPPINGS


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


# Conversions.


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
    return kind in _MAPPINGS or bool(value)


def number(value: Any) -> Any:
    """A value as a number; NaN for what is none."""
    value = plain(value)
    kind = type(value)
    while kind in _LISTS:
        if len(value) != 1:
            return NAN if value else 0
        value = plain(value[0])
        kind = type(value)
    if kind in _NUMBERS:
        return value
    if value is None:
        return 0
    if kind in _MAPPINGS or value.strip().lower() in ("inf", "-inf", "+inf"):
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
    written = _Written()
    _spell(value, written)
    return "".join(written.parts)


class _Written:
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


def _spell(value: Any, written: _Written) -> None:
    value = plain(value)
    kind = type(value)
    if kind is str:
        written.add(value)
    elif kind is float:
        written.add(f"{value:.15g}")
    elif kind is int or kind is bool:
        written.add(str(value))
    elif kind in _LISTS:
        for index, member in enumerate(value):
            if index:
                written.add(",")
            _spell(member, written)
    else:
        written.add("null" if value is None else "[object Object]")


def _within_double(made: Any) -> Any:
    if type(made) is int and not -_BEYOND_DOUBLE < made < _BEYOND_DOUBLE:
        raise ValueError("expected a number a double can hold, found a larger one")
    return made


# Comparisons.


def equals(a: Any = None, b: Any = None, *_: Any) -> bool:
    """``==``."""
    a, b = plain(a), plain(b)
    one, other = _family(a), _family(b)
    if one == other:
        return a is b if one in "[{" else a == b
    if one == "0" or other == "0":
        return number(a) == number(b)  # type: ignore[no-any-return]
    if one == "null" or other == "null" or one + other in ("[{", "{["):
        return False
    return text(a) == text(b)


def _family(value: Any) -> str:
    kind = type(value)
    if kind in _NUMBERS:
        return "0"
    if kind is str:
        return '"'
    if kind in _LISTS:
        return "["
    return "{" if kind in _MAPPINGS else "null"


def unequal(a: Any = None, b: Any = None, *_: Any) -> bool:
    """``!=``."""
    return not equals(a, b)


def same(a: Any = None, b: Any = None, *_: Any) -> bool:
    """``===``; numbers by value, true is 1, lists and mappings by their members."""
    return _alike(plain(a), plain(b), [MAX_MEMBERS])


def _alike(a: Any, b: Any, left: list[int]) -> bool:
    """Whether two values are equal all the way down; ``left`` counts what may be compared."""
    if a is b:
        return True
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"expected at most {MAX_MEMBERS} members to compare, found more")
    kinds = type(a), type(b)
    if kinds[0] in _LISTS and kinds[1] in _LISTS:
        return len(a) == len(b) and all(
            _alike(plain(one), plain(other), left) for one, other in zip(a, b, strict=True)
        )
    if kinds[0] in _MAPPINGS and kinds[1] in _MAPPINGS:
        return len(a) == len(b) and all(
            key in b and _alike(plain(a[key]), plain(b[key]), left) for key in a
        )
    return a == b  # type: ignore[no-any-return]


def different(a: Any = None, b: Any = None, *_: Any) -> bool:
    """``!==``."""
    return not same(a, b)


def _sides(a: Any, b: Any) -> tuple[Any, Any]:
    """Both as what they are compared as: numbers, or text."""
    a, b = plain(a), plain(b)
    kinds = type(a), type(b)
    if kinds[0] in _NUMBERS or kinds[1] in _NUMBERS or str not in kinds:
        return number(a), number(b)
    return text(a), text(b)


def _less(a: Any, b: Any) -> bool:
    a, b = _sides(a, b)
    return a < b  # type: ignore[no-any-return]


def _at_most(a: Any, b: Any) -> bool:
    a, b = _sides(a, b)
    return a <= b  # type: ignore[no-any-return]


def less(a: Any = None, b: Any = None, c: Any = None, *_: Any) -> bool:
    """``<``, with a third operand a chain."""
    return _less(a, b) and (plain(c) is None or _less(b, c))


def at_most(a: Any = None, b: Any = None, c: Any = None, *_: Any) -> bool:
    """``<=``."""
    return _at_most(a, b) and (plain(c) is None or _at_most(b, c))


def greater(a: Any = None, b: Any = None, c: Any = None, *_: Any) -> bool:
    """``>``."""
    return _less(b, a) and (plain(c) is None or _less(c, b))


def at_least(a: Any = None, b: Any = None, c: Any = None, *_: Any) -> bool:
    """``>=``."""
    return _at_most(b, a) and (plain(c) is None or _at_most(c, b))


def negation(value: Any = None, *_: Any) -> bool:
    """``!``."""
    return not truthy(value)


def affirmation(value: Any = None, *_: Any) -> bool:
    """``!!``."""
    return truthy(value)


# Arithmetic.


def total(*values: Any) -> Any:
    """``+``."""
    made: Any = 0
    for value in values:
        made = _within_double(made + number(value))
    return made


def product(*values: Any) -> Any:
    """``*``."""
    made: Any = 1
    for value in values:
        made = _within_double(made * number(value))
    return made


def difference(a: Any = None, b: Any = None, *_: Any) -> Any:
    """``-``; of one operand its negative."""
    made = -number(a) if plain(b) is None else number(a) - number(b)
    return _within_double(made)


def quotient(a: Any = None, b: Any = None, *_: Any) -> Any:
    """``/``; by zero raises ZeroDivisionError."""
    return number(a) / number(b)


def remainder(a: Any = None, b: Any = None, *_: Any) -> Any:
    """``%`` with the sign of the divisor; by zero raises ZeroDivisionError."""
    return number(a) % number(b)


def smallest(*values: Any) -> Any:
    """``min``."""
    return min(map(number, values)) if values else NAN


def largest(*values: Any) -> Any:
    """``max``."""
    return max(map(number, values)) if values else NAN


# Text and lists.


def joined(*values: Any) -> str:
    """``cat``."""
    written = _Written()
    for value in values:
        written.add(text(value))
    return "".join(written.parts)


def part(value: Any = None, index: Any = None, length: Any = None, *_: Any) -> str:
    """``substr``; from the end where the index is negative, without so many where the length is."""
    whole = text(value)
    first, size = number(index), len(whole)
    if first != first:
        first = 0
    elif first < 0:
        first = 0 if -first >= size else size - int(-first)
    else:
        first = min(int(first), size)
    if plain(length) is None:
        return whole[first:]
    wanted = number(length)
    if wanted != wanted:
        return ""
    wanted = int(wanted)
    return whole[first : max(first, size + wanted) if wanted < 0 else first + wanted]


def contained(needle: Any = None, haystack: Any = None, *_: Any) -> bool:
    """``in``: a member of a list, or a part of a text."""
    needle, haystack = plain(needle), plain(haystack)
    if type(haystack) in _LISTS:
        left = [MAX_MEMBERS]
        return any(_alike(needle, member, left) for member in map(plain, haystack))
    return type(haystack) is str and text(needle) in haystack


def merged(*values: Any) -> list[Any]:
    """``merge``."""
    made: list[Any] = []
    for value in values:
        value = plain(value)
        if type(value) in _LISTS:
            made.extend(value)
        else:
            made.append(value)
        if len(made) > MAX_MEMBERS:
            raise ValueError(f"expected at most {MAX_MEMBERS} members, found more")
    return made


def logged(value: Any = None, *_: Any) -> Any:
    """``log``: its operand, and nothing written."""
    return value


def starts_with(*values: Any) -> bool | None:
    """``starts_with``."""
    if len(values) != 2:
        return None
    value, start = map(plain, values)
    return value.startswith(start) if type(value) is type(start) is str else None


def ends_with(*values: Any) -> bool | None:
    """``ends_with``."""
    if len(values) != 2:
        return None
    value, end = map(plain, values)
    return value.endswith(end) if type(value) is type(end) is str else None


# Attributes.


def dig(value: Any, *keys: str) -> Any:
    """What lies under these keys, one below the other; None where nothing does.

    A list or text has the key ``length`` and its members under ``0``, ``1``, …
    """
    for key in keys:
        value = plain(value)
        kind = type(value)
        if kind in _MAPPINGS:
            value = value.get(key)
        elif kind is str or kind in _LISTS:
            if key == "length":
                return len(value)
            value = _member(value, key)
        else:
            return None
    return value


def _member(value: Any, key: str) -> Any:
    # Longer digits are no index, and reading them would take its time.
    if not key.isascii() or not key.isdecimal() or len(key) > 9 or (key[0] == "0" and key != "0"):
        return None
    index = int(key)
    return value[index] if index < len(value) else None


def variable(data: Any, key: Any = None, default: Any = None) -> Any:
    """``var`` of a value, with whatever key."""
    key, data = plain(key), plain(data)
    if key is None or key == "":
        return data
    if type(key) in _NUMBERS:
        if type(data) in _MAPPINGS:
            # No key of JSON is a number.
            return default
        if type(data) is not str and type(data) not in _LISTS:
            return default
        if key != key or int(key) != key or not 0 <= key < len(data):
            return default
        return data[int(key)]
    found = plain(dig(data, *text(key).split(".")))
    return default if found is None else found


def missing(data: Any, *keys: Any) -> list[Any]:
    """``missing``: those keys, or members of the first operand, that lead to null or ""."""
    if keys and type(plain(keys[0])) in _LISTS:
        keys = tuple(plain(keys[0]))
    absent = []
    for key in keys:
        found = variable(data, key)
        if found is None or found == "":
            absent.append(plain(key))
    return absent


def missing_some(data: Any, least: Any = 0, keys: Any = None, *_: Any) -> list[Any]:
    """``missing_some``: no key where so many lead somewhere, else those that do not."""
    keys = plain(keys)
    if type(keys) not in _LISTS:
        return []
    absent = missing(data, keys)
    return [] if len(keys) - len(absent) >= number(least) else absent


# Versions.


class Version:
    """A semantic version; build metadata does not count."""

    __slots__ = ("core", "pre")

    def __init__(self, core: tuple[int, int, int], pre: tuple[tuple[int, int, str], ...]) -> None:
        self.core = core
        self.pre = pre

    def order(self) -> tuple[Any, ...]:
        """What versions are compared by: one with a pre-release comes before the one without."""
        return self.core, not self.pre, self.pre


def version_of(value: Any) -> Version | None:
    """The version a value spells, as "1.2.3", "v1.2.3", "1.2", "1" or a number."""
    value = plain(value)
    if type(value) is not str:
        if type(value) not in (int, float):
            return None
        value = str(value)
    if value[:1] in ("v", "V"):
        value = value[1:]
    if len(value) > 256 or not value.isascii():
        return None
    value, plus, build = value.partition("+")
    core, dash, pre = value.partition("-")
    numbers = core.split(".")
    if len(numbers) > 3 or not all(map(_is_number, numbers)):
        return None
    if plus and not all(map(_is_identifier, build.split("."))):
        return None
    names = pre.split(".") if dash else []
    if not all(_is_identifier(name) and (_is_number(name) or not name.isdecimal())
               for name in names):  # fmt: skip
        return None
    numbers += ["0"] * (3 - len(numbers))
    major, minor, patch = map(int, numbers)
    return Version((major, minor, patch), tuple(map(_rank, names)))


def _is_number(name: str) -> bool:
    return name.isdecimal() and (name[0] != "0" or name == "0")


def _is_identifier(name: str) -> bool:
    return bool(name) and name.replace("-", "a").isalnum()


def _rank(name: str) -> tuple[int, int, str]:
    """Numbers by value and before names, names by their letters."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def sem_ver(*values: Any) -> bool | None:
    """``sem_ver``: a version, one of = != < <= > >= ^ ~, a version."""
    if len(values) != 3:
        return None
    a, b = version_of(values[0]), version_of(values[2])
    if a is None or b is None:
        return None
    return version_meets(a, plain(values[1]), b)


def version_meets(a: Version, operator: Any, b: Version) -> bool | None:
    """Whether ``a`` stands so to ``b``; None for an operator that is none."""
    if type(operator) is not str:
        return None
    if operator == "^":
        return a.core[0] == b.core[0]
    if operator == "~":
        return a.core[:2] == b.core[:2]
    one, other = a.order(), b.order()
    if operator == "=":
        return one == other
    if operator == "!=":
        return one != other
    if operator in ("<", "<="):
        return one < other or (operator == "<=" and one == other)
    if operator in (">", ">="):
        return one > other or (operator == ">=" and one == other)
    return None


# Fractions.


def fractional(version: str, flag_key: str, key: Any, values: tuple[Any, ...]) -> Any:
    """``fractional``: the first of the bucket the unit falls into, or None.

    The first operand is what is hashed, unless it is a list (in v1 and v2: no text); then flag
    key and targeting key are. A bucket is a list of what it answers and its weight (without: 1).

    Raises:
        UnicodeEncodeError: in v1 and v2, for a unit with lone surrogates.
    """
    if not values:
        return None
    first = plain(values[0])
    explicit = type(first) not in _LISTS if version == V3 else type(first) is str
    if not explicit:
        if type(key) is not str or not key:
            return None
        if version == V3:
            hashed = hash_of_key(flag_key, key)
        else:
            hashed = hash32(text_bytes(version, flag_key, key))
    else:
        values = values[1:]
        if version == V3:
            hashed = hash_of_value(first)
        else:
            hashed = hash32(first.encode()) if first else None
    weights = _weights(values)
    if hashed is None or weights is None or not 1 <= sum(weights) <= MAX_TOTAL_WEIGHT:
        return None
    index = position(version, hashed, weights)
    return None if index < 0 else plain(values[index])[0]


def hash_of_key(flag_key: str, key: str) -> int | None:
    """The hash of flag key and targeting key in v3; None for lone surrogates."""
    try:
        return hash32(text_bytes(V3, flag_key, key))
    except UnicodeEncodeError:
        return None


def hash_of_value(value: Any) -> int | None:
    """The hash of a value in v3; None for what has no bytes there."""
    if value is None:
        return None
    try:
        return hash32(cbor(value))
    except (ValueError, TypeError, RecursionError):
        return None


def _weights(buckets: tuple[Any, ...]) -> list[int] | None:
    weights = []
    for bucket in buckets:
        bucket = plain(bucket)
        if type(bucket) not in _LISTS or not 1 <= len(bucket) <= 2:
            return None
        weight = plain(bucket[1]) if len(bucket) == 2 else 1
        if type(weight) is not int:
            return None
        weights.append(max(0, weight))
    return weights


# Interpretation.


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
        if type(logic) in _LISTS:
            return [self.apply(member, data) for member in logic]
        if type(logic) not in _MAPPINGS or len(logic) != 1:
            return logic
        operator, operands = next(iter(logic.items()))
        if type(operands) not in _LISTS:
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
        if type(data) not in _MAPPINGS and values and type(plain(values[0])) in _LISTS:
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
        return items if type(items) in _LISTS else None

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
