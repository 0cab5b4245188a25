"""The loop where a log goes on in a new epoch, over HTTP: who moves, who asks, and when."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web

from control_plane.replica.evidence import Evidence, consent_path, read_consent, write_consent
from control_plane.replica.header import CLASS_REVISIONS, GENERATION, REVISION, STATE, map_header
from control_plane.replica.source import current_folder
from control_plane_daemon import loop as loop_module

REJECTED = 8


@pytest.fixture(autouse=True)
def _quick(monkeypatch: Any) -> None:
    monkeypatch.setattr(loop_module, "CONSENT_SECONDS", 0.02)


def restored(log: Any, size: int) -> Any:
    """The log as a store has it whose database was put back to what it was at a size."""
    backup = type(log)(log.trust, log.clock)
    backup.blobs = log.blobs
    backup.leaves = log.leaves[:size]
    backup.heads = {key: head for key, head in log.heads.items() if head.generation <= size}
    return backup


async def test_a_live_node_moves_by_itself_and_is_ready_once(
    served: Any, running: Any, log: Any, flag: Any
) -> None:
    log.put(flag())
    async with running(served) as node:
        await node.reach(2)
        await node.until(lambda: node.ready)
        served.log = second = log.next_epoch(epoch=4)
        served.moved.set()
        await node.reach(second.generation)
        assert node.loop.follower.position.origin == "a/production/4"
        second.put(flag(default="on"))
        served.moved.set()
        await node.reach(second.generation)
    assert node.ready == [("production", 2)]


async def test_a_new_node_is_ready_at_the_end_of_the_last_epoch_not_of_the_first(
    served: Any, running: Any, log: Any, flag: Any
) -> None:
    log.put(flag())
    second = log.next_epoch().next_epoch()
    served.log, served.send_blobs = second, False
    async with running(served, second.enrolment()) as node:
        await node.until(lambda: node.ready)
        assert node.ready == [("production", second.generation)]
        assert node.word(GENERATION) == second.generation


async def test_a_damaged_replica_is_not_shown_again_at_the_end_of_an_earlier_epoch(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any, tmp_path: Any
) -> None:
    caplog.set_level(logging.INFO)
    log.put(flag())
    served.log = second = log.next_epoch()
    async with running(served) as node:
        await node.reach(second.generation)
    data = tmp_path / "v1" / "current" / "data.mdb"
    damaged = bytearray(data.read_bytes())
    damaged[4096:] = bytes(len(damaged) - 4096)
    data.resolve().write_bytes(damaged)
    async with running(served) as node:
        await node.until(lambda: node.ready)
        assert node.word(GENERATION) == second.generation
    shown = [record for record in caplog.messages if "readers see generation" in record]
    assert shown[-1] == f"production: readers see generation {second.generation}"
    assert "production: readers see generation 2" not in shown[1:]


@pytest.fixture
async def ahead(served: Any, running: Any, log: Any, flag: Any) -> Any:
    """A node that has five entries of a log whose store was put back to three."""
    for number in range(4):
        log.put(flag(f"f{number}"))
    async with running(served) as node:
        await node.reach(5)
        await node.until(lambda: node.ready)
        served.log = restored(log, 3)
        served.moved.set()
        yield node


async def test_a_node_ahead_serves_on_and_says_once_what_to_do(
    ahead: Any, served: Any, caplog: Any
) -> None:
    await ahead.until(lambda: "batch refused: a/production/1: expected a size" in caplog.text)
    served.log = served.log.next_epoch(generation=(1 << 20) + 5)
    command = "'control-plane replica accept-epoch -e production'"
    await ahead.until(lambda: command in caplog.text)
    asked = len(served.asked)
    await ahead.until(lambda: len(served.asked) > asked + 4)
    assert caplog.text.count(command) == 1
    assert (ahead.word(GENERATION), ahead.word(STATE) & REJECTED) == (5, REJECTED)
    evidence = Evidence.decode(ahead.loop.follower.evidence)
    assert (evidence.size, evidence.proof) == (5, False)


async def test_consent_is_followed_and_what_was_shown_stays_readable_until_the_swap(
    ahead: Any, served: Any, caplog: Any, flag: Any, log: Any
) -> None:
    caplog.set_level(logging.INFO)
    await ahead.until(lambda: ahead.loop.follower.evidence)
    evidence = ahead.loop.follower.evidence
    served.log = second = served.log.next_epoch(generation=(1 << 20) + 5)
    second.put(flag("after"))
    await ahead.until(lambda: "accept-epoch" in caplog.text)
    old = map_header(f"{current_folder(ahead.folder)}/header")
    before = {word: old[8 * word] for word in (REVISION, *CLASS_REVISIONS)}
    write_consent(ahead.folder, "a/production/3")
    await ahead.until(lambda: "found 'a/production/3'; it is ignored" in caplog.text)
    asked = len(served.asked)
    await ahead.until(lambda: len(served.asked) > asked + 4)
    assert (ahead.word(GENERATION), "accepted;" in caplog.text) == (5, False)
    write_consent(ahead.folder, second.origin)
    await ahead.reach(second.generation)
    await ahead.until(lambda: not ahead.word(STATE) & REJECTED)
    assert all(ahead.word(word) > before[word] for word in before)
    assert not consent_path(ahead.folder).exists()
    # Written, too: this reads everything from the last commit again.
    await ahead.loop._on_thread(ahead.loop.follower.forget)
    assert ahead.loop.follower.evidence == evidence
    assert ahead.loop.follower.position.origin == second.origin
    assert ahead.ready == [("production", 5)]
    shown = [int(m.rpartition(" ")[2]) for m in caplog.messages if "readers see" in m]
    assert shown == sorted(shown)
    second.put(flag("later"))
    served.moved.set()
    await ahead.reach(second.generation)


async def test_a_rebuild_that_never_comes_to_the_new_epoch_is_not_shown(
    ahead: Any, served: Any, caplog: Any
) -> None:
    second = served.log.next_epoch(generation=(1 << 20) + 5)
    second.leaves[1] = second.leaves[0]
    served.log = second
    await ahead.until(lambda: "accept-epoch" in caplog.text)
    write_consent(ahead.folder, second.origin)
    await ahead.until(lambda: "reading the log again beside generation 5" in caplog.text)
    await ahead.until(lambda: "expected a second entry that continues" in caplog.text)
    asked = len(served.asked)
    await ahead.until(lambda: len(served.asked) > asked + 4)
    assert ahead.word(GENERATION) == 5
    assert ahead.word(STATE) & REJECTED
    assert read_consent(ahead.folder) == second.origin


async def test_a_store_that_loses_the_epoch_again_takes_nothing_from_readers(
    ahead: Any, served: Any, caplog: Any, monkeypatch: Any
) -> None:
    backup, second = served.log, served.log.next_epoch(generation=(1 << 20) + 5)
    served.log = second
    read_again = ahead.loop._read_again

    def losing(**options: Any) -> None:
        read_again(**options)
        served.log = backup

    monkeypatch.setattr(ahead.loop, "_read_again", losing)
    await ahead.until(lambda: "accept-epoch" in caplog.text)
    write_consent(ahead.folder, second.origin)
    await ahead.until(lambda: "reading the log again" in caplog.text)
    await ahead.until(lambda: ahead.loop.follower.position.size == 3)
    await ahead.until(lambda: ahead.loop.follower.at_end)
    asked = len(served.asked)
    await asyncio.sleep(0.3)
    # At the end of three entries, which no reader sees; and the store is not asked in a circle.
    assert len(served.asked) - asked <= 4
    assert ahead.loop.follower.position.size == 3
    assert (ahead.word(GENERATION), ahead.word(STATE) & REJECTED) == (5, REJECTED)
    served.log = second
    served.moved.set()
    await ahead.reach(second.generation)


async def test_consent_that_was_followed_before_a_crash_is_taken_away(
    served: Any, running: Any, log: Any, flag: Any
) -> None:
    served.log = second = log.next_epoch()
    async with running(served) as node:
        await node.reach(second.generation)
        write_consent(node.folder, second.origin)
    async with running(served) as node:
        assert read_consent(node.folder) is None


async def test_a_node_that_is_behind_comes_to_the_end_that_root_names(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any
) -> None:
    for number in range(6):
        log.put(flag(f"f{number}"))
    second = restored(log, 5).next_epoch()

    def answer(request: Any) -> web.Response:
        # Three entries of the seven it was shown; then the store is put back to five.
        whole = log.followed
        log.followed = lambda size, **options: whole(size, limit=3, **options)
        first = web.Response(body=served.packed(0))
        served.log, served.follow = second, None
        return first

    served.follow = answer
    async with running(served) as node:
        await node.reach(second.generation)
        assert node.loop.follower.position.origin == second.origin
        assert not node.word(STATE) & REJECTED
    assert "batch refused: a/production/1: expected a size of at least 7" in caplog.text
    assert "accept-epoch" not in caplog.text


async def test_an_epoch_that_contradicts_the_fold_stops_the_loop_and_leaves_the_old_one(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any
) -> None:
    log.put(flag())
    lying = log.copy()
    lying.heads.clear()
    async with running(served) as node:
        await node.reach(2)
        served.log = lying.next_epoch()
        served.moved.set()
        await node.until(lambda: "the last good values stay" in caplog.text)
        assert node.word(GENERATION) == 2
        assert node.loop.follower.position.origin == "a/production/1"
    assert "expected the snapshot" in caplog.text
