"""Whether a unit is a member of a segment, read from the replica when a rule asks.

A segment's record holds its members, or says that they lie in 2^k shards; a shard is chosen by
the top k bits of SHA-256(member). Records hold the first 16 bytes of each hash, sorted. Beside
them may stand units that are excluded, and rules. Who is excluded is no member; who is listed is
one; else whoever a rule matches. Without a unit only the rules are asked. A segment or a shard
without a record has no members.

Shards are searched where they are and not kept, so a segment of a million members costs a process
no memory. All records that one table's evaluations rest on are of one transaction: when a read
finds a newer one it raises ``Moved``, and the caller drops the table and evaluates again.
"""

from __future__ import annotations

from control_plane.errors import ReplicaCorrupt
from control_plane.feature_flags.bucketing import unit_of
from control_plane.feature_flags.compile import Moved
from control_plane.feature_flags.definition import parse_segment_rules
from control_plane.feature_flags.packed import unpack
from control_plane.replica.format import (
    MAX_KEY_BYTES,
    SEGMENT,
    bounded_key,
    decode_body,
    record_key,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from control_plane.feature_flags.definition import Definition

    Read = Callable[..., tuple[int, list[bytes | None]]]
    Compile = Callable[[Definition], Callable[..., Any]]

HASH_BYTES = 16
MAX_SHARD_BITS = 16
_NEAR = 24 * HASH_BYTES
_number = int.from_bytes


class Segment:
    """A segment as its record has it.

    ``members`` are packed hashes; None: they lie in 2^bits shards, whose keys begin with
    ``shards``. Of the number that a hash's first 48 bits make, those above ``shift`` are the
    shard's and ``below`` masks the others.
    """

    __slots__ = ("below", "excluded", "members", "rules", "shards", "shift")

    def __init__(
        self,
        members: bytes | None,
        excluded: bytes = b"",
        rules: Callable[..., Any] | None = None,
        bits: int = 0,
        shards: bytes = b"",
    ) -> None:
        self.members = members
        self.excluded = excluded
        self.rules = rules
        self.shift = 48 - bits
        self.below = (1 << self.shift) - 1
        self.shards = shards


class Memberships:
    """The memberships one table's functions ask for."""

    __slots__ = ("_compile", "_hash", "_read", "_segments", "_txn")

    def __init__(self, read: Read, compile: Compile) -> None:
        """``compile`` makes a function of (user_id, tenant_id, context) of a segment's rules."""
        self._read = read
        self._compile = compile
        self._hash: Callable[[bytes], Any] | None = None
        self._segments: dict[str, Segment] = {}
        self._txn: dict[str, int] = {}

    def join(self, txn: int) -> None:
        """Bind this table to a transaction, the first time; afterwards insist on it.

        Raises:
            Moved: the table is of another transaction.
        """
        # One step for all threads: the first to come decides.
        if self._txn.setdefault("id", txn) != txn:
            raise Moved

    def contains(
        self, name: str, value: object, user_id: Any, tenant_id: Any, context: Any
    ) -> bool:
        """Whether the unit of this value, or whom a rule matches, is a member.

        Raises:
            Moved: as ``join``.
            ReplicaCorrupt | FormatUnsupported | Unavailable: a record that cannot be read.
            ManifestInvalid: a rule that breaks the rules.
        """
        segment = self._segments.get(name)
        if segment is None:
            segment = self._segments[name] = self._segment(name)
        unit = unit_of(value)
        if unit is not None and (segment.members != b"" or segment.excluded):
            digest = (self._hash or self._hashing())(unit).digest()
            wanted, place = digest[:HASH_BYTES], _number(digest[:6], "big")
            if segment.excluded and _holds(segment.excluded, wanted, place, 48):
                return False
            members, shift = segment.members, segment.shift
            if members is None:
                members = self._shard(name, segment, place >> shift)
            if _holds(members, wanted, place & segment.below, shift):
                return True
        return segment.rules is not None and segment.rules(user_id, tenant_id, context) is True

    def _hashing(self) -> Callable[[bytes], Any]:
        # Imported here: loading OpenSSL costs a millisecond, and many use no segment.
        from hashlib import sha256

        self._hash = sha256
        return sha256

    def _shard(self, name: str, segment: Segment, number: int) -> bytes:
        """The hashes of one shard."""
        key = segment.shards + b"%04x" % number
        if len(key) > MAX_KEY_BYTES:
            key = bounded_key(key)
        txn, (raw,) = self._read(key)
        # As ``join``, without a call: a lookup is two microseconds.
        if self._txn.setdefault("id", txn) != txn:
            raise Moved
        body = b"" if raw is None else decode_body(key, raw)
        return _whole(name, body) if len(body) % HASH_BYTES else body

    def _segment(self, name: str) -> Segment:
        key = record_key(SEGMENT, name)
        txn, (raw,) = self._read(key)
        self.join(txn)
        body = b"" if raw is None else decode_body(key, raw)
        if not body:
            return Segment(b"")
        try:
            content = unpack(body)
            members = content["shards"] if "shards" in content else content["members"]
            excluded, rules = content.get("exclude", b""), content.get("rules")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _corrupt(name, "members or shards", repr(error)) from error
        packed: bytes | None = None
        bits = 0
        if isinstance(members, bytes):
            packed = _whole(name, members)
        elif type(members) is int and 0 <= members <= MAX_SHARD_BITS:
            bits = members
        else:
            raise _corrupt(name, f"0 to {MAX_SHARD_BITS} shard bits", repr(members))
        if not isinstance(excluded, bytes):
            raise _corrupt(name, "hashes that are excluded", repr(excluded))
        compiled = None if rules is None else self._compile(parse_segment_rules(rules))
        return Segment(packed, _whole(name, excluded), compiled, bits, key + b"\0")


def shard_of(digest: bytes, bits: int) -> str:
    """The shard of a member by its SHA-256: its top bits as four hex digits."""
    return f"{int.from_bytes(digest[:2], 'big') >> (16 - bits):04x}"


def _holds(packed: bytes, wanted: bytes, rest: int, bits: int) -> bool:
    """Whether a sorted run of 16-byte hashes, of which a shard has taken the first bits, holds one.

    ``rest`` is the number that its next ``bits`` make. Hashes are spread evenly, so a member lies
    near the place which that tells: 24 places either way are three standard deviations of 244
    members. Only where it is not found, and what stands at the ends of that stretch does not tell
    that it is nowhere else, all places are searched.
    """
    middle = (rest * (len(packed) // HASH_BYTES) >> bits) * HASH_BYTES
    start, end = middle - _NEAR, middle + _NEAR
    if start < 0:
        start = 0
    found = packed.find(wanted, start, end)
    if found >= 0 and found % HASH_BYTES == 0:
        return True
    first, last = packed[start : start + HASH_BYTES], packed[end - HASH_BYTES : end]
    if (start == 0 or first < wanted) and (end >= len(packed) or wanted < last):
        return found >= 0 and _searched(packed, wanted)
    return _searched(packed, wanted)


def _searched(packed: bytes, wanted: bytes) -> bool:
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
