"""LaunchDarkly's clauses as conditions: which attribute is which, and what each operator asks.

A user's key is our targeting key, its attributes those of the context by their names; a context of
another kind is an object of that name, with ``key`` in it: ``{"org": {"key": "o1", "tier": 2}}``.
A clause holds where one of its values does; a negated one holds where none does, and like every
other only where the attribute is there.

Source: ``ldclient.impl.evaluator`` and ``operators`` of the PyPI package 9.18.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.comparing import semver_key
from control_plane.manifests.conditions import (
    Condition,
    all_of,
    any_of,
    asks,
    has_one,
    is_there,
    none_of,
)
from control_plane.manifests.imported import Path

USER: Final = "user"
KEY: Final = "targeting_key"
LISTS: Final = (
    "attributes that clauses ask are single values, no lists; --list names those that hold lists"
)
TIMES: Final = "times in contexts are RFC 3339 texts, or numbers of milliseconds as before"
VERSIONS: Final = (
    "a version that is not written in full, such as 2.1 for 2.1.0, is none in a context of ours"
)

_OURS: Final = frozenset(("user_id", "tenant_id", "targeting_key", "targetingKey"))
_EXACT: Final = 1 << 53
_SCALARS: Final = (str, int, float, bool)
# Every number that ``before`` and ``after`` take for seconds is above, and no text is.
_NUMBER: Final = {"gt": -(10**15)}
_BROKEN_ESCAPE: Final = re.compile(r"~([^01]|$)")
_CLAUSE: Final = frozenset(("attribute", "contextKind", "negate", "op", "values", "id"))


class Attributes:
    """Where the attributes of a file's contexts are in ours.

    ``kinds`` are the context kinds that the file names, ``lists`` our names of what holds lists.
    """

    def __init__(self, kinds: frozenset[str], lists: frozenset[str]) -> None:
        self._kinds = kinds
        self.lists = lists

    def key(self, kind: str | None, where: Path) -> str:
        """The attribute that is the key of a context of that kind."""
        return self._path(kind or USER, ["key"], where)

    def of(self, reference: Any, kind: str | None, where: Path) -> str:
        """The attribute of a reference: a name, or where the kind is named maybe a /path.

        Raises:
            ManifestInvalid: it is none of ours.
        """
        if not isinstance(reference, str) or reference in ("", "/"):
            raise refused(where, f"the name of an attribute, found {reference!r}")
        parts = [reference]
        if kind and reference[0] == "/":
            parts = reference[1:].split("/")
            if "" in parts or any(_BROKEN_ESCAPE.search(part) for part in parts):
                raise refused(where, f"an attribute reference, found {reference!r}")
            parts = [part.replace("~1", "/").replace("~0", "~") for part in parts]
        return self._path(kind or USER, parts, where)

    def _path(self, kind: str, parts: list[str], where: Path) -> str:
        if kind == USER:
            if parts == ["key"]:
                return KEY
            if parts[0] in _OURS or parts[0] in self._kinds or parts[0] == "key":
                raise refused(where, f"an attribute with a name not taken, found {parts[0]!r}")
            keys = parts
        else:
            keys = [kind, *parts]
        if any("." in key or key[0] == "$" for key in keys):
            found = "/".join(parts)
            raise refused(where, f"an attribute without '.' and a leading '$', found {found!r}")
        return ".".join(keys)


class Clauses:
    """The clauses of one flag or segment; ``changes`` and ``notes`` are what they lead to."""

    def __init__(
        self, attributes: Attributes, membership: Callable[[str, Path], Condition]
    ) -> None:
        """``membership`` gives the condition of being in a segment."""
        self._attributes = attributes
        self._membership = membership
        self.changes: list[str] = []
        self.notes: list[str] = []

    def all(self, clauses: Any, where: Path) -> Condition:
        """The condition that all these clauses hold.

        Raises:
            ManifestInvalid: one of them is out of form, or cannot be said.
        """
        if not isinstance(clauses, list):
            raise refused(where, f"a list of clauses, found {type(clauses).__name__}")
        return all_of(*[self._clause(clause, (*where, i)) for i, clause in enumerate(clauses)])

    def _clause(self, clause: Any, where: Path) -> Condition:
        fields(clause, _CLAUSE, ("op", "values"), where)
        op, values, negate = clause["op"], clause["values"], clause.get("negate") is True
        if not isinstance(op, str):
            raise refused((*where, "op"), f"an operator, found {type(op).__name__}")
        if not isinstance(values, list):
            raise refused((*where, "values"), f"a list, found {type(values).__name__}")
        if op == "segmentMatch":
            if not all(isinstance(value, str) for value in values):
                raise refused((*where, "values"), "keys of segments, found others")
            inside = any_of(*[self._membership(value, (*where, "values")) for value in values])
            return none_of(inside) if negate else inside
        kind, here = kind_of(clause, "contextKind", where), (*where, "attribute")
        if clause.get("attribute") in ("kind", "/kind"):
            kinds = self._kinds(op, values, where)
            return none_of(kinds) if negate else kinds
        attribute = self._attributes.of(clause.get("attribute"), kind, here)
        if attribute.rpartition(".")[2] == "anonymous":
            return self._anonymous(attribute, self._attributes.key(kind, here), op, values, negate)
        write = _OPERATORS.get(op)
        if write is None:
            cure = "; a regular expression cannot be said" if op == "matches" else ""
            raise refused((*where, "op"), f"one of {', '.join(_OPERATORS)}, found {op!r}{cure}")
        if attribute in self._attributes.lists:
            if op != "in":
                raise refused((*where, "op"), f"'in' for {attribute}, a list, found {op!r}")
            found = _member(attribute, values, (*where, "values"))
        else:
            found = write(attribute, values, (*where, "values"))
        self._tell(attribute, op)
        return all_of(is_there(attribute), none_of(found)) if negate else found

    def _tell(self, attribute: str, op: str) -> None:
        # A key is a text, whatever it belongs to.
        if attribute != KEY and not attribute.endswith(".key"):
            self.notes.append(LISTS)
        if op in ("before", "after"):
            self.notes.append(TIMES)
        if op.startswith("semVer"):
            self.changes.append(VERSIONS)

    def _kinds(self, op: Any, values: list[Any], where: Path) -> Condition:
        """Whether the caller has a context of one of these kinds."""
        if op != "in":
            raise refused((*where, "op"), f"'in' for the attribute kind, found {op!r}")
        kinds = [value for value in values if isinstance(value, str) and value]
        return any_of(*[is_there(self._attributes.key(kind, where)) for kind in kinds])

    def _anonymous(
        self, attribute: str, key: str, op: Any, values: list[Any], negate: bool
    ) -> Condition:
        """``anonymous`` is false where it is not there, as long as there is such a context."""
        yes, no = (op == "in" and any(value is each for value in values) for each in (True, False))
        if negate:
            yes, no = not yes, not no
        if yes and no:
            return is_there(key)
        true: Condition = {attribute: True}
        return all_of(is_there(key), true if yes else none_of(true)) if yes or no else False


def refused(where: Path, problem: str) -> ManifestInvalid:
    """The error for a place in LaunchDarkly's file."""
    return ManifestInvalid(f"expected {problem}", where)


def fields(value: Any, known: frozenset[str], needed: Iterable[str], where: Path) -> None:
    """Refuse what is no mapping with these fields.

    Raises:
        ManifestInvalid: with the place of the field.
    """
    if not isinstance(value, dict):
        raise refused(where, f"a mapping, found {type(value).__name__}")
    for name in value:
        if name not in known:
            raise refused((*where, name), f"one of {', '.join(sorted(known))}, found {name!r}")
    for name in needed:
        if name not in value:
            raise refused(where, f"the field {name}, found none")


def kind_of(value: dict[str, Any], field: str, where: Path) -> str | None:
    """The context kind that is named, None where the user's is meant without a name.

    Raises:
        ManifestInvalid: it is no text.
    """
    kind = value.get(field)
    if kind is not None and not isinstance(kind, str):
        raise refused((*where, field), f"a context kind, found {type(kind).__name__}")
    return kind or None


def is_int(value: Any) -> bool:
    """Whether a JSON value is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(attribute: str, values: list[Any]) -> Condition:
    """The attribute equals one of these."""
    if not values:
        return False
    return {attribute: values[0]} if len(values) == 1 else asks(attribute, "in", values)


def _in(attribute: str, values: list[Any], where: Path) -> Condition:
    wanted = []
    for value in values:
        if isinstance(value, _SCALARS):
            wanted.append(value)
        elif value is not None:  # which no attribute is
            raise refused(where, f"strings, numbers and bools, found {type(value).__name__}")
    return one_of(attribute, wanted)


def _member(attribute: str, values: list[Any], where: Path) -> Condition:
    texts = [value for value in values if isinstance(value, str) and value]
    if len(texts) != len(values):
        raise refused(where, f"texts for {attribute}, a list, found others")
    return any_of(one_of(attribute, texts), has_one(attribute, texts)) if texts else False


def _texts(word: str) -> Callable[[str, list[Any], Path], Condition]:
    def write(attribute: str, values: list[Any], where: Path) -> Condition:
        texts = [value for value in values if isinstance(value, str)]
        if "" in texts:
            raise refused(where, "texts that are not empty, found ''")
        if not texts:
            return False
        return asks(attribute, word, texts[0] if len(texts) == 1 else texts)

    return write


def _numbers(word: str, widest: Callable[[list[Any]], Any]) -> Any:
    def write(attribute: str, values: list[Any], where: Path) -> Condition:
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if any(abs(number) >= _EXACT for number in numbers):
            raise refused(where, f"numbers below {_EXACT}, found others")
        return asks(attribute, word, widest(numbers)) if numbers else False

    return write


def _times(
    word: str, order: str, widest: Callable[[list[datetime]], datetime]
) -> Callable[[str, list[Any], Path], Condition]:
    def write(attribute: str, values: list[Any], where: Path) -> Condition:
        moments = [moment for value in values if (moment := _moment(value, where)) is not None]
        if not moments:
            return False
        moment = widest(moments)
        since = (moment - datetime.fromtimestamp(0, UTC)).total_seconds() * 1000
        text = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        # A number is milliseconds there and seconds here, so it is compared as a number.
        written = all_of(asks(attribute, word, text), none_of({attribute: dict(_NUMBER)}))
        return any_of(asks(attribute, order, since), written)

    return write


def _moment(value: Any, where: Path) -> datetime | None:
    """A time as their SDK reads it: milliseconds, or a text."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value / 1000, UTC)
            if moment.timestamp() * 1000 != value:
                raise refused(where, f"a time in whole microseconds, found {value!r}")
            return moment
        if isinstance(value, str):
            moment = datetime.fromisoformat(re.sub("Z$", "+00:00", value, flags=re.IGNORECASE))
            return None if moment.tzinfo is None else moment
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _versions(
    order: str, widest: Callable[..., str] | None
) -> Callable[[str, list[Any], Path], Condition]:
    def write(attribute: str, values: list[Any], where: Path) -> Condition:
        versions = [text for value in values if (text := _version(value)) is not None]
        if widest is not None and versions:
            versions = [widest(versions, key=semver_key)]
        return any_of(*[asks(attribute, "semver", {order: text}) for text in versions])

    return write


def _version(value: Any) -> str | None:
    """A version in full: theirs may leave out the last one or two numbers."""
    for _ in range(3):
        if semver_key(value) is not None:
            return str(value)
        if not isinstance(value, str):
            return None
        # The pattern matches every text.
        numbers = re.match("[0-9.]*", value)
        end = numbers.end() if numbers is not None else 0
        value = f"{value[:end]}.0{value[end:]}"
    return None


_OPERATORS: Final[dict[Any, Callable[[str, list[Any], Path], Condition]]] = {
    "in": _in,
    "startsWith": _texts("starts_with"),
    "endsWith": _texts("ends_with"),
    "contains": _texts("contains"),
    "lessThan": _numbers("lt", max),
    "lessThanOrEqual": _numbers("lte", max),
    "greaterThan": _numbers("gt", min),
    "greaterThanOrEqual": _numbers("gte", min),
    "before": _times("before", "lt", max),
    "after": _times("after", "gt", min),
    "semVerEqual": _versions("eq", None),
    "semVerLessThan": _versions("lt", max),
    "semVerGreaterThan": _versions("gt", min),
}
