"""Changes to a replica that are gathered first and written whole, or dropped whole.

A plan lies over a write transaction: what was put into it is read back from it, everything else
from the transaction. Nothing reaches the transaction before ``write``, so an entry that turns out
to be unservable half way leaves no trace.

A plan that grows past its bound is *staged*: its changes move into the ``staging`` sub-database in
transactions of their own, where no reader looks, and ``write`` makes them visible in one. A crash
in between leaves staged changes that no position knows of; whoever opens the replica next clears
them, and the entry is read from the log again.

What a plan holds of one space is kept in order for as long as somebody asks for keys by prefix, so
that an entry of many documents, each of which asks, takes no longer for each than one of a few.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from control_plane.replica.format import SERVED, Record, decode_record, encode_record

if TYPE_CHECKING:
    from control_plane.replica.writer import WriteTransaction


class Table(Protocol):
    """One of a replica's sub-databases inside a write transaction."""

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]: ...


HEADS: Final = b"h"
HELD: Final = b"e"
BLOBS: Final = b"b"
_RECORDS: Final = b"r"

STAGED_RECORDS: Final = 16_384
"""Records of this many take some 6 MiB as Python objects; 250 configs of 50 leaves are 12,500."""
STAGED_BYTES: Final = 16 << 20

Operations = dict[bytes, bytes | None]
"""Space and key → value; None removes."""

STAGED: Final = b"p"
"""What staged changes begin with in the ``staging`` sub-database."""
_CHUNK: Final = 1_024
_REMOVE: Final = b"\0"
_PUT: Final = b"\1"


class Plan:
    """Puts and removals over ``transaction()``; ``stage`` commits what outgrows the memory bound.

    ``transaction`` is asked each time, because staging ends one transaction and begins another.
    """

    __slots__ = ("_count", "_operations", "_orders", "_size", "_stage", "_transaction", "staged")

    def __init__(
        self,
        transaction: Callable[[], WriteTransaction],
        stage: Callable[[Operations], None] | None = None,
    ) -> None:
        self._transaction = transaction
        self._stage = stage
        self._operations: Operations = {}
        self._orders: dict[bytes, _Order] = {}
        self._size = self._count = 0
        self.staged = False

    @property
    def count(self) -> int:
        """How many changes of records wait in memory."""
        return self._count

    @property
    def size_bytes(self) -> int:
        """About how many bytes they are."""
        return self._size

    # Records

    def record(self, key: bytes) -> Record | None:
        """The record as it will stand."""
        found = self._planned(_RECORDS + key)
        if found is _ABSENT:
            return self._transaction().get_record(key)
        return None if found is None else decode_record(key, found)

    def put_record(
        self, key: bytes, kind: int, body: bytes, *, head: int, served: int, status: int = SERVED
    ) -> None:
        """Put a record; ``head`` and ``served`` are generations."""
        data = encode_record(
            key, kind, body, head_generation=head, served_generation=served, status=status
        )
        self._set(_RECORDS + key, data)

    def remove_record(self, key: bytes) -> None:
        """Leave no record at the key."""
        self._set(_RECORDS + key, None)

    def records(self, prefix: bytes) -> Iterator[tuple[bytes, Record]]:
        """The records whose keys begin so, as they will stand, in no promised order."""
        planned = dict(self._planned_items(_RECORDS + prefix))
        for key, record in self._transaction().scan(prefix):
            if _RECORDS + key not in planned:
                yield key, record
        for spaced, data in planned.items():
            if data is not None:
                yield spaced[1:], decode_record(spaced[1:], data)

    # The other sub-databases

    def get(self, space: bytes, key: bytes) -> bytes | None:
        """The value as it will stand."""
        found = self._planned(space + key)
        if found is _ABSENT:
            return _table(self._transaction(), space).get(key)
        return found

    def put(self, space: bytes, key: bytes, value: bytes) -> None:
        """Put a value into one of the spaces above."""
        self._set(space + key, value)

    def remove(self, space: bytes, key: bytes) -> None:
        """Leave no value at the key."""
        self._set(space + key, None)

    def items(self, space: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The keys that begin so and their values, as they will stand, in no promised order."""
        planned = dict(self._planned_items(space + prefix))
        for key, value in _table(self._transaction(), space).items(prefix):
            if space + key not in planned:
                yield key, value
        for spaced, data in planned.items():
            if data is not None:
                yield spaced[1:], data

    # Staging and writing

    def settle(self) -> None:
        """Stage what has been gathered when it has outgrown the bound; call between two changes."""
        if self._stage is None:
            return
        if self._count > STAGED_RECORDS or self._size > STAGED_BYTES:
            self._stage(self._operations)
            self._operations = {}
            self._orders = {}
            self._size = self._count = 0
            self.staged = True

    def write(self, transaction: WriteTransaction) -> None:
        """Write everything into ``transaction``; the plan is spent."""
        while self.staged and (chunk := list(islice(_staged_items(transaction), _CHUNK))):
            for spaced, data in chunk:
                _apply(transaction, spaced, _unstaged(data))
                transaction.staging.delete(STAGED + spaced)
        for spaced, value in self._operations.items():
            _apply(transaction, spaced, value)
        self._operations = {}
        self._orders = {}

    def _set(self, spaced: bytes, value: bytes | None) -> None:
        if spaced not in self._operations:
            order = self._orders.get(spaced[:1])
            if order is None:
                order = self._orders[spaced[:1]] = _Order()
            order.added.append(spaced)
        self._operations[spaced] = value
        self._count += spaced[:1] == _RECORDS
        self._size += len(spaced) + (0 if value is None else len(value))

    def _planned(self, spaced: bytes) -> bytes | None:
        if spaced in self._operations:
            return self._operations[spaced]
        if self.staged and (data := self._transaction().staging.get(STAGED + spaced)) is not None:
            return _unstaged(data)
        return _ABSENT

    def _planned_items(self, spaced_prefix: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        if self.staged:
            for spaced, data in _staged_items(self._transaction(), spaced_prefix):
                yield spaced, _unstaged(data)
        order = self._orders.get(spaced_prefix[:1])
        for spaced in () if order is None else order.beginning(spaced_prefix):
            yield spaced, self._operations[spaced]


class _Order:
    """The keys a plan holds of one space, sorted when they are asked for."""

    __slots__ = ("_sorted", "added")

    # Up to so many new keys are put into their places one by one: cheaper than to look at all.
    _FEW: Final = 16

    def __init__(self) -> None:
        self.added: list[bytes] = []
        self._sorted: list[bytes] = []

    def beginning(self, prefix: bytes) -> list[bytes]:
        """The keys that begin so."""
        if len(self.added) <= self._FEW:
            for key in self.added:
                insort(self._sorted, key)
        else:
            self._sorted += self.added
            self._sorted.sort()
        self.added = []
        found = self._sorted
        first = last = bisect_left(found, prefix)
        while last < len(found) and found[last].startswith(prefix):
            last += 1
        return found[first:last]


_ABSENT: Final = b"\xff absent"
"""Compared by identity: what a plan answers for a key it does not touch."""


def staging_items(operations: Operations) -> Iterator[tuple[bytes, bytes]]:
    """Operations as they stand in the ``staging`` sub-database."""
    for spaced, value in operations.items():
        yield STAGED + spaced, _REMOVE if value is None else _PUT + value


def _staged_items(
    transaction: WriteTransaction, prefix: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    for key, data in transaction.staging.items(STAGED + prefix):
        yield key[1:], data


def _unstaged(data: bytes) -> bytes | None:
    return None if data[:1] == _REMOVE else data[1:]


def _table(transaction: WriteTransaction, space: bytes) -> Table:
    if space == HEADS:
        return transaction.heads
    return transaction.held if space == HELD else transaction.blobs


def _apply(transaction: WriteTransaction, spaced: bytes, value: bytes | None) -> None:
    space, key = spaced[:1], spaced[1:]
    if space == _RECORDS:
        _apply_record(transaction, key, value)
    elif value is None:
        _table(transaction, space).delete(key)
    else:
        _table(transaction, space).put(key, value)


def _apply_record(transaction: WriteTransaction, key: bytes, value: bytes | None) -> None:
    if value is None:
        transaction.delete_record(key)
        return
    transaction.put_encoded(key, value)
