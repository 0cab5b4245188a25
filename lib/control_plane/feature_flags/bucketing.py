"""Where a unit falls in a split: the rule ``xxh3-v1``, fixed for ever.

* The unit is the UTF-8 of a string or the decimal ASCII of an int. A bool is no int; a string
  with a lone surrogate, an int beyond the interpreter's printing limit and every other type are
  no unit, and the rule that wanted one does not match.
* ``seed`` = XXH3-64 of the salt's UTF-8; ``h`` = XXH3-64 of the unit with that seed, its upper
  32 bits; ``point`` = (h * total) >> 32, so points are 0 to total - 1.
* The first variant whose cumulative weight exceeds the point is served. A variant of weight 0 is
  never served, and growing the first weight at the cost of the last moves no unit out of the
  first.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

NAME = "xxh3-v1"


def seed_of(salt: str) -> int:
    """The 64-bit seed of a flag's salt."""
    return xxh3_64_intdigest(salt.encode())


def unit_of(value: Any) -> bytes | None:
    """The bytes that are hashed for this value, or None when it is no unit."""
    kind = type(value)
    try:
        if kind is str:
            return value.encode()  # type: ignore[no-any-return]
        # The types' own methods: a subclass (an Enum, say) may have changed what a name does.
        if issubclass(kind, str):
            return str.encode(value)
        if issubclass(kind, int) and kind is not bool:
            return int.__repr__(value).encode()
    except ValueError:
        # A lone surrogate, or an int longer than sys.get_int_max_str_digits().
        return None
    return None


def point_of(unit: bytes, seed: int, total: int) -> int:
    """The point of a unit among ``total``: 0 to total - 1."""
    return ((xxh3_64_intdigest(unit, seed) >> 32) * total) >> 32


def served(split: Iterable[tuple[str, int]], point: int) -> str:
    """The first variant of (variant, weight) pairs whose cumulative weight exceeds the point."""
    cumulative = 0
    for variant, weight in split:
        cumulative += weight
        if point < cumulative:
            return variant
    raise ValueError(f"expected a point below the sum {cumulative} of the weights, found {point}")


def threshold(cumulative: int, total: int) -> int:
    """The bound T for which ``point < cumulative`` is the same as ``H < T``, H the 64-bit hash.

    With h = H >> 32 and c, total integers, total > 0:

        floor(h * total / 2**32) < c
        <=>  h * total / 2**32 < c               c is an integer, so floor(y) < c <=> y < c
        <=>  h < c * 2**32 / total
        <=>  h < ceil(c * 2**32 / total) =: t    h is an integer
        <=>  H < t * 2**32                       t is an integer, floor(H / 2**32) = h

    Compiled rules compare the raw hash with T and neither shift nor multiply.
    """
    return -(-(cumulative << 32) // total) << 32
