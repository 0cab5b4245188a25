"""What a record is: its key, its 32-byte header, and when its bytes are refused.

- A key is one kind byte and then the record's fields in UTF-8, joined by NUL. No field holds a
  NUL, so two records never share a key. LMDB takes keys up to 511 bytes: a key over 480 bytes
  becomes its first 440 bytes, NUL, and the SHA-256 of the whole key, so that a prefix scan over
  the first 440 bytes still finds it.
- A record is a little-endian header and a body: ``u8 format, u8 kind, u8 min_reader, u8 status,
  u32 body length, u64 head generation, u64 served generation, u64 XXH3-64 of key and body``.
- Later formats may add kinds, statuses and body fields. A record that an older reader would
  misunderstand carries a higher ``min_reader`` and is refused by that reader by name, alone.
- Decoding checks, in this order: length, format and ``min_reader``, kind against key, hash.
- The hash does not cover status and generations: where a disk damages those, reads go on, and
  ``verify`` tells what contradicts the heads.

Nothing here opens a file.
"""

from __future__ import annotations

from struct import Struct

from xxhash import xxh3_64_intdigest

from control_plane.errors import FormatUnsupported, ReplicaCorrupt

FORMAT = 1

FLAG = 1
SEGMENT = 2
CONFIG = 3
AGENT = 4
TOOL = 5
CHANNEL = 6
STATUS = 7
RESOLUTION = 8

KIND_NAMES = {
    FLAG: "flag",
    SEGMENT: "segment",
    CONFIG: "config",
    AGENT: "agent",
    TOOL: "tool",
    CHANNEL: "channel",
    STATUS: "status",
    RESOLUTION: "resolution",
}

# What `Record.status` says about the body.
SERVED = 0  # the newest authorised change of the key
HEAD_HELD = 1  # an older change: this node could not accept the newest one yet
DELETED = 2  # nothing, the body is empty
NO_VALUE = 3  # nothing yet: no change of the key was acceptable so far

MAX_KEY_BYTES = 480
_KEPT_KEY_BYTES = 440

HEADER_BYTES = 32
_HEADER = Struct("<BBBBIQQQ")


class Record:
    """One decoded record. ``hash`` is equal exactly while key and body are the same bytes."""

    __slots__ = (
        "body",
        "hash",
        "head_generation",
        "kind",
        "min_reader",
        "served_generation",
        "status",
    )

    def __init__(
        self,
        kind: int,
        status: int,
        min_reader: int,
        head_generation: int,
        served_generation: int,
        hash: int,
        body: bytes,
    ) -> None:
        self.kind = kind
        self.status = status
        self.min_reader = min_reader
        self.head_generation = head_generation
        self.served_generation = served_generation
        self.hash = hash
        self.body = body


def record_key(kind: int, *fields: str) -> bytes:
    """Return the database key of a record; at most 480 bytes.

    The fields: flag (name); segment (name) and its shards (name, shard); config (tenant, path);
    agent and tool (name, version); channel and status (kind word, name, channel or version);
    resolution (agent, version).

    Raises:
        ValueError: a field holds a NUL or a lone surrogate, which no stored name does.
    """
    joined = "\0".join(fields).encode()
    if joined.count(b"\0") != len(fields) - 1:
        raise ValueError(f"expected fields without NUL, found {fields!r}")
    return bounded_key(bytes((kind,)) + joined)


def bounded_key(key: bytes) -> bytes:
    """Return ``key`` itself up to 480 bytes, else its first 440 bytes, NUL and its SHA-256."""
    if len(key) <= MAX_KEY_BYTES:
        return key
    # Imported here: loading OpenSSL costs a reader a millisecond, and long keys are rare.
    from hashlib import sha256

    return key[:_KEPT_KEY_BYTES] + b"\0" + sha256(key).digest()


def head_key(kind: str, name: str, part: str = "") -> bytes:
    """Return the key of a head in the sub-database ``heads``: kind NUL name NUL part."""
    return b"\0".join((kind.encode(), name.encode(), part.encode()))


def parse_head_key(key: bytes) -> tuple[str, str, str]:
    """Return (kind, name, part) of a key made by `head_key`.

    Raises:
        ReplicaCorrupt: the key has another shape.
    """
    try:
        kind, name, part = key.decode().split("\0")
    except ValueError as error:
        raise ReplicaCorrupt(
            f"head {key!r}: expected kind, name and part joined by NUL; rebuild the replica"
        ) from error
    return kind, name, part


def encode_record(
    key: bytes,
    kind: int,
    body: bytes,
    *,
    head_generation: int,
    served_generation: int,
    status: int = SERVED,
    min_reader: int = 1,
) -> bytes:
    """Return the record's header and body, ready to be stored under ``key``."""
    digest = xxh3_64_intdigest(key + body)
    return (
        _HEADER.pack(
            FORMAT,
            kind,
            min_reader,
            status,
            len(body),
            head_generation,
            served_generation,
            digest,
        )
        + body
    )


def decode_record(key: bytes, data: bytes) -> Record:
    """Return the record stored under ``key``.

    Raises:
        ReplicaCorrupt: length, kind or hash are not those of a record under this key.
        FormatUnsupported: the record needs a newer reader.
    """
    if len(data) < HEADER_BYTES:
        raise ReplicaCorrupt(
            f"{describe_key(key)}: expected a record of {HEADER_BYTES} bytes or more, "
            f"found {len(data)}; run 'control-plane replica verify'"
        )
    format_, kind, min_reader, status, length, head, served, digest = _HEADER.unpack_from(data)
    if format_ != FORMAT or min_reader > FORMAT:
        raise FormatUnsupported(
            f"{describe_key(key)}: expected a record for reader {FORMAT}, found one for reader "
            f"{max(format_, min_reader)}; upgrade control-plane in this process"
        )
    body = data[HEADER_BYTES:]
    if kind != key[0] or length != len(body) or digest != xxh3_64_intdigest(key + body):
        raise ReplicaCorrupt(
            f"{describe_key(key)}: expected kind {key[0]}, {len(body)} bytes and hash "
            f"{xxh3_64_intdigest(key + body):016x}, found kind {kind}, {length} bytes and hash "
            f"{digest:016x}; run 'control-plane replica verify'"
        )
    return Record(kind, status, min_reader, head, served, digest, body)


def decode_body(key: bytes, data: bytes) -> bytes:
    """Return the body alone of the record stored under ``key``.

    Raises:
        ReplicaCorrupt | FormatUnsupported: as `decode_record`.
    """
    if len(data) >= HEADER_BYTES:
        format_, kind, min_reader, _, length, _, _, digest = _HEADER.unpack_from(data)
        body = data[HEADER_BYTES:]
        sound = format_ == FORMAT >= min_reader and kind == key[0] and length == len(body)
        if sound and digest == xxh3_64_intdigest(key + body):
            return body
    # It says what is wrong.
    return decode_record(key, data).body


def describe_key(key: bytes) -> str:
    """Return a record key as people write it: ``config/acme/database.url``."""
    if not key:
        return "empty key"
    kind = KIND_NAMES.get(key[0], f"kind {key[0]}")
    return "/".join((kind, *key[1:].decode("utf-8", "backslashreplace").split("\0")))
