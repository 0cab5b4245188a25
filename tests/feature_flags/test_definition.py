"""What a flag may hold: each refusal names the place."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.compile import check_flag

GOOD: dict[str, Any] = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "enabled": True,
    "disabled": "off",
    "overrides": {"tenant_id": {"acme": "on"}},
    "rules": [
        {
            "name": "pilot",
            "when": {
                "tenant_id": {"in": ["acme", 1, True]},
                "user.plan": "pro",
                "$segment": "beta",
            },
            "serve": "on",
        },
        {
            "name": "rollout",
            "serve": [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}],
            "by": "tenant_id",
        },
    ],
    "bucketing": "xxh3-v1",
    "salt": "pepper",
}
WORDS: dict[str, Any] = {
    "name": "words",
    "from": "2026-01-01T00:00:00Z",
    "until": "2026-02-01T00:00:00.5+01:00",
    "salt": "words-2",
    "when": {
        "plan": {"in": ["pro", 1], "not_in": [True]},
        "age": {"gt": 1, "gte": 2, "lt": 80.5, "lte": 80},
        "mail": {"starts_with": "a", "ends_with": [".org", ".com"], "contains": "@"},
        "version": {"semver": {"eq": "1.0.0", "gte": "1.0.0-rc.1", "lt": "2.0.0+build"}},
        "born": {"before": "2026-01-01T00:00:00Z", "after": "1970-01-01T00:00:00Z"},
        "city": {"present": True},
        "$segment": "beta",
        "$flag": {"base": "on", "other": ["a", "b"]},
        "$not": {"country": "DE"},
        "$any": [{"a": 1}, {"$all": [{"b": 2}, {"$not": {"c": 3}}]}],
        "$all": [{"d": 4}],
    },
    "serve": "on",
}
GOOD["rules"].append(WORDS)
# Places inside the rule of every word, and what each of them refuses.
BROKEN_WORDS: dict[tuple[str | int, ...], list[Any]] = {
    ("from",): ["2026-01-01", "2026-01-01T00:00:00", 0, None, "2026-13-01T00:00:00Z"],
    ("until",): ["2025-01-01T00:00:00Z", WORDS["from"], "soon"],
    ("salt",): ["", 7],
    ("when", "plan", "in"): [None, "pro", [None], [[1]], {}],
    ("when", "plan", "not_in"): [None, "pro", [{}]],
    ("when", "age", "gt"): ["1", True, None, [1]],
    ("when", "age", "lte"): ["1", False],
    ("when", "mail", "starts_with"): ["", [], [""], 1, None, ["a", 1]],
    ("when", "mail", "contains"): ["", {}, "\ud800"],
    ("when", "version", "semver"): [{}, ">=1.0.0", {"ge": "1.0.0"}, {"eq": "1.0"}, {"eq": 1.0}],
    ("when", "born", "before"): ["2026-01-01", "2026-01-01 00:00", 0, "2026-W01-1T00:00:00Z"],
    ("when", "city", "present"): ["yes", 1, None],
    ("when", "city"): [{}, {"matches": ".*"}, None, ["x"]],
    ("when", "$segment"): [["beta"], "", None],
    ("when", "$flag"): [{}, "base", {"base": []}, {"base": True}, {"": "on"}, {"base": [1]}],
    ("when", "$not"): [{}, [], None, {"$not": {}}],
    ("when", "$any"): [{}, [], [{}], [None], [{"a": None}]],
    ("when", "$most"): [[{"a": 1}]],
}

CHANGES: list[tuple[tuple[str | int, ...], Any]] = [
    (("variants",), {"on": True}),
    (("variants",), {f"v{n}": n for n in range(21)}),
    (("variants", "off"), 0),
    (("variants", "off"), None),
    (("default",), "maybe"),
    (("default",), 7),
    (("disabled",), "maybe"),
    (("enabled",), "yes"),
    (("enabled",), 1),
    (("overrides",), ["acme"]),
    (("overrides", "tenant_id"), ["acme"]),
    (("overrides", "tenant_id", "acme"), "maybe"),
    (("overrides", "a..b"), {"x": "on"}),
    (("rules",), {}),
    (("rules", 0), "pilot"),
    (("rules", 0, "name"), ""),
    (("rules", 1, "name"), "pilot"),
    (("rules", 0, "until"), "2030-01-01"),
    (("rules", 0, "serve"), "maybe"),
    (("rules", 0, "serve"), ["on"]),
    (("rules", 0, "serve"), [{"variant": "on", "weight": 1}]),
    (("rules", 0, "when"), ["plan"]),
    (("rules", 0, "when", "plan"), None),
    (("rules", 0, "when", "plan"), ["pro"]),
    (("rules", 0, "when", "plan"), {}),
    (("rules", 0, "when", "plan", "in"), "pro"),
    (("rules", 0, "when", "plan", "in", 0), None),
    (("rules", 0, "when", "plan", "matches"), ".*"),
    (("rules", 0, "when", "$segment"), ["beta"]),
    (("rules", 0, "when", ".".join("abcdefghijklmnopq")), 1),
    (("rules", 1, "by"), "$segment"),
    (("rules", 1, "serve", 0, "weight"), -1),
    (("rules", 1, "serve", 0, "weight"), 2.5),
    (("rules", 1, "serve", 0, "weight"), True),
    (("rules", 1, "serve", 0, "variant"), "maybe"),
    (("rules", 1, "serve", 0, "salt"), "x"),
    (("bucketing",), "flagd-v1"),
    (("salt",), ""),
    (("salt",), "\ud800"),
    (("targeting",), {}),
]


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    flag = copy.deepcopy(GOOD)
    place: Any = flag
    for step in path[:-1]:
        if isinstance(place, dict):
            place.setdefault(step, [None] if path[-1] == 0 and step == "in" else {})
        place = place[step]
    place[path[-1]] = value
    return flag


def test_a_flag_with_every_field_is_accepted() -> None:
    check_flag(GOOD)


@pytest.mark.parametrize(("path", "value"), CHANGES, ids=lambda case: str(case)[:40])
def test_what_breaks_a_rule_is_refused_with_its_place(
    path: tuple[str | int, ...], value: Any
) -> None:
    with pytest.raises(ManifestInvalid) as refused:
        check_flag(changed(path, value))
    depth = min(len(path), len(refused.value.path))
    assert refused.value.path[:depth] == path[:depth]
    assert str(refused.value).startswith(".".join(map(str, refused.value.path)) + ": expected ")


@pytest.mark.parametrize("place", BROKEN_WORDS, ids=lambda place: ".".join(map(str, place)))
def test_what_breaks_a_word_is_refused_with_its_place(place: tuple[str | int, ...]) -> None:
    path = "rules", GOOD["rules"].index(WORDS), *place
    for value in BROKEN_WORDS[place]:
        with pytest.raises(ManifestInvalid) as refused:
            check_flag(changed(path, value))
        assert refused.value.path[: len(path)] == path, value
        assert str(refused.value).startswith(".".join(map(str, refused.value.path)) + ": expected ")


def test_conditions_nest_sixteen_deep_and_no_deeper() -> None:
    when: dict[str, Any] = {"a": 1}
    for _ in range(16):
        when = {"$not": when}
    check_flag(changed(("rules", 0, "when"), when))
    with pytest.raises(ManifestInvalid, match="nested at most 16 deep"):
        check_flag(changed(("rules", 0, "when"), {"$any": [when]}))


@pytest.mark.parametrize("weights", [(0, 0), (1 << 30, 1 << 30), (1 << 31, 0)])
def test_weights_with_a_sum_out_of_bounds_are_refused(weights: tuple[int, int]) -> None:
    flag = changed(("rules", 1, "serve", 0, "weight"), weights[0])
    flag["rules"][1]["serve"][1]["weight"] = weights[1]
    with pytest.raises(ManifestInvalid, match=r"rules\.1\.serve: expected weights"):
        check_flag(flag)


@pytest.mark.parametrize("variants", [{"a": "x", "b": "y"}, {"a": True, "b": True}])
def test_disabled_is_required_where_no_single_variant_is_false(variants: dict[str, Any]) -> None:
    with pytest.raises(ManifestInvalid) as refused:
        check_flag({"variants": variants, "default": "a"})
    assert refused.value.path == ("disabled",)
    check_flag({"variants": variants, "default": "a", "disabled": "b"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.data())
def test_any_document_is_accepted_or_refused_and_nothing_else(data: st.DataObject) -> None:
    flag: Any = copy.deepcopy(GOOD)
    place: Any = flag
    while isinstance(place, (dict, list)) and place and data.draw(st.booleans()):
        steps = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        step = data.draw(st.sampled_from(steps))
        if data.draw(st.booleans()):
            place[step] = data.draw(JSON)
            break
        place = place[step]
    with suppress(ManifestInvalid):
        check_flag(flag)
