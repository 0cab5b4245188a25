"""Which flags differ between two snapshots of a replica, and which others ask for those.

A flag has changed when its record's bytes have: its definition as merged for this environment, or
its kill; also when it is new or gone. Named beside it are the flags that ask for it, for a segment
whose record or shards have changed, or for a flag that is named for that reason, however far down.
Any of them may go on answering everybody as before: who is affected is not worked out.

What is kept of a flag is its name, eight bytes of its record's hash and what it asks for. A record
is decoded when its hash is new and its bytes hold a word that asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from msgpack import unpackb
from xxhash import xxh3_64_digest

from control_plane.errors import InputInvalid
from control_plane.manifests.linting import asked_flags, asked_segments
from control_plane.replica.format import FLAG, HEADER_BYTES, SEGMENT, record_key

HASH: Final = slice(HEADER_BYTES - 8, HEADER_BYTES)
_ASKING: Final = (b"$flag", b"$segment")
# Shards are named by hexadecimal digits; by the first one they are read a sixteenth at a time.
_DIGITS: Final = "0123456789abcdef"


class Snapshot(Protocol):
    """A view of a replica."""

    def read(self, key: bytes) -> list[bytes | None]:
        """The raw record of a key, None where there is none."""

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The (key, raw record) pairs under a prefix."""


class FlagRecord(NamedTuple):
    """One flag's record, as far as a comparison needs it."""

    hash: bytes
    flags: frozenset[str]
    segments: frozenset[str]


class FlagRecords:
    """The flags of one snapshot, and the segments that some flag asks for, by their hashes."""

    def __init__(self, flags: dict[str, FlagRecord], segments: dict[str, bytes]) -> None:
        self._flags = flags
        self._segments = segments

    @classmethod
    def of(cls, snapshot: Snapshot, before: FlagRecords | None = None) -> FlagRecords:
        """The records of a snapshot; those that are as ``before`` are not decoded again.

        Raises:
            ViewExpired | ReplicaCorrupt: as the snapshot's reads.
        """
        known = {} if before is None else before._flags
        flags = {}
        for key, raw in snapshot.scan(bytes((FLAG,))):
            # A deleted flag's record stays, with nothing in it.
            if len(raw) > HEADER_BYTES:
                name = key[1:].decode("utf-8", "replace")
                found = known.get(name)
                if found is None or found.hash != raw[HASH]:
                    found = _record(raw)
                flags[name] = found
        asked = {name for flag in flags.values() for name in flag.segments}
        return cls(flags, {name: _segment_hash(snapshot, name) for name in asked})

    def changed_since(self, before: FlagRecords) -> list[str]:
        """The names of the flags that are not as before, or ask for what is not, sorted."""
        changed = _different(self._flags, before._flags)
        segments = {
            name
            for name in self._segments.keys() & before._segments.keys()
            if self._segments[name] != before._segments[name]
        }
        asking = {name: flag for name, flag in self._flags.items() if flag.flags or flag.segments}
        named = changed | {name for name, flag in asking.items() if flag.segments & segments}
        while True:
            found = {name for name, flag in asking.items() if flag.flags & named} - named
            if not found:
                return sorted(named)
            named |= found


def _different(flags: dict[str, FlagRecord], before: dict[str, FlagRecord]) -> set[str]:
    names: Iterable[str] = flags.keys() | before.keys()
    nothing = FlagRecord(b"", frozenset(), frozenset())
    return {
        name for name in names if flags.get(name, nothing).hash != before.get(name, nothing).hash
    }


def _record(raw: bytes) -> FlagRecord:
    if any(word in raw for word in _ASKING):
        try:
            metadata: Any = unpackb(raw[HEADER_BYTES:])["m"]
            return FlagRecord(raw[HASH], frozenset(asked_flags(metadata)), asked_segments(metadata))
        except (ValueError, TypeError, KeyError, InputInvalid):
            # No flag: it gives everybody their default, whatever it asks for.
            pass
    return FlagRecord(raw[HASH], frozenset(), frozenset())


def _segment_hash(snapshot: Snapshot, name: str) -> bytes:
    """One hash for a segment's record and all its shards."""
    found = [raw[HASH] for raw in snapshot.read(record_key(SEGMENT, name)) if raw is not None]
    shards = record_key(SEGMENT, name, "")
    for digit in _DIGITS:
        found += [raw[HASH] for _, raw in snapshot.scan(shards + digit.encode())]
    return xxh3_64_digest(b"".join(found))
