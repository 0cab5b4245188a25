"""A log as plain files: written by an export, and followed from a folder or any file server.

Below ``<environment>/<epoch>/`` lie ``checkpoint``, ``tile/<level>/<index>``, ``tile/entries/…``
(C2SP tlog-tiles) and ``blob/sha256/<hex>``, where a store serves them too.

What this module decides:

- Nothing read here is believed. The checkpoint is asked for once and the entries up to its size are
  handed on in parts, each with a consistency proof made of the hash tiles; the reader's steps 1 to
  3 judge both. ``check_tiles`` compares every hash tile with the entries.
- A file server cannot say that a log goes on in a later epoch. So at the end of an epoch the next
  few numbers are looked for; the reader judges what lies there.
- An export writes what was verified and nothing else, every epoch of it, the oldest first: blobs
  and tiles, each under its final name by one rename, then the epoch's checkpoint. A crash in
  between leaves an older checkpoint with more files than it needs. Files of an older export are
  never changed: partial tiles of other widths stay beside the new ones.
- Each epoch's folder holds the blobs that its own entries name and those of the keys that were live
  when it ended, whichever epoch named them: who follows that epoch needs no other folder.
- A folder that holds another log, more of this one, or an epoch that is no part of it, is refused
  before the first byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from control_plane.errors import (
    ChecksumMismatch,
    EpochMoved,
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
from control_plane.log.tiles import (
    TILE_WIDTH,
    decode_entries,
    encode_entries,
    tile_of_subtree,
    tile_path,
)
from control_plane.publish.client import StoreClient
from control_plane.publish.replay import Epoch, History, Progress, Source, replay
from control_plane.trust.enrolment import Enrolment

BUNDLES_A_PART: Final = 32
"""8,192 entries, as a store's own answers have at most."""
PROBED_EPOCHS: Final = 4
"""Numbers looked for after an epoch's own; few are skipped, and each costs a request."""


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
        self._epochs: dict[int, _EpochFiles] = {}

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        """The entries from ``size`` on, at most 8,192, as a store answers.

        Raises:
            NotFound: no such epoch.
            EpochMoved: it has no more, and a later one lies there; ``epoch`` is that one.
        """
        files = self._epochs.get(epoch)
        if files is None:
            files = self._epochs[epoch] = _EpochFiles.open(self._files, environment, epoch)
        if 0 < files.size <= size:
            self._look_beyond(environment, epoch)
        return files.part(size)

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        """The bytes whose SHA-256 is ``digest``; in the newest epoch read unless one is named.

        Raises:
            NotFound: there is no such file.
            ChecksumMismatch: it holds other bytes.
        """
        number = max(self._epochs, default=1) if epoch is None else epoch
        data = self._files.read(f"{environment}/{number}/blob/sha256/{digest}")
        if (found := sha256_hex(data)) != digest:
            raise ChecksumMismatch(f"{self._files.place}: expected blob {digest}, found {found}")
        return data

    def check_tiles(self) -> int:
        """Compare all hash tiles with the entries that were given; returns how many there are.

        Raises:
            NotFound: one is missing.
            Forked: one holds other hashes.
        """
        return sum(files.check_tiles() for files in self._epochs.values())

    def _look_beyond(self, environment: str, epoch: int) -> None:
        for later in range(epoch + 1, epoch + 1 + PROBED_EPOCHS):
            try:
                self._files.read(f"{environment}/{later}/checkpoint")
            except NotFound:
                continue
            raise EpochMoved(
                f"{environment}: expected entries of epoch {epoch}, found that the log goes on in"
                f" epoch {later}",
                later,
            )


@dataclass(slots=True)
class _EpochFiles:
    """The files of one epoch, as its checkpoint was when they were first looked at."""

    files: Files
    prefix: str
    note: bytes
    size: int
    hashes: list[bytes] = field(default_factory=list)

    @classmethod
    def open(cls, files: Files, environment: str, epoch: int) -> _EpochFiles:
        prefix = f"{environment}/{epoch}/"
        note = files.read(f"{prefix}checkpoint")
        return cls(files, prefix, note, Checkpoint.parse_text(Note.parse(note).text).size)

    def part(self, size: int) -> dict[str, Any]:
        stop = min(self.size, (size // TILE_WIDTH + BUNDLES_A_PART) * TILE_WIDTH)
        entries = self._entries(size, stop)
        self.hashes[size:] = map(leaf_hash, entries)
        more = stop < self.size
        proof = consistency_proof(stop, self.size, self._hash) if more else []
        return {
            "first": size,
            "entries": entries,
            "checkpoint": self.note,
            "blobs": {},
            "more": more,
            "proof": proof,
        }

    def check_tiles(self) -> int:
        count = 0
        for path, data in hash_tiles(self.hashes):
            if self._read(path) != data:
                raise Forked(
                    f"{self.files.place}: expected the hashes of the entries in {self.prefix}"
                    f"{path}, found others"
                )
            count += 1
        return count

    def _read(self, path: str) -> bytes:
        return self.files.read(self.prefix + path)

    def _entries(self, start: int, stop: int) -> list[bytes]:
        entries: list[bytes] = []
        for index in range(start // TILE_WIDTH, -(-stop // TILE_WIDTH)):
            width = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
            path = tile_path("entries", index, width)
            bundle = decode_entries(self._read(path))
            if len(bundle) != width:
                raise SyntaxInvalid(
                    f"{self.prefix}{path}: expected {width} entries, found {len(bundle)}"
                )
            entries += bundle[max(0, start - index * TILE_WIDTH) :]
        return entries

    def _hash(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree: the root over its part of one tile."""
        tile_level, tile, width, wanted = tile_of_subtree(level, index, self.size)
        path = tile_path(tile_level, tile, width)
        data = self._read(path)
        if len(data) != width * HASH_BYTES:
            raise SyntaxInvalid(
                f"{self.prefix}{path}: expected {width} hashes, found {len(data)} bytes"
            )
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
    """A verified log; ``folder`` is its newest epoch's. ``gone`` blobs were deleted by the store.

    ``files`` and ``blobs`` count those of all epochs, a blob in two of them twice.
    """

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
    """Verify a log from its first entry and write all its epochs below ``folder``.

    Older files stay.

    Raises:
        TrustError: the log is not what it claims to be; nothing was written.
        Refused: the folder holds another log, or an epoch that is no part of this one.
        RolledBack, Forked: it holds more of this log, or another past.
        NotFound: the store deleted bytes that a live key rests on; the checkpoint stays the old.
    """
    recorded = _Recorded(store)
    history = replay(recorded, environment, enrolment, progress=progress)
    below = folder / environment
    _require_epochs(below, history)
    parts = [_Part.of(below, epoch, history, recorded) for epoch in history.epochs]
    for part in parts:
        _require_prefix(part)
    written = [
        _write_epoch(store, environment, part, parts[:index]) for index, part in enumerate(parts)
    ]
    files, blobs, gone = (sum(counts) for counts in zip(*written, strict=True))
    return Exported(parts[-1].folder, history, files, blobs, gone)


class _Recorded:
    """A source that keeps the leaves it gave, by epoch."""

    def __init__(self, store: Source) -> None:
        self._store = store
        self.leaves: dict[int, list[bytes]] = {}

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        answer = self._store.follow(environment, epoch=epoch, size=size)
        self.leaves.setdefault(epoch, [])[size:] = answer["entries"]
        return answer

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        return self._store.blob(environment, digest, epoch)


@dataclass(frozen=True, slots=True)
class _Part:
    """One epoch to be written: its leaves, and the blobs that belong into its folder."""

    folder: Path
    epoch: Epoch
    leaves: Sequence[bytes]
    hashes: Sequence[bytes]
    named: Sequence[str]
    live: frozenset[str]
    newest: bool

    @classmethod
    def of(cls, below: Path, epoch: Epoch, history: History, recorded: _Recorded) -> _Part:
        number, last = epoch.log.epoch, epoch.position.generation
        leaves = recorded.leaves[number]
        changes = history.changes_at(last).values()
        live = {change.digest: None for change in changes if change.digest}
        named = _named_blobs(leaves, history, epoch)
        return cls(
            below / str(number),
            epoch,
            leaves,
            [leaf_hash(leaf) for leaf in leaves],
            tuple(named | live),
            frozenset(live),
            epoch is history.epochs[-1],
        )


def _require_epochs(below: Path, history: History) -> None:
    """No epoch lies in the folder but those of this log."""
    ours = {epoch.log.epoch for epoch in history.epochs}
    there = {
        int(path.parent.name) for path in below.glob("*/checkpoint") if path.parent.name.isdecimal()
    }
    if not there <= ours:
        raise Refused(
            f"{below}: expected epochs {', '.join(map(str, sorted(ours)))} of"
            f" {history.position.origin}, found epoch {max(there - ours)}; export to another folder"
        )


def _require_prefix(part: _Part) -> None:
    """What lies in the folder is an older state of the same log, or nothing."""
    path, log, hashes = part.folder / "checkpoint", part.epoch.log, part.hashes
    if not path.exists():
        return
    try:
        old = open_checkpoint(path.read_bytes(), log.vkeys, witnesses=log.witnesses).checkpoint
    except (SignatureInvalid, SyntaxInvalid) as error:
        raise Refused(
            f"{path}: expected a checkpoint of {log.origin}, found another; export to another"
            " folder"
        ) from error
    if old.size > len(hashes):
        raise RolledBack(f"{log.origin}: expected at least {old.size} entries, found {len(hashes)}")
    if EMPTY.extended(hashes[: old.size]).root() != old.root:
        raise Forked(
            f"{log.origin}: expected root {old.root.hex()} at size {old.size} as exported before,"
            " found another; keep both checkpoints"
        )


def _write_epoch(
    store: Source, environment: str, part: _Part, before: Sequence[_Part]
) -> tuple[int, int, int]:
    """How many files and blobs an epoch has now, and how many blobs were gone."""
    blobs, gone = _write_blobs(store, environment, part, before)
    files = 0
    for path, data in _tiles(part.leaves, part.hashes):
        _write(part.folder / path, data)
        files += 1
    # Last: whoever finds this checkpoint finds everything it covers.
    _write(part.folder / "checkpoint", part.epoch.checkpoint.note)
    return files + 1, blobs, gone


def _write_blobs(
    store: Source, environment: str, part: _Part, before: Sequence[_Part]
) -> tuple[int, int]:
    written = gone = 0
    for digest in part.named:
        path = part.folder / "blob" / "sha256" / digest
        if _holds(path, digest):
            written += 1
            continue
        try:
            data = _carried(digest, before) or store.blob(environment, digest, part.epoch.log.epoch)
        except NotFound:
            if part.newest and digest in part.live:
                raise
            gone += 1  # superseded and deleted: personal data may have to go
            continue
        _write(path, data)
        written += 1
    return written, gone


def _carried(digest: str, before: Sequence[_Part]) -> bytes | None:
    """A blob as an earlier epoch's folder has it by now."""
    for part in reversed(before):
        path = part.folder / "blob" / "sha256" / digest
        if _holds(path, digest):
            return path.read_bytes()
    return None


def _holds(path: Path, digest: str) -> bool:
    return path.exists() and sha256_hex(path.read_bytes()) == digest


def _named_blobs(leaves: Sequence[bytes], history: History, epoch: Epoch) -> dict[str, None]:
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
    position = epoch.position
    for entry in history.accepted:
        if position.continues_generation < entry.generation <= position.generation:
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
