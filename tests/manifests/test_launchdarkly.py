"""LaunchDarkly's flag data as manifests: what each part becomes, and what is refused or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli.failures import run
from control_plane.manifests.imported import Imported
from control_plane.manifests.launchdarkly import MAPPING, import_launchdarkly
from control_plane.manifests.launchdarkly_clauses import LISTS, TIMES
from control_plane.manifests.loader import Document, load_file

FLAG: dict[str, Any] = {
    "key": "f", "version": 3, "on": True, "variations": [True, False], "offVariation": 1,
    "fallthrough": {"variation": 0}, "salt": "s1", "clientSide": True, "trackEvents": True,
    "clientSideAvailability": {"usingMobileKey": True, "usingEnvironmentId": True},
    "debugEventsUntilDate": None, "targets": [], "rules": [], "prerequisites": [], "sel": "x",
}  # fmt: skip


def imported(flags: Any = None, segments: Any = None, **how: Any) -> Imported:
    value = {
        "flags": {flag["key"]: flag for flag in flags or ()},
        "segments": {segment["key"]: segment for segment in segments or ()},
    }
    return import_launchdarkly(Document(value, "flags.json", b"{}"), **how)


def one(**flag: Any) -> dict[str, Any]:
    """The metadata that a flag becomes."""
    found = imported([{**FLAG, **flag}])
    assert found.problems == ()
    metadata: dict[str, Any] = found.documents[0]["metadata"]
    return metadata


def rule(*clauses: Any, **served: Any) -> dict[str, Any]:
    return {"rules": [{"id": "r", "clauses": list(clauses), **(served or {"variation": 0})}]}


def clause(op: str, *values: Any, attribute: str = "plan", **more: Any) -> dict[str, Any]:
    return {"attribute": attribute, "op": op, "values": list(values), "negate": False, **more}


def weighted(*weights: int, **more: Any) -> dict[str, Any]:
    variations = [{"variation": i, "weight": w} for i, w in enumerate(weights)]
    return {"rollout": {"variations": variations, **more}}


def test_a_flag_that_rests_on_nothing_is_its_default() -> None:
    assert one() == {"variants": {"on": True, "off": False}, "default": "on", "disabled": "off"}
    off = one(on=False, offVariation=None)
    assert (off["enabled"], off["disabled"]) == (False, None)


def test_targets_of_one_kind_are_overrides_and_those_of_several_rules() -> None:
    targets = [{"variation": 0, "values": ["a", "b"]}, {"variation": 1, "values": ["b", "c"]}]
    assert one(targets=targets)["overrides"] == {
        "targeting_key": {"a": "on", "b": "on", "c": "off"}
    }
    contexts = [
        {"contextKind": "org", "variation": 1, "values": ["o"]},
        {"contextKind": "user", "variation": 0, "values": []},
    ]
    found = one(targets=targets, contextTargets=contexts)
    assert "overrides" not in found
    assert found["rules"] == [
        {"name": "target-0", "when": {"org.key": "o"}, "serve": "off"},
        {"name": "target-1", "when": {"targeting_key": {"in": ["a", "b"]}}, "serve": "on"},
    ]


def test_a_rollout_is_a_split_and_a_seed_its_salt() -> None:
    found = one(fallthrough=weighted(40_000, 60_000))
    assert (found["bucketing"], found["salt"], found["default"]) == ("launchdarkly", "f.s1", None)
    split = [{"variant": "on", "weight": 40_000}, {"variant": "off", "weight": 60_000}]
    assert found["rules"] == [{"name": "fallthrough", "serve": split}]
    served = weighted(1, 99_999, kind="experiment", seed=61, bucketBy="plan", contextKind="org")
    (asked,) = one(**rule(clause("in", "pro"), **served))["rules"]
    # An experiment splits by the key, whatever bucketBy says.
    assert (asked["by"], asked["salt"], asked["when"]) == ("org.key", "61", {"plan": "pro"})


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((20, 30), (20, 99_980)), ((90_000, 20_000), (90_000, 10_000)), ((1, 0), (1, 99_999))],
)
def test_the_last_variation_has_what_the_weights_leave(
    weights: tuple[int, int], shares: tuple[int, int]
) -> None:
    (split,) = one(fallthrough=weighted(*weights))["rules"]
    assert tuple(entry["weight"] for entry in split["serve"]) == shares


@pytest.mark.parametrize(
    ("asked", "when"),
    [
        (clause("in", "a", "b"), {"plan": {"in": ["a", "b"]}}),
        (clause("in", "a", negate=True), {"plan": {"present": True}, "$not": {"plan": "a"}}),
        (clause("startsWith", "a", 5), {"plan": {"starts_with": "a"}}),
        (clause("lessThan", 5, 7), {"plan": {"lt": 7}}),
        (clause("greaterThanOrEqual", 5, 7), {"plan": {"gte": 5}}),
        (clause("semVerGreaterThan", "2.1", "3"), {"plan": {"semver": {"gt": "2.1.0"}}}),
        (clause("in", "x", attribute="/a/b~1c", contextKind="user"), {"a.b/c": "x"}),
        (clause("in", "x", attribute="/a", contextKind=""), {"/a": "x"}),
        (clause("in", "u", attribute="key"), {"targeting_key": "u"}),
        (clause("in", "org", attribute="kind"), {"org.key": {"present": True}}),
        (clause("in", "x", contextKind="org"), {"org.plan": "x"}),
        (clause("in", True, attribute="anonymous"),
         {"targeting_key": {"present": True}, "anonymous": True}),
        (clause("segmentMatch", "s", "gone"), {"$segment": "s"}),
    ],
)  # fmt: skip
def test_a_clause_is_a_condition(asked: dict[str, Any], when: dict[str, Any]) -> None:
    found = imported([{**FLAG, **rule(asked)}], [{"key": "s", "included": ["a"]}])
    assert found.problems == ()
    assert found.documents[-1]["metadata"]["rules"][0]["when"] == when


def test_who_fails_a_prerequisite_gets_the_off_variation_before_all_else() -> None:
    targets = [{"variation": 0, "values": ["a"]}]
    asking = {**FLAG, "prerequisites": [{"key": "p", "variation": 0}], "targets": targets}
    found = imported([{**FLAG, "key": "p"}, asking])
    assert found.documents[1]["metadata"]["rules"] == [
        {"name": "prerequisites", "when": {"$not": {"$flag": {"p": "on"}}}, "serve": "off"},
        {"name": "target-0", "when": {"targeting_key": "a"}, "serve": "on"},
    ]
    # Without one they get the caller's default, which no rule can serve: every rule asks.
    found = imported([{**FLAG, "key": "p"}, {**asking, "offVariation": None}])
    metadata = found.documents[1]["metadata"]
    assert metadata["default"] is None
    assert [each["when"]["$flag"] for each in metadata["rules"]] == [{"p": "on"}] * 2


def test_a_segment_lists_excludes_and_asks() -> None:
    segment = {
        "key": "s", "salt": "x", "included": ["a", "b"], "excluded": ["b", "c"],
        "rules": [{"clauses": [clause("in", "pro")], "weight": 25_000, "bucketBy": "plan"}],
    }  # fmt: skip
    (document,) = imported(segments=[segment]).documents
    bucket = {"range": [0, 0.25], "by": "plan", "salt": "s.x", "bucketing": "launchdarkly"}
    assert document == {
        "kind": "segment",
        "name": "s",
        "metadata": {
            "members": ["a", "b"],
            "exclude": ["c"],
            "rules": [{"name": "rule-0", "when": {"plan": "pro", "$bucket": bucket}}],
        },
    }
    many = [f"u{number}" for number in range(501)]
    (document,) = imported(segments=[{"key": "s", "included": many}]).documents
    assert document["metadata"] == {
        "rules": [{"name": "included", "when": {"targeting_key": {"in": many}}}]
    }


def test_a_value_alone_is_a_flag_that_serves_it() -> None:
    value = {"flagValues": {"simple": "yes", "on": True, "none": None}}
    found = import_launchdarkly(Document(value, "x", b"{}"))
    assert [each["metadata"]["default"] for each in found.documents] == ["yes", "on"]
    assert found.documents[0]["metadata"]["variants"]["yes"] == "yes"
    assert [problem.path for problem in found.problems] == [("flagValues", "none", "variations")]


def test_equal_variations_stay_apart() -> None:
    assert one(variations=["a", "a", "v1", "é"], offVariation=3)["variants"] == {
        "a": "a", "v1-": "a", "v1": "v1", "v3": "é",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "path", "said"),
    [
        ({"newThing": 1}, ("newThing",), "expected one of"),
        ({"variations": [1, "a"]}, ("variations",), "variations of one JSON type"),
        ({"offVariation": 2}, ("offVariation",), "the number of a variation, 0 to 1, found 2"),
        ({"fallthrough": {"variation": True}}, ("fallthrough", "variation"), "found True"),
        ({"fallthrough": {}}, ("fallthrough", "rollout"), "expected a mapping"),
        ({"fallthrough": None}, ("fallthrough",), "expected a mapping"),
        ({"fallthrough": weighted()}, ("fallthrough", "rollout", "variations"), "found none"),
        ({"fallthrough": weighted(-1, 2)},
         ("fallthrough", "rollout", "variations", 0, "weight"), "an integer from 0"),
        (rule(clause("matches", "^a")), ("rules", 0, "clauses", 0, "op"), "a regular expression"),
        (rule(clause("newOp", "a")), ("rules", 0, "clauses", 0, "op"), "found 'newOp'"),
        (rule(clause("in", [1])), ("rules", 0, "clauses", 0, "values"), "found list"),
        (rule(clause("contains", "")), ("rules", 0, "clauses", 0, "values"), "not empty"),
        (rule(clause("lessThan", 2**53)), ("rules", 0, "clauses", 0, "values"), "numbers below"),
        (rule(clause("in", "x", attribute="a.b")),
         ("rules", 0, "clauses", 0, "attribute"), "without '.'"),
        (rule(clause("in", "x", attribute="user_id")),
         ("rules", 0, "clauses", 0, "attribute"), "a name not taken"),
        (rule(clause("in", "x", attribute="org"), clause("in", "x", contextKind="org")),
         ("rules", 0, "clauses", 0, "attribute"), "a name not taken"),
        (rule(clause("startsWith", "x", attribute="groups")),
         ("rules", 0, "clauses", 0, "op"), "'in' for groups, a list"),
        ({"prerequisites": [{"key": "f", "variation": 0}]}, (), "to ask flag f, found a ring"),
        (rule(clause("segmentMatch", "big")), (), "expected to ask segment big, found it refused"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_with_its_place(
    flag: dict[str, Any], path: tuple[Any, ...], said: str
) -> None:
    big = {"key": "big", "unbounded": True, "generation": 1}
    found = imported([{**FLAG, **flag}], [big], lists=["groups"])
    assert found.documents == ()
    problem = found.problems[-1]
    assert problem.path == ("flags", "f", *path)
    assert problem.text.startswith("flag f: ")
    assert said in problem.text


def test_a_segment_that_asks_itself_is_refused() -> None:
    asks = [{"clauses": [clause("segmentMatch", "b")]}]
    back = [{"clauses": [clause("segmentMatch", "a")]}]
    found = imported(segments=[{"key": "a", "rules": asks}, {"key": "b", "rules": back}])
    assert [problem.text for problem in found.problems] == [
        f"segment {name}: expected segments without a ring, found {name!r} in itself"
        for name in "ab"
    ]


def test_what_differs_and_what_it_rests_on_is_told() -> None:
    found = imported([{**FLAG, **rule(clause("semVerEqual", "2.1"), clause("before", 1000))}])
    assert [change.path for change in found.changes] == [("flags", "f")]
    assert found.changes[0].text.startswith("flag f: a version that is not written in full")
    assert found.notes == (MAPPING, LISTS, TIMES)
    off = {**FLAG, "key": "p", "on": False}
    found = imported([off, {**FLAG, "prerequisites": [{"key": "p", "variation": 1}]}])
    assert any("who turns p on" in note for note in found.notes)


def test_keys_that_are_no_names_are_renamed_when_told_and_split_as_before() -> None:
    flags = [
        {**FLAG, "key": "newUI", "fallthrough": weighted(1, 1)},
        {**FLAG, "prerequisites": [{"key": "newUI", "variation": 0}]},
    ]
    found = imported(flags)
    assert [problem.text.partition(":")[0] for problem in found.problems] == [
        "flag newUI", "flag f"]  # fmt: skip
    found = imported(flags, rename=True)
    assert [each["name"] for each in found.documents] == ["newui", "f"]
    assert found.documents[0]["metadata"]["salt"] == "newUI.s1"
    assert "newui" in repr(found.documents[1]["metadata"]["rules"])
    twice = imported([{**FLAG, "key": "A"}, {**FLAG, "key": "a"}], rename=True)
    assert "found 'a' twice" in twice.problems[0].text


def test_deleted_flags_and_segments_are_left_out() -> None:
    gone = {"key": "gone", "version": 2, "deleted": True}
    assert imported([gone], [gone]).documents == ()


def test_the_command_writes_flags_and_segments_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = {**FLAG, **rule(clause("semVerEqual", "2.1"), clause("segmentMatch", "s"))}
    data = {"flags": {"f": flag}, "segments": {"s": {"key": "s", "included": ["a"]}}}
    file = tmp_path / "data.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    command = ["import", "launchdarkly", str(file), "--out", str(tmp_path / "m")]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert f"changed: {file}:1:" in said
    assert "note: a user's key is the targeting key" in said
    assert "2 files written, 0 as they were, 0 flags refused, 1 difference" in said
    segment = load_file(tmp_path / "m" / "segments" / "s.yaml").value
    assert segment["metadata"] == {"members": ["a"]}
    assert (tmp_path / "m" / "flags" / "f.yaml").is_file()
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["written"], len(told["changes"])) == (True, [], 1)
    data["flags"]["f"]["rules"][0]["clauses"].append(clause("matches", "^a"))
    file.write_text(json.dumps(data), encoding="utf-8")
    assert run(command) == 1
    assert "a regular expression cannot be said" in capsys.readouterr().err
