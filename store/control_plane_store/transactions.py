"""What one transaction can read and write: every query of the store, and the rows they give.

A ``Snapshot`` sees one moment; a ``Transaction`` also writes, and what it writes becomes true when
its block in ``database`` ends, or not at all. The statements are SQLAlchemy Core and of no one
engine's dialect. Those on the way from an author to the followers are built once, as constants:
building one takes several times as long as SQLite takes to answer it. Nothing is decided about
change sets here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from control_plane.errors import NotFound, Refused
from control_plane.log.canonical import canonical
from control_plane.log.fold import Head
from control_plane.log.merkle import Frontier, HashReader
from control_plane.log.statements import Change, Key
from control_plane_store.schema import (
    BLOBS,
    ENTRIES,
    GRANTS,
    HASHES,
    HEADS,
    LOGS,
    PENDING,
    REQUIRED,
    TOKENS,
    TOUCHES,
)

TILE_BITS = 8
TILE_WIDTH = 1 << TILE_BITS
_IN_CHUNK = 400

# Values are named after their columns; ``of_…`` are those that say which row is written.

_NEWEST_LOG = (
    select(LOGS)
    .where(LOGS.c.environment == bindparam("environment"))
    .order_by(LOGS.c.epoch.desc())
    .limit(1)
)
_LEAVES = (
    select(ENTRIES.c.leaf)
    .where(ENTRIES.c.log == bindparam("log"))
    .where(ENTRIES.c.position >= bindparam("start"), ENTRIES.c.position < bindparam("stop"))
    .order_by(ENTRIES.c.position)
)
_INDEX_OF_STATEMENT = select(ENTRIES.c.position).where(
    ENTRIES.c.log == bindparam("log"), ENTRIES.c.statement == bindparam("statement")
)
_HASHES = (
    select(HASHES.c.hash)
    .where(HASHES.c.log == bindparam("log"), HASHES.c.level == bindparam("level"))
    .where(HASHES.c.position >= bindparam("start"), HASHES.c.position < bindparam("stop"))
    .order_by(HASHES.c.position)
)
_EPOCHS = (
    select(LOGS).where(LOGS.c.environment == bindparam("environment")).order_by(LOGS.c.epoch.desc())
)
_HEADS = select(HEADS.c.key, HEADS.c.head, HEADS.c.change).where(
    HEADS.c.log == bindparam("log"), HEADS.c.key.in_(bindparam("keys", expanding=True))
)
_LIVE_DIGESTS = (
    select(HEADS.c.key, HEADS.c.digest)
    .where(HEADS.c.log == bindparam("log"), HEADS.c.digest != "")
    .where(HEADS.c.key >= bindparam("first"), HEADS.c.key < bindparam("stop"))
    .order_by(HEADS.c.key)
)
_HEAD_DIGESTS = (
    select(HEADS.c.generation, HEADS.c.digest)
    .where(HEADS.c.log == bindparam("log"), HEADS.c.digest != "")
    .where(HEADS.c.generation >= bindparam("first"), HEADS.c.generation < bindparam("stop"))
    .order_by(HEADS.c.generation, HEADS.c.key)
)
_REQUIRED_BLOBS = (
    select(REQUIRED.c.position, REQUIRED.c.digest)
    .where(REQUIRED.c.log == bindparam("log"))
    .where(REQUIRED.c.position >= bindparam("first"), REQUIRED.c.position < bindparam("stop"))
    .order_by(REQUIRED.c.position)
)
_BLOB = (
    select(BLOBS.c.data)
    .join(GRANTS, GRANTS.c.digest == BLOBS.c.digest)
    .where(GRANTS.c.environment == bindparam("environment"), GRANTS.c.digest == bindparam("digest"))
)
_PENDING_ENVELOPE = select(PENDING.c.envelope).where(
    PENDING.c.log == bindparam("log"), PENDING.c.statement == bindparam("statement")
)
_TOKEN = select(TOKENS).where(
    TOKENS.c.sha256 == bindparam("sha256"), TOKENS.c.environment == bindparam("environment")
)

_ADD_ENTRY, _ADD_HASH = insert(ENTRIES), insert(HASHES)
_ADD_HEAD, _ADD_TOUCH = insert(HEADS), insert(TOUCHES)
_ADD_BLOB, _ADD_GRANT = insert(BLOBS), insert(GRANTS)
_DROP_HEAD = delete(HEADS).where(
    HEADS.c.log == bindparam("of_log"), HEADS.c.key == bindparam("of_key")
)
_MOVE = (
    update(LOGS)
    .where(LOGS.c.id == bindparam("of_id"))
    .values(frontier=bindparam("frontier"), sequenced_at=bindparam("sequenced_at"))
)
_SET_NOTE = (
    update(LOGS)
    .where(LOGS.c.id == bindparam("of_id"))
    .values({name: bindparam(name) for name in ("note", "note_size", "note_root")})
)
_RESTORE_BLOB = (
    update(BLOBS).where(BLOBS.c.digest == bindparam("of_digest")).values(data=bindparam("data"))
)
_BLOBS_HELD = select(BLOBS.c.digest, BLOBS.c.data.is_not(None)).where(
    BLOBS.c.digest.in_(bindparam("digests", expanding=True))
)
_GRANTED = select(GRANTS.c.digest).where(
    GRANTS.c.environment == bindparam("environment"),
    GRANTS.c.digest.in_(bindparam("digests", expanding=True)),
)


@dataclass(frozen=True, slots=True)
class Log:
    """One epoch of one environment and its position."""

    id: int
    environment: str
    epoch: int
    origin: str
    continues_generation: int
    frontier: Frontier
    sequenced_at: int
    note: bytes
    note_size: int
    note_root: bytes

    @property
    def generation(self) -> int:
        """The newest entry's generation."""
        return self.continues_generation + self.frontier.size

    def generation_of(self, index: int) -> int:
        """The generation of the entry at that index."""
        return self.continues_generation + index + 1

    def index_of(self, generation: int) -> int:
        """The index of the entry with that generation; it may lie outside this log."""
        return generation - self.continues_generation - 1


@dataclass(frozen=True, slots=True)
class HeadRow:
    """A key's head with the change that made it."""

    key: Key
    head: Head
    change: bytes


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A change set that waits for signatures."""

    statement: str
    envelope: bytes
    threshold: int
    found: int
    received_at: int


@dataclass(frozen=True, slots=True)
class TokenRow:
    """What one token may do in one environment; times are milliseconds."""

    name: str
    environment: str
    may: str
    created_at: int
    revoked_at: int | None


def key_bytes(key: Key) -> bytes:
    """A key as the tables hold it: kind NUL name NUL part."""
    return f"{key.kind}\0{key.name}\0{key.part}".encode()


def key_of(data: bytes) -> Key:
    """The key that ``key_bytes`` wrote."""
    kind, name, part = data.decode().split("\0", 2)
    return Key(kind, name, part)


class Snapshot:
    """Reads of one moment; valid inside the block that made it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    # Logs and their trees

    def logs(self) -> list[Log]:
        """Every epoch of every environment, oldest first."""
        rows = self.connection.execute(select(LOGS).order_by(LOGS.c.environment, LOGS.c.epoch))
        return [_log(row) for row in rows]

    def log(self, environment: str, epoch: int | None = None) -> Log | None:
        """One epoch of an environment, the newest unless ``epoch`` says which."""
        query = _NEWEST_LOG if epoch is None else _NEWEST_LOG.where(LOGS.c.epoch == epoch)
        row = self.connection.execute(query, {"environment": environment}).first()
        return None if row is None else _log(row)

    def epochs(self, environment: str) -> list[Log]:
        """Every epoch of an environment, newest first."""
        return [_log(row) for row in self.connection.execute(_EPOCHS, {"environment": environment})]

    def leaves(self, log: Log, start: int, stop: int) -> Iterator[bytes]:
        """The entries start..stop as their exact leaf bytes, read as they are taken."""
        result = self.connection.execute(
            _LEAVES,
            {"log": log.id, "start": start, "stop": stop},
            execution_options={"yield_per": 256},
        )
        try:
            for (leaf,) in result:
                yield leaf
        finally:
            result.close()

    def leaf(self, log: Log, index: int) -> bytes | None:
        """One entry's leaf bytes."""
        query = select(ENTRIES.c.leaf).where(ENTRIES.c.log == log.id, ENTRIES.c.position == index)
        return self.connection.execute(query).scalar()

    def leaves_of_type(self, log: Log, payload_type: str) -> list[tuple[int, bytes]]:
        """(index, leaf) of all entries of one payload type, in order."""
        query = (
            select(ENTRIES.c.position, ENTRIES.c.leaf)
            .where(ENTRIES.c.log == log.id, ENTRIES.c.payload_type == payload_type)
            .order_by(ENTRIES.c.position)
        )
        return [(index, leaf) for index, leaf in self.connection.execute(query)]

    def index_of_statement(self, log: Log, statement: str) -> int | None:
        """Where a statement stands in the log."""
        values = {"log": log.id, "statement": statement}
        return self.connection.execute(_INDEX_OF_STATEMENT, values).scalar()

    def hashes(self, log: Log, level: int, start: int, stop: int) -> list[bytes]:
        """Hashes of one tile level in order; fewer where the tree ends."""
        values = {"log": log.id, "level": level, "start": start, "stop": stop}
        return list(self.connection.execute(_HASHES, values).scalars())

    def hash_reader(self, log: Log) -> HashReader:
        """Complete subtrees of the log's tree, for proofs."""

        def read(level: int, index: int) -> bytes:
            tile_level, bits = divmod(level, TILE_BITS)
            hashes = self.hashes(log, tile_level, index << bits, (index + 1) << bits)
            if len(hashes) != 1 << bits:
                raise LookupError(f"subtree {level}/{index} of {log.origin} is not complete")
            return Frontier().extended(hashes).root()

        return read

    # Heads and history

    def heads(self, log: Log, keys: Iterable[Key]) -> dict[Key, HeadRow]:
        """The heads of these keys; a key the log never named is absent."""
        wanted = [key_bytes(key) for key in keys]
        found: dict[Key, HeadRow] = {}
        for at in range(0, len(wanted), _IN_CHUNK):
            values = {"log": log.id, "keys": wanted[at : at + _IN_CHUNK]}
            for row in self.connection.execute(_HEADS, values):
                found[key_of(row.key)] = _head_row(row)
        return found

    def heads_from(
        self, log: Log, prefix: bytes, after: bytes = b"", limit: int | None = None
    ) -> list[HeadRow]:
        """Heads whose key starts with ``prefix`` and sorts behind ``after``, bytewise order."""
        query = (
            select(HEADS.c.key, HEADS.c.head, HEADS.c.change)
            .where(HEADS.c.log == log.id, HEADS.c.key > after)
            .where(HEADS.c.key >= prefix, HEADS.c.key < prefix + b"\xff")
            .order_by(HEADS.c.key)
            .limit(limit)
        )
        return [_head_row(row) for row in self.connection.execute(query)]

    def live_digests(self, log: Log, kind: str) -> list[tuple[str, str]]:
        """Name and digest of every live head of a kind without parts, in order of names."""
        rows = self.connection.execute(
            _LIVE_DIGESTS,
            {"log": log.id, "first": f"{kind}\0".encode(), "stop": f"{kind}\1".encode()},
        )
        return [(bytes(key).split(b"\0")[1].decode(), digest) for key, digest in rows]

    def head_digests(self, log: Log, first: int, stop: int) -> list[tuple[int, str]]:
        """(index, digest) of live heads that the entries first..stop made, in their order."""
        values = {
            "log": log.id,
            "first": log.generation_of(first),
            "stop": log.generation_of(stop),
        }
        rows = self.connection.execute(_HEAD_DIGESTS, values)
        return [(log.index_of(generation), digest) for generation, digest in rows]

    def touching(self, log: Log, prefix: bytes, before: int, limit: int) -> list[int]:
        """Indices below ``before`` of entries that changed a key starting so, newest first."""
        query = (
            select(TOUCHES.c.position)
            .where(TOUCHES.c.log == log.id, TOUCHES.c.position < before)
            .where(TOUCHES.c.key >= prefix, TOUCHES.c.key < prefix + b"\xff")
            .distinct()
            .order_by(TOUCHES.c.position.desc())
            .limit(limit)
        )
        return list(self.connection.execute(query).scalars())

    def required(self, log: Log, first: int, stop: int) -> list[tuple[int, str]]:
        """(index, digest) of the blobs without which those entries cannot be judged."""
        values = {"log": log.id, "first": first, "stop": stop}
        rows = self.connection.execute(_REQUIRED_BLOBS, values)
        return [(index, digest) for index, digest in rows]

    # Blobs

    def blob(self, environment: str, digest: str) -> bytes | None:
        """A blob that was given to the environment.

        Raises:
            NotFound: it never was.
        """
        values = {"environment": environment, "digest": digest}
        row = self.connection.execute(_BLOB, values).first()
        if row is None:
            raise NotFound(f"{environment}: expected a blob {digest}, found none")
        data: bytes | None = row.data
        return data

    def held_blob(self, environment: str, digest: str) -> bytes | None:
        """A blob that was given to the environment and not deleted since."""
        values = {"environment": environment, "digest": digest}
        data: bytes | None = self.connection.execute(_BLOB, values).scalar()
        return data

    # Pending change sets

    def pending(self, log: Log) -> list[PendingRow]:
        """Change sets that wait for signatures, oldest first."""
        query = select(PENDING).where(PENDING.c.log == log.id).order_by(PENDING.c.received_at)
        return [_pending_row(row) for row in self.connection.execute(query)]

    def ended_pending(self) -> list[tuple[Log, PendingRow]]:
        """Change sets that wait for a log that has gone on in a later epoch."""
        logs = self.logs()
        newest = {log.environment: log for log in logs}
        ended = [log for log in logs if newest[log.environment] is not log]
        return [(log, row) for log in ended for row in self.pending(log)]

    def pending_envelope(self, log: Log, statement: str) -> bytes | None:
        """The signatures gathered so far for a statement."""
        values = {"log": log.id, "statement": statement}
        return self.connection.execute(_PENDING_ENVELOPE, values).scalar()

    def pending_count(self, log: Log) -> int:
        """How many change sets wait."""
        query = select(func.count()).select_from(PENDING).where(PENDING.c.log == log.id)
        return int(self.connection.execute(query).scalar_one())

    # Tokens

    def token(self, sha256: str, environment: str) -> TokenRow | None:
        """The token with that hash in that environment, revoked or not."""
        values = {"sha256": sha256, "environment": environment}
        row = self.connection.execute(_TOKEN, values).first()
        return None if row is None else _token_row(row)

    def tokens(self) -> list[TokenRow]:
        """All tokens ever made, oldest first; never their secrets."""
        return [
            _token_row(row) for row in self.connection.execute(select(TOKENS).order_by(TOKENS.c.id))
        ]


class Transaction(Snapshot):
    """Reads and writes that become true together when their block ends, or not at all."""

    def add_log(self, environment: str, epoch: int, origin: str, continues_generation: int) -> Log:
        """Begin an empty log."""
        self.connection.execute(
            insert(LOGS).values(
                environment=environment,
                epoch=epoch,
                origin=origin,
                continues_generation=continues_generation,
                frontier=Frontier().encode(),
                sequenced_at=0,
                note=b"",
                note_size=0,
                note_root=b"",
            )
        )
        log = self.log(environment, epoch)
        assert log is not None
        return log

    def append(
        self, log: Log, leaf: bytes, leaf_hash: bytes, *, statement: str, payload_type: str
    ) -> None:
        """Add one entry at the log's size, with the hashes its tiles gain."""
        index = log.frontier.size
        self.connection.execute(
            _ADD_ENTRY,
            {
                "log": log.id,
                "position": index,
                "statement": statement,
                "payload_type": payload_type,
                "leaf": leaf,
            },
        )
        level, subtree = 0, leaf_hash
        while True:
            self.connection.execute(
                _ADD_HASH, {"log": log.id, "level": level, "position": index, "hash": subtree}
            )
            if (index + 1) % TILE_WIDTH:
                return
            tile = self.hashes(log, level, index + 1 - TILE_WIDTH, index + 1)
            level, index, subtree = level + 1, index // TILE_WIDTH, Frontier().extended(tile).root()

    def move(self, log: Log) -> None:
        """Record the log's position: frontier and time."""
        values = {"frontier": log.frontier.encode(), "sequenced_at": log.sequenced_at}
        self.connection.execute(_MOVE, {"of_id": log.id, **values})

    def set_note(self, log: Log, note: bytes, size: int, root: bytes) -> None:
        """Record the newest signed checkpoint."""
        values = {"note": note, "note_size": size, "note_root": root}
        self.connection.execute(_SET_NOTE, {"of_id": log.id, **values})

    def set_heads(self, log: Log, heads: Mapping[Key, Head], changes: Sequence[Change]) -> None:
        """Replace heads by those that one entry made, and note which keys it touched."""
        by_key = {change.key: change for change in changes}
        rows = [
            {
                "log": log.id,
                "key": key_bytes(key),
                "generation": head.generation,
                "digest": head.digest,
                "head": head.encode(),
                "change": canonical(by_key[key].to_json()),
            }
            for key, head in heads.items()
        ]
        if not rows:
            return
        index = log.index_of(next(iter(heads.values())).generation)
        # A change that replaces nothing is of a key without a head: the fold has checked that.
        replaced = [
            {"of_log": log.id, "of_key": key_bytes(key)}
            for key in heads
            if by_key[key].replaces is not None
        ]
        if replaced:
            self.connection.execute(_DROP_HEAD, replaced)
        self.connection.execute(_ADD_HEAD, rows)
        self.connection.execute(
            _ADD_TOUCH, [{"log": log.id, "key": row["key"], "position": index} for row in rows]
        )

    def carry_heads(self, old: Log, new: Log) -> None:
        """Give a log the heads of the one it continues, which keeps its own."""
        columns = [column for column in HEADS.c if column is not HEADS.c.log]
        carried = select(literal(new.id), *columns).where(HEADS.c.log == old.id)
        names = ["log", *(column.name for column in columns)]
        self.connection.execute(insert(HEADS).from_select(names, carried))

    def require(self, log: Log, index: int, digests: Iterable[str]) -> None:
        """Note the blobs an entry cannot be judged without; they are never deleted."""
        rows = [{"log": log.id, "position": index, "digest": each} for each in set(digests)]
        if rows:
            self.connection.execute(insert(REQUIRED), rows)

    def put_blobs(self, environment: str, blobs: Mapping[str, bytes]) -> None:
        """Keep blobs, by digest, for an environment; keeping one again is no change."""
        digests = list(blobs)
        held = dict(self._chosen(_BLOBS_HELD, digests))
        granted = {row[0] for row in self._chosen(_GRANTED, digests, environment=environment)}
        added = [{"digest": each, "data": blobs[each]} for each in digests if each not in held]
        grants = [each for each in digests if each not in granted]
        if added:
            self.connection.execute(_ADD_BLOB, added)
        for digest, has_bytes in held.items():
            if not has_bytes:
                data = {"of_digest": digest, "data": blobs[digest]}
                self.connection.execute(_RESTORE_BLOB, data)
        if grants:
            rows = [{"environment": environment, "digest": each} for each in grants]
            self.connection.execute(_ADD_GRANT, rows)

    def _chosen(
        self, query: Select[Any], digests: Sequence[str], **values: object
    ) -> Iterator[Any]:
        for at in range(0, len(digests), _IN_CHUNK):
            chunk = {"digests": digests[at : at + _IN_CHUNK]}
            for row in self.connection.execute(query, chunk | values):
                yield tuple(row)

    def forget_blob(self, digest: str) -> None:
        """Delete a superseded blob's bytes everywhere; its digest keeps answering "gone".

        Raises:
            NotFound: there is no such blob.
            Refused: a head or an entry's judgement still needs it.
        """
        known = select(exists().where(BLOBS.c.digest == digest))
        if not self.connection.execute(known).scalar():
            raise NotFound(f"expected a blob {digest}, found none")
        # A head of an ended epoch is a head no more unless it was carried over.
        newest = {log.environment: log.id for log in self.logs()}
        needed = select(
            exists().where(HEADS.c.digest == digest, HEADS.c.log.in_(newest.values()))
            | exists().where(REQUIRED.c.digest == digest)
        )
        if self.connection.execute(needed).scalar():
            raise Refused(f"blob {digest}: expected one that is superseded, found it in use")
        self.connection.execute(update(BLOBS).where(BLOBS.c.digest == digest).values(data=None))

    def keep_pending(self, log: Log, row: PendingRow, *, not_after: int) -> None:
        """Keep a change set, or its further signatures, until it has enough of them."""
        self.drop_pending(log, row.statement)
        self.connection.execute(
            insert(PENDING).values(
                log=log.id,
                statement=row.statement,
                envelope=row.envelope,
                threshold=row.threshold,
                found=row.found,
                received_at=row.received_at,
                not_after=not_after,
            )
        )

    def drop_pending(self, log: Log, statement: str) -> None:
        """Forget a waiting change set."""
        self.connection.execute(
            delete(PENDING).where(PENDING.c.log == log.id, PENDING.c.statement == statement)
        )

    def drop_late_pending(self, log: Log, now_ms: int) -> None:
        """Forget waiting change sets that can no longer be sequenced."""
        self.connection.execute(
            delete(PENDING).where(PENDING.c.log == log.id, PENDING.c.not_after < now_ms)
        )

    def add_token(self, sha256: str, row: TokenRow) -> None:
        """Add a token; only its hash is kept."""
        self.connection.execute(
            insert(TOKENS).values(
                sha256=sha256,
                name=row.name,
                environment=row.environment,
                may=row.may,
                created_at=row.created_at,
                revoked_at=row.revoked_at,
            )
        )

    def revoke_tokens(self, name: str, environment: str | None, now_ms: int) -> int:
        """Revoke a name's tokens, in one environment or all; returns how many were in force."""
        query = update(TOKENS).where(TOKENS.c.name == name, TOKENS.c.revoked_at.is_(None))
        if environment is not None:
            query = query.where(TOKENS.c.environment == environment)
        return int(self.connection.execute(query.values(revoked_at=now_ms)).rowcount)


def _log(row: Any) -> Log:
    return Log(
        row.id,
        row.environment,
        row.epoch,
        row.origin,
        row.continues_generation,
        Frontier.decode(row.frontier),
        row.sequenced_at,
        row.note,
        row.note_size,
        row.note_root,
    )


def _head_row(row: Any) -> HeadRow:
    return HeadRow(key_of(row.key), Head.decode(row.head), row.change)


def _pending_row(row: Any) -> PendingRow:
    return PendingRow(row.statement, row.envelope, row.threshold, row.found, row.received_at)


def _token_row(row: Any) -> TokenRow:
    return TokenRow(row.name, row.environment, row.may, row.created_at, row.revoked_at)
