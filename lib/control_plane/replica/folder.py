"""One numbered folder of a replica, open for writing: database, header and pins.

After a commit the header's words are changed one by one, in the order transaction id,
generation, commit time, class revisions, revision. Readers poll a class revision and then read,
so whatever made the revision rise is readable before it rises.
"""

from __future__ import annotations

import os

import lmdb
from lmdb.verify import VerifyError
from lmdb.verify import verify as verify_database

from control_plane.errors import ReplicaCorrupt
from control_plane.replica.format import decode_record, describe_key
from control_plane.replica.header import (
    CLASS_REVISIONS,
    COMMIT_TIME_NS,
    GENERATION,
    REVISION,
    TXN_ID,
    HeaderWriter,
)
from control_plane.replica.pins import Pins
from control_plane.replica.reader import LMDB_ENGINE, MAP_BYTES, MAX_DATABASES
from control_plane.replica.transaction import DATABASES, GENERATION_KEY

MAX_READERS = 4096
LOCK_BYTES = 64 * (MAX_READERS + 2)  # what LMDB makes of it: a line a reader, two of its own


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
                self._identities = self._identify()
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

    def check_records(self) -> None:
        """Decode every record of the newest snapshot: sound pages do not tell that these are.

        A microsecond each. The hash does not cover a record's status and generations.

        Raises:
            ReplicaCorrupt: one has not the hash it names.
            FormatUnsupported: one is not for this version; its readers could not read it either.
        """
        with self.environment.begin() as transaction:
            for key, data in transaction.cursor(self.databases["records"]):
                try:
                    decode_record(key, data)
                except ReplicaCorrupt as error:
                    raise ReplicaCorrupt(
                        f"{self.path}: expected sound records, found {describe_key(key)} damaged; "
                        "the replica is rebuilt beside it from the log"
                    ) from error

    @property
    def page_bytes(self) -> int:
        """How large a page of the database is."""
        return self.environment.stat()["psize"]

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

    def check_place(self) -> None:
        """Raise `ReplicaCorrupt` when the files that are written are no longer where they were.

        Whoever has them open reads on, but nobody else finds what would be written to them.
        """
        try:
            if self._identify() == self._identities:
                return
            found = "others there"
        except OSError as error:
            found = f"{error.filename}: {error.strerror}"
        raise ReplicaCorrupt(
            f"{self.path}: expected the files that are being written, found {found}; the replica "
            "is rebuilt beside it from the log"
        )

    def close(self) -> None:
        """Drop the pins, close database and header; the files stay."""
        self.close_database()
        self.header.close()

    def close_database(self) -> None:
        """Drop the pins and close the database; the header stays open."""
        if self.pins is not None:
            self.pins.close()
            self.pins = None
        self.environment.close()

    def _identify(self) -> list[tuple[int, int]]:
        found = (os.stat(os.path.join(self.path, name)) for name in ("data.mdb", "header"))
        return [(status.st_dev, status.st_ino) for status in found]


def raise_revisions(header: HeaderWriter, touched: set[int]) -> None:
    """Raise the class revisions in ``touched``, then the revision, which wakes watchers."""
    above = 1 + max(header[word] for word in (REVISION, *CLASS_REVISIONS))
    for word in CLASS_REVISIONS:
        if word in touched:
            header[word] = above
    header[REVISION] = above


def _open_environment(path: str, *, sync: bool) -> lmdb.Environment:
    _reserve_lock(os.path.join(path, "lock.mdb"))
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


def _reserve_lock(path: str) -> None:
    """Give the lock file all its blocks before it is mapped.

    LMDB leaves it a hole and writes it through a map, a line for each pin: on a disk that is full
    by then the process would end by SIGBUS. Only the writer opens this file, and not yet: closing
    it later would take LMDB's own locks away.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        status = os.fstat(descriptor)
        if min(status.st_size, 512 * status.st_blocks) < LOCK_BYTES:
            file.write(bytes(LOCK_BYTES))


def _open_databases(environment: lmdb.Environment, *, new: bool) -> dict[str, lmdb._Database]:
    if new:
        with environment.begin(write=True) as transaction:
            return {name: environment.open_db(name.encode(), transaction) for name in DATABASES}
    return {name: environment.open_db(name.encode(), create=False) for name in DATABASES}


def check_database(path: str) -> None:
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
