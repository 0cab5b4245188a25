"""Watches whose callbacks are called when a test says so, in its own thread.

A watcher without a thread: `look` compares after each generation, as the thread would if it were
never late, and keeps what changed; the kit calls the callbacks in that order when it delivers.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from control_plane.configs.watch import Change, Watch, Watcher

if TYPE_CHECKING:
    from control_plane.configs.settings import ConfigManager

Pending = deque[tuple[Watch, Change]]


class Deliveries(Watcher):
    """The watches of one manager; what changed goes to the end of ``pending``."""

    def __init__(self, manager: ConfigManager, pending: Pending) -> None:
        super().__init__(manager)
        self._pending = pending

    def look(self) -> None:
        """Compare every watched value with the one seen last."""
        with self._lock:
            groups = list(self._groups.values())
        for group in groups:
            self._pending.extend(self._changes(group))

    def _attend(self) -> None:
        """Start nothing: nobody looks but `look`."""


def deliver(pending: Pending) -> list[Change]:
    """Call the callback of each change, in order, until none is left; returns those changes.

    Whatever a callback raises comes out here; the changes behind it stay for the next call.
    """
    delivered = []
    while pending:
        watch, change = pending.popleft()
        if not watch.closed:
            delivered.append(change)
            watch._callback(change)
    return delivered
