"""One snapshot per generation for all requests of a process, and when it is given up.

- Whoever asks gets the newest generation. The snapshot is taken once and shared: a request that
  comes while it is the newest costs no transaction, and what others asked of it is compiled.
- A request reads a snapshot for HOLD_SECONDS at most, which is what a node promises for any.
  So nothing is counted and nobody has to give anything back: LINGER_SECONDS after a newer one
  was taken nobody reads the old one any more, and the next taker closes it. An application that
  forgets a request, or raises, or is cancelled, can leak nothing.
- The bound: one snapshot for each generation that was asked for in the last LINGER_SECONDS,
  however many requests there are. None of them holds back the daemon, see `replica/pins.py`.
- *Newest* is decided by the transaction id, not by a revision: a commit that changes no record
  still ends the time in which the node keeps an older snapshot.
- Without a replica, or while its writer keeps moving, there is no snapshot and the caller reads
  through the client, which knows what to answer then.
- A snapshot does not survive a fork: the child takes its own.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from control_plane.errors import ControlPlaneError
from control_plane.replica.header import SAFE_TXNID, TXN_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.client import ControlPlaneClient, PinnedView

HOLD_SECONDS = 10.0
LINGER_SECONDS = 2 * HOLD_SECONDS


class Forks:
    """How many forks lie between this process and the first: no ancestor has the same number."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def after_fork_in_child(self) -> None:
        """Count one more."""
        self.count += 1


# What the process is, not what it holds; asking the kernel for its id would cost each flag 150 ns.
FORKS = Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FORKS.after_fork_in_child)


class Snapshot:
    """A pinned view with what tells whether it is still the newest, and still whole."""

    __slots__ = ("_forks", "_overridden", "_txn_id", "_words", "generation", "view")

    def __init__(self, client: ControlPlaneClient) -> None:
        # Read before the snapshot is begun: it is of this transaction or of a later one.
        self._words = client.source.words
        self._txn_id: int = self._words[8 * TXN_ID]
        # It answers from a table of its own, which learns of no override that comes later.
        self._overridden = client.flags.overridden
        self._forks = FORKS.count
        self.view: PinnedView = client.pinned()
        self.generation = _generation(self.view)

    def is_newest(self, client: ControlPlaneClient) -> bool:
        """Whether nothing was committed, swapped or overridden since."""
        words = client.source.words
        return (
            words is self._words
            and words[8 * TXN_ID] == self._txn_id
            and client.flags.overridden is self._overridden
        )

    def is_whole(self) -> bool:
        """Whether the node still keeps it, and this is the process that took it."""
        return FORKS.count == self._forks and self._words[8 * SAFE_TXNID] <= self._txn_id


class Snapshots:
    """The snapshots of one client; safe to share between threads, and after a fork."""

    __slots__ = ("__weakref__", "_kept", "client", "clock")

    def __init__(self, client: ControlPlaneClient, clock: Callable[[], float] = monotonic) -> None:
        """``clock`` counts seconds. The client's ``close`` closes the snapshots, too."""
        self.client = client
        self.clock = clock
        self._kept: dict[int, _Kept] = {}
        client.adopt(self)

    def newest(self) -> Snapshot | None:
        """The newest generation, to be read for HOLD_SECONDS; None: read through the client."""
        kept = self._kept.get(FORKS.count) or self._of_this_process()
        # Follows a swap, so that the words below are those of the replica in use.
        self.client.source.open()
        snapshot = kept.newest
        if snapshot is not None and snapshot.is_newest(self.client):
            return snapshot
        return self._take(kept)

    def refresh(self) -> None:
        """Nothing to do: the transaction id is published before the generation a client awaits."""

    def close(self) -> None:
        """Close the snapshots of this process; a later call of ``newest`` takes a new one."""
        kept = self._kept.pop(FORKS.count, None)
        if kept is not None:
            kept.close()

    @property
    def open_count(self) -> int:
        """How many are open in this process."""
        kept = self._kept.get(FORKS.count)
        return 0 if kept is None else len(kept.superseded) + (kept.newest is not None)

    def _take(self, kept: _Kept) -> Snapshot | None:
        taken = Snapshot(self.client)
        made = taken if taken.generation > 0 else None
        if made is None:
            taken.view.close()
        kept.replace(made, self.clock())
        if self._kept.get(FORKS.count) is not kept:
            # Closed by another thread meanwhile, which did not see this one.
            kept.close()
        return made

    def _of_this_process(self) -> _Kept:
        """What this process keeps from now on; what it inherited through a fork is given up."""
        kept = self._kept.setdefault(FORKS.count, _Kept())
        for ancestor in [each for each in self._kept if each != FORKS.count]:
            inherited = self._kept.pop(ancestor, None)
            if inherited is not None:
                inherited.close()
        return kept


class _Kept:
    """What one process keeps: the newest snapshot, and older ones with when they were replaced."""

    __slots__ = ("_lock", "newest", "superseded")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self.newest: Snapshot | None = None
        self.superseded: deque[tuple[Snapshot, float]] = deque()

    def replace(self, newest: Snapshot | None, now: float) -> None:
        """Put a snapshot in the place of the newest, and close what nobody can be reading."""
        ended = []
        with self._lock:
            if self.newest is not None:
                self.superseded.append((self.newest, now))
            self.newest = newest
            while self.superseded and now - self.superseded[0][1] >= LINGER_SECONDS:
                ended.append(self.superseded.popleft()[0])
        for snapshot in ended:
            snapshot.view.close()

    def close(self) -> None:
        """Close everything. Takes no lock: after a fork a thread that is gone may have held it."""
        newest, self.newest = self.newest, None
        if newest is not None:
            newest.view.close()
        while self.superseded:
            self.superseded.popleft()[0].view.close()


def _generation(view: PinnedView) -> int:
    """The generation of a view; 0 where there is nothing to read."""
    try:
        return view.generation
    except ControlPlaneError:
        # The writer was restarted between the two, or the file is damaged: the client knows better
        # what to answer then.
        return 0
