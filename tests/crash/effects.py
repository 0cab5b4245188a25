"""Every durable effect of this process, named, counted, and a place to die at.

An effect is what a killed process leaves behind: a file made, renamed, linked, removed, cut,
written or synced; a commit of SQLite or LMDB; a word of a replica's header; a socket that is bound.
Its name says what was done to which path, below ``root``. Nothing is asked of the services: their
calls are wrapped before they start, in the functions they all end in. An effect inside another (the
write of a header's word) is part of it.

SIGKILL loses nothing that a system call has handed to the kernel, so a sync is a point like any
other here; what a power cut takes is not shown by this.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import lmdb
from aiohttp import web
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from control_plane.replica import folder, header
from control_plane_store.database import Database

TEMPORARY = re.compile(r"\.[0-9a-f]{8}$")
WRITES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM|CREATE TABLE) (\w+)")
WORD_NAMES = {
    getattr(header, name): name
    for name in (
        "BOOT_ID", "CHECKPOINT_TIME_S", "COMMIT_TIME_NS", "CONFIG_REVISION", "FLAGS_REVISION",
        "GENERATION", "HEARTBEAT_NS", "REGISTRY_REVISION", "REVISION", "SAFE_TXNID", "STATE",
        "TOMBSTONE", "TXN_ID",
    )
}  # fmt: skip


class Effects:
    """Notes each effect in ``trace``, and ends the process at one of them.

    ``at`` is a name and which of that name; ``when`` is ``before`` or ``after``.
    """

    def __init__(self, root: str, trace: str, at: tuple[str, int] | None, when: str) -> None:
        self._root = root
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._write = os.write
        self._at = at
        self._when = when
        self._counts: Counter[str] = Counter()
        self._inside = threading.local()

    def path(self, path: Any, folder_descriptor: int | None = None) -> str:
        """What a path, or an open file, is called."""
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        elif folder_descriptor is not None:
            path = Path(f"/proc/self/fd/{folder_descriptor}").readlink() / path
        place = Path(os.fsdecode(path)).absolute()
        name = str(place.relative_to(self._root) if place.is_relative_to(self._root) else place)
        return TEMPORARY.sub(".TEMPORARY", name)

    def around(self, name: str, act: Callable[[], Any]) -> Any:
        """Do one effect."""
        if getattr(self._inside, "name", None):
            return act()
        due = self._reach(name)
        self._die_if(due and self._when == "before")
        self._inside.name = name
        try:
            return act()
        finally:
            self._inside.name = None
            self._die_if(due and self._when == "after")

    async def around_async(self, name: str, act: Callable[[], Any]) -> Any:
        """Do one effect that waits for others."""
        due = self._reach(name)
        self._die_if(due and self._when == "before")
        try:
            return await act()
        finally:
            self._die_if(due and self._when == "after")

    def _reach(self, name: str) -> bool:
        self._write(self._trace, f"{name}\n".encode())
        self._counts[name] += 1
        return self._at == (name, self._counts[name])

    def _die_if(self, due: bool) -> None:
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Wrap every function that durable effects end in."""
        self._wrap_files()
        self._wrap_sqlite()
        self._wrap_lmdb()
        self._wrap_header()
        self._wrap_sockets()

    # Files

    def _wrap_files(self) -> None:
        for verb in ("mkdir", "unlink", "rmdir", "chmod"):
            self._wrap_path(verb)
        for verb in ("rename", "replace", "link", "symlink"):
            self._wrap_pair(verb)
        for verb in ("write", "pwrite", "ftruncate", "fchmod", "fsync"):
            self._wrap_descriptor(verb)
        self._wrap_open()

    def _wrap_path(self, verb: str) -> None:
        real = getattr(os, verb)

        @wraps(real)
        def wrapped(path: Any, *rest: Any, **named: Any) -> Any:
            name = f"{verb} {self.path(path, named.get('dir_fd'))}"
            return self.around(name, lambda: real(path, *rest, **named))

        setattr(os, verb, wrapped)

    def _wrap_pair(self, verb: str) -> None:
        real = getattr(os, verb)

        @wraps(real)
        def wrapped(source: Any, target: Any, **named: Any) -> Any:
            name = f"{verb} {self.path(target)}"
            return self.around(name, lambda: real(source, target, **named))

        setattr(os, verb, wrapped)

    def _wrap_descriptor(self, verb: str) -> None:
        real = getattr(os, verb)

        @wraps(real)
        def wrapped(descriptor: int, *rest: Any) -> Any:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                return real(descriptor, *rest)
            name = f"{verb} {self.path(descriptor)}"
            return self.around(name, lambda: real(descriptor, *rest))

        setattr(os, verb, wrapped)

    def _wrap_open(self) -> None:
        real, real_io = os.open, io.open

        @wraps(real)
        def wrapped(path: Any, flags: int, *rest: Any, **named: Any) -> Any:
            if not flags & os.O_CREAT or os.path.lexists(path):
                return real(path, flags, *rest, **named)
            name = f"create {self.path(path)}"
            return self.around(name, lambda: real(path, flags, *rest, **named))

        def wrapped_io(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wxa+"):
                return real_io(file, mode, *rest, **named)
            name = f"open {self.path(file)}"
            return self.around(name, lambda: real_io(file, mode, *rest, **named))

        os.open = wrapped
        io.open = builtins.open = wrapped_io

    # SQLite

    def _wrap_sqlite(self) -> None:
        written: dict[int, set[str]] = {}

        @event.listens_for(Engine, "before_cursor_execute")
        def note(connection: Any, _cursor: Any, statement: str, *_: object) -> None:
            found = WRITES.match(statement)
            if found:
                written.setdefault(id(connection.connection.driver_connection), set()).add(found[1])

        real_commit, real_rollback = DefaultDialect.do_commit, DefaultDialect.do_rollback

        def commit(dialect: Any, connection: Any) -> None:
            tables = written.pop(id(connection.driver_connection), set())
            if not tables:
                return real_commit(dialect, connection)
            name = f"commit {'+'.join(sorted(tables))}"
            return self.around(name, lambda: real_commit(dialect, connection))

        def rollback(dialect: Any, connection: Any) -> None:
            written.pop(id(connection.driver_connection), None)
            real_rollback(dialect, connection)

        DefaultDialect.do_commit = commit  # type: ignore[method-assign]
        DefaultDialect.do_rollback = rollback  # type: ignore[method-assign]
        real_close = Database.close

        def close(database: Database) -> None:
            # The last connection folds the write-ahead log into the file and removes it.
            self.around(f"close {self.path(database.path)}", lambda: real_close(database))

        Database.close = close  # type: ignore[method-assign]

    # LMDB

    def _wrap_lmdb(self) -> None:
        real = folder._open_environment

        def opened(path: str, *, sync: bool) -> Any:
            environment = self.around(
                f"make {self.path(path)}/data.mdb", lambda: real(path, sync=sync)
            )
            return _Environment(self, self.path(path), environment)

        folder._open_environment = opened

    # The header

    def _wrap_header(self) -> None:
        real = header.HeaderWriter.__setitem__

        def store(writer: Any, word: int, value: int) -> None:
            place = self.path(writer._descriptor)
            self.around(f"word {place} {WORD_NAMES[word]}", lambda: real(writer, word, value))

        header.HeaderWriter.__setitem__ = store  # type: ignore[method-assign]

    # Sockets

    def _wrap_sockets(self) -> None:
        real = web.UnixSite.start

        async def start(site: web.UnixSite) -> None:
            await self.around_async("bind " + self.path(site._path), lambda: real(site))

        web.UnixSite.start = start  # type: ignore[method-assign]


class _Environment:
    """An LMDB environment whose commits have names."""

    def __init__(self, effects: Effects, place: str, real: lmdb.Environment) -> None:
        self.effects = effects
        self.place = place
        self.real = real
        self.names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def open_db(self, name: bytes, transaction: Any = None, **named: Any) -> Any:
        if isinstance(transaction, _Transaction):
            transaction.touched.add(f"new {name.decode()}")
            transaction = transaction.real
        database = self.real.open_db(name, transaction, **named)
        self.names[id(database)] = name.decode()
        return database

    def begin(self, *rest: Any, **named: Any) -> Any:
        real = self.real.begin(*rest, **named)
        return _Transaction(self, real) if named.get("write") else real


class _Transaction:
    """A write transaction; what it touched is the name of its commit."""

    def __init__(self, environment: _Environment, real: Any) -> None:
        self.environment = environment
        self.real = real
        self.touched: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def put(self, key: bytes, value: bytes, *rest: Any, db: Any, **named: Any) -> Any:
        name = self.environment.names[id(db)]
        if name == "log" and key == b"evidence":
            name = "evidence"
        self.touched.add(name)
        return self.real.put(key, value, *rest, db=db, **named)

    def delete(self, key: bytes, *rest: Any, db: Any, **named: Any) -> Any:
        found = self.real.delete(key, *rest, db=db, **named)
        if found:
            self.touched.add("-" + self.environment.names[id(db)])
        return found

    def commit(self) -> None:
        self.environment.effects.around(self._name(), self.real.commit)

    def __enter__(self) -> _Transaction:
        self.real.__enter__()
        return self

    def __exit__(self, kind: Any, *rest: Any) -> Any:
        if kind is not None:
            return self.real.__exit__(kind, *rest)
        return self.environment.effects.around(
            self._name(), lambda: self.real.__exit__(None, None, None)
        )

    def _name(self) -> str:
        touched = self.touched
        for what, by in COMMITS:
            if by & touched:
                return f"commit {self.environment.place} {what}"
        return f"commit {self.environment.place} {'+'.join(sorted(touched)) or 'nothing'}"


COMMITS = (
    ("new tables", {"new records"}),
    ("part of an entry", {"staging"}),
    ("staging cleared", set()),
    ("evidence", {"evidence"}),
    ("entries", {"heads"}),
    ("held entries", {"held", "-held"}),
    ("staging cleared", {"-staging"}),
)
