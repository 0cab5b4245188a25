"""What a targeting condition of GrowthBook's is as a ``when`` of ours.

GrowthBook's conditions are MongoDB's query language over the user's attributes. An attribute that
is absent is null there, and conditions hold for null as they do for any value: ``$ne``, ``$nin``
and ``$not`` hold for what is not there. Ours holds for nothing that is absent, and ``$not`` turns
an answer around whatever its reason, so each negation of theirs becomes a ``$not`` of ours.

- Equality is by JSON type and value in both; null is ``present: false``.
- ``$in`` matches a list, too, when a member of it is one of the values. A file does not say which
  attributes are lists, so the importer is told: for those ours says both, ``in`` for a scalar and
  ``contains`` for a list, which looks at texts alone. Where numbers, bools or null are among the
  values, a list of those is a difference, and stated.
- ``$gt`` and its like compare two numbers; two texts they compare by their code units, which ours
  cannot, and such a condition is refused.
- ``$veq`` and its like compare by a padding of GrowthBook's own. Semantic Versioning gives the same
  order to versions written in full, and a difference to others, which is stated.
- ``$regex``, ``$size``, case-insensitive words, a literal list or mapping and most of
  ``$elemMatch`` have nothing that says the same: refused.

Source: ``growthbook.core`` of the PyPI package 4.0.0, which follows
https://docs.growthbook.io/lib/build-your-own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Final, NoReturn

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.comparing import semver_key
from control_plane.manifests.conditions import (
    Condition,
    all_of,
    any_of,
    asks,
    has_one,
    is_text_or_number,
    is_there,
    none_of,
)
from control_plane.manifests.imported import Path

MAX_LEVELS: Final = 100
"""Conditions and saved groups in each other; ours may be 16 deep, saved groups may go round."""

MAX_CONDITIONS: Final = 10_000
"""Conditions of one feature with its saved groups written out; groups may double at each level."""

_MANY: Final = 1000
_SCALARS: Final = (str, int, float, bool)
_ORDERS: Final = {"$lt": "lt", "$lte": "lte", "$gt": "gt", "$gte": "gte"}
_VERSIONS: Final = {"$veq": "eq", "$vlt": "lt", "$vlte": "lte", "$vgt": "gt", "$vgte": "gte"}
_OWN: Final = frozenset(("targeting_key", "targetingKey"))


class Conditions:
    """Translates the conditions of one feature; ``changes`` gathers where ours differ.

    ``lists`` are the attributes that may be lists.
    """

    def __init__(self, groups: Mapping[str, Any], lists: Collection[str] = ()) -> None:
        self._groups = groups
        self._lists = lists
        self._level = 0
        self._left = MAX_CONDITIONS
        self.changes: list[str] = []

    def when(self, condition: Any, where: Path) -> Condition:
        """The ``when`` of a condition.

        Raises:
            ManifestInvalid: it says what ours cannot, or is malformed; ``path`` leads there.
        """
        if not isinstance(condition, dict):
            refuse(where, "a mapping of conditions", condition)
        self._level += 1
        if self._level > MAX_LEVELS:
            refuse(where, f"conditions at most {MAX_LEVELS} deep, and no group inside itself", ...)
        self._left -= 1
        if self._left < 0:
            refuse(where, f"at most {MAX_CONDITIONS} conditions with saved groups written out", ...)
        found = all_of(
            *(self._entry(name, operand, (*where, name)) for name, operand in condition.items())
        )
        self._level -= 1
        return found

    def _entry(self, name: str, operand: Any, where: Path) -> Condition:
        if name == "$not":
            return none_of(self.when(operand, where))
        if name == "$and":
            return all_of(*self._each(operand, where))
        if name in ("$or", "$nor"):
            # One of none holds there.
            found = any_of(*self._each(operand, where)) if operand else True
            return none_of(found) if name == "$nor" else found
        if name == "$savedGroup":
            return self._saved_group(operand, where)
        if name.startswith("$"):
            refuse(where, "an attribute, $and, $or, $nor, $not or $savedGroup", name)
        check_attribute(name, where)
        return self._value(name, operand, where)

    def _each(self, conditions: Any, where: Path) -> list[Condition]:
        if not isinstance(conditions, list):
            refuse(where, "a list of conditions", conditions)
        return [self.when(each, (*where, index)) for index, each in enumerate(conditions)]

    def _value(self, name: str, operand: Any, where: Path) -> Condition:
        """What is asked of one attribute."""
        if isinstance(operand, dict) and all(word.startswith("$") for word in operand):
            return all_of(
                *(self._word(name, word, operand[word], (*where, word)) for word in operand)
            )
        if isinstance(operand, (list, dict)):
            refuse(where, "a string, number, true, false, null or a mapping of words", operand)
        return self._equal(name, operand, where)

    def _word(self, name: str, word: str, operand: Any, where: Path) -> Condition:
        if word in _ORDERS:
            return self._ordered(name, word, operand, where)
        if word in _VERSIONS:
            return self._version(name, _VERSIONS[word], operand, where)
        read = self._WORDS.get(word)
        if read is None:
            refuse(where, "a word that rules have, too", word)
        return read(self, name, operand, where)

    def _equal(self, name: str, operand: Any, where: Path) -> Condition:
        if operand is None:
            return none_of(is_there(name))
        # Lists and mappings are never one and the same there.
        return {name: operand} if isinstance(operand, _SCALARS) else False

    def _unequal(self, name: str, operand: Any, where: Path) -> Condition:
        return none_of(self._equal(name, operand, where))

    def _ordered(self, name: str, word: str, operand: Any, where: Path) -> Condition:
        if isinstance(operand, str):
            refuse(where, "a number, as the order of texts is none that rules know", operand)
        if isinstance(operand, bool) or not isinstance(operand, (int, float)):
            return False
        return asks(name, _ORDERS[word], operand)

    def _version(self, name: str, order: str, operand: Any, where: Path) -> Condition:
        if semver_key(operand) is None:
            refuse(where, 'a Semantic Version such as "1.2.0"', operand)
        self._differs(
            f"{name}: versions compare by Semantic Versioning 2.0.0; a text that is none, such as "
            "1.2 or v1.2.0, and a number match no version"
        )
        return asks(name, "semver", {order: operand})

    def _not_version(self, name: str, operand: Any, where: Path) -> Condition:
        return none_of(self._version(name, "eq", operand, where))

    def _in(self, name: str, operand: Any, where: Path) -> Condition:
        return self._among(name, operand) if isinstance(operand, list) else False

    def _not_in(self, name: str, operand: Any, where: Path) -> Condition:
        return none_of(self._among(name, operand)) if isinstance(operand, list) else False

    def _among(self, name: str, values: list[Any]) -> Condition:
        scalars = [value for value in values if isinstance(value, _SCALARS)]
        absent = none_of(is_there(name)) if None in values else False
        scalar: Condition = asks(name, "in", scalars) if scalars else False
        if name not in self._lists:
            return any_of(scalar, absent)
        texts = [value for value in scalars if isinstance(value, str) and value]
        if len(texts) < len(scalars) or None in values:
            self._differs(
                f"{name}: a list matches by its texts alone, and not by numbers, true, false, "
                'null or ""'
            )
        listed = [
            has_one(name, texts[start : start + _MANY]) for start in range(0, len(texts), _MANY)
        ]
        return any_of(scalar, absent, *listed)

    def _in_group(self, name: str, operand: Any, where: Path) -> Condition:
        entry = self._group(operand, where)
        values = entry.get("values") if isinstance(entry, dict) else entry
        if isinstance(entry, dict) and entry.get("type") != "list":
            refuse(where, "the name of a saved group that is a list", operand)
        if not isinstance(values, list):
            refuse(where, "the name of a saved group with a list of values", operand)
        return self._among(name, values)

    def _not_in_group(self, name: str, operand: Any, where: Path) -> Condition:
        return none_of(self._in_group(name, operand, where))

    def _saved_group(self, operand: Any, where: Path) -> Condition:
        if not isinstance(operand, dict):
            refuse(where, "a mapping with the id of a saved group", operand)
        entry = self._group(operand.get("id"), where)
        if isinstance(entry, dict) and entry.get("type") == "condition":
            return self.when(entry.get("condition"), where)
        if isinstance(entry, dict) and entry.get("type") == "list":
            name = operand.get("attributeKey", entry.get("attributeKey"))
            if isinstance(name, str) and isinstance(entry.get("values"), list):
                check_attribute(name, where)
                return self._among(name, entry["values"])
        refuse(where, "a saved group of a list or a condition", operand)

    def _group(self, name: Any, where: Path) -> Any:
        if not isinstance(name, str) or name not in self._groups:
            refuse(where, "the name of a saved group that is in the file", name)
        return self._groups[name]

    def _exists(self, name: str, operand: Any, where: Path) -> Condition:
        return is_there(name) if operand else none_of(is_there(name))

    def _type(self, name: str, operand: Any, where: Path) -> Condition:
        number = any_of(asks(name, "gte", 0), asks(name, "lt", 0))
        boolean = asks(name, "in", [True, False])
        known: dict[Any, Condition] = {
            "null": none_of(is_there(name)),
            "boolean": boolean,
            "number": number,
            "string": all_of(is_text_or_number(name), none_of(number)),
        }
        if not isinstance(operand, str) or operand not in known:
            refuse(where, "the type null, boolean, number or string", operand)
        return known[operand]

    def _all(self, name: str, operand: Any, where: Path) -> Condition:
        if not isinstance(operand, list) or not operand:
            refuse(where, "a list of one or more texts", operand)
        return all_of(
            *(self._member(name, text, (*where, index)) for index, text in enumerate(operand))
        )

    def _element(self, name: str, operand: Any, where: Path) -> Condition:
        if not isinstance(operand, dict) or set(operand) != {"$eq"}:
            refuse(where, "$eq alone, as rules look into no other element", operand)
        return self._member(name, operand["$eq"], (*where, "$eq"))

    def _member(self, name: str, text: Any, where: Path) -> Condition:
        if not isinstance(text, str) or not text:
            refuse(where, "a text, as rules find no other member of a list", text)
        return has_one(name, [text])

    def _not(self, name: str, operand: Any, where: Path) -> Condition:
        return none_of(self._value(name, operand, where))

    def _differs(self, text: str) -> None:
        if text not in self.changes:
            self.changes.append(text)

    _WORDS: ClassVar[dict[str, Callable[[Conditions, str, Any, Path], Condition]]] = {
        "$eq": _equal,
        "$ne": _unequal,
        "$vne": _not_version,
        "$in": _in,
        "$nin": _not_in,
        "$inGroup": _in_group,
        "$notInGroup": _not_in_group,
        "$exists": _exists,
        "$type": _type,
        "$all": _all,
        "$elemMatch": _element,
        "$not": _not,
    }


def check_attribute(name: str, where: Path) -> None:
    """Refuse an attribute that is another one, or none, in rules of ours.

    A step into a list by its place or ``length`` is known to GrowthBook alone.
    """
    first, *steps = name.split(".")
    if first in _OWN:
        refuse(where, "an attribute other than the targeting key", name)
    if not first or any(not step or step == "length" or step.isdigit() for step in steps):
        refuse(where, "names joined by dots, none of which is length or a list's place", name)


def refuse(path: Path, expected: str, found: Any) -> NoReturn:
    """Refuse a part of a feature, whose key is the second step of the path."""
    shown = "" if found is ... else f", found {'nothing' if found is None else repr(found)[:80]}"
    raise ManifestInvalid(f"flag {path[1]}: expected {expected}{shown}", path)
