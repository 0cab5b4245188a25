"""Evaluations through OpenFeature as events on spans: a hook (specification, section 4).

from openfeature import api
from control_plane.telemetry.openfeature_hook import TracingHook

api.add_hooks([TracingHook()])

It records what `tracing` does for calls of our own, for whichever provider is set. Needs the extras
``openfeature`` and ``opentelemetry``.
"""

from __future__ import annotations

from typing import Any

from openfeature.flag_evaluation import FlagEvaluationDetails
from openfeature.hook import Hook, HookContext, HookHints
from opentelemetry.trace import get_current_span

from control_plane.telemetry.tracing import EVENT, attributes


class TracingHook(Hook):
    """Adds an event for each evaluation to the span it happens in.

    ``environment`` is told as the flag set, unless a flag's metadata names one (``flagSetId``).
    ``context_ids`` is false where targeting keys must not leave the process.
    """

    def __init__(self, environment: str | None = None, *, context_ids: bool = True) -> None:
        self._environment = environment
        self._context_ids = context_ids

    def finally_after(
        self, hook_context: HookContext, details: FlagEvaluationDetails[Any], hints: HookHints
    ) -> None:
        """Record the outcome, also that of an evaluation that failed."""
        span = get_current_span()
        if not span.is_recording():
            return
        metadata = hook_context.provider_metadata
        known = details.flag_metadata
        told = attributes(
            hook_context.flag_key,
            variant=details.variant,
            reason=None if details.reason is None else str(details.reason),
            error_code=None if details.error_code is None else details.error_code.value,
            environment=_text(known.get("flagSetId")) or self._environment,
            context_id=hook_context.evaluation_context.targeting_key if self._context_ids else None,
            provider="unknown" if metadata is None else metadata.name,
        )
        version = _text(known.get("version")) or _text(known.get("generation"))
        if version is not None:
            told["feature_flag.version"] = version
        span.add_event(EVENT, told)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
