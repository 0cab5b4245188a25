"""Reading a replica without a lock: which snapshot may be read, and when it is given up.

A replica is opened ``readonly=True, lock=False``: the reader writes nothing, holds no slot in
LMDB's reader table, and nothing it does, not even being killed, disturbs the writer. In return
LMDB does not know that it reads, so each read proves for itself that no page under it was
reused. The writer's half of the proof stands in ``pins.py``; the reader's half is this:

1. *The snapshot is whole.* A reader begins T and then reads the header's transaction id h. The
   writer publishes h after the commit of h and before it begins h + 1.
   - T == h: the meta page of T was complete before h was published, and the one that a writer
     may be filling now is the other one. It is filled again only by T + 2, which begins after
     T + 1 was published, so T < h would have been seen.
   - T < h: the meta page of T may be under the writer's hands: begin anew.
   - T > h: the commit of T has reached the file and its publication has not (or never will: the
     writer died in between). Begin once more, read h again, and accept only the same T: its last
     word was visible a whole begin ago, and while h < T nobody has begun T + 1, so nobody writes
     over it.
2. *Its pages are not reused.* ``safe_txnid <= T`` says that the writer pins T or something older.
   It raises the word long before it drops a pin, so after a successful check the pages of T stay
   for seconds, while a copy takes microseconds. The check after the copy catches a reader that
   was stopped in between; what it copied is thrown away.
3. *The bytes are the record's.* Decoding compares the XXH3 of key and body. This catches disk
   and memory faults; it is not what the proof rests on.

What remains is a process that is frozen inside one LMDB call, for longer than the writer's
margin, while the writer goes on: that process may read reused pages and die. LMDB's reader table
would turn the same freeze into a node whose updates stop.

The one process-wide state of the package is here: the counted table of open replicas. LMDB
allows a file to be opened once per process, so everybody who reads a replica shares its entry.
Transactions of one replica begin, copy and end under its lock, on the miss path only. The lock
may be taken again by its thread: a signal handler that evaluates a flag may have interrupted a
read.

A thread that forks holds all these locks meanwhile. py-lmdb counts the threads that are inside
LMDB and waits for them before it closes a file; a child forked beside such a thread would inherit
the count without the thread and wait for ever.
"""

from __future__ import annotations

import os
from _thread import RLock, allocate_lock, get_ident

import lmdb

from control_plane.errors import (
    ReplicaBusy,
    ReplicaCorrupt,
    ReplicaUnavailable,
    ViewExpired,
)
from control_plane.forking import end_imports
from control_plane.replica.header import SAFE_TXNID, TXN_ID, check_platform, map_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeVar

    Result = TypeVar("Result")

MAP_BYTES = 64 << 30  # address space only: the file is sparse and grows as it is written
MAX_DATABASES = 16
LMDB_ENGINE = 0  # the 0.9 engine; its file format is the one that is promised
ROUNDS = 100
FORK_WAIT = 5.0  # seconds that a fork waits for other threads' reads, which take microseconds

_TXN = 8 * TXN_ID
_SAFE = 8 * SAFE_TXNID


class Replica:
    """One open replica folder, shared by everybody in the process who reads it.

    Made by `open_replica`; each holder calls `close` once. Every method may be called from any
    thread and, after a fork, in the child.
    """

    __slots__ = (
        "_blobs",
        "_environment",
        "_era",
        "_holders",
        "_identity",
        "_lock",
        "_log",
        "_records",
        "directory",
        "words",
    )

    def __init__(self, directory: str, identity: tuple[int, int]) -> None:
        self.directory = directory
        self.words = map_header(os.path.join(directory, "header"))
        self._identity = identity
        self._holders = 0
        self._era = 0  # counts forks; a view of an earlier era belongs to the parent
        self._lock = RLock()
        self._environment: Any = _open_environment(directory)
        self._records: Any = None
        self._log: Any = None
        self._blobs: Any = None
        try:
            self._open_databases()
        except BaseException:
            self._environment.close()
            raise

    def read(self, *keys: bytes) -> tuple[int, list[bytes | None]]:
        """Return (transaction id, the raw record of each key or None), all of one snapshot.

        Raises:
            ReplicaBusy: a hundred attempts found the writer moving.
            ReplicaCorrupt: LMDB found the file damaged.
            ReplicaUnavailable: the replica was closed.
        """
        with self._lock:
            return self._snapshot(_copy, keys)

    def get(self, key: bytes) -> tuple[int, bytes | None]:
        """Return (transaction id, the raw record of one key or None), sooner than `read`.

        Raises:
            ReplicaBusy | ReplicaCorrupt | ReplicaUnavailable: as `read`.
        """
        # Not ``with``: acquire and release are a sixth of this call cheaper.
        lock = self._lock
        lock.acquire()
        try:
            # What `_snapshot` does where its first attempt is the last, at half the cost.
            words = self.words
            try:
                transaction = self._environment.begin()
                txn_id: int = transaction.id()
                # Rule 1, T == h, and rule 2 before and after the copy.
                if ROUNDS > 0 and words[_TXN] == txn_id >= words[_SAFE]:
                    copied: bytes | None = transaction.get(key, None, self._records)
                    transaction.abort()
                    if words[_SAFE] <= txn_id:
                        return txn_id, copied
                else:
                    transaction.abort()
            except (lmdb.Error, AttributeError):
                # Closed, or something moves or is wrong: the long way decides what.
                pass
            txn_id, records = self._snapshot(_copy, (key,))
            return txn_id, records[0]
        finally:
            lock.release()

    def scan(self, prefix: bytes, limit: int = 1 << 20) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Return (transaction id, up to ``limit`` (key, raw record) pairs in key order).

        Raises:
            ReplicaBusy | ReplicaCorrupt | ReplicaUnavailable: as `read`.
        """
        with self._lock:
            return self._snapshot(_scan, prefix, limit)

    def view(self) -> View:
        """Return a view of the newest snapshot; it holds the replica open until it is closed.

        Raises:
            ReplicaBusy | ReplicaCorrupt | ReplicaUnavailable: as `read`.
        """
        with self._lock:
            transaction, txn_id = self._begin_whole()
            self._holders += 1
            return View(self, transaction, txn_id, self._era)

    def database(self, name: str) -> Any:
        """Return a handle of another sub-database, for a `View` begun afterwards to scan.

        Raises:
            ReplicaCorrupt: there is none of that name.
        """
        with self._lock:
            try:
                return self._environment.open_db(name.encode(), create=False)
            except lmdb.Error as error:
                raise _damaged(self.directory, error) from error

    def close(self) -> None:
        """Give up one hold; the last one closes the file."""
        OPEN.release(self)

    # Everything below runs under self._lock, or before the replica is shared.

    def _snapshot(self, copy: Callable[..., Result], *arguments: object) -> tuple[int, Result]:
        words = self.words
        failure: Exception | None = None
        for _ in range(ROUNDS):
            transaction, txn_id = self._begin_whole()
            try:
                if words[_SAFE] > txn_id:
                    continue
                copied = copy(transaction, self._records, *arguments)
            except lmdb.Error as error:
                # LMDB met pages that make no sense. If the snapshot has expired, that is why.
                failure = error
                if words[_SAFE] <= txn_id:
                    raise _damaged(self.directory, error) from error
                continue
            finally:
                transaction.abort()
            if words[_SAFE] <= txn_id:
                return txn_id, copied
        raise _busy(self.directory) from failure

    def _begin_whole(self) -> tuple[Any, int]:
        """Begin a transaction on a snapshot whose meta page is whole (rule 1 above)."""
        environment = self._environment
        if environment is None:
            raise ReplicaUnavailable(f"{self.directory}: expected an open replica, found it closed")
        words = self.words
        unpublished = -1
        for _ in range(ROUNDS):
            try:
                transaction = environment.begin()
            except lmdb.MapResizedError as error:
                raise ReplicaUnavailable(
                    f"{self.directory}: expected at most {MAP_BYTES >> 30} GiB of data, found "
                    "more; start this process again with a newer control-plane"
                ) from error
            except lmdb.Error as error:
                raise _damaged(self.directory, error) from error
            txn_id = transaction.id()
            published = words[_TXN]
            if txn_id == published or (txn_id > published and txn_id == unpublished):
                return transaction, txn_id
            transaction.abort()
            unpublished = txn_id if txn_id > published else -1
        raise _busy(self.directory)

    def _open_databases(self) -> None:
        # py-lmdb keeps a handle only when it opens it in a transaction of its own, so the
        # snapshot of that transaction is not ours to check. It is the newest one, protected for
        # at least the writer's minimum; the round is repeated when safe_txnid moved meanwhile.
        words = self.words
        for _ in range(ROUNDS):
            safe = words[_SAFE]
            transaction, txn_id = self._begin_whole()
            transaction.abort()
            try:
                records = self._environment.open_db(b"records", create=False)
                log = self._environment.open_db(b"log", create=False)
                blobs = self._environment.open_db(b"blobs", create=False)
            except lmdb.Error as error:
                if words[_SAFE] == safe:
                    raise _damaged(self.directory, error) from error
                continue
            if words[_SAFE] == safe <= txn_id:
                self._records, self._log, self._blobs = records, log, blobs
                return
        raise _busy(self.directory)


class View:
    """One snapshot, held: everything read through it is of the same generation.

    It stays valid for at least ten seconds and normally for the writer's grace period. A view
    does not survive a fork. Close it, or use it as a context manager: an open view keeps its
    replica open.
    """

    __slots__ = ("_era", "_replica", "_transaction", "txn_id")

    def __init__(self, replica: Replica, transaction: Any, txn_id: int, era: int) -> None:
        self._replica = replica
        self._transaction = transaction
        self._era = era
        self.txn_id = txn_id

    @property
    def generation(self) -> int:
        """The generation of this snapshot.

        Raises:
            ViewExpired: see `read`.
        """
        [value] = self.read_log(b"generation")
        return int.from_bytes(value or b"", "little")

    def read(self, *keys: bytes) -> list[bytes | None]:
        """Return the raw record of each key, None where there is none.

        Raises:
            ViewExpired: the snapshot is older than the writer keeps, the view was closed, or the
                process forked.
            ReplicaCorrupt: LMDB found the file damaged.
        """
        return self._checked(_copy, self._replica._records, keys)

    def read_log(self, *keys: bytes) -> list[bytes | None]:
        """Return what the writer keeps about its commits under each key, None where nothing.

        Raises:
            ViewExpired | ReplicaCorrupt: as `read`.
        """
        return self._checked(_copy, self._replica._log, keys)

    def read_blobs(self, *keys: bytes) -> list[bytes | None]:
        """Return what the writer keeps beside the records under each key, None where nothing.

        Raises:
            ViewExpired | ReplicaCorrupt: as `read`.
        """
        return self._checked(_copy, self._replica._blobs, keys)

    def scan(
        self, prefix: bytes, limit: int = 1 << 20, database: Any = None, after: bytes = b""
    ) -> list[tuple[bytes, bytes]]:
        """Return up to ``limit`` (key, raw record) pairs in key order, from ``after`` on.

        ``database`` is a handle from `Replica.database`; without one the records are scanned.

        Raises:
            ViewExpired | ReplicaCorrupt: as `read`.
        """
        handle = self._replica._records if database is None else database
        return self._checked(_scan, handle, prefix, limit, after)

    def close(self) -> None:
        """Drop the snapshot; every later read raises `ViewExpired`. May be called again."""
        replica, transaction = self._replica, self._transaction
        if transaction is None:
            return
        with replica._lock:
            self._transaction = None
            # Without locks a transaction is private memory: ending one that was inherited
            # through a fork touches nothing of the parent's.
            transaction.abort()
        replica.close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _checked(self, copy: Callable[..., Result], *arguments: object) -> Result:
        replica = self._replica
        words = replica.words
        with replica._lock:
            if self._transaction is None:
                raise ViewExpired("expected an open view, found it closed; take a new one")
            if self._era != replica._era:
                raise ViewExpired(
                    "expected a view of this process, found one from before a fork; take a new one"
                )
            if words[_SAFE] > self.txn_id:
                raise self._expired()
            try:
                copied = copy(self._transaction, *arguments)
            except lmdb.Error as error:
                if words[_SAFE] > self.txn_id:
                    raise self._expired() from error
                raise _damaged(replica.directory, error) from error
            if words[_SAFE] > self.txn_id:
                raise self._expired()
            return copied

    def _expired(self) -> ViewExpired:
        return ViewExpired(
            f"expected a view of transaction {self._replica.words[_SAFE]} or later, found "
            f"{self.txn_id}; take a new view"
        )


class OpenReplicas:
    """The open replicas of this process by (st_dev, st_ino) of ``data.mdb``, and their holders.

    ``complained`` holds the names of which a log line told: one a process, whoever reads them.
    """

    __slots__ = ("_forking", "_lock", "_replicas", "complained", "moving")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._forking: dict[int, list[Any]] = {}  # the locks each forking thread holds
        # Held by a source while it moves to another folder; here, so that a fork renews it too.
        self.moving = allocate_lock()
        self._replicas: dict[tuple[int, int], Replica] = {}
        self.complained: set[str] = set()

    def acquire(self, directory: str) -> Replica:
        """Return the replica in ``directory`` with one more holder, opened if need be."""
        with self._lock:
            identity = _identity(os.path.join(directory, "data.mdb"))
            replica = self._replicas.get(identity)
            if replica is None:
                replica = self._replicas[identity] = Replica(directory, identity)
            with replica._lock:
                replica._holders += 1
            return replica

    def release(self, replica: Replica) -> None:
        """Take one holder off; with the last one the file is closed."""
        with self._lock, replica._lock:
            replica._holders -= 1
            if replica._holders > 0 or replica._environment is None:
                return
            del self._replicas[replica._identity]
            replica._environment.close()
            replica._environment = None

    def before_fork(self) -> None:
        """Wait until no other thread is at an import of ours or inside LMDB, and keep it so."""
        if not self._replicas:
            return
        end_imports()
        held = self._forking[get_ident()] = []
        # In `release`'s order. Only a signal handler that interrupted `acquire` or `release` in
        # this very thread waits in vain.
        _hold(self._lock, held)
        for replica in list(self._replicas.values()):
            _hold(replica._lock, held)

    def after_fork_in_parent(self) -> None:
        """Let the other threads read on."""
        for lock in reversed(self._forking.pop(get_ident(), [])):
            lock.release()

    def after_fork_in_child(self) -> None:
        """Give the child locks nobody holds, and expire the views it inherited.

        Maps, environments and handles are inherited and stay valid: without locks there is
        nothing in them that the kernel or LMDB ties to the parent.
        """
        self._forking.clear()
        self._lock = allocate_lock()
        self.moving = allocate_lock()
        for replica in self._replicas.values():
            replica._lock = RLock()
            replica._era += 1


def _hold(lock: Any, held: list[Any]) -> None:
    if lock.acquire(True, FORK_WAIT):
        held.append(lock)


# The one piece of process-wide state, see the module's docstring.
OPEN = OpenReplicas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=OPEN.before_fork,
        after_in_parent=OPEN.after_fork_in_parent,
        after_in_child=OPEN.after_fork_in_child,
    )


def open_replica(directory: str) -> Replica:
    """Return the replica in the numbered folder ``directory``; the caller closes it once.

    Raises:
        ReplicaUnavailable: nothing to read there, or this process is its writer.
        ReplicaBusy: the writer kept moving.
        ReplicaCorrupt | FormatUnsupported: it cannot be read.
        UnsupportedPlatformError: not on this platform.
    """
    check_platform()
    return OPEN.acquire(directory)


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ReplicaUnavailable(
            f"{path}: expected a replica, found {error.strerror}; start the daemon or name "
            "another replica"
        ) from error
    return status.st_dev, status.st_ino


def _open_environment(directory: str) -> Any:
    try:
        return lmdb.open(
            # The file, not its folder: py-lmdb takes an environment for open already when it has
            # seen its lock file's inode, which is given to another as soon as the folder is gone.
            os.path.join(directory, "data.mdb"),
            subdir=False,
            map_size=MAP_BYTES,
            max_dbs=MAX_DATABASES,
            max_spare_txns=0,
            readonly=True,
            lock=False,
            create=False,
            lib_version=LMDB_ENGINE,
        )
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
        raise _damaged(directory, error) from error
    except (lmdb.Error, OSError) as error:
        raise ReplicaUnavailable(
            f"{directory}: expected a replica that can be opened, found: {error}"
        ) from error


def _copy(transaction: Any, database: Any, keys: tuple[bytes, ...]) -> list[bytes | None]:
    get = transaction.get
    return [get(key, None, database) for key in keys]


def _scan(
    transaction: Any, database: Any, prefix: bytes, limit: int, after: bytes = b""
) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    cursor = transaction.cursor(database)
    if not cursor.set_range(max(prefix, after)):
        return found
    for key, value in cursor:
        if not key.startswith(prefix) or len(found) >= limit:
            break
        found.append((key, value))
    return found


def _busy(directory: str) -> ReplicaBusy:
    return ReplicaBusy(
        f"{directory}: expected a snapshot within {ROUNDS} attempts, found the writer moving; "
        "the last good value stands"
    )


def _damaged(directory: str, error: Exception) -> ReplicaCorrupt:
    return ReplicaCorrupt(
        f"{directory}: expected a sound database, found: {error}; "
        "restart the daemon to rebuild the replica"
    )
