"""What accepted entries do to a replica, as a reader finds it."""

from __future__ import annotations

from typing import Any

import msgpack

from control_plane.log.statements import Change, Key
from control_plane.replica.format import (
    AGENT,
    CHANNEL,
    CONFIG,
    DELETED,
    FLAG,
    RESOLUTION,
    SEGMENT,
    SERVED,
    record_key,
)

PILOT = record_key(FLAG, "pilot")


def body(node: Any, key: bytes) -> Any:
    record = node.record(key)
    assert record is not None
    assert record.status == SERVED
    return msgpack.unpackb(record.body)


def test_a_published_flag_is_served_at_its_generation(log: Any, node: Any, flag: Any) -> None:
    generation = log.put(flag(default="on"))
    node.follow()
    assert body(node, PILOT)["m"]["default"] == "on"
    assert node.record(PILOT).served_generation == generation
    assert node.generation == generation == node.follower.position.generation
    assert node.table("heads").keys() == {b"flag\0pilot\0"}


def test_a_kill_stands_beside_the_flag_and_survives_its_next_version(
    log: Any, node: Any, flag: Any
) -> None:
    log.put(flag())
    log.kill("pilot", "off")
    log.put(flag(default="on"))
    node.follow()
    assert body(node, PILOT) == {
        "m": {"variants": {"on": True, "off": False}, "default": "on"},
        "k": {"variant": "off"},
    }
    log.unkill("pilot")
    node.follow()
    assert body(node, PILOT)["k"] is None


def test_a_kill_of_an_unknown_flag_is_a_record_of_its_own(log: Any, node: Any) -> None:
    log.kill("pilot")
    node.follow()
    assert body(node, PILOT) == {"m": None, "k": {"variant": None}}
    log.unkill("pilot")
    node.follow()
    assert node.record(PILOT).status == DELETED
    assert node.record(PILOT).body == b""


def test_a_deleted_flag_leaves_a_tombstone_in_records_and_heads(
    log: Any, node: Any, flag: Any
) -> None:
    log.put(flag())
    generation = log.delete("flag", "pilot")
    node.follow()
    record = node.record(PILOT)
    assert (record.status, record.body, record.head_generation) == (DELETED, b"", generation)
    assert node.table("heads")[b"flag\0pilot\0"] == log.heads[Key("flag", "pilot")].encode()
    assert node.table("blobs") == {}


def test_config_leaves_keep_the_generation_that_last_changed_them(log: Any, node: Any) -> None:
    def config(size: int, url: str = "u") -> dict[str, Any]:
        return {
            "kind": "config", "name": "database",
            "metadata": {
                "values": {"url": url, "pool": {"size": 5}},
                "environments": {"production": {"pool": {"size": size}}},
                "tenants": {"acme": {"pool": {"size": 80}}},
            },
        }  # fmt: skip

    first = log.put(config(50))
    second = log.put(config(60))
    node.follow()
    assert body(node, record_key(CONFIG, "", "database.url")) == [
        "database.url", "u", "values", first,
    ]  # fmt: skip
    assert body(node, record_key(CONFIG, "", "database.pool.size")) == [
        "database.pool.size", 60, "environments.production", second,
    ]  # fmt: skip
    assert body(node, record_key(CONFIG, "acme", "database.pool.size"))[1:] == [
        80, "tenants.acme", first,
    ]  # fmt: skip
    log.delete("config", "database")
    node.follow()
    assert node.records() == {}


def test_a_tenants_own_manifest_is_laid_over_the_base(log: Any, node: Any) -> None:
    log.put(
        {"kind": "config", "name": "limits", "metadata": {"values": {"a": 1, "b": 2}}},
        {"kind": "config", "name": "limits@acme", "metadata": {"values": {"b": 3}}},
    )
    node.follow()
    assert body(node, record_key(CONFIG, "acme", "limits.b"))[1] == 3
    assert node.record(record_key(CONFIG, "acme", "limits.a")) is None
    log.delete("config", "limits@acme")
    node.follow()
    assert node.record(record_key(CONFIG, "acme", "limits.b")) is None
    assert body(node, record_key(CONFIG, "", "limits.b"))[1] == 2


def test_an_agent_is_served_as_its_exact_blob(log: Any, node: Any, agent: Any) -> None:
    change = log.change(agent("crm_tool"))
    log.submit(change)
    log.activate("agent", "support", "1.0.0")
    node.follow()
    record = node.record(record_key(AGENT, "support", "1.0.0"))
    assert record.body == log.blobs[change.digest]
    assert body(node, record_key(CHANNEL, "agent", "support", "stable")) == {"version": "1.0.0"}


def test_a_tool_changes_the_resolutions_that_rest_on_it_in_the_same_generation(
    log: Any, node: Any, agent: Any, tool: Any
) -> None:
    key = record_key(RESOLUTION, "support", "1.0.0")
    log.put(agent("crm_tool>=1.2"))
    node.follow()
    assert "found no version of it" in body(node, key)["crm_tool"]["problem"]
    published = log.put(tool("1.2.0"))
    node.follow()
    assert body(node, key)["crm_tool"]["version"] == "1.2.0"
    assert node.record(key).served_generation == published
    log.put(tool("1.3.0"))
    yank = Change(
        action="status", kind="tool", name="crm_tool", replaces=None, version="1.3.0",
        status="yanked", reason="broken",
    )  # fmt: skip
    log.submit(yank)
    node.follow()
    assert body(node, key)["crm_tool"]["version"] == "1.2.0"
    log.delete("agent", "support", "1.0.0")
    node.follow()
    assert node.record(key) is None


def test_resolutions_are_found_again_after_a_restart(
    log: Any, make_node: Any, agent: Any, tool: Any
) -> None:
    node = make_node()
    log.put(agent("crm_tool"))
    node.follow()
    node = make_node()
    log.put(tool("2.0.0"))
    node.follow()
    found = body(node, record_key(RESOLUTION, "support", "1.0.0"))
    assert found["crm_tool"]["version"] == "2.0.0"


def test_a_segments_shards_are_records_of_their_own(log: Any, node: Any) -> None:
    manifest = {"kind": "segment", "name": "testers", "metadata": {"shards": 0}}
    shard = Change(
        action="put", kind="segment", name="testers", replaces=None, shard="0000",
        digest=log.keep(b'["u1","u2"]'),
    )  # fmt: skip
    log.submit(log.change(manifest), shard)
    node.follow()
    assert body(node, record_key(SEGMENT, "testers")) == {"shards": 0}
    assert len(node.record(record_key(SEGMENT, "testers", "0000")).body) == 32


def test_a_change_set_of_hundreds_is_one_generation(log: Any, node: Any, flag: Any) -> None:
    before = node.follower.position.generation
    generation = log.put(*(flag(f"f{number:03}") for number in range(200)))
    node.follow()
    assert node.generation == generation
    assert generation > before
    assert len(node.records()) == 200


def test_a_change_set_larger_than_memory_allows_becomes_visible_at_once(
    log: Any, node: Any
) -> None:
    leaves = {f"k{number:05}": number for number in range(36_000)}
    config = {"kind": "config", "name": "big", "metadata": {"values": leaves}}
    node.follow()
    before, commits = node.generation, node.follower.commit_count
    seen: list[int] = []
    stage = node.follower._commits._stage
    node.follower._commits._stage = lambda operations: (
        stage(operations), seen.append(node.generation), seen.append(len(node.records())),
    )  # fmt: skip
    generation = log.put(config)
    node.follow()
    assert set(seen) == {before, 0}
    assert node.follower.commit_count - commits > 2
    assert node.generation == generation
    assert len(node.records()) == 36_000
    assert node.table("staging") == {}


def test_a_set_of_250_configs_is_written_once(log: Any, node: Any) -> None:
    leaves = {f"k{number:02}": number for number in range(50)}
    node.follow()
    commits = node.follower.commit_count
    staged: list[Any] = []
    node.follower._commits._stage = staged.append
    generation = log.put(
        *(
            {"kind": "config", "name": f"service_{number:03}", "metadata": {"values": leaves}}
            for number in range(250)
        )
    )
    node.follow()
    assert staged == []
    assert node.follower.commit_count - commits == 1
    assert node.generation == generation
    assert len(node.records()) == 12_500


def test_tenants_values_are_judged_where_they_come_after_their_base(log: Any, node: Any) -> None:
    schema = {"properties": {"size": {"type": "integer"}}}
    base = {"kind": "config", "name": "pool", "metadata": {"schema": schema, "values": {"size": 1}}}
    log.put(base)
    node.follow()
    own = {"kind": "config", "name": "pool@acme", "metadata": {"values": {"size": "big"}}}
    log.put(own)
    node.follow()
    assert list(node.follower.held) == [node.generation]
    assert body(node, record_key(CONFIG, "", "pool.size"))[1] == 1
    assert record_key(CONFIG, "acme", "pool.size") not in node.records()
