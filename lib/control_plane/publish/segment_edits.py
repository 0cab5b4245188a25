"""Edits of a segment's members: few are listed in its manifest, many lie in shards.

Up to 500 members stand in ``metadata.members``. More lie in 2^k shards, ``metadata.shards: k``: a
member's shard is the top k bits of the SHA-256 of its UTF-8, so adding one changes one shard. A
segment that outgrows its list moves into shards of about 250, and into more shards once one of
them passes 500 (the store takes 2,000, which leaves room until the split). By itself it never
moves back.

Whenever the number of shards changes, by a split or because its author wrote another number, every
shard is written and every one that is left over is deleted in the same set as the manifest: read
with another number of bits, a shard that stayed would hold members nobody finds.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from control_plane.errors import ManifestInvalid

MAX_LISTED: Final = 500
GOOD_SHARD: Final = 250
MAX_SHARD: Final = 500
MAX_BITS: Final = 16

ShardReader = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class SegmentEdit:
    """A new manifest if it changes, the shards to write; how many members came or went."""

    document: dict[str, Any] | None
    shards: Mapping[str, list[str]]
    changed: int


def shard_names(bits: int) -> list[str]:
    """The names of all 2^bits shards."""
    return [f"{index:04x}" for index in range(1 << bits)]


def shard_of(member: str, bits: int) -> str:
    """The shard of a member among 2^bits, as 4 hex digits."""
    top = int.from_bytes(hashlib.sha256(member.encode()).digest()[:2], "big")
    return f"{top >> (MAX_BITS - bits):04x}"


def with_members(
    document: Mapping[str, Any],
    read_shard: ShardReader,
    *,
    add: Collection[str] = (),
    remove: Collection[str] = (),
) -> SegmentEdit:
    """What to write so that ``add`` are members and ``remove`` are not.

    ``read_shard`` gives the members of a shard, an empty list where it does not exist.

    Raises:
        ManifestInvalid: more members than 2^16 shards hold well.
    """
    bits = document["metadata"].get("shards")
    if bits is None:
        return _listed(document, set(add), set(remove))
    return _sharded(document, bits, read_shard, set(add), set(remove))


def members_of(document: Mapping[str, Any], read_shard: ShardReader) -> set[str]:
    """Everybody who is in the segment."""
    bits = document["metadata"].get("shards")
    if bits is None:
        return set(document["metadata"].get("members", ()))
    return {member for shard in shard_names(bits) for member in read_shard(shard)}


def in_shards(document: Mapping[str, Any], members: Iterable[str]) -> dict[str, list[str]]:
    """All shards that ``document`` asks for, holding these members.

    Raises:
        ManifestInvalid: it asks for so few that one would hold more than 500.
    """
    bits = document["metadata"]["shards"]
    shards = _filled(members, bits)
    fullest, held = max(shards.items(), key=lambda item: len(item[1]))
    if len(held) > MAX_SHARD:
        raise ManifestInvalid(
            f"segment/{document['name']}: expected at most {MAX_SHARD} members a shard, found"
            f" {len(held)} in {fullest} of {1 << bits}; raise shards, now {bits}",
            ("metadata", "shards"),
        )
    return shards


def _listed(document: Mapping[str, Any], add: set[str], remove: set[str]) -> SegmentEdit:
    before = set(document["metadata"].get("members", ()))
    after = (before | add) - remove
    changed = len(before ^ after)
    if not changed:
        return SegmentEdit(None, {}, 0)
    edited = copy.deepcopy(dict(document))
    if len(after) <= MAX_LISTED:
        edited["metadata"]["members"] = sorted(after)
        return SegmentEdit(edited, {}, changed)
    return _spread(edited, after, 0, changed)


def _sharded(
    document: Mapping[str, Any], bits: int, read: ShardReader, add: set[str], remove: set[str]
) -> SegmentEdit:
    shards: dict[str, list[str]] = {}
    changed = 0
    for shard, members in _by_shard(add | remove, bits).items():
        before = set(read(shard))
        after = (before | (add & set(members))) - remove
        if before != after:
            shards[shard] = sorted(after)
            changed += len(before ^ after)
    overflows = any(len(members) > MAX_SHARD for members in shards.values())
    if not overflows or bits == MAX_BITS:
        return SegmentEdit(None, shards, changed)
    everyone = {
        member
        for name in shard_names(bits)
        for member in (shards[name] if name in shards else read(name))
    }
    return _spread(copy.deepcopy(dict(document)), everyone, bits + 1, changed)


def _spread(
    document: dict[str, Any], members: set[str], least_bits: int, changed: int
) -> SegmentEdit:
    """All members in so many shards that each holds about 250."""
    bits = max(least_bits, (max(len(members) - 1, 1) // GOOD_SHARD).bit_length())
    if bits > MAX_BITS:
        raise ManifestInvalid(
            f"segment/{document['name']}: expected at most {GOOD_SHARD << MAX_BITS} members,"
            f" found {len(members)}"
        )
    document["metadata"].pop("members", None)
    document["metadata"]["shards"] = bits
    return SegmentEdit(document, _filled(members, bits), changed)


def _filled(members: Iterable[str], bits: int) -> dict[str, list[str]]:
    """Every shard there is, empty ones too."""
    return {name: [] for name in shard_names(bits)} | {
        shard: sorted(each) for shard, each in _by_shard(members, bits).items()
    }


def _by_shard(members: Iterable[str], bits: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for member in members:
        found.setdefault(shard_of(member, bits), []).append(member)
    return found
