"""Where a unit falls by each bucketing: ranges for all of them, splits for other systems'.

Each is the arithmetic of one system, fixed for ever, floats as they are there. ``salt`` is what the
system puts beside the unit; a range holds a point with start <= point < end, all from 0 to 1.

* ``xxh3-v1``: the hash of the module ``bucketing``; a range's point is its upper 32 bits / 2^32.
* ``growthbook-v1``, ``growthbook-v2`` (GrowthBook's ``hashVersion``): FNV-1a, 32 bit, of UTF-16
  code units. v1: (fnv(unit salt) % 1000) / 1000; v2: (fnv(decimal of fnv(salt unit)) % 10000) /
  10000. A unit is text that is not empty, or a number but 0, NaN and the infinities, written as
  JavaScript writes it.
* ``unleash``: MurmurHash3 x86 32 bit of "salt:unit", the salt being the group id. A range's point
  is (hash % 100) / 100, so that a strategy's percentage p is [0, p / 100]. A split's point is
  hash % total with the seed 86028157, which Unleash has for variants. A unit is text or what
  Python's ``str`` makes of a number or bool, as in its Python SDK.
* ``launchdarkly``: the first 60 bits of SHA-1 of "salt.unit" / (2^60 - 1), the salt being the seed
  of a rollout or else "key.salt" of the flag or segment. A unit is text or an int; whatever else
  there is, nothing included, falls on 0.0, so a split always serves.

Splits of GrowthBook's and LaunchDarkly's add up weight / total as floats and serve the first
variant whose sum exceeds the point, the last one in any case.

Code compares hashes with bounds (``of``, ``bound``) and neither divides nor adds floats; ``point``
is the same in the words above.
"""

from __future__ import annotations

from hashlib import sha1

from xxhash import xxh3_64_digest

from control_plane.feature_flags import bucketing
from control_plane.feature_flags.flagd_bucketing import hash32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Hash = int | bytes

GROWTHBOOK_1, GROWTHBOOK_2 = "growthbook-v1", "growthbook-v2"
UNLEASH, LAUNCHDARKLY = "unleash", "launchdarkly"
IMPORTED = (GROWTHBOOK_1, GROWTHBOOK_2, UNLEASH, LAUNCHDARKLY)
NAMES = (bucketing.NAME, *IMPORTED)

VARIANT_SEED = 86028157
"""Unleash's seed for variants: client specification 4.5."""

_OFFSET, _PRIME, _MASK = 0x811C9DC5, 0x01000193, 0xFFFFFFFF
_BITS = 60
_SCALE = float((1 << _BITS) - 1)
_FIRST = bytes(8)
_BEYOND = b"\xff" * 9


class Hashing:
    """One bucketing's hash with a salt.

    ``of`` is None where the value is no unit. Hashes of one bucketing compare with each other;
    ``of(value) < bound(end)`` is the same as ``point(value) < end``.
    """

    __slots__ = ("_salt",)

    def __init__(self, salt: str) -> None:
        self._salt = salt

    def of(self, value: Any) -> Hash | None:
        """The hash of a value, None where it is no unit."""
        raise NotImplementedError

    def bound(self, end: float) -> Hash:
        """The first hash whose point is not below an end of 0 to 1."""
        raise NotImplementedError

    def point(self, value: Any) -> float | None:
        """The point from 0 to 1 of a value, None where it is no unit."""
        raise NotImplementedError


class _Xxh3(Hashing):
    __slots__ = ("_seed",)

    def __init__(self, salt: str) -> None:
        super().__init__(salt)
        self._seed = bucketing.seed_of(salt)

    def of(self, value: Any) -> bytes | None:
        unit = bucketing.unit_of(value)
        return None if unit is None else xxh3_64_digest(unit, self._seed)

    def bound(self, end: float) -> bytes:
        # As in ``bucketing.threshold``: h / 2^32 < end is h < ceil(end * 2^32).
        above, below = float(end).as_integer_ratio()
        bound = -(-(above << 32) // below) << 32
        return bound.to_bytes(8, "big") if bound >> 64 == 0 else _BEYOND

    def point(self, value: Any) -> float | None:
        unit = bucketing.unit_of(value)
        return None if unit is None else bucketing.point_of(unit, self._seed, 1 << 32) / (1 << 32)


class _Growthbook1(Hashing):
    __slots__ = ("_tail",)

    MODULUS = 1000

    def __init__(self, salt: str) -> None:
        super().__init__(salt)
        self._tail = _units(salt)

    def of(self, value: Any) -> int | None:
        text = value if value.__class__ is str else _javascript(value)
        if not text:
            return None
        return _fnv(self._tail, _fnv(_units(text))) % self.MODULUS

    def bound(self, end: float) -> int:
        return _first(self.MODULUS, lambda found: found / self.MODULUS >= end)

    def point(self, value: Any) -> float | None:
        found = self.of(value)
        return None if found is None else found / self.MODULUS


class _Growthbook2(_Growthbook1):
    __slots__ = ("_state",)

    MODULUS = 10000

    def __init__(self, salt: str) -> None:
        super().__init__(salt)
        # FNV goes from left to right, so what comes of the salt is known before any unit is.
        self._state = _fnv(_units(salt))

    def of(self, value: Any) -> int | None:
        text = value if value.__class__ is str else _javascript(value)
        if not text:
            return None
        found = _fnv(_units(text), self._state)
        return _fnv(b"%d" % found) % self.MODULUS


class _Unleash(Hashing):
    __slots__ = ("_modulus", "_seed")

    def __init__(self, salt: str, modulus: int = 100, seed: int = 0) -> None:
        super().__init__(f"{salt}:")
        self._modulus = modulus
        self._seed = seed

    def of(self, value: Any) -> int | None:
        text = value if value.__class__ is str else _python(value)
        if text is None:
            return None
        try:
            return hash32((self._salt + text).encode(), self._seed) % self._modulus
        except UnicodeEncodeError:
            return None

    def bound(self, end: float) -> int:
        return _first(self._modulus, lambda found: found / self._modulus >= end)

    def point(self, value: Any) -> float | None:
        found = self.of(value)
        return None if found is None else found / self._modulus


class _LaunchDarkly(Hashing):
    __slots__ = ()

    def __init__(self, salt: str) -> None:
        super().__init__(f"{salt}.")

    def of(self, value: Any) -> bytes | None:
        if value.__class__ is not str:
            unit = bucketing.unit_of(value)
            if unit is None:
                # A text with a lone surrogate cannot be hashed; all else that is no unit is first.
                return None if issubclass(type(value), str) else _FIRST
            value = unit.decode()
        try:
            return sha1((self._salt + value).encode(), usedforsecurity=False).digest()
        except UnicodeEncodeError:
            return None

    def bound(self, end: float) -> bytes:
        # 60 bits and a nibble: longer digests with the same beginning compare as not below.
        return (_first(1 << _BITS, lambda found: found / _SCALE >= end) << 4).to_bytes(8, "big")

    def point(self, value: Any) -> float | None:
        found = self.of(value)
        return None if found is None else (int.from_bytes(found[:8], "big") >> 4) / _SCALE


_HASHINGS: dict[str, Callable[[str], Hashing]] = {
    bucketing.NAME: _Xxh3,
    GROWTHBOOK_1: _Growthbook1,
    GROWTHBOOK_2: _Growthbook2,
    UNLEASH: _Unleash,
    LAUNCHDARKLY: _LaunchDarkly,
}


def range_hashing(name: str, salt: str) -> Hashing:
    """How a bucketing hashes for ranges."""
    return _HASHINGS[name](salt)


def split_hashing(name: str, salt: str, total: int) -> Hashing:
    """How one of ``IMPORTED`` hashes for splits of weights with that sum."""
    return _Unleash(salt, total, VARIANT_SEED) if name == UNLEASH else _HASHINGS[name](salt)


def split_ends(name: str, weights: Iterable[int], total: int) -> list[float]:
    """Where each variant's part of a split ends, from 0 to 1."""
    ends = []
    summed, cumulative = 0.0, 0
    for weight in weights:
        summed += weight / total
        cumulative += weight
        # Unleash adds up weights and not fractions.
        ends.append(cumulative / total if name == UNLEASH else summed)
    return ends


def served(name: str, split: Iterable[tuple[str, int]], point: float) -> str:
    """The variant of (variant, weight) pairs that a point of one of ``IMPORTED`` falls on."""
    pairs = [pair for pair in split if pair[1]]
    weights = [weight for _, weight in pairs]
    ends = split_ends(name, weights, sum(weights))
    found = (variant for (variant, _), end in zip(pairs, ends, strict=True) if point < end)
    return next(found, pairs[-1][0])


def _units(text: str) -> Iterable[int]:
    """The UTF-16 code units of a text, of ASCII its bytes."""
    if text.isascii():
        return text.encode()
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[at] | data[at + 1] << 8 for at in range(0, len(data), 2)]


def _fnv(units: Iterable[int], state: int = _OFFSET) -> int:
    for unit in units:
        state = ((state ^ unit) * _PRIME) & _MASK
    return state


def _javascript(value: Any) -> str | None:
    """What GrowthBook hashes of a value that is no plain str."""
    kind = type(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if kind is bool or not issubclass(kind, (int, float)):
        return None
    try:
        number = float.__float__(value) if issubclass(kind, float) else float(int.__int__(value))
    except OverflowError:
        # JavaScript has no int that large but Infinity.
        return None
    if number == 0 or number - number != 0:
        return None
    return _ecmascript(number)


def _ecmascript(number: float) -> str:
    """ECMA-262, Number::toString, of a finite number; ``repr`` has the same digits."""
    mantissa, _, exponent = float.__repr__(number).partition("e")
    if not exponent:
        return mantissa.removesuffix(".0")
    shift = int(exponent)
    sign = "-" if number < 0 else ""
    digits = mantissa.lstrip("-").replace(".", "")
    if 0 < shift < 21:
        return sign + digits.ljust(shift + 1, "0")
    if -7 < shift < 0:
        return f"{sign}0.{'0' * (-shift - 1)}{digits}"
    return f"{mantissa}e{shift:+d}"


def _python(value: Any) -> str | None:
    """What Unleash's Python SDK hashes of a value that is no plain str."""
    kind = type(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if kind is bool:
        return str(value)
    try:
        if issubclass(kind, int):
            return int.__repr__(value)
    except ValueError:
        # Longer than sys.get_int_max_str_digits().
        return None
    return float.__repr__(value) if issubclass(kind, float) else None


def _first(count: int, reached: Callable[[int], bool]) -> int:
    """The first of 0 to ``count`` - 1 for which it is true, then for all after it; else count."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle + 1
    return low
