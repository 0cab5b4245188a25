"""What the operators of a ``targeting`` expression answer: JsonLogic as flagd runs it.

flagd's implementations in Go, Python, Java and JavaScript differ in corners of JsonLogic; where
they do, these are openfeature-flagd-core's answers, oddities included:

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
from control_plane.feature_flags.targeting_values import (
    LISTS,
    MAPPINGS,
    MAX_MEMBERS,
    NAN,
    NUMBERS,
    Written,
    number,
    plain,
    text,
    truthy,
    within_double,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
    if kind in NUMBERS:
        return "0"
    if kind is str:
        return '"'
    if kind in LISTS:
        return "["
    return "{" if kind in MAPPINGS else "null"


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
    if kinds[0] in LISTS and kinds[1] in LISTS:
        return len(a) == len(b) and all(
            _alike(plain(one), plain(other), left) for one, other in zip(a, b, strict=True)
        )
    if kinds[0] in MAPPINGS and kinds[1] in MAPPINGS:
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
    if kinds[0] in NUMBERS or kinds[1] in NUMBERS or str not in kinds:
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
        made = within_double(made + number(value))
    return made


def product(*values: Any) -> Any:
    """``*``."""
    made: Any = 1
    for value in values:
        made = within_double(made * number(value))
    return made


def difference(a: Any = None, b: Any = None, *_: Any) -> Any:
    """``-``; of one operand its negative."""
    made = -number(a) if plain(b) is None else number(a) - number(b)
    return within_double(made)


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
    written = Written()
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
    if type(haystack) in LISTS:
        left = [MAX_MEMBERS]
        return any(_alike(needle, member, left) for member in map(plain, haystack))
    return type(haystack) is str and text(needle) in haystack


def merged(*values: Any) -> list[Any]:
    """``merge``."""
    made: list[Any] = []
    for value in values:
        value = plain(value)
        if type(value) in LISTS:
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
        if kind in MAPPINGS:
            value = value.get(key)
        elif kind is str or kind in LISTS:
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
    if type(key) in NUMBERS:
        if type(data) in MAPPINGS:
            # No key of JSON is a number.
            return default
        if type(data) is not str and type(data) not in LISTS:
            return default
        if key != key or int(key) != key or not 0 <= key < len(data):
            return default
        return data[int(key)]
    found = plain(dig(data, *text(key).split(".")))
    return default if found is None else found


def missing(data: Any, *keys: Any) -> list[Any]:
    """``missing``: those keys, or members of the first operand, that lead to null or ""."""
    if keys and type(plain(keys[0])) in LISTS:
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
    if type(keys) not in LISTS:
        return []
    absent = missing(data, keys)
    return [] if len(keys) - len(absent) >= number(least) else absent


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
    explicit = type(first) not in LISTS if version == V3 else type(first) is str
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
        if type(bucket) not in LISTS or not 1 <= len(bucket) <= 2:
            return None
        weight = plain(bucket[1]) if len(bucket) == 2 else 1
        if type(weight) is not int:
            return None
        weights.append(max(0, weight))
    return weights
