"""Advice about documents that are allowed and probably not meant."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cli.linting import known_of
from control_plane.manifests.linting import Known, asked_flags, lint, rings
from control_plane.manifests.validation import validate

CONTEXT = {
    "type": "object",
    "properties": {
        "plan": {"type": "string", "enum": ["free", "pro", "enterprise"]},
        "age": {"type": "integer"},
        "user": {"type": "object", "properties": {"country": {"type": "string"}}},
    },
}
KNOWN = Known(
    now=1_780_000_000.0, flags={"base": ["on", "off"], "other": None}, segments=["beta"],
    context=CONTEXT,
)  # fmt: skip
SPLIT = [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}]


def flag(*rules: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    named = [{"name": f"r{index}", "serve": "on", **rule} for index, rule in enumerate(rules)]
    base = {"variants": {"on": True, "off": False}, "default": "off", "rules": named}
    return {"kind": "flag", "name": "x", "metadata": {**base, **metadata}}


def said(document: dict[str, Any], environment: str | None = None) -> list[str]:
    validate(document)
    return [str(advice) for advice in lint(document, KNOWN, environment)]


SOUND = [
    flag(),
    flag({"when": {"plan": "pro"}}, {"when": {"plan": "free"}}, {"serve": SPLIT}),
    flag({"serve": SPLIT}, {"serve": "off"}),
    flag({"serve": SPLIT, "by": "tenant_id"}, {"serve": SPLIT, "by": "user_id"}),
    flag({"when": {"plan": "pro", "age": 3}}, {"when": {"plan": "pro"}}),
    flag(
        {"when": {"$bucket": {"range": [0, 0.5]}}, "salt": "a"},
        {"when": {"$bucket": {"range": [0, 0.5]}}, "salt": "b"},
    ),
    flag({"until": "2030-01-01T00:00:00Z"}, {}),
    flag({"when": {"$segment": "beta", "$flag": {"base": "on", "other": "any"}}}),
    flag({"when": {"user.country": "DE", "age": {"gte": 18, "lt": 65}}}),
    flag({"when": {"user_id": "u1", "tenant_id": {"in": ["a"]}, "targetingKey": "k"}}),
]


COLOURS: dict[str, Any] = {
    "variants": {"red": "r", "blue": "b"}, "default": "red", "disabled": "red",
}  # fmt: skip


def test_a_variant_that_one_environment_serves_is_no_unused_one() -> None:
    launch = {"rules": [{"name": "launch", "serve": "blue"}]}
    ruled = {"when": {"plan": "pro"}, "serve": "red"}
    document = flag(ruled, **COLOURS, environments={"staging": launch, "production": {}})
    assert said(document) == []
    assert any("blue unused" in sentence for sentence in said(document, "production"))
    assert any("blue unused" in sentence for sentence in said(flag(ruled, **COLOURS)))
    # A flag without rules is operated by its default.
    assert said(flag(**COLOURS)) == []


def test_a_variant_that_an_environment_adds_may_be_asked_for() -> None:
    added = {"staging": {"variants": {"green": "g"}, "default": "green"}}
    asked = flag(**COLOURS, environments=added) | {"name": "asked"}
    asking = flag({"when": {"$flag": {"asked": "green"}}})
    assert lint(asking, known_of([asked, asking], None)) == []
    wrong = flag({"when": {"$flag": {"asked": "white"}}})
    assert "white" in str(lint(wrong, known_of([asked, wrong], None))[0])


@pytest.mark.parametrize("document", SOUND)
def test_nothing_is_said_about_what_is_meant(document: dict[str, Any]) -> None:
    assert said(document) == []


ADVICE = {
    "behind a rule for everybody": (
        flag({}, {"when": {"plan": "pro"}}),
        "flag/x: expected a rule that can be reached, found rule r0 before it, which matches always"
        " at metadata.rules[1]",
    ),
    "behind a wider rule": (
        flag({"when": {"plan": "pro"}}, {"when": {"age": 3, "plan": "pro"}}),
        "flag/x: expected a rule that can be reached, found rule r0 before it, which matches"
        " whenever this one does at metadata.rules[1]",
    ),
    "behind the same split": (
        flag({"serve": SPLIT, "by": "tenant_id"}, {"serve": SPLIT, "by": "tenant_id"}),
        "flag/x: expected a rule that can be reached, found rule r0 before it, which matches always"
        " at metadata.rules[1]",
    ),
    "over": (
        flag({"until": "2020-01-01T00:00:00Z"}),
        "flag/x: expected a schedule to come, found one that is over at metadata.rules[0].until",
    ),
    "empty range": (
        flag({"when": {"age": {"gt": 5, "lte": 5}}}),
        "flag/x: expected a range with numbers in it, found none for age at metadata.rules[0].when",
    ),
    "weight 0": (
        flag({"serve": [*SPLIT, {"variant": "on", "weight": 0}]}),
        "flag/x: expected weights above 0, found 0 for on at metadata.rules[0].serve",
    ),
    "undivided": (
        flag({"serve": [{"variant": "on", "weight": 0}, {"variant": "off", "weight": 9}]}),
        "flag/x: expected weights that divide, found everything for off at metadata.rules[0].serve",
    ),
    "unused variant": (
        flag(variants={"on": "a", "off": "b", "old": "c"}, disabled="off", rules=[
            {"name": "r", "serve": "on"}]),
        "flag/x: expected a variant that is served, found old unused at metadata.variants.old",
    ),
    "attribute of a range": (
        flag({"when": {"$bucket": {"range": [0, 0.5], "by": "pla"}}}),
        "flag/x: expected an attribute the context declares, found pla; did you mean plan?"
        " at metadata.rules[0].when",
    ),
    "unknown segment": (
        flag({"when": {"$not": {"$segment": "betas"}}}),
        "flag/x: expected a segment that is published, found none called betas; did you mean beta?"
        " at metadata.rules[0].when",
    ),
    "unknown flag": (
        flag({"when": {"$any": [{"$flag": {"bass": "on"}}]}}),
        "flag/x: expected a flag that is published, found none called bass; did you mean base?"
        " at metadata.rules[0].when",
    ),
    "unknown variant": (
        flag({"when": {"$flag": {"base": "maybe"}}}),
        "flag/x: expected a variant of flag base (on, off), found maybe at metadata.rules[0].when",
    ),
    "misspelt attribute": (
        flag({"when": {"paln": {"present": True}}}),
        "flag/x: expected an attribute the context declares, found paln; did you mean plan?"
        " at metadata.rules[0].when",
    ),
    "misspelt inner attribute": (
        flag({"when": {"user.contry": "DE"}}),
        "flag/x: expected an attribute the context declares, found user.contry; did you mean"
        " user.country? at metadata.rules[0].when",
    ),
    "misspelt unit": (
        flag({"serve": SPLIT, "by": "aeg"}),
        "flag/x: expected an attribute the context declares, found aeg; did you mean age?"
        " at metadata.rules[0].by",
    ),
    "value outside the enum": (
        flag({"when": {"plan": {"in": ["pro", "entreprise"]}}}),
        "flag/x: expected a value that plan can have, found 'entreprise'; did you mean enterprise?"
        " at metadata.rules[0].when",
    ),
    "word of another type": (
        flag({"when": {"age": {"starts_with": "1"}}}),
        "flag/x: expected a word for age, a integer, found starts_with at metadata.rules[0].when",
    ),
    "value of another type": (
        flag({"when": {"age": "18"}}),
        "flag/x: expected a integer for age, found '18' at metadata.rules[0].when",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADVICE)
def test_advice_is_one_line_that_names_the_place(case: str) -> None:
    document, expected = ADVICE[case]
    assert said(document) == [expected]


def test_a_flag_is_looked_at_as_its_environments_see_it() -> None:
    document = flag(environments={"production": {"rules": [{"name": "r", "when": {"paln": "pro"},
                                                            "serve": "on"}]}})  # fmt: skip
    assert len(said(document)) == 1
    assert len(said(document, "production")) == 1
    assert said(document, "staging") == []


def test_a_segments_rules_are_looked_at_too() -> None:
    rules = [{"name": "r", "when": {"paln": "pro"}}]
    document = {"kind": "segment", "name": "s", "metadata": {"rules": rules}}
    assert [each.partition(":")[0] for each in said(document)] == ["segment/s"]
    document = {"kind": "segment", "name": "s", "metadata": {"members": ["a"]}}
    assert said(document) == []


def test_the_flags_asked_for_come_with_the_variants_named() -> None:
    document = flag({"when": {"$any": [{"$flag": {"a": "on"}}, {"$not": {"$flag": {"a": "off"}}}]}})
    assert asked_flags(document["metadata"]) == {"a": frozenset(("on", "off"))}


@given(st.dictionaries(st.integers(0, 8), st.sets(st.integers(0, 8), max_size=3)))
def test_a_ring_is_found_exactly_when_there_is_one(asks: dict[int, set[int]]) -> None:
    graph = {str(name): sorted(map(str, asked)) for name, asked in asks.items()}
    found = rings(sorted(graph), lambda name: graph.get(name, []))
    if found:
        assert found[0] == found[-1]
        assert all(two in graph[one] for one, two in pairwise(found))
        return
    # Without a ring, whoever asks nobody can be taken away until nobody is left.
    left = {name: set(asked) & graph.keys() for name, asked in graph.items()}
    while gone := {name for name in left if not left[name]}:
        left = {name: asked - gone for name, asked in left.items() if name not in gone}
    assert not left
