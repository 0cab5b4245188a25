"""Sections and snapshots: mappings of one generation that nobody can change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from control_plane.configs.settings import ConfigManager
from control_plane.errors import KeyNotFoundError, ReplicaUnavailable
from control_plane.testing import ReplicaKit, replica

VALUES = {"url": "sqlite://", "pool": {"size": 5, "hosts": ["a"]}}
TENANTS = {"acme": {"pool": {"size": 80}}}


@pytest.fixture
def kit() -> Any:
    with replica(config={"database": {"values": VALUES, "tenants": TENANTS}}) as kit:
        yield kit


def test_a_section_is_a_nested_read_only_mapping(kit: ReplicaKit) -> None:
    section = kit.config.section("database")
    assert isinstance(section, Mapping)
    assert isinstance(section["pool"], Mapping)
    assert (list(section), len(section), "url" in section) == (["pool", "url"], 2, True)
    assert section["pool"]["size"] == 5
    assert section == VALUES
    for mapping in (section, section["pool"]):
        with pytest.raises(TypeError, match="does not support item assignment"):
            mapping["size"] = 1  # type: ignore[index]
    section["pool"]["hosts"].append("b")
    assert section["pool"]["hosts"] == ["a"]


def test_a_section_is_read_at_its_first_use_and_then_stays(kit: ReplicaKit) -> None:
    early, late = kit.config.section("database"), kit.config.section("database")
    assert early["url"] == "sqlite://"
    kit.set_config("database", {"url": "new", "added": 1})
    assert (early["url"], early.get("pool.size"), late["url"]) == ("sqlite://", 5, "new")
    with pytest.raises(KeyNotFoundError, match="when the section was first used"):
        early.get("added")
    assert early.get("added", 2) == 2
    with pytest.raises(KeyError):
        early["added"]
    assert kit.config.section("database")["added"] == 1


def test_a_section_may_be_of_a_tenant(kit: ReplicaKit) -> None:
    assert kit.config.section("database", "acme")["pool"]["size"] == 80
    assert kit.config.section("database", "acme").section("pool")["size"] == 80
    assert kit.config.section("database").get("pool.size", tenant_id="acme") == 80


def test_a_section_of_nothing_is_empty_and_of_a_value_too(kit: ReplicaKit) -> None:
    assert dict(kit.config.section("nothing")) == {}
    assert dict(kit.config.section("database.url")) == {}


def test_a_snapshot_is_everything_of_one_generation(kit: ReplicaKit) -> None:
    generation = kit.set_config("limits", {"a.b": 1, "empty": {}})
    snapshot = kit.config.snapshot()
    kit.set_config("limits", {"a.b": 2})
    assert (snapshot.generation, snapshot.environment) == (generation, "test")
    assert snapshot == {"database": VALUES, "limits": {"a.b": 1, "empty": {}}}
    assert kit.config.snapshot(tenant_id="acme")["database"]["pool"]["size"] == 80
    assert kit.config.snapshot("database.pool").as_dict() == {"size": 5, "hosts": ["a"]}


def test_a_plain_copy_is_the_callers_own(kit: ReplicaKit) -> None:
    snapshot = kit.config.snapshot()
    snapshot.as_dict()["database"]["pool"]["size"] = -1
    assert snapshot["database"]["pool"]["size"] == 5


def test_a_snapshot_has_the_process_overrides(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE__DATABASE__POOL__SIZE", "9")
    with ConfigManager(
        replica=kit.replica, environment="test", allow_environment_overrides=True
    ) as config:
        assert config.snapshot()["database"]["pool"]["size"] == 9
        assert config.section("database")["pool"]["size"] == 9
        assert config.origin("database.pool.size").variable == "CONTROL_PLANE__DATABASE__POOL__SIZE"


def test_without_a_replica_there_is_no_snapshot_and_no_section(tmp_path: Any) -> None:
    with ConfigManager(replica=tmp_path, environment="test") as config:
        section = config.section("database")
        for read in (config.snapshot, lambda: dict(section), lambda: section.get("url")):
            with pytest.raises(ReplicaUnavailable):
                read()
        assert section.get("url", "given") == "given"


def test_representations_hold_no_value(kit: ReplicaKit) -> None:
    section = kit.config.section("database")
    assert [repr(section), repr(section["pool"]), repr(kit.config.snapshot())] == [
        "<Section of database>",
        "<Values of 2 keys>",
        "<Snapshot of 1 keys>",
    ]
