"""Which merged values move, for whom; and edits that are the smallest change of one layer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.configs.layers import Merged, flatten, same
from control_plane.configs.merged import ABSENT
from control_plane.errors import Refused
from control_plane.publish.config_edits import merged_tree, with_tree, with_value
from control_plane.publish.preflight import between, impact, spaces


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


def base(**values: Any) -> dict[str, Any]:
    return config("app", values=values, tenants={"acme": {"size": 80}, "globex": {"color": "red"}})


def test_a_tenant_that_overrides_what_moves_does_not_change() -> None:
    found = impact(spaces([base(size=5)]), spaces([base(size=6)]), "production")
    assert [(each.path, each.old, each.new) for each in found.base] == [("app.size", 5, 6)]
    assert [(each.tenant, each.count, each.shared) for each in found.tenants] == [("globex", 1, 1)]
    assert (found.known, found.empty) == (2, False)


def test_a_value_that_comes_hides_or_goes_has_one_side_only() -> None:
    before = spaces([config("app", values={"pool": {"size": 5}}, tenants={"acme": {"x": 1}})])
    after = spaces([config("app", values={"pool": {"size": 5}}, tenants={"acme": {"pool": 7}})])
    (acme,) = impact(before, after, None).tenants
    assert [each.to_json() for each in acme.own] == [
        {"key": "app.pool", "new": 7},
        {"key": "app.pool.size", "old": 5},
        {"key": "app.x", "old": 1},
    ]


def test_what_refers_to_a_changed_value_counts_across_namespaces() -> None:
    app = config("app", values={"url": "pg://${hosts.db}"})
    sides = [
        spaces([app, config("hosts", values={"db": name}, tenants={"acme": {"db": "own"}})])
        for name in ("a", "b")
    ]
    found = impact(sides[0], sides[1], "production")
    assert [each.path for each in found.base] == ["app.url", "hosts.db"]
    assert found.tenants == ()


def test_another_environments_block_moves_nothing() -> None:
    sides = [
        spaces([config("app", values={"a": 1}, environments={"staging": {"a": number}})])
        for number in (2, 3)
    ]
    assert impact(*sides, "production").empty
    assert not impact(*sides, "staging").empty


def test_the_bound_counts_tenants_and_names_its_cure() -> None:
    tenants = {f"t{number}": {"x": 1} for number in range(4_100)}
    before, after = (
        spaces([config("app", values={"size": number}, tenants=tenants)]) for number in (5, 6)
    )
    found = impact(before, after, "production")
    found.require_at_most(4_100)
    with pytest.raises(Refused, match=r"expected at most 50 tenants to change, found 4,100; pass"
                                      r" --yes-change 4100$"):  # fmt: skip
        found.require_at_most(50)


def test_two_tenants_are_compared_through_what_the_base_gives_them() -> None:
    side = spaces([base(size=5, color="blue")])
    assert [(each.path, each.old, each.new) for each in between(side, None, "acme", "globex")] == [
        ("app.color", "blue", "red"), ("app.size", 80, 5),
    ]  # fmt: skip
    assert [each.path for each in between(side, None, "", "acme")] == ["app.size"]


SCALARS = st.sampled_from([1, 2, True, None, "x", [1], {}])
KEYS = st.sampled_from(["a", "b", "c"])
TREES = st.dictionaries(
    KEYS, st.recursive(SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=3
)
TENANTS = st.dictionaries(st.sampled_from(["t", "u"]), TREES, max_size=2)
DOCUMENTS = st.builds(
    lambda values, production, tenants: config(
        "app", values=values, environments={"production": production}, tenants=tenants
    ),
    TREES, TREES, TENANTS,
)  # fmt: skip


@given(DOCUMENTS, DOCUMENTS)
def test_what_moves_is_what_whole_merges_of_each_tenant_say(one: Any, other: Any) -> None:
    before, after = spaces([one]), spaces([other])
    found = impact(before, after, "production")
    counts = {each.tenant: each.count for each in found.tenants}
    for tenant in ("", "t", "u"):
        trees = [Merged(each, [], "production").tree(tenant) for each in (one, other)]
        sides = [flatten(tree, ("app",)) for tree in trees]
        moved = [
            path
            for path in {*sides[0], *sides[1]}
            if not same(sides[0].get(path, ABSENT), sides[1].get(path, ABSENT))
        ]
        known = tenant in {*one["metadata"]["tenants"], *other["metadata"]["tenants"]}
        if tenant == "":
            assert sorted(moved) == [each.path for each in found.base]
        else:
            assert counts.get(tenant, 0) == (len(moved) if known else 0)


@given(DOCUMENTS, TREES, st.sampled_from(["", "t"]))
def test_an_edit_gives_the_wanted_values_or_is_refused(
    document: Any, wanted: Any, tenant: str
) -> None:
    documents = (document, [])
    try:
        made = with_tree(documents, "app", wanted, "production", tenant)
    except Refused:
        return
    after = (made or document, [])
    assert same(Merged(*after, "production").tree(tenant), wanted)
    assert made is None or made["metadata"]["values"] == document["metadata"]["values"]
    if made is not None and tenant:
        assert merged_tree(after, "production", "") == merged_tree(documents, "production", "")


def test_an_edit_of_an_appended_list_holds_what_comes_after_the_layers_below() -> None:
    document = config(
        "app", values={"plugins": ["core"]}, tenants={"t": {"plugins": ["a"]}},
        lists={"plugins": "append"},
    )  # fmt: skip
    made = with_tree((document, []), "app", {"plugins": ["core", "b"]}, "production", "t")
    assert made is not None
    assert made["metadata"]["tenants"] == {"t": {"plugins": ["b"]}}
    with pytest.raises(Refused, match=r"app.plugins: expected another list to come after in"):
        with_tree((document, []), "app", {"plugins": ["b"]}, "production", "t")


def test_a_key_that_goes_takes_the_mappings_that_only_led_to_it() -> None:
    document = config("app", values={"a": 1}, environments={"production": {"b": {"c": {"d": 1}}}})
    made = with_tree((document, []), "app", {"a": 1}, "production", "")
    assert made is not None
    assert made["metadata"]["environments"] == {"production": {}}


def test_a_value_is_set_in_the_highest_layer_and_the_document_given_stays() -> None:
    document = base(size=5)
    own = config("app@acme", values={"size": 90})
    made = with_value((document, [own]), ("app", "size"), 91, "production", "acme")
    assert made["metadata"] == {
        "values": {"size": 90},
        "environments": {"production": {"size": 91}},
    }
    assert own["metadata"] == {"values": {"size": 90}}
