"""Whether a unit is a member of a segment, read from the replica when a rule asks.

A segment's record holds its members, or says that they lie in 2^k shards; a shard is chosen by
the top k bits of SHA-256(member). Records hold the first 16 bytes of each hash, sorted. A segment
or a shard without a record has no members.

Shards are searched where they are and not kept, so a segment of a million members costs a process
no memory. All records that one table's evaluations rest on are of one transaction: when a read
finds a newer one it raises ``Moved``, and the caller drops the table and evaluates again.
"""

from __future__ import annotations

from control_plane.errors import ReplicaCorrupt
from control_plane.feature_flags.bucketing import unit_of
from control_plane.feature_flags.compile import Moved
from control_plane.feature_flags.packed import unpack
from control_plane.replica.format import SEGMENT, decode_record, record_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[..., tuple[int, list[bytes | None]]]

HASH_BYTES = 16
MAX_SHARD_BITS = 16


class Memberships:
    """The memberships one table's functions ask for."""

    __slots__ = ("_read", "_segments", "_txn")

    def __init__(self, read: Read) -> None:
        self._read = read
        self._segments: dict[str, bytes | int] = {}
        self._txn: dict[str, int] = {}

    def join(self, txn: int) -> None:
        """Bind this table to a transaction, the first time; afterwards insist on it.

        Raises:
            Moved: the table is of another transaction.
        """
        # One step for all threads: the first to come decides.
        if self._txn.setdefault("id", txn) != txn:
            raise Moved

    def contains(self, segment: str, value: object) -> bool:
        """Whether the unit of this value is a member.

        Raises:
            Moved: as ``join``.
            ReplicaCorrupt | FormatUnsupported | Unavailable: a record that cannot be read.
        """
        unit = unit_of(value)
        if unit is None:
            return False
        # Imported here: loading OpenSSL costs a millisecond, and many processes use no segment.
        from hashlib import sha256

        digest = sha256(unit).digest()
        members = self._segments.get(segment)
        if members is None:
            members = self._segments[segment] = self._segment(segment)
        if isinstance(members, int):
            members = self._body(segment, shard_of(digest, members))
        return _holds(members, digest[:HASH_BYTES])

    def _segment(self, segment: str) -> bytes | int:
        """The packed members of a small segment, or the number of shard bits of a large one."""
        body = self._body(segment)
        if not body:
            return b""
        try:
            content = unpack(body)
            found = content["shards"] if "shards" in content else content["members"]
        except (ValueError, TypeError, KeyError) as error:
            raise _corrupt(segment, "members or shards", repr(error)) from error
        if isinstance(found, bytes):
            return _whole(segment, found)
        if isinstance(found, int) and 0 <= found <= MAX_SHARD_BITS:
            return found
        raise _corrupt(segment, f"0 to {MAX_SHARD_BITS} shard bits", repr(found))

    def _body(self, segment: str, *shard: str) -> bytes:
        key = record_key(SEGMENT, segment, *shard)
        txn, (raw,) = self._read(key)
        self.join(txn)
        if raw is None:
            return b""
        body = decode_record(key, raw).body
        return _whole(segment, body) if shard else body


def shard_of(digest: bytes, bits: int) -> str:
    """The shard of a member by its SHA-256: its top bits as four hex digits."""
    return f"{int.from_bytes(digest[:2], 'big') >> (16 - bits):04x}"


def _holds(packed: bytes, wanted: bytes) -> bool:
    """Whether a sorted run of 16-byte hashes holds one; nine comparisons for 500 members."""
    low, high = 0, len(packed) // HASH_BYTES
    while low < high:
        middle = (low + high) // 2
        found = packed[middle * HASH_BYTES : (middle + 1) * HASH_BYTES]
        if found == wanted:
            return True
        if found < wanted:
            low = middle + 1
        else:
            high = middle
    return False


def _whole(segment: str, packed: bytes) -> bytes:
    if len(packed) % HASH_BYTES:
        raise _corrupt(segment, f"hashes of {HASH_BYTES} bytes", f"{len(packed)} bytes")
    return packed


def _corrupt(segment: str, expected: str, found: str) -> ReplicaCorrupt:
    return ReplicaCorrupt(
        f"segment/{segment}: expected {expected}, found {found}; run 'control-plane replica verify'"
    )
