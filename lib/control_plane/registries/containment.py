"""Whether every value one JSON Schema 2020-12 accepts is accepted by another: a proof, or none.

``unproven(narrow, wide)`` returns None only where it holds for *every* value; else the place where
the proof did not go through, which says nothing yet about whether it fails. How it is proven:

- What the narrow schema says of a place is a list of subschemas that all apply (``allOf``, ``$ref``
  and those a name or an index reaches). Leaving one out makes the narrow schema wider, so whatever
  is not understood of it is left out, and nothing is concluded from it.
- The wide schema is taken keyword by keyword, and each has to follow. One that is not understood
  (``unevaluated…``) follows only where the narrow schema says the same, references included.
- Each of null, booleans, integers, other numbers, strings, arrays and objects is proven by itself,
  and so is each branch of the narrow ``anyOf`` and ``oneOf`` where the whole did not go through.
- Few enough values (``enum``, ``const``, booleans, short ranges) are judged one by one.
- A pair of places met again on the way down is taken as proven. That is sound: every way back to
  it goes through a member or an item, and values are finite.
- After 20,000 steps the proof is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from math import ceil, floor, inf
from typing import Any, Final, NamedTuple

from control_plane.manifests.json_schema import shown
from control_plane.registries.schema_places import Place, Places, alike, name_matches

MAX_STEPS: Final = 20_000
MAX_LISTED: Final = 64
"""How many values are judged one by one, and how many combinations of patterns looked at."""
MAX_SPLITS: Final = 6
"""How many alternatives of the narrow schema are taken apart on the way to one place."""

CLASSES: Final = ("null", "boolean", "integer", "fraction", "string", "array", "object")
ALL: Final = frozenset(CLASSES)

Path = tuple[str | int, ...]


class Gap(NamedTuple):
    """Where a proof did not go through, as a path into values, and what was not shown."""

    path: Path
    reason: str


def unproven(narrow: Places, wide: Places) -> Gap | None:
    """Where it could not be shown that ``wide`` accepts all that ``narrow`` does; None if shown."""
    try:
        return _Proof(narrow, wide).within((narrow.root,), wide.root, ALL, ())
    except _GivenUp:
        return Gap((), f"more than {MAX_STEPS} steps of comparison")
    except (RecursionError, OverflowError):
        return Gap((), "schemas too deep, or numbers too large, to compare")


class _GivenUp(Exception):
    """The proof took more steps than it may."""


class _Facts:
    """The subschemas that all apply to a place, references and ``allOf`` followed."""

    __slots__ = ("alternatives", "atoms", "classes", "impossible")

    def __init__(self, places: Places, given: tuple[Place, ...]) -> None:
        self.atoms: list[Mapping[str, Any]] = []
        self.alternatives: list[tuple[tuple[Place, ...], ...]] = []
        self.impossible = False
        pending, seen = list(given), set()
        while pending:
            place = pending.pop()
            if isinstance(place, bool):
                self.impossible |= not place
            elif id(place) not in seen:
                seen.add(id(place))
                self.atoms.append(place)
                pending.extend(place.get("allOf", ()))
                pending.extend(
                    places.resolve(place[key]) for key in ("$ref", "$dynamicRef") if key in place
                )
                for key in ("anyOf", "oneOf"):
                    if key in place:
                        self.alternatives.append(tuple((branch,) for branch in place[key]))
                if "if" in place and ("then" in place or "else" in place):
                    then = (place["if"], place.get("then", True))
                    self.alternatives.append((then, (place.get("else", True),)))
        self.classes = frozenset() if self.impossible else ALL
        for atom in self.atoms:
            self.classes &= classes_of(atom)

    def values(self, keyword: str) -> list[Any]:
        """What the keyword says in each subschema that has it."""
        return [atom[keyword] for atom in self.atoms if keyword in atom]

    def most(self, keyword: str) -> float:
        """The largest of its values; minus infinity without any."""
        return max(self.values(keyword), default=-inf)

    def least(self, keyword: str) -> float:
        """The smallest of its values; infinity without any."""
        return min(self.values(keyword), default=inf)

    @property
    def required(self) -> set[str]:
        """The names a value must have."""
        names = {name for listed in self.values("required") for name in listed}
        grown = True
        while grown:
            more = {
                name
                for rules in self.values("dependentRequired")
                for trigger, listed in rules.items()
                if trigger in names
                for name in listed
            }
            grown = not more <= names
            names |= more
        return names

    @property
    def named(self) -> set[str]:
        """The names it says something about one by one."""
        listed = {name for members in self.values("properties") for name in members}
        return listed | self.required

    def at(self, name: str) -> tuple[Place, ...]:
        """What applies to the member of that name."""
        found: list[Place] = []
        for atom in self.atoms:
            mine = [s for key, s in _patterns(atom) if name_matches(key, name)]
            if name in atom.get("properties", {}):
                mine.append(atom["properties"][name])
            if not mine and "additionalProperties" in atom:
                mine.append(atom["additionalProperties"])
            found += mine
        return tuple(found)

    def elsewhere(self, skipped: set[str]) -> Iterator[tuple[Place, ...]]:
        """What may apply to a member that is not named: each combination of patterns met or not.

        Names that meet a pattern of ``skipped`` are somebody else's to look at.
        """
        ways = []
        for atom in self.atoms:
            rest = atom.get("additionalProperties", True)
            mine = [schema for key, schema in _patterns(atom) if key not in skipped]
            ways.append([rest, *mine])
        yield from _products(ways)

    def under(self, pattern: str) -> Iterator[tuple[Place, ...]]:
        """What may apply to a member that is not named and meets a pattern."""
        ways = []
        for atom in self.atoms:
            mine = dict(_patterns(atom))
            rest = atom.get("additionalProperties", True)
            ways.append([mine[pattern]] if pattern in mine else [rest, *mine.values()])
        yield from _products(ways)

    def item(self, index: int) -> tuple[Place, ...]:
        """What applies to the item at an index."""
        found: list[Place] = []
        for atom in self.atoms:
            first = atom.get("prefixItems", ())
            if index < len(first):
                found.append(first[index])
            elif "items" in atom:
                found.append(atom["items"])
        return tuple(found)

    @property
    def prefix(self) -> int:
        """How many first items have schemas of their own."""
        return max((len(each) for each in self.values("prefixItems")), default=0)


class _Proof:
    """One proof under way."""

    def __init__(self, narrow: Places, wide: Places) -> None:
        self._narrow = narrow
        self._wide = wide
        self._open: set[tuple[object, ...]] = set()
        self._steps = 0

    def within(
        self, given: tuple[Place, ...], wide: Place, classes: frozenset[str], path: Path,
        splits: int = 0, taken: frozenset[int] = frozenset(),
    ) -> Gap | None:  # fmt: skip
        """Whether values of these classes that fit all of ``given`` fit ``wide``."""
        self._step()
        if wide is True or not classes:
            return None
        mine = frozenset(id(each) if isinstance(each, Mapping) else each for each in given)
        key = (mine, id(wide) if isinstance(wide, Mapping) else wide, classes, taken)
        if key in self._open:
            return None
        self._open.add(key)
        try:
            return self._opened(given, wide, classes, path, splits, taken)
        finally:
            self._open.discard(key)

    def _opened(
        self, given: tuple[Place, ...], wide: Place, classes: frozenset[str], path: Path,
        splits: int, taken: frozenset[int],
    ) -> Gap | None:  # fmt: skip
        facts = _Facts(self._narrow, given)
        gap = None
        missing = set()
        for each in CLASSES:
            if each in classes & facts.classes and not self._empty(facts, each):
                found = self._of_class(facts, wide, each, path)
                if found is not None:
                    gap = gap or found
                    missing.add(each)
        if gap is None or splits >= MAX_SPLITS:
            return gap
        for branches in facts.alternatives:
            if id(branches[0][0]) in taken:
                continue
            opened = taken | {id(branches[0][0])}
            if not any(
                self.within((*given, *branch), wide, frozenset(missing), path, splits + 1, opened)
                for branch in branches
            ):
                return None
        return gap

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise _GivenUp

    # One class of values

    def _of_class(self, facts: _Facts, wide: Place, kind: str, path: Path) -> Gap | None:
        self._step()
        if wide is True:
            return None
        if wide is False:
            return Gap(path, f"{_WORDS[kind]} that may be there is not allowed")
        if any(alike(self._narrow, atom, self._wide, wide) for atom in facts.atoms):
            return None
        listed = self._listed(facts, kind)
        if listed is not None and self._wide.judgeable:
            refused = [each for each in listed if not self._wide.accepts(wide, each)]
            return Gap(path, f"{shown(refused[0])} is not accepted") if refused else None
        if kind not in classes_of(wide):
            return Gap(path, f"{_WORDS[kind]} is not accepted")
        for keyword in wide:
            rule = _RULES.get(keyword)
            if rule is not None and _APPLIES.get(keyword, ALL) & {kind}:
                gap = rule(self, facts, wide, kind, path)
                if gap is not None and not self._said_alike(facts, wide, keyword):
                    return gap
        return None

    def _said_alike(self, facts: _Facts, wide: Mapping[str, Any], keyword: str) -> bool:
        """Whether the narrow schema has the keyword, and those it depends on, word for word."""
        if keyword in _WHOLE_ONLY:
            return False
        words = _TOGETHER.get(keyword, (keyword,))
        return any(
            all(
                (word in atom) == (word in wide)
                and (word not in wide or alike(self._narrow, atom[word], self._wide, wide[word]))
                for word in words
            )
            for atom in facts.atoms
        )

    def _listed(self, facts: _Facts, kind: str) -> list[Any] | None:
        """The values of a class, where they are few enough to name them; those that fit."""
        found: list[Any] | None = None
        lists = [*facts.values("enum"), *([value] for value in facts.values("const"))]
        if lists:
            found = [value for value in min(lists, key=len) if class_of(value) == kind]
        elif kind in ("null", "boolean"):
            found = [None] if kind == "null" else [False, True]
        elif kind == "integer":
            low, high = _range(facts, "integer")
            if -inf < low <= high < inf and high - low < MAX_LISTED:
                found = list(range(int(low), int(high) + 1))
        if found is None or not self._narrow.judgeable or len(found) > 1024:
            return None
        return [
            value
            for value in found
            if all(self._narrow.accepts(atom, value) for atom in facts.atoms)
        ]

    # What cannot be

    def _impossible(self, given: tuple[Place, ...], depth: int = 8) -> bool:
        """Whether it is plain that nothing fits all of these."""
        if any(each is False for each in given):
            return True
        if not given or depth == 0:
            return False
        facts = _Facts(self._narrow, given)
        return all(self._empty(facts, kind, depth) for kind in facts.classes)

    def _empty(self, facts: _Facts, kind: str, depth: int = 8) -> bool:
        self._step()
        if kind in ("integer", "fraction"):
            low, high = _range(facts, kind)
            return low > high
        if kind == "string":
            return facts.most("minLength") > facts.least("maxLength")
        if kind == "array":
            least = facts.most("minItems")
            return least > facts.least("maxItems") or (
                least >= 1 and self._impossible(facts.item(0), depth - 1)
            )
        if kind == "object":
            required = facts.required
            most = facts.least("maxProperties")
            return max(facts.most("minProperties"), len(required)) > most or any(
                self._impossible(facts.at(name), depth - 1) for name in sorted(required)
            )
        return False

    def _disjoint(self, facts: _Facts, wide: Place, kind: str, depth: int = 4) -> bool:
        """Whether it is plain that nothing of a class fits the facts and ``wide`` at once."""
        self._step()
        if isinstance(wide, bool):
            return not wide
        other = _Facts(self._wide, (wide,))
        if kind not in other.classes or depth == 0:
            return kind not in other.classes
        listed = self._listed(facts, kind)
        if listed is not None and self._wide.judgeable:
            return not any(self._wide.accepts(wide, each) for each in listed)
        if kind in ("integer", "fraction"):
            (low, high), (least, most) = _range(facts, kind), _range(other, kind)
            return max(low, least) > min(high, most)
        if kind == "string":
            low = max(facts.most("minLength"), other.most("minLength"))
            return low > min(facts.least("maxLength"), other.least("maxLength"))
        if kind == "object":
            return any(self._apart(facts, other, name, depth) for name in other.required)
        return False

    def _apart(self, facts: _Facts, other: _Facts, name: str, depth: int) -> bool:
        """Whether no value fits both sides at a name that the wide side requires."""
        mine = _Facts(self._narrow, facts.at(name))
        return (
            any(
                all(
                    self._empty(mine, kind) or self._disjoint(mine, theirs, kind, depth - 1)
                    for kind in mine.classes
                )
                for theirs in other.at(name)
            )
            or not mine.classes
        )

    # Keywords of the wide schema

    def _ref(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in wide:
                gap = self._again(facts, self._wide.resolve(wide[keyword]), kind, path)
                if gap is not None:
                    return gap
        return None

    def _again(self, facts: _Facts, wide: Place, kind: str, path: Path) -> Gap | None:
        """The same values against another part of the wide schema, which may come back here."""
        return self.within(tuple(facts.atoms), wide, frozenset({kind}), path)

    def _all_of(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        gaps = (self._again(facts, each, kind, path) for each in wide["allOf"])
        return next((gap for gap in gaps if gap is not None), None)

    def _any_of(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        gap = None
        for branch in wide["anyOf"]:
            found = self._again(facts, branch, kind, path)
            if found is None:
                return None
            gap = gap or found
        return gap if len(wide["anyOf"]) == 1 else Gap(path, "none of several forms is sure to fit")

    def _one_of(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        branches = wide["oneOf"]
        for index, branch in enumerate(branches):
            others = [each for at, each in enumerate(branches) if at != index]
            if all(self._disjoint(facts, each, kind) for each in others):
                return self._again(facts, branch, kind, path)
        return Gap(path, "exactly one of several forms is not sure to fit")

    def _not(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        if self._disjoint(facts, wide["not"], kind):
            return None
        return Gap(path, "a value that 'not' excludes is not ruled out")

    def _if(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        then, other = wide.get("then", True), wide.get("else", True)
        gap = self._again(facts, then, kind, path)
        if gap is None and self._again(facts, wide["if"], kind, path) is None:
            return None
        if gap is not None and not self._disjoint(facts, wide["if"], kind):
            return gap
        return self._again(facts, other, kind, path)

    def _enum(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        return Gap(path, "more than the listed values may be there")

    def _bounds(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        low, high = _range(facts, kind)
        least, most = _range(_only(wide), kind)
        if low < least:
            return Gap(path, f"a number below {least} may be there")
        return Gap(path, f"a number above {most} may be there") if high > most else None

    def _multiple(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        asked = wide["multipleOf"]
        if asked == 1 and kind == "integer":
            return None
        for mine in facts.values("multipleOf"):
            whole = float(mine).is_integer() and float(asked).is_integer()
            if mine == asked or (whole and int(mine) % int(asked) == 0):
                return None
        return Gap(path, f"a number that is no multiple of {asked} may be there")

    def _lengths(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        return _counted(facts, wide, "minLength", "maxLength", "characters", path)

    def _same_word(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        return Gap(path, "text of another form may be there")

    def _item_counts(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        most = self._most_items(facts)
        return _counted(facts, wide, "minItems", "maxItems", "items", path, most=most)

    def _most_items(self, facts: _Facts) -> float:
        most = facts.least("maxItems")
        for index in range(facts.prefix + 1):
            if index >= most or self._impossible(facts.item(index)):
                return min(most, index)
        return most

    def _items(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        first = wide.get("prefixItems", ())
        for index in range(max(len(first), facts.prefix) + 1):
            if index >= self._most_items(facts):
                return None
            asked = first[index] if index < len(first) else wide.get("items", True)
            gap = self.within(facts.item(index), asked, ALL, (*path, index))
            if gap is not None:
                return gap
        return None

    def _unique(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        if not wide["uniqueItems"] or True in facts.values("uniqueItems"):
            return None
        if self._most_items(facts) <= 1:
            return None
        return Gap(path, "an item may be there twice")

    def _contains(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        least = wide.get("minContains", 1)
        if "maxContains" in wide and wide["maxContains"] < self._most_items(facts):
            return Gap(path, "too many items of a kind may be there")
        if least == 0:
            return None
        for atom in facts.atoms:
            if (
                "contains" in atom
                and atom.get("minContains", 1) >= least
                and self.within((atom["contains"],), wide["contains"], ALL, path) is None
            ):
                return None
        if facts.most("minItems") >= least and all(
            self.within(facts.item(index), wide["contains"], ALL, path) is None
            for index in range(facts.prefix + 1)
        ):
            return None
        return Gap(path, "no item of a kind may be there")

    def _members(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        """``properties``, ``patternProperties`` and ``additionalProperties`` together."""
        other = _only(wide)
        for name in sorted(facts.named | set(wide.get("properties", {}))):
            for asked in other.at(name):
                gap = self.within(facts.at(name), asked, ALL, (*path, name))
                if gap is not None:
                    return gap
        patterns = dict(_patterns(wide))
        for pattern, asked in patterns.items():
            for given in facts.under(pattern):
                gap = self._unnamed(given, asked, (*path, f"/{pattern}/"))
                if gap is not None:
                    return gap
        rest = wide.get("additionalProperties", True)
        if rest is True:
            return None
        for given in facts.elsewhere(set(patterns)):
            gap = self._unnamed(given, rest, (*path, "*"))
            if gap is not None:
                return gap
        return None

    def _unnamed(self, given: tuple[Place, ...], asked: Place, path: Path) -> Gap | None:
        gap = self.within(given, asked, ALL, path)
        if gap is not None and asked is False:
            return Gap(path[:-1], "members of other names may be there")
        return gap

    def _required(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        for name in wide["required"]:
            if name not in facts.required:
                return Gap(path, f"{name} may be missing")
        return None

    def _dependent(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        for trigger, names in wide.get("dependentRequired", {}).items():
            given = {trigger, *facts.required}
            for rules in facts.values("dependentRequired"):
                given.update(rules.get(trigger, ()))
            if set(names) <= given or self._impossible(facts.at(trigger)):
                continue
            return Gap(path, f"{sorted(set(names) - given)[0]} may be missing beside {trigger}")
        for trigger, asked in wide.get("dependentSchemas", {}).items():
            if not self._impossible(facts.at(trigger)):
                gap = self._again(facts, asked, kind, path)
                if gap is not None:
                    return gap
        return None

    def _member_counts(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        most, least = inf, len(facts.required)
        if self._only_named(facts):
            most = sum(not self._impossible(facts.at(name)) for name in facts.named)
        return _counted(
            facts, wide, "minProperties", "maxProperties", "members", path, most=most, least=least
        )

    def _only_named(self, facts: _Facts) -> bool:
        return all(self._impossible(given) for given in facts.elsewhere(set()))

    def _names(self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path) -> Gap | None:
        asked = wide["propertyNames"]
        given = tuple(facts.values("propertyNames"))
        text = frozenset({"string"})
        if self.within(given, asked, text, path) is None:
            return None
        possible = [name for name in facts.named if not self._impossible(facts.at(name))]
        if (
            self._only_named(facts)
            and self._wide.judgeable
            and all(self._wide.accepts(asked, name) for name in possible)
        ):
            return None
        return Gap(path, "a member of another name may be there")

    def _not_understood(
        self, facts: _Facts, wide: Mapping[str, Any], kind: str, path: Path
    ) -> Gap | None:
        return Gap(path, "a keyword that depends on other parts of the schema")


Rule = Callable[[_Proof, _Facts, Mapping[str, Any], str, Path], Gap | None]
_RULES: Final[dict[str, Rule]] = {
    "$ref": _Proof._ref, "$dynamicRef": _Proof._ref, "allOf": _Proof._all_of,
    "anyOf": _Proof._any_of, "oneOf": _Proof._one_of, "not": _Proof._not, "if": _Proof._if,
    "enum": _Proof._enum, "const": _Proof._enum,
    "minimum": _Proof._bounds, "maximum": _Proof._bounds, "exclusiveMinimum": _Proof._bounds,
    "exclusiveMaximum": _Proof._bounds, "multipleOf": _Proof._multiple,
    "minLength": _Proof._lengths, "maxLength": _Proof._lengths, "pattern": _Proof._same_word,
    "format": _Proof._same_word,
    "minItems": _Proof._item_counts, "maxItems": _Proof._item_counts, "items": _Proof._items,
    "prefixItems": _Proof._items, "uniqueItems": _Proof._unique, "contains": _Proof._contains,
    "properties": _Proof._members, "patternProperties": _Proof._members,
    "additionalProperties": _Proof._members, "required": _Proof._required,
    "dependentRequired": _Proof._dependent, "dependentSchemas": _Proof._dependent,
    "minProperties": _Proof._member_counts, "maxProperties": _Proof._member_counts,
    "propertyNames": _Proof._names,
    "unevaluatedItems": _Proof._not_understood, "unevaluatedProperties": _Proof._not_understood,
    "dependencies": _Proof._not_understood, "additionalItems": _Proof._not_understood,
    "$recursiveRef": _Proof._not_understood,
}  # fmt: skip
_NUMBERS: Final = frozenset({"integer", "fraction"})
_APPLIES: Final = {
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _NUMBERS
    ),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), frozenset({"string"})),
    **dict.fromkeys(
        ("minItems", "maxItems", "items", "prefixItems", "uniqueItems", "contains",
         "unevaluatedItems", "additionalItems"), frozenset({"array"})),
    **dict.fromkeys(
        ("properties", "patternProperties", "additionalProperties", "required",
         "dependentRequired", "dependentSchemas", "minProperties", "maxProperties",
         "propertyNames", "unevaluatedProperties", "dependencies"), frozenset({"object"})),
}  # fmt: skip
_TOGETHER: Final = {
    "if": ("if", "then", "else"),
    "contains": ("contains", "minContains", "maxContains"),
    "items": ("items", "prefixItems"),
    "prefixItems": ("items", "prefixItems"),
    **dict.fromkeys(
        ("properties", "patternProperties", "additionalProperties"),
        ("properties", "patternProperties", "additionalProperties"),
    ),
    "dependentRequired": ("dependentRequired", "dependentSchemas"),
    "dependentSchemas": ("dependentRequired", "dependentSchemas"),
}
_WHOLE_ONLY: Final = frozenset(
    {
        "$ref", "$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties",
        "additionalItems",
    }
)  # fmt: skip
"""Keywords whose own word does not say what they mean; what is behind or beside them does."""
_WORDS: Final = {
    "null": "null", "boolean": "true or false", "integer": "a whole number",
    "fraction": "a number with a fraction", "string": "text", "array": "a list",
    "object": "a mapping",
}  # fmt: skip


def class_of(value: Any) -> str:
    """The class of a JSON value; 1.0 is an integer."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "integer" if float(value).is_integer() else "fraction"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def classes_of(place: Mapping[str, Any]) -> frozenset[str]:
    """The classes that ``type``, ``enum`` and ``const`` let through."""
    found = ALL
    if "type" in place:
        types = [place["type"]] if isinstance(place["type"], str) else place["type"]
        found = frozenset(
            each for name in types for each in (_NUMBERS if name == "number" else (name,))
        )
    if "enum" in place:
        found &= frozenset(map(class_of, place["enum"]))
    if "const" in place:
        found &= {class_of(place["const"])}
    return found


def _only(place: Mapping[str, Any]) -> _Facts:
    """The keywords of one place, whatever it refers to."""
    facts = object.__new__(_Facts)
    facts.atoms, facts.alternatives, facts.impossible = [place], [], False
    facts.classes = ALL
    return facts


def _range(facts: _Facts, kind: str) -> tuple[float, float]:
    """The closed bounds of numbers; an open one of integers is moved to the next integer."""
    low, high = facts.most("minimum"), facts.least("maximum")
    above, below = facts.most("exclusiveMinimum"), facts.least("exclusiveMaximum")
    if kind == "integer":
        low = low if low == -inf else ceil(low)
        high = high if high == inf else floor(high)
        low = max(low, above if above == -inf else floor(above) + 1)
        high = min(high, below if below == inf else ceil(below) - 1)
        return low, high
    # An open bound lies just inside the closed one: the pair orders them.
    return _Bound(max((low, 0), (above, 1))), _Bound(min((high, 0), (below, -1)))


class _Bound(float):
    """A bound of numbers with a side: 0 closed, 1 just above, -1 just below."""

    side: int

    def __new__(cls, pair: tuple[float, int]) -> _Bound:
        bound = super().__new__(cls, pair[0])
        bound.side = pair[1]
        return bound

    def _pair(self) -> tuple[float, int]:
        return float(self), self.side

    def __lt__(self, other: float) -> bool:
        return self._pair() < _pair(other)

    def __gt__(self, other: float) -> bool:
        return self._pair() > _pair(other)


def _pair(bound: float) -> tuple[float, int]:
    return bound._pair() if isinstance(bound, _Bound) else (bound, 0)


def _counted(
    facts: _Facts, wide: Mapping[str, Any], lower: str, upper: str, what: str, path: Path,
    *, most: float = inf, least: float = 0,
) -> Gap | None:  # fmt: skip
    if max(facts.most(lower), least) < wide.get(lower, 0):
        return Gap(path, f"fewer than {wide[lower]} {what} may be there")
    if min(facts.least(upper), most) > wide.get(upper, inf):
        return Gap(path, f"more than {wide[upper]} {what} may be there")
    return None


def _patterns(place: Mapping[str, Any]) -> Iterator[tuple[str, Place]]:
    yield from place.get("patternProperties", {}).items()


def _products(ways: list[list[Place]]) -> Iterator[tuple[Place, ...]]:
    """Every choice of one from each; where there are too many, what is true of all of them."""
    size = 1
    for each in ways:
        size *= len(each)
    yield from product(*ways) if size <= MAX_LISTED else [()]
