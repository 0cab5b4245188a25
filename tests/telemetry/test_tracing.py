"""Evaluations as events of real spans, natively and through OpenFeature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openfeature.evaluation_context import EvaluationContext
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.semconv._incubating.attributes import feature_flag_attributes as semantic

from control_plane.openfeature import ControlPlaneProvider
from control_plane.telemetry.openfeature_hook import TracingHook
from control_plane.telemetry.tracing import traced
from control_plane.testing import ReplicaKit, replica
from openfeature import api

FLAGS: dict[str, Any] = {
    "on": True,
    "many": {"variants": {"few": 2, "lots": 20}, "default": "few", "disabled": "few"},
    "model": {
        "variants": {"a": "gpt-secret-name", "b": "other"},
        "default": "a",
        "disabled": "b",
        "rules": [{"name": "r", "when": {"tenant_id": "acme"}, "serve": "b"}],
    },
}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    with replica(flags=FLAGS) as kit:
        yield kit


@pytest.fixture
def tracer() -> Any:
    return TracerProvider().get_tracer("test")


def events(span: Any) -> list[dict[str, Any]]:
    assert isinstance(span, ReadableSpan)
    assert {event.name for event in span.events} <= {"feature_flag.evaluation"}
    return [dict(event.attributes or {}) for event in span.events]


def test_an_evaluation_is_an_event_in_the_words_of_the_conventions(
    kit: ReplicaKit, tracer: Any
) -> None:
    flags = traced(kit.flags, environment="production")
    with tracer.start_as_current_span("request") as span:
        assert flags.variant("model", "u1", "acme") == "b"
    assert events(span) == [
        {
            semantic.FEATURE_FLAG_KEY: "model",
            semantic.FEATURE_FLAG_PROVIDER_NAME: "control_plane",
            semantic.FEATURE_FLAG_RESULT_VARIANT: "b",
            semantic.FEATURE_FLAG_RESULT_REASON: "targeting_match",
            semantic.FEATURE_FLAG_CONTEXT_ID: "u1",
            semantic.FEATURE_FLAG_SET_ID: "production",
            semantic.FEATURE_FLAG_VERSION: str(kit.flags.evaluate("model", "").generation),
        }
    ]


def test_answers_are_those_of_the_manager_inside_and_outside_of_a_span(
    kit: ReplicaKit, tracer: Any
) -> None:
    flags = traced(kit.flags)

    def answers(asked: Any) -> list[Any]:
        return [
            asked.is_enabled("on"), asked.is_enabled("gone", default=True),
            asked.is_enabled("model"), asked.is_enabled("on", "u", rollout_percentage=0),
            asked.is_enabled("on", "u", rollout_percentage=100),
            asked.variant("model", tenant_id="acme"), asked.variant("gone", default="none"),
            asked.value("model", ""), asked.value("model", 7), asked.value("gone", None),
            asked.get_bool("on", False), asked.get_str("model", ""), asked.get_json("model", 1),
            asked.get_int("many", 1), asked.get_float("many", 1.5), asked.get_int("model", 9),
            asked.evaluate("model", "x", context={"tenant_id": "acme"}),
        ]  # fmt: skip

    expected = answers(kit.flags)
    assert answers(flags) == expected
    with tracer.start_as_current_span("request") as span:
        assert answers(flags) == expected
    assert len(events(span)) == len(expected)


def test_an_evaluation_in_a_span_is_counted_once(kit: ReplicaKit, tracer: Any) -> None:
    flags, before = traced(kit.flags), kit.flags.counts().get(("on", "on"), 0)
    with tracer.start_as_current_span("request"):
        flags.is_enabled("on")
        flags.is_enabled("on", "u1", rollout_percentage=100)
        flags.value("on", False)
    assert kit.flags.counts()["on", "on"] - before == 3


def test_errors_say_their_class_and_give_no_variant(kit: ReplicaKit, tracer: Any) -> None:
    flags = traced(kit.flags)
    with tracer.start_as_current_span("request") as span:
        flags.is_enabled("gone")
        flags.is_enabled("model")
    missing, mismatch = events(span)
    assert (missing["error.type"], missing["feature_flag.result.reason"]) == (
        "flag_not_found", "error",
    )  # fmt: skip
    assert mismatch["error.type"] == "type_mismatch"
    assert "feature_flag.result.variant" not in mismatch


def test_a_percentage_that_turns_a_flag_off_is_told_as_the_value(
    kit: ReplicaKit, tracer: Any
) -> None:
    with tracer.start_as_current_span("request") as span:
        assert traced(kit.flags).is_enabled("on", "u", rollout_percentage=0) is False
    (event,) = events(span)
    assert event["feature_flag.result.value"] is False
    assert "feature_flag.result.variant" not in event


def test_neither_values_nor_withheld_ids_stand_in_an_event(kit: ReplicaKit, tracer: Any) -> None:
    flags = traced(kit.flags, context_ids=False)
    with tracer.start_as_current_span("request") as span:
        assert flags.value("model", "", "person-17") == "gpt-secret-name"
    assert "gpt-secret-name" not in str(events(span))
    assert "person-17" not in str(events(span))


def test_a_hook_of_openfeature_records_the_same(kit: ReplicaKit, tracer: Any) -> None:
    api.set_provider(ControlPlaneProvider(kit), "traced")
    client = api.get_client("traced")
    client.add_hooks([TracingHook("production")])
    try:
        with tracer.start_as_current_span("request") as span:
            context = EvaluationContext("u1", {"tenant_id": "acme"})
            assert client.get_string_value("model", "", context) == "other"
            assert client.get_boolean_value("gone", True) is True
        client.get_boolean_value("on", False)
    finally:
        api.clear_providers()
    served, missing = events(span)
    assert served["feature_flag.result.variant"] == "b"
    assert served["feature_flag.result.reason"] == "targeting_match"
    assert served["feature_flag.context.id"] == "u1"
    assert served["feature_flag.set.id"] == "production"
    assert missing["error.type"] == "flag_not_found"
