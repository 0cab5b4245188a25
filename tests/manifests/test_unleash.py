"""What becomes of Unleash's features, each of its parts by one feature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ManifestInvalid
from control_plane.manifests.imported import Imported
from control_plane.manifests.loader import load_file
from control_plane.manifests.unleash import import_unleash

ON_OFF = {"on": True, "off": False}
DEFAULT = {"name": "default"}
RED = {"name": "red", "weight": 700}
BLUE = {"name": "blue", "weight": 300}


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    def run(*features: Any, segments: Any = (), **options: Any) -> Imported:
        path = tmp_path / "features.json"
        value = {"version": 2, "features": list(features), "segments": list(segments)}
        path.write_text(json.dumps(value), encoding="utf-8")
        return import_unleash(load_file(path), **options)

    return run


def feature(*strategies: Any, name: str = "new", **fields: Any) -> dict[str, Any]:
    return {"name": name, "enabled": True, "strategies": list(strategies), **fields}


def rollout(share: str, stickiness: str = "userId", **fields: Any) -> dict[str, Any]:
    parameters = {"rollout": share, "stickiness": stickiness, "groupId": "new"}
    return {"name": "flexibleRollout", "parameters": parameters, **fields}


def constrained(operator: str, asked: Any, name: str = "plan", **fields: Any) -> dict[str, Any]:
    operand = {"values" if isinstance(asked, list) else "value": asked}
    constraint = {"contextName": name, "operator": operator, **operand, **fields}
    return {**DEFAULT, "constraints": [constraint]}


def rules(found: Imported, place: int = -1) -> Any:
    assert found.problems == ()
    return found.documents[place]["metadata"]["rules"]


def test_a_rollout_by_user_id_is_exact(imported: Any) -> None:
    found = imported(feature(rollout("25")))
    assert (found.problems, found.changes) == ((), ())
    assert found.documents == (
        {
            "kind": "flag",
            "name": "new",
            "metadata": {
                "variants": ON_OFF,
                "default": "off",
                "disabled": "off",
                "rules": [
                    {
                        "name": "1 flexibleRollout",
                        "when": {"$bucket": {"range": [0, 0.25], "by": "user_id"}},
                        "serve": "on",
                    }
                ],
                "bucketing": "unleash",
            },
        },
    )


def test_default_stickiness_is_stated_as_a_change(imported: Any) -> None:
    found = imported(feature(rollout("25", "default")))
    part = {"range": [0, 0.25]}
    assert rules(found)[0]["when"] == {
        "$any": [
            {"$bucket": {**part, "by": "user_id"}},
            {"$not": {"user_id": {"present": True}}, "$bucket": {**part, "by": "sessionId"}},
        ]
    }
    (change,) = found.changes
    assert change.path == ("features", 0)
    assert change.text.startswith("flag new: callers with neither a user id nor a sessionId")


@pytest.mark.parametrize("stickiness", ["default", "random"])
def test_all_or_nobody_needs_no_bucket(imported: Any, stickiness: str) -> None:
    everybody = imported(feature(rollout("100", stickiness))).documents[0]["metadata"]
    nobody = imported(feature(rollout("0", stickiness))).documents[0]["metadata"]
    assert (everybody["default"], nobody["default"]) == ("on", "off")
    assert "rules" not in everybody
    assert "rules" not in nobody


def test_a_feature_that_is_off_is_disabled(imported: Any) -> None:
    metadata = imported(feature(DEFAULT, enabled=False)).documents[0]["metadata"]
    assert (metadata["enabled"], metadata["disabled"]) == (False, "off")


CONSTRAINTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (constrained("IN", ["pro", "7"]), {"plan": {"in": ["pro", "7", 7]}}),
    (constrained("NOT_IN", ["pro"]), {"$not": {"plan": {"in": ["pro"]}}}),
    (constrained("IN", ["u"], "userId", inverted=True), {"$not": {"user_id": {"in": ["u"]}}}),
    (constrained("STR_CONTAINS", ["a", "b"]), {"plan": {"contains": ["a", "b"]}}),
    (constrained("STR_ENDS_WITH", ["-1"], caseInsensitive=True), {"plan": {"ends_with": "-1"}}),
    (constrained("NUM_GTE", "7.5"), {"plan": {"gte": 7.5}}),
    (constrained("NUM_EQ", "7"), {"plan": 7}),
    (constrained("SEMVER_LT", "1.2.0"), {"plan": {"semver": {"lt": "1.2.0"}}}),
    (
        constrained("DATE_AFTER", "2026-01-01T00:00:00Z", "since"),
        {"since": {"after": "2026-01-01T00:00:00Z"}},
    ),
    (
        {"name": "remoteAddress", "parameters": {"IPs": "10.0.0.1,10.0.0.2/31"}},
        {"remoteAddress": {"in": ["10.0.0.1", "10.0.0.2", "10.0.0.3"]}},
    ),
    ({"name": "userWithId", "parameters": {"userIds": "a, 7"}}, {"user_id": {"in": ["a", "7", 7]}}),
]


@pytest.mark.parametrize(("strategy", "when"), CONSTRAINTS, ids=[str(e[1]) for e in CONSTRAINTS])
def test_a_constraint_is_a_condition(imported: Any, strategy: Any, when: Any) -> None:
    found = imported(feature(strategy))
    assert rules(found) == [{"name": f"1 {strategy['name']}", "when": when, "serve": "on"}]
    assert found.changes == ()


def test_the_time_is_when_a_rule_is_asked(imported: Any) -> None:
    begin = {"contextName": "currentTime", "operator": "DATE_AFTER"}
    ending = {**begin, "inverted": True}
    constraints = [
        {**begin, "value": "2026-01-01T00:00:00Z"},
        {**begin, "value": "2026-02-01T00:00:00Z"},
        {**ending, "value": "2026-03-01T00:00:00Z"},
    ]
    assert rules(imported(feature({**DEFAULT, "constraints": constraints}))) == [
        {
            "name": "1 default",
            "from": "2026-02-01T00:00:00Z",
            "until": "2026-03-01T00:00:00Z",
            "serve": "on",
        }
    ]


def test_segments_add_their_constraints(imported: Any) -> None:
    asked = constrained("IN", ["DE"], "country")["constraints"]
    found = imported(
        feature({**DEFAULT, "segments": [3]}), segments=[{"id": 3, "constraints": asked}]
    )
    assert rules(found)[0]["when"] == {"country": {"in": ["DE"]}}


def test_variants_are_a_flag_of_their_own(imported: Any) -> None:
    variants = [
        {**RED, "stickiness": "userId", "payload": {"type": "number", "value": "1.5"}},
        {**BLUE, "stickiness": "userId", "payload": {"type": "number", "value": "2"},
         "overrides": [{"contextName": "plan", "values": ["pro"]}]},
    ]  # fmt: skip
    found = imported(feature(DEFAULT, variants=variants))
    assert [each["name"] for each in found.documents] == ["new", "new.variant"]
    split = [{"variant": "red", "weight": 700}, {"variant": "blue", "weight": 300}]
    assert found.documents[1]["metadata"] == {
        "variants": {"red": 1.5, "blue": 2},
        "default": None,
        "disabled": None,
        "rules": [
            {
                "name": "1 default, blue override 1",
                "when": {"plan": {"in": ["pro"]}},
                "serve": "blue",
            },
            {"name": "1 default", "serve": split, "by": "user_id"},
        ],
        "bucketing": "unleash",
        "salt": "new",
    }
    assert "callers without userId" in found.changes[0].text


def test_a_dependency_asks_for_the_feature_and_its_variant(imported: Any) -> None:
    parent = feature(DEFAULT, name="base", variants=[RED, BLUE])
    asked = [{"feature": "base", "variants": ["red"]}]
    found = imported(parent, feature(DEFAULT, dependencies=asked))
    assert rules(found)[0]["when"] == {
        "$flag": {"base": "on"},
        "$not": {"$flag": {"base.variant": "blue"}},
    }
    negated = [{"feature": "base", "enabled": False}]
    found = imported(parent, feature(DEFAULT, dependencies=negated))
    assert rules(found)[0]["when"] == {"$not": {"$flag": {"base": "on"}}}


def test_a_dependency_of_a_dependency_never_holds(imported: Any) -> None:
    found = imported(
        feature(name="a"),
        feature(name="b", dependencies=[{"feature": "a"}]),
        feature(name="c", dependencies=[{"feature": "b"}]),
    )
    assert "rules" not in found.documents[2]["metadata"]
    assert found.documents[2]["metadata"]["default"] == "off"


REFUSED: list[tuple[dict[str, Any], str]] = [
    (feature(rollout("50", "random")), "the same each time"),
    (feature(rollout("33.3")), "a whole number from 0 to 100"),
    (feature({"name": "mine"}), "a strategy that rules can say"),
    (feature({"name": "applicationHostname"}), "a strategy that rules can say"),
    (feature({"name": "remoteAddress", "parameters": {"IPs": "::1"}}), "IPv4"),
    (feature({"name": "remoteAddress", "parameters": {"IPs": "10.0.0.0/8"}}), "up to 256"),
    (feature(constrained("REGEX", "x")), "an operator that rules have"),
    (feature(constrained("STR_CONTAINS", ["a"], caseInsensitive=True)), "by their case"),
    (feature(constrained("STR_CONTAINS", [])), "one or more texts"),
    (feature(constrained("NUM_GT", "many")), "a number such as"),
    (feature(constrained("SEMVER_GT", "1.2")), "a version such as"),
    (feature(constrained("DATE_AFTER", "2026-01-01")), "a time such as"),
    (feature(constrained("IN", ["x"], "a.b")), "can be an attribute"),
    (feature(constrained("IN", ["x"], "targetingKey")), "can be an attribute"),
    (feature({**DEFAULT, "segments": [9]}), "a segment that is in the file"),
    (feature(DEFAULT, dependencies=[{"feature": "gone"}]), "a feature that is in the file"),
    (feature(DEFAULT, surprise=1), "one of"),
    (feature(DEFAULT, variants=[{**RED, "stickiness": "random"}, BLUE]), "the same each time"),
    (feature(DEFAULT, variants=[{"name": "a b", "weight": 1}]), "a name of letters"),
    (
        feature(DEFAULT, variants=[{**RED, "payload": {"type": "string", "value": "x"}}, BLUE]),
        "payloads of one JSON type",
    ),
]


@pytest.mark.parametrize(("value", "expected"), REFUSED, ids=[each[1] for each in REFUSED])
def test_what_cannot_be_said_is_refused(imported: Any, value: Any, expected: str) -> None:
    found = imported(feature(name="fine"), value)
    assert [document["name"] for document in found.documents] == ["fine"]
    (problem,) = found.problems
    assert problem.text.startswith("flag new: expected ")
    assert expected in problem.text
    assert problem.path[:2] == ("features", 1)


def test_a_number_that_is_asked_as_text_too_is_stated(imported: Any) -> None:
    found = imported(feature(constrained("NUM_GT", "5"), constrained("IN", ["7"])))
    assert "plan: it is compared as a number and as text" in found.changes[0].text


def test_a_rollout_without_group_that_another_feature_asks_is_stated(imported: Any) -> None:
    parent = feature(
        {"name": "flexibleRollout", "parameters": {"rollout": "5", "stickiness": "userId"}},
        name="base",
    )
    found = imported(parent, feature(DEFAULT, dependencies=[{"feature": "base"}]))
    assert [change.path for change in found.changes] == [("features", 1)]
    assert "a rollout without groupId" in found.changes[0].text


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"features": {}},
        {"features": [{"name": 1}]},
        {"features": [], "flags": []},
        {"features": [{"name": "a"}, {"name": "a"}]},
    ],
)
def test_another_file_is_refused_as_a_whole(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "features.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ManifestInvalid, match="Unleash features: expected "):
        import_unleash(load_file(path))
