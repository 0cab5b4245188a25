"""``sem_ver``: how flagd compares versions.

A version is Semantic Versioning 2.0.0 with ``v`` before it or not; one or two numbers stand for
three, and a number counts as the text it is written as. Build metadata does not count. ``^`` asks
for the same first number, ``~`` for the same two. What is no version, or longer than 256
characters, makes the answer null.
"""

from __future__ import annotations

from control_plane.feature_flags.targeting_values import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
