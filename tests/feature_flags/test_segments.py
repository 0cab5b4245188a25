"""Segments: lists, shards, exclusions and rules."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.segments import Memberships, shard_of
from control_plane.replica.format import SEGMENT, encode_record, record_key
from control_plane.testing import replica

ASKING: dict[str, Any] = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "rules": [{"name": "r", "when": {"$segment": "s"}, "serve": "on"}],
}
RULE = {"name": "pro", "when": {"plan": "pro"}}
PRO = {"plan": "pro"}


def test_who_is_excluded_is_no_member_whatever_else_is_said() -> None:
    segment = {"members": ["a", "b"], "exclude": ["b", "c"], "rules": [RULE]}
    with replica(flags={"x": ASKING}, segments={"s": segment}) as client:
        assert client.is_enabled("x", "a")
        assert not client.is_enabled("x", "b")
        assert not client.is_enabled("x", "c", context=PRO)
        assert client.is_enabled("x", "d", context=PRO)
        assert not client.is_enabled("x", "d", context={"plan": "free"})


def test_rules_alone_make_a_segment_and_need_no_unit() -> None:
    with replica(flags={"x": ASKING}, segments={"s": {"rules": [RULE]}}) as client:
        assert client.is_enabled("x", context=PRO)
        assert not client.is_enabled("x")


def test_a_sharded_segment_has_exclusions_and_rules_too() -> None:
    members = [f"u{number}" for number in range(2_000)]
    segment = {"members": members, "exclude": ["u7"], "rules": [RULE]}
    with replica(flags={"x": ASKING}, segments={"s": segment}) as client:
        assert [client.is_enabled("x", name) for name in ("u6", "u7", "u8", "v")] == [
            True, False, True, False,
        ]  # fmt: skip
        assert client.is_enabled("x", "v", context=PRO)


def test_a_change_of_rules_is_seen_by_the_next_call() -> None:
    with replica(flags={"x": ASKING}, segments={"s": {"rules": [RULE]}}) as client:
        assert client.is_enabled("x", context=PRO)
        client.set_segment("s", {"rules": [{"name": "free", "when": {"plan": "free"}}]})
        assert not client.is_enabled("x", context=PRO)
        assert client.is_enabled("x", context={"plan": "free"})


def test_hostile_values_reach_a_segments_rules_without_harm() -> None:
    rules = [{"name": "r", "when": {"plan": {"starts_with": "p"}, "age": {"gte": 18}}}]

    class Raises:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = None  # type: ignore[assignment]

    with replica(flags={"x": ASKING}, segments={"s": {"rules": rules}}) as client:
        for value in (Raises(), [], {}, float("nan"), "\ud800", 10**400, "x" * 100_000):
            assert client.is_enabled("x", "u", context={"plan": value, "age": value}) is False


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ([], "metadata.rules"),
        ([{"name": "r"}], "metadata.rules[0]"),
        ([RULE, RULE], "metadata.rules.1.name"),
        ([{"name": "r", "when": {"$segment": "t"}}], "metadata.rules[0].when"),
        ([{"name": "r", "when": {"$not": {"$flag": {"f": "on"}}}}], "metadata.rules[0].when"),
        ([{"name": "r", "when": {"v": {"semver": {"gte": "1.2"}}}}], "metadata.rules[0].when"),
    ],
)
def test_a_segment_with_broken_rules_is_refused(rules: Any, place: str) -> None:
    with replica(flags={"x": ASKING}, segments={"s": ["a"]}) as client:
        generation = client.health().generation
        with pytest.raises(ManifestInvalid) as refused:
            client.set_segment("s", {"rules": rules})
        assert place.split("[")[0].split(".")[1] in str(refused.value)
        assert client.health().generation == generation
        assert client.is_enabled("x", "a")


def digests(count: int) -> list[tuple[str, bytes]]:
    """Units with their SHA-256, in its order."""
    found = [(f"u{n}", hashlib.sha256(f"u{n}".encode()).digest()) for n in range(count)]
    return sorted(found, key=lambda item: item[1])


def stored(records: dict[bytes, bytes]) -> Memberships:
    """Memberships of these records."""
    raw = {
        key: encode_record(key, SEGMENT, body, head_generation=1, served_generation=1)
        for key, body in records.items()
    }
    return Memberships(lambda *keys: (1, [raw.get(key) for key in keys]), lambda rules: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("bits", [0, 3, 8])
def test_exactly_the_units_of_a_shard_are_members(bits: int) -> None:
    units = digests(3_000)
    members = units[::2]
    records = {record_key(SEGMENT, "s"): msgpack.packb({"shards": bits})}
    for shard in {shard_of(digest, bits) for _, digest in members}:
        held = [digest[:16] for _, digest in members if shard_of(digest, bits) == shard]
        records[record_key(SEGMENT, "s", shard)] = b"".join(held)
    asked = stored(records)
    found = {unit for unit, _ in units if asked.contains("s", unit, None, None, None)}
    assert found == {unit for unit, _ in members}


@pytest.mark.parametrize("part", [slice(0, 300), slice(700, 1000), slice(350, 650), slice(5, 6)])
def test_members_whose_hashes_lie_unevenly_are_found_all_the_same(part: slice) -> None:
    units = digests(1_000)
    packed = b"".join(digest[:16] for _, digest in units[part])
    asked = stored({record_key(SEGMENT, "s"): msgpack.packb({"members": packed})})
    found = {unit for unit, _ in units if asked.contains("s", unit, None, None, None)}
    assert found == {unit for unit, _ in units[part]}
