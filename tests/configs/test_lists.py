"""Lists replace the list below them, or come after it where the base's manifest says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from control_plane.configs import layers
from control_plane.configs.layers import compile_config, merged_config, same, unflatten
from control_plane.errors import ManifestInvalid
from control_plane.manifests.validation import validate


def document(name: str = "n", **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


def layered(**metadata: Any) -> dict[str, Any]:
    return document(
        values={"hosts": ["a"], "in": {"a.b": [1]}},
        environments={"production": {"hosts": ["b"]}},
        tenants={"acme": {"hosts": ["c"], "in": {"a.b": [2]}}},
        **metadata,
    )


OWN = document("n@acme", values={"hosts": ["d"]}, environments={"production": {"hosts": ["e"]}})


def test_a_list_replaces_the_list_below_it() -> None:
    whole = dict(merged_config(layered(), [OWN], "production"))
    assert (whole[""]["hosts"], whole["acme"]["hosts"]) == (["b"], ["e"])


def test_an_appended_list_holds_every_layers_items_in_order() -> None:
    base = layered(lists={"hosts": "append", "in.a~1b": "append"})
    whole = dict(merged_config(base, [OWN], "production"))
    assert whole[""] == {"hosts": ["a", "b"], "in": {"a.b": [1]}}
    assert whole["acme"] == {"hosts": ["a", "b", "c", "d", "e"], "in": {"a.b": [1, 2]}}
    records = compile_config(base, [OWN], "production")
    assert records["", "n.hosts"] == (["a", "b"], "environments.production", False)
    assert records["acme", "n.hosts"] == (["a", "b", "c", "d", "e"], "n@acme", False)
    assert records["acme", "n.in.a~1b"] == ([1, 2], "tenants.acme", False)


def test_a_default_is_the_lowest_list() -> None:
    schema = {"properties": {"hosts": {"default": ["core"]}}}
    base = layered(schema=schema, lists={"hosts": "append"})
    assert dict(merged_config(base, [], "production"))[""]["hosts"] == ["core", "a", "b"]
    bare = document(schema=schema, lists={"hosts": "append"}, tenants={"t": {"hosts": ["x"]}})
    assert compile_config(bare, [], None) == {
        ("", "n.hosts"): (["core"], "default", False),
        ("t", "n.hosts"): (["core", "x"], "tenants.t", False),
    }


@pytest.mark.parametrize("other", [None, 5, {}, {"x": 1}])
def test_what_is_no_list_replaces_and_is_replaced(other: Any) -> None:
    base = document(
        values={"l": [1]},
        environments={"production": {"l": other}},
        tenants={"t": {"l": [2]}},
        lists={"l": "append"},
    )
    whole = dict(merged_config(base, [], "production"))
    assert (whole[""]["l"], whole["t"]["l"]) == (other, [2])


def test_an_empty_list_adds_nothing_and_takes_nothing_away() -> None:
    base = document(values={"l": [1]}, tenants={"t": {"l": []}}, lists={"l": "append"})
    assert compile_config(base, [], None) == {("", "n.l"): ([1], "values", False)}


def test_lists_that_tenants_multiply_end_at_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers._Appending, "MAX_WEIGHT", 10_000)
    tenants = {f"t{number}": {"l": ["x"]} for number in range(10)}
    base = document(values={"l": ["x" * 1_000]}, tenants=tenants, lists={"l": "append"})
    with pytest.raises(ManifestInvalid, match="at most 10000 bytes of lists that are appended to"):
        compile_config(base, [], None)


@pytest.mark.parametrize(
    ("name", "lists", "problem"),
    [
        ("n", {"l": "prepend"}, 'expected one of ["append"], found "prepend"'),
        ("n", {"a~b": "append"}, "expected a path of keys, ~ written ~0 and a dot in a key ~1"),
        ("n", {"": "append"}, "expected keys that are 1 or more characters"),
        (
            "n@acme",
            {"l": "append"},
            "expected nothing here, found {",
        ),
    ],
)
def test_lists_are_asked_for_in_one_way(name: str, lists: Any, problem: str) -> None:
    with pytest.raises(ManifestInvalid) as refused:
        validate(document(name, values={}, lists=lists))
    assert problem in str(refused.value)


few = st.sampled_from("ab")
values = st.integers(0, 1) | st.lists(st.integers(0, 1), max_size=2) | st.none()
trees = st.recursive(
    st.dictionaries(few, values, max_size=2),
    lambda inner: st.dictionaries(few, values | inner, max_size=2),
    max_leaves=5,
)
schemas = st.recursive(
    st.fixed_dictionaries({}, optional={"default": trees | values}),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(few, inner, max_size=2)}, optional={"default": trees}
    ),
    max_leaves=4,
)
paths = st.sampled_from(["a", "b", "a.a", "a.b", "b.a.b"])


def view(records: dict[tuple[str, str], tuple[Any, str, bool]], tenant: str) -> Any:
    seen = {}
    for wanted in dict.fromkeys(("", tenant)):
        for (owner, path), (value, _, hidden) in records.items():
            if owner == wanted:
                seen[path] = value
                if hidden:
                    del seen[path]
    return unflatten(seen)["n"]


@given(schemas, trees, trees, trees, st.none() | trees, st.dictionaries(paths, st.just("append")))
def test_the_base_overlaid_with_a_tenants_records_is_the_tenants_whole_configuration(
    schema: Any, values: Any, production: Any, block: Any, own: Any, lists: Any
) -> None:
    base = document(
        schema=schema,
        values=values,
        environments={"production": production},
        tenants={"t": block},
        lists=lists,
    )
    manifests = [] if own is None else [document("n@t", values=own)]
    try:
        records = compile_config(base, manifests, "production")
        whole = dict(merged_config(base, manifests, "production"))
    except ManifestInvalid:
        reject()
    assert same(view(records, ""), whole[""])
    assert same(view(records, "t"), whole["t"])
