"""Which idle connections give way when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from control_plane_store.doorway import PATIENCE_SECONDS, Doorway

REQUEST = b"GET / HTTP/1.1\r\nHost: store\r\n\r\n"
FOLLOWERS = 5


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Served:
    """A listening application whose doorway lets two connections stand idle."""

    def __init__(self, doorway: Doorway, clock: Clock, port: int) -> None:
        self.doorway, self.clock, self.port = doorway, clock, port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    application, clock = web.Application(), Clock()
    application.add_routes([web.get("/", answer)])
    runner = web.AppRunner(application, access_log=None)
    doorway = Doorway(runner, 2, clock)
    application.middlewares.append(doorway.attend)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield Served(doorway, clock, runner.addresses[0][1])
    await runner.cleanup()


async def asks(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    """Whether a request on this connection is answered."""
    reader, writer = connection
    try:
        writer.write(REQUEST)
        await writer.drain()
        return (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    except (ConnectionError, asyncio.IncompleteReadError):
        return False


async def test_those_who_asked_or_came_a_moment_ago_keep_their_connections(served: Served) -> None:
    followers = [await served.connect() for _ in range(FOLLOWERS)]
    assert [await asks(each) for each in followers] == [True] * FOLLOWERS
    newcomers = [await served.connect() for _ in range(3)]
    served.doorway.sweep()
    assert [await asks(each) for each in (*followers, *newcomers)] == [True] * (FOLLOWERS + 3)
    for _, writer in (*followers, *newcomers):
        writer.close()


async def test_connections_long_silent_give_way_the_oldest_first(served: Served) -> None:
    silent = [await served.connect() for _ in range(3)]
    served.doorway.sweep()
    served.clock.now += PATIENCE_SECONDS
    followers = [await served.connect() for _ in range(2)]
    assert [await asks(each) for each in followers] == [True] * 2
    served.doorway.sweep()
    assert [await asks(each) for each in silent] == [False] * 3
    assert [await asks(each) for each in followers] == [True] * 2
    for _, writer in (*followers, *silent):
        writer.close()


async def test_connections_long_answered_give_way_the_oldest_first(served: Served) -> None:
    followers = [await served.connect() for _ in range(FOLLOWERS)]
    for each in followers:
        assert await asks(each)
        served.clock.now += 0.1
    served.clock.now += PATIENCE_SECONDS
    served.doorway.sweep()
    assert [await asks(each) for each in followers] == [False] * 3 + [True] * 2
    for _, writer in followers:
        writer.close()


async def test_connections_that_ended_are_forgotten(served: Served) -> None:
    for _ in range(20):
        connection = await served.connect()
        assert await asks(connection)
        connection[1].close()
        await connection[1].wait_closed()
    await asyncio.sleep(0.1)
    served.doorway.sweep()
    assert len(served.doorway._since) <= 2
