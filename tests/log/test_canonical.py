"""Canonical bytes: what is written, and everything strict reading refuses."""

from __future__ import annotations

import contextlib
import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import SyntaxInvalid
from control_plane.log.canonical import canonical, parse, parse_canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda number: not 2**53 <= abs(number) < 1e21
    )
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def test_the_example_of_rfc_8785_section_3_2_3_has_its_bytes() -> None:
    text = (
        b'{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],'
        b'"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}'
    )
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(parse(text, what="example")) == expected.encode()


@given(JSON)
def test_what_is_written_reads_back_and_is_its_own_canonical_form(value: object) -> None:
    data = canonical(value)  # type: ignore[arg-type]
    read = parse_canonical(data, what="value")
    assert canonical(read) == data
    assert read == value


@given(JSON)
def test_every_value_has_the_bytes_of_the_reference(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(st.floats(1e-7, 2**53 - 1))
def test_every_float_has_the_digits_of_the_reference(number: float) -> None:
    assert canonical([number, -number]) == rfc8785.dumps([number, -number])


def test_keys_are_ordered_by_utf_16_code_units() -> None:
    # U+1F600 is written with surrogates, which come before U+FB33 in UTF-16 alone.
    assert canonical({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"\udc00": 1}, 2**53, [float("nan")], {1: 2}])
def test_what_has_no_canonical_bytes_is_refused(value: object) -> None:
    with pytest.raises(SyntaxInvalid, match="expected a"):
        canonical(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\xff", "expected UTF-8, found byte 0xff"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a":1,"a":2}', "'a' twice"),
        (b'{"a":{"b":1,"b":2}}', "'b' twice"),
        (b"NaN", "found NaN"),
        (b"-Infinity", "found -Infinity"),
        (b"1e999", "finite number"),
        (b"1e16", "2^53"),
        (b"9007199254740992.0", "2^53"),
        (b"9007199254740992", "2^53"),
        (b"-9007199254740992", "2^53"),
        (b"1" * 5000, "2^53"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\udc00":1}', "lone surrogate"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b"[" * 1_000_000, "64 levels"),
        (b'{"a":' * 100_000, "64 levels"),
        (b"[1,]", "JSON"),
        (b"", "JSON"),
        (b"'a'", "JSON"),
        (b'{"a":1} x', "JSON"),
    ],
)
def test_strict_reading_refuses(data: bytes, found: str) -> None:
    with pytest.raises(SyntaxInvalid) as refusal:
        parse(data, what="input")
    assert found in str(refusal.value)
    assert str(refusal.value).startswith("input: expected")
    assert "\n" not in str(refusal.value)


def test_size_is_checked_before_anything_is_read() -> None:
    with pytest.raises(SyntaxInvalid, match="expected at most 10 bytes, found 11"):
        parse(b"\xff" * 11, what="input", max_bytes=10)


def test_depth_counts_no_brackets_inside_strings() -> None:
    data = json.dumps({"a": "[" * 200 + '\\"' + "{" * 200, "b": ["\\"]}).encode()
    assert parse(data, what="input") == json.loads(data)
    assert parse(b"[" * 64 + b"]" * 64, what="input") is not None


@pytest.mark.parametrize("data", [b'{"b":1,"a":2}', b'{ "a":1}', b"1.0", b'"\\u0041"'])
def test_another_spelling_is_not_canonical(data: bytes) -> None:
    parse(data, what="input")
    with pytest.raises(SyntaxInvalid, match="canonical"):
        parse_canonical(data, what="input")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, 1e16, "\ud800", {1: 2}])
def test_what_rfc_8785_cannot_write_is_refused(value: object) -> None:
    with pytest.raises(SyntaxInvalid):
        canonical(value)  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_one_family_of_errors(data: bytes) -> None:
    with contextlib.suppress(SyntaxInvalid):
        parse(data, what="input")
