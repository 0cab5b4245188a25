"""Watching configuration: once per generation that changed a value, whatever else happens."""

from __future__ import annotations

import copy
import gc
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.configs import watch as watch_module
from control_plane.configs.merged import merged_value
from control_plane.configs.settings import ConfigManager
from control_plane.configs.watch import Change
from control_plane.errors import ReplicaCorrupt
from control_plane.replica import waiting
from control_plane.replica.changed import MAX_NAMED_KEYS, SLOTS, change_count

WAIT_SECONDS = 10


class Heard:
    """A callback that keeps what it was told."""

    def __init__(self) -> None:
        self._changes: queue.Queue[Change] = queue.Queue()

    def __call__(self, change: Change) -> None:
        self._changes.put(change)

    def next(self) -> Change:
        return self._changes.get(timeout=WAIT_SECONDS)

    def nothing_more(self) -> bool:
        return self._changes.empty()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def watching_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "control-plane-watch"]


def test_a_change_tells_key_old_new_generation_and_environment(stocked: Any, heard: Heard) -> None:
    stocked.client().config.watch("database.pool", heard)
    generation = stocked.config("database", {"pool": {"size": 6}})
    change = heard.next()
    assert change.key == "database.pool"
    assert change.old == {"size": 50, "timeout": 1.5}
    assert change.new == {"size": 6}
    assert (change.generation, change.environment) == (generation, "production")
    assert "6" not in repr(change).replace(str(generation), "")


def test_it_fires_once_per_changing_generation_and_never_at_registration(
    stocked: Any, heard: Heard
) -> None:
    stocked.client().config.watch("database.url", heard)
    for number in range(5):
        generation = stocked.config("database", {"url": f"u{number}", "other": 0})
        assert heard.next().generation == generation
        stocked.config("database", {"url": f"u{number}", "other": 1})
    stocked.flag("new_ai_model", False)
    stocked.config("limits", {"a": 1})
    last = stocked.config("database", {"url": "last"})
    assert heard.next().generation == last
    assert heard.nothing_more()


def test_generations_that_pass_during_a_callback_come_as_one_change(
    stocked: Any, heard: Heard
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(change: Change) -> None:
        heard(change)
        entered.set()
        assert go_on.wait(WAIT_SECONDS)

    stocked.client().config.watch("database.url", slow)
    first = stocked.config("database", {"url": "u1"})
    assert entered.wait(WAIT_SECONDS)
    for number in (2, 3):
        last = stocked.config("database", {"url": f"u{number}"})
    go_on.set()
    changes = [heard.next(), heard.next()]
    assert [(c.old, c.new, c.generation) for c in changes] == [
        ("postgresql://db/app", "u1", first),
        ("u1", "u3", last),
    ]
    stocked.config("database", {"url": "end"})
    assert heard.next().new == "end"


def test_it_goes_on_across_a_swapped_folder(stocked: Any, heard: Heard) -> None:
    stocked.client().config.watch("database.url", heard)
    stocked.swap()
    moved = stocked.write(("with_config", ["database", {"url": "in the new folder"}]), swap=True)
    change = heard.next()
    assert (change.new, change.generation) == ("in the new folder", moved)
    after = stocked.config("database", {"url": "and later"})
    assert heard.next().generation == after
    assert heard.nothing_more()


def test_a_tenants_watch_hears_its_own_and_the_base(stocked: Any) -> None:
    config = stocked.client().config
    acme, base = Heard(), Heard()
    config.watch("database.pool.size", acme, tenant_id="acme")
    config.watch("database.pool.size", base)
    stocked.config(
        "database", {"values": {"pool": {"size": 50}}, "tenants": {"acme": {"pool": {"size": 1}}}}
    )
    change = acme.next()
    assert (change.old, change.new, change.tenant_id) == (80, 1, "acme")
    stocked.config("database", {"pool": {"size": 2}})
    assert (acme.next().new, base.next().old) == (2, 50)


def test_a_value_that_comes_or_goes_is_a_change_with_none(stocked: Any, heard: Heard) -> None:
    stocked.client().config.watch("limits.a", heard)
    stocked.config("limits", {"a": 1})
    change = heard.next()
    assert (change.old, change.new) == (None, 1)
    stocked.config("limits", {"b": 1})
    change = heard.next()
    assert (change.old, change.new) == (1, None)


def test_true_is_not_one(stocked: Any, heard: Heard) -> None:
    stocked.config("limits", {"a": 1})
    stocked.client().config.watch("limits", heard)
    stocked.config("limits", {"a": True})
    assert heard.next().new == {"a": True}


def test_a_callback_that_raises_disturbs_nobody_and_each_error_is_logged_once(
    stocked: Any, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(change: Change) -> None:
        if change.new == "well":
            return
        if change.new.startswith("u"):
            raise RuntimeError(f"boom {change.new}")
        raise SystemExit("another")

    config = stocked.client().config
    config.watch("database.url", broken)
    config.watch("database.url", heard)
    with caplog.at_level(logging.ERROR, logger="control_plane"):
        for url in ("u1", "u2", "v", "well", "v"):
            stocked.config("database", {"url": url})
            assert heard.next().new == url
    assert [record.exc_info[0] for record in caplog.records] == [
        RuntimeError,
        SystemExit,
        SystemExit,
    ]


def test_log_lines_of_watches_are_printable_and_bounded(
    stocked: Any,
    heard: Heard,
    damage: Callable[[bytes], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(change: Change) -> None:
        raise RuntimeError("boom")

    config = stocked.client().config
    names = ["a\nWARNING root: all is well", "b\x1b[2J" * 1_000]
    for name in names:
        config.watch(f"database.{name}", broken)
    config.watch("database.url", heard)
    with caplog.at_level(logging.WARNING, logger="control_plane"):
        stocked.config("database", {**dict.fromkeys(names, 1), "url": "u1"})
        heard.next()
        damage(names[0].encode())
        stocked.config("database", {**dict.fromkeys(names, 2), "url": "u2"})
        heard.next()
    lines = [record.getMessage() for record in caplog.records]
    assert [name for name in ("the callback raised", "a look failed") if name in str(lines)] == [
        "the callback raised",
        "a look failed",
    ]
    assert all(line.isprintable() and len(line) < 1_100 for line in lines)


def test_what_a_callback_changes_is_its_own(stocked: Any, heard: Heard) -> None:
    def spoiling(change: Change) -> None:
        heard(Change("", *map(copy.deepcopy, (change.old, change.new)), 0, None, None))
        change.new["size"] = -1

    config = stocked.client().config
    config.watch("database.pool", spoiling)
    stocked.config("database", {"pool": {"size": 1}})
    assert heard.next().new == {"size": 1}
    stocked.config("limits", {"size": 1})
    stocked.config("database", {"pool": {"size": 2}})
    change = heard.next()
    assert (change.old, change.new) == ({"size": 1}, {"size": 2})
    assert config.get("database.pool") == {"size": 2}


def test_a_closed_watch_hears_nothing_and_the_others_go_on(stocked: Any, heard: Heard) -> None:
    config = stocked.client().config
    closed = Heard()
    config.watch("database.url", closed).close()
    config.watch("database.url", heard)
    stocked.config("database", {"url": "u1"})
    assert heard.next().new == "u1"
    assert closed.nothing_more()


def test_a_callback_may_end_its_own_watch_and_the_manager(stocked: Any, heard: Heard) -> None:
    config = stocked.client().config

    def once(change: Change) -> None:
        config.close()
        heard(change)

    config.watch("database.url", once)
    stocked.config("database", {"url": "u1"})
    assert heard.next().new == "u1"
    while watching_threads():
        time.sleep(0.001)


def test_there_is_one_thread_from_the_first_watch_until_close(stocked: Any, heard: Heard) -> None:
    client = stocked.client()
    client.config.get("database.url")
    assert watching_threads() == []
    client.config.watch("database.url", heard)
    client.config.watch("database", heard)
    assert len(watching_threads()) == 1
    client.close()
    assert watching_threads() == []


def test_the_thread_closes_no_descriptor_that_somebody_is_about_to_wake_it_by(
    stocked: Any, heard: Heard
) -> None:
    config = stocked.client().config
    config.watch("database.url", heard)
    stocked.config("database", {"url": "new"})
    heard.next()
    watcher = config._watcher
    with watcher._lock:
        watcher._closed = True
        watcher._signal.wake()
        watcher._thread.join(0.1)
        os.fstat(watcher._signal._write_end)
    watcher._thread.join()
    assert watcher._signal._write_end == -1


def test_a_watch_stays_with_the_environment_it_was_made_in(stocked: Any, heard: Heard) -> None:
    stocked.config("database", {"url": "sqlite://"}, environment="staging")
    with ConfigManager(replica=str(stocked.root), environment="production") as config:
        config.watch("database.url", heard)
        config.load_environment("staging")
        other = Heard()
        config.watch("database.url", other)
        stocked.config("database", {"url": "s"}, environment="staging")
        stocked.config("database", {"url": "p"})
        assert (other.next().environment, heard.next().environment) == ("staging", "production")
        assert heard.nothing_more()
        assert other.nothing_more()


def test_a_replica_that_appears_later_is_a_change(node: Any, heard: Heard) -> None:
    client = node.client()
    client.config.watch("database.url", heard)
    generation = node.config("database", {"url": "u1"})
    change = heard.next()
    assert (change.old, change.new, change.generation) == (None, "u1", generation)


def test_without_inotify_it_polls(
    stocked: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_open_inotify", lambda: (None, -1))
    stocked.client().config.watch("database.url", heard)
    stocked.config("database", {"url": "u1"})
    assert heard.next().new == "u1"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_watches_on_in_a_thread_of_its_own(
    stocked: Any, heard: Heard, in_child: Callable[..., str]
) -> None:
    stocked.client().config.watch("database.url", heard)

    def child() -> object:
        return watching_threads(), heard.next().new

    told = in_child(child, lambda: stocked.config("database", {"url": "after the fork"}))
    assert told == "(['control-plane-watch'], 'after the fork')"
    assert heard.next().new == "after the fork"
    stocked.config("database", {"url": "later"})
    assert heard.next().new == "later"
    assert heard.nothing_more()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_during_a_callback_leaves_the_child_what_was_not_called_to_its_end(
    stocked: Any, heard: Heard, in_child: Callable[..., str]
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def slow(change: Change) -> None:
        if os.getpid() == parent:
            entered.set()
            assert go_on.wait(WAIT_SECONDS)
        heard(change)

    config = stocked.client().config
    config.watch("database.url", slow)
    config.watch("database", heard)
    stocked.config("database", {"url": "u1"})
    assert entered.wait(WAIT_SECONDS)
    told = in_child(lambda: [heard.next().key, heard.next().key, heard.nothing_more()])
    go_on.set()
    assert told == "['database.url', 'database', True]"
    assert [heard.next().key, heard.next().key, heard.nothing_more()] == [
        "database.url",
        "database",
        True,
    ]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_callback_that_forks_goes_on_in_the_child_and_is_not_called_anew(
    stocked: Any, heard: Heard
) -> None:
    read_end, write_end = os.pipe()
    config = stocked.client().config

    def forking(change: Change) -> None:
        os.write(write_end, b"f")
        child = os.fork()
        if child == 0:
            # Returns, into a thread that is the child's main thread now.
            return
        os.waitpid(child, 0)

    def leaving(change: Change) -> None:
        os.write(write_end, b"c" if os.getpid() != parent else b"p")
        if os.getpid() != parent:
            time.sleep(0.1)
            os._exit(0)
        heard(change)

    parent = os.getpid()
    config.watch("database.url", forking)
    config.watch("database.url", leaving)
    stocked.config("database", {"url": "u1"})
    assert heard.next().new == "u1"
    os.close(write_end)
    with os.fdopen(read_end) as told:
        assert told.read() == "fcp"


def test_two_values_that_cannot_be_read_are_reported_once_each_and_then_heard(
    stocked: Any,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = stocked.client().config
    damaged = {"limits.a", "limits.b"}

    def reading(reader: Any, path: str, tenant: str) -> object:
        if path in damaged:
            raise ReplicaCorrupt(f"{path} is damaged")
        return merged_value(reader, path, tenant)

    config.watch("limits.a", heard)
    config.watch("limits.b", heard)
    config.watch("database.url", heard)
    monkeypatch.setattr(watch_module, "merged_value", reading)
    with caplog.at_level(logging.WARNING, logger="control_plane"):
        stocked.config("limits", {"a": 1, "b": 1})
        for url in ("u1", "u2", "u3"):
            stocked.config("database", {"url": url})
            assert heard.next().new == url
    assert len(caplog.records) == 2
    damaged.clear()
    stocked.config("database", {"url": "u4"})
    assert [heard.next().key for _ in range(3)] == ["limits.a", "limits.b", "database.url"]


def test_a_defect_is_logged_and_ends_no_watch(
    stocked: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    defects = [TypeError("a defect")]

    def counting(view: Any) -> int:
        if defects:
            raise defects.pop()
        return change_count(view)

    monkeypatch.setattr(watch_module, "change_count", counting)
    stocked.client().config.watch("database.url", heard)
    while defects:
        time.sleep(0.001)
    stocked.config("database", {"url": "u1"})
    assert heard.next().new == "u1"
    [record] = caplog.records
    assert record.exc_info[0] is TypeError


@pytest.fixture
def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that watches read, as they read them."""
    paths: list[str] = []

    def reading(reader: Any, path: str, tenant: str) -> object:
        paths.append(path)
        return merged_value(reader, path, tenant)

    monkeypatch.setattr(watch_module, "merged_value", reading)
    return paths


def test_a_change_reads_what_it_concerns_and_nothing_else(
    stocked: Any, heard: Heard, read_paths: list[str]
) -> None:
    config = stocked.client().config
    others = Heard()
    for number in range(50):
        config.watch(f"limits.a{number}", others)
    config.watch("database.pool", others, tenant_id="acme")
    config.watch("database", heard)
    config.watch("database.url", heard, tenant_id="acme")
    stocked.config("database", {"url": "u1"})
    assert [others.next().key, heard.next().key, heard.next().key] == [
        "database.pool",
        "database",
        "database.url",
    ]
    read_paths.clear()
    stocked.config("database", {"url": "u2"})
    assert [heard.next().key, heard.next().key] == ["database", "database.url"]
    assert set(read_paths) == {"database", "database.url"}
    assert others.nothing_more()


def test_more_commits_than_are_remembered_are_still_one_change(stocked: Any, heard: Heard) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(change: Change) -> None:
        heard(change)
        entered.set()
        assert go_on.wait(WAIT_SECONDS)

    config = stocked.client().config
    config.watch("database.url", slow)
    config.watch("limits.a", heard)
    stocked.config("database", {"url": "u1"})
    assert entered.wait(WAIT_SECONDS)
    last = stocked.config("limits", {"a": 1})
    for number in range(SLOTS + 1):
        stocked.config("other", {"a": number})
    go_on.set()
    changes = [heard.next(), heard.next()]
    assert [(c.key, c.old, c.new) for c in changes] == [
        ("database.url", "postgresql://db/app", "u1"),
        ("limits.a", None, 1),
    ]
    assert changes[1].generation >= last
    assert heard.nothing_more()


def test_a_change_of_more_records_than_are_named_is_heard(stocked: Any, heard: Heard) -> None:
    stocked.config("limits", {"a": 0})
    stocked.client().config.watch("limits.a", heard)
    many = {f"k{number}": number for number in range(MAX_NAMED_KEYS + 1)}
    stocked.config("limits", {**many, "a": 1})
    assert heard.next().new == 1


def test_a_key_too_long_to_be_named_is_heard(
    stocked: Any, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    key = "k" * 1_000
    stocked.client().config.watch(("limits", key), heard)
    for value in (1, 2):
        stocked.config("limits", {key: value})
        assert heard.next().new == value
    assert caplog.records == []


def test_a_writer_that_counts_no_changes_is_heard_too(stocked: Any, heard: Heard) -> None:
    stocked.client().config.watch("database.url", heard)
    stocked.config("database", {"url": "u1"}, forget=True)
    assert heard.next().new == "u1"
    stocked.config("database", {"url": "u2"})
    assert heard.next().new == "u2"
    stocked.config("database", {"url": "u3"}, forget=True)
    stocked.config("limits", {"a": 1})
    assert heard.next().new == "u3"
    assert heard.nothing_more()


def test_it_goes_on_across_a_restarted_writer(stocked: Any, heard: Heard) -> None:
    stocked.client().config.watch("database.url", heard)
    stocked.config("database", {"url": "u1"})
    assert heard.next().new == "u1"
    generation = stocked.config("database", {"url": "u2"}, restart=True)
    change = heard.next()
    assert (change.old, change.new, change.generation) == ("u1", "u2", generation)
    assert heard.nothing_more()


def test_a_value_that_an_override_hides_does_not_change(
    stocked: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE__DATABASE__URL", "sqlite://")
    with ConfigManager(
        replica=str(stocked.root), environment="production", allow_environment_overrides=True
    ) as config:
        config.watch("database.url", heard)
        config.watch("database.more", heard)
        stocked.config("database", {"url": "hidden", "more": 1})
        assert heard.next().key == "database.more"
        assert heard.nothing_more()


def test_ten_thousand_watches_are_made_and_closed_without_reading_each_other(
    stocked: Any, heard: Heard, read_paths: list[str]
) -> None:
    config = stocked.client().config
    watches = [config.watch(f"limits.a{number}", heard) for number in range(10_000)]
    for watch in watches[1:]:
        watch.close()
    stocked.config("limits", {"a0": 1, "a1": 1})
    assert heard.next().key == "limits.a0"
    assert len(read_paths) < 40_000
    [group] = config._watcher._groups.values()
    assert len(group.watches) == 1
    assert set(group.places) == {"limits.a0"}
    assert heard.nothing_more()


def test_a_caller_may_have_changes_delivered_in_its_own_thread(stocked: Any) -> None:
    config = stocked.client().config
    told: list[object] = []

    def callback(change: Change) -> None:
        # From inside a callback it does nothing: its caller goes on.
        config._watcher.deliver()
        told.append(change.new)

    config.watch("database.url", callback)
    for url in ("u1", "u2", "u3"):
        stocked.config("database", {"url": url})
        config._watcher.deliver()
        assert told[-1] == url
    assert told == ["u1", "u2", "u3"]


def test_watches_that_come_and_go_leave_nothing_for_forks_to_call(
    stocked: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stocked.client()
    registered: list[object] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: registered.append(hooks))
    manager = ConfigManager(client)
    manager.watch("database", heard)
    watcher = weakref.ref(manager._watcher)
    manager.close()
    gc.collect()
    assert (watcher(), registered) == (None, [])


def test_closing_the_manager_leaves_no_thread_and_no_descriptor(stocked: Any, heard: Heard) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ConfigManager(replica=str(stocked.root), environment="production") as config:
        config.watch("database.url", heard)
        stocked.config("database", {"url": "u1"})
        heard.next()
        assert len(list(Path("/proc/self/fd").iterdir())) > before
    assert watching_threads() == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
