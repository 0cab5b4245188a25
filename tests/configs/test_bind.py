"""A binding holds one instance of one generation, replaced as a whole or not at all."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import pydantic
import pytest

from control_plane.configs.settings import ConfigManager
from control_plane.errors import KeyNotFoundError, ReplicaBusy, ReplicaUnavailable, SettingsInvalid
from control_plane.testing import ReplicaKit, replica


@dataclass(frozen=True)
class Pool:
    size: int
    timeout: float = 1.5


@dataclass(frozen=True)
class Database:
    url: str
    pool: Pool
    hosts: list[str] = field(default_factory=list)


class PydanticPool(pydantic.BaseModel):
    size: int
    timeout: float = 1.5


class PydanticDatabase(pydantic.BaseModel):
    url: str
    pool: PydanticPool
    hosts: list[str] = []


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    url: str
    pool: PydanticPool


MODELS: list[type[Any]] = [Database, PydanticDatabase, PydanticDataclass]
VALUES = {"url": "sqlite://", "pool": {"size": 5}}
TENANTS = {"acme": {"pool": {"size": 80}}}


@pytest.fixture
def kit() -> Any:
    with replica(config={"database": {"values": VALUES, "tenants": TENANTS}}) as kit:
        yield kit


@pytest.mark.parametrize("model", MODELS)
def test_an_instance_is_made_of_the_merged_values(kit: ReplicaKit, model: type[Any]) -> None:
    base = kit.config.bind(model, "database").value
    acme = kit.config.bind(model, "database", tenant_id="acme").value
    assert (type(base), base.url, base.pool.size, base.pool.timeout) == (model, "sqlite://", 5, 1.5)
    assert acme.pool.size == 80


@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_same_object_until_its_values_change(kit: ReplicaKit, model: type[Any]) -> None:
    binding = kit.config.bind(model, "database")
    before = binding.value
    kit.set_config("other", {"a": 1})
    assert binding.value is before
    generation = kit.set_config("database", {**VALUES, "url": "new"})
    after = binding()
    assert (after.url, before.url, binding.generation) == ("new", "sqlite://", generation)
    assert binding() is after


@pytest.mark.parametrize("model", MODELS)
def test_values_that_do_not_fit_leave_the_last_good_ones_and_are_reported_once(
    kit: ReplicaKit, model: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    binding = kit.config.bind(model, "database")
    good, generation = binding.value, binding.generation
    kit.set_config("database", {"url": "new", "pool": {"size": "many"}})
    kit.set_config("other", {"a": 1})
    assert [binding.value is good for _ in range(3)] == [True] * 3
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "config database.pool.size (test): expected a" in message
    assert "found text; the last good values stay" in message
    assert (binding.generation, str(binding.error) in message) == (generation, True)
    kit.set_config("database", {"url": "new", "pool": {"size": 7}})
    assert (binding.value.pool.size, binding.error) == (7, None)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("model", MODELS)
def test_the_first_values_must_fit(kit: ReplicaKit, model: type[Any]) -> None:
    kit.set_config("database", {"url": "secret"})
    with pytest.raises(SettingsInvalid) as refused:
        kit.config.bind(model, "database")
    message = "config database.pool (test): expected a value, found none"
    assert (str(refused.value), refused.value.path) == (message, ("database", "pool"))


def test_pydantic_tells_how_many_more_values_do_not_fit_and_no_value(kit: ReplicaKit) -> None:
    kit.set_config("database", {"url": 1, "pool": {"size": "hunter2"}})
    with pytest.raises(SettingsInvalid, match=r"config database.url .*; and 1 more$") as refused:
        kit.config.bind(PydanticDatabase, "database")
    assert "hunter2" not in str(refused.value)


def test_nothing_below_the_prefix_is_refused_and_later_leaves_the_last_good(
    kit: ReplicaKit, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyNotFoundError, match="nearest: database"):
        kit.config.bind(Database, "databse")
    binding = kit.config.bind(Database, "database")
    kit.set_config("database", None)
    assert binding.value.url == "sqlite://"
    assert str(binding.error) == "config database (test): expected values, found none"
    assert len(caplog.records) == 1


def test_without_a_prefix_the_fields_are_namespaces(kit: ReplicaKit) -> None:
    @dataclass
    class Everything:
        database: dict[str, Any]
        other: dict[str, Any] | None = None

    binding = kit.config.bind(Everything)
    assert binding.value.database == VALUES
    kit.set_config("other", {"a": 1})
    assert binding.value.other == {"a": 1}


def test_process_overrides_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROL_PLANE__DATABASE__POOL__SIZE", "9")
    with (
        replica(config={"database": VALUES}) as kit,
        ConfigManager(
            replica=kit.replica, environment="test", allow_environment_overrides=True
        ) as config,
    ):
        assert config.bind(Database, "database").value.pool.size == 9


def test_what_is_no_dataclass_and_no_model_is_refused(kit: ReplicaKit) -> None:
    for model in (dict, Database("", Pool(1)), "Database"):
        with pytest.raises(TypeError, match="expected a dataclass or a pydantic model"):
            kit.config.bind(model, "database")  # type: ignore[arg-type]


def test_without_a_replica_there_is_no_first_instance(tmp_path: Any) -> None:
    with (
        ConfigManager(replica=tmp_path, environment="test") as config,
        pytest.raises(ReplicaUnavailable),
    ):
        config.bind(Database, "database")


def test_values_that_cannot_be_read_leave_the_last_good_and_are_reported_once(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    binding = kit.config.bind(Database, "database")
    kit.set_config("database", {"url": "new", "pool": {"size": "many"}})
    assert isinstance(binding.error, SettingsInvalid)

    def busy(*_: object) -> object:
        raise ReplicaBusy("the writer moves")

    with monkeypatch.context() as moving:
        moving.setattr("control_plane.configs.binding.merged_value", busy)
        kit.set_config("database", {"url": "new", "pool": {"size": 7}})
        assert [binding.value.url for _ in range(3)] == ["sqlite://"] * 3
        assert isinstance(binding.error, ReplicaBusy)
    assert (binding.value.pool.size, binding.error) == (7, None)
    assert [record.getMessage().count("the writer moves") for record in caplog.records] == [0, 1]


def test_a_class_that_fails_over_new_values_leaves_the_last_good(kit: ReplicaKit) -> None:
    @dataclass
    class Share:
        size: int

        def __post_init__(self) -> None:
            self.each = 100 / self.size

    binding = kit.config.bind(Share, "database.pool")
    kit.set_config("database", {"pool": {"size": 0}})
    assert binding.value.each == 20
    assert "expected what" in str(binding.error)


def test_a_closed_manager_leaves_the_last_instance(kit: ReplicaKit) -> None:
    with ConfigManager(replica=kit.replica, environment="test") as config:
        binding = config.bind(Database, "database")
    kit.set_config("database", {**VALUES, "url": "new"})
    assert binding.value.url == "sqlite://"


def test_it_follows_its_manager_to_another_environment(kit: ReplicaKit) -> None:
    with (
        replica(config={"database": {**VALUES, "url": "other"}}, environment="other") as other,
        ConfigManager(replica=kit.replica, environment="test") as config,
    ):
        binding = config.bind(Database, "database")
        config._replica_root = other.replica
        config.load_environment("other")
        assert binding.value.url == "other"


def test_a_class_cannot_spoil_what_is_compared(kit: ReplicaKit) -> None:
    class Loose(pydantic.BaseModel):
        pool: Any

    binding = kit.config.bind(Loose, "database")
    spoilt = binding.value
    spoilt.pool["size"] = -1
    kit.set_config("database", {"url": "sqlite://", "pool": {"size": -1}})
    assert binding.value is not spoilt
    kit.set_config("database", VALUES)
    assert binding.value.pool == {"size": 5}


def test_threads_see_whole_generations_that_never_go_back(kit: ReplicaKit) -> None:
    @dataclass(frozen=True)
    class Pair:
        a: int
        b: int

    kit.set_config("pair", {"a": 0, "b": 0})
    binding, stop = kit.config.bind(Pair, "pair"), threading.Event()
    seen: list[list[Pair]] = [[] for _ in range(4)]

    def read(mine: list[Pair]) -> None:
        while not stop.is_set():
            value = binding.value
            if not mine or mine[-1] is not value:
                mine.append(value)
            # Leaves the writer its turn.
            stop.wait(0.0002)

    threads = [threading.Thread(target=read, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for number in range(1, 40):
        kit.set_config("pair", {"a": number, "b": number})
    stop.set()
    for thread in threads:
        thread.join()
    assert all(pair.a == pair.b for mine in seen for pair in mine)
    assert all([pair.a for pair in mine] == sorted(pair.a for pair in mine) for mine in seen)
    assert binding.value == Pair(39, 39)


def test_a_dataclass_loads_no_pydantic_and_starts_no_thread(kit: ReplicaKit) -> None:
    script = """
import sys, threading
from dataclasses import dataclass
from control_plane import ConfigManager
@dataclass
class Database:
    url: str
with ConfigManager(replica=sys.argv[1], environment="test") as config:
    print(config.bind(Database, "database").value.url)
    print("pydantic" in sys.modules, threading.active_count())
"""
    command = [sys.executable, "-c", script, kit.replica]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["sqlite://", "False", "1"]


def test_its_representation_holds_no_value(kit: ReplicaKit) -> None:
    shown = repr(kit.config.bind(Database, "database"))
    assert shown == "<Binding of database at generation 1>"
