"""The rule xxh3-v1, pinned."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from control_plane.feature_flags.bucketing import point_of, seed_of, threshold, unit_of

# Unit, salt, total, hash, point. Never change a line: units would move between variants.
VECTORS = [
    ("tenant123", "new_ai_model", 100, "6d30088f2bd8be8d", 42),
    ("tenant123", "new_ai_model", 100000, "6d30088f2bd8be8d", 42651),
    ("acme", "checkout", 100, "fab637f457b72a7e", 97),
    ("user-42", "checkout", 1000, "c7b6f735af015131", 780),
    ("", "checkout", 100, "49d73f2e136a37f8", 28),
    ("Straße", "größe", 100, "5bdf27e137702ba7", 35),
    ("日本", "flag", 10000, "198d6ed2d8691a65", 998),
    (42, "checkout", 100, "6a0547100afdc5b7", 41),
    (-7, "checkout", 3, "124a3b1a944c544f", 0),
    ("42", "checkout", 100, "6a0547100afdc5b7", 41),
    ("a" * 300, "s", 2147483647, "3ca089e2bfac2fc6", 508577008),
    ("u1", "x", 1, "7320af3dcab3946e", 0),
]


@pytest.mark.parametrize(("unit", "salt", "total", "digest", "point"), VECTORS)
def test_a_unit_falls_where_it_always_fell(
    unit: str | int, salt: str, total: int, digest: str, point: int
) -> None:
    found = unit_of(unit)
    assert found is not None
    assert f"{xxh3_64_intdigest(found, seed_of(salt)):016x}" == digest
    assert point_of(found, seed_of(salt), total) == point


class Plan(enum.StrEnum):
    PRO = "pro"


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("acme", b"acme"),
        ("Straße", "Straße".encode()),
        ("", b""),
        (42, b"42"),
        (-7, b"-7"),
        (Plan.PRO, b"pro"),
        (True, None),
        (False, None),
        (1.0, None),
        (None, None),
        (b"acme", None),
        (["acme"], None),
        ("\ud800", None),
    ],
)
def test_only_strings_and_ints_are_units(value: object, unit: bytes | None) -> None:
    assert unit_of(value) == unit


def test_an_int_too_long_to_print_is_no_unit() -> None:
    assert unit_of(10**5000) is None


@given(st.data(), st.integers(1, (1 << 31) - 1), st.integers(0, (1 << 64) - 1))
def test_the_compiled_bound_decides_as_the_point_does(
    data: st.DataObject, total: int, digest: int
) -> None:
    cumulative = data.draw(st.integers(0, total))
    point = ((digest >> 32) * total) >> 32
    assert (point < cumulative) == (digest < threshold(cumulative, total))


@given(st.data(), st.integers(1, (1 << 31) - 1), st.integers(-2, 2))
def test_the_compiled_bound_is_exact_at_its_edge(
    data: st.DataObject, total: int, offset: int
) -> None:
    cumulative = data.draw(st.integers(1, total))
    digest = threshold(cumulative, total) + offset
    if 0 <= digest < 1 << 64:
        point = ((digest >> 32) * total) >> 32
        assert (point < cumulative) == (offset < 0)


def test_growing_the_first_weight_moves_no_unit_out_of_the_first() -> None:
    seed = seed_of("rollout")
    units = [f"user-{number}".encode() for number in range(2000)]
    inside: set[bytes] = set()
    for weight in (0, 1, 5, 25, 26, 60, 99, 100):
        now = {unit for unit in units if point_of(unit, seed, 100) < weight}
        assert inside <= now
        inside = now
    assert inside == set(units)
