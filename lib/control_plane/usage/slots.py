"""What is counted under which name, and how a usage file holds it: names, bytes and bounds.

A file belongs to one process and one environment, and only that process writes it:

- 0 to 4,095: the header. Word 0 ``CPUSAGE1``; word 1 how many slots are in use; word 2 how many
  bytes of names; from byte 64 on the environment, NUL-padded to 64 bytes.
- then 8,192 slots, u64 little-endian and aligned, so each is stored whole. A slot only grows.
- then 1 MiB of names, one for each slot in their order: u16 length, UTF-8.

A name's bytes and its slot are in place before words 2 and 1 tell of them. The size never changes;
blocks are reserved before they are touched, so a full disk refuses a reservation and faults no
store.

A name is a word and two fields, joined by NUL. Whoever reads a file believes nothing in it.
"""

from __future__ import annotations

from struct import Struct, error

MAGIC = int.from_bytes(b"CPUSAGE1", "little")
HEADER_BYTES = 4096
SLOTS_WORD, NAMES_WORD = 1, 2
ENVIRONMENT_AT, ENVIRONMENT_BYTES = 64, 64
MAX_SLOTS = 8192
VALUES_AT = HEADER_BYTES
NAMES_AT = VALUES_AT + 8 * MAX_SLOTS
MAX_NAMES_BYTES = 1 << 20
FILE_BYTES = NAMES_AT + MAX_NAMES_BYTES
MAX_NAME_BYTES = 512
MAX_VALUE = 1 << 48
"""Nine years of a million a second; a file that says more is wrong."""

EVALUATIONS = "evaluations"  # flag, variant
LATENCY = "latency"  # "", the bucket's upper bound in ns
CONFIG_READS = "config_reads"  # "", ""
LOOKUPS = "lookups"  # agent or tool, hit or miss
DISCOURAGED = "discouraged"  # kind/name@version, deprecated or yanked
VERSIONS = "versions"  # kind/name@version, tenant
WORDS = (EVALUATIONS, LATENCY, CONFIG_READS, LOOKUPS, DISCOURAGED, VERSIONS)

BUCKETS = (250, 500, 1000, 2500, 5000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000)
"""Upper bounds of the latency histogram, ns; what is above them is ``+Inf``."""

_LENGTH = Struct("<H")


def bucket_of(nanoseconds: int) -> str:
    """The name of the bucket that a latency falls into."""
    # A loop, as bisect is a library of its own to load: 2 ms of every start.
    for bound in BUCKETS:
        if nanoseconds <= bound:
            return str(bound)
    return "+Inf"


def slot_name(word: str, first: str, second: str) -> bytes | None:
    """The name of a slot as a file holds it; None of what is too long or holds NUL."""
    if "\0" in first or "\0" in second:
        return None
    name = f"{word}\0{first}\0{second}".encode("utf-8", "replace")
    return name if len(name) <= MAX_NAME_BYTES else None


def named(name: bytes) -> bytes:
    """A name with its length before it."""
    return _LENGTH.pack(len(name)) + name


def read_names(data: bytes, count: int) -> list[tuple[str, str, str]] | None:
    """``count`` names that fill ``data``; None of anything else."""
    names, at = [], 0
    try:
        for _ in range(count):
            [length] = _LENGTH.unpack_from(data, at)
            at += 2
            word, first, second = data[at : at + length].decode().split("\0")
            if length > MAX_NAME_BYTES or word not in WORDS:
                return None
            names.append((word, first, second))
            at += length
    except (ValueError, error):
        return None
    return names if at == len(data) else None
