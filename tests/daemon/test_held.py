"""Entries this node cannot serve: heads move, values stay, and what heals them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from control_plane.log.canonical import canonical
from control_plane.log.statements import Change, Key
from control_plane.names import CHANGE_KINDS
from control_plane.replica.compile import shard_body
from control_plane.replica.format import (
    AGENT,
    CHANNEL,
    CONFIG,
    FLAG,
    HEAD_HELD,
    NO_VALUE,
    SEGMENT,
    SERVED,
    TOOL,
    record_key,
)
from control_plane.replica.header import CONFIG_REVISION, HELD, REJECTED

PILOT, OTHER = record_key(FLAG, "pilot"), record_key(FLAG, "other")


def lose(log: Any, change: Change) -> bytes:
    """Take a change's blob away from the store."""
    return log.blobs.pop(change.digest)


def default(node: Any, key: bytes) -> str:
    return str(msgpack.unpackb(node.record(key).body)["m"]["default"])


def test_a_missing_blob_holds_all_keys_of_its_set_at_their_last_good_values(
    log: Any, node: Any, flag: Any
) -> None:
    first = log.put(flag(), flag("other"))
    good, bad = log.change(flag(default="on")), log.change(flag("other", default="on"))
    held = log.submit(good, bad)
    lose(log, bad)
    node.follow()
    for key in (PILOT, OTHER):
        record = node.record(key)
        assert default(node, key) == "off"
        assert (record.status, record.head_generation) == (HEAD_HELD, held)
        assert record.served_generation == first
    assert node.table("heads")[b"flag\0pilot\0"] == log.heads[Key("flag", "pilot")].encode()
    assert node.follower.held[held].missing == {Key("flag", "other"): bad.digest}
    assert node.state & HELD
    assert node.generation == held


def test_a_held_set_is_served_whole_when_its_blob_arrives(log: Any, node: Any, flag: Any) -> None:
    bad = log.change(flag("other", default="on"))
    held = log.submit(log.change(flag(default="on")), bad)
    blob = lose(log, bad)
    node.follow()
    assert node.record(PILOT).status == NO_VALUE
    assert node.record(PILOT).body == b""
    revision = node.word(CONFIG_REVISION)
    assert node.follower.held_missing() == (bad.digest,)
    assert node.follower.heal({bad.digest: b"other bytes"}) == 0
    assert node.follower.heal({bad.digest: blob}) == 1
    assert default(node, PILOT) == default(node, OTHER) == "on"
    assert node.record(OTHER).served_generation == held
    assert node.table("held") == {}
    assert not [key for key in node.table("blobs") if key.startswith(b"held")]
    assert not node.state & HELD
    # A heal is told to every class of readers.
    assert node.word(CONFIG_REVISION) > revision


def test_a_kill_works_on_the_last_good_flag_and_the_next_good_change_heals(
    log: Any, node: Any, flag: Any
) -> None:
    log.put(flag())
    bad = log.change(flag())
    log.blobs[log.keep(b'{"kind":"flag"}')] = b'{"kind":"flag"}'
    log.submit(Change(**{**_fields(bad), "digest": log.keep(b'{"kind":"flag"}')}))
    node.follow()
    assert node.record(PILOT).status == HEAD_HELD
    killed = log.kill("pilot", "off")
    node.follow()
    record = node.record(PILOT)
    assert msgpack.unpackb(record.body)["k"] == {"variant": "off"}
    assert default(node, PILOT) == "off"
    assert (record.status, record.head_generation) == (HEAD_HELD, killed)
    log.put(flag(default="on"))
    node.follow()
    assert node.record(PILOT).status == SERVED
    assert default(node, PILOT) == "on"
    assert msgpack.unpackb(node.record(PILOT).body)["k"] == {"variant": "off"}
    assert not node.follower.held


def _fields(change: Change) -> dict[str, Any]:
    return {name: getattr(change, name) for name in type(change).__dataclass_fields__}


def test_an_older_held_entry_never_overwrites_a_newer_head(log: Any, node: Any, flag: Any) -> None:
    bad, other = log.change(flag(default="on")), log.change(flag("other", default="on"))
    held = log.submit(bad, other)
    blob, second = lose(log, bad), lose(log, other)
    node.follow()
    log.put(flag())
    node.follow()
    assert [key.name for key in node.follower.held[held].keys] == ["other"]
    assert node.follower.held_missing() == (other.digest,)
    assert node.follower.heal({bad.digest: blob, other.digest: second}) == 1
    assert default(node, PILOT) == "off"
    assert default(node, OTHER) == "on"


def test_blobs_that_never_come_do_not_keep_others_from_being_asked_for(
    log: Any, node: Any, flag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_daemon.healing.ASKED_AT_ONCE", 2)
    lost = [log.change(flag(f"f{number}", default="on")) for number in range(5)]
    for change in lost:
        log.submit(change)
        lose(log, change)
    node.follow()
    asked = [node.follower.held_missing() for _ in range(3)]
    assert all(len(digests) == 2 for digests in asked)
    assert {digest for digests in asked for digest in digests} == {each.digest for each in lost}


def test_held_entries_are_tried_again_at_a_start(
    log: Any, make_node: Any, flag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import control_plane_daemon.entries as entries

    node = make_node()
    log.put(flag())
    with monkeypatch.context() as older:
        # An older daemon that does not understand the document.
        older.setattr(entries, "validate_blob", _refuse)
        node.follow()
    assert node.record(PILOT).status == NO_VALUE
    node = make_node()
    assert len(node.follower.held) == 1
    assert node.follower.heal({}) == 1
    assert node.record(PILOT).status == SERVED


def _refuse(*_: object, **__: object) -> Any:
    from control_plane.errors import ManifestInvalid

    raise ManifestInvalid("expected fields this version knows, found others")


def test_a_channel_is_not_moved_to_a_held_version_until_it_heals(
    log: Any, node: Any, agent: Any
) -> None:
    change = log.change(agent())
    log.submit(change)
    blob = lose(log, change)
    log.activate("agent", "support", "1.0.0")
    node.follow()
    stable = record_key(CHANNEL, "agent", "support", "stable")
    assert node.record(stable).status == NO_VALUE
    assert len(node.follower.held) == 2
    assert node.follower.heal({change.digest: blob}) == 2
    assert node.record(stable).status == SERVED
    assert node.record(record_key(AGENT, "support", "1.0.0")).body == blob


def test_an_agent_without_its_owners_signature_is_held(log: Any, node: Any, agent: Any) -> None:
    from control_plane.manifests.documents import blob, checksum

    document = {**agent(), "checksum_sha256": checksum(agent())}
    change = Change(
        action="put", kind="agent", name="support", replaces=None, version="1.0.0",
        digest=log.keep(blob(document)), checksum=checksum(agent()),
    )  # fmt: skip
    held = log.submit(change)
    node.follow()
    assert "expected the owner's signature, found none" in node.follower.held[held].reason
    assert node.record(record_key(AGENT, "support", "1.0.0")).status == NO_VALUE


def test_an_unknown_kind_is_held_and_its_head_moves(
    log: Any, node: Any, flag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import control_plane.log.statements as statements

    known = Change(action="put", kind="experiment", name="x", replaces=None, digest="0" * 64)
    with monkeypatch.context() as newer:
        newer.setattr(statements, "CHANGE_KINDS", (*CHANGE_KINDS, "experiment"))
        newer.setattr(statements, "_check_change", lambda change: None)
        held = log.submit(log.change(flag()), known)
    node.follow()
    assert "expected a change this version knows" in node.follower.held[held].reason
    assert b"experiment\0x\0" in node.table("heads")
    assert node.record(PILOT).status == NO_VALUE


def test_a_config_that_breaks_its_tenants_schema_leaves_every_leaf_alone(
    log: Any, node: Any
) -> None:
    schema = {"type": "object", "properties": {"size": {"type": "number"}}}
    log.put({"kind": "config", "name": "c", "metadata": {"schema": schema, "values": {"size": 1}}})
    held = log.put({"kind": "config", "name": "c@acme", "metadata": {"values": {"size": "big"}}})
    node.follow()
    before = node.records()
    assert list(node.follower.held) == [held]
    assert msgpack.unpackb(node.record(record_key(CONFIG, "", "c.size")).body)[1] == 1
    log.put({"kind": "config", "name": "c@acme", "metadata": {"values": {"size": 2}}})
    node.follow()
    assert not node.follower.held
    assert set(node.records()) - set(before) == {record_key(CONFIG, "acme", "c.size")}


def test_a_late_node_skips_superseded_blobs_without_alarm(
    log: Any, make_node: Any, flag: Any
) -> None:
    first = log.change(flag())
    log.submit(first, log.change(flag("other")))
    log.put(flag(default="on"))
    lose(log, first)
    log.deleted.add(first.digest)
    for name, limit in (("whole", 100), ("in parts", 1)):
        node = make_node(name)
        node.follow(limit, blobs=False)
        assert default(node, PILOT) == "on"
        assert default(node, OTHER) == "off"
        assert not node.follower.held
        assert not node.state & HELD
    assert first.digest not in make_node("asking").asked


def test_an_entry_that_replaces_another_generation_takes_no_value_away(
    log: Any, node: Any, flag: Any
) -> None:
    log.put(flag())
    stale = Change(action="delete", kind="flag", name="pilot", replaces=7)
    log.submit_as_is(stale)
    node.follow(blobs=False)
    assert default(node, PILOT) == "off"
    assert not node.follower.held
    assert node.state & REJECTED


def test_a_head_whose_blob_the_store_calls_superseded_is_held(
    log: Any, node: Any, flag: Any
) -> None:
    change = log.change(flag())
    held = log.submit(change)
    blob = lose(log, change)
    log.deleted.add(change.digest)
    node.follow(blobs=False)
    assert node.record(PILOT).status == NO_VALUE
    assert node.state & HELD
    assert node.follower.held[held].missing
    assert node.follower.heal({change.digest: blob}) == 1
    assert default(node, PILOT) == "off"


def test_a_flag_that_heals_after_a_newer_kill_keeps_the_kills_generation(
    log: Any, node: Any, flag: Any
) -> None:
    change = log.change(flag())
    log.submit(change)
    blob = lose(log, change)
    killed = log.kill("pilot")
    node.follow()
    assert msgpack.unpackb(node.record(PILOT).body)["m"] is None
    assert node.follower.heal({change.digest: blob}) == 1
    record = node.record(PILOT)
    assert msgpack.unpackb(record.body)["k"] == {"variant": None}
    assert default(node, PILOT) == "off"
    assert (record.head_generation, record.served_generation) == (killed, killed)


def test_a_channel_moves_to_a_version_whose_first_blob_was_skipped(
    log: Any, node: Any, agent: Any
) -> None:
    first = log.change(agent())
    log.submit(first)
    lose(log, first)
    log.deleted.add(first.digest)
    log.activate("agent", "support", "1.0.0")
    again = log.change(agent(), author="second")
    log.submit(again)
    node.follow(1, blobs=False)
    assert node.record(record_key(CHANNEL, "agent", "support", "stable")).status == SERVED
    assert node.record(record_key(AGENT, "support", "1.0.0")).body == log.blobs[again.digest]
    assert not node.follower.held


def test_blobs_that_arrive_one_by_one_are_kept_until_the_set_is_whole(
    log: Any, make_node: Any, flag: Any
) -> None:
    node = make_node()
    changes = [log.change(flag(name)) for name in ("pilot", "other")]
    held = log.submit(*changes)
    blobs = {change.digest: lose(log, change) for change in changes}
    node.follow()
    first, second = blobs
    assert node.follower.heal({first: blobs[first]}) == 0
    node = make_node()
    assert list(node.follower.held[held].missing.values()) == [second]
    assert node.follower.heal({second: blobs[second]}) == 1
    assert default(node, PILOT) == default(node, OTHER) == "off"


BAD_BLOBS = {
    "outside the schema": lambda flag: {**flag, "metadata": {**flag["metadata"], "colour": "red"}},
    "too large": lambda flag: {**flag, "changelog": "x" * (1 << 20)},
    "another name": lambda flag: {**flag, "name": "another"},
    "a weight too many": lambda flag: {
        **flag,
        "metadata": {
            **flag["metadata"],
            "rules": [{"name": "r", "serve": [{"variant": "on", "weight": 2**31}] * 2}],
        },
    },
}


@pytest.mark.parametrize("bad", BAD_BLOBS)
def test_a_document_that_no_author_should_have_sent_is_held(
    log: Any, node: Any, flag: Any, bad: str
) -> None:
    log.put(flag())
    node.follow()
    body = node.record(PILOT).body
    change = log.change(BAD_BLOBS[bad](flag(default="on")))
    held = log.submit(replace(change, name="pilot"))
    node.follow()
    assert node.record(PILOT).body == body
    assert node.record(PILOT).status == HEAD_HELD
    assert list(node.follower.held) == [held]
    log.put(flag(default="on"))
    node.follow()
    assert not node.follower.held
    assert default(node, PILOT) == "on"


def test_a_tool_whose_blob_has_another_checksum_is_held(log: Any, node: Any, tool: Any) -> None:
    change = log.change(tool("1.0.0"))
    held = log.submit(replace(change, checksum="ab" * 32))
    node.follow()
    assert node.record(record_key(TOOL, "crm_tool", "1.0.0")).status == NO_VALUE
    assert "checksum" in node.follower.held[held].reason


def shard(log: Any, index: int, *members: str, action: str = "put") -> Change:
    """A change of one shard of the segment ``testers``."""
    digest = log.keep(canonical(sorted(members))) if action == "put" else None
    return Change(
        action=action, kind="segment", name="testers", replaces=None, shard=f"{index:04x}",
        digest=digest,
    )  # fmt: skip


def sharded(log: Any, bits: int) -> Change:
    document = {"kind": "segment", "name": "testers", "metadata": {"shards": bits}}
    change: Change = log.change(document)
    return change


@pytest.mark.parametrize("sets", ["manifest alone", "one shard short", "inline", "a shard deleted"])
def test_a_segment_whose_shards_would_not_fit_its_manifest_is_held(
    log: Any, node: Any, sets: str
) -> None:
    log.submit(sharded(log, 1), shard(log, 0, "ann"), shard(log, 1, "bob"))
    node.follow()
    before = {key: node.record(key).body for key in TESTERS}
    inline = {"kind": "segment", "name": "testers", "metadata": {"members": ["ann"]}}
    changes = {
        "manifest alone": [sharded(log, 2)],
        "one shard short": [sharded(log, 2), *(shard(log, index) for index in range(3))],
        "inline": [log.change(inline)],
        "a shard deleted": [shard(log, 1, action="delete")],
    }
    held = log.submit(*changes[sets])
    node.follow()
    assert list(node.follower.held) == [held]
    assert "expected" in node.follower.held[held].reason
    assert {key: node.record(key).body for key in TESTERS} == before


def test_a_segment_changes_its_shards_whole(log: Any, node: Any) -> None:
    log.submit(sharded(log, 1), shard(log, 0, "ann"), shard(log, 1, "bob"))
    log.submit(sharded(log, 2), *(shard(log, index, f"m{index}") for index in range(4)))
    log.submit(sharded(log, 0), shard(log, 0, "all"), *(
        shard(log, index, action="delete") for index in range(1, 4)
    ))  # fmt: skip
    node.follow()
    assert not node.follower.held
    assert msgpack.unpackb(node.record(TESTERS[0]).body) == {"shards": 0}
    assert node.record(TESTERS[1]).body == shard_body(canonical(["all"]))
    assert node.record(TESTERS[2]).body == b""


def test_a_late_node_follows_a_segment_whose_older_manifest_it_never_saw(
    log: Any, node: Any
) -> None:
    first = sharded(log, 1)
    log.submit(first, shard(log, 0, "ann"), shard(log, 1, "bob"))
    log.submit(sharded(log, 2), *(shard(log, index, f"m{index}") for index in range(4)))
    lose(log, first)
    log.deleted.add(first.digest)
    node.follow()
    assert not node.follower.held
    assert msgpack.unpackb(node.record(TESTERS[0]).body) == {"shards": 2}


TESTERS = (
    record_key(SEGMENT, "testers"),
    record_key(SEGMENT, "testers", "0000"),
    record_key(SEGMENT, "testers", "0001"),
)
