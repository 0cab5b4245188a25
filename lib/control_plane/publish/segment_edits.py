"""Edits of a segment's members: few are listed in its manifest, many lie in shards.

Up to 500 members stand in ``metadata.members``. More lie in 2^k shards, ``metadata.shards: k``: a
member's shard is the top k bits of the SHA-256 of its UTF-8, so adding one changes one shard. A
segment that outgrows its list moves into shards of about 250, and into more shards once one of
them passes 500 (the store takes 2,000, which leaves room until the split). By itself it never
moves back.

Whenever the number of shards changes, by a split or because its author wrote another number, every
shard is written and every one that is left over is deleted in the same set as the manifest: read
with another number of bits, a shard that stayed would hold members nobody finds.

Members come and go as a stream: what is in memory at once does not grow with their number beyond
what ``spool`` says, and a few hundred bytes for each shard.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import Json, canonical, parse
from control_plane.publish.spool import (
    ADDED,
    HASH_BITS,
    REMOVED,
    STOOD,
    Blobs,
    Members,
    Part,
    hash_bits,
)

MAX_LISTED: Final = 500
GOOD_SHARD: Final = 250
MAX_SHARD: Final = 500
MAX_BITS: Final = HASH_BITS

ShardReader = Callable[[str], list[str]]
Progress = Callable[[int, int], None]


class Shards(Mapping[str, list[str]]):
    """Members by shard; one shard at a time is read from where its blob lies."""

    def __init__(self) -> None:
        self._blobs = Blobs()
        self._digests: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        """How many members each shard holds."""

    def put(self, shard: str, members: Iterable[str]) -> None:
        """Keep the members of a shard."""
        held = sorted(set(members))
        self._digests[shard] = self._blobs.add(canonical(list[Json](held)))
        self.sizes[shard] = len(held)

    def blob(self, shard: str) -> bytes:
        """The bytes a shard is published as."""
        return self._blobs[self._digests[shard]]

    def __getitem__(self, shard: str) -> list[str]:
        held: Any = parse(self.blob(shard), what=f"shard {shard}")
        return [str(member) for member in held]

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)


@dataclass(frozen=True, slots=True)
class SegmentEdit:
    """A new manifest if it changes, the shards to write; how many members came or went."""

    document: dict[str, Any] | None
    shards: Shards
    changed: int


def shard_names(bits: int) -> list[str]:
    """The names of all 2^bits shards."""
    return [f"{index:04x}" for index in range(1 << bits)]


def shard_of(member: str, bits: int) -> str:
    """The shard of a member among 2^bits, as 4 hex digits."""
    return f"{hash_bits(member.encode()) >> (MAX_BITS - bits):04x}"


def with_members(
    document: Mapping[str, Any],
    read_shard: ShardReader,
    *,
    add: Iterable[str] = (),
    remove: Iterable[str] = (),
    moved: Progress = lambda done, total: None,
) -> SegmentEdit:
    """What to write so that ``add`` are members and ``remove`` are not; as ``with_noted``."""
    return with_noted(document, read_shard, noted(add, remove), moved)


def noted(add: Iterable[str] = (), remove: Iterable[str] = ()) -> Members:
    """An edit's members, so many as there may be."""
    members = Members()
    for member in add:
        members.note(member, ADDED)
    for member in remove:
        members.note(member, REMOVED)
    return members


def with_noted(
    document: Mapping[str, Any],
    read_shard: ShardReader,
    members: Members,
    moved: Progress = lambda done, total: None,
) -> SegmentEdit:
    """What to write so that those noted are members, or are none.

    ``read_shard`` gives the members of a shard, an empty list where it does not exist. ``moved``
    hears how many shards are done, and of how many. ``members`` is spent.

    Raises:
        ManifestInvalid: more members than 2^16 shards hold well.
    """
    bits = document["metadata"].get("shards")
    if bits is None:
        return _listed(document, members, moved)
    edit = _sharded(bits, read_shard, members, moved)
    if edit is not None:
        return edit
    for done, name in enumerate(shard_names(bits)):
        for member in read_shard(name):
            members.note(member, STOOD)
        moved(done + 1, 1 << bits)
    return _spread(document, members, bits + 1, moved)


def members_of(document: Mapping[str, Any], read_shard: ShardReader) -> Iterator[str]:
    """Everybody who is in the segment, one after another."""
    bits = document["metadata"].get("shards")
    if bits is None:
        yield from document["metadata"].get("members", ())
        return
    for shard in shard_names(bits):
        yield from read_shard(shard)


def in_shards(document: Mapping[str, Any], members: Iterable[str]) -> Shards:
    """All shards that ``document`` asks for, holding these members.

    Raises:
        ManifestInvalid: it asks for so few that one would hold more than 500.
    """
    bits = document["metadata"]["shards"]
    noted = Members()
    for member in members:
        noted.note(member, STOOD)
    # Counted before they are gathered: a shard of too many may be too many for memory.
    sizes = dict.fromkeys(range(1 << bits), 0)
    for part in noted.parts(bits):
        sizes[part.shard] += len(part.after)
    fullest, held = max(sizes.items(), key=lambda item: item[1])
    if held > MAX_SHARD:
        raise ManifestInvalid(
            f"segment/{document['name']}: expected at most {MAX_SHARD} members a shard, found"
            f" {held} in {fullest:04x} of {1 << bits}; raise shards, now {bits}",
            ("metadata", "shards"),
        )
    return _filled(noted, bits)[0]


def _listed(document: Mapping[str, Any], members: Members, moved: Progress) -> SegmentEdit:
    before = set(document["metadata"].get("members", ()))
    for member in before:
        members.note(member, STOOD)
    after: set[str] = set()
    for part in members.parts(0):
        after |= part.after
        if len(after) > MAX_LISTED:
            return _spread(document, members, 0, moved)
    changed = len(before ^ after)
    if not changed:
        return SegmentEdit(None, Shards(), 0)
    edited = copy.deepcopy(dict(document))
    edited["metadata"]["members"] = sorted(after)
    return SegmentEdit(edited, Shards(), changed)


def _sharded(bits: int, read: ShardReader, members: Members, moved: Progress) -> SegmentEdit | None:
    """The shards that change; None when one of them overflows and there can be more."""
    shards = Shards()
    changed = 0
    for index, parts in groupby(members.parts(bits), lambda part: part.shard):
        name = f"{index:04x}"
        before = set(read(name))
        after = before
        for part in parts:
            after = (after | part.added) - part.removed
            if len(after) > MAX_SHARD and bits < MAX_BITS:
                return None
        if before != after:
            shards.put(name, after)
            changed += len(before ^ after)
        moved(index + 1, 1 << bits)
    return SegmentEdit(None, shards, changed)


def _spread(
    document: Mapping[str, Any], members: Members, least_bits: int, moved: Progress
) -> SegmentEdit:
    """All members in so many shards that each holds about 250."""
    count = sum(len(part.after) for part in members.parts(0))
    bits = max(least_bits, (max(count - 1, 1) // GOOD_SHARD).bit_length())
    if bits > MAX_BITS:
        raise ManifestInvalid(
            f"segment/{document['name']}: expected at most {GOOD_SHARD << MAX_BITS} members,"
            f" found {count}"
        )
    edited = copy.deepcopy(dict(document))
    edited["metadata"].pop("members", None)
    edited["metadata"]["shards"] = bits
    shards, changed = _filled(members, bits, moved)
    return SegmentEdit(edited, shards, changed)


def _filled(
    members: Members, bits: int, moved: Progress = lambda done, total: None
) -> tuple[Shards, int]:
    """Every shard there is, empty ones too; how many members came or went."""
    shards = Shards()
    changed = 0
    for index, parts in _by_shard(members, bits):
        held: set[str] = set()
        for part in parts:
            after = part.after
            changed += len(after ^ part.stood)
            held |= after
        shards.put(f"{index:04x}", held)
        moved(index + 1, 1 << bits)
    return shards, changed


def _by_shard(members: Members, bits: int) -> Iterator[tuple[int, Iterable[Part]]]:
    """The parts of every shard there is, none for an empty one; in order."""
    behind = 0
    for index, parts in groupby(members.parts(bits), lambda part: part.shard):
        yield from ((empty, ()) for empty in range(behind, index))
        yield index, parts
        behind = index + 1
    yield from ((empty, ()) for empty in range(behind, 1 << bits))
