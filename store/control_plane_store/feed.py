"""What followers of a log are given: parts of the log, and its static files.

Everything here is of the tree the newest *published* checkpoint covers, read in one transaction;
entries that are not yet covered do not exist for a follower.

- A part holds entries from the follower's size on, and the checkpoint. It ends at ``MAX_ENTRIES``
  or ``ENTRY_BYTES``; then ``more`` is true and ``proof`` shows that the entries so far are a
  prefix of the checkpoint's tree (RFC 6962), so that each part is verified by itself.
- With the entries come the blobs without which they cannot be judged, and those that are still
  some key's head. A part has at most ``PART_BYTES``: it ends before the entry whose blobs do not
  fit any more, because a blob fetched alone costs a follower and the store ten times as much. Only
  what one entry alone has too much is left to be fetched by its digest.
- A follower ahead of the checkpoint gets the checkpoint alone, and draws its own conclusion.
- Tiles are as C2SP's tlog-tiles has them; any width the tree has reached may be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgpack

from control_plane.errors import NotFound
from control_plane.log.merkle import consistency_proof
from control_plane.log.tiles import TILE_WIDTH, encode_entries, parse_tile_path
from control_plane_store.transactions import Log, Snapshot

PART_BYTES = 8 << 20
ENTRY_BYTES = 4 << 20
MAX_ENTRIES = 8_192
# What msgpack adds around a blob: a digest of 64 characters and two length headers.
_BLOB_OVERHEAD = 72
# For so many entries at a time the digests are read: most parts of a long log end after a few.
_SLICE = 256
_PART_OVERHEAD = 4_096


class Superseded(NotFound):
    """A blob that was deleted after its key moved on."""

    code = "superseded"


def part(snapshot: Snapshot, log: Log, size: int) -> bytes:
    """The follow answer (msgpack) for a follower that holds ``size`` entries."""
    first = min(size, log.note_size)
    entries, used = _entries(snapshot, log, first)
    budget = PART_BYTES - used - _PART_OVERHEAD
    blobs, stop = _blobs(snapshot, log, first, first + len(entries), budget)
    more = stop < log.note_size
    answer = {
        "format": 1,
        "epoch": log.epoch,
        "checkpoint": log.note,
        "first": first,
        "entries": entries[: stop - first],
        "blobs": blobs,
        "more": more,
    }
    if more:
        reader = snapshot.hash_reader(log)
        answer["proof"] = consistency_proof(stop, log.note_size, reader)
    packed: bytes = msgpack.packb(answer)
    return packed


def static_file(snapshot: Snapshot, log: Log, path: str) -> bytes:
    """The bytes of a tile or entry bundle, or of the checkpoint.

    Raises:
        SyntaxInvalid: no path of a tile.
        NotFound: a tile the tree has not reached.
    """
    if path == "checkpoint":
        return log.note
    level, index, width = parse_tile_path(path)
    start = index * TILE_WIDTH
    covered = log.note_size if level == "entries" else log.note_size >> (8 * int(level))
    if start + width > covered:
        raise NotFound(f"{log.origin}: expected a tile of size {log.note_size}, found {path}")
    if level == "entries":
        return encode_entries(snapshot.leaves(log, start, start + width))
    return b"".join(snapshot.hashes(log, int(level), start, start + width))


def blob(snapshot: Snapshot, environment: str, digest: str) -> bytes:
    """A blob's bytes.

    Raises:
        NotFound: the environment was never given it.
        Superseded: it was deleted.
    """
    data = snapshot.blob(environment, digest)
    if data is None:
        raise Superseded(f"{environment}: expected blob {digest}, found it superseded and deleted")
    return data


def _entries(snapshot: Snapshot, log: Log, first: int) -> tuple[list[bytes], int]:
    entries: list[bytes] = []
    used = 0
    stop = min(log.note_size, first + MAX_ENTRIES)
    for leaf in snapshot.leaves(log, first, stop) if first < stop else ():
        if entries and used + len(leaf) > ENTRY_BYTES:
            break
        entries.append(leaf)
        used += len(leaf) + 5
    return entries, used


def _blobs(
    snapshot: Snapshot, log: Log, first: int, stop: int, budget: int
) -> tuple[dict[str, bytes], int]:
    """The blobs of as many entries as fit, and the index after those entries."""
    blobs: dict[str, bytes] = {}
    for index, digests in _wanted(snapshot, log, first, stop):
        taken: dict[str, bytes] = {}
        for digest in digests:
            data = None if digest in blobs else _data(snapshot, log, digest)
            if data is None:
                continue
            if len(data) + _BLOB_OVERHEAD <= budget:
                budget -= len(data) + _BLOB_OVERHEAD
                taken[digest] = data
            elif index > first:
                return blobs, index
        blobs |= taken
    return blobs, stop


def _wanted(
    snapshot: Snapshot, log: Log, first: int, stop: int
) -> Iterator[tuple[int, dict[str, None]]]:
    """Each entry that has blobs, with their digests: what it is judged by, then its heads'."""
    for start in range(first, stop, _SLICE):
        end = min(stop, start + _SLICE)
        wanted: dict[int, dict[str, None]] = {}
        for index, digest in snapshot.required(log, start, end):
            wanted.setdefault(index, {})[digest] = None
        for index, digest in snapshot.head_digests(log, start, end):
            wanted.setdefault(index, {})[digest] = None
        yield from sorted(wanted.items())


def _data(snapshot: Snapshot, log: Log, digest: str) -> bytes | None:
    try:
        return snapshot.blob(log.environment, digest)
    except NotFound:
        return None  # the digest of a change without a blob: a kill, a channel, a status
