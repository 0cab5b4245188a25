"""Snapshots are shared by generation, given up by time, and never outlive a fork or a client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from control_plane import ControlPlaneClient
from control_plane.client import PinnedView
from control_plane.integrations.request_view import RequestView
from control_plane.integrations.snapshots import HOLD_SECONDS, LINGER_SECONDS, Snapshot, Snapshots
from control_plane.replica.header import SAFE_TXNID, HeaderWriter
from control_plane.replica.reader import OPEN
from control_plane.replica.source import current_folder
from control_plane.testing import ReplicaKit, replica


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    with replica(flags={"x": True, "y": True}, config={"db": {"url": "old"}}) as made:
        yield made


def test_a_thousand_requests_of_one_generation_hold_one_snapshot(kit: ReplicaKit) -> None:
    snapshots = Snapshots(kit)
    views = [RequestView(snapshots) for _ in range(1000)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda view: view.flags.is_enabled("x"), views))
    assert all(answers)
    # Threads that come at once may each take one; all but the newest go as others that are old do.
    assert snapshots.open_count <= 8
    assert snapshots.newest() is snapshots.newest()


def test_a_snapshot_that_was_replaced_is_closed_when_nobody_can_read_it(
    kit: ReplicaKit, clock: Clock
) -> None:
    snapshots = Snapshots(kit, clock)
    first = snapshots.newest()
    for value in (False, True):
        kit.set_flag("x", value)
        snapshots.newest()
    assert first is not None
    assert (snapshots.open_count, first.view.generation) == (3, 1)
    clock.now += LINGER_SECONDS
    kit.set_flag("x", False)
    snapshots.newest()
    # The one that was replaced just now may still be read.
    assert snapshots.open_count == 2


def test_a_request_keeps_its_generation_and_then_moves_to_the_newest_as_a_whole(
    kit: ReplicaKit, clock: Clock
) -> None:
    view = RequestView(Snapshots(kit, clock))
    flags, config = view.flags, view.config
    assert flags.is_enabled("x")
    kit.set_flags({"x": False, "y": False})
    kit.set_config("db", {"url": "new"})
    clock.now += HOLD_SECONDS - 0.1
    # Not asked before: they, too, are of the first generation.
    assert (flags.is_enabled("y"), config.get("db.url"), view.generation) == (True, "old", 1)
    clock.now += 0.1
    assert (flags.is_enabled("x"), flags.is_enabled("y")) == (False, False)
    assert (config.get("db.url"), view.generation) == ("new", 3)


def test_a_request_moves_on_when_the_node_gave_its_snapshot_up(kit: ReplicaKit) -> None:
    view = RequestView(Snapshots(kit))
    flags = view.flags
    assert (flags.is_enabled("x"), view.generation) == (True, 1)
    header = HeaderWriter(f"{current_folder(kit.source.folder)}/header")
    kit.set_flags({"x": False, "y": False})
    assert (flags.is_enabled("x"), view.generation) == (True, 1)
    # As a daemon does that starts again: it keeps nothing that is older than the newest.
    header[SAFE_TXNID] = 1 << 62
    header.close()
    assert (flags.is_enabled("y"), flags.is_enabled("x"), view.generation) == (False, False, 2)


def test_a_snapshot_given_up_during_a_question_is_no_answer(kit: ReplicaKit) -> None:
    """Between the look and the read: the question is put again, to the next generation."""
    view = RequestView(Snapshots(kit))
    asked: list[int] = []

    def ask(held: PinnedView | ControlPlaneClient) -> object:
        asked.append(view.generation)
        if len(asked) == 1:
            kit.set_config("db", {"url": "new"})
            assert isinstance(held, PinnedView)
            held.close()
        return held.config.get("db.url")

    assert (view.asked(ask), asked) == ("new", [1, 2])


def test_a_closed_request_reads_the_newest_for_the_same_caller(kit: ReplicaKit) -> None:
    kit.set_flag("x", for_acme(True))
    view = RequestView(Snapshots(kit), lambda: {"tenant_id": "acme"})
    flags = view.flags
    assert flags.is_enabled("x")
    kit.set_flag("x", for_acme(False))
    assert flags.is_enabled("x")
    view.close()
    assert not flags.is_enabled("x")
    kit.set_flag("x", for_acme(True))
    assert flags.is_enabled("x")


def test_without_a_replica_defaults_are_given_and_one_that_appears_is_read(
    tmp_path: Path, clock: Clock
) -> None:
    with ControlPlaneClient(tmp_path, "test", False) as client:
        view = RequestView(Snapshots(client, clock))
        assert not view.flags.is_enabled("x")
        assert view.flags.value("x", "none") == "none"
        assert view.config.get("db.url", "none") == "none"
        assert view.generation == 0
        with replica(flags={"x": True}) as kit:
            (tmp_path / "test").symlink_to(Path(kit.replica) / "test")
            client.source._look_at = None  # instead of waiting for a second
            assert view.flags.is_enabled("x")


def test_an_override_reaches_snapshots_that_were_taken_before_it(kit: ReplicaKit) -> None:
    snapshots = Snapshots(kit)
    assert RequestView(snapshots).flags.is_enabled("x")
    with kit.flags.override({"x": False}):
        assert not RequestView(snapshots).flags.is_enabled("x")
    assert RequestView(snapshots).flags.is_enabled("x")


def test_closing_the_client_closes_its_snapshots_and_the_file() -> None:
    with replica(flags={"x": True}) as kit:
        snapshots = Snapshots(kit)
        view = RequestView(snapshots)
        assert view.flags.is_enabled("x")
        kit.set_flag("x", False)
        snapshots.newest()
        assert snapshots.open_count == 2
    assert snapshots.open_count == 0
    assert not any(each.directory.startswith(kit.replica) for each in OPEN._replicas.values())
    assert view.config.get("db.url", "none") == "none"
    view.renew()
    assert not view.flags.is_enabled("x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_reads_a_snapshot_of_its_own(kit: ReplicaKit) -> None:
    snapshots = Snapshots(kit)
    view = RequestView(snapshots)
    assert view.flags.is_enabled("x")

    def in_child() -> bool:
        # The request goes on in the child, and another one begins there.
        flags = view.flags, RequestView(snapshots).flags
        return all(each.is_enabled("y") for each in flags) and snapshots.open_count == 1

    assert forked(in_child)
    assert snapshots.open_count == 1
    assert view.flags.is_enabled("y")


def test_what_is_bound_later_stands_beside_what_was_and_a_call_wins(kit: ReplicaKit) -> None:
    kit.set_flag("x", for_acme(True))
    view = RequestView(Snapshots(kit), lambda: {"user_id": "u1"})
    flags = view.flags
    assert not flags.is_enabled("x")
    view.bind(tenant_id="acme")
    assert flags.is_enabled("x")
    assert not flags.is_enabled("x", tenant_id="other")
    assert view.context == {"user_id": "u1", "tenant_id": "acme"}


def test_the_caller_is_asked_for_once_and_only_when_something_is_asked(kit: ReplicaKit) -> None:
    calls: list[int] = []
    view = RequestView(Snapshots(kit), lambda: calls.append(1))
    flags, config = view.flags, view.config
    assert calls == []
    assert flags.is_enabled("x")
    assert config.get("db.url") == "old"
    assert calls == [1]


def test_configuration_is_the_bound_tenants(kit: ReplicaKit) -> None:
    kit.set_config("db", {"values": {"url": "base"}, "tenants": {"acme": {"url": "theirs"}}})
    snapshots = Snapshots(kit)
    bound = RequestView(snapshots, lambda: {"tenant_id": "acme"}).config
    assert (bound.get("db.url"), bound.section("db").get("url")) == ("theirs", "theirs")
    assert bound.get("db.url", tenant_id="other") == "base"
    assert bound.get("db.url", environment="test") == "theirs"
    # A number is a tenant to a flag; no replica holds one of its name.
    assert RequestView(snapshots, lambda: {"tenant_id": 7}).config.get("db.url") == "base"


def for_acme(on: bool) -> dict[str, object]:
    """A flag that only one tenant has."""
    return {
        "variants": {"on": True, "off": False},
        "default": "off",
        "rules": [{"name": "acme", "when": {"tenant_id": "acme"}, "serve": "on" if on else "off"}],
    }


def forked(check: Callable[[], bool]) -> bool:
    """Whether a check holds in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_that_ask_first_at_once_get_one_generation(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread looks, another asks after the next publication, then the first goes on."""
    snapshots = Snapshots(kit)
    view = RequestView(snapshots)
    newest = Snapshots.newest
    seen: list[int] = []

    def slow(self: Snapshots) -> Snapshot | None:
        found = newest(self)
        if not seen:
            seen.append(0)
            kit.set_flag("x", False)
            seen.append(view.generation)
        return found

    monkeypatch.setattr(Snapshots, "newest", slow)
    first = view.generation
    assert seen[1:] == [first] == [view.generation] == [2]
