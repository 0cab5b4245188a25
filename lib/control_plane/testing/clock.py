"""What time it is for a test: a clock that stands still, or runs ahead of another.

Times are given as people and manifests write them: seconds since 1970, an aware ``datetime``, or
text of RFC 3339 (``2026-03-01T09:00:00Z``), read as a flag's ``from`` and ``until`` are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

from control_plane.feature_flags.comparing import instant

Moment = float | str | datetime
"""Seconds since 1970, RFC 3339 text, or an aware ``datetime``."""


class Clock:
    """The time of one kit: called, it gives seconds since 1970; `advance` and `set` change it.

    Made from a moment it stands still there; made from a function it goes as that goes.
    """

    def __init__(self, now: Moment | Callable[[], float]) -> None:
        self._base: Callable[[], float] = now if callable(now) else _standing(now)
        self._ahead_seconds = 0.0

    def __call__(self) -> float:
        return self._base() + self._ahead_seconds

    def advance(self, seconds: float) -> None:
        """Let this much time pass at once.

        Raises:
            ValueError: it is negative; `set` goes back.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"expected 0 seconds or more, found {seconds}; set() goes back")
        self._ahead_seconds += seconds

    def set(self, now: Moment) -> None:
        """Stand still at this moment, whatever the clock did before."""
        self._base, self._ahead_seconds = _standing(now), 0.0

    def __repr__(self) -> str:
        return f"<Clock at {self():.3f}>"


def _standing(moment: Moment) -> Callable[[], float]:
    seconds = _seconds(moment)
    return lambda: seconds


def _seconds(moment: object) -> float:
    """A moment as seconds since 1970.

    Raises:
        TypeError | ValueError: it is none, or nobody can tell its time zone.
    """
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"expected a datetime with a time zone, found {moment.isoformat()}")
        return moment.timestamp()
    if isinstance(moment, str):
        seconds = instant(moment)
    elif isinstance(moment, int | float) and not isinstance(moment, bool):
        seconds = float(moment)
    else:
        found = type(moment).__name__
        raise TypeError(f"expected seconds, RFC 3339 text or a datetime, found {found}")
    if not math.isfinite(seconds):
        raise ValueError(f"expected a time like 2026-03-01T09:00:00Z, found {moment!r}")
    return seconds
