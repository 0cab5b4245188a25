"""Files whose parts rest on each other too often or too deep are refused part by part, and soon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.feature_flags.table import MAX_PREREQUISITES
from control_plane.manifests import launchdarkly
from control_plane.manifests.asking import after_asked
from control_plane.manifests.growthbook import import_growthbook
from control_plane.manifests.imported import Imported
from control_plane.manifests.launchdarkly import import_launchdarkly
from control_plane.manifests.loader import Document
from control_plane.manifests.unleash import import_unleash
from control_plane.testing import replica

DEEP = 1500


def growthbook(features: dict[str, Any], groups: dict[str, Any] | None = None) -> Imported:
    value: dict[str, Any] = {"features": features, "savedGroups": groups or {}}
    return import_growthbook(Document(value, "features.json", b"{}"))


def asking(name: str) -> dict[str, Any]:
    parents = [{"id": name, "condition": {"value": True}}]
    return {"defaultValue": True, "rules": [{"force": False, "parentConditions": parents}]}


def segment(key: str, *others: str) -> dict[str, Any]:
    clauses = [
        {"attribute": "", "op": "segmentMatch", "values": [other], "negate": False}
        for other in others
    ]
    rules = [{"clauses": [clause]} for clause in clauses]
    return {"key": key, "version": 1, "salt": "s", "included": ["u1"], "rules": rules}


def flag(key: str, *asked: str) -> dict[str, Any]:
    return {
        "key": key, "version": 1, "salt": "s", "on": True, "variations": [True, False],
        "fallthrough": {"variation": 0}, "offVariation": 1,
        "prerequisites": [{"key": other, "variation": 0} for other in asked],
    }  # fmt: skip


def segments(*found: dict[str, Any]) -> Imported:
    value: dict[str, Any] = {"flags": {}, "segments": {each["key"]: each for each in found}}
    return import_launchdarkly(Document(value, "flags.json", b"{}"))


def test_features_of_growthbook_may_ask_each_other_as_deep_as_flags_may() -> None:
    chain = {f"f{n}": asking(f"f{n + 1}") for n in range(MAX_PREREQUISITES - 1)}
    last = {f"f{MAX_PREREQUISITES - 1}": {"defaultValue": True}}
    found = growthbook({**chain, **last})
    assert (len(found.documents), found.problems) == (MAX_PREREQUISITES, ())


def test_a_chain_of_features_of_growthbook_without_end_is_refused() -> None:
    chain = {f"f{n}": asking(f"f{n + 1}") for n in range(DEEP)}
    found = growthbook({**chain, f"f{DEEP}": {"defaultValue": True}, "apart": asking(f"f{DEEP}")})
    texts = [problem.text for problem in found.problems]
    assert any("expected features that ask each other at most 64 deep" in text for text in texts)
    stay = {f"f{n}" for n in range(DEEP - MAX_PREREQUISITES + 1, DEEP + 1)}
    assert {document["name"] for document in found.documents} == {"apart", *stay}
    with replica(flags={each["name"]: each["metadata"] for each in found.documents}) as client:
        deepest = f"f{DEEP - MAX_PREREQUISITES + 1}"
        assert client.flags.evaluate(deepest, None, user_id="u").error_code is None


@pytest.mark.parametrize("field", ["filters", "parentConditions"])
def test_what_a_rule_of_growthbook_asks_is_bounded_before_it_is_put_together(field: str) -> None:
    asked = {
        "filters": [{"seed": str(n), "ranges": [[0, 0.5]]} for n in range(10_000)],
        "parentConditions": [{"id": f"p{n}", "condition": {"value": True}} for n in range(10_000)],
    }[field]
    others = {f"p{n}": {"defaultValue": n % 2 == 0} for n in range(10_000)}
    found = growthbook(others | {"f": {"defaultValue": 1, "rules": [{"force": 2, field: asked}]}})
    [problem] = found.problems
    assert problem.text == "flag f: expected at most 100 items, found 10000"
    assert problem.path == ("features", "f", "rules", 0, field)


def test_saved_groups_of_growthbook_that_double_are_refused_before_they_are_written_out() -> None:
    groups: dict[str, Any] = {"g0": {"type": "condition", "condition": {"a": 1}}}
    for number in range(1, 40):
        inner = {"$savedGroup": {"id": f"g{number - 1}"}}
        groups[f"g{number}"] = {"type": "condition", "condition": {"$or": [inner, inner]}}
    rule = {"force": False, "condition": {"$savedGroup": {"id": "g39"}}}
    found = growthbook({"f": {"defaultValue": True, "rules": [rule]}}, groups)
    [problem] = found.problems
    assert "expected at most 10000 conditions with saved groups written out" in problem.text


def unleash(count: int, *segments: int) -> Imported:
    """A feature that asks segments, the one there is of so many constraints."""
    constraints = [
        {"contextName": f"a{n}", "operator": "IN", "values": ["x"]} for n in range(count)
    ]
    strategy = {"name": "default", "parameters": {}, "segments": [*segments]}
    feature = {"name": "f", "type": "release", "enabled": True, "strategies": [strategy]}
    value = {
        "version": 2, "features": [feature], "segments": [{"id": 1, "constraints": constraints}],
    }  # fmt: skip
    return import_unleash(Document(value, "export.json", b"{}"))


def test_a_segment_of_unleash_that_is_asked_again_is_written_once() -> None:
    once, often = unleash(50, 1), unleash(50, *[1] * 200)
    assert once.problems == often.problems == ()
    assert once.documents == often.documents


def test_constraints_of_unleash_without_bound_are_refused_before_they_are_translated() -> None:
    [problem] = unleash(20_000, 1).problems
    assert "expected at most 1000 constraints in one strategy" in problem.text
    assert problem.path == ("features", 0, "strategies", 0)


def test_a_chain_of_segments_of_launchdarkly_without_end_is_refused() -> None:
    chain = [segment(f"s{n}", f"s{n + 1}") for n in range(DEEP)]
    found = segments(*chain, segment(f"s{DEEP}"))
    assert "expected segments at most 16 deep" in found.problems[0].text
    assert f"s{DEEP}" in [document["name"] for document in found.documents]


def test_segments_of_launchdarkly_that_double_are_refused_before_they_are_written_out() -> None:
    ring = [segment(f"s{n}", f"s{n + 1}", f"s{n + 1}") for n in range(15)]
    found = segments(*ring, segment("s15"))
    assert "expected at most 1000 segments in one" in found.problems[0].text


def test_flags_of_launchdarkly_in_a_long_ring_are_each_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[Any] = []

    def counted(metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
        looked.append(metadata)
        yield from asked(metadata)

    asked = launchdarkly._asked
    monkeypatch.setattr(launchdarkly, "_asked", counted)
    flags = {f"f{n}": flag(f"f{n}", f"f{(n + 1) % DEEP}") for n in range(DEEP)}
    flags["apart"] = flag("apart")
    found = import_launchdarkly(Document({"flags": flags}, "flags.json", b"{}"))
    assert [document["name"] for document in found.documents] == ["apart"]
    assert len(looked) == DEEP + 1
    texts = sorted(problem.text for problem in found.problems)
    assert texts[0] == "flag f0: expected to ask flag f1, found it refused"
    assert f"flag f{DEEP - 1}: expected to ask flag f0, found a ring" in texts


def test_rules_of_launchdarkly_with_one_id_get_numbers() -> None:
    clause = {"attribute": "plan", "op": "in", "values": ["pro"], "negate": False}
    rules = [{"id": "x" * 100, "variation": 1, "clauses": [clause]} for _ in range(30)]
    found = import_launchdarkly(Document({"flags": {"f": {**flag("f"), "rules": rules}}}, "f", b""))
    assert found.problems == ()
    names = [rule["name"] for rule in found.documents[0]["metadata"]["rules"]]
    assert names == ["x" * 100, *(f"{'x' * 100} ({n})" for n in range(2, 31))]


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, n - 1), max_size=4), min_size=n, max_size=n)
    )
)
def test_what_is_asked_comes_before_who_asks_it_but_in_a_ring(asks: list[list[int]]) -> None:
    def reached(start: int) -> set[int]:
        seen: set[int] = set()
        pending = list(asks[start])
        while pending:
            if (each := pending.pop()) not in seen:
                seen.add(each)
                pending.extend(asks[each])
        return seen

    before: set[int] = set()
    for part, back in after_asked(range(len(asks)), asks.__getitem__):
        assert part not in before
        assert {other for other in asks[part] if other not in before} == set(back)
        assert all(part in reached(other) for other in back)
        before.add(part)
    assert before == set(range(len(asks)))


def test_flags_of_launchdarkly_that_ask_deeper_than_an_evaluation_follows_are_refused() -> None:
    count = MAX_PREREQUISITES + 6
    flags: dict[str, Any] = {f"f{n}": flag(f"f{n}", f"f{n + 1}") for n in range(count - 1)}
    flags[f"f{count - 1}"] = flag(f"f{count - 1}")
    found = import_launchdarkly(Document({"flags": flags}, "flags.json", b"{}"))
    refused = sorted(problem.text.split(":")[0] for problem in found.problems)
    assert refused == [f"flag f{n}" for n in range(6)]
    assert "expected at most 64 flags that ask each other, found 65" in found.problems[0].text
    carried = {document["name"]: document["metadata"] for document in found.documents}
    with replica(flags=carried) as client:
        assert client.flags.evaluate("f6", None, user_id="u").error_code is None
