"""Whether a unit is a member of a segment, read from the replica when a rule asks.

A segment's record holds its members, or says that they lie in 2^k shards; a shard is chosen by
the top k bits of SHA-256(member). Records hold the first 16 bytes of each hash, sorted. Beside
them may stand units that are excluded, and rules. Who is excluded is no member; who is listed is
one; else whoever a rule matches. Without a unit only the rules are asked. A segment or a shard
without a record has no members.

Shards are searched where they are and not kept, so a segment of a million members costs a process
no memory but a byte a shard, which says that this table has checked the shard's hash: what is
committed in one transaction does not change. All records that one table's evaluations rest on are
of one transaction: when a read finds a newer one it raises ``Moved``, and the caller drops the
table and evaluates again.
"""

from __future__ import annotations

from _struct import Struct

from control_plane.errors import ReplicaCorrupt
from control_plane.feature_flags.bucketing import unit_of
from control_plane.feature_flags.compile import Moved
from control_plane.feature_flags.definition import parse_segment_rules
from control_plane.feature_flags.packed import unpack
from control_plane.replica.format import HEADER_BYTES, SEGMENT, record_body, record_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from control_plane.feature_flags.definition import Definition

    Read = Callable[..., tuple[int, list[bytes | None]]]
    Compile = Callable[[Definition], Callable[..., Any]]

HASH_BYTES = 16
NEAR = 32
MAX_SHARD_BITS = 16

_NEAR_BYTES = NEAR * HASH_BYTES
_TOP_BITS = Struct(">Q").unpack_from


class Segment:
    """A segment as its record has it: packed hashes of members, or how many bits choose a shard.

    ``listed`` are the hashes where there are no shards; ``shards`` is what their keys begin with,
    empty where there are none, ``checked`` has a byte for each, 1 once its hash was found right.
    """

    __slots__ = ("checked", "excluded", "hash", "listed", "rules", "shards", "spared")

    def __init__(
        self,
        listed: bytes,
        excluded: bytes = b"",
        rules: Callable[..., Any] | None = None,
        shards: bytes = b"",
        bits: int = 0,
    ) -> None:
        self.listed = listed
        self.excluded = excluded
        self.rules = rules
        self.shards = shards
        # How many of the first 64 bits of a hash are left beside those that choose its shard.
        self.spared = 64 - bits
        self.checked = bytearray(1 << bits if shards else 0)
        self.hash: Callable[..., Any] | None = None
        if listed or excluded or shards:
            # Imported here: loading OpenSSL costs a millisecond, and many use no segment.
            from hashlib import sha256

            self.hash = sha256


class Memberships:
    """The memberships one table's functions ask for."""

    __slots__ = ("_compile", "_joined", "_read", "_segments", "_txn")

    def __init__(self, read: Read, compile: Compile) -> None:
        """``compile`` makes a function of (user_id, tenant_id, context) of a segment's rules."""
        self._read = read
        self._compile = compile
        self._segments: dict[str, Segment] = {}
        self._txn: dict[str, int] = {}
        self._joined = -1

    def join(self, txn: int) -> None:
        """Bind this table to a transaction, the first time; afterwards insist on it.

        Raises:
            Moved: the table is of another transaction.
        """
        # One step for all threads: the first to come decides.
        if self._txn.setdefault("id", txn) != txn:
            raise Moved
        self._joined = txn

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
        if unit is not None and segment.hash is not None:
            digest = segment.hash(unit).digest()
            wanted = digest[:HASH_BYTES]
            number = _TOP_BITS(digest)[0]
            if segment.excluded and _holds(segment.excluded, wanted, number >> 32, 0):
                return False
            if segment.shards:
                spared = segment.spared
                shard = number >> spared
                # The key of a shard, as ``record_key`` has it.
                key = segment.shards + b"%04x" % shard
                txn, (raw,) = self._read(key)
                if txn != self._joined:
                    self.join(txn)
                if raw is not None:
                    if not segment.checked[shard]:
                        _whole(name, record_body(key, raw))
                        segment.checked[shard] = 1
                    place = number >> spared - 32 & 0xFFFFFFFF
                    if _holds(raw, wanted, place, HEADER_BYTES):
                        return True
            elif _holds(segment.listed, wanted, number >> 32, 0):
                return True
        return segment.rules is not None and segment.rules(user_id, tenant_id, context) is True

    def _segment(self, name: str) -> Segment:
        key = record_key(SEGMENT, name)
        txn, (raw,) = self._read(key)
        self.join(txn)
        body = b"" if raw is None else record_body(key, raw)
        if not body:
            return Segment(b"")
        try:
            content = unpack(body)
            members = content["shards"] if "shards" in content else content["members"]
            excluded, rules = content.get("exclude", b""), content.get("rules")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _corrupt(name, "members or shards", repr(error)) from error
        if not isinstance(excluded, bytes):
            raise _corrupt(name, "hashes that are excluded", repr(excluded))
        compiled = None if rules is None else self._compile(parse_segment_rules(rules))
        if isinstance(members, bytes):
            return Segment(_whole(name, members), _whole(name, excluded), compiled)
        if not (type(members) is int and 0 <= members <= MAX_SHARD_BITS):
            raise _corrupt(name, f"0 to {MAX_SHARD_BITS} shard bits", repr(members))
        # A name is so short that no key of its shards is cut.
        shards = record_key(SEGMENT, name, "")
        return Segment(b"", _whole(name, excluded), compiled, shards, members)


def shard_of(digest: bytes, bits: int) -> str:
    """The shard of a member by its SHA-256: its top bits as four hex digits."""
    return f"{int.from_bytes(digest[:2], 'big') >> (16 - bits):04x}"


def _holds(packed: bytes, wanted: bytes, place: int, first: int) -> bool:
    """Whether the sorted 16-byte hashes from byte ``first`` (a multiple of 16) on hold one.

    Hashes are spread evenly, so one lies near where its bits put it: ``place`` of 2^32 through the
    run. Where the 64 around that cannot decide, as among hashes that were chosen, all are searched.
    """
    near = first + (place * (len(packed) - first >> 4) >> 32 << 4)
    start = near - _NEAR_BYTES if near - first > _NEAR_BYTES else first
    stop = near + _NEAR_BYTES
    found = packed.find(wanted, start, stop)
    if found >= 0 and not found & 15:
        return True
    if found < 0:
        above = start == first or packed[start : start + HASH_BYTES] <= wanted
        if above and (stop >= len(packed) or wanted <= packed[stop - HASH_BYTES : stop]):
            return False
    # Not found in there, or across two hashes.
    low, high = first // HASH_BYTES, len(packed) // HASH_BYTES
    while low < high:
        middle = (low + high) // 2
        between = packed[middle * HASH_BYTES : (middle + 1) * HASH_BYTES]
        if between == wanted:
            return True
        if between < wanted:
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
