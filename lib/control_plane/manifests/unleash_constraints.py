"""What a constraint of Unleash's is as a condition of ours, and its context fields as attributes.

Every value in Unleash's context is text. Here attributes are text as well, but for those that
``NUM_`` compares, which are numbers; where values are integers in decimal, ``IN`` has them both
ways, since user ids and the like are often given as ints. ``userId`` is ``user_id``; all else
keeps its name, properties beside ``sessionId``, ``environment``, ``appName`` and
``remoteAddress``. ``currentTime`` is the clock: a rule's ``from`` and ``until``.

- A field that is absent holds for ``NOT_IN``, and for what is ``inverted``; both are ``$not``.
- ``STR_`` words match one of several texts; the empty text is in all texts.
- ``NUM_EQ`` is equality, which Unleash has for numbers less than 2.3e-16 apart, too.
- ``SEMVER_`` and ``DATE_`` take what ours take: Semantic Versions 2.0.0, RFC 3339 times.
- Case-insensitive texts with letters, ``REGEX``, CIDR blocks and operators that are not known have
  nothing that says the same: refused. So is what the engine cannot parse, which leaves the whole
  feature off there.

Source: yggdrasil-engine 2.0.0, the engine of the PyPI package UnleashClient 6.9.1, and
https://github.com/Unleash/client-specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.comparing import seconds_of, semver_key
from control_plane.manifests.conditions import (
    Condition,
    any_of,
    asks,
    is_there,
    none_of,
)
from control_plane.manifests.imported import Path

USER: Final = "user_id"
SESSION: Final = "sessionId"
TIME: Final = "currentTime"

_MANY: Final = 1000
_TAKEN: Final = frozenset((USER, "targeting_key", "targetingKey"))
_DECIMAL: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_TEXTS: Final = {
    "STR_CONTAINS": "contains",
    "STR_STARTS_WITH": "starts_with",
    "STR_ENDS_WITH": "ends_with",
}
_NUMBERS: Final = {"NUM_GT": "gt", "NUM_GTE": "gte", "NUM_LT": "lt", "NUM_LTE": "lte"}
_VERSIONS: Final = {
    "SEMVER_EQ": "eq",
    "SEMVER_GT": "gt",
    "SEMVER_GTE": "gte",
    "SEMVER_LT": "lt",
    "SEMVER_LTE": "lte",
}
_DATES: Final = {"DATE_AFTER": "after", "DATE_BEFORE": "before"}


class Constraints:
    """Translates the constraints of one feature; remembers what is text and what a number."""

    def __init__(self, feature: str) -> None:
        self._feature = feature
        self._texts: set[str] = set()
        self._numbers: set[str] = set()

    @property
    def changes(self) -> list[str]:
        """Attributes that are asked as text and as numbers, which ours are not at once."""
        return [
            f"{name}: it is compared as a number and as text, and here is one of them"
            for name in sorted(self._texts & self._numbers)
        ]

    def when(self, constraint: Any, where: Path) -> Condition:
        """The condition of a constraint about anything but the time.

        Raises:
            ManifestInvalid: it says what ours cannot, or is malformed; ``path`` leads there.
        """
        found = self._plain(constraint, where)
        return none_of(found) if constraint.get("inverted") else found

    def attribute(self, name: Any, where: Path) -> str:
        """The attribute of a context field."""
        if not isinstance(name, str) or not name:
            self.refuse(where, "the name of a context field", name)
        if name == "userId":
            return USER
        if name in _TAKEN or name == TIME or name[0] == "$" or any(sign in name for sign in '."\\'):
            self.refuse(where, 'a context field that can be an attribute, without ".", \'"\' and '
                        '"\\"', name)  # fmt: skip
        return name

    def among(self, name: Any, values: list[str], where: Path) -> Condition:
        """The field is one of these texts."""
        attribute = self.attribute(name, where)
        self._texts.add(attribute)
        wanted: list[str | int] = []
        for value in values:
            wanted.append(value)
            if _DECIMAL.fullmatch(value):
                wanted.append(int(value))
        return asks(attribute, "in", list(dict.fromkeys(wanted))) if wanted else False

    def moment(self, constraint: Mapping[str, Any], where: Path) -> tuple[str, str]:
        """``from`` or ``until`` and the time of a constraint about the time."""
        operator = self._operator(constraint, where)
        if operator not in _DATES:
            self.refuse(
                (*where, "operator"), "DATE_AFTER or DATE_BEFORE the current time", operator
            )
        time = self._time(constraint, where)
        after = (operator == "DATE_AFTER") is not bool(constraint.get("inverted"))
        return "from" if after else "until", time

    def _plain(self, constraint: Any, where: Path) -> Condition:
        operator = self._operator(constraint, where)
        if operator in ("IN", "NOT_IN"):
            values = self._values(constraint, where)
            found = self.among(constraint.get("contextName"), values, where)
            return none_of(found) if operator == "NOT_IN" else found
        name = self.attribute(constraint.get("contextName"), (*where, "contextName"))
        if operator in _TEXTS:
            texts = self._values(constraint, where)
            if not texts:
                self.refuse((*where, "values"), "one or more texts", texts)
            return self._text(name, _TEXTS[operator], texts)
        if operator == "NUM_EQ":
            return {name: self._number(name, constraint, where)}
        if operator in _NUMBERS:
            return asks(name, _NUMBERS[operator], self._number(name, constraint, where))
        self._texts.add(name)
        if operator in _VERSIONS:
            version = constraint.get("value")
            if semver_key(version) is None or "+" in str(version):
                self.refuse((*where, "value"), 'a version such as "1.2.0"', version)
            return asks(name, "semver", {_VERSIONS[operator]: version})
        if operator in _DATES:
            return asks(name, _DATES[operator], self._time(constraint, where))
        self.refuse((*where, "operator"), "an operator that rules have, too", operator)

    def _operator(self, constraint: Mapping[str, Any], where: Path) -> str:
        operator = constraint.get("operator")
        if not isinstance(operator, str):
            self.refuse((*where, "operator"), "an operator that rules have, too", operator)
        return operator

    def _text(self, name: str, word: str, values: list[str]) -> Condition:
        self._texts.add(name)
        if "" in values:
            return is_there(name)
        parts = [values[start : start + _MANY] for start in range(0, len(values), _MANY)]
        return any_of(*(asks(name, word, part[0] if len(part) == 1 else part) for part in parts))

    def _values(self, constraint: Mapping[str, Any], where: Path) -> list[str]:
        values = constraint.get("values") or []
        where = (*where, "values")
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            self.refuse(where, "a list of texts", values)
        for value in values:
            if "\\" in value:
                self.refuse(where, 'texts without "\\"', value)
            if constraint.get("caseInsensitive") and not _caseless(value):
                self.refuse(where, "texts that are compared by their case", value)
        return values

    def _number(self, name: str, constraint: Mapping[str, Any], where: Path) -> int | float:
        value = constraint.get("value")
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            self.refuse((*where, "value"), 'a number such as "7.5"', value)
        self._numbers.add(name)
        return float(value) if "." in value else int(value)

    def _time(self, constraint: Mapping[str, Any], where: Path) -> str:
        value = constraint.get("value")
        if not isinstance(value, str) or seconds_of(value) is None:
            self.refuse((*where, "value"), 'a time such as "2026-01-31T08:00:00Z"', value)
        return value

    def refuse(self, path: Path, expected: str, found: Any) -> NoReturn:
        """Refuse a part of the feature."""
        refuse(self._feature, path, expected, found)


def refuse(feature: str, path: Path, expected: str, found: Any) -> NoReturn:
    """Refuse a part of a feature."""
    shown = "nothing" if found is None else repr(found)[:80]
    raise ManifestInvalid(f"flag {feature}: expected {expected}, found {shown}", path)


def _caseless(text: str) -> bool:
    return text.isascii() and not any(letter.isalpha() for letter in text)
