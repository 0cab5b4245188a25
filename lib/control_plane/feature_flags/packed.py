"""MessagePack for a process's first few records.

Importing msgpack costs a fresh process 3 ms, most of it for datetime, which no record holds; a
record decoded here costs some 50 µs more than there. So a process that reads few flags (a
command, a function that starts for one request) never imports it, and ``table.Library`` goes over
to it when a process has read more.

Decodes what records are made of: nil, bool, numbers, strings, binaries, arrays and maps with
string keys, at most 64 deep. Everything else is refused with ValueError: extension types, other
keys, text that is not UTF-8, bytes missing at the end or left over.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 64

_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_INTEGERS = {
    0xCC: (1, False),
    0xCD: (2, False),
    0xCE: (4, False),
    0xCF: (8, False),
    0xD0: (1, True),
    0xD1: (2, True),
    0xD2: (4, True),
    0xD3: (8, True),
}
_FLOATS = {0xCA: Struct(">f"), 0xCB: Struct(">d")}
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BINARIES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


def unpack(data: bytes) -> Any:
    """The one value these bytes hold.

    Raises:
        ValueError: they hold none, more than one, or one that no record has.
    """
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise ValueError(f"expected {reader.at} bytes, found {len(data)}")
    return value


class _Reader:
    """A place in the bytes, moved on by what is read."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def value(self, depth: int) -> Any:
        tag = self._take(1)[0]
        if tag <= 0x7F:
            return tag
        if tag >= 0xE0:
            return tag - 0x100
        if 0xA0 <= tag <= 0xBF:
            return self._take(tag & 0x1F).decode()
        if tag <= 0x8F:
            return self._map(tag & 0x0F, depth)
        if tag <= 0x9F:
            return self._array(tag & 0x0F, depth)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        return self._long(tag, depth)

    def _long(self, tag: int, depth: int) -> Any:
        if tag in _STRINGS:
            return self._take(self._integer(_STRINGS[tag])).decode()
        if tag in _INTEGERS:
            return self._integer(*_INTEGERS[tag])
        if tag in _FLOATS:
            return _FLOATS[tag].unpack(self._take(_FLOATS[tag].size))[0]
        if tag in _ARRAYS:
            return self._array(self._integer(_ARRAYS[tag]), depth)
        if tag in _MAPS:
            return self._map(self._integer(_MAPS[tag]), depth)
        if tag in _BINARIES:
            return self._take(self._integer(_BINARIES[tag]))
        raise ValueError(f"expected a type that records have, found {tag:#x}")

    def _take(self, size: int) -> bytes:
        end = self.at + size
        taken = self._data[self.at : end]
        if len(taken) != size:
            raise ValueError(f"expected {end} bytes, found {len(self._data)}")
        self.at = end
        return taken

    def _integer(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "big", signed=signed)

    def _array(self, count: int, depth: int) -> list[Any]:
        self._enter(count, depth)
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        self._enter(2 * count, depth)
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if type(key) is not str:
                raise ValueError(f"expected keys of text, found {type(key).__name__}")
            found[key] = self.value(depth + 1)
        return found

    def _enter(self, least: int, depth: int) -> None:
        """Refuse a container that is too deep, or longer than the bytes that are left."""
        if depth >= MAX_DEPTH or least > len(self._data) - self.at:
            raise ValueError(f"expected at most {MAX_DEPTH} levels and all members, found others")
