"""A log as plain files: written by an export, and followed from a folder or any file server.

Below ``<environment>/<epoch>/`` lie ``checkpoint``, ``tile/<level>/<index>``, ``tile/entries/…``
(C2SP tlog-tiles) and ``blob/sha256/<hex>``, where a store serves them too.

What this module decides:

- Nothing read here is believed. The checkpoint is asked for once and the entries up to its size are
  handed on in parts, each with a consistency proof made of the hash tiles; the reader's steps 1 to
  3 judge both. ``check_tiles`` compares every hash tile with the entries.
- An export writes what was verified and nothing else: blobs and tiles first, each under its final
  name by one rename, the checkpoint last. A crash in between leaves an older checkpoint with more
  files than it needs. Files of an older export are never changed: partial tiles of other widths
  stay beside the new ones.
- A folder that holds another log, or more of this one, is refused before the first byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from control_plane.errors import (
    ChecksumMismatch,
    Forked,
    InputInvalid,
    NotFound,
    Refused,
    RolledBack,
    SignatureInvalid,
    StoreUnreachable,
    SyntaxInvalid,
    TokenRefused,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import Checkpoint, open_checkpoint
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import EMPTY, HASH_BYTES, consistency_proof, leaf_hash
from control_plane.log.note import Note
from control_plane.log.statements import ChangeSet, TrustStatement, parse_statement
from control_plane.log.tiles import TILE_WIDTH, decode_entries, encode_entries, tile_path
from control_plane.publish.client import StoreClient
from control_plane.publish.replay import History, Progress, Source, replay
from control_plane.trust.enrolment import Enrolment

TILE_BITS: Final = 8
BUNDLES_A_PART: Final = 32
"""8,192 entries, as a store's own answers have at most."""


class Files(Protocol):
    """Where files are read from; ``place`` names it in messages."""

    @property
    def place(self) -> str: ...
    def read(self, path: str) -> bytes: ...


class FolderFiles:
    """The files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            NotFound: there is none, or it cannot be read.
        """
        try:
            return (self._folder / path).read_bytes()
        except OSError as error:
            found = "none" if isinstance(error, FileNotFoundError) else str(error.strerror).lower()
            raise NotFound(f"{self.place}: expected {path}, found {found}") from error


class ServedFiles:
    """The files that a server has below a URL; a store's own static files alike."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    @property
    def place(self) -> str:
        """The URL."""
        return self._client.url

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            NotFound: the server has none.
            TokenRefused: it wants a token, or another one.
            StoreUnreachable: it does not answer, or not with a file.
        """
        answer = self._client.request("GET", f"/{path}")
        if answer.status == 200:
            return answer.body
        found = f"{self.place}: expected {path}, found status {answer.status}"
        if answer.status in (404, 410):
            raise NotFound(found)
        if answer.status in (401, 403):
            raise TokenRefused(f"{found}; pass --token-file FILE")
        raise StoreUnreachable(found)


class StaticLog:
    """One log's files, as ``replay`` follows a store; keeps the hash of every leaf it gave."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._note = b""
        self._size = 0
        self._prefix = ""
        self._hashes: list[bytes] = []

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        """The entries from ``size`` on, at most 8,192, as a store answers."""
        if not self._prefix:
            self._prefix = f"{environment}/{epoch}/"
            self._note = self._read("checkpoint")
            self._size = Checkpoint.parse_text(Note.parse(self._note).text).size
        stop = min(self._size, (size // TILE_WIDTH + BUNDLES_A_PART) * TILE_WIDTH)
        entries = self._entries(size, stop)
        self._hashes += map(leaf_hash, entries)
        more = stop < self._size
        proof = consistency_proof(stop, self._size, self._hash) if more else []
        return {
            "first": size,
            "entries": entries,
            "checkpoint": self._note,
            "blobs": {},
            "more": more,
            "proof": proof,
        }

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        """The bytes whose SHA-256 is ``digest``.

        Raises:
            NotFound: there is no such file.
            ChecksumMismatch: it holds other bytes.
        """
        data = self._read(f"blob/sha256/{digest}")
        if (found := sha256_hex(data)) != digest:
            raise ChecksumMismatch(f"{self._files.place}: expected blob {digest}, found {found}")
        return data

    def check_tiles(self) -> int:
        """Compare all hash tiles with the entries that were given; returns how many there are.

        Raises:
            NotFound: one is missing.
            Forked: one holds other hashes.
        """
        count = 0
        for path, data in hash_tiles(self._hashes):
            if self._read(path) != data:
                raise Forked(
                    f"{self._files.place}: expected the hashes of the entries in {self._prefix}"
                    f"{path}, found others"
                )
            count += 1
        return count

    def _read(self, path: str) -> bytes:
        return self._files.read(self._prefix + path)

    def _entries(self, start: int, stop: int) -> list[bytes]:
        entries: list[bytes] = []
        for index in range(start // TILE_WIDTH, -(-stop // TILE_WIDTH)):
            width = min(TILE_WIDTH, self._size - index * TILE_WIDTH)
            path = tile_path("entries", index, width)
            bundle = decode_entries(self._read(path))
            if len(bundle) != width:
                raise SyntaxInvalid(
                    f"{self._prefix}{path}: expected {width} entries, found {len(bundle)}"
                )
            entries += bundle[max(0, start - index * TILE_WIDTH) :]
        return entries

    def _hash(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree: the root over its part of one tile."""
        tile_level, bits = divmod(level, TILE_BITS)
        tile, first = divmod(index << bits, TILE_WIDTH)
        width = min(TILE_WIDTH, (self._size >> (TILE_BITS * tile_level)) - tile * TILE_WIDTH)
        path = tile_path(tile_level, tile, width)
        data = self._read(path)
        if len(data) != width * HASH_BYTES:
            raise SyntaxInvalid(
                f"{self._prefix}{path}: expected {width} hashes, found {len(data)} bytes"
            )
        wanted = range(first, first + (1 << bits))
        return EMPTY.extended(data[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in wanted).root()


def hash_tiles(hashes: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each hash tile over these leaf hashes, the lowest level first."""
    level = 0
    while hashes:
        above = []
        for start in range(0, len(hashes), TILE_WIDTH):
            tile = hashes[start : start + TILE_WIDTH]
            yield tile_path(level, start // TILE_WIDTH, len(tile)), b"".join(tile)
            if len(tile) == TILE_WIDTH:
                above.append(EMPTY.extended(tile).root())
        hashes, level = above, level + 1


def check_live_blobs(log: Source, history: History, progress: Progress | None = None) -> int:
    """Read the blob of every live key, as a new node has to; returns how many there are.

    Raises:
        NotFound: one is missing.
        ChecksumMismatch: one holds other bytes.
    """
    digests = {change.digest for change in history.changes.values() if change.digest}
    for done, digest in enumerate(sorted(digests)):
        log.blob(history.environment, digest)
        if progress is not None:
            progress(done + 1, len(digests))
    return len(digests)


@dataclass(frozen=True, slots=True)
class Exported:
    """A verified log that lies below ``folder`` now; ``gone`` blobs were deleted by the store."""

    folder: Path
    history: History
    files: int
    blobs: int
    gone: int


def export(
    store: Source,
    environment: str,
    enrolment: Enrolment,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> Exported:
    """Verify a log from its first entry and write it below ``folder``; older files stay.

    Raises:
        TrustError: the log is not what it claims to be; nothing was written.
        Refused: the folder holds another log.
        RolledBack, Forked: it holds more of this log, or another past.
        NotFound: the store deleted bytes that a live key rests on; the checkpoint stays the old.
    """
    recorded = _Recorded(store)
    history = replay(recorded, environment, enrolment, progress=progress)
    below = folder / environment / str(recorded.epoch)
    hashes = [leaf_hash(leaf) for leaf in recorded.leaves]
    _require_prefix(below / "checkpoint", history, hashes)
    blobs, gone = _write_blobs(below, store, recorded, history)
    files = 0
    for path, data in _tiles(recorded.leaves, hashes):
        _write(below / path, data)
        files += 1
    # Last: whoever finds this checkpoint finds everything it covers.
    assert history.checkpoint is not None
    _write(below / "checkpoint", history.checkpoint.note)
    return Exported(below, history, files + 1, blobs, gone)


class _Recorded:
    """A source that keeps the leaves it gave."""

    def __init__(self, store: Source) -> None:
        self._store = store
        self.leaves: list[bytes] = []
        self.epoch = 0

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        answer = self._store.follow(environment, epoch=epoch, size=size)
        self.leaves += answer["entries"]
        self.epoch = epoch
        return answer

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        return self._store.blob(environment, digest, epoch)


def _require_prefix(path: Path, history: History, hashes: Sequence[bytes]) -> None:
    """What lies in the folder is an older state of the same log, or nothing."""
    if not path.exists():
        return
    assert history.policy is not None
    origin = history.position.origin
    vkeys = history.policy.log(history.environment).vkeys
    try:
        old = open_checkpoint(path.read_bytes(), vkeys).checkpoint
    except (SignatureInvalid, SyntaxInvalid) as error:
        raise Refused(
            f"{path}: expected a checkpoint of {origin}, found another; export to another folder"
        ) from error
    if old.size > len(hashes):
        raise RolledBack(f"{origin}: expected at least {old.size} entries, found {len(hashes)}")
    if EMPTY.extended(hashes[: old.size]).root() != old.root:
        raise Forked(
            f"{origin}: expected root {old.root.hex()} at size {old.size} as exported before,"
            " found another; keep both checkpoints"
        )


def _write_blobs(
    below: Path, store: Source, recorded: _Recorded, history: History
) -> tuple[int, int]:
    live = {change.digest for change in history.changes.values() if change.digest}
    written = gone = 0
    for digest in _named_blobs(recorded.leaves, history):
        path = below / "blob" / "sha256" / digest
        if path.exists() and sha256_hex(path.read_bytes()) == digest:
            written += 1
            continue
        try:
            data = store.blob(history.environment, digest, recorded.epoch)
        except NotFound:
            if digest in live:
                raise
            gone += 1  # superseded and deleted: personal data may have to go
            continue
        _write(path, data)
        written += 1
    return written, gone


def _named_blobs(leaves: Sequence[bytes], history: History) -> dict[str, None]:
    """What entries are judged by, of rejected ones too, then what accepted ones carry."""
    named: dict[str, None] = {}
    for leaf in leaves:
        try:
            statement = parse_statement(Leaf.decode(leaf).envelope)
        except InputInvalid:
            continue  # a rejected entry out of form names nothing
        if isinstance(statement, TrustStatement):
            named |= dict.fromkeys([*statement.root, statement.targets])
        elif isinstance(statement, ChangeSet) and statement.changes_blob is not None:
            named[statement.changes_blob.digest] = None
    for entry in history.accepted:
        named |= dict.fromkeys(change.digest for change in entry.changes if change.digest)
    return named


def _tiles(leaves: Sequence[bytes], hashes: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(leaves), TILE_WIDTH):
        bundle = leaves[start : start + TILE_WIDTH]
        path = tile_path("entries", start // TILE_WIDTH, len(bundle))
        yield path, encode_entries(bundle)
    yield from hash_tiles(hashes)


def _write(path: Path, data: bytes) -> None:
    """Write beside and rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    beside.replace(path)
