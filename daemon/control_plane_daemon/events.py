"""What happened while an environment was followed, counted for whoever asks.

The thread that follows the log adds, any thread reads; each number is whole. The count begins anew
with the follower, as after a rebuild, which Prometheus takes for the restart it is.
"""

from __future__ import annotations

from typing import Final

from control_plane.errors import ChecksumMismatch, SignatureInvalid, ThresholdNotReached

VISIBLE_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0)
MISMATCHES: Final = frozenset(
    (ChecksumMismatch.code, SignatureInvalid.code, ThresholdNotReached.code)
)


class Events:
    """Counts of one environment since its follower was made."""

    __slots__ = ("commits", "commits_failed", "failures", "mismatches", "visible", "visible_sum")

    def __init__(self) -> None:
        self.commits = self.commits_failed = self.mismatches = 0
        self.failures: dict[str, int] = {"refused": 0, "rejected": 0, "held": 0}
        self.visible = [0] * (len(VISIBLE_SECONDS) + 1)
        self.visible_sum = 0.0

    def failed(self, outcome: str, code: str = "") -> None:
        """A batch was refused, or an entry rejected or held; ``code`` is its error's."""
        self.failures[outcome] += 1
        self.mismatches += code in MISMATCHES

    def seen(self, seconds: float) -> None:
        """An entry became visible so long after it was sequenced."""
        # A clock that is behind the store's makes no entry early.
        seconds = max(0.0, seconds)
        self.visible[sum(seconds > bound for bound in VISIBLE_SECONDS)] += 1
        self.visible_sum += seconds
