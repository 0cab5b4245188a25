"""What every reader of these tests does, whatever process it lives in: read, judge, count.

- *torn*: the records of one snapshot do not all hold one number, or the flags of one view do not
  all hold its generation.
- *stale*: an answer is below the number that was published before it was asked for, or below the
  same question's answer before it. (Two flags asked one after the other may be of two generations
  for as long as the writer is between a commit and its publication: only a view promises one.)
- *failed*: a flag gave its default, or there was no replica to read.

A busy read and an expired view are refusals, not answers; they are counted apart.
"""

from __future__ import annotations

import mmap
import random
import time
from pathlib import Path

import msgpack
from writing_process import KEYS, NAMES

from control_plane import ControlPlaneClient
from control_plane.client import PinnedView
from control_plane.errors import ReplicaBusy, ViewExpired
from control_plane.replica.format import decode_record

EVALUATIONS = 60
COUNTED = ("snapshots", "evaluations", "views", "torn", "stale", "failed", "busy", "expired")


class Reading:
    """A client, the page that says what is published, and the counts of what was read."""

    def __init__(self, client: ControlPlaneClient, published: memoryview) -> None:
        self.client = client
        self.published = published
        self.counts = dict.fromkeys(COUNTED, 0)
        self._stopped = False

    def stop(self) -> None:
        """End every `go` soon."""
        self._stopped = True

    @classmethod
    def open(cls, root: str, published: str) -> Reading:
        """Open a client of its own."""
        with Path(published).open("rb") as file:
            page = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
        return cls(ControlPlaneClient(root, "production"), memoryview(page).cast("Q"))

    def beside(self) -> Reading:
        """Another count, of what is read through the same client."""
        return Reading(self.client, self.published)

    @property
    def reads(self) -> int:
        """How many answers were judged."""
        return sum(self.counts[name] for name in ("snapshots", "evaluations", "views"))

    def go(self, reads: int) -> Reading:
        """Judge at least ``reads`` answers more, some through a view that is kept a while."""
        snapshot, values = 0, dict.fromkeys(NAMES, 0)
        view, until = self.client.pinned(), 0.0
        end = self.reads + reads
        try:
            while self.reads < end and not self._stopped:
                snapshot = self.read_snapshot(snapshot)
                self.evaluate(values)
                if not self.read_view(view) or time.monotonic() > until:
                    view.close()
                    view = self.client.pinned()
                    # Some close in time, some outlive the accelerated grace period.
                    until = time.monotonic() + random.uniform(0.0, 3.0)
        finally:
            view.close()
        return self

    def read_snapshot(self, last: int) -> int:
        """Read all records as one snapshot; the number they hold."""
        published = self.published[0]
        replica = self.client.source.open()
        if replica is None:
            self.counts["failed"] += 1
            return last
        try:
            _, raw = replica.read(*KEYS)
        except ReplicaBusy:
            self.counts["busy"] += 1
            return last
        numbers = {number(key, data) for key, data in zip(KEYS, raw, strict=True)}
        self.counts["snapshots"] += 1
        self.counts["torn"] += len(numbers) != 1
        self.counts["stale"] += min(numbers) < max(published, last)
        return min(numbers)

    def evaluate(self, last: dict[str, int]) -> None:
        """Ask for flags in turn, as an application does; ``last`` keeps each flag's answer."""
        value, page = self.client.flags.value, self.published
        stale = failed = 0
        for turn in range(EVALUATIONS):
            name = NAMES[turn & 3]
            published = page[0]
            found = value(name, -1)
            if found < published or found < last[name]:
                # A default is no old answer: something could not be read.
                failed += found < 0
                stale += found >= 0
            else:
                last[name] = found
        self.counts["evaluations"] += EVALUATIONS
        self.counts["stale"] += stale
        self.counts["failed"] += failed

    def read_view(self, view: PinnedView) -> bool:
        """Read every flag of a view; False when it has expired."""
        numbers = {view.value(name, -1) for name in NAMES}
        try:
            generation = view.generation
        except ViewExpired:
            self.counts["expired"] += 1
            return False
        self.counts["views"] += 1
        self.counts["torn"] += numbers != {generation}
        return True


def number(key: bytes, data: bytes | None) -> int:
    """The number a record holds; one that is torn does not decode."""
    if data is None:
        return -1
    definition = msgpack.unpackb(decode_record(key, data).body)
    found: int = definition["m"]["variants"]["n"]
    return found
