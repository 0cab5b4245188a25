"""How values compare where ``==`` and ``in`` do not say it: versions, times, order, text.

Each function takes whatever a context held and never raises for a value; what it cannot compare
gives an answer that no condition holds for.

* Versions compare by Semantic Versioning 2.0.0, section 11: three numbers without leading zeros,
  a pre-release before its release, build metadata ignored. Anything else is no version.
* Times are RFC 3339 texts with an offset, ``datetime`` objects with one, or seconds since 1970 as
  a number.
* A bool is no number, and NaN is none that anything holds for.
* A text is a str. ``contains`` looks for a part of a text, or for a text among a list's members.
"""

from __future__ import annotations

from sys import modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    VersionKey = tuple[tuple[int, int, int], tuple[tuple[int, int, str], ...]]

NAN = float("nan")
MAX_VERSION_LENGTH = 256
MANY_TEXTS = 8
_NOTHING = ""
# Behind every pre-release, each of whose identifiers begins with 0 or 1.
_RELEASE = ((2, 0, ""),)
_DIGITS = frozenset("0123456789")
_IDENTIFIER = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")
# "2026-01-31T08:00:00Z" is the shortest, nine digits of fraction and an offset make the longest.
_MIN_TIME, _MAX_TIME = 20, 35


def number(value: Any) -> float | int:
    """The value as a plain number, NaN where it is none."""
    kind = type(value)
    if kind is bool:
        return NAN
    if issubclass(kind, int):
        return int.__int__(value)
    return float.__float__(value) if issubclass(kind, float) else NAN


def text(value: Any) -> str:
    """The value as a plain str, empty where it is none."""
    return str.__str__(value) if issubclass(type(value), str) else _NOTHING


def contains(value: Any, wanted: tuple[str, ...]) -> bool:
    """Whether one of these is a part of a text, or a member of a list or tuple."""
    if issubclass(type(value), (list, tuple)):
        # A set for many: the work stays that of the list, and not of the list times the texts.
        texts = wanted if len(wanted) < MANY_TEXTS else frozenset(wanted)
        return any(
            str.__str__(member) in texts for member in value if issubclass(type(member), str)
        )
    whole = text(value)
    return any(part in whole for part in wanted)


def outside(value: Any, bools: frozenset[bool], others: frozenset[Any]) -> bool:
    """Whether a scalar is none of these; False for what is no scalar."""
    kind = type(value)
    if kind is bool:
        return value not in bools
    if issubclass(kind, str):
        return str.__str__(value) not in others
    found = number(value)
    return found == found and found not in others


def semver_key(value: Any) -> VersionKey | None:
    """A version as what sorts like it, None where the value is none."""
    if not issubclass(type(value), str) or len(value) > MAX_VERSION_LENGTH:
        return None
    core, plus, build = str.__str__(value).partition("+")
    core, dash, pre = core.partition("-")
    numbers = core.split(".")
    if len(numbers) != 3 or not all(map(_is_number, numbers)):
        return None
    if plus and not all(map(_is_identifier, build.split("."))):
        return None
    major, minor, patch = numbers
    release = int(major), int(minor), int(patch)
    if not dash:
        return release, _RELEASE
    identifiers = []
    for identifier in pre.split("."):
        if _DIGITS.issuperset(identifier):
            if not _is_number(identifier):
                return None
            identifiers.append((0, int(identifier), ""))
        elif _is_identifier(identifier):
            identifiers.append((1, 0, identifier))
        else:
            return None
    return release, tuple(identifiers)


def seconds_of(value: Any) -> float | None:
    """Seconds since 1970 of a text, a ``datetime`` or a number; None where the value is no time."""
    if not issubclass(type(value), str):
        seconds = number(value)
        return float(seconds) if -1e15 < seconds < 1e15 else seconds_of_datetime(value)
    written = str.__str__(value)
    if not _is_time(written):
        return None
    # Imported here: most processes compare no time.
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(written)
        return None if moment.tzinfo is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None


def seconds_of_datetime(value: Any) -> float | None:
    """Seconds since 1970 of a ``datetime`` with an offset, None of anything else."""
    # Where nobody imported it there is no such value, and a reader need not either.
    datetime = getattr(modules.get("datetime"), "datetime", None)
    if datetime is None or not issubclass(type(value), datetime):
        return None
    seconds: float | None = None if value.utcoffset() is None else value.timestamp()
    return seconds


def instant(value: Any) -> float:
    """As ``seconds_of``, NaN where the value is no time."""
    seconds = seconds_of(value)
    return NAN if seconds is None else seconds


def _is_time(text: str) -> bool:
    """Whether the parts stand where RFC 3339 has them; ``fromisoformat`` takes more forms."""
    return (
        _MIN_TIME <= len(text) <= _MAX_TIME
        and text[4] == text[7] == "-"
        and text[10] in "Tt "
        and text[13] == text[16] == ":"
        and text[5] in _DIGITS
        # Hour 24 and minute 60 of an offset are read by some interpreters, and are no RFC 3339.
        and text[11:13] < "24"
        and (text[-1] in "Zz" or (text[-6] in "+-" and text[-3] == ":" and text[-2:] < "60"))
        and "," not in text
    )


def _is_number(text: str) -> bool:
    return _DIGITS.issuperset(text) and text != "" and (text[0] != "0" or text == "0")


def _is_identifier(text: str) -> bool:
    return _IDENTIFIER.issuperset(text) and text != ""
