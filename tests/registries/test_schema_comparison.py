"""Compatible is proven, breaking is shown, and nothing else is claimed of two schemas."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from control_plane.errors import ManifestInvalid
from control_plane.manifests.json_schema import compile_schema
from control_plane.registries.schema_comparison import (
    BREAKING,
    COMPATIBLE,
    UNKNOWN,
    compare_schemas,
)

ORDER: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}},
    },
    "additionalProperties": False,
}
NODE: dict[str, Any] = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "required": ["value"],
            "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
        }
    },
}


def kinds(*names: str) -> dict[str, Any]:
    return {
        "oneOf": [
            {"type": "object", "required": ["k"], "properties": {"k": {"const": name}}}
            for name in names
        ]
    }


def nodes_of(kind: Any) -> dict[str, Any]:
    schema = copy.deepcopy(NODE)
    schema["$defs"]["node"]["properties"]["value"] = {"type": kind}
    return schema


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (ORDER, ORDER),
        (ORDER, True),
        (ORDER, {**ORDER, "required": []}),
        ({"type": "integer"}, {"type": "number"}),
        ({"type": "integer", "minimum": 0.5}, {"exclusiveMinimum": 0}),
        ({"type": "integer", "minimum": 1, "maximum": 3}, {"enum": [1, 2, 3, 4]}),
        ({"multipleOf": 6, "type": "integer"}, {"multipleOf": 3}),
        ({"type": "boolean"}, {"enum": [False, True]}),
        ({"anyOf": [{"const": 1}, {"type": "string"}]}, {"type": ["integer", "string"]}),
        ({"type": ["integer", "null"]}, {"anyOf": [{"type": "null"}, {"type": "number"}]}),
        (kinds("a", "b"), kinds("a", "b", "c")),
        (NODE, nodes_of(["integer", "null"])),
        ({"allOf": [{"minLength": 3}, {"type": "string"}]}, {"type": "string", "minLength": 2}),
        ({"prefixItems": [{"type": "null"}], "items": False}, {"maxItems": 1}),
        ({"required": ["a"], "dependentRequired": {"a": ["b"]}}, {"required": ["b"]}),
        ({"type": "string", "pattern": "^a"}, {"pattern": "^a"}),
        ({"const": 4}, {"not": {"type": "string"}}),
        ({"type": "object", "patternProperties": {"^x": {"const": 1}},
          "additionalProperties": False},
         {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}),
        (False, {"type": "string"}),
    ],
)  # fmt: skip
def test_what_holds_for_every_value_is_compatible(narrow: Any, wide: Any) -> None:
    assert str(compare_schemas(narrow, wide)) == COMPATIBLE


@pytest.mark.parametrize(
    ("narrow", "wide", "path", "said"),
    [
        ({**ORDER, "required": []}, ORDER, (), "the field id"),
        (ORDER, {**ORDER, "properties": {"id": {"type": "integer"}}}, (), "tags"),
        ({"type": "number"}, {"type": "integer"}, (), "whole number"),
        (nodes_of(["integer", "null"]), NODE, ("value",), "whole number"),
        (kinds("a", "b"), kinds("a"), ("k",), '"a"'),
        ({"type": "array"}, {"type": "array", "maxItems": 3}, (), "at most 3"),
        (
            {"properties": {"a": {"properties": {"b": {"minimum": 1}}}}},
            {"properties": {"a": {"properties": {"b": {"minimum": 2}}}}},
            ("a", "b"),
            "at least 2",
        ),
    ],
)
def test_what_fails_for_some_value_is_breaking_where_it_fails(
    narrow: Any, wide: Any, path: Any, said: str
) -> None:
    found = compare_schemas(narrow, wide)
    assert (found.verdict, found.path) == (BREAKING, path)
    assert said in found.reason
    assert Draft202012Validator(narrow).is_valid(found.example)
    assert not Draft202012Validator(wide).is_valid(found.example)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ({"type": "string", "pattern": "^ab$"}, {"pattern": "^a"}),
        ({"properties": {"a": True}, "type": "object", "additionalProperties": False},
         {"properties": {"a": True}, "unevaluatedProperties": False}),
    ],
)  # fmt: skip
def test_what_is_neither_proven_nor_shown_is_unknown(narrow: Any, wide: Any) -> None:
    assert compare_schemas(narrow, wide).verdict == UNKNOWN


def test_schemas_that_reach_outside_themselves_are_refused() -> None:
    with pytest.raises(ManifestInvalid, match="stays inside"):
        compare_schemas({"$ref": "https://example.org/s"}, True)


def test_a_bomb_of_references_ends_in_bounded_work() -> None:
    bomb = {
        "$defs": {
            f"d{n}": {"properties": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "abcd"}}
            for n in range(30)
        }
        | {"d30": {"type": "string"}},
        "$ref": "#/$defs/d0",
    }
    other = copy.deepcopy(bomb)
    other["$defs"]["d30"] = {"type": "integer"}
    assert compare_schemas(bomb, other).verdict in (UNKNOWN, BREAKING)


def test_names_of_any_letters_are_places_too() -> None:
    names = ("a/b", "a~b", "a b", "%24", "ä", "$ref?")
    old = {"properties": {name: {"enum": ["x", "y"]} for name in names}}
    for name in names:
        new = {"properties": {**old["properties"], name: {"enum": ["x"]}}}
        assert compare_schemas(new, old).verdict == COMPATIBLE
        assert compare_schemas(old, new).path == (name,)


# Generated pairs: no counterexample to anything called compatible

NAMES = ("a", "b", "ab")
scalar_values = st.sampled_from([None, True, False, 0, 1, 2, 3, 1.5, -1, "", "a", "ab", "abc"])
values = st.recursive(
    scalar_values,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "c"]), inner, max_size=3)
    ),
    max_leaves=6,
)
small = st.integers(0, 3)
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names, members = st.sampled_from(NAMES), st.sampled_from(["^a", "b"])
    parts = {
        "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, unique=True),
        "enum": st.lists(values, min_size=1, max_size=3),
        "const": values,
        "minimum": small, "maximum": small, "exclusiveMinimum": small, "exclusiveMaximum": small,
        "multipleOf": st.sampled_from([1, 2, 3, 0.5]),
        "minLength": small, "maxLength": small, "pattern": st.sampled_from(["^a", "b$", "^$"]),
        "minItems": small, "maxItems": small, "uniqueItems": st.booleans(),
        "items": inner, "prefixItems": st.lists(inner, min_size=1, max_size=2),
        "contains": inner, "minContains": small, "maxContains": small,
        "properties": st.dictionaries(names, inner, max_size=2),
        "patternProperties": st.dictionaries(members, inner, max_size=2),
        "additionalProperties": inner, "propertyNames": inner,
        "required": st.lists(names, max_size=2, unique=True),
        "minProperties": small, "maxProperties": small,
        "dependentRequired": st.dictionaries(names, st.lists(names, max_size=1), max_size=1),
        "dependentSchemas": st.dictionaries(names, inner, max_size=1),
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "oneOf": st.lists(inner, min_size=1, max_size=2),
        "not": inner, "if": inner, "then": inner, "else": inner,
        "unevaluatedProperties": inner, "unevaluatedItems": inner,
        "$ref": st.just("#/$defs/d"),
    }  # fmt: skip
    chosen = st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=3, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: parts[key] for key in keys}))


schemas: st.SearchStrategy[Any] = st.recursive(st.booleans(), keywords, max_leaves=6)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two schemas; mostly the second is the first with one part changed."""
    one = {"$defs": {"d": draw(schemas)}, "allOf": [draw(schemas)]}
    if draw(st.integers(0, 3)) == 0:
        return one, {"$defs": {"d": draw(schemas)}, "allOf": [draw(schemas)]}
    other = copy.deepcopy(one)
    pending: list[Any] = [other]
    places = []
    while pending:
        part = pending.pop()
        steps = list(part.items() if isinstance(part, dict) else enumerate(part))
        places += [(part, step) for step, value in steps if isinstance(value, (dict, bool, int))]
        pending += [value for _, value in steps if isinstance(value, (dict, list))]
    holder, step = draw(st.sampled_from(places))
    old = holder[step]
    if isinstance(old, dict) and draw(st.booleans()):
        holder[step] = {**old, **draw(keywords(st.booleans()))}
    else:
        holder[step] = draw(small) if type(old) is int else draw(schemas)
    return (one, other) if draw(st.booleans()) else (other, one)


def check_pair(pair: tuple[Any, Any], sampled: list[Any]) -> str:
    narrow, wide = pair
    try:
        for each in pair:
            Draft202012Validator.check_schema(each)
            compile_schema(each)
    except Exception:
        return "no schema"
    found = compare_schemas(narrow, wide)
    mine, yours = Draft202012Validator(narrow), Draft202012Validator(wide)
    if found.verdict == COMPATIBLE:
        for value in sampled:
            assert not mine.is_valid(value) or yours.is_valid(value), (narrow, wide, value)
    if found.verdict == BREAKING:
        assert mine.is_valid(found.example), (narrow, wide, found)
        assert not yours.is_valid(found.example), (narrow, wide, found)
    return found.verdict


samples = st.lists(values, min_size=12, max_size=24)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(pairs(), samples)
def test_no_pair_called_compatible_has_a_counterexample(pair: Any, sampled: list[Any]) -> None:
    check_pair(pair, sampled)


@pytest.mark.torture
@pytest.mark.timeout(1800)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(pairs(), st.lists(values, min_size=40, max_size=80))
def test_no_pair_of_many_has_a_counterexample(pair: Any, sampled: list[Any]) -> None:
    check_pair(pair, sampled)
