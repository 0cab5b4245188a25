"""The writer's half of the proof that readers need no lock: which snapshots stay whole.

LMDB copies on write. A page that transaction N frees belongs to the snapshots before N and is
used again only when every snapshot that LMDB knows of is newer than N. It knows of the readers in
its table, and the only ones there are the writer's own: the *pins*. (The reader's half of the
proof is in ``reader.py``.)

1. While a pin P is held, no page of P or of any later snapshot is reused: LMDB asks for the oldest
   reader only. So a snapshot T is safe while some pin P <= T is held.
2. ``safe_txnid`` is the id of a pin that is held, in every instant after the first publication:
   a pin stops being *offered* (the word is raised to the next pin) and only MARGIN_SECONDS later
   is it dropped. A reader whose check ``safe_txnid <= T`` succeeded has at least that long to
   finish the copy it checks for, whatever the age of T.
3. A pin stops being offered when the *next* pin is old enough: `grace_seconds`, or less when the
   pinned pages outgrow, or once outgrew, their budget, but never less than MINIMUM_SECONDS. Why
   the next one's age counts: a reader that accepted a T below the next pin Q began T before the
   header showed Q, and Q was pinned after the header showed it. So that T is as old as Q or
   older, and a snapshot that stayed the newest for an hour does not expire a moment after it is
   superseded.
4. Before each write: pin the newest transaction if it moved and the last pin is a second old,
   raise ``safe_txnid``, drop what may be dropped, begin. `tend` does the same while nothing is
   written. Ages are on the monotonic clock and are taken after the deed they date, which can
   only make things live longer.
5. After a commit ``txn_id`` is published before the next write begins: of the two meta pages at
   most the one that is not T's is being written while the header says T.
6. A restarted writer has no pins and does not know who reads. It pins the newest transaction,
   publishes it as ``safe_txnid``, and lets SETTLE_SECONDS pass before its first write, so that
   every call that was checked against the old word has returned. After a reboot there is nobody
   to wait for, and nobody has read a new folder. A folder that is no longer written needs no pins.

Not covered: a commit whose very last write, the meta page, fails in the disk. A reader may have
begun on it before LMDB put the old page back. LMDB then refuses further writes, and the folder
should be rebuilt, not opened again.

The budget: every commit takes fresh pages while its predecessors are pinned, and LMDB never
gives a file's pages back. When the file grew since the oldest offered pin (so free pages had run
out) and the pages that are in no live tree, pinned or free, would come to exceed
``pin_budget_bytes``, the pins are shortened. A large deletion alone does not shorten them: the
file does not grow.

Until what was unpinned is free, MARGIN_SECONDS later, the file grows on, presumably as much as in
the MARGIN_SECONDS before; so that is counted too. It must not happen time and again, so what was
learnt is kept: the snapshots held at that moment were too many for the file, and from then on half
as many commits are offered at most. (Commits, not seconds: at a slower pace they last longer.)
When commits become larger it happens again, and the number is halved again. A restarted writer
learns anew, at the price of MARGIN_SECONDS of commits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import lmdb

PIN_INTERVAL_SECONDS = 1.0
MINIMUM_SECONDS = 10.0
MARGIN_SECONDS = 10.0
SETTLE_SECONDS = 2.0
UNBOUNDED = 1 << 63


class Pin(NamedTuple):
    """A read transaction of the writer's own, which keeps its snapshot and all later ones."""

    transaction: lmdb.Transaction[bytes]
    txn_id: int
    since: float
    last_page: int


class Pins:
    """Which snapshots are offered to readers, and which are kept for those still in a call.

    The rules are 1 to 4 at the top of this module.
    """

    def __init__(
        self,
        environment: lmdb.Environment,
        publish: Callable[[int], None],
        outgrown: Callable[[int, int], bool],
        grace_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._environment = environment
        self._publish = publish  # stores safe_txnid
        # The budget, given the last page at the oldest offered pin and MARGIN_SECONDS ago.
        self._outgrown = outgrown
        self._grace_seconds = max(grace_seconds, MINIMUM_SECONDS)
        self._monotonic = monotonic
        self._most_commits = UNBOUNDED  # offered at once; less once the budget was outgrown
        self._offered: deque[Pin] = deque()
        self._leaving: deque[tuple[Pin, float]] = deque()  # with the time it ceased to be offered
        self._pin()
        self._publish(self._offered[0].txn_id)

    def advance(self) -> None:
        """Pin what is new, stop offering what is old, drop what nobody can be copying."""
        newest = self._offered[-1]
        if (
            self._monotonic() - newest.since >= PIN_INTERVAL_SECONDS
            and self._environment.info()["last_txnid"] != newest.txn_id
        ):
            self._pin()
        self._stop_offering()
        while self._leaving and self._monotonic() - self._leaving[0][1] >= MARGIN_SECONDS:
            self._leaving.popleft()[0].transaction.abort()

    def close(self) -> None:
        """Drop every pin; nothing may be written any more."""
        for pin in (*self._offered, *(pin for pin, _ in self._leaving)):
            pin.transaction.abort()
        self._offered.clear()
        self._leaving.clear()

    def _pin(self) -> None:
        transaction = self._environment.begin()
        last_page = self._environment.info()["last_pgno"]
        self._offered.append(Pin(transaction, transaction.id(), self._monotonic(), last_page))

    def _stop_offering(self) -> None:
        now = self._monotonic()
        left: list[Pin] = []
        while len(self._offered) > 1 and self._is_over(self._offered[0], self._offered[1], now):
            left.append(self._offered.popleft())
        if left:
            # The word first, the date after: from that date on no check lets these through.
            self._publish(self._offered[0].txn_id)
            ended = self._monotonic()
            self._leaving.extend((pin, ended) for pin in left)

    def _is_over(self, oldest: Pin, following: Pin, now: float) -> bool:
        age = now - following.since
        if age >= self._grace_seconds:
            return True
        if age < MINIMUM_SECONDS:
            return False
        newest = self._offered[-1].txn_id
        if newest - following.txn_id >= self._most_commits:
            return True
        before = (pin for pin in reversed(self._offered) if now - pin.since >= MARGIN_SECONDS)
        if not self._outgrown(oldest.last_page, next(before, oldest).last_page):
            return False
        held = newest - (self._leaving[0][0] if self._leaving else oldest).txn_id
        self._most_commits = min(self._most_commits, held // 2)
        return True
