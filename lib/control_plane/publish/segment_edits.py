"""Edits of a segment's members: few are listed in its manifest, many lie in shards.

Up to 500 members stand in ``metadata.members``. More lie in 2^k shards, ``metadata.shards: k``: a
member's shard is the top k bits of the SHA-256 of its UTF-8, so adding one changes one shard. A
segment that outgrows its list moves into shards of about 250, and into more shards once one of
them passes 1,000; then every shard is written in the same set. It never moves back.
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
MAX_SHARD: Final = 1_000
MAX_BITS: Final = 16

ShardReader = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class SegmentEdit:
    """A new manifest if it changes, shards to write, shards to delete; how many members moved."""

    document: dict[str, Any] | None
    shards: Mapping[str, list[str]]
    dropped: tuple[str, ...]
    changed: int


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


def _listed(document: Mapping[str, Any], add: set[str], remove: set[str]) -> SegmentEdit:
    before = set(document["metadata"].get("members", ()))
    after = (before | add) - remove
    changed = len(before ^ after)
    if not changed:
        return SegmentEdit(None, {}, (), 0)
    edited = copy.deepcopy(dict(document))
    if len(after) <= MAX_LISTED:
        edited["metadata"]["members"] = sorted(after)
        return SegmentEdit(edited, {}, (), changed)
    return _spread(edited, after, 0, (), changed)


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
    if all(len(members) <= MAX_SHARD for members in shards.values()):
        return SegmentEdit(None, shards, (), changed)
    names = [f"{index:04x}" for index in range(1 << bits)]
    everyone = {member for name in names for member in shards.get(name) or read(name)}
    return _spread(copy.deepcopy(dict(document)), everyone, bits, names, changed)


def _spread(
    document: dict[str, Any],
    members: set[str],
    least_bits: int,
    present: Iterable[str],
    changed: int,
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
    shards: dict[str, list[str]] = {f"{index:04x}": [] for index in range(1 << bits)} | {
        shard: sorted(each) for shard, each in _by_shard(members, bits).items()
    }
    return SegmentEdit(document, shards, tuple(set(present) - set(shards)), changed)


def _by_shard(members: Iterable[str], bits: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for member in members:
        found.setdefault(shard_of(member, bits), []).append(member)
    return found
