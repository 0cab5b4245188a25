"""The loop over real HTTP: what is retried, what is told, and when it stops."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web

from control_plane.log.envelope import Envelope
from control_plane.replica.header import GENERATION, HEARTBEAT_NS, STATE


async def test_a_change_is_served_as_soon_as_the_poll_answers(
    served: Any, running: Any, log: Any, flag: Any
) -> None:
    async with running(served) as node:
        await node.reach(1)
        await node.until(lambda: node.ready)
        assert node.ready == [("production", 1)]
        await node.until(lambda: "wait=20" in served.asked[-1])
        log.put(flag())
        served.moved.set()
        await node.reach(2)
        assert node.word(HEARTBEAT_NS) > 0
    assert node.ready == [("production", 1)]


async def test_a_blob_that_never_has_its_bytes_is_held_and_later_heals(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any
) -> None:
    change = log.change(flag())
    log.submit(change)
    served.send_blobs = False
    real = dict(log.blobs)
    served.blob = lambda request: web.Response(
        body=b"wrong" if request.match_info["digest"] == change.digest
        else real[request.match_info["digest"]]
    )  # fmt: skip
    async with running(served) as node:
        await node.reach(2)
        assert list(node.loop.follower.held) == [2]
        log.put(flag("other"))
        served.blob = None
        served.moved.set()
        await node.until(lambda: not node.loop.follower.held)
        await node.reach(3)
    assert "entry 2 held, last good values stay" in caplog.text


async def test_trust_metadata_without_its_bytes_is_waited_for(
    served: Any, running: Any, log: Any, caplog: Any
) -> None:
    served.send_blobs = False
    digest = next(iter(log.blobs))
    data = log.blobs.pop(digest)
    async with running(served) as node:
        await node.until(lambda: "waiting for blob" in caplog.text)
        assert node.loop.follower.position.size == 0
        log.blobs[digest] = data
        await node.reach(1)


async def test_a_refused_batch_is_told_once_and_the_loop_goes_on(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any
) -> None:
    log.put(flag())
    async with running(served) as node:
        await node.reach(2)
        served.follow = lambda request: web.Response(
            body=served.packed(2, checkpoint=log.checkpoint(1))
        )
        served.moved.set()
        await node.until(lambda: node.word(STATE) & 8)
        asked = len(served.asked)
        await node.until(lambda: len(served.asked) > asked + 2)
        assert node.word(GENERATION) == 2
        log.put(flag(default="on"))
        served.follow = None
        await node.reach(3)
        await node.until(lambda: not node.word(STATE) & 8)
    assert caplog.text.count("batch refused") == 1


async def test_a_daemon_too_old_for_the_log_stops_and_serves_on(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any
) -> None:
    log.put(flag())
    log.append(Envelope("application/vnd.control-plane.policy.v1+json", b"{}"))
    async with running(served) as node:
        await node.reach(2)
        await node.until(lambda: "this daemon is too old" in caplog.text)
        asked, beat = len(served.asked), node.word(HEARTBEAT_NS)
        await node.until(lambda: node.word(HEARTBEAT_NS) > beat)
        assert len(served.asked) == asked
        assert node.word(GENERATION) == 2


async def test_a_store_that_does_not_wait_is_not_asked_in_a_circle(
    served: Any, running: Any
) -> None:
    served.follow = lambda request: web.Response(body=served.packed(int(request.query["size"])))
    async with running(served) as node:
        await node.until(lambda: node.ready)
        before = len(served.asked)
        await asyncio.sleep(0.5)
        assert len(served.asked) - before <= 6


async def test_an_error_of_our_own_is_shown_and_the_last_commit_gone_on_from(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any, monkeypatch: Any
) -> None:
    from control_plane.replica.apply import Materialiser

    caplog.set_level(logging.ERROR)
    async with running(served) as node:
        await node.reach(1)
        with monkeypatch.context() as broken:
            broken.setattr(Materialiser, "begin", lambda *_: 1 / 0)
            log.put(flag())
            served.moved.set()
            await node.until(lambda: "ZeroDivisionError" in caplog.text)
        await node.reach(2)
