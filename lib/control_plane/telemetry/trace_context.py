"""How a change carries the trace of whoever made it, from submit until readers see it.

What this module decides:

- A trace context is the ``traceparent`` of W3C Trace Context, level 1, section 3.2: version, trace
  id, parent id and flags in lower-case hex. Version ``ff`` and ids of zeros are none; of a later
  version the part that version 00 has is read. ``tracestate`` is not carried.
- It goes with the submit request as the header ``traceparent``, and inside the signed statement as
  the end of its reason: ``… [traceparent 00-<trace id>-<parent id>-<flags>]``. A statement has no
  field to spare: any unknown one is refused by every earlier version, and free text is not. So old
  daemons take such an entry, and it says what the author signed, wherever the log is carried.
- The reason comes first: where both do not fit into its bound, the trace is left out.
- What stands there is what an author wrote. It says where to look, and decides nothing.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from control_plane.names import MAX_REASON_BYTES

HEADER: Final = "traceparent"

_TRACEPARENT: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-"
    r"(?P<parent>(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<later>-.*)?"
)
_SUFFIX: Final = re.compile(r" ?\[traceparent ([0-9a-f-]{55})\]\Z")


def traceparent(text: str | None) -> str | None:
    """The trace context a header or variable names, as version 00 writes it; None for no valid one.

    >>> traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    >>> traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01")
    """
    found = None if text is None else _TRACEPARENT.fullmatch(text)
    if found is None or (found["later"] is not None and found["version"] == "00"):
        return None
    return f"00-{found['trace']}-{found['parent']}-{found['flags']}"


def with_trace(reason: str, context: str | None) -> str:
    """The reason with the trace context at its end; as it was where there is none or no room."""
    known = traceparent(context)
    if known is None or trace_of(reason) is not None:
        return reason
    traced = f"{reason} [traceparent {known}]".lstrip()
    return traced if len(traced.encode()) <= MAX_REASON_BYTES else reason


def trace_of(reason: str) -> str | None:
    """The trace context at a reason's end, or None."""
    found = _SUFFIX.search(reason)
    return None if found is None else traceparent(found[1])


def current_traceparent() -> str | None:
    """The context of OpenTelemetry's current span in this process, or None.

    Nothing is imported for it: who never imported OpenTelemetry has no span.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
