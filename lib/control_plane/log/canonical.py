"""Which bytes a JSON value has, and which bytes are JSON at all.

Writing is RFC 8785 (JCS). Reading is stricter than JSON, because two readers must never see two
values in the same signed bytes: UTF-8 without a byte order mark, no duplicate keys, no NaN or
Infinity, no integer beyond 2^53 - 1, no lone surrogates, and a bounded depth and size.

RFC 8785 differs from sorted JSON without spaces in two things only: floats that are whole, or very
large or small, are spelled in another way, and keys are ordered by UTF-16 code units. A value that
has neither such floats nor keys beyond ASCII is written by the standard library, three times as
fast; every other one by ``rfc8785``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import NoReturn

import rfc8785

from control_plane.errors import SyntaxInvalid
from control_plane.names import MAX_DEPTH, MAX_INTEGER, MAX_REQUEST_BYTES

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

_PLAIN = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha256_hex(data: bytes) -> str:
    """SHA-256 (FIPS 180-4) as 64 lower case hex digits."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Json) -> bytes:
    """The RFC 8785 bytes of a value.

    Raises:
        SyntaxInvalid: for what RFC 8785 cannot write: NaN, infinities, integers beyond 2^53 - 1,
            lone surrogates, keys that are no strings, or nesting past Python's own limit.
    """
    try:
        if _is_plain(value):
            return _PLAIN.encode(value).encode("utf-8")
        _refuse_long_floats(value)
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise SyntaxInvalid(
            f"expected a value RFC 8785 can write, found one it cannot: {error}"
        ) from error
    except RecursionError as error:
        raise SyntaxInvalid(f"expected at most {MAX_DEPTH} levels, found more") from error


def parse(
    data: bytes, *, what: str, max_bytes: int = MAX_REQUEST_BYTES, max_depth: int = MAX_DEPTH
) -> Json:
    """Read strict JSON; ``what`` names the bytes in the error.

    Raises:
        SyntaxInvalid: with what was expected and found, and the line and column where known.
    """
    if len(data) > max_bytes:
        raise SyntaxInvalid(f"{what}: expected at most {max_bytes} bytes, found {len(data)}")
    text = _text(data, what)
    _check_depth(text, what, max_depth)
    try:
        value: Json = json.loads(
            text,
            object_pairs_hook=lambda pairs: _object(pairs, what),
            parse_constant=lambda word: _refuse_constant(word, what),
            parse_int=lambda digits: _integer(digits, what),
            parse_float=lambda digits: _number(digits, what),
        )
    except json.JSONDecodeError as error:
        raise SyntaxInvalid(
            f"{what}: expected JSON, found {error.msg} at line {error.lineno} column {error.colno}",
            error.lineno,
            error.colno,
        ) from error
    if "\\u" in text or "\\U" in text:
        _refuse_surrogates(value, what)
    return value


def parse_canonical(data: bytes, *, what: str, max_bytes: int = MAX_REQUEST_BYTES) -> Json:
    """Read JSON that must already have its RFC 8785 form.

    Raises:
        SyntaxInvalid: as ``parse``, and when the bytes are another spelling of the same value.
    """
    value = parse(data, what=what, max_bytes=max_bytes)
    if canonical(value) != data:
        raise SyntaxInvalid(
            f"{what}: expected RFC 8785 canonical JSON, found another spelling of it"
        )
    return value


def _text(data: bytes, what: str) -> str:
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise SyntaxInvalid(
            f"{what}: expected UTF-8, found byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from error
    if text.startswith("\ufeff"):
        raise SyntaxInvalid(f"{what}: expected UTF-8 without a byte order mark, found one")
    return text


def _check_depth(text: str, what: str, max_depth: int) -> None:
    """Refuse deep nesting before a recursive parser sees it; strings do not count."""
    # Skipped strings make this linear: a text with few brackets cannot be deep at all.
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = 0
    for bracket in _brackets(text):
        if bracket in "[{":
            depth += 1
            if depth > max_depth:
                raise SyntaxInvalid(
                    f"{what}: expected at most {max_depth} levels of nesting, found more"
                )
        else:
            depth -= 1


def _brackets(text: str) -> Iterator[str]:
    position, end = 0, len(text)
    while position < end:
        character = text[position]
        if character == '"':
            position = _string_end(text, position + 1)
        elif character in "[]{}":
            yield character
        position += 1


def _string_end(text: str, position: int) -> int:
    """The index of the closing quote, or the end of a text that has none."""
    while True:
        quote = text.find('"', position)
        if quote < 0:
            return len(text)
        slash = quote - 1
        while slash >= position and text[slash] == "\\":
            slash -= 1
        if (quote - slash) % 2 == 1:
            return quote
        position = quote + 1


def _object(pairs: list[tuple[str, Json]], what: str) -> Json:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise SyntaxInvalid(f"{what}: expected each key once, found {twice!r} twice")
    return members


def _refuse_constant(word: str, what: str) -> NoReturn:
    raise SyntaxInvalid(f"{what}: expected a finite number, found {word}")


def _integer(digits: str, what: str) -> int:
    # 17 characters hold every allowed integer; int() of a longer text is quadratic.
    if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
        raise SyntaxInvalid(
            f"{what}: expected integers within ±(2^53 - 1), found {digits[:24]}; write it as a"
            " string"
        )
    return int(digits)


def _number(digits: str, what: str) -> float:
    number = float(digits)
    if not _writes_back(number):
        raise SyntaxInvalid(
            f"{what}: expected a finite number within ±(2^53 - 1) or past 1e21, found {digits[:24]}"
        )
    return number


def _writes_back(number: float) -> bool:
    """Whether the float, as RFC 8785 writes it, reads back: it spells digits out below 1e21."""
    return not MAX_INTEGER < abs(number) < 1e21 and abs(number) != float("inf")


def _is_plain(value: Json) -> bool:
    """Whether the standard library writes the value as RFC 8785 does."""
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        # The exact type: what a subclass writes is its own.
        kind = type(item)
        if kind is str or item is None or kind is bool:
            continue
        if kind is dict:
            if not all(type(key) is str and key.isascii() for key in item):  # type: ignore[union-attr]
                return False
            stack.extend(item.values())  # type: ignore[union-attr]
        elif kind is list:
            stack.extend(item)  # type: ignore[arg-type]
        elif kind is float:
            # Between these both write the shortest digits that read back, without exponent.
            if not 1e-4 <= abs(item) < 1e15 or item.is_integer():  # type: ignore[arg-type, union-attr]
                return False
        elif kind is not int or not -MAX_INTEGER <= item <= MAX_INTEGER:  # type: ignore[operator]
            return False
    return True


def _refuse_long_floats(value: Json) -> None:
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not _writes_back(item):
            raise SyntaxInvalid(
                f"expected a number within ±(2^53 - 1) or past 1e21, found {item!r}"
            )
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _refuse_surrogates(value: Json, what: str) -> None:
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if any("\ud800" <= character <= "\udfff" for character in item):
                raise SyntaxInvalid(f"{what}: expected Unicode text, found a lone surrogate")
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
