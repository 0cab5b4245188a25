"""What a node makes of configuration: references, leaves it cannot make out, and who said what."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

from control_plane.client import ControlPlaneClient
from control_plane.configs.settings import ConfigManager
from control_plane.errors import ViewExpired
from control_plane.replica.authorship import PREFIX, change_key
from control_plane.replica.format import CONFIG, HEAD_HELD, NO_VALUE, SERVED, record_key


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


def leaf(node: Any, path: str, tenant: str = "") -> Any:
    return msgpack.unpackb(node.record(record_key(CONFIG, tenant, path)).body)


def key_id(log: Any) -> str:
    return str(log.trust.signers["author"].public_key.keyid)


def status(node: Any, path: str, tenant: str = "") -> int:
    return int(node.record(record_key(CONFIG, tenant, path)).status)


@contextmanager
def reading(node: Any) -> Iterator[ConfigManager]:
    """The configuration as an application reads it; a writer's own process cannot meanwhile."""
    node.close()
    with ConfigManager(replica=str(node.folder.parent), environment="production") as manager:
        yield manager


def changes(node: Any) -> dict[int, Any]:
    """What the replica keeps of the changes that leaves name, by generation."""
    return {
        int.from_bytes(key[len(PREFIX) :], "big"): msgpack.unpackb(data)
        for key, data in node.table("blobs").items()
        if key.startswith(PREFIX)
    }


def test_a_change_reaches_the_leaves_of_all_who_refer_to_it(log: Any, node: Any) -> None:
    first = log.put(
        config("hosts", values={"db": "a", "other": 1}),
        config("app", values={"url": "pg://${hosts.db}", "n": 1}),
        config("front", values={"at": "${app.url}/x"}),
    )
    node.follow()
    second = log.put(config("hosts", values={"db": "b", "other": 1}))
    node.follow()
    assert leaf(node, "app.url") == ["app.url", "pg://b", "values", second, False, ["hosts.db"]]
    assert leaf(node, "front.at")[1:4] == ["pg://b/x", "values", second]
    assert leaf(node, "app.n") == ["app.n", 1, "values", first]
    third = log.put(config("hosts@acme", values={"db": "c"}))
    node.follow()
    assert leaf(node, "front.at", "acme")[1:4] == ["pg://c/x", "values", third]
    log.delete("config", "hosts@acme")
    node.follow()
    assert node.record(record_key(CONFIG, "acme", "front.at")) is None


def test_a_node_that_starts_again_still_knows_who_refers_to_whom(log: Any, make_node: Any) -> None:
    log.put(config("hosts", values={"db": "a"}), config("app", values={"url": "${hosts.db}"}))
    node = make_node("one")
    node.follow()
    node.close()
    again = make_node("one")
    log.put(config("hosts", values={"db": "b"}))
    again.follow()
    assert leaf(again, "app.url")[1] == "b"


def test_a_leaf_whose_reference_leads_nowhere_keeps_its_last_good_value(
    log: Any, node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log.put(config("hosts", values={"db": "a"}), config("app", values={"url": "${hosts.db}"}))
    node.follow()
    with caplog.at_level(logging.WARNING):
        gone = log.put(config("hosts", values={"main": "b"}))
        log.put(config("late", values={"url": "${hosts.db}", "n": 1}))
        node.follow()
    assert not node.follower.held
    assert (leaf(node, "app.url")[1], status(node, "app.url")) == ("a", HEAD_HELD)
    assert node.record(record_key(CONFIG, "", "app.url")).head_generation == gone
    assert (status(node, "late.url"), leaf(node, "late.n")[1]) == (NO_VALUE, 1)
    assert leaf(node, "hosts.main")[1] == "b"
    assert (
        "last good value stays: config/app: for production: expected a value at hosts.db to refer"
        " to, found none at metadata.values.url" in caplog.text
    )
    with reading(node) as manager:
        assert (manager.get("app.url"), manager.get("late.url", 0)) == ("a", 0)
        assert manager.origin("app.url").held


def test_a_leaf_that_was_not_made_out_is_served_as_soon_as_it_can_be(log: Any, node: Any) -> None:
    log.put(config("hosts", values={"db": "a"}), config("app", values={"url": "${hosts.db}"}))
    log.put(config("hosts", values={"main": "b"}))
    log.put(config("late", values={"url": "${hosts.db}"}))
    node.follow()
    log.put(config("hosts", values={"db": "c"}))
    node.follow()
    assert (leaf(node, "app.url")[1], status(node, "app.url")) == ("c", SERVED)
    assert (leaf(node, "late.url")[1], status(node, "late.url")) == ("c", SERVED)


def test_namespaces_that_refer_to_each_other_are_served_by_a_node_that_comes_late(
    log: Any, make_node: Any
) -> None:
    first = log.change(config("a", values={"k": 1}))
    log.submit(first)
    log.put(config("b", values={"x": 1, "y": "${a.k}"}))
    log.put(config("a", values={"k": 2, "j": "${b.x}"}))
    log.deleted.add(first.digest)
    late = make_node("late")
    late.follow(blobs=False)
    assert not late.follower.held
    assert [leaf(late, path)[1] for path in ("a.j", "a.k", "b.x", "b.y")] == [1, 2, 1, 2]
    assert all(status(late, path) == SERVED for path in ("a.j", "b.y"))


def test_a_value_that_breaks_the_schema_of_who_refers_to_it_is_held(log: Any, node: Any) -> None:
    schema = {"properties": {"size": {"maximum": 9}}}
    log.put(
        config("limits", values={"size": 5}),
        config("app", schema=schema, values={"size": "${limits.size}"}),
    )
    held = log.put(config("limits", values={"size": 50}))
    node.follow()
    assert list(node.follower.held) == [held]
    reason = node.follower.held[held].reason
    assert "config/app: for production: expected at most 9, found 50" in reason
    assert 'it is what "${limits.size}" gives' in reason
    assert (leaf(node, "limits.size")[1], leaf(node, "app.size")[1]) == (5, 5)
    log.put(config("app", values={"size": "${limits.size}"}))
    node.follow()
    assert not node.follower.held
    assert (leaf(node, "limits.size")[1], leaf(node, "app.size")[1]) == (50, 50)


def test_what_the_log_says_of_a_change_is_kept_once_for_as_long_as_a_leaf_names_it(
    log: Any, node: Any
) -> None:
    values = {f"k{number}": 1 for number in range(50)}
    first = log.put(config("app", values=values))
    node.follow()
    key_ids = [key_id(log)]
    assert changes(node) == {first: [50, log.clock.ms, "apply", key_ids, "a test"]}
    second = log.put(config("app", values={**values, "k0": 2, "new": 1}))
    third = log.put(config("app@acme", values={"k1": 5}))
    node.follow()
    counts = {generation: kept[0] for generation, kept in changes(node).items()}
    assert counts == {first: 49, second: 2, third: 1}
    log.delete("config", "app@acme")
    log.put(config("app", values={"k0": 2}))
    node.follow()
    assert {generation: kept[0] for generation, kept in changes(node).items()} == {second: 1}
    log.delete("config", "app")
    node.follow()
    assert node.table("blobs") == {}
    assert node.records() == {}


def test_a_held_entry_that_heals_tells_its_own_author(log: Any, node: Any) -> None:
    change = log.change(config("app", values={"k": 1}))
    blob = log.blobs.pop(change.digest)
    held = log.submit(change)
    log.put(config("other", values={"k": 1}))
    node.follow()
    assert list(node.follower.held) == [held]
    log.blobs[change.digest] = blob
    node.follower.heal({change.digest: blob})
    node.follow()
    assert changes(node)[held][2:] == ["apply", [key_id(log)], "a test"]


def test_origin_tells_layer_manifest_author_generation_and_reason(log: Any, node: Any) -> None:
    first = log.put(
        config("hosts", values={"db": "a"}),
        config(
            "app",
            schema={"properties": {"max": {"default": 3}}},
            values={"url": "pg://${hosts.db}", "gpt-4.1": {"size": 1}},
            environments={"production": {"pool": 1}},
            tenants={"acme": {"pool": 2}},
        ),
    )
    second = log.put(config("app@globex", values={"pool": 3}))
    node.follow()
    with reading(node) as manager:
        origin = manager.origin("app.url")
        author = key_id(log)
        assert (origin.key, origin.layer, origin.manifest) == ("app.url", "values", "config/app")
        assert (origin.generation, origin.reason, origin.verb) == (first, "a test", "apply")
        assert (origin.key_ids, origin.sequenced_at) == ((author,), log.clock.ms)
        assert (origin.references, origin.environment, origin.held) == (
            ("hosts.db",), "production", False,
        )  # fmt: skip
        found = {
            tenant: (each.layer, each.manifest, each.generation)
            for tenant in (None, "acme", "globex", "unknown")
            for each in [manager.origin("app.pool", tenant_id=tenant)]
        }
        assert found == {
            None: ("environments.production", "config/app", first),
            "acme": ("tenants.acme", "config/app", first),
            "globex": ("app@globex", "config/app@globex", second),
            "unknown": ("environments.production", "config/app", first),
        }
        assert manager.origin("app.max").layer == "default"
        assert manager.origin(("app", "gpt-4.1", "size")).key == ("app", "gpt-4.1", "size")
        with pytest.raises(KeyError, match=r"expected the key of one value, found a mapping"):
            manager.origin("app")
        with pytest.raises(KeyError, match=r"expected a key with a value, found none; nearest:"):
            manager.origin("app.urls")


def test_a_pinned_view_tells_origin_as_the_manager_does(log: Any, node: Any) -> None:
    generation = log.put(config("app", values={"k": 1}))
    node.follow()
    node.close()
    with ControlPlaneClient(str(node.folder.parent), "production") as client:
        with client.pinned() as held:
            origin = held.config.origin("app.k")
            assert (origin.generation, origin.reason) == (generation, "a test")
            assert origin.key_ids == (key_id(log),)
            with pytest.raises(ValueError, match="expected environment production, found staging"):
                held.config.origin("app.k", "staging")
            with pytest.raises(KeyError, match="found a mapping"):
                held.config.origin("app")
            kept = held.config
        with pytest.raises(ViewExpired):
            kept.origin("app.k")


def test_a_replica_whose_writer_kept_no_changes_tells_layer_and_generation(
    log: Any, node: Any
) -> None:
    generation = log.put(config("app", values={"k": 1}))
    node.follow()
    with node.writer.write() as transaction:
        for kept in changes(node):
            transaction.blobs.delete(change_key(kept))
    with reading(node) as manager:
        origin = manager.origin("app.k")
    assert (origin.layer, origin.generation, origin.reason) == ("values", generation, None)
    assert origin.key_ids == ()
