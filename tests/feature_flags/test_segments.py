"""Segments: lists, shards, exclusions and rules."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.segments import _holds
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


@settings(max_examples=200, deadline=None)
@given(
    hashes=st.sets(st.binary(min_size=16, max_size=16), max_size=40),
    spread=st.integers(0, 3_000),
    bits=st.integers(0, 16),
    stranger=st.binary(min_size=16, max_size=16),
)
def test_a_hash_is_found_wherever_it_lies_and_no_other(
    hashes: set[bytes], spread: int, bits: int, stranger: bytes
) -> None:
    # Some as they come, all over the run or in a heap, and the even rest around them.
    even = {sha256(b"%d" % number).digest()[:16] for number in range(spread)}
    packed = b"".join(sorted(hashes | even))

    def holds(wanted: bytes) -> bool:
        place = int.from_bytes(wanted[:8], "big") >> (32 - bits) & 0xFFFFFFFF
        found = _holds(packed, wanted, place, 0)
        # What stands before the first hash counts for nothing.
        assert _holds(wanted * 2 + packed, wanted, place, 32) is found
        return found

    assert all(holds(wanted) for wanted in [*hashes, *list(even)[:40]])
    assert holds(stranger) is (stranger in hashes | even)
    # Bytes across two hashes are none.
    for at in range(8, min(len(packed) - 16, 200), 16):
        across = packed[at : at + 16]
        assert holds(across) is (across in hashes | even)


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
