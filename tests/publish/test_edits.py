"""Edits operators make by a word: flags switched and rolled out, segments grown."""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid, NotFound
from control_plane.manifests.validation import validate
from control_plane.publish.flag_edits import with_enabled, with_rollout
from control_plane.publish.segment_edits import (
    MAX_LISTED,
    MAX_SHARD,
    in_shards,
    shard_of,
    with_members,
)
from control_plane.publish.spool import ADDED, REMOVED, STOOD, Blobs, Chosen, Members, Together


def flag(**metadata: Any) -> dict[str, Any]:
    return {
        "kind": "flag",
        "name": "x",
        "metadata": {"variants": {"on": True, "off": False}, "default": "off", **metadata},
    }


def test_switching_touches_one_environment_and_nothing_else() -> None:
    before = flag(environments={"staging": {"default": "on"}})
    after = with_enabled(before, "production", False)
    assert after["metadata"].pop("environments") == {
        "staging": {"default": "on"},
        "production": {"enabled": False},
    }
    assert before["metadata"].pop("environments") == {"staging": {"default": "on"}}
    assert after == before


def test_a_rollout_puts_the_chosen_variant_first() -> None:
    after = with_rollout(flag(), "production", Fraction(25), by="tenant_id")
    validate(after)
    assert after["metadata"]["environments"]["production"]["rules"] == [
        {
            "name": "rollout",
            "serve": [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}],
            "by": "tenant_id",
        }
    ]


def test_a_rollout_keeps_the_condition_of_the_rule_it_changes() -> None:
    rule = {"name": "rollout", "when": {"plan": "pro"}, "serve": "off", "by": "user_id"}
    after = with_rollout(flag(rules=[rule]), "production", Fraction("12.5"))
    (changed,) = after["metadata"]["environments"]["production"]["rules"]
    assert (changed["when"], changed["by"]) == ({"plan": "pro"}, "user_id")
    assert [each["weight"] for each in changed["serve"]] == [12_500, 87_500]


@pytest.mark.parametrize("percent", [Fraction(-1), Fraction(101), Fraction(1, 3)])
def test_a_percentage_out_of_range_or_too_fine_is_refused(percent: Fraction) -> None:
    with pytest.raises(ManifestInvalid, match="expected a percentage from 0 to 100"):
        with_rollout(flag(), "production", percent)


def test_an_unknown_variant_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotFound, match="expected one of the variants on, off"):
        with_rollout(flag(), "production", Fraction(5), variant="blue")


def test_a_flag_of_words_needs_a_variant_named() -> None:
    words = flag(variants={"a": "1", "b": "2"}, default="a", disabled="a")
    with pytest.raises(ManifestInvalid, match="pass --variant"):
        with_rollout(words, "production", Fraction(5))


class Segment:
    """A segment as the store would hold it after each edit."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "kind": "segment",
            "name": "s",
            "metadata": {"members": []},
        }
        self.shards: dict[str, list[str]] = {}

    def edit(self, **change: Any) -> int:
        edit = with_members(self.document, lambda shard: self.shards.get(shard, []), **change)
        self.document = edit.document or self.document
        self.shards.update(edit.shards)
        return edit.changed

    @property
    def members(self) -> set[str]:
        bits = self.document["metadata"].get("shards")
        if bits is None:
            return set(self.document["metadata"]["members"])
        for shard, members in self.shards.items():
            assert members == sorted(set(members))
            assert {shard_of(member, bits) for member in members} <= {shard}
            assert len(members) <= MAX_SHARD
        return {member for members in self.shards.values() for member in members}


names = st.sets(st.integers(0, 3_000).map(str), max_size=700)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), names), max_size=5))
def test_a_segment_holds_what_a_set_would(edits: list[tuple[bool, set[str]]]) -> None:
    segment, expected = Segment(), set[str]()
    for adds, members in edits:
        after = expected | members if adds else expected - members
        changed = segment.edit(**{"add" if adds else "remove": members})
        assert changed == len(expected ^ after)
        expected = after
        assert segment.members == expected
        validate(segment.document)


def test_one_member_more_changes_one_shard_only() -> None:
    segment = Segment()
    segment.edit(add=[str(number) for number in range(5_000)])
    assert len(segment.shards) > 1
    edit = with_members(segment.document, lambda shard: segment.shards[shard], add=["new"])
    assert edit.document is None
    assert list(edit.shards) == [shard_of("new", segment.document["metadata"]["shards"])]


def test_shards_split_before_one_holds_more_than_500() -> None:
    segment = Segment()
    for start in range(0, 4_500, 150):
        segment.edit(add=[str(number) for number in range(start, start + 150)])
        assert len(segment.members) == start + 150
    assert segment.document["metadata"] == {"shards": 4}


def test_what_is_removed_while_shards_split_stays_away() -> None:
    segment = Segment()
    segment.edit(add=["gone", *(str(number) for number in range(600))])
    bits = segment.document["metadata"]["shards"]
    segment.edit(add=[str(number) for number in range(5_000)], remove=["gone"])
    assert segment.document["metadata"]["shards"] > bits
    assert segment.members == {str(number) for number in range(5_000)}


def test_an_author_may_choose_the_number_of_shards_but_not_too_few() -> None:
    members = [str(number) for number in range(3_000)]
    document = {"kind": "segment", "name": "s", "metadata": {"shards": 3}}
    shards = in_shards(document, members)
    assert len(shards) == 8
    assert sorted(each for held in shards.values() for each in held) == sorted(members)
    document["metadata"] = {"shards": 2}
    with pytest.raises(ManifestInvalid, match="at most 500 members a shard, found 7"):
        in_shards(document, members)


def test_a_short_list_stays_in_the_manifest() -> None:
    segment = Segment()
    segment.edit(add=[str(number) for number in range(MAX_LISTED)])
    assert segment.shards == {}
    assert segment.edit(add=["0"]) == 0


def test_a_segment_that_moves_into_shards_keeps_its_rules_and_who_is_excluded() -> None:
    segment = Segment()
    rest = {"exclude": ["7"], "rules": [{"name": "pro", "when": {"plan": "pro"}}]}
    segment.document["metadata"] = dict(rest)
    segment.edit(add=["1", "2"])
    assert segment.document["metadata"] == {**rest, "members": ["1", "2"]}
    segment.edit(add=[str(number) for number in range(3_000)])
    assert segment.document["metadata"] == {**rest, "shards": 4}
    segment.edit(add=[str(number) for number in range(9_000)])
    assert segment.document["metadata"] == {**rest, "shards": 6}
    assert segment.edit(remove=["1"]) == 1
    assert segment.document["metadata"] == {**rest, "shards": 6}


@pytest.mark.parametrize(("bits", "waiting_bytes"), [(0, 0), (3, 500), (8, 5_000), (12, 1 << 20)])
def test_members_come_back_by_shard_wherever_they_lay(bits: int, waiting_bytes: int) -> None:
    members = Members(waiting_bytes)
    stood = {f"m{number}" for number in range(900)}
    added = {f"m{number}" for number in range(600, 1_500)} | {"ünï", "x" * 512}
    removed = {f"m{number}" for number in range(0, 1_500, 7)}
    for what, names in ((STOOD, stood), (ADDED, added), (ADDED, added), (REMOVED, removed)):
        for name in names:
            members.note(name, what)
    for _ in range(2):
        parts = list(members.parts(bits))
        assert [part.shard for part in parts] == sorted(part.shard for part in parts)
        found = [(name, f"{part.shard:04x}") for part in parts for name in part.after]
        assert len(found) == len(dict(found)) == len((stood | added) - removed)
        assert all(shard == shard_of(name, bits) for name, shard in found)
        assert {name for name, _ in found} == (stood | added) - removed


def test_blobs_past_the_bound_lie_in_a_file_that_nobody_sees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    blobs = Blobs(memory_bytes=1_000)
    given = [bytes([number]) * 300 for number in range(20)]
    digests = [blobs.add(data) for data in (*given, *given)]
    assert list(tmp_path.iterdir()) == []
    assert digests == [sha256(data).hexdigest() for data in given] * 2
    assert [blobs[digest] for digest in digests] == given * 2
    assert (len(blobs), list(blobs)) == (20, digests[:20])
    chosen = Chosen(Together({"d": b"D"}, blobs), {"d", digests[3], "none"})
    assert dict(chosen) == {"d": b"D", digests[3]: given[3]}
    with pytest.raises(KeyError):
        chosen[digests[4]]
