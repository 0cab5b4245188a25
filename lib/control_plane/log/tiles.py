"""Where a log's hashes and entries lie as static files: C2SP's tlog-tiles.

A tile holds up to 256 hashes of one level; an entry bundle up to 256 leaves, each behind a
big-endian 16-bit length. Paths spell the index in three-digit parts, all but the last with an x.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from control_plane.errors import SyntaxInvalid
from control_plane.names import MAX_LEAF_BYTES

TILE_WIDTH = 256
TILE_BITS = 8
MAX_LEVEL = 63
_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


def tile_path(level: int | str, index: int, width: int = TILE_WIDTH) -> str:
    """The path below the log's prefix; ``level`` a number or ``"entries"``, ``width`` 1 to 256."""
    digits = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        digits = f"x{index % 1000:03d}/{digits}"
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{digits}{partial}"


def parse_tile_path(path: str) -> tuple[int | str, int, int]:
    """Read a path: its level (or ``"entries"``), index and width.

    Raises:
        SyntaxInvalid: for any path that ``tile_path`` would not print.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise SyntaxInvalid(f"tile: expected tile/<level>/<index>[.p/<width>], found {path[:80]!r}")
    level: int | str = match["level"] if match["level"] == "entries" else int(match["level"])
    index = int(match["index"].replace("x", "").replace("/", ""))
    width = int(match["width"] or TILE_WIDTH)
    spelled = width <= TILE_WIDTH and tile_path(level, index, width) == path
    if not spelled or (level != "entries" and int(level) > MAX_LEVEL):
        raise SyntaxInvalid(
            f"tile: expected the shortest spelling of a tile's path, found {path[:80]!r}"
        )
    return level, index, width


def tile_of_subtree(level: int, index: int, size: int) -> tuple[int, int, int, range]:
    """Where the hash of the complete subtree ``index`` of ``2 ** level`` leaves is found.

    The level, index and width of its tile in a tree of ``size`` leaves, and which of the tile's
    hashes it is the root over.
    """
    tile_level, bits = divmod(level, TILE_BITS)
    tile, first = divmod(index << bits, TILE_WIDTH)
    width = min(TILE_WIDTH, (size >> (TILE_BITS * tile_level)) - tile * TILE_WIDTH)
    return tile_level, tile, width, range(first, first + (1 << bits))


def encode_entries(leaves: Iterable[bytes]) -> bytes:
    """The bytes of an entry bundle."""
    return b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in leaves)


def decode_entries(data: bytes) -> list[bytes]:
    """The leaves of an entry bundle.

    Raises:
        SyntaxInvalid: for a bundle cut short.
    """
    leaves, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 2], "big")
        leaf = data[position + 2 : position + 2 + length]
        if position + 2 > len(data) or len(leaf) != length:
            raise SyntaxInvalid(
                f"entry bundle: expected {length} bytes at offset {position + 2}, found {len(leaf)}"
            )
        leaves.append(leaf)
        position += 2 + length
    return leaves


assert MAX_LEAF_BYTES < 1 << 16, "a leaf's length is written in 16 bits"
