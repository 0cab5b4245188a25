"""A record that this node cannot compile, over real HTTP: what overtakes it, and what heals it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
from aiohttp import web

from control_plane.errors import ManifestInvalid
from control_plane.manifests.validation import validate_blob
from control_plane.replica.format import FLAG, HEAD_HELD, SERVED, Record, decode_record, record_key
from control_plane.replica.header import GENERATION, HELD, STATE
from control_plane_daemon import entries

PILOT = record_key(FLAG, "pilot")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.replica.writer.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("control_plane_daemon.loop.HEARTBEAT_SECONDS", 0.02)


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A daemon of an older version while it lasts: it does not know the field ``salt``."""

    def validate(*arguments: Any, **named: Any) -> Any:
        document: Any = validate_blob(*arguments, **named)
        if "salt" in document["metadata"]:
            raise ManifestInvalid("metadata: expected fields this version knows, found 'salt'")
        return document

    @contextmanager
    def older() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(entries, "validate_blob", validate)
            yield

    return older


def pilot(node: Any) -> Record:
    """The record as readers find it."""
    target = node.loop.follower.writer._target
    with target.environment.begin() as transaction:
        data = transaction.get(PILOT, db=target.databases["records"])
    return decode_record(PILOT, bytes(data))


def value(record: Record) -> tuple[str, Any]:
    """The default that tells versions apart, and the kill."""
    body = msgpack.unpackb(record.body)
    return body["m"]["default"], body["k"]


def sizes_asked(served: Any) -> list[int]:
    return [int(path.split("size=")[1].split("&")[0]) for path in served.asked if "size=" in path]


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one answer"])
async def test_a_kill_and_then_a_good_change_of_a_held_record_take_one_poll_each(
    served: Any, running: Any, log: Any, flag: Any, older: Any, together: bool
) -> None:
    log.put(flag())
    with older():
        async with running(served) as node:
            await node.until(lambda: node.ready)
            held = log.put(flag(default="on", salt="newer"))
            served.moved.set()
            await node.reach(held)
            await node.until(lambda: node.word(STATE) & HELD)
            assert (pilot(node).status, value(pilot(node))) == (HEAD_HELD, ("off", None))
            await node.until(lambda: sizes_asked(served)[-1] == held)
            served.asked.clear()
            killed = log.kill("pilot", "off")
            if not together:
                served.moved.set()
                await node.reach(killed)
                record = pilot(node)
                assert value(record) == ("off", {"variant": "off"})
                assert (record.status, record.head_generation) == (HEAD_HELD, killed)
                await node.until(lambda: sizes_asked(served))
            good = log.put(flag(default="on"))
            served.moved.set()
            await node.reach(good)
            record = pilot(node)
            assert value(record) == ("on", {"variant": "off"})
            assert (record.status, record.served_generation) == (SERVED, good)
            assert not node.loop.follower.held
            await node.until(lambda: not node.word(STATE) & HELD)
    # The poll that was open brought the first; each that followed began where that one ended.
    assert sizes_asked(served) in ([[good], []] if together else [[killed], [killed, good]])


async def test_an_upgraded_daemon_serves_what_was_held_before_it_asks_anybody(
    served: Any, running: Any, log: Any, flag: Any, older: Any
) -> None:
    log.put(flag())
    with older():
        async with running(served) as node:
            held = log.put(flag(default="on", salt="newer"))
            served.moved.set()
            await node.reach(held)
            await node.until(lambda: node.word(STATE) & HELD)
    served.follow = lambda request: web.Response(status=503)
    with older():
        async with running(served) as node:
            await node.until(lambda: served.asked[-1:] and node.word(STATE) & HELD)
            assert value(pilot(node)) == ("off", None)
    async with running(served) as node:
        await node.until(lambda: not node.loop.follower.held)
        await node.until(lambda: not node.word(STATE) & HELD)
        record = pilot(node)
        assert value(record) == ("on", None)
        assert (record.status, record.served_generation) == (SERVED, held)
        assert node.word(GENERATION) == held
