"""The one writer of a replica: who may write, where, in which order, and what a crash leaves.

Folder: ``<environment>/v1/`` holds ``daemon.lock``, the link ``current`` and numbered folders,
each with ``data.mdb``, ``lock.mdb`` and ``header``. Numbers only rise; the link is renamed only
forward. A folder is written by one process at a time (``flock`` on ``daemon.lock``), through one
write transaction at a time. Why readers without locks are safe beside it stands in ``pins.py``.

A crash leaves, and the next start (`ReplicaWriter._start`) finds:

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import lmdb

from control_plane.errors import (
    ReplicaInvalid,
    ReplicaLocked,
    ReplicaUnavailable,
    ReplicaUnwritable,
)
from control_plane.replica.folder import Folder, check_database, raise_revisions
from control_plane.replica.header import (
    BOOT_ID,
    CHECKPOINT_TIME_S,
    CLASS_REVISIONS,
    COMMIT_TIME_NS,
    DEVELOPMENT,
    GENERATION,
    HEARTBEAT_NS,
    REVISION,
    SAFE_TXNID,
    STATE,
    TOMBSTONE,
    HeaderWriter,
    check_platform,
    create_header,
    map_header,
)
from control_plane.replica.pins import MINIMUM_SECONDS, SETTLE_SECONDS, Pins
from control_plane.replica.source import FORMAT_FOLDER
from control_plane.replica.transaction import WriteTransaction

__all__ = ["ReplicaWriter", "WriteTransaction"]

LOCK_FILE = "daemon.lock"
_BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"


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
        with _translated(folder):
            _make_folder(folder)
            _make_folder(os.path.join(folder, FORMAT_FOLDER))
            lock = _lock(os.path.join(folder, FORMAT_FOLDER, LOCK_FILE))
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
            with _translated(folder):
                writer._start(rebuild)
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
            ReplicaCorrupt: somebody took the files away; `rebuild`.
            RuntimeError: the calling thread is in a write already.
        """
        if self._writing_thread == get_ident():
            raise RuntimeError("expected one write at a time, found one inside another")
        with self._busy:
            self._writing_thread = get_ident()
            try:
                folder = self._target
                if folder is self._live:
                    folder.check_place()
                if folder.pins is not None:
                    self._settle()
                    folder.pins.advance()
                yield from self._commit(folder)
            finally:
                self._writing_thread = 0

    def check_place(self) -> None:
        """Look whether the files that are written are where readers look; any thread may ask.

        Raises:
            ReplicaCorrupt: somebody took them away; `rebuild`.
        """
        folder = self._next or self._live
        if folder is not None:
            folder.check_place()

    def tend(self) -> None:
        """Move the pins on and delete old folders; call it at least once a second."""
        # A write in progress did the first on its way in. Between its commit and its publication
        # nothing may be pinned, see rule 3 in ``pins.py``.
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

    def rebuild(self, *, afresh: bool = False) -> None:
        """Begin the next folder beside the current one, empty; writes go there from now on.

        The current one stays as it is, and readable: without a writer its pages do not change. With
        ``afresh`` a rebuild that is going on is dropped for the new one. Where somebody took the
        environment's folder away it is made again, and locked again.

        Raises:
            RuntimeError: a rebuild is going on already.
            ReplicaLocked: another writer has taken over since.
            ReplicaUnwritable: the file system refused.
        """
        if self._next is not None and not afresh:
            raise RuntimeError("expected no rebuild yet, found one going on; swap or close first")
        with self._busy, _translated(self.folder):
            self._keep_lock()
            dropped, self._next = self._next, self._new_folder()
            if dropped is not None:
                # Never linked, so nobody reads it. A crash before this leaves it for `_sweep`.
                dropped.close()
                shutil.rmtree(dropped.path, ignore_errors=True)
            if self._live is not None:
                # Kept as it is mapped: readers have this one, whatever became of its name.
                self._old_header = self._live.header
                self._live.close_database()
                self._live = None

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
            with _translated(self.folder):
                # After a power failure readers may be up before the writer: without this they
                # could find a header that says that nothing is safe.
                new.header.sync()
                self._point_current_at(os.path.basename(new.path))
            self._live, self._next = new, None
            self._quiet_until = 0.0  # nobody has read the new folder yet
            # A crash here leaves an old folder without tombstone: `_sweep` writes it at the start.
            header, self._old_header = self._old_header, None
            if old is not None:
                self._condemn(old, header)
            elif header is not None:
                _send_on(header)

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
        check_database(path)
        folder = Folder(path, new=False, sync=self._sync)
        try:
            boot_id = read_boot_id()
            folder.pins = self._new_pins(folder)
            if boot_id == 0 or folder.header[BOOT_ID] == boot_id:
                self._quiet_until = self._monotonic() + SETTLE_SECONDS
            # After the pins: the time it takes is part of the wait, not added to it.
            folder.check_records()
            folder.header[BOOT_ID] = boot_id
            # The last writer may have died anywhere in `publish`: nothing tells which classes
            # readers have not heard of, so all of them look again.
            folder.owed.update(CLASS_REVISIONS)
            folder.publish(folder.read_generation(), folder.header[COMMIT_TIME_NS])
            # What a development writer left is marked so until the owner of this one knows what it
            # is, and says so with `set_state`.
            if self._development:
                folder.header[STATE] |= DEVELOPMENT
            folder.header[HEARTBEAT_NS] = self._wall_ns()
        except BaseException:
            folder.close()
            raise
        return folder

    def _keep_lock(self) -> None:
        """Hold the lock that the next writer would ask for, in folders that are there."""
        _make_folder(self.folder)
        _make_folder(self._formats)
        path = os.path.join(self._formats, LOCK_FILE)
        try:
            if os.path.samestat(os.stat(path), os.fstat(self._lock_descriptor)):
                return
        except FileNotFoundError:
            pass
        # The old one goes last: two locks for a moment are better than none.
        lock = _lock(path)
        os.close(self._lock_descriptor)
        self._lock_descriptor = lock

    def _new_folder(self) -> Folder:
        numbers = _numbers(self._formats)
        # Also above the number that the link names: its folder may have been taken away.
        path = self._path(1 + max(*numbers, _current_number(self._formats) or 0, 0))
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
        """Return a revision above any that a reader of an older folder has seen.

        The swap raises both the new folder's and the old one's by one, so they stay apart.
        """
        # Of a folder that was taken away the header is still mapped, here and by readers.
        held = [self._old_header, self._live.header if self._live is not None else None]
        known = [header for header in held if header is not None]
        floor = max(
            (each[word] for each in known for word in (REVISION, *CLASS_REVISIONS)), default=0
        )
        for number in numbers:
            try:
                words = map_header(self._path(number, "header"))
            except (ReplicaInvalid, ReplicaUnavailable):
                # Unreadable: no folder has counted as far as the clock's nanoseconds.
                floor = max(floor, self._wall_ns())
            else:
                floor = max(floor, *(words[8 * word] for word in (REVISION, *CLASS_REVISIONS)))
        return floor + 1 if numbers or known else 0

    def _new_pins(self, folder: Folder) -> Pins:
        def publish(txn_id: int) -> None:
            folder.header[SAFE_TXNID] = txn_id

        def outgrown(last_page: int, recent_page: int) -> bool:
            last = folder.environment.info()["last_pgno"]
            coming_bytes = (last - recent_page) * folder.page_bytes
            return last > last_page and folder.spare_bytes() + coming_bytes > self._pin_budget_bytes

        return Pins(folder.environment, publish, outgrown, self._grace_seconds, self._monotonic)

    def _settle(self) -> None:
        remaining = self._quiet_until - self._monotonic()
        if remaining > 0:
            self._sleep(remaining)
        self._quiet_until = 0.0

    def _commit(self, folder: Folder) -> Iterator[WriteTransaction]:
        with _translated(folder.path):
            transaction = folder.environment.begin(write=True)
        try:
            changes = WriteTransaction(transaction, folder.databases)
            yield changes
            changes.finish()
            folder.owed |= changes.touched
            transaction.commit()
        except lmdb.BadValsizeError as error:
            transaction.abort()
            raise ValueError(f"expected keys of 1 to 511 bytes, found another: {error}") from error
        except lmdb.Error as error:
            transaction.abort()
            # A reader may have seen the snapshot that LMDB then took back: all look again.
            raise_revisions(folder.header, set(CLASS_REVISIONS))
            raise _unwritable(folder.path, error) from error
        except BaseException:
            transaction.abort()
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
            if current is not None and number > current:
                # Never linked, so nobody reads it. Not condemned either: the next folder gets
                # this number again, and would be deleted in its place after the grace period.
                shutil.rmtree(self._path(number), ignore_errors=True)
            elif number != current:
                self._condemn(number)

    def _condemn(self, number: int, header: HeaderWriter | None = None) -> None:
        """Send the folder's readers to `current`, and delete it after the grace period."""
        with suppress(ReplicaInvalid, ReplicaUnavailable):
            _send_on(header or HeaderWriter(self._path(number, "header")))
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


def _send_on(header: HeaderWriter) -> None:
    """Send the readers of a header to `current`; the header is closed."""
    # The tombstone first: a hot path that sees a revision move must find it.
    header[TOMBSTONE] = 1
    raise_revisions(header, set(CLASS_REVISIONS))
    header.close()


def read_boot_id() -> int:
    """Return the first 8 bytes of the kernel's boot id, 0 where there is none to read."""
    try:
        with open(_BOOT_ID_PATH, encoding="ascii") as file:
            return int.from_bytes(bytes.fromhex(file.read().strip().replace("-", ""))[:8], "little")
    except (OSError, ValueError):
        return 0


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
    """Make a folder that everybody may enter, whatever the umask; one that is there stays."""
    if os.path.isdir(path):
        return
    # A crash before the rename leaves an empty folder nobody opens, which the next call takes.
    beside = path + ".new"
    os.makedirs(beside, exist_ok=True)
    os.chmod(beside, 0o755)
    os.rename(beside, path)


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
    line = f"{os.getpid()}\n".encode()
    try:
        # Written over and then cut: on a full disk the last holder's block is there to be used.
        os.pwrite(descriptor, line, 0)
        os.ftruncate(descriptor, len(line))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(place: str) -> Iterator[None]:
    try:
        yield
    except (OSError, lmdb.Error) as error:
        raise _unwritable(place, error) from error


def _unwritable(place: str, error: Exception) -> ReplicaUnwritable:
    return ReplicaUnwritable(
        f"{place}: expected to write the replica, found: {error}; the last good replica stays, "
        "make room or mend the permissions"
    )
