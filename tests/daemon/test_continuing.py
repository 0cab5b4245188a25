"""Restarts, grouped commits, full disks and damaged files."""

from __future__ import annotations

import os
from typing import Any

import lmdb
import pytest

from control_plane.errors import ReplicaCorrupt
from control_plane.replica.format import FLAG, record_key
from control_plane.replica.header import DISK
from control_plane_daemon.commits import COMMIT_INTERVAL_SECONDS
from control_plane_daemon.follower import DiskFailed

PILOT = record_key(FLAG, "pilot")


def test_a_restart_goes_on_from_the_last_commit(log: Any, make_node: Any, flag: Any) -> None:
    node = make_node()
    log.put(flag())
    node.follow()
    position, policy = node.follower.position, node.follower.policy
    node = make_node()
    assert node.follower.position == position
    assert node.follower.policy.digest == policy.digest
    generation = log.put(flag(default="on"))
    node.follow()
    assert node.generation == generation == node.record(PILOT).served_generation


def test_a_hundred_waiting_entries_are_one_commit(log: Any, node: Any, flag: Any) -> None:
    node.follow()
    before = node.follower.commit_count
    for number in range(100):
        log.put(flag(f"f{number}"))
    node.follow()
    assert node.follower.commit_count == before + 1
    assert node.generation == 101
    assert len(node.records()) == 100


def test_a_commit_ends_between_entries_when_it_is_full(log: Any, node: Any, flag: Any) -> None:
    node.follow()
    before = node.follower.commit_count
    for part in range(3):
        log.put(*(flag(f"f{part}.{number}") for number in range(2_100)))
    shown: list[int] = []
    commit = node.follower._commits.commit
    node.follower._commits.commit = lambda: (commit(), shown.append(node.generation))
    node.follow()
    assert node.follower.commit_count - before == 2
    assert shown == [3, 4]
    assert len(node.records()) == 6_300


def test_a_full_disk_leaves_the_last_good_replica_and_is_tried_again(
    log: Any, node: Any, flag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.put(flag())
    node.follow()
    records, generation = node.records(), node.generation
    log.put(flag(default="on"))
    with monkeypatch.context() as full:
        full.setattr(
            type(node.follower._commits), "add", lambda *_: _raise(lmdb.DiskError("no space"))
        )
        with pytest.raises(DiskFailed, match="no space"):
            node.follow()
    assert (node.records(), node.generation) == (records, generation)
    assert node.follower.position.size == 2
    assert node.state & DISK
    node.follow()
    assert node.generation == 3
    assert not node.state & DISK


def _raise(error: Exception) -> None:
    raise error


def test_staged_changes_of_a_crash_are_cleared_and_read_again(
    log: Any, make_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node()
    leaves = {f"k{number:05}": number for number in range(36_000)}
    node.follow()
    generation = log.put({"kind": "config", "name": "big", "metadata": {"values": leaves}})
    with monkeypatch.context() as crash:
        crash.setattr(type(node.follower._commits), "add", lambda *_: _raise(RuntimeError("crash")))
        # A process that crashed clears nothing.
        crash.setattr(type(node.follower), "forget", lambda *_: None)
        with pytest.raises(RuntimeError, match="crash"):
            node.follow()
    assert node.table("staging")
    node = make_node()
    assert node.table("staging") == {}
    assert node.records() == {}
    node.follow()
    assert node.generation == generation
    assert len(node.records()) == 36_000


def test_blobs_beyond_the_memory_bound_are_staged_and_forgotten(
    log: Any, node: Any, flag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import control_plane_daemon.shelf as shelf

    monkeypatch.setattr(shelf, "MAX_MEMORY_BYTES", 200)
    log.put(*(flag(f"f{number}") for number in range(50)))
    node.follow(blobs=False)
    assert len(node.records()) == 50
    assert node.table("staging") == {}


def test_a_damaged_replica_is_rebuilt_beside_and_shown_when_it_has_caught_up(
    log: Any, make_node: Any, flag: Any
) -> None:
    node = make_node()
    for default in ("on", "off", "on"):
        log.put(flag(default=default))
    node.follow()
    records = node.records()
    link = node.folder / "v1" / "current"
    current = link.readlink()
    node.close()
    with (node.folder / "v1" / current / "data.mdb").open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(60_000))
    node = make_node()
    assert link.readlink() == current
    node.take(log.followed(0, limit=2))
    assert link.readlink() == current
    node.follow()
    assert link.readlink() != current
    assert node.records() == records
    assert node.generation == 4


def test_a_replica_found_damaged_while_it_is_loaded_can_be_rebuilt(
    log: Any, make_node: Any, flag: Any
) -> None:
    node = make_node()
    log.put(flag())
    node.follow()
    with node.writer.write() as transaction:
        transaction.held.put((1).to_bytes(8, "big"), b"no held entry")
    with pytest.raises(ReplicaCorrupt, match="expected its fields"):
        node.follower.forget()
    node.opened.rebuild()
    node.follower.forget()
    node.follow()
    assert node.generation == 2
    assert node.table("held") == {}


def test_an_entry_that_fails_half_written_leaves_nothing_of_itself(
    log: Any, node: Any, flag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from control_plane.replica import plan

    log.put(flag())
    node.follow()
    records, heads = node.records(), node.table("heads")
    log.put(flag(default="on"), flag("other"))
    apply = plan._apply
    with monkeypatch.context() as broken:
        broken.setattr(
            plan, "_apply",
            lambda transaction, spaced, value: apply(transaction, spaced, value)
            if spaced.startswith(b"r") else _raise(RuntimeError("half way")),
        )  # fmt: skip
        with pytest.raises(RuntimeError, match="half way"):
            node.follow()
    assert (node.records(), node.table("heads")) == (records, heads)
    assert node.follower.position.size == node.generation == 2
    node.follow()
    assert len(node.records()) == 2


def test_commits_are_at_least_a_fiftieth_of_a_second_apart(
    log: Any, make_node: Any, flag: Any
) -> None:
    node = make_node()
    commits, now = node.follower._commits, 100.0
    commits._monotonic = lambda: now
    assert commits.pause_seconds >= 0
    now += 60
    assert commits.pause_seconds == 0
    log.put(flag())
    node.follow()
    assert commits.pause_seconds == pytest.approx(COMMIT_INTERVAL_SECONDS)
    now += 0.015
    assert commits.pause_seconds == pytest.approx(0.005)
    now += 0.005
    assert commits.pause_seconds == pytest.approx(0, abs=1e-9)
