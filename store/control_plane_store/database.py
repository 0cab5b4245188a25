"""What the store remembers, and what one transaction makes true.

This is the only module that knows which engine is below: SQLite in WAL mode. The queries, in
``transactions``, are SQLAlchemy Core, so another engine changes ``_connect``, ``_begin`` and
``_set_synced`` here and nothing elsewhere.

- A write transaction is durable when its block ends: WAL with ``synchronous=FULL`` has synced it.
  An exception inside the block leaves nothing behind. Checkpoints alone are not synced, because
  they can be made again from what was.
- A read transaction sees one moment, however long it takes and whatever is written meanwhile.
- One process at a time may be the store of a database: ``hold`` takes a lock on the file
  ``<database>.lock`` and names the holder to whoever comes second. Short tools (tokens) write
  beside a running store; the engine's own locking orders them.
- The tables carry their format's number; a newer one is refused.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DatabaseError

from control_plane.errors import FormatUnsupported, NotFound, Refused
from control_plane_store.schema import FORMAT, FORMATS, METADATA
from control_plane_store.transactions import Snapshot, Transaction

BUSY_SECONDS = 10.0


class StoreHeld(Refused):
    """Another process is the store of this database; the message names it."""

    code = "store_held"


class Database:
    """A store's database file; close it when done."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path) -> Database:
        """Make a new, empty database that only its owner may read.

        Raises:
            Refused: there is a file of that name.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError as error:
            raise Refused(
                f"{path}: expected no file, found one; remove it or name another with --database"
            ) from error
        database = cls(path, _connect(path))
        with database.write() as transaction:
            METADATA.create_all(transaction.connection)
            transaction.connection.execute(insert(FORMATS).values(version=FORMAT))
        _sync_folder(path.parent)
        return database

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open a database that ``create`` made.

        Raises:
            NotFound: there is none.
            FormatUnsupported: the file is something else, or of a newer version's format.
        """
        if not path.is_file():
            raise NotFound(
                f"{path}: expected a store database, found none; run 'control-plane store init'"
            )
        database = cls(path, _connect(path))
        try:
            with database.read() as snapshot:
                version = snapshot.connection.execute(select(FORMATS.c.version)).scalar()
        except DatabaseError as error:
            database.close()
            raise FormatUnsupported(
                f"{path}: expected a store database, found {error.orig}"
            ) from error
        if version != FORMAT:
            database.close()
            raise FormatUnsupported(
                f"{path}: expected format {FORMAT}, found {version}; use the version that wrote it"
            )
        return database

    def hold(self) -> None:
        """Become the one store of this database until ``close``.

        Raises:
            StoreHeld: another process is; it is named.
        """
        path = self.path.with_name(self.path.name + ".lock")
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise StoreHeld(
                f"{self.path}: expected no other store on this database, found"
                f" {holder or 'one'}; stop it first"
            ) from error
        # The lock is the kernel's and dies with the process; the text only names the holder.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        self._lock = descriptor

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """One moment of the database."""
        with self._engine.connect() as connection:
            yield Snapshot(connection)

    @contextmanager
    def write(self, *, synced: bool = True) -> Iterator[Transaction]:
        """One transaction: durable when the block ends, nothing when it raises.

        With ``synced`` false a power cut (not a killed process) may take it back, together with
        whatever was written after it and never anything from before.
        """
        connection = self._engine.connect().execution_options(writes=True)
        with connection:
            if not synced:
                _set_synced(connection, False)
            try:
                with connection.begin():
                    yield Transaction(connection)
            finally:
                if not synced:
                    _set_synced(connection, True)

    def close(self) -> None:
        """Close the connections and give up the lock."""
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def move_database(path: Path, target: Path) -> None:
    """Give a closed database its final name, durably.

    Raises:
        Refused: it is still open, so that part of it lies in files beside it.
    """
    if _beside(path)[0].exists():
        raise Refused(f"{path}: expected a closed database, found its write-ahead log")
    path.rename(target)
    _sync_folder(target.parent)


def remove_database(path: Path) -> None:
    """Delete a database nobody uses, and the files beside it."""
    for each in (path, *_beside(path)):
        each.unlink(missing_ok=True)


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _connect(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=8,
        # Never more than there are threads. Nobody waits for one: a request's token is read on the
        # event loop.
        max_overflow=-1,
        # The one used last: it has the newest pages at hand.
        pool_use_lifo=True,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # The driver's own idea of when to begin would start no transaction for reads.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        _begin(connection)

    return engine


def _begin(connection: Connection) -> None:
    # A writer takes the write lock at once: upgrading a read later could only fail.
    writes = connection.get_execution_options().get("writes", False)
    _at_driver(connection, "BEGIN IMMEDIATE" if writes else "BEGIN")


def _set_synced(connection: Connection, synced: bool) -> None:
    # In WAL mode NORMAL only leaves out the sync at a commit; a later FULL commit syncs the same
    # file, so what was written before it is durable with it. Outside a transaction, as it must be.
    _at_driver(connection, f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")


def _at_driver(connection: Connection, statement: str) -> None:
    """Run what has neither values nor rows: the way through SQLAlchemy takes longer than SQLite."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(statement).close()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
