"""The small decoder against the real one."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.feature_flags.packed import MAX_DEPTH, unpack

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)
LONG: list[Any] = [
    "x" * 40,
    "x" * 300,
    "x" * 70_000,
    b"x" * 300,
    b"x" * 70_000,
    [1] * 20,
    [1] * 70_000,
    {str(number): number for number in range(20)},
    {str(number): number for number in range(70_000)},
]


@given(VALUES)
def test_what_msgpack_packs_is_unpacked(value: Any) -> None:
    assert unpack(msgpack.packb(value)) == value


@pytest.mark.parametrize("value", LONG, ids=lambda value: f"{type(value).__name__}-{len(value)}")
def test_long_values_are_unpacked(value: Any) -> None:
    assert unpack(msgpack.packb(value)) == value


def test_a_short_float_is_unpacked() -> None:
    assert unpack(msgpack.packb(1.5, use_single_float=True)) == 1.5


@given(st.binary(max_size=60) | VALUES.map(msgpack.packb))
def test_any_bytes_give_what_msgpack_gives_or_are_refused(data: bytes) -> None:
    try:
        value = unpack(data)
    except ValueError:
        return
    assert repr(msgpack.unpackb(data)) == repr(value)


@given(VALUES, st.integers(1, 20))
def test_bytes_missing_or_left_over_are_refused(value: Any, count: int) -> None:
    data = msgpack.packb(value)
    for wrong in (data[:-count], data + b"\xc0" * count):
        with pytest.raises(ValueError, match="expected"):
            unpack(wrong)


@pytest.mark.parametrize(
    "data", [b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
)
def test_depth_and_promised_lengths_are_bounded(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_DEPTH} levels"):
        unpack(data)
