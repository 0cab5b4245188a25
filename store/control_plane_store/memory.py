"""How the store's memory stays flat: large pieces go back to the system as soon as they are free.

What this decides: a piece of ``MAPPED_BYTES`` or more is mapped by itself, for as long as the
process lives. glibc begins so, but with the first such piece that is freed it moves the bound up to
that size, and from then on takes pieces of it from the heap. asyncio asks for 256 KiB each time it
reads from a connection and keeps the one or two that came. Whatever stays alive behind them cuts
the room they leave, so the next one is taken from the heap's end, and the heap grew by some fifty
bytes a submission without anything in it. Mapped, such a piece costs some ten microseconds.

Where the C library has no ``mallopt`` (musl, macOS) nothing is decided: its bound does not move.
"""

from __future__ import annotations

import ctypes

MAPPED_BYTES = 128 << 10
# From malloc.h; the number is part of the binary interface.
_MMAP_THRESHOLD = -3


def map_large_pieces() -> bool:
    """Have pieces of ``MAPPED_BYTES`` and more mapped by themselves; whether it was needed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, MAPPED_BYTES))
