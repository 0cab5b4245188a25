"""The one writer of a replica: what it changes, in which order, and why no reader is hurt.

Folder: ``<environment>/v1/`` holds ``daemon.lock``, the link ``current`` and numbered folders,
each with ``data.mdb``, ``lock.mdb`` and ``header``. Numbers only rise; the link is renamed only
forward. A folder is written by one process at a time (``flock`` on ``daemon.lock``), through one
write transaction at a time.

Why readers that take no lock are safe (the reader's half is in ``reader.py``)
-----------------------------------------------------------------------------
LMDB copies on write. A page that transaction N frees belongs to the snapshots before N and is
used again only when every snapshot that LMDB knows of is N or newer. It knows of the readers in
its table, and the only ones there are this writer's own: the *pins*.

1. While a pin P is held, no page of P or of any later snapshot is reused: LMDB asks for the oldest
   reader only. So a snapshot T is safe while some pin P <= T is held.
2. ``safe_txnid`` is the id of a pin that is held, in every instant after the first publication:
   a pin stops being *offered* (the word is raised to the next pin) and only MARGIN_SECONDS later
   is it dropped. A reader whose check ``safe_txnid <= T`` succeeded has at least that long to
   finish the copy it checks for, whatever the age of T.
3. A pin stops being offered when the *next* pin is old enough: `grace_seconds`, or less when the
   pinned pages have outgrown their budget, but never less than MINIMUM_SECONDS. Why the next
   one's age counts: a reader that accepted a T below the next pin Q began T before the header
   showed Q, and Q was pinned after the header showed it. So that T is as old as Q or older, and a
   snapshot that stayed the newest for an hour does not expire a moment after it is superseded.
4. Before each write: pin the newest transaction if it moved and the last pin is a second old,
   raise ``safe_txnid``, drop what may be dropped, begin. `tend` does the same while nothing is
   written. Ages are on the monotonic clock and are taken after the deed they date, which can
   only make things live longer.
5. After a commit ``txn_id`` is published before the next write begins: of the two meta pages at
   most the one that is not T's is being written while the header says T.
6. A restarted writer has no pins and does not know who reads. It pins the newest transaction,
   publishes it as ``safe_txnid``, and lets SETTLE_SECONDS pass before its first write, so that
   every call that was checked against the old word has returned. After a reboot there is nobody
   to wait for, and nobody has read a new folder.

The budget: every commit takes fresh pages while its predecessors are pinned, and LMDB never
gives a file's pages back. Pins are shortened when the file grew since the oldest offered pin
(so free pages had run out) and the pages that are in no live tree, pinned or free, exceed
``pin_budget_bytes``. A large deletion alone does not shorten them: the file does not grow.

What a crash leaves
-------------------
- in a write transaction, or in its commit: the previous snapshot; the file's unused pages differ;
- between commit and header words: a header that is behind. Readers accept the newer snapshot on
  the second look, hot paths have not noticed. The next start publishes everything;
- between raising ``safe_txnid`` and dropping pins: nothing to mend, views end a little earlier;
- while a folder is being made or rebuilt: a numbered folder nobody links to. The next start
  deletes it;
- between the renamed link and the tombstone: the next start writes the tombstone.
"""

from __future__ import annotations

import os
import shutil
import time
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import lmdb
from lmdb.verify import VerifyError
from lmdb.verify import verify as verify_database

from control_plane.errors import (
    ReplicaCorrupt,
    ReplicaInvalid,
    ReplicaLocked,
    ReplicaUnavailable,
    ReplicaUnwritable,
)
from control_plane.replica import format
from control_plane.replica.header import (
    BOOT_ID,
    CHECKPOINT_TIME_S,
    CLASS_REVISIONS,
    COMMIT_TIME_NS,
    CONFIG_REVISION,
    DEVELOPMENT,
    FLAGS_REVISION,
    GENERATION,
    HEARTBEAT_NS,
    REGISTRY_REVISION,
    REVISION,
    SAFE_TXNID,
    STATE,
    TOMBSTONE,
    TXN_ID,
    HeaderWriter,
    check_platform,
    create_header,
    map_header,
)
from control_plane.replica.reader import LMDB_ENGINE, MAP_BYTES, MAX_DATABASES
from control_plane.replica.source import FORMAT_FOLDER

MAX_READERS = 4096
PIN_INTERVAL_SECONDS = 1.0
MINIMUM_SECONDS = 10.0
MARGIN_SECONDS = 10.0
SETTLE_SECONDS = 2.0

DATABASES = ("records", "heads", "held", "blobs", "log", "staging")
GENERATION_KEY = b"generation"  # in `log`: u64, the generation of this snapshot

_BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"

CLASS_OF_KIND = {
    format.FLAG: FLAGS_REVISION,
    format.SEGMENT: FLAGS_REVISION,
    format.CONFIG: CONFIG_REVISION,
    format.AGENT: REGISTRY_REVISION,
    format.TOOL: REGISTRY_REVISION,
    format.CHANNEL: REGISTRY_REVISION,
    format.STATUS: REGISTRY_REVISION,
    format.RESOLUTION: REGISTRY_REVISION,
}


class Table:
    """One sub-database inside a write transaction, used like a small dict of bytes."""

    __slots__ = ("_database", "_transaction")

    def __init__(self, transaction: lmdb.Transaction[bytes], database: lmdb._Database) -> None:
        self._transaction = transaction
        self._database = database

    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None."""
        return self._transaction.get(key, None, self._database)

    def put(self, key: bytes, value: bytes) -> None:
        """Store the value; the key has 1 to 511 bytes."""
        self._transaction.put(key, value, db=self._database)

    def delete(self, key: bytes) -> None:
        """Remove the key if it is there."""
        self._transaction.delete(key, db=self._database)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in key order; collect them before changing the table."""
        cursor = self._transaction.cursor(self._database)
        if not (cursor.set_range(prefix) if prefix else cursor.first()):
            return
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key, value


class WriteTransaction:
    """Changes that become visible together when the ``with`` block of `ReplicaWriter.write` ends.

    ``generation`` is the snapshot's generation; set it to the last entry's. ``heads``, ``held``,
    ``blobs``, ``log`` and ``staging`` are the sub-databases no reader looks into (but for the key
    ``generation`` of ``log``, which belongs to this class).
    """

    __slots__ = (
        "_records",
        "blobs",
        "generation",
        "heads",
        "held",
        "log",
        "staging",
        "touched",
    )

    def __init__(
        self, transaction: lmdb.Transaction[bytes], databases: dict[str, lmdb._Database]
    ) -> None:
        self._records = Table(transaction, databases["records"])
        self.heads = Table(transaction, databases["heads"])
        self.held = Table(transaction, databases["held"])
        self.blobs = Table(transaction, databases["blobs"])
        self.log = Table(transaction, databases["log"])
        self.staging = Table(transaction, databases["staging"])
        self.generation = int.from_bytes(self.log.get(GENERATION_KEY) or b"", "little")
        self.touched: set[int] = set()  # the class revision words this transaction will raise

    def get_record(self, key: bytes) -> format.Record | None:
        """Return the record as it stands in this transaction.

        Raises:
            ReplicaCorrupt | FormatUnsupported: as `decode_record`.
        """
        data = self._records.get(key)
        return None if data is None else format.decode_record(key, data)

    def put_record(
        self,
        key: bytes,
        kind: int,
        body: bytes,
        *,
        head_generation: int,
        served_generation: int,
        status: int = format.SERVED,
    ) -> None:
        """Store a record. One that is there already, byte for byte, counts as no change.

        Raises:
            ValueError: the key does not begin with the kind.
        """
        if key[0] != kind:
            raise ValueError(f"expected a key of kind {kind}, found {format.describe_key(key)}")
        data = format.encode_record(
            key,
            kind,
            body,
            head_generation=head_generation,
            served_generation=served_generation,
            status=status,
        )
        if self._records.get(key) != data:
            self._records.put(key, data)
            self.touched.add(CLASS_OF_KIND[kind])

    def delete_record(self, key: bytes) -> None:
        """Remove a record if it is there."""
        if self._records.get(key) is not None:
            self._records.delete(key)
            self.touched.add(CLASS_OF_KIND[key[0]])

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, format.Record]]:
        """Yield (key, record) in key order; collect them before changing records."""
        for key, data in self._records.items(prefix):
            yield key, format.decode_record(key, data)


class Pin(NamedTuple):
    """A read transaction of the writer's own; it keeps the pages of its snapshot and all later ones."""

    transaction: lmdb.Transaction[bytes]
    txn_id: int
    since: float
    last_page: int


class Pins:
    """Which snapshots are offered to readers, and which are kept for those still in a call.

    The rules are 1 to 4 of the module's docstring.
    """

    def __init__(
        self,
        environment: lmdb.Environment,
        publish: Callable[[int], None],
        outgrown: Callable[[int], bool],
        grace_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._environment = environment
        self._publish = publish  # stores safe_txnid
        self._outgrown = outgrown  # the budget, given the oldest offered pin's last page
        self._grace_seconds = max(grace_seconds, MINIMUM_SECONDS)
        self._monotonic = monotonic
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
        return age >= MINIMUM_SECONDS and self._outgrown(oldest.last_page)


class Folder:
    """One numbered folder, open for writing: its database, its header and, once public, pins."""

    def __init__(self, path: str, *, new: bool, sync: bool) -> None:
        self.path = path
        self.pins: Pins | None = None
        # Class revisions of changes that are committed and not yet published.
        self.owed: set[int] = set()
        self.header = HeaderWriter(os.path.join(path, "header"))
        try:
            self.environment = _open_environment(path, sync=sync)
            try:
                self.databases = _open_databases(self.environment, new=new)
            except BaseException:
                self.environment.close()
                raise
        except BaseException:
            self.header.close()
            raise

    @property
    def txn_id(self) -> int:
        """The newest committed transaction."""
        return self.environment.info()["last_txnid"]

    def read_generation(self) -> int:
        """Return the generation of the newest snapshot."""
        with self.environment.begin() as transaction:
            value = transaction.get(GENERATION_KEY, b"", self.databases["log"])
        return int.from_bytes(value, "little")

    def spare_bytes(self) -> int:
        """Return the bytes of pages in no live tree: pinned, or free to be used again."""
        with self.environment.begin() as transaction:
            trees = [self.environment.stat()]
            trees += [transaction.stat(database) for database in self.databases.values()]
        live = sum(t["branch_pages"] + t["leaf_pages"] + t["overflow_pages"] for t in trees)
        return (self.environment.info()["last_pgno"] + 1 - live) * trees[0]["psize"]

    def publish(self, generation: int, wall_ns: int) -> None:
        """Tell readers of the newest commit: each word alone, in this order.

        A crash between two of them leaves the later ones behind; the next start publishes all.
        """
        header = self.header
        moved = generation != header[GENERATION]
        header[TXN_ID] = self.txn_id
        header[GENERATION] = generation
        header[COMMIT_TIME_NS] = wall_ns
        if self.owed or moved:
            raise_revisions(header, self.owed)
            self.owed.clear()

    def close(self) -> None:
        """Drop the pins, close database and header; the files stay."""
        if self.pins is not None:
            self.pins.close()
            self.pins = None
        self.environment.close()
        self.header.close()


class ReplicaWriter:
    """The writer of one environment's replica; made by `open`, closed by `close`.

    One thread writes at a time. `tend`, `heartbeat`, `set_state` and `set_checkpoint_time` may be
    called from another.
    """

    def __init__(
        self,
        folder: str,
        lock: int,
        *,
        development: bool,
        grace_seconds: float,
        pin_budget_bytes: int,
        sync: bool,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        wall_ns: Callable[[], int],
    ) -> None:
        """Use `open`."""
        self.folder = folder
        self._formats = os.path.join(folder, FORMAT_FOLDER)
        self._lock_descriptor = lock
        self._development = development
        self._grace_seconds = max(grace_seconds, MINIMUM_SECONDS)
        self._pin_budget_bytes = pin_budget_bytes
        self._sync = sync
        self._monotonic = monotonic
        self._sleep = sleep
        self._wall_ns = wall_ns
        self._busy = allocate_lock()  # held through a write and its publication
        self._writing_thread = 0
        self._live: Folder | None = None  # what `current` names, while it is written
        self._next: Folder | None = None  # a folder that is being filled beside it
        self._old_header: HeaderWriter | None = None  # what `current` names, while it is not
        self._quiet_until = 0.0
        self._condemned: list[tuple[float, str]] = []

    @classmethod
    def open(
        cls,
        folder: str,
        *,
        development: bool = False,
        rebuild: bool = False,
        grace_seconds: float = 300.0,
        pin_budget_bytes: int = 512 << 20,
        sync: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> ReplicaWriter:
        """Become the writer of ``folder`` (``<replica root>/<environment>``).

        A replica that is not there yet is made, empty. With ``rebuild`` the replica that is there
        stays as it is and a new folder is begun beside it; `swap` puts it in its place. Without
        ``sync`` a crash of the machine may damage the file.

        Raises:
            ReplicaLocked: another process writes it.
            ReplicaCorrupt | FormatUnsupported: the replica that is there cannot be continued and
                was left as it is, readable as far as it is; open again with ``rebuild``.
            ReplicaUnwritable: the file system refused.
        """
        check_platform()
        try:
            _make_folder(folder)
            _make_folder(os.path.join(folder, FORMAT_FOLDER))
            lock = _lock(os.path.join(folder, FORMAT_FOLDER, "daemon.lock"))
        except OSError as error:
            raise _unwritable(folder, error) from error
        writer = cls(
            folder,
            lock,
            development=development,
            grace_seconds=grace_seconds,
            pin_budget_bytes=pin_budget_bytes,
            sync=sync,
            monotonic=monotonic,
            sleep=sleep,
            wall_ns=wall_ns,
        )
        try:
            writer._start(rebuild)
        except OSError as error:
            writer.close()
            raise _unwritable(folder, error) from error
        except BaseException:
            writer.close()
            raise
        return writer

    @property
    def txn_id(self) -> int:
        """The newest committed transaction of the folder that is written."""
        return self._target.txn_id

    @property
    def generation(self) -> int:
        """The generation of the newest commit in the folder that is written."""
        return self._target.header[GENERATION]

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """Commit what the block does when it ends, or nothing of it when it raises.

        During a rebuild the changes go into the new folder, which no reader sees yet.

        Raises:
            ReplicaUnwritable: the disk refused; the last commit stands.
            RuntimeError: the calling thread is in a write already.
        """
        if self._writing_thread == get_ident():
            raise RuntimeError("expected one write at a time, found one inside another")
        with self._busy:
            self._writing_thread = get_ident()
            try:
                folder = self._target
                if folder.pins is not None:
                    self._settle()
                    folder.pins.advance()
                yield from self._commit(folder)
            finally:
                self._writing_thread = 0

    def tend(self) -> None:
        """Move the pins on and delete old folders; call it at least once a second."""
        # A write in progress did the first on its way in. Between its commit and its publication
        # nothing may be pinned, see rule 3.
        if not self._busy.acquire(False):
            return
        try:
            for folder in (self._live, self._next):
                if folder is not None and folder.pins is not None:
                    folder.pins.advance()
            self._remove_condemned()
        finally:
            self._busy.release()

    def heartbeat(self, now_ns: int | None = None) -> None:
        """Say that the writer is alive; ``now_ns`` is the wall clock in ns since 1970."""
        self._store(HEARTBEAT_NS, self._wall_ns() if now_ns is None else now_ns)

    def set_state(self, bits: int) -> None:
        """Publish the state bits of ``header``; DEVELOPMENT stays as the writer was opened."""
        development = DEVELOPMENT if self._development else 0
        self._store(STATE, bits & ~DEVELOPMENT | development)

    def set_checkpoint_time(self, seconds: int) -> None:
        """Publish the time of the newest cosignature, seconds since 1970."""
        self._store(CHECKPOINT_TIME_S, seconds)

    def rebuild(self) -> None:
        """Begin the next folder beside the current one, empty; writes go there from now on.

        The current one stays as it is, and readable: without a writer its pages do not change.

        Raises:
            RuntimeError: a rebuild is going on already.
            ReplicaUnwritable: the file system refused.
        """
        if self._next is not None:
            raise RuntimeError("expected no rebuild yet, found one going on; swap or close first")
        try:
            self._next = self._new_folder()
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        if self._live is not None:
            path = self._live.path
            self._live.close()
            self._live = None
            self._old_header = HeaderWriter(os.path.join(path, "header"))

    def swap(self) -> None:
        """Put the folder that was built in the place of the current one; readers follow at once.

        Raises:
            RuntimeError: there is no rebuild to end.
            ReplicaUnwritable: the file system refused; the current folder stays.
        """
        new = self._next
        if new is None:
            raise RuntimeError("expected a rebuild to swap in, found none; call rebuild first")
        with self._busy:
            old = _current_number(self._formats)
            # Everything a reader needs is in place before the link names it: pins, then words.
            if new.pins is None:
                new.pins = self._new_pins(new)
            new.owed.update(CLASS_REVISIONS)
            new.publish(new.header[GENERATION], self._wall_ns())
            try:
                self._point_current_at(os.path.basename(new.path))
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            self._live, self._next = new, None
            # A crash here leaves an old folder without tombstone: `_sweep` writes it at the start.
            if self._old_header is not None:
                self._old_header.close()
                self._old_header = None
            if old is not None:
                self._condemn(old)

    def close(self) -> None:
        """End the writer; the replica stays readable, a folder not swapped in is dropped."""
        for folder in (self._live, self._next):
            if folder is not None:
                folder.close()
        if self._old_header is not None:
            self._old_header.close()
        if self._next is not None:
            shutil.rmtree(self._next.path, ignore_errors=True)
        self._live = self._next = self._old_header = None
        if self._lock_descriptor >= 0:
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1

    def __enter__(self) -> ReplicaWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def _target(self) -> Folder:
        folder = self._next or self._live
        if folder is None:
            raise RuntimeError("expected an open writer, found it closed")
        return folder

    def _start(self, rebuild: bool) -> None:
        number = _current_number(self._formats)
        self._sweep(number)
        if number is None:
            self._next = self._new_folder()
            self.swap()
        elif rebuild:
            with suppress(ReplicaInvalid, ReplicaUnavailable):
                self._old_header = HeaderWriter(self._path(number, "header"))
            self._next = self._new_folder()
        else:
            self._live = self._open_current(self._path(number))

    def _open_current(self, path: str) -> Folder:
        """Continue the folder in use: check it, pin, publish everything, and be quiet a while."""
        _check_database(path)
        folder = Folder(path, new=False, sync=self._sync)
        try:
            boot_id = read_boot_id()
            if boot_id == 0 or folder.header[BOOT_ID] == boot_id:
                self._quiet_until = self._monotonic() + SETTLE_SECONDS
            folder.pins = self._new_pins(folder)
            folder.header[BOOT_ID] = boot_id
            # The last writer may have died anywhere in `publish`: nothing tells which classes
            # readers have not heard of, so all of them look again.
            folder.owed.update(CLASS_REVISIONS)
            folder.publish(folder.read_generation(), folder.header[COMMIT_TIME_NS])
            state = folder.header[STATE] & ~DEVELOPMENT
            folder.header[STATE] = state | (DEVELOPMENT if self._development else 0)
            folder.header[HEARTBEAT_NS] = self._wall_ns()
        except BaseException:
            folder.close()
            raise
        return folder

    def _new_folder(self) -> Folder:
        numbers = _numbers(self._formats)
        path = self._path(1 + max(numbers, default=0))
        os.mkdir(path)
        try:
            os.chmod(path, 0o755)
            create_header(
                os.path.join(path, "header"),
                {
                    BOOT_ID: read_boot_id(),
                    HEARTBEAT_NS: self._wall_ns(),
                    STATE: DEVELOPMENT if self._development else 0,
                    **dict.fromkeys((REVISION, *CLASS_REVISIONS), self._revision_floor(numbers)),
                },
            )
            return Folder(path, new=True, sync=self._sync)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def _revision_floor(self, numbers: list[int]) -> int:
        """Return a revision no lower than any that a reader of an older folder has seen."""
        floor = 0
        for number in numbers:
            try:
                words = map_header(self._path(number, "header"))
            except (ReplicaInvalid, ReplicaUnavailable):
                # Unreadable: no folder has counted as far as the clock's nanoseconds.
                floor = max(floor, self._wall_ns())
            else:
                floor = max(floor, *(words[8 * word] for word in (REVISION, *CLASS_REVISIONS)))
        return floor

    def _new_pins(self, folder: Folder) -> Pins:
        def publish(txn_id: int) -> None:
            folder.header[SAFE_TXNID] = txn_id

        def outgrown(last_page: int) -> bool:
            grown = folder.environment.info()["last_pgno"] > last_page
            return grown and folder.spare_bytes() > self._pin_budget_bytes

        return Pins(folder.environment, publish, outgrown, self._grace_seconds, self._monotonic)

    def _settle(self) -> None:
        remaining = self._quiet_until - self._monotonic()
        if remaining > 0:
            self._sleep(remaining)
        self._quiet_until = 0.0

    def _commit(self, folder: Folder) -> Iterator[WriteTransaction]:
        transaction = None
        try:
            transaction = folder.environment.begin(write=True)
            changes = WriteTransaction(transaction, folder.databases)
            before = changes.generation
            yield changes
            if changes.generation != before:
                changes.log.put(GENERATION_KEY, changes.generation.to_bytes(8, "little"))
            folder.owed |= changes.touched
            transaction.commit()
        except lmdb.BadValsizeError as error:
            _abort(transaction)
            raise ValueError(f"expected keys of 1 to 511 bytes, found another: {error}") from error
        except lmdb.Error as error:
            _abort(transaction)
            # A reader may have seen the snapshot that LMDB then took back: all look again.
            raise_revisions(folder.header, set(CLASS_REVISIONS))
            raise _unwritable(folder.path, error) from error
        except BaseException:
            _abort(transaction)
            raise
        folder.publish(changes.generation, self._wall_ns())

    def _store(self, word: int, value: int) -> None:
        """Store a word that readers of the current and of the coming folder look at."""
        for folder in (self._live, self._next):
            if folder is not None:
                folder.header[word] = value
        if self._old_header is not None:
            self._old_header[word] = value

    def _sweep(self, current: int | None) -> None:
        """Mend what a crash left beside the current folder."""
        for number in _numbers(self._formats):
            if number == current:
                continue
            self._condemn(number)
            if current is None or number > current:
                # Never linked, or the link is gone: nobody can be about to open it.
                shutil.rmtree(self._path(number), ignore_errors=True)

    def _condemn(self, number: int) -> None:
        """Send the folder's readers to `current`, and delete it after the grace period."""
        with suppress(ReplicaInvalid, ReplicaUnavailable):
            header = HeaderWriter(self._path(number, "header"))
            # The tombstone first: a hot path that sees a revision move must find it.
            header[TOMBSTONE] = 1
            raise_revisions(header, set(CLASS_REVISIONS))
            header.close()
        self._condemned.append((self._monotonic() + self._grace_seconds, self._path(number)))

    def _remove_condemned(self) -> None:
        now = self._monotonic()
        for due, path in list(self._condemned):
            if now >= due:
                shutil.rmtree(path, ignore_errors=True)
                self._condemned.remove((due, path))

    def _point_current_at(self, name: str) -> None:
        link = os.path.join(self._formats, "current")
        with suppress(FileNotFoundError):
            os.unlink(link + ".new")
        os.symlink(name, link + ".new")
        _sync_folder(os.path.join(self._formats, name))
        os.rename(link + ".new", link)
        _sync_folder(self._formats)

    def _path(self, number: int, *names: str) -> str:
        return os.path.join(self._formats, str(number), *names)


def raise_revisions(header: HeaderWriter, touched: set[int]) -> None:
    """Raise the class revisions in ``touched``, then the revision, which wakes watchers."""
    above = 1 + max(header[word] for word in (REVISION, *CLASS_REVISIONS))
    for word in CLASS_REVISIONS:
        if word in touched:
            header[word] = above
    header[REVISION] = above


def read_boot_id() -> int:
    """Return the first 8 bytes of the kernel's boot id, 0 where there is none to read."""
    try:
        with open(_BOOT_ID_PATH, encoding="ascii") as file:
            return int.from_bytes(bytes.fromhex(file.read().strip().replace("-", ""))[:8], "little")
    except (OSError, ValueError):
        return 0


def _open_environment(path: str, *, sync: bool) -> lmdb.Environment:
    environment = lmdb.open(
        path,
        map_size=MAP_BYTES,
        max_dbs=MAX_DATABASES,
        max_readers=MAX_READERS,
        max_spare_txns=0,
        mode=0o644,
        sync=sync,
        lib_version=LMDB_ENGINE,
    )
    # Whatever the umask: everybody reads the data, nobody else may touch the lock.
    os.chmod(os.path.join(path, "data.mdb"), 0o644)
    os.chmod(os.path.join(path, "lock.mdb"), 0o600)
    return environment


def _open_databases(environment: lmdb.Environment, *, new: bool) -> dict[str, lmdb._Database]:
    if new:
        with environment.begin(write=True) as transaction:
            return {name: environment.open_db(name.encode(), transaction) for name in DATABASES}
    return {name: environment.open_db(name.encode(), create=False) for name in DATABASES}


def _check_database(path: str) -> None:
    """Raise `ReplicaCorrupt` unless header and database are whole.

    The database is walked without LMDB, which may end the process on a damaged file. Nobody
    writes it meanwhile: the caller holds the lock.
    """
    file = os.path.join(path, "data.mdb")
    try:
        problems: list[str] = verify_database(file)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    except FileNotFoundError:
        problems = ["no such file"]
    if not os.path.exists(os.path.join(path, "header")):
        problems.append("no header beside it")
    if problems:
        raise ReplicaCorrupt(
            f"{file}: expected a sound database, found: {problems[0]}; the replica is rebuilt "
            "beside it from the log"
        )


def _current_number(formats: str) -> int | None:
    try:
        return int(os.readlink(os.path.join(formats, "current")).rstrip("/"))
    except FileNotFoundError:
        return None
    except ValueError:
        return None


def _numbers(formats: str) -> list[int]:
    return sorted(int(name) for name in os.listdir(formats) if name.isascii() and name.isdigit())


def _make_folder(path: str) -> None:
    if not os.path.isdir(path):
        os.makedirs(path)
        os.chmod(path, 0o755)


def _lock(path: str) -> int:
    """Return a descriptor that holds the lock; the kernel gives it back when the process ends."""
    import fcntl  # not on Windows, where this module still has to load

    # 0600: whoever can open the file could hold the lock and keep the daemon out.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise ReplicaLocked(
            f"{path}: expected no other writer, found process {holder}; stop that one first"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _abort(transaction: lmdb.Transaction[bytes] | None) -> None:
    if transaction is not None:
        transaction.abort()


def _unwritable(place: str, error: Exception) -> ReplicaUnwritable:
    return ReplicaUnwritable(
        f"{place}: expected to write the replica, found: {error}; the last good replica stays, "
        "make room or mend the permissions"
    )
