"""Which configuration records the last commits changed, so that nobody has to compare them all.

- ``log`` holds a count of the commits that changed configuration records, and for each of the last
  64 of them, in a slot, its number in that count and the keys it changed. A commit that changed
  more keys than a slot names leaves a slot without names. Count and slots change in the
  transaction that changes the records, so in one snapshot they always agree with them.
- A reader that remembers the count of its last look asks for the keys changed since. There is an
  answer only where each commit in between is known and named; without one it compares everything.
- The count says nothing about commits by a writer that knows of no count. Whoever relies on it
  also counts how often the header's configuration revision rose.

Pure functions of tables; the writer's half and the reader's stand side by side.
"""

from __future__ import annotations

from msgpack import packb, unpackb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Protocol

    class WritableTable(Protocol):
        """The sub-database ``log`` inside a write transaction."""

        def get(self, key: bytes) -> bytes | None: ...
        def put(self, key: bytes, value: bytes) -> None: ...

    class Snapshot(Protocol):
        """A view of a replica."""

        def read_log(self, *keys: bytes) -> Sequence[bytes | None]: ...


COUNT_KEY = b"config changes"
SLOTS = 64
MAX_NAMED_KEYS = 256


def note_changes(log: WritableTable, keys: Collection[bytes]) -> None:
    """Count one more commit, the one under way, which changes the records with these keys."""
    count = _number(log.get(COUNT_KEY)) + 1
    named = sorted(keys) if len(keys) <= MAX_NAMED_KEYS else None
    log.put(_slot(count), packb([count, named]))
    log.put(COUNT_KEY, count.to_bytes(8, "little"))


def change_count(snapshot: Snapshot) -> int:
    """How many commits of this replica's folder changed configuration; 0 where nobody counted."""
    [count] = snapshot.read_log(COUNT_KEY)
    return _number(count)


def changed_keys(snapshot: Snapshot, since: int, until: int) -> set[bytes] | None:
    """The record keys that the commits after ``since`` up to ``until`` changed.

    None where that is not known: compare everything.
    """
    if not 0 <= until - since <= SLOTS:
        return None
    numbers = range(since + 1, until + 1)
    changed: set[bytes] = set()
    slots = snapshot.read_log(*map(_slot, numbers))
    for number, slot in zip(numbers, slots, strict=True):
        found, keys = unpackb(slot) if slot is not None else (0, None)
        if found != number or keys is None:
            return None
        changed.update(keys)
    return changed


def _slot(number: int) -> bytes:
    return COUNT_KEY + b"/%02d" % (number % SLOTS)


def _number(stored: bytes | None) -> int:
    return int.from_bytes(stored or b"", "little")
