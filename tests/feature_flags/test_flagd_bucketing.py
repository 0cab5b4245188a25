"""Where flagd puts a unit; the vectors were computed with mmh3 and cbor2, not with this code."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.feature_flags.flagd_bucketing import (
    MAX_HASHED,
    V1,
    V2,
    V3,
    VERSIONS,
    cbor,
    hash32,
    magnitude,
    murmur3,
    position,
    text_bytes,
    thresholds,
)

# The five in the middle are flagd's own: their hashes lie on the edges of 32 and 31 bits.
HASHES = {
    "": 0x0, "a": 0x3C2569B2, "abc": 0xB3DD93FA, "user-1": 0xF8A28763,
    "ejOoVL": 0x0, "bY9fO-": 0x1, "SI7p-": 0x7FFFFFFF, "6LvT0": 0x80000000, "ceQdGm": 0xFFFFFFFF,
    "é" * 12: 0x786F1893, "x" * 300: 0xBBD3159D,
}  # fmt: skip
ENCODED: list[tuple[Any, str, int]] = [
    (True, "f5", 0x31D7A60B),
    (False, "f4", 0x06F15207),
    (0, "00", 0x514E28B7),
    (23, "17", 0xD5D81E52),
    (24, "1818", 0x6E4E3460),
    (-24, "37", 0x23EA8628),
    (-25, "3818", 0xA303D021),
    (2**32, "1b0000000100000000", 0xBAA9A467),
    (-0.0, "00", 0x514E28B7),
    (24.0, "1818", 0x6E4E3460),
    (1.5, "f93e00", 0x14ADE9B6),
    (65504.5, "fa477fe080", 0xA384CF3E),
    (1e-07, "fb3e7ad7f29abcaf48", 0x33B28F4C),
    (1e20, "fb4415af1d78b58c40", 0xBBEA2457),
    ("123", "63313233", 0xDE489642),
    ("a" * 24, "7818" + "61" * 24, 0x051DBF51),
    ({"b": 1, "a": [None, 2.5]}, "a2616182f6f94100616201", 0x75F7C774),
]


@pytest.mark.parametrize(("text", "hashed"), HASHES.items(), ids=lambda case: str(case)[:12])
def test_a_text_has_this_hash_by_either_implementation(text: str, hashed: int) -> None:
    assert murmur3(text.encode()) == hash32(text.encode()) == hashed


@given(st.binary(max_size=40))
def test_the_hash_of_our_own_is_the_packages(data: bytes) -> None:
    mmh3 = pytest.importorskip("mmh3")
    assert murmur3(data) == mmh3.hash(data, signed=False)
    assert murmur3(data, 86028157) == mmh3.hash(data, 86028157, signed=False)


@pytest.mark.parametrize(("value", "encoded", "hashed"), ENCODED, ids=lambda case: str(case)[:12])
def test_a_value_has_these_bytes_and_this_hash_in_v3(value: Any, encoded: str, hashed: int) -> None:
    assert cbor(value).hex() == encoded
    assert hash32(cbor(value)) == hashed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_every_value_is_encoded_as_flagd_core_encodes_it(value: Any) -> None:
    cbor2 = pytest.importorskip("cbor2")
    ops = pytest.importorskip("openfeature.contrib.tools.flagd.core.targeting.custom_ops")
    assert cbor(value) == cbor2.dumps(ops.normalize_numbers(value), canonical=True)


def test_without_a_unit_of_its_own_a_flag_hashes_its_key_and_the_targeting_key() -> None:
    assert text_bytes(V1, "new_checkout", "user-1") == b"new_checkoutuser-1"
    assert text_bytes(V2, "new_checkout", "user-1") == b"new_checkoutuser-1"
    joined = bytes.fromhex("826c6e65775f636865636b6f757466757365722d31")
    assert text_bytes(V3, "new_checkout", "user-1") == joined
    assert hash32(joined) == 0xA3F9A42C


@pytest.mark.parametrize(
    ("version", "hashed", "bucket"),
    [
        (V1, 0x00000000, 0), (V1, 0x3FFFFFFF, 0), (V1, 0x40000000, 1), (V1, 0x7FFFFFFE, 1),
        (V1, 0x7FFFFFFF, -1), (V1, 0x80000000, -1), (V1, 0xFFFFFFFF, 0),
        (V2, 0x00000000, 0), (V2, 0x7FFFFFFF, 0), (V2, 0x80000000, 1), (V2, 0xFFFFFFFF, 1),
        (V3, 0x00000000, 0), (V3, 0x7FFFFFFF, 0), (V3, 0x80000000, 1), (V3, 0xFFFFFFFF, 1),
    ],
)  # fmt: skip
def test_two_halves_meet_here(version: str, hashed: int, bucket: int) -> None:
    assert position(version, hashed, [50, 50]) == bucket


@given(
    st.sampled_from(VERSIONS),
    st.lists(st.integers(0, 2**28), min_size=1, max_size=6).filter(any),
    st.integers(0, 2**32 - 1),
)
def test_bounds_of_the_hash_say_what_the_point_says(
    version: str, weights: list[int], hashed: int
) -> None:
    bounds = thresholds(version, weights)
    # Also the hashes on both sides of each bound.
    for near in {hashed, *(bound + step for bound in bounds for step in (-1, 0, 1))}:
        if 0 <= near < 1 << 32:
            compared = magnitude(near) if version == V1 else near
            found = next((i for i, bound in enumerate(bounds) if compared < bound), -1)
            assert found == position(version, near, weights)


@pytest.mark.parametrize(
    "value", ["\ud800", {"\ud800": 1}, {1: 2}, object(), {"a": {1, 2}}, ["x" * MAX_HASHED] * 2]
)
def test_what_has_no_bytes_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        cbor(value)


def test_a_few_objects_that_stand_for_endless_ones_are_refused_soon() -> None:
    endless: list[Any] = []
    for _ in range(60):
        endless = [endless, endless]
    with pytest.raises(ValueError, match="at most"):
        cbor(endless)
