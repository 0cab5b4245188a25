"""What the specification says of evaluations (sections 1.3, 1.4, 2.2), through the SDK's client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails

from control_plane.openfeature import ControlPlaneProvider
from control_plane.testing import ReplicaKit, replica
from openfeature import api

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}
TEMPLATE = {"images": True, "title": "Spring", "per_page": 100, "nested": {"tags": ["a", 1.5]}}


def of(default: str | None, **variants: Any) -> dict[str, Any]:
    return {"variants": variants, "default": default, "disabled": None}


def targeted(**variants: Any) -> dict[str, Any]:
    """Zero values for one mail address by rule, and for everybody else by default."""
    rule = {"name": "by-mail", "when": {"email": "ada@example.org"}, "serve": "zero"}
    return {**of("zero", **variants), "rules": [rule]}


FLAGS: dict[str, Any] = {
    "boolean": of("on", on=True, off=False),
    "string": of("greeting", greeting="hi", parting="bye"),
    "integer": of("ten", one=1, ten=10),
    "float": of("half", tenth=0.1, half=0.5),
    "object": of("template", empty={}, template=TEMPLATE),
    "array": of("some", none=[], some=[1, "two", {"three": [3]}]),
    "zero-boolean": of("zero", zero=False, other=True),
    "zero-string": of("zero", zero="", other="x"),
    "zero-integer": of("zero", zero=0, other=1),
    "zero-float": of("zero", zero=0.0, other=1.5),
    "targeted-boolean": targeted(zero=False, other=True),
    "targeted-string": targeted(zero="", other="x"),
    "targeted-integer": targeted(zero=0, other=1),
    "targeted-float": targeted(zero=0.0, other=1.5),
    "targeted-object": targeted(zero={}, other={"a": 1}),
    "disabled": {**of("on", on=True, off=False), "enabled": False},
    "switched-off": {**ON_OFF, "default": "on", "enabled": False},
    "null-default": of(None, a="a", b="b"),
    "broken": ON_OFF,
    "documented": {
        **ON_OFF,
        "flag_metadata": {"text": "1.0.2", "whole": 2, "part": 0.1, "sure": True},
    },
    "context-aware": {
        "variants": {"internal": "INTERNAL", "external": "EXTERNAL"},
        "default": "external",
        "disabled": "external",
        "rules": [
            {
                "name": "staff",
                "when": {
                    "name.first": "Sulisława",
                    "name.last": "Świętopełk",
                    "age": {"gte": 29},
                    "customer": False,
                },
                "serve": "internal",
            }
        ],
    },
    "joined": {
        **ON_OFF,
        "rules": [
            {"name": "old", "when": {"joined": {"before": "2026-01-01T00:00:00Z"}}, "serve": "on"}
        ],
    },
    "half": {
        **ON_OFF,
        "rules": [
            {
                "name": "half",
                "serve": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}],
            }
        ],
    },
    "acme": {
        **ON_OFF,
        "overrides": {"tenant_id": {"acme": "on"}, "user_id": {"ada": "on"}},
    },
    "keyed": {
        **ON_OFF,
        "rules": [{"name": "key", "when": {"targeting_key": "k-1"}, "serve": "on"}],
    },
}
GETTERS = ("boolean", "string", "integer", "float", "object")


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    with replica(flags=FLAGS) as kit:
        yield kit


@pytest.fixture
def client(kit: ReplicaKit) -> OpenFeatureClient:
    api.set_provider(ControlPlaneProvider(kit))
    return api.get_client()


def details(
    client: OpenFeatureClient, kind: str, flag: str, default: Any, *context: EvaluationContext
) -> FlagEvaluationDetails[Any]:
    """The details the client tells, the same by coroutine, and the same value without details."""
    found = getattr(client, f"get_{kind}_details")(flag, default, *context)
    awaited = asyncio.run(getattr(client, f"get_{kind}_details_async")(flag, default, *context))
    bare = getattr(client, f"get_{kind}_value")(flag, default, *context)
    assert awaited == found
    assert bare == found.value
    assert type(bare) is type(found.value)
    return found  # type: ignore[no-any-return]


# 1.3.1.1, 1.3.3.1, 1.4.1.1, 1.4.3, 1.4.5, 1.4.6, 1.4.7, 1.4.12, 2.2.3, 2.2.4, 2.2.6, 2.3.2
@pytest.mark.parametrize(
    ("kind", "default", "value", "variant"),
    [
        ("boolean", False, True, "on"),
        ("string", "bye", "hi", "greeting"),
        ("integer", 1, 10, "ten"),
        ("float", 0.1, 0.5, "half"),
        ("object", {}, TEMPLATE, "template"),
        ("object", None, TEMPLATE, "template"),
    ],
)
def test_each_type_is_told_with_its_variant_and_without_an_error(
    client: OpenFeatureClient, kind: str, default: Any, value: Any, variant: str
) -> None:
    assert details(client, kind, kind, default) == FlagEvaluationDetails(
        flag_key=kind, value=value, variant=variant, reason="STATIC"
    )


ZEROS = [
    ("boolean", True, False),
    ("string", "hi", ""),
    ("integer", 1, 0),
    ("float", 0.1, 0.0),
]


@pytest.mark.parametrize(("kind", "default", "zero"), ZEROS)
def test_a_value_that_looks_like_nothing_is_a_value(
    client: OpenFeatureClient, kind: str, default: Any, zero: Any
) -> None:
    found = details(client, kind, f"zero-{kind}", default)
    assert (found.value, found.variant, found.reason) == (zero, "zero", "STATIC")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"email": "ada@example.org"}, "TARGETING_MATCH"),
        ({"email": "eve@example.org"}, "DEFAULT"),
        ({"email": None}, "DEFAULT"),
        ({}, "DEFAULT"),
    ],
)
@pytest.mark.parametrize(("kind", "default", "zero"), [*ZEROS, ("object", {"a": 1}, {})])
def test_the_reason_says_whether_a_rule_or_the_default_decided(
    client: OpenFeatureClient,
    kind: str,
    default: Any,
    zero: Any,
    attributes: dict[str, Any],
    reason: str,
) -> None:
    context = EvaluationContext(attributes=attributes)
    found = details(client, kind, f"targeted-{kind}", default, context)
    assert (found.value, found.reason, found.error_code) == (zero, reason, None)


# 1.4.8, 1.4.9, 1.4.10, 1.4.13, 2.2.7, 2.3.3
@pytest.mark.parametrize("kind", GETTERS)
def test_a_flag_that_is_not_there_gives_the_default_and_says_so(
    client: OpenFeatureClient, kind: str
) -> None:
    default = {"boolean": True, "string": "d", "integer": 7, "float": 0.7, "object": {"d": 1}}[kind]
    found = details(client, kind, "nobody-knows", default)
    assert (found.value, found.variant, found.reason) == (default, None, "ERROR")
    assert found.error_code == "FLAG_NOT_FOUND"
    assert found.error_message == "flag/nobody-knows (test): expected a flag, found none"


def test_a_flag_that_cannot_be_read_gives_the_default_and_says_so(
    client: OpenFeatureClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(key: bytes, data: bytes) -> None:
        from control_plane.errors import ReplicaCorrupt

        raise ReplicaCorrupt("expected a sound record, found another")

    monkeypatch.setattr("control_plane.feature_flags.table.decode_record", damaged)
    found = details(client, "boolean", "broken", True)
    assert (found.value, found.reason, found.error_code) == (True, "ERROR", "PARSE_ERROR")
    assert found.error_message is not None


# 2.2.5
def test_disabled_flags_and_null_variants_give_the_code_its_default_without_an_error(
    kit: ReplicaKit, client: OpenFeatureClient
) -> None:
    disabled = details(client, "boolean", "disabled", True)
    assert (disabled.value, disabled.variant, disabled.reason) == (True, None, "DISABLED")
    off = details(client, "boolean", "switched-off", True)
    assert (off.value, off.variant, off.reason) == (False, "off", "DISABLED")
    null = details(client, "string", "null-default", "code")
    assert (null.value, null.variant, null.reason) == ("code", None, "DEFAULT")
    assert disabled.error_code is off.error_code is null.error_code is None
    kit.kill("switched-off", "on")
    killed = details(client, "boolean", "switched-off", False)
    assert (killed.value, killed.variant, killed.reason) == (True, "on", "DISABLED")


def test_a_split_goes_by_targeting_key_and_evaluates_without_one(
    client: OpenFeatureClient,
) -> None:
    contexts = [EvaluationContext(f"unit-{number}") for number in range(40)]
    found = [details(client, "boolean", "half", False, context) for context in contexts]
    assert {each.value for each in found} == {True, False}
    assert {each.reason for each in found} == {"SPLIT"}
    # No TARGETING_KEY_MISSING: a rule without its unit does not match.
    without = details(client, "boolean", "half", True)
    assert (without.value, without.reason, without.error_code) == (False, "DEFAULT", None)


# 3.1.1, 3.1.2
def test_attributes_of_all_types_reach_rules(client: OpenFeatureClient) -> None:
    staff: dict[str, Any] = {
        "name": {"first": "Sulisława", "last": "Świętopełk"},
        "age": 29,
        "customer": False,
    }
    found = details(client, "string", "context-aware", "none", EvaluationContext(None, staff))
    assert (found.value, found.reason) == ("INTERNAL", "TARGETING_MATCH")
    other = EvaluationContext(None, {**staff, "customer": True})
    assert details(client, "string", "context-aware", "none", other).value == "EXTERNAL"
    assert details(client, "string", "context-aware", "none").value == "EXTERNAL"
    born = {"joined": datetime(2025, 12, 31, tzinfo=UTC)}
    assert details(client, "boolean", "joined", False, EvaluationContext(None, born)).value is True
    late = {"joined": datetime(2026, 1, 2, tzinfo=UTC)}
    assert details(client, "boolean", "joined", True, EvaluationContext(None, late)).value is False


@pytest.mark.parametrize(
    ("context", "flag"),
    [
        (EvaluationContext("k-1"), "keyed"),
        (EvaluationContext(None, {"targetingKey": "k-1"}), "keyed"),
        (EvaluationContext("", {"targeting_key": "k-1"}), "keyed"),
        (EvaluationContext("k-1", {"targeting_key": "k-2"}), "keyed"),
        (EvaluationContext(None, {"user_id": "k-1"}), "keyed"),
        (EvaluationContext("k-1", {"user_id": "k-2"}), "keyed"),
        (EvaluationContext("someone", {"tenant_id": "acme"}), "acme"),
        (EvaluationContext("someone", {"user_id": "ada"}), "acme"),
    ],
)
def test_the_targeting_key_and_the_ids_are_found_in_the_context(
    client: OpenFeatureClient, context: EvaluationContext, flag: str
) -> None:
    assert details(client, "boolean", flag, False, context).value is True


def test_a_context_is_left_as_it_was(client: OpenFeatureClient) -> None:
    context = EvaluationContext("u", {"plan": "pro", "tags": ["a"]})
    details(client, "boolean", "half", False, context)
    assert context == EvaluationContext("u", {"plan": "pro", "tags": ["a"]})


def test_a_context_without_attributes_to_look_at_is_an_invalid_one(kit: ReplicaKit) -> None:
    provider = ControlPlaneProvider(kit)
    for key in (None, "u"):
        wrong = EvaluationContext(key, ["no", "mapping"])  # type: ignore[arg-type]
        found = provider.resolve_boolean_details("targeted-boolean", True, wrong)
        assert (found.value, found.error_code) == (True, "INVALID_CONTEXT")


# 1.4.14, 1.4.15, 2.2.9, 2.2.10
def test_a_flags_metadata_is_told_and_nothing_else(client: OpenFeatureClient) -> None:
    found = details(client, "boolean", "documented", True)
    assert found.flag_metadata == {"text": "1.0.2", "whole": 2, "part": 0.1, "sure": True}
    for kind in ("boolean", "integer", "float", "string"):
        assert details(client, kind, kind, FLAGS[kind]["variants"]).flag_metadata == {}


def test_provenance_tells_generation_rule_and_flag_set(kit: ReplicaKit) -> None:
    api.set_provider(ControlPlaneProvider(kit, provenance=True))
    client = api.get_client()
    generation = kit.set_flag(
        "documented", {**FLAGS["documented"], "flag_metadata": {"version": 7}}
    )
    context = EvaluationContext(attributes={"email": "ada@example.org"})
    told = details(client, "string", "targeted-string", "x", context).flag_metadata
    assert told == {"generation": 1, "version": "1", "flagSetId": "test", "rule": "by-mail"}
    told = details(client, "boolean", "documented", True).flag_metadata
    assert told == {"generation": generation, "version": 7, "flagSetId": "test"}


def test_what_a_caller_does_to_an_answer_stays_with_the_caller(client: OpenFeatureClient) -> None:
    first = details(client, "object", "object", {})
    first.value["nested"]["tags"].append("mine")
    documented = details(client, "boolean", "documented", True)
    documented.flag_metadata["text"] = "mine"  # type: ignore[index]
    assert details(client, "object", "object", {}).value == TEMPLATE
    assert details(client, "boolean", "documented", True).flag_metadata["text"] == "1.0.2"


def test_what_is_served_is_counted_and_what_is_not_is_not(
    kit: ReplicaKit, client: OpenFeatureClient
) -> None:
    client.get_boolean_value("boolean", False)
    client.get_string_value("boolean", "mismatch")
    client.get_string_value("null-default", "code")
    client.get_boolean_value("nobody-knows", False)
    assert kit.flags.counts() == {("boolean", "on"): 1}
