"""Trace contexts in headers and reasons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from control_plane.names import MAX_REASON_BYTES
from control_plane.telemetry.trace_context import (
    current_traceparent,
    trace_of,
    traceparent,
    with_trace,
)

KNOWN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        KNOWN.upper(),
        KNOWN + "-more",
        KNOWN + "\n",
        "ff" + KNOWN[2:],
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
        KNOWN[:-1],
    ],
)
def test_what_the_specification_calls_invalid_is_no_context(text: str) -> None:
    assert traceparent(text) is None
    assert with_trace("why", text) == "why"


def test_of_a_later_version_the_part_known_here_is_read() -> None:
    assert traceparent("cc" + KNOWN[2:] + "-what-the-future-brings") == KNOWN


def test_a_reason_keeps_its_text_and_gives_the_trace_back() -> None:
    traced = with_trace("roll out the new model", KNOWN)
    assert traced == f"roll out the new model [traceparent {KNOWN}]"
    assert trace_of(traced) == KNOWN
    assert with_trace("", KNOWN) == f"[traceparent {KNOWN}]"


def test_a_reason_that_names_a_trace_keeps_it() -> None:
    other = KNOWN.replace("4bf9", "aaaa")
    assert with_trace(with_trace("x", KNOWN), other) == with_trace("x", KNOWN)


def test_a_trace_that_does_not_fit_is_left_out_and_the_reason_stays() -> None:
    longest = "x" * MAX_REASON_BYTES
    assert with_trace(longest, KNOWN) == longest
    room = "ä" * ((MAX_REASON_BYTES - len(f" [traceparent {KNOWN}]")) // 2)
    assert trace_of(with_trace(room, KNOWN)) == KNOWN
    assert with_trace(room + "äaa", KNOWN) == room + "äaa"


@given(st.text(max_size=1200))
def test_any_reason_stays_within_its_bound_or_as_it_was(reason: str) -> None:
    traced = with_trace(reason, KNOWN)
    assert traced == reason or (
        len(traced.encode()) <= MAX_REASON_BYTES and trace_of(traced) == KNOWN
    )


@given(st.text(max_size=200))
def test_whatever_an_author_wrote_is_a_context_or_none(reason: str) -> None:
    assert trace_of(reason) is None or traceparent(trace_of(reason)) is not None


def test_the_current_span_is_named_as_opentelemetry_itself_would() -> None:
    assert current_traceparent() is None
    carrier: dict[str, str] = {}
    with TracerProvider().get_tracer("test").start_as_current_span("publish"):
        TraceContextTextMapPropagator().inject(carrier)
        assert current_traceparent() == carrier["traceparent"]
