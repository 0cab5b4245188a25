"""Bytes and members that may be too many for memory, in files that nobody else sees.

What this module decides:

- What is held in memory is bounded (``MEMORY_BYTES`` of blobs, ``WAITING_BYTES`` of members); the
  rest lies in a file of the system's temporary folder. The file has no name: a crash leaves none.
- Members are read back in parts, by the top bits of their SHA-256. A part is about a 256th of all,
  so a member that comes twice is found without all of them at hand.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from control_plane.errors import InputInvalid
from control_plane.log.canonical import sha256_hex

MEMORY_BYTES: Final = 8 << 20
WAITING_BYTES: Final = 8 << 20

HASH_BITS: Final = 16
"""How many bits of a member's hash choose its shard, at most."""

_PART_BITS: Final = 8
_MEMBER: Final = struct.Struct(">BHI")

STOOD: Final = 0
ADDED: Final = 1
REMOVED: Final = 2


class _File:
    """An append-only file without a name; closed with the object."""

    def __init__(self) -> None:
        self._descriptor, path = tempfile.mkstemp(prefix="control-plane-")
        os.unlink(path)  # noqa: PTH108
        self._size = 0
        weakref.finalize(self, os.close, self._descriptor)

    def append(self, data: bytes) -> tuple[int, int]:
        """Write bytes at the end; where they lie."""
        place = (self._size, len(data))
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise InputInvalid(
                f"expected room in {tempfile.gettempdir()}, found {(error.strerror or '').lower()};"
                " point TMPDIR to another folder"
            ) from error
        self._size += len(data)
        return place

    def read(self, place: tuple[int, int]) -> bytes:
        """The bytes at a place."""
        at, size = place
        return os.pread(self._descriptor, size, at)


class Blobs(Mapping[str, bytes]):
    """Blobs by digest; beyond ``memory_bytes`` they lie in a file.

    Raises:
        InputInvalid: the temporary folder is full.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._room = memory_bytes
        self._blobs: dict[str, bytes | tuple[int, int]] = {}
        self._file: _File | None = None

    def add(self, data: bytes) -> str:
        """Keep a blob; its SHA-256 in hex."""
        digest = sha256_hex(data)
        if digest in self._blobs:
            return digest
        if len(data) <= self._room:
            self._room -= len(data)
            self._blobs[digest] = data
            return digest
        if self._file is None:
            self._file = _File()
        self._blobs[digest] = self._file.append(data)
        return digest

    def __getitem__(self, digest: str) -> bytes:
        found = self._blobs[digest]
        if isinstance(found, bytes):
            return found
        assert self._file is not None
        return self._file.read(found)

    def __contains__(self, digest: object) -> bool:
        return digest in self._blobs

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)


class Together(Mapping[str, bytes]):
    """The blobs of several mappings, each read where it lies when it is asked for."""

    def __init__(self, *layers: Mapping[str, bytes]) -> None:
        self._layers = layers

    def __getitem__(self, digest: str) -> bytes:
        for layer in self._layers:
            if digest in layer:
                return layer[digest]
        raise KeyError(digest)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(digest for layer in self._layers for digest in layer))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Chosen(Mapping[str, bytes]):
    """Those of a mapping's blobs that are wanted, each read when it is asked for."""

    def __init__(self, blobs: Mapping[str, bytes], wanted: Collection[str | None]) -> None:
        self._blobs = blobs
        self._digests = dict.fromkeys(digest for digest in blobs if digest in wanted)

    def __getitem__(self, digest: str) -> bytes:
        if digest not in self._digests:
            raise KeyError(digest)
        return self._blobs[digest]

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)


@dataclass(slots=True)
class Part:
    """Members of one shard: who stood in it, who is to come and who is to go."""

    shard: int
    stood: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)

    @property
    def after(self) -> set[str]:
        """Who is in it then: removed beats added."""
        return (self.stood | self.added) - self.removed


class Members:
    """An edit's members, noted in any order and read back shard by shard.

    Raises:
        InputInvalid: the temporary folder is full.
    """

    def __init__(self, waiting_bytes: int = WAITING_BYTES) -> None:
        self._most = waiting_bytes
        self._waiting = [bytearray() for _ in range(1 << _PART_BITS)]
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(1 << _PART_BITS)]
        self._waiting_bytes = 0
        self._file: _File | None = None

    def note(self, member: str, what: int) -> None:
        """Note that a member ``STOOD``, is ``ADDED`` or is ``REMOVED``."""
        data = member.encode()
        top = hash_bits(data)
        part = self._waiting[top >> (HASH_BITS - _PART_BITS)]
        part += _MEMBER.pack(what, top, len(data))
        part += data
        self._waiting_bytes += _MEMBER.size + len(data)
        if self._waiting_bytes > self._most:
            self._flush()

    def parts(self, bits: int) -> Iterator[Part]:
        """All that was noted, by shard among 2^``bits``, shards in order.

        With fewer than 256 shards one comes in several parts, one after another.
        """
        for index in range(1 << _PART_BITS):
            found: dict[int, Part] = {}
            for what, top, member in self._read(index):
                shard = top >> (HASH_BITS - bits)
                part = found.get(shard)
                if part is None:
                    part = found[shard] = Part(shard)
                (part.stood, part.added, part.removed)[what].add(member)
            for shard in sorted(found):
                yield found[shard]

    def _read(self, index: int) -> Iterator[tuple[int, int, str]]:
        written = (
            b"".join(self._file.read(place) for place in self._places[index]) if self._file else b""
        )
        for data in (written, bytes(self._waiting[index])):
            at = 0
            while at < len(data):
                what, top, size = _MEMBER.unpack_from(data, at)
                at += _MEMBER.size
                yield what, top, data[at : at + size].decode()
                at += size

    def _flush(self) -> None:
        if self._file is None:
            self._file = _File()
        for index, waiting in enumerate(self._waiting):
            if waiting:
                self._places[index].append(self._file.append(bytes(waiting)))
                waiting.clear()
        self._waiting_bytes = 0


def hash_bits(member: bytes) -> int:
    """The top 16 bits of a member's SHA-256."""
    return int.from_bytes(hashlib.sha256(member).digest()[:2], "big")
