"""Hooks, merged contexts and tracking (specification sections 3.2, 4, 6) around our answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagEvaluationOptions
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.track import TrackingEventDetails
from openfeature.transaction_context import ContextVarsTransactionContextPropagator

from control_plane.openfeature import ControlPlaneProvider
from control_plane.testing import ReplicaKit, replica
from openfeature import api

LEVELS = ("api", "transaction", "client", "invocation", "before")


def serving(attribute: str) -> dict[str, Any]:
    """A flag that names the level whose value of the attribute it met."""
    rules = [{"name": level, "when": {attribute: level}, "serve": level} for level in LEVELS]
    variants = {level: level for level in (*LEVELS, "none")}
    return {"variants": variants, "default": "none", "disabled": "none", "rules": rules}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    attributes = ("level", *LEVELS, "targeting_key")
    with replica(flags={"on": True, **{name: serving(name) for name in attributes}}) as kit:
        yield kit


class Noting(Hook):
    """Writes down every stage, and hands data from one stage to the next."""

    def __init__(self, name: str, notes: list[Any]) -> None:
        self.name = name
        self.notes = notes

    def _note(self, stage: str, context: HookContext, *told: Any) -> None:
        context.hook_data.setdefault("stages", []).append(stage)
        self.notes.append((self.name, stage, *told))

    def before(self, hook_context: HookContext, hints: HookHints) -> None:
        self._note("before", hook_context)

    def after(
        self, hook_context: HookContext, details: FlagEvaluationDetails[Any], hints: HookHints
    ) -> None:
        self._note("after", hook_context, details.value, details.variant, details.reason)

    def error(self, hook_context: HookContext, exception: Exception, hints: HookHints) -> None:
        self._note("error", hook_context, type(exception).__name__)

    def finally_after(
        self, hook_context: HookContext, details: FlagEvaluationDetails[Any], hints: HookHints
    ) -> None:
        self._note("finally", hook_context, details.error_code, hook_context.hook_data["stages"])


class Adding(Hook):
    """Adds attributes before an evaluation."""

    def __init__(self, **attributes: Any) -> None:
        self._context = EvaluationContext(attributes=attributes)

    def before(self, hook_context: HookContext, hints: HookHints) -> EvaluationContext:
        return self._context


class Hooked(ControlPlaneProvider):
    """A provider with a hook of its own."""

    hooks: tuple[Hook, ...] = ()

    def get_provider_hooks(self) -> list[Hook]:
        return list(self.hooks)


def hooked(kit: ReplicaKit) -> tuple[OpenFeatureClient, FlagEvaluationOptions, list[Any]]:
    """A client with a noting hook at each of the four levels."""
    notes: list[Any] = []
    provider = Hooked(kit)
    provider.hooks = (Noting("provider", notes),)
    api.set_provider(provider)
    api.add_hooks([Noting("api", notes)])
    client = api.get_client()
    client.add_hooks([Noting("client", notes)])
    return client, FlagEvaluationOptions(hooks=[Noting("invocation", notes)]), notes


FORWARD = ("api", "client", "invocation", "provider")
BACK = FORWARD[::-1]


# 4.3.2, 4.3.6, 4.3.8, 4.4.2, 4.6.1
@pytest.mark.parametrize("coroutine", [False, True])
async def test_hooks_of_all_levels_see_our_answer_in_order(
    kit: ReplicaKit, coroutine: bool
) -> None:
    client, options, notes = hooked(kit)
    if coroutine:
        await client.get_boolean_value_async("on", False, None, options)
    else:
        client.get_boolean_value("on", False, None, options)
    stages = ["before", "after", "finally"]
    assert notes == [
        *((name, "before") for name in FORWARD),
        *((name, "after", True, "on", "STATIC") for name in BACK),
        *((name, "finally", None, stages) for name in BACK),
    ]


# 4.3.7, 4.3.8, 4.4.5
@pytest.mark.parametrize(
    ("flag", "error", "code"),
    [
        ("nobody-knows", "FlagNotFoundError", "FLAG_NOT_FOUND"),
        ("on", "TypeMismatchError", "TYPE_MISMATCH"),
    ],
)
def test_hooks_are_told_of_our_errors(kit: ReplicaKit, flag: str, error: str, code: str) -> None:
    client, options, notes = hooked(kit)
    assert client.get_string_value(flag, "default", None, options) == "default"
    assert notes == [
        *((name, "before") for name in FORWARD),
        *((name, "error", error) for name in BACK),
        *((name, "finally", code, ["before", "error", "finally"]) for name in BACK),
    ]


def test_a_hook_that_raises_before_gives_the_default_and_asks_no_flag(kit: ReplicaKit) -> None:
    class Raising(Hook):
        def before(self, hook_context: HookContext, hints: HookHints) -> None:
            raise ValueError("no")

    client, _, notes = hooked(kit)
    found = client.get_boolean_details("on", False, None, FlagEvaluationOptions([Raising()]))
    assert (found.value, found.error_code) == (False, "GENERAL")
    assert kit.flags.counts() == {}
    assert ("api", "error", "ValueError") in notes


# 3.2.1.1, 3.2.3, 3.2.2
def contexts_down_to(level: str, key: str | None) -> tuple[OpenFeatureClient, dict[str, Any]]:
    """A client whose levels down to this one say their own name, as ``key`` or each its own."""
    wanted = LEVELS[: LEVELS.index(level) + 1]
    attributes = {name: {key or name: name} for name in wanted}
    api.set_evaluation_context(EvaluationContext(attributes=attributes.get("api", {})))
    api.set_transaction_context_propagator(ContextVarsTransactionContextPropagator())
    api.set_transaction_context(EvaluationContext(attributes=attributes.get("transaction", {})))
    client = api.get_client()
    client.context = EvaluationContext(attributes=attributes.get("client", {}))
    hooks: list[Hook] = [Adding(**attributes["before"])] if "before" in wanted else []
    return client, {
        "evaluation_context": EvaluationContext(attributes=attributes.get("invocation", {})),
        "flag_evaluation_options": FlagEvaluationOptions(hooks=hooks),
    }


@pytest.mark.parametrize("level", LEVELS)
def test_of_one_attribute_the_nearest_level_reaches_the_rules(kit: ReplicaKit, level: str) -> None:
    api.set_provider(ControlPlaneProvider(kit))
    client, options = contexts_down_to(level, "level")
    assert client.get_string_value("level", "?", **options) == level


def test_attributes_of_all_levels_reach_the_rules(kit: ReplicaKit) -> None:
    api.set_provider(ControlPlaneProvider(kit))
    client, options = contexts_down_to("before", None)
    found = [client.get_string_value(name, "?", **options) for name in LEVELS]
    assert found == list(LEVELS)


def test_the_targeting_key_is_merged_like_an_attribute(kit: ReplicaKit) -> None:
    api.set_provider(ControlPlaneProvider(kit))
    api.set_evaluation_context(EvaluationContext("api"))
    client = api.get_client()
    assert client.get_string_value("targeting_key", "?") == "api"
    client.context = EvaluationContext("client")
    assert client.get_string_value("targeting_key", "?") == "client"
    call = EvaluationContext("invocation")
    assert client.get_string_value("targeting_key", "?", call) == "invocation"


# 2.7.1, 6.1.2.1, 6.1.4
def test_tracking_is_handed_to_the_application_and_else_does_nothing(kit: ReplicaKit) -> None:
    tracked: list[Any] = []
    api.set_provider(ControlPlaneProvider(kit), "quiet")
    api.set_provider(ControlPlaneProvider(kit, on_track=lambda *told: tracked.append(told)))
    api.get_client("quiet").track("checkout")
    assert tracked == []
    details = TrackingEventDetails(99.5, {"currency": "CHF"})
    api.set_evaluation_context(EvaluationContext(attributes={"plan": "pro"}))
    api.get_client().track("checkout", EvaluationContext("u1"), details)
    assert tracked == [("checkout", EvaluationContext("u1", {"plan": "pro"}), details)]


def test_tracking_that_fails_is_logged_and_does_not_fail_the_caller(
    kit: ReplicaKit, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*told: Any) -> None:
        raise RuntimeError("the collector is gone")

    api.set_provider(ControlPlaneProvider(kit, on_track=failing))
    with caplog.at_level(logging.ERROR):
        api.get_client().track("checkout")
    assert "tracking 'checkout': on_track raised" in caplog.text
    assert "the collector is gone" in caplog.text
