"""What is said of a flag that gives its caller's default: one log line per name and process."""

from __future__ import annotations

from control_plane.replica.reader import OPEN
from control_plane.shown import MAX_SHOWN_NAME, shown

MAX_LOGGED = 10_000


def complain(name: str, reason: str) -> None:
    """Log one line about this name, unless this process had one already."""
    name = name[:MAX_SHOWN_NAME]
    if name in OPEN.complained or len(OPEN.complained) >= MAX_LOGGED:
        return
    OPEN.complained.add(name)
    # Imported here: logging costs 10 ms, and a process whose flags are sound never logs.
    from logging import getLogger

    getLogger("control_plane.feature_flags").warning(
        "flag/%s: %s; the caller's default is served",
        shown(name),
        shown(reason),
    )
