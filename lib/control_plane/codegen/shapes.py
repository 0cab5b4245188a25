"""Of which Python type a JSON value is, from its JSON Schema and the values that are there.

- Where a schema says what a value is, its word counts; where it says nothing, the values do:
  those of every environment and tenant that is looked at.
- A key of a mapping is required when the schema requires it, or when every value at that place
  has it. Below a mapping with open keys, in the items of a list and in a schema that contains
  itself only the schema's word counts: the next item may be another.
- ``enum`` and ``const`` are literals, ``anyOf`` and ``oneOf`` are unions, ``allOf`` and ``$ref``
  are laid together. What narrows a value without naming its type (``not``, ``if``, bounds,
  patterns) changes nothing.
- ``integer`` is int and ``number`` is float, to which checkers accept an int; of values, whole
  numbers are int, and with one that is not they are float.
- A schema that contains itself through a mapping gives a type that contains itself; one that does
  so through lists or unions alone ends in Any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MAX_REFERENCES: Final = 100
MAX_LEVELS: Final = 100
"""How many subschemas may lead one into the next; what lies deeper is Any."""
MAX_PLACES: Final = 20_000
"""How many places one schema may describe, as references may multiply them; the rest is Any."""
_TYPES: Final = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_ORDER: Final = ("bool", "int", "float", "str")


@dataclass(frozen=True)
class Plain:
    """A type with a name of its own: str, int, float, bool, None, Any, Never."""

    name: str


@dataclass(frozen=True)
class OneOf:
    """One of some strings, whole numbers, truth values and null."""

    values: tuple[str | int | bool | None, ...]


@dataclass(frozen=True)
class Items:
    """A list."""

    item: Shape


@dataclass(frozen=True)
class Open:
    """A mapping whose keys are data; ``known`` are those some value has."""

    value: Shape
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Either:
    """A value of one of several shapes."""

    members: tuple[Shape, ...]


@dataclass(eq=False)
class Fields:
    """A mapping with named keys; the same object stands where it contains itself."""

    fields: dict[str, Shape] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    contains_itself: bool = False


Shape = Plain | OneOf | Items | Open | Either | Fields

ANY: Final = Plain("Any")
NULL: Final = Plain("None")


def shape_of(schema: Any, values: Sequence[Any]) -> Shape:
    """The shape of a place with this schema (None without one) and these values."""
    return _Reader(schema).shape(schema, values, settled=True, inside={})


def observed(values: Sequence[Any]) -> Shape:
    """The shape of these values alone."""
    return shape_of(None, values)


def either(shapes: Iterable[Shape]) -> Shape:
    """One shape of several, each once, null last; Any takes in all others."""
    flat: list[Shape] = []
    for shape in shapes:
        flat += shape.members if isinstance(shape, Either) else [shape]
    named = _each_once(
        value for shape in flat if isinstance(shape, OneOf) for value in shape.values
    )
    found: list[Shape] = list(dict.fromkeys(s for s in flat if not isinstance(s, OneOf)))
    if ANY in found:
        return ANY
    if Plain("float") in found and Plain("int") in found:
        found.remove(Plain("int"))
    if named:
        found.insert(0, OneOf(named))
    if NULL in found:
        found.remove(NULL)
        found.append(NULL)
    if not found:
        return ANY
    return found[0] if len(found) == 1 else Either(tuple(found))


class _Reader:
    """Reads one schema; references are looked up from its top."""

    def __init__(self, top: Any) -> None:
        self._top = top
        self._places = 0

    def shape(
        self, schema: Any, values: Sequence[Any], *, settled: bool, inside: dict[int, Fields | None]
    ) -> Shape:
        """``settled``: the values are all there are, so that they say which keys are required.

        ``inside`` are the referenced schemas that led here, with the mapping each of them is.
        """
        if schema is False:
            return Plain("Never")
        parts = self._parts(schema)
        self._places += 1
        if parts is None or len(inside) > MAX_LEVELS or self._places > MAX_PLACES:
            return ANY
        for part in parts:
            known = inside.get(id(part), _UNSEEN)
            if known is None:
                return ANY
            if isinstance(known, Fields):
                known.contains_itself = True
                return known
        inside = inside | {id(part): None for part in parts}
        given = _laid_together(parts)
        return self._given(given, values, settled, inside, parts)

    def _given(
        self,
        given: Mapping[str, Any],
        values: Sequence[Any],
        settled: bool,
        inside: dict[int, Fields | None],
        parts: list[Mapping[str, Any]],
    ) -> Shape:
        if "const" in given:
            return _literals([given["const"]])
        if isinstance(given.get("enum"), list):
            return _literals(given["enum"])
        kinds = _kinds(given)
        if not kinds:
            for word in ("anyOf", "oneOf"):
                if isinstance(given.get(word), list):
                    return either(
                        self.shape(each, _only(each, values), settled=settled, inside=inside)
                        for each in given[word]
                    )
            return self._observed(values, settled)
        return either(self._kind(kind, given, values, settled, inside, parts) for kind in kinds)

    def _kind(
        self,
        kind: str,
        given: Mapping[str, Any],
        values: Sequence[Any],
        settled: bool,
        inside: dict[int, Fields | None],
        parts: list[Mapping[str, Any]],
    ) -> Shape:
        if kind == "null":
            return NULL
        if kind == "array":
            members = [each for value in values if isinstance(value, list) for each in value]
            first = given.get("prefixItems")
            items = [*(first if isinstance(first, list) else []), given.get("items", _NOTHING)]
            named = [each for each in items if each not in (_NOTHING, False)]
            if not named:
                return Items(self._observed(members, False))
            return Items(
                either(self.shape(each, members, settled=False, inside=inside) for each in named)
            )
        if kind == "object":
            return self._object(given, values, settled, inside, parts)
        return Plain(_TYPES[kind]) if kind in _TYPES else ANY

    def _object(
        self,
        given: Mapping[str, Any],
        values: Sequence[Any],
        settled: bool,
        inside: dict[int, Fields | None],
        parts: list[Mapping[str, Any]],
    ) -> Shape:
        trees = [value for value in values if isinstance(value, dict)]
        if given["properties"]:
            return self._fields(given, trees, settled, inside, parts)
        others = _others(given)
        return self._open(others, trees, inside) if others else self._mapping(trees, settled)

    def _open(self, others: list[Any], trees: list[Any], inside: dict[int, Fields | None]) -> Shape:
        """A mapping whose keys no schema names: its members are all of one shape."""
        members = [each for tree in trees for each in tree.values()]
        value = either(self.shape(each, members, settled=False, inside=inside) for each in others)
        return Open(value, _keys_of(trees))

    def _fields(
        self,
        given: Mapping[str, Any],
        trees: list[Any],
        settled: bool,
        inside: dict[int, Fields | None],
        parts: list[Mapping[str, Any]],
    ) -> Fields:
        """A mapping with properties, and with what else its values have."""
        made = Fields()
        inside = inside | {id(part): made for part in parts}
        properties, others = given["properties"], _others(given) or [None]
        keys = _each_once([*properties, *_keys_of(trees)])
        for key in keys:
            below = [tree[key] for tree in trees if key in tree]
            schemas = [properties[key]] if key in properties else others
            made.fields[key] = either(
                self.shape(each, below, settled=settled, inside=inside) for each in schemas
            )
        made.required.update(given["required"] & made.fields.keys())
        if settled and not made.contains_itself:
            made.required |= _in_all(trees)
        return made

    def _observed(self, values: Sequence[Any], settled: bool) -> Shape:
        """What the values alone say, null beside others being one of them."""
        found: dict[str, list[Any]] = {}
        for value in values:
            found.setdefault(_kind_of(value), []).append(value)
        shapes: list[Shape] = [Plain(name) for name in _ORDER if name in found]
        if "list" in found:
            members = [each for value in found["list"] for each in value]
            shapes.append(Items(self._observed(members, settled)))
        if "dict" in found:
            shapes.append(self._mapping(found["dict"], settled))
        if "None" in found and shapes:
            shapes.append(NULL)
        return either(shapes)

    def _mapping(self, trees: Sequence[Mapping[str, Any]], settled: bool) -> Shape:
        keys = _keys_of(trees)
        if not keys:
            return Open(ANY)
        made = Fields()
        for key in keys:
            below = [tree[key] for tree in trees if key in tree]
            made.fields[key] = self._observed(below, settled)
        if settled:
            made.required = _in_all(trees)
        return made

    def _parts(self, schema: Any) -> list[Mapping[str, Any]] | None:
        """The schema, what it refers to and its ``allOf``, nearest first; None: without end."""
        found: list[Mapping[str, Any]] = []
        pending = [schema]
        while pending:
            part = pending.pop(0)
            if not isinstance(part, Mapping):
                continue
            if any(part is each for each in found) or len(found) >= MAX_REFERENCES:
                return None
            found.append(part)
            if isinstance(part.get("$ref"), str):
                pending.append(self._at(part["$ref"]))
            if isinstance(part.get("allOf"), list):
                pending += part["allOf"]
        return found

    def _at(self, reference: str) -> Any:
        """What a reference names, a path from the top; None where it is another."""
        place = self._top
        for step in reference.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(place, Mapping):
                place = place.get(key)
            elif isinstance(place, list) and key.isdigit() and int(key) < len(place):
                place = place[int(key)]
            else:
                return None
        return place


_UNSEEN: Final = object()
_NOTHING: Final = object()


def _laid_together(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Parts that all hold as one: properties and required of all, else the nearest's word."""
    given: dict[str, Any] = {}
    for part in reversed(parts):
        given |= part
    properties = [part["properties"] for part in parts if isinstance(part.get("properties"), dict)]
    required = [part["required"] for part in parts if isinstance(part.get("required"), list)]
    given["properties"] = {
        key: value for each in reversed(properties) for key, value in each.items()
    }
    given["required"] = {key for each in required for key in each if isinstance(key, str)}
    return given


def _kinds(given: Mapping[str, Any]) -> list[str]:
    """The JSON types a schema allows; none where it does not say."""
    kinds = given.get("type")
    if isinstance(kinds, str):
        return [kinds]
    if isinstance(kinds, list):
        return kinds
    if given.get("properties") or _others(given):
        return ["object"]
    return ["array"] if "items" in given or "prefixItems" in given else []


def _others(given: Mapping[str, Any]) -> list[Any]:
    """The schemas of keys that are not named, those that say something."""
    patterns = given.get("patternProperties")
    found = [*(patterns.values() if isinstance(patterns, dict) else ())]
    found.append(given.get("additionalProperties"))
    return [each for each in found if isinstance(each, dict) and each]


def _only(schema: Any, values: Sequence[Any]) -> list[Any]:
    """The values a member of a union may be about, by its type."""
    kinds = _kinds(schema) if isinstance(schema, Mapping) else []
    if not kinds:
        return list(values)
    names = {"object": "dict", "array": "list", "null": "None"}
    return [each for each in values if _kind_of(each) in {names.get(kind, "") for kind in kinds}]


def _literals(values: list[Any]) -> Shape:
    """What ``enum`` and ``const`` name; a literal type holds no fraction, list or mapping."""
    named = [each for each in values if _kind_of(each) in ("str", "bool", "int")]
    rest = [each for each in values if _kind_of(each) not in ("str", "bool", "int", "None")]
    if any(_kind_of(each) == "float" for each in rest):
        # Among fractions a whole number has no type of its own.
        rest += [each for each in named if _kind_of(each) == "int"]
        named = [each for each in named if _kind_of(each) != "int"]
    shapes: list[Shape] = [observed(rest)] if rest else []
    if named:
        whole = (int(each) if isinstance(each, float) else each for each in named)
        shapes.append(OneOf(_each_once(whole)))
    return either([*shapes, NULL] if None in values else shapes)


def _keys_of(trees: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys that some value has, each once."""
    return _each_once(key for tree in trees for key in tree)


def _in_all(trees: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys that every value has; none without a value."""
    return set[str].intersection(*map(set, trees)) if trees else set()


def _each_once(values: Iterable[Any]) -> tuple[Any, ...]:
    # 1 and True are equal in Python and two values in JSON.
    return tuple({(value.__class__, value): value for value in values}.values())


def _kind_of(value: Any) -> str:
    """The Python type of a value; 2.0 is int, as canonical JSON writes both alike."""
    if value is None:
        return "None"
    if isinstance(value, float) and value.is_integer():
        return "int"
    return type(value).__name__
