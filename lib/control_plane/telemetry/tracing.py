"""Flag evaluations as events on OpenTelemetry's spans; needs the extra ``opentelemetry``.

from control_plane.telemetry.tracing import traced

flags = traced(client.flags, environment="production")
flags.is_enabled("new_ai_model", tenant_id="acme")

What this module decides:

- Each evaluation inside a span that records is an event ``feature_flag.evaluation`` with the
  attributes of OpenTelemetry's semantic conventions for feature flags (release candidate, 1.51).
  Outside of one a call goes straight through, and without `traced` the managers know nothing of
  any of this.
- An answer is decided once: the event says what the caller got, and it is counted once.
- The variant is recorded and not the value, which may be anything. The one exception is an answer
  that is not the variant's: ``rollout_percentage`` can turn a flag off that is on by itself; then
  the boolean stands in ``feature_flag.result.value``.
- ``feature_flag.version`` is the generation that last touched the flag; ``feature_flag.set.id`` the
  environment. ``feature_flag.context.id`` is the targeting key: a person's id, perhaps, so it can
  be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from control_plane.errors import MissingExtra
from control_plane.feature_flags.evaluation import ERROR, SPLIT, TYPE_MISMATCH, Evaluation
from control_plane.feature_flags.evaluator import MISMATCH, FlagEvaluator, converted

try:
    from opentelemetry.trace import Span, get_current_span
except ModuleNotFoundError as error:
    raise MissingExtra.of("opentelemetry-api", "opentelemetry") from error

EVENT: Final = "feature_flag.evaluation"
PROVIDER: Final = "control_plane"
Attributes = dict[str, str | bool]
Value = TypeVar("Value")


def attributes(
    name: str,
    *,
    variant: str | None,
    reason: str | None,
    error_code: str | None = None,
    generation: int = 0,
    environment: str | None = None,
    context_id: str | int | None = None,
    provider: str = PROVIDER,
) -> Attributes:
    """What an event of the semantic conventions says of one evaluation.

    >>> attributes("beta", variant="on", reason="SPLIT", generation=41)["feature_flag.version"]
    '41'
    """
    told: Attributes = {"feature_flag.key": name, "feature_flag.provider.name": provider}
    if variant is not None:
        told["feature_flag.result.variant"] = variant
    if reason is not None:
        told["feature_flag.result.reason"] = reason.lower()
    if reason == ERROR:
        told["error.type"] = (error_code or "general").lower()
    if generation:
        told["feature_flag.version"] = str(generation)
    if environment is not None:
        told["feature_flag.set.id"] = environment
    if context_id is not None:
        told["feature_flag.context.id"] = str(context_id)
    return told


def traced(
    flags: FlagEvaluator, *, environment: str | None = None, context_ids: bool = True
) -> TracedFlags:
    """The same flags, each evaluation of which is an event on the current span.

    ``flags`` is a manager or a pinned view of one. ``context_ids`` is false where targeting keys
    must not leave the process.
    """
    return TracedFlags(flags, environment, context_ids)


class TracedFlags:
    """Flags that record their evaluations; see `traced`. Its calls are those of the manager."""

    def __init__(self, flags: FlagEvaluator, environment: str | None, context_ids: bool) -> None:
        self._flags = flags
        self._environment = environment
        self._context_ids = context_ids

    def is_enabled(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        default: bool = False,
        rollout_percentage: float | None = None,
    ) -> bool:
        """As ``FeatureFlagManager.is_enabled``."""
        span = get_current_span()
        unit = (user_id, tenant_id, context)
        if not span.is_recording():
            return self._flags.is_enabled(name, *unit, default, rollout_percentage)
        if rollout_percentage is None:
            return bool(self._served(span, "bool", name, default, *unit).value)
        answer = self._flags.is_enabled(name, *unit, default, rollout_percentage)
        found = self._decided("bool", name, default, *unit)
        if answer is not found.value:
            found = Evaluation(answer, None, SPLIT, generation=found.generation)
        self._record(span, name, found, *unit)
        return answer

    def variant(
        self,
        name: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        default: str | None = None,
    ) -> str | None:
        """As ``FeatureFlagManager.variant``."""
        span = get_current_span()
        if not span.is_recording():
            return self._flags.variant(name, user_id, tenant_id, context, default)
        found = self._served(span, "any", name, None, user_id, tenant_id, context)
        return default if found.variant is None else found.variant

    def value(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Any:
        """As ``FeatureFlagManager.value``."""
        span = get_current_span()
        if not span.is_recording():
            return self._flags.value(name, default, user_id, tenant_id, context)
        return self.evaluate(name, default, user_id, tenant_id, context).value

    def get_bool(
        self,
        name: str,
        default: bool,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> bool:
        """As ``FeatureFlagManager.get_bool``."""
        unit = (user_id, tenant_id, context)
        return self._typed(self._flags.get_bool, "bool", name, default, *unit)

    def get_str(
        self,
        name: str,
        default: str,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> str:
        """As ``FeatureFlagManager.get_str``."""
        unit = (user_id, tenant_id, context)
        return self._typed(self._flags.get_str, "string", name, default, *unit)

    def get_int(
        self,
        name: str,
        default: int,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> int:
        """As ``FeatureFlagManager.get_int``."""
        unit = (user_id, tenant_id, context)
        return self._typed(self._flags.get_int, "int", name, default, *unit)

    def get_float(
        self,
        name: str,
        default: float,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> float:
        """As ``FeatureFlagManager.get_float``."""
        unit = (user_id, tenant_id, context)
        return self._typed(self._flags.get_float, "float", name, default, *unit)

    def get_json(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Any:
        """As ``FeatureFlagManager.get_json``."""
        unit = (user_id, tenant_id, context)
        return self._typed(self._flags.get_json, "any", name, default, *unit)

    def evaluate(
        self,
        name: str,
        default: Any,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """As ``FeatureFlagManager.evaluate``."""
        found = self._flags.evaluate(name, default, user_id, tenant_id, context)
        span = get_current_span()
        if span.is_recording():
            self._record(span, name, found, user_id, tenant_id, context)
        return found

    def _typed(
        self, get: Callable[..., Value], wanted: str, name: str, default: Value,
        user_id: str | int | None, tenant_id: str | int | None, context: Mapping[str, Any] | None,
    ) -> Value:  # fmt: skip
        """What ``get`` of the manager answers, told to the span where one records."""
        span = get_current_span()
        if not span.is_recording():
            return get(name, default, user_id, tenant_id, context)
        found = self._served(span, wanted, name, default, user_id, tenant_id, context)
        answer: Value = found.value
        return answer

    def _served(
        self, span: Span, wanted: str, name: str, default: Any,
        user_id: str | int | None, tenant_id: str | int | None, context: Mapping[str, Any] | None,
    ) -> Evaluation:  # fmt: skip
        found = self._decided(wanted, name, default, user_id, tenant_id, context)
        if found.variant is not None:
            self._flags.count(name, found.variant)
        self._record(span, name, found, user_id, tenant_id, context)
        return found

    def _decided(
        self, wanted: str, name: str, default: Any,
        user_id: str | int | None, tenant_id: str | int | None, context: Mapping[str, Any] | None,
    ) -> Evaluation:  # fmt: skip
        details, _ = self._flags.decided(name, user_id, tenant_id, context)
        value, variant, reason, rule, code, generation = details
        if variant is None:
            return Evaluation(default, None, reason, code, None, generation)
        served = converted(value, wanted)
        if served is MISMATCH:
            return Evaluation(default, None, ERROR, TYPE_MISMATCH, None, generation)
        return Evaluation(served, variant, reason, None, rule, generation)

    def _record(
        self, span: Span, name: str, found: Evaluation,
        user_id: str | int | None, tenant_id: str | int | None, context: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        told = attributes(
            name,
            variant=found.variant,
            reason=found.reason,
            error_code=found.error_code,
            generation=found.generation,
            environment=self._environment,
            context_id=_unit(user_id, tenant_id, context) if self._context_ids else None,
        )
        if found.variant is None and found.reason == SPLIT:
            told["feature_flag.result.value"] = found.value
        span.add_event(EVENT, told)


def _unit(
    user_id: str | int | None, tenant_id: str | int | None, context: Mapping[str, Any] | None
) -> str | int | None:
    """The targeting key: that of the context, else the user, else the tenant."""
    given = context if isinstance(context, Mapping) else {}
    for found in (
        given.get("targeting_key"), user_id, given.get("user_id"),
        tenant_id, given.get("tenant_id"),
    ):  # fmt: skip
        if isinstance(found, str | int):
            return found
    return None
