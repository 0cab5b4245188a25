"""What a test passes as a document, as the JSON that a manifest of it would hold.

Mappings, lists, tuples, strings, numbers, booleans and None become plain values, copied, so that
what a test changes afterwards changes nothing published. Everything else is refused with its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from control_plane.errors import ManifestInvalid
from control_plane.names import MAX_DEPTH, MAX_INTEGER

Path = tuple[str | int, ...]


def plain(what: str, value: Any, path: Path = ()) -> Any:
    """The value in plain types; ``what`` names the document in errors.

    Raises:
        ManifestInvalid: what JSON cannot hold, or readers of JSON do not agree on.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(what, value, path)
    if isinstance(value, int | float):
        return _number(what, value, path)
    if not isinstance(value, Mapping | list | tuple):
        raise _refusal(what, "a mapping, list, string, number, boolean or None", value, path)
    if len(path) > MAX_DEPTH:
        raise ManifestInvalid(f"{what}: expected at most {MAX_DEPTH} levels, found more", path)
    if not isinstance(value, Mapping):
        return [plain(what, member, (*path, at)) for at, member in enumerate(value)]
    for key in value:
        if not isinstance(key, str):
            raise _refusal(what, "a string as key", key, path)
    return {
        _text(what, key, path): plain(what, member, (*path, key)) for key, member in value.items()
    }


def _text(what: str, text: str, path: Path) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refusal(what, "text without lone surrogates", text, path) from None
    # The plain value that a member of an Enum holds, not its name.
    return str.__str__(text)


def _number(what: str, number: float, path: Path) -> int | float:
    """The number its canonical form prints: 1.0 is 1."""
    if not math.isfinite(number):
        raise _refusal(what, "a finite number", number, path)
    if isinstance(number, float) and not number.is_integer():
        return float(number)
    if abs(number) > MAX_INTEGER:
        raise _refusal(what, "integers within ±(2^53 - 1)", number, path)
    return int.__int__(number) if isinstance(number, int) else int(number)


def _refusal(what: str, expected: str, found: Any, path: Path) -> ManifestInvalid:
    place = ".".join(ascii(step)[1:-1] if isinstance(step, str) else str(step) for step in path)
    shown = ascii(found) if isinstance(found, str | int | float) else type(found).__name__
    at = f" at {place}" if place else ""
    return ManifestInvalid(f"{what}: expected {expected}, found {shown[:80]}{at}", path)
