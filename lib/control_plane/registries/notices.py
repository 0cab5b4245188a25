"""What a process is told once: a version that should not be used any more, an override refused.

One log line for each thing and process, and for a version one ``DeprecationWarning`` besides. How
often such a version was handed out is counted by whoever hands it out.
"""

from __future__ import annotations

from control_plane.replica.reader import OPEN
from control_plane.shown import shown

MAX_NOTICES = 10_000
"""Names may come from anywhere; what is said beyond these is not said at all."""


def say_once(about: str, sentence: str) -> bool:
    """Log one line about this, unless this process had one already; whether it was logged."""
    if about in OPEN.complained or len(OPEN.complained) >= MAX_NOTICES:
        return False
    OPEN.complained.add(about)
    # Imported here: logging costs 10 ms, and most processes have nothing to be told.
    from logging import getLogger

    getLogger("control_plane.registries").warning("%s: %s", shown(about), shown(sentence))
    return True


def discourage(
    reference: str, status: str, reason: str | None, successor: str | None, stack: int
) -> None:
    """Tell once that a version is deprecated or yanked; ``stack`` frames above is who uses it."""
    about = f"{reference} {status}"
    if about in OPEN.complained:
        return
    why = "" if reason is None else f": {reason}"
    instead = f"; use {successor}" if successor else "; see its changelog, or ask its owner"
    sentence = f"expected a version in use, found it {status}{why}{instead}"
    if say_once(about, sentence):
        from warnings import warn

        # Last: where warnings are errors this raises, and the log line has been said.
        warn(f"{reference}: {shown(sentence)}", DeprecationWarning, stacklevel=stack + 1)
