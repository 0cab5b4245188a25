"""Keys and records, to the byte."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import FormatUnsupported, ReplicaCorrupt
from control_plane.replica import format

FIELDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)
KINDS = st.sampled_from(sorted(format.KIND_NAMES))
GENERATIONS = st.integers(0, 2**63 - 1)


def test_a_record_has_the_bytes_of_the_format():
    key = format.record_key(format.FLAG, "new_ai_model")
    data = format.encode_record(key, format.FLAG, b"\x81\xa1m\xc0", head_generation=258,
                                served_generation=257)  # fmt: skip
    assert key.hex() == "016e65775f61695f6d6f64656c"
    assert data.hex() == (
        "01010100" "04000000" "0201000000000000" "0101000000000000" "00c6ff978fc26c2e" "81a16dc0"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields", "key"),
    [
        (format.SEGMENT, ("beta_testers",), b"\x02beta_testers"),
        (format.SEGMENT, ("beta_testers", "00a0"), b"\x02beta_testers\x0000a0"),
        (format.CONFIG, ("", "database.url"), b"\x03\x00database.url"),
        (format.CONFIG, ("acme", "ai.models.gpt-4~11"), b"\x03acme\x00ai.models.gpt-4~11"),
        (format.CHANNEL, ("agent", "support", "stable"), b"\x06agent\x00support\x00stable"),
    ],
)
def test_a_key_is_the_kind_and_its_fields_joined_by_nul(kind, fields, key):
    assert format.record_key(kind, *fields) == key


def test_a_key_of_480_bytes_is_kept_and_a_longer_one_keeps_440_and_its_hash():
    assert len(format.record_key(format.CONFIG, "", "a" * 478)) == 480
    long = b"\x03\x00" + b"a" * 479
    assert format.record_key(format.CONFIG, "", "a" * 479) == (
        long[:440] + b"\0" + hashlib.sha256(long).digest()
    )


@pytest.mark.parametrize("field", ["a\0b", "\ud800"])
def test_a_field_that_no_stored_name_holds_is_misuse(field):
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        format.record_key(format.FLAG, field)


@given(KINDS, st.lists(FIELDS, min_size=1, max_size=3), KINDS, st.lists(FIELDS, min_size=1))
def test_two_different_records_never_share_a_key(kind, fields, other_kind, other_fields):
    same = (kind, fields) == (other_kind, other_fields)
    keys = format.record_key(kind, *fields), format.record_key(other_kind, *other_fields)
    assert (keys[0] == keys[1]) is same
    assert max(map(len, keys)) <= format.MAX_KEY_BYTES


@given(KINDS, FIELDS, st.binary(max_size=2000), GENERATIONS, GENERATIONS, st.integers(0, 3))
def test_a_record_decodes_to_what_was_encoded(kind, name, body, head, served, status):
    key = format.record_key(kind, name)
    data = format.encode_record(
        key, kind, body, head_generation=head, served_generation=served, status=status
    )
    record = format.decode_record(key, data)
    found = (record.kind, record.body, record.head_generation, record.served_generation)
    assert found == (kind, body, head, served)
    assert record.status == status


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_flipped_bit_in_length_hash_or_body_is_corruption(body, data):
    key = format.record_key(format.FLAG, "checkout")
    good = format.encode_record(key, format.FLAG, body, head_generation=1, served_generation=1)
    checked = [*range(4, 8), *range(24, len(good))]
    position = data.draw(st.sampled_from(checked))
    bad = bytearray(good)
    bad[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ReplicaCorrupt, match="flag/checkout"):
        format.decode_record(key, bytes(bad))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_an_error_of_ours(data):
    with pytest.raises((ReplicaCorrupt, FormatUnsupported)):
        format.decode_record(b"\x01x", data)


def test_a_record_under_another_key_is_corruption():
    data = format.encode_record(b"\x01a", format.FLAG, b"x", head_generation=1, served_generation=1)
    with pytest.raises(ReplicaCorrupt):
        format.decode_record(b"\x01b", data)


def test_a_record_for_a_newer_reader_names_the_version_it_needs():
    data = format.encode_record(
        b"\x01a", format.FLAG, b"x", head_generation=1, served_generation=1, min_reader=3
    )
    with pytest.raises(
        FormatUnsupported, match="flag/a: expected a record for reader 1, found one for reader 3"
    ):
        format.decode_record(b"\x01a", data)


def test_head_keys_come_back_as_they_were():
    assert format.parse_head_key(format.head_key("agent", "support", "v/1.0.0")) == (
        "agent",
        "support",
        "v/1.0.0",
    )
    with pytest.raises(ReplicaCorrupt):
        format.parse_head_key(b"agent\0support")
