"""Where flagd puts a unit in a ``fractional`` split: its three rules, each fixed for ever.

Every version hashes bytes with MurmurHash3 x86 32 bit, seed 0, and takes the first bucket whose
range holds the point. Weights are ints from 0; a negative one counts as 0.

* ``flagd-v1`` (flagd until early 2026): the bytes are the UTF-8 of the text, without a text those
  of the flag key and the targeting key joined; ``point`` = abs(hash as signed) / (2^31 - 1) * 100
  and a bucket's range ends at the float sum of weight * 100 / total so far. A unit beyond the last
  end (hash -2^31, or a sum that rounds to less than 100) is in no bucket.
* ``flagd-v2`` (flagd of spring 2026, its pull request 1909): the same bytes;
  ``point`` = (hash * total) >> 32, hash unsigned and total at most 2^31 - 1.
* ``flagd-v3`` (flagd's record "fractional-non-string-rand-units", openfeature-flagd-core 2.0): the
  point of v2; the bytes are deterministic CBOR (RFC 8949, 4.2.1) of the value, which may be any but
  null and a list, else of the list [flag key, targeting key]. Floats without a fraction that fit
  64 bits are ints.

The hash is mmh3's where that package is installed: 50 ns. The library itself needs none beside its
three, so without it the same hash is computed here, in some 3 µs.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

V1, V2, V3 = "flagd-v1", "flagd-v2", "flagd-v3"
VERSIONS = (V1, V2, V3)
NEWEST = V3

MAX_TOTAL_WEIGHT = (1 << 31) - 1
MAX_HASHED = 1 << 20
"""Bytes of CBOR that are hashed; few objects that refer to each other can stand for endless ones.
"""

_MASK = 0xFFFFFFFF
_WORD = Struct("<I")
_FLOATS = ((b"\xf9", Struct(">e")), (b"\xfa", Struct(">f")), (b"\xfb", Struct(">d")))
_NAN = b"\xf9\x7e\x00"
_INTEGER, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_LARGE, _LARGE_NEGATIVE = b"\xc2", b"\xc3"

TEXT_HEADS = tuple(bytes((_TEXT + length,)) for length in range(24))
"""What stands before a text of so many bytes."""


def murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 x86 32 bit of the bytes, unsigned."""
    h = seed
    whole = len(data) & ~3
    for (word,) in _WORD.iter_unpack(data[:whole]):
        h ^= _mixed(word)
        h = ((h << 13 | h >> 19) * 5 + 0xE6546B64) & _MASK
    h ^= _mixed(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & _MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK
    return h ^ h >> 16


def _mixed(word: int) -> int:
    word = word * 0xCC9E2D51 & _MASK
    return (word << 15 | word >> 17) * 0x1B873593 & _MASK


def _fastest() -> Callable[..., int]:
    try:
        from mmh3 import mmh3_32_uintdigest
    except ImportError:
        return murmur3
    return mmh3_32_uintdigest  # type: ignore[no-any-return,unused-ignore]


hash32: Callable[..., int] = _fastest()
"""The hash of bytes and maybe a seed, by whichever of the two there is."""


def text_bytes(version: str, flag_key: str, key: str) -> bytes:
    """The bytes that are hashed for a flag key and a targeting key.

    Raises:
        UnicodeEncodeError: for lone surrogates.
    """
    if version == V3:
        return b"\x82" + cbor(flag_key) + cbor(key)
    return (flag_key + key).encode()


def position(version: str, hashed: int, weights: Sequence[int]) -> int:
    """The bucket of a hash among weights with a sum of 1 to 2^31 - 1; -1 for none."""
    total = sum(weights)
    if version == V1:
        point = _percent(hashed)
        end: float = 0
        for index, weight in enumerate(weights):
            end += weight * 100 / total
            if point < end:
                return index
        return -1
    bucket = (hashed * total) >> 32
    below = 0
    for index, weight in enumerate(weights):
        below += weight
        if bucket < below:
            return index
    raise AssertionError("a point is below the total")


def magnitude(hashed: int) -> int:
    """The absolute value of the hash as a signed number, which is all that v1 looks at."""
    return hashed if hashed <= 0x7FFFFFFF else (1 << 32) - hashed


def thresholds(version: str, weights: Sequence[int]) -> list[int]:
    """For each bucket the bound its hashes (v1: their magnitudes) lie below.

    v2, v3: floor(h * total / 2^32) < c is h < c * 2^32 / total, c and h integers.
    v1: the percentage rises with the magnitude, so the first one past an end is searched for.
    """
    total = sum(weights)
    bounds = []
    cumulative = 0
    end: float = 0
    for weight in weights:
        cumulative += weight
        end += weight * 100 / total
        bounds.append(_bound(end) if version == V1 else -(-(cumulative << 32) // total))
    return bounds


def _percent(hashed: int) -> float:
    return magnitude(hashed) / ((1 << 31) - 1) * 100


def _bound(end: float) -> int:
    low, high = 0, (1 << 31) + 1
    while low < high:
        middle = (low + high) // 2
        if _percent(middle) < end:
            low = middle + 1
        else:
            high = middle
    return low


def cbor(value: Any) -> bytes:
    """Deterministic CBOR of a JSON value, floats without a fraction as ints.

    Raises:
        ValueError: for lone surrogates and more than ``MAX_HASHED`` bytes.
        TypeError: for what JSON has not.
        RecursionError: for a value deeper than the interpreter allows.
    """
    data = bytearray()
    _append(value, data)
    return bytes(data)


def _append(value: Any, data: bytearray) -> None:
    kind = type(value)
    if kind is str:
        data += _text(value)
    elif value is None or kind is bool:
        data += b"\xf6" if value is None else b"\xf5" if value else b"\xf4"
    elif kind is float and not (value.is_integer() and -(2**63) <= value <= 2**64 - 1):
        data += _float(value)
    elif kind is int or kind is float:
        data += _integer(int(value))
    elif issubclass(kind, dict):
        names = {_text(name): name for name in value}
        data += _head(_MAP, len(names))
        for name in sorted(names):
            data += name
            _append(value[names[name]], data)
    elif issubclass(kind, (list, tuple)):
        data += _head(_LIST, len(value))
        for member in value:
            _append(member, data)
    else:
        raise TypeError(f"expected a JSON value to hash, found {kind.__name__}")
    if len(data) > MAX_HASHED:
        raise ValueError(f"expected at most {MAX_HASHED} bytes to hash, found more")


def _text(text: Any) -> bytes:
    if type(text) is not str:
        raise TypeError(f"expected text as a key to hash, found {type(text).__name__}")
    data = text.encode()
    return _head(_TEXT, len(data)) + data


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes((kind + number,))
    for step, size in enumerate((1, 2, 4, 8)):
        if number < 1 << 8 * size:
            return bytes((kind + 24 + step,)) + number.to_bytes(size, "big")
    raise OverflowError(number)


def _integer(value: int) -> bytes:
    kind, number = (_INTEGER, value) if value >= 0 else (_NEGATIVE, -1 - value)
    if number < 1 << 64:
        return _head(kind, number)
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return (_LARGE if kind == _INTEGER else _LARGE_NEGATIVE) + _head(_BYTES, len(data)) + data


def _float(value: float) -> bytes:
    """The shortest of the three widths that holds the value."""
    if value != value:
        return _NAN
    for tag, width in _FLOATS:
        try:
            packed = width.pack(value)
        except OverflowError:
            continue
        if width.unpack(packed)[0] == value:
            return tag + packed
    raise AssertionError("eight bytes hold every float")
