"""What becomes of GrowthBook's features, each of its parts by one feature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ManifestInvalid
from control_plane.manifests.growthbook import import_growthbook
from control_plane.manifests.imported import Imported
from control_plane.manifests.loader import load_file

BOOLEANS = {"on": True, "off": False}


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    def run(features: Any, groups: Any = None, **options: Any) -> Imported:
        path = tmp_path / "features.json"
        value = {"status": 200, "features": features, "savedGroups": groups or {}}
        path.write_text(json.dumps(value), encoding="utf-8")
        return import_growthbook(load_file(path), **options)

    return run


def rules(found: Imported) -> Any:
    assert found.problems == ()
    return found.documents[-1]["metadata"]["rules"]


def feature(*rules: Any, default: Any = False) -> dict[str, Any]:
    return {"defaultValue": default, "rules": list(rules)}


def test_an_experiment_that_fills_the_range_is_a_split(imported: Any) -> None:
    experiment = {
        "id": "exp_1", "key": "checkout", "variations": ["red", "green", "blue"],
        "weights": [0.5, 0.25, 0.25], "hashVersion": 2, "condition": {"plan": "pro"},
    }  # fmt: skip
    found = imported({"button": feature(experiment, default="red")})
    assert found.changes == ()
    assert found.documents == (
        {
            "kind": "flag",
            "name": "button",
            "metadata": {
                "variants": {"red": "red", "green": "green", "blue": "blue"},
                "default": "red",
                "disabled": None,
                "rules": [
                    {
                        "name": "exp_1",
                        "when": {"plan": "pro"},
                        "serve": [
                            {"variant": "red", "weight": 50},
                            {"variant": "green", "weight": 25},
                            {"variant": "blue", "weight": 25},
                        ],
                        "by": "id",
                        "salt": "checkout",
                    }
                ],
                "bucketing": "growthbook-v2",
            },
        },
    )


def test_an_experiment_with_gaps_has_a_rule_for_each_variation(imported: Any) -> None:
    experiment = {"variations": [False, True], "coverage": 0.5, "namespace": ["ns", 0, 0.4],
                  "hashVersion": 2}  # fmt: skip
    namespace = {
        "range": [0, 0.4],
        "by": "id",
        "salt": "__ns",
        "bucketing": "growthbook-v1",
    }
    assert rules(imported({"new": feature(experiment)})) == [
        {
            "name": f"rule 1, {variant}",
            "when": {
                "$all": [{"$bucket": namespace}, {"$bucket": {"range": part, "by": "id"}}],
            },
            "serve": variant,
        }
        for variant, part in (("off", [0, 0.25]), ("on", [0.5, 0.75]))
    ]


def test_a_force_rule_falls_back_to_the_other_attribute(imported: Any) -> None:
    rule = {"force": True, "coverage": 0.1, "hashAttribute": "user", "fallbackAttribute": "device"}
    part = {"range": [0, 0.1]}
    assert rules(imported({"new": feature(rule)}))[0]["when"] == {
        "$any": [
            {"$bucket": {**part, "by": "user"}},
            {
                "$not": {"user": {"not_in": ["", 0, True, False]}},
                "$bucket": {**part, "by": "device"},
            },
        ]
    }


def test_a_gate_ends_the_feature_without_a_value(imported: Any) -> None:
    gate = {"parentConditions": [{"id": "base", "condition": {"value": True}, "gate": True}]}
    found = imported({"base": feature(), "new": feature(gate, {"force": True}, default=False)})
    metadata = found.documents[1]["metadata"]
    asked = {"$flag": {"base": "on"}}
    assert metadata["default"] is None
    assert metadata["rules"] == [
        {"name": "rule 2", "when": asked, "serve": "on"},
        {"name": "default", "when": asked, "serve": "off"},
    ]


def test_negations_hold_for_what_is_absent(imported: Any) -> None:
    condition = {"country": {"$ne": "DE"}, "plan": {"$nin": ["free"]}, "team": None}
    rule = {"condition": condition, "force": True}
    assert rules(imported({"new": feature(rule)}))[0]["when"] == {
        "$all": [
            {"$not": {"country": "DE"}},
            {"$not": {"plan": {"in": ["free"]}}},
            {"$not": {"team": {"present": True}}},
        ]
    }


def test_in_looks_into_the_lists_it_is_told_of(imported: Any) -> None:
    rule = {"condition": {"tags": {"$inGroup": "vip"}}, "force": True}
    groups = {"vip": ["a", 7]}
    plain = imported({"new": feature(rule)}, groups)
    assert rules(plain)[0]["when"] == {"tags": {"in": ["a", 7]}}
    assert plain.changes == ()
    listed = imported({"new": feature(rule)}, groups, lists=["tags"])
    assert rules(listed)[0]["when"]["$any"][1] == {
        "tags": {"contains": "a"},
        "$not": {"tags": {"not_in": [True, False]}},
    }
    assert [change.path for change in listed.changes] == [("features", "new")]
    assert "a list matches by its texts alone" in listed.changes[0].text


def test_versions_and_sticky_buckets_are_stated_as_changes(imported: Any) -> None:
    version = {"condition": {"app": {"$vgte": "1.2.0"}}, "force": True}
    sticky = {"variations": [True, False], "fallbackAttribute": "device"}
    found = imported({"one": feature(version), "two": feature(sticky)})
    assert [change.text.split(":")[0] for change in found.changes] == ["flag one", "flag two"]
    assert "Semantic Versioning" in found.changes[0].text
    assert "not sticky" in found.changes[1].text


def test_a_key_that_is_no_name_keeps_its_buckets(imported: Any) -> None:
    value = {"newUI": feature({"force": True, "coverage": 0.5})}
    refused = imported(value)
    assert "--rename has it as newui" in refused.problems[0].text
    renamed = imported(value, rename=True).documents[0]
    assert (renamed["name"], renamed["metadata"]["salt"]) == ("newui", "newUI")


def test_a_feature_with_one_value_gets_a_variant_nothing_serves(imported: Any) -> None:
    found = imported({"motto": {"defaultValue": "be kind"}, "always": {"defaultValue": True}})
    assert [each["metadata"]["variants"] for each in found.documents] == [
        {"v1": "be kind", "unused": ""},
        {"on": True, "off": False},
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"condition": {"a": {"$regex": "x"}}, "force": True}, "a word that rules have"),
    ({"condition": {"a": {"$size": 1}}, "force": True}, "a word that rules have"),
    ({"condition": {"a": {"$gt": "m"}}, "force": True}, "order of texts"),
    ({"condition": {"a": ["x"]}, "force": True}, "mapping of words"),
    ({"condition": {"a": {"$veq": "1.2"}}, "force": True}, "Semantic Version"),
    ({"condition": {"a": {"$inGroup": "gone"}}, "force": True}, "saved group that is in the file"),
    ({"condition": {"a.0": 1}, "force": True}, "a list's place"),
    ({"condition": {"targetingKey": "x"}, "force": True}, "other than the targeting key"),
    ({"condition": {"$where": 1}, "force": True}, "an attribute, $and"),
    ({"variations": [True, None]}, "a value"),
    ({"force": "x"}, "values of one JSON type"),
    ({"force": True, "coverage": 0.5, "hashVersion": 3}, "hash version 1 or 2"),
    ({"force": True, "coverage": 0.5, "hashAttribute": "a.b"}, "no dots"),
    ({"contextualBanditRef": "cb"}, "one of"),
    ({"force": True, "parentConditions": [{"id": "gone"}]}, "a feature that is in the file"),
    ({"force": True, "parentConditions": [{"id": "new"}]}, "in a ring"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "expected"), REFUSED, ids=[str(each[0])[:60] for each in REFUSED])
def test_what_cannot_be_said_is_refused(imported: Any, rule: Any, expected: str) -> None:
    found = imported({"new": feature(rule), "fine": feature()})
    assert [document["name"] for document in found.documents] == ["fine"]
    assert len(found.problems) == 1
    assert found.problems[0].text.startswith("flag new: expected ")
    assert expected in found.problems[0].text
    assert found.problems[0].path[:2] == ("features", "new")


def test_features_in_a_ring_and_those_that_rest_on_them_are_refused(imported: Any) -> None:
    def asks(other: str) -> Any:
        parent = {"id": other, "condition": {"value": True}}
        return feature({"parentConditions": [parent], "force": True})

    found = imported({"a": asks("b"), "b": asks("a"), "c": asks("a"), "d": feature()})
    assert [document["name"] for document in found.documents] == ["d"]
    assert {problem.path[1] for problem in found.problems} == {"a", "b", "c"}


@pytest.mark.parametrize(
    "value", [{}, {"features": []}, {"features": {}, "flags": {}}, {"encryptedFeatures": "x"}]
)
def test_another_file_is_refused_as_a_whole(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "features.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ManifestInvalid, match="GrowthBook features: expected "):
        import_growthbook(load_file(path))
