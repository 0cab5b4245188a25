"""What is wrong with an environment now, as the bits of the header's state word.

- STALE: the newest cosignature is over 60 s old, or there never was one; CLOCK: it lies in the
  future. Step 4 blocks nothing: both are told, and data flows on.
- HELD: an entry is held; one that waits for a newer entry only counts from the log's end on.
- REJECTED: the last batch was refused, or the last entry rejected, or root has the log go on from
  another history than the one held here.
- DISK: the last write failed.
- TRUST_EXPIRED: the policy in force has run out; what is served stays.

The thread that follows the log sets plain attributes and the heartbeat's thread reads them, each
whole. It may see some of them one entry older than others, which the next second mends.
"""

from __future__ import annotations

from control_plane.log.steps import staleness
from control_plane.replica.header import (
    CLOCK,
    DISK,
    HELD,
    REJECTED,
    STALE,
    TRUST_EXPIRED,
)
from control_plane.trust.state import Policy


class Conditions:
    """The conditions of one environment; ``cosigned_at`` is in seconds, None before the first."""

    __slots__ = (
        "cosigned_at", "disk_failed", "diverged", "entry_held", "entry_rejected", "refused",
    )  # fmt: skip

    def __init__(self) -> None:
        self.cosigned_at: int | None = None
        self.refused = self.entry_rejected = self.entry_held = self.disk_failed = False
        self.diverged = False

    def note_cosignature(self, cosigned_at: int | None, now_ms: int) -> None:
        """Note when a verified checkpoint was cosigned; an older time changes nothing.

        But a time in the future gives way to any other: the store's clock was set right since.
        """
        if cosigned_at is None:
            return
        if staleness(self.cosigned_at, now_ms // 1000) != "clock":
            cosigned_at = max(self.cosigned_at or 0, cosigned_at)
        self.cosigned_at = cosigned_at

    def bits(self, policy: Policy | None, now_ms: int) -> int:
        """The bits that hold at ``now_ms``."""
        freshness = staleness(self.cosigned_at, now_ms // 1000)
        holding = {
            STALE: freshness == "stale",
            CLOCK: freshness == "clock",
            HELD: self.entry_held,
            REJECTED: self.refused or self.entry_rejected or self.diverged,
            DISK: self.disk_failed,
            TRUST_EXPIRED: policy is not None and policy.expired_at(now_ms),
        }
        return sum(bit for bit, holds in holding.items() if holds)
