"""Layers become leaves, and the leaves put together again are what the layers say."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from control_plane.configs.layers import (
    BASE_TENANT,
    compile_config,
    decode_path,
    encode_path,
    flatten,
    merge,
    merged_config,
    path_of,
    same,
    unflatten,
)
from control_plane.errors import ManifestInvalid

keys = st.sampled_from(["a", "b", "c", "", ".", "~", "~1", "\0"]) | st.text(max_size=3)
scalars = st.none() | st.booleans() | st.integers(0, 1) | st.text(max_size=2)
leaves = scalars | st.lists(scalars, max_size=2)
trees = st.recursive(
    st.dictionaries(keys, leaves, max_size=3),
    lambda inner: st.dictionaries(keys, leaves | inner, max_size=3),
    max_leaves=8,
)
few = st.sampled_from(["a", "b"])
# Few keys, so that layers meet: a mapping over a scalar, a scalar over a mapping, `{}` over both.
layers: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(few, st.integers(0, 1) | st.just({}), max_size=2),
    lambda inner: st.dictionaries(few, st.integers(0, 1) | st.none() | inner, max_size=2),
    max_leaves=6,
)
schemas = st.recursive(
    st.fixed_dictionaries({}, optional={"default": layers | st.integers(0, 3)}),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(few, inner, max_size=2)},
        optional={
            "default": layers,
            "required": st.lists(few, max_size=2),
            "$ref": st.sampled_from(["#", "#/properties/a", "#/nowhere"]),
        },
    ),
    max_leaves=4,
)


def document(name: str = "n", **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


def view(records: dict[tuple[str, str], tuple[Any, str, bool]], tenant: str) -> Any:
    """What a reader puts together: the base's leaves, the tenant's over them."""
    seen = {}
    for wanted in dict.fromkeys((BASE_TENANT, tenant)):
        for (owner, path), (value, _, hidden) in records.items():
            if owner == wanted:
                seen[path] = value
                if hidden:
                    del seen[path]
    return unflatten(seen)["n"]


def test_every_leaf_tells_the_layer_it_comes_from() -> None:
    base = document(
        schema={"properties": {"max": {"default": 9}, "url": {"default": "x"}}},
        values={"url": "local", "pool": {"size": 5}},
        environments={"production": {"pool": {"size": 50}}, "staging": {"url": "staging"}},
        tenants={"acme": {"pool": {"size": 80}}},
    )
    own = document("n@acme", values={"url": "acme"}, environments={"production": {"max": 1}})
    assert compile_config(base, [own], "production") == {
        ("", "n.max"): (9, "default", False),
        ("", "n.pool.size"): (50, "environments.production", False),
        ("", "n.url"): ("local", "values", False),
        ("acme", "n.max"): (1, "n@acme", False),
        ("acme", "n.pool.size"): (80, "tenants.acme", False),
        ("acme", "n.url"): ("acme", "n@acme", False),
    }


def test_a_tenant_has_records_only_where_its_value_differs() -> None:
    base = document(values={"a": 1, "b": [1], "c": True}, tenants={"t": {"a": 1, "b": [1], "c": 1}})
    records = compile_config(base, [], None)
    assert {place: leaf for place, leaf in records.items() if place[0]} == {
        ("t", "n.c"): (1, "tenants.t", False)
    }


def test_a_scalar_over_a_mapping_hides_the_leaves_below_it_for_that_tenant() -> None:
    base = document(
        values={"a": {"x": 1, "y": {"z": 2}}, "b": {}}, tenants={"t": {"a": None, "b": {"c": 1}}}
    )
    assert {place: leaf for place, leaf in compile_config(base, [], None).items() if place[0]} == {
        ("t", "n.a"): (None, "tenants.t", False),
        ("t", "n.a.x"): (None, "tenants.t", True),
        ("t", "n.a.y.z"): (None, "tenants.t", True),
        ("t", "n.b"): (None, "tenants.t", True),
        ("t", "n.b.c"): (1, "tenants.t", False),
    }


def test_a_tenants_manifest_stands_without_a_base() -> None:
    own = document("n@acme", values={"a": 1})
    assert compile_config(None, [own], "production") == {("acme", "n.a"): (1, "n@acme", False)}
    assert compile_config(None, [], "production") == {}


def test_a_default_inside_an_absent_object_counts_only_when_it_makes_a_whole_one() -> None:
    tls = {"required": ["cert"], "properties": {"cert": {}, "verify": {"default": True}}}
    pool = {"properties": {"size": {"default": 5}}}
    base = document(
        schema={"properties": {"tls": tls, "pool": pool}}, tenants={"t": {"tls": {"cert": "c"}}}
    )
    assert compile_config(base, [], None) == {
        ("", "n.pool.size"): (5, "default", False),
        ("t", "n.tls.cert"): ("c", "tenants.t", False),
        ("t", "n.tls.verify"): (True, "default", False),
    }


def test_defaults_that_double_without_end_are_refused() -> None:
    two = {"l": {"$ref": "#/$defs/a"}, "r": {"$ref": "#/$defs/a"}}
    steps: dict[str, Any] = {"a": {"default": 1}}
    for level in range(40):
        name = f"a{level}"
        below = {"$ref": f"#/$defs/{f'a{level - 1}' if level else 'a'}"}
        steps[name] = {"properties": dict.fromkeys(two, below)}
    base = document(schema={"$defs": steps, "$ref": "#/$defs/a39"})
    with pytest.raises(ManifestInvalid, match="expected at most 20000 defaults, found more"):
        compile_config(base, [], None)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("database.url", "database.url"),
        (("ai", "models", "gpt-4.1"), "ai.models.gpt-4~11"),
        (("a", "", "~1", "\0"), "a..~01.~2"),
        ("a.~1", "a.~01"),
    ],
)
def test_a_path_is_keys_joined_by_dots_or_a_tuple(key: str | tuple[str, ...], path: str) -> None:
    assert path_of(key) == path


@given(st.lists(keys, min_size=1, max_size=4).map(tuple))
def test_a_path_reads_back_as_its_keys(path: tuple[str, ...]) -> None:
    assert decode_path(encode_path(path)) == path
    assert "\0" not in encode_path(path)


@given(trees)
def test_a_tree_is_its_leaves(tree: dict[str, Any]) -> None:
    assert unflatten(flatten(tree, ("n",))) == {"n": tree}


def test_leaves_that_contradict_each_other_are_refused() -> None:
    for contradiction in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a": {}, "a.b": 2}):
        with pytest.raises(ValueError, match="expected leaves only"):
            unflatten(contradiction)
    with pytest.raises(ValueError, match="expected a key"):
        flatten({})


@given(trees, trees, trees)
def test_a_merge_keeps_what_the_upper_layer_says(
    low: dict[str, Any], middle: dict[str, Any], high: dict[str, Any]
) -> None:
    before = repr((low, high))
    merged = merge(low, high)
    assert same(merge(merged, high), merged)
    assert same(merge(low, {}), low)
    assert same(merge({}, high), high)
    assert set(merged) == set(low) | set(high)
    assert all(same(merged[key], high[key]) for key in high if not isinstance(high[key], dict))
    assert all(same(merged[key], low[key]) for key in low if key not in high)
    assert same(merge(merge(low, middle), high), merge(merge(low, middle), merge(high, high)))
    assert repr((low, high)) == before


def test_defaults_that_never_end_are_refused() -> None:
    schema = {"properties": {"a": {"default": {"a": {}}, "$ref": "#"}}}
    with pytest.raises(ManifestInvalid, match="at most 64 levels of defaults"):
        compile_config(document(schema=schema), [], None)


def test_a_tenant_has_the_defaults_its_base_had_replaced() -> None:
    base = document(
        schema={"default": {"a": {"x": 0}}}, values={"a": 5}, tenants={"t": {"a": {"b": 1}}}
    )
    records = compile_config(base, [], None)
    assert same(view(records, "t"), {"a": {"x": 0, "b": 1}})
    assert same(view(records, BASE_TENANT), {"a": 5})


@given(
    schemas, layers, layers, st.lists(st.tuples(st.sampled_from("tu"), layers, layers), max_size=2)
)
def test_the_base_overlaid_with_a_tenants_records_is_the_tenants_whole_configuration(
    schema: dict[str, Any],
    values: dict[str, Any],
    production: dict[str, Any],
    tenants: list[tuple[str, dict[str, Any], dict[str, Any]]],
) -> None:
    base = document(
        schema=schema,
        values=values,
        environments={"production": production},
        tenants={tenant: block for tenant, block, _ in tenants},
    )
    own = {
        tenant: document(f"n@{tenant}", values=block, environments={"production": {"a": {"b": 1}}})
        for tenant, _, block in tenants
    }
    try:
        records = compile_config(base, own.values(), "production")
        whole = dict(merged_config(base, own.values(), "production"))
    except ManifestInvalid:
        reject()  # defaults without end
    assert list(records) == sorted(records)
    assert same(view(records, BASE_TENANT), whole.pop(BASE_TENANT))
    for tenant, tree in whole.items():
        assert same(view(records, tenant), tree)


@given(layers, layers, layers)
def test_without_a_schema_the_whole_is_the_merge_of_the_layers(
    values: dict[str, Any], production: dict[str, Any], tenant: dict[str, Any]
) -> None:
    base = document(values=values, environments={"production": production}, tenants={"t": tenant})
    whole = dict(merged_config(base, [], "production"))
    assert same(whole[BASE_TENANT], merge(values, production))
    assert same(whole["t"], merge(merge(values, production), tenant))


def test_reading_paths_loads_no_slow_module() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import importlib.util as u\n"
        "import control_plane.configs.layers\n"
        "slow = {'typing', 're', 'json', 'dataclasses', 'pathlib', 'collections.abc', 'inspect'}\n"
        "print(sorted((set(sys.modules) - before) & slow))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr, run.stdout.strip()) == (0, "", "[]")
