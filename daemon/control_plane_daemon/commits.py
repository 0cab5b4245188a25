"""Whole entries grouped into transactions, and the position that moves with them.

What this module decides:

- Records, heads and the position they belong to are written in one transaction. A crash leaves the
  previous commit whole; the entries after it are read from the log again.
- A commit holds whole entries. It is full at 4,096 records, 16 MiB or 100 ms, so that neither a
  reader's wait nor a heartbeat's grows with the length of the log.
- What an entry gathers beyond 16,384 records or 16 MiB is staged in transactions that do not move
  the position beyond the entries before it, so nothing earlier waits for it. That is written twice,
  and a change behind it waits for both: a set of 250 configs of fifty leaves is not worth it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from control_plane.log.steps import Position
from control_plane.replica.plan import Operations, Plan, staging_items
from control_plane_daemon.logbook import write_position

if TYPE_CHECKING:
    from control_plane.replica.writer import ReplicaWriter, WriteTransaction

MAX_RECORDS: Final = 4_096
MAX_BYTES: Final = 16 << 20
MAX_SECONDS: Final = 0.1
COMMIT_INTERVAL_SECONDS: Final = 0.02
"""At most 50 commits a second; more entries wait for the next one."""


class Commits:
    """The open transaction of one writer, the entries in it, and the position they lead to."""

    def __init__(
        self,
        writer: ReplicaWriter,
        position: Position,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._monotonic = monotonic
        self._stack = ExitStack()
        self._transaction: WriteTransaction | None = None
        self._began = 0.0
        self._last_commit = -COMMIT_INTERVAL_SECONDS
        self._records = 0
        self._size_bytes = 0
        self._dirty = False
        self.position = position
        self.count = 0

    def writing(self) -> WriteTransaction:
        """The open transaction, to write into: `commit` will end it with effect."""
        self._dirty = True
        return self.transaction()

    def transaction(self) -> WriteTransaction:
        """The open transaction, to read from; begins one where none is open."""
        if self._transaction is None:
            self._transaction = self._stack.enter_context(self._writer.write())
            self._began = self._monotonic()
            self._records = self._size_bytes = 0
        return self._transaction

    def plan(self) -> Plan:
        """An empty plan over the open transaction, staged when it grows too large for one."""
        return Plan(self.transaction, self._stage)

    @property
    def full(self) -> bool:
        """Whether the open transaction must be committed before the next entry."""
        return self._transaction is not None and (
            self._records >= MAX_RECORDS
            or self._size_bytes >= MAX_BYTES
            or self._monotonic() - self._began >= MAX_SECONDS
        )

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next commit may happen; 0 for an idle daemon."""
        return max(0.0, self._last_commit + COMMIT_INTERVAL_SECONDS - self._monotonic())

    def add(self, plan: Plan, position: Position) -> None:
        """Add one entry: what it changes, and the position after it."""
        self._records += plan.count
        self._size_bytes += plan.size_bytes
        plan.write(self.writing())
        self.position = position

    def commit(self) -> None:
        """Make everything written visible at once; a transaction only read from is dropped."""
        if self._transaction is None:
            return
        if not self._dirty:
            self.abort()
            return
        write_position(self._transaction.log, self.position)
        self._transaction.generation = self.position.generation
        self._end()

    def abort(self) -> None:
        """Drop the open transaction; the caller reads its position again."""
        if self._transaction is None:
            return
        self._transaction = None
        self._dirty = False
        stack, self._stack = self._stack, ExitStack()
        with suppress(_Dropped):
            # The writer aborts a transaction that an exception leaves.
            stack.__exit__(_Dropped, _Dropped(), None)

    def clear_staging(self, prefix: bytes = b"") -> None:
        """Remove what lies staged under a prefix: of an entry that was dropped, or of a crash."""
        while True:
            staging = self.transaction().staging
            keys = [key for key, _ in islice(staging.items(prefix), MAX_RECORDS)]
            if not keys:
                self.commit()
                return
            for key in keys:
                self.writing().staging.delete(key)
            self.commit()

    def _stage(self, operations: Operations) -> None:
        # The entries before this one become visible with the first part of it that is staged. A
        # crash from here to the entry's own commit leaves staged changes without a position; they
        # are cleared at the next start and the entry is read again.
        staging = self.writing().staging
        for key, value in staging_items(operations):
            staging.put(key, value)
        self.commit()

    def _end(self) -> None:
        self._transaction = None
        self._dirty = False
        stack, self._stack = self._stack, ExitStack()
        stack.close()
        self._last_commit = self._monotonic()
        self.count += 1


class _Dropped(Exception):
    """Leaves a transaction's context on purpose."""
