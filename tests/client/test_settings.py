"""Reading configuration: layers, copies, changes, and what is said when there is nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgpack
import pytest

from control_plane import KeyNotFoundError, ReplicaUnavailable
from control_plane.configs.merged import leaf_value
from control_plane.configs.settings import ConfigManager
from control_plane.errors import ReplicaBusy, ReplicaCorrupt
from control_plane.replica.format import CONFIG, encode_record, record_key


def test_a_value_is_the_environments_over_the_base(stocked: Any) -> None:
    config = stocked.client().config
    assert config.get("database.url") == "postgresql://db/app"
    assert config.get("database.pool.size") == 50
    assert config.get("database.pool.timeout") == 1.5


def test_a_tenant_has_its_own_values_over_the_environments(stocked: Any) -> None:
    config = stocked.client().config
    assert config.get("database.pool.size", tenant_id="acme") == 80
    assert config.get("database.url", tenant_id="acme") == "postgresql://db/app"
    assert config.get("database.pool.size", tenant_id="nobody") == 50


def test_a_prefix_gives_the_whole_tree_below_it(stocked: Any) -> None:
    config = stocked.client().config
    assert config.get("database.pool") == {"size": 50, "timeout": 1.5}
    assert config.get("database", tenant_id="acme") == {
        "url": "postgresql://db/app",
        "pool": {"size": 80, "timeout": 1.5},
        "hosts": ["a", "b"],
    }


def test_a_tenant_that_replaces_a_mapping_hides_what_was_below_it(node: Any) -> None:
    node.config(
        "ai", {"values": {"model": {"name": "m", "size": 7}}, "tenants": {"t": {"model": "x"}}}
    )
    config = node.client().config
    assert config.get("ai", tenant_id="t") == {"model": "x"}
    assert config.get("ai.model.name", None, tenant_id="t") is None
    assert config.get("ai.model.name") == "m"


def test_a_key_that_holds_a_dot_is_reached_by_a_tuple(node: Any) -> None:
    node.config("ai", {"gpt-4.1": {"tokens": 8, "~": 1}, "gpt-4": {"1": "other"}})
    config = node.client().config
    assert config.get(("ai", "gpt-4.1", "tokens")) == 8
    assert config.get("ai.gpt-4.1") == "other"
    assert config.get(("ai", "gpt-4.1")) == {"tokens": 8, "~": 1}


def test_a_path_longer_than_a_database_key_is_found_alone_and_in_its_tree(node: Any) -> None:
    long = {f"{letter * 300}": {f"{letter * 300}": letter} for letter in "ab"}
    node.config("deep", long)
    config = node.client().config
    assert config.get(("deep", "a" * 300, "a" * 300)) == "a"
    assert config.get(("deep", "b" * 300)) == {"b" * 300: "b"}
    assert config.get("deep") == long


def test_long_paths_that_begin_alike_stay_apart(node: Any) -> None:
    inner = {"b" * 300: {"x": 1}, "b" * 299 + "c": {"y": 2}}
    node.config("deep", {"a" * 300: inner})
    config = node.client().config
    assert config.get(("deep", "a" * 300, "b" * 300)) == {"x": 1}
    assert config.get(("deep", "a" * 300)) == inner


def test_null_is_a_value_and_no_default_stands_for_it(node: Any) -> None:
    node.config("limits", {"ceiling": None, "empty": {}})
    config = node.client().config
    assert config.get("limits.ceiling", 5) is None
    assert config.get("limits.empty", 5) == {}


def test_a_missing_key_names_itself_the_environment_and_the_nearest_keys(stocked: Any) -> None:
    with pytest.raises(KeyNotFoundError) as caught:
        stocked.client().config.get("database.pool.sise")
    assert str(caught.value) == (
        "config database.pool.sise (production): expected a key with a value, found none; "
        "nearest: database.pool.size"
    )
    assert caught.value.key == "database.pool.sise"
    assert caught.value.nearest == ("database.pool.size",)


def test_a_missing_namespace_suggests_the_namespaces_there_are(stocked: Any) -> None:
    with pytest.raises(KeyNotFoundError, match=r"nearest: database\.url"):
        stocked.client().config.get("databse.url")


@pytest.mark.parametrize("asked", ["ai.models.gpt-4.1.tokens", ("ai", "models", "gpt-4.1", "tok")])
def test_a_suggested_key_that_holds_a_dot_is_a_tuple_that_get_takes(node: Any, asked: Any) -> None:
    node.config("ai", {"models": {"gpt-4.1": {"tokens": 8}}})
    config = node.client().config
    with pytest.raises(KeyNotFoundError) as caught:
        config.get(asked)
    assert caught.value.key == asked
    (nearest,) = caught.value.nearest
    assert nearest == ("ai", "models", "gpt-4.1", "tokens")
    assert config.get(nearest) == 8
    assert str(caught.value) == (
        f"config {asked} (production): expected a key with a value, found none; "
        "nearest: ('ai', 'models', 'gpt-4.1', 'tokens')"
    )


def test_a_suggested_key_with_a_tilde_is_spelled_as_in_the_manifest(node: Any) -> None:
    node.config("paths", {"~home": 1})
    config = node.client().config
    with pytest.raises(
        KeyNotFoundError, match=r"config paths\.~hom .*nearest: paths\.~home$"
    ) as caught:
        config.get("paths.~hom")
    assert config.get(caught.value.nearest[0]) == 1


def test_a_default_stands_for_a_missing_key_only(stocked: Any) -> None:
    config = stocked.client().config
    assert config.get("database.nothing", 3) == 3
    assert config.get("database.pool.size", 3) == 50


def test_what_a_caller_changes_is_its_own(stocked: Any) -> None:
    config = stocked.client().config
    config.get("database.pool")["size"] = -1
    config.get("database", tenant_id="acme")["hosts"].append("c")
    assert config.get("database.pool") == {"size": 50, "timeout": 1.5}
    assert config.get("database.hosts", tenant_id="acme") == ["a", "b"]


def test_the_next_call_after_another_process_published_sees_the_change(stocked: Any) -> None:
    config = stocked.client().config
    for size in (1, 2, 3):
        stocked.config("database", {"pool": {"size": size}})
        assert config.get("database.pool.size") == size
    assert config.get("database.url", None) is None


def test_a_change_of_flags_leaves_kept_configuration_alone(stocked: Any) -> None:
    config = stocked.client().config
    kept = config.get("database.url")
    stocked.flag("new_ai_model", False)
    assert config.get("database.url") is kept


def test_a_swapped_folder_is_followed(stocked: Any) -> None:
    config = stocked.client().config
    assert config.get("database.pool.size") == 50
    stocked.write(("with_config", ["database", {"pool": {"size": 9}}]), swap=True)
    assert config.get("database.pool.size") == 9


def test_one_manager_reads_several_environments(stocked: Any) -> None:
    stocked.config("database", {"url": "sqlite://"}, environment="staging")
    config = stocked.client().config
    assert config.get("database.url", environment="staging") == "sqlite://"
    assert config.get("database.url") == "postgresql://db/app"
    assert config.get("database.url", environment="production") == "postgresql://db/app"


def test_load_environment_changes_what_is_read_from_then_on(stocked: Any) -> None:
    stocked.config("database", {"url": "sqlite://"}, environment="staging")
    with ConfigManager(replica=str(stocked.root), environment="production") as config:
        assert config.get("database.url") == "postgresql://db/app"
        config.load_environment("staging")
        assert config.get("database.url") == "sqlite://"
        assert config.environment == "staging"
        assert config.get("database.url", environment="production") == "postgresql://db/app"


def test_a_section_reads_below_its_prefix(stocked: Any) -> None:
    pool = stocked.client().config.section("database").section("pool")
    assert pool.get("size") == 50
    assert pool.get("size", tenant_id="acme") == 80
    with pytest.raises(KeyNotFoundError, match=r"config database.pool.nothing \(production\)"):
        pool.get("nothing")


def test_the_environment_of_the_process_counts_only_when_allowed(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE__DATABASE__URL", "sqlite://")
    monkeypatch.setenv("CONTROL_PLANE__DATABASE__POOL__SIZE", "7")
    place = {"replica": str(stocked.root), "environment": "production"}
    with ConfigManager(**place) as config:
        assert config.get("database.url") == "postgresql://db/app"
    with ConfigManager(**place, allow_environment_overrides=True) as config:
        assert config.get("database.url") == "sqlite://"
        assert config.get("database.pool") == {"size": 7, "timeout": 1.5}
        assert config.get("database.pool.size", tenant_id="acme") == 7


def test_an_override_of_a_number_that_is_none_is_refused_without_its_text(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE__DATABASE__POOL__SIZE", "hunter2")
    place = {"replica": str(stocked.root), "environment": "production"}
    with (
        ConfigManager(**place, allow_environment_overrides=True) as config,
        pytest.raises(ValueError, match="CONTROL_PLANE__DATABASE__POOL__SIZE") as caught,
    ):
        config.get("database.pool.size")
    assert "hunter2" not in str(caught.value)


def test_without_a_replica_a_default_is_given_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ConfigManager(replica=str(tmp_path), environment="production") as config:
        with caplog.at_level(logging.WARNING, logger="control_plane"):
            assert [config.get("database.url", "x") for _ in range(3)] == ["x", "x", "x"]
        assert len(caplog.records) == 1
        with pytest.raises(ReplicaUnavailable, match="start the daemon"):
            config.get("database.url")


def test_a_warning_without_a_replica_is_one_bounded_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forged = tmp_path / "a\nWARNING root: all is well\x1b[2J"
    with caplog.at_level(logging.WARNING, logger="control_plane"):
        for root in (forged, tmp_path / ("d" * 9_999)):
            with ConfigManager(replica=str(root), environment="production") as config:
                assert config.get("database.url", "x") == "x"
    lines = [record.getMessage() for record in caplog.records]
    assert "a\\nWARNING root: all is well\\x1b[2J" in lines[0]
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 1_100 for line in lines)


def test_several_environments_and_none_named_is_an_error_even_with_a_default(
    stocked: Any, without_variables: pytest.MonkeyPatch
) -> None:
    stocked.config("database", {"url": "sqlite://"}, environment="staging")
    with ConfigManager(replica=str(stocked.root)) as config:
        with pytest.raises(ReplicaUnavailable) as caught:
            config.get("database.url", "x")
        assert str(caught.value) == (
            "expected one environment, found production, staging; "
            "set CONTROL_PLANE_ENVIRONMENT or pass environment="
        )
        assert config.get("database.url", environment="staging") == "sqlite://"


@pytest.mark.parametrize("key", [3, (), ("database", 3), None, ["database"]])
def test_a_key_that_is_neither_str_nor_tuple_is_misuse(stocked: Any, key: Any) -> None:
    with pytest.raises(TypeError, match="expected a key as str"):
        stocked.client().config.get(key)


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "database.\ud800", "\ud800.x", "database.\0", ("",), ("database", "\ud800")],
)
def test_a_key_that_no_document_can_hold_has_no_value(stocked: Any, key: Any) -> None:
    client = stocked.client()
    with client.pinned() as held:
        for config in (client.config, held.config):
            assert config.get(key, 5) == 5
            with pytest.raises(KeyNotFoundError):
                config.get(key)
            with pytest.raises(KeyNotFoundError):
                config.origin(key)
            assert dict(config.section(key)) == {}


def test_an_error_for_a_key_is_one_bounded_line(stocked: Any) -> None:
    key = "database.x\nfaked line\x1b[2J" + "y" * 10_000
    with pytest.raises(KeyNotFoundError) as raised:
        stocked.client().config.get(key)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1_000
    assert raised.value.key == key


def test_a_tenant_that_no_replica_can_hold_has_the_base_values(stocked: Any) -> None:
    config = stocked.client().config
    for tenant in ("a\0b", "\ud800", "x" * 2000, ""):
        assert config.get("database.pool.size", tenant_id=tenant) == 50
    with pytest.raises(TypeError, match="expected tenant_id as str"):
        config.get("database.pool.size", tenant_id=3)


def test_tenants_without_number_do_not_fill_the_memory(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.configs.settings.MAX_KEPT_VALUES", 10)
    config = stocked.client().config
    for number in range(50):
        assert config.get("database.pool.size", tenant_id=f"t{number}") == 50
    assert len(config._table) <= 10


def test_large_values_of_tenants_without_number_do_not_fill_the_memory(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.config("prompts", {"all": ["x" * 1_000] * 100})
    monkeypatch.setattr("control_plane.configs.settings.MAX_KEPT_WEIGHT", 1 << 20)
    manager = node.client().config
    for number in range(100):
        assert len(manager.get("prompts.all", tenant_id=f"t{number}")) == 100
        assert manager.get("k" * 100_000 + str(number), None) is None
        assert sum(len(str(kept)) for _, kept in manager._table) < 2 << 20
        assert len(manager._table) <= 11


def test_a_busy_writer_leaves_the_value_read_before(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stocked.client().config
    assert config.get("database.url") == "postgresql://db/app"
    monkeypatch.setattr("control_plane.replica.reader.ROUNDS", 0)
    stocked.config("database", {"url": "new", "user": "u"})
    assert config.get("database.url") == "postgresql://db/app"
    with pytest.raises(ReplicaBusy):
        config.get("database.user")
    monkeypatch.undo()
    stocked.config("database", {"url": "newer"})
    assert config.get("database.url") == "newer"


def test_a_damaged_record_leaves_its_last_good_value_however_often_others_change(
    stocked: Any, damage: Any
) -> None:
    config = stocked.client().config
    assert config.get("database.url") == "postgresql://db/app"
    damage(b"database.url")
    for size in (6, 7):
        stocked.config("queue", {"size": size})
        assert config.get("queue.size") == size
        assert config.get("database.url") == "postgresql://db/app"


def test_a_damaged_record_does_not_stand_in_the_way_of_a_suggestion(
    stocked: Any, damage: Any
) -> None:
    damage(b"database.url")
    with pytest.raises(KeyNotFoundError, match=r"nearest: database\.pool$"):
        stocked.client().config.get("database.poll")


def test_a_tenant_that_no_replica_can_hold_is_not_kept(stocked: Any) -> None:
    config = stocked.client().config
    for tenant in ("a\0b", "\ud800", "x" * 2000, "", None):
        assert config.get("database.pool.size", tenant_id=tenant) == 50
    assert list(config._table) == [(None, "database.pool.size")]


@pytest.mark.parametrize("body", [b"", b"\xc1", msgpack.packb(7), msgpack.packb(["a.b", 1])])
def test_a_record_that_is_no_leaf_is_corrupt(body: bytes) -> None:
    key = record_key(CONFIG, "", "a.b")
    raw = encode_record(key, CONFIG, body, head_generation=1, served_generation=1)
    with pytest.raises(ReplicaCorrupt, match=r"config//a\.b: expected path, value"):
        leaf_value((key,), [raw])


def test_fields_that_later_versions_add_to_a_leaf_do_not_hide_it() -> None:
    key = record_key(CONFIG, "", "a.b")
    body = msgpack.packb(["a.b", 1, "values", 1, False, "later"])
    raw = encode_record(key, CONFIG, body, head_generation=1, served_generation=1)
    assert leaf_value((key,), [raw]) == 1
