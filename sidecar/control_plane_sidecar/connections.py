"""How long a connection may stand without a request being worked on, and how many may stand.

aiohttp bounds neither how long a request's head nor how long the taking of its answer may last.
So connections are looked through once a second. One is idle from the moment it is first seen until
a request is worked on, and again after it: while it says nothing, says its next request a byte at a
time, or does not take what it was answered. Idle for `IDLE_SECONDS` it is closed, and earlier where
more than ``max_open`` stand, the longest idle first.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Final

from aiohttp import web

IDLE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 1.0
MAX_OPEN: Final = 8_192
SPARE_DESCRIPTORS: Final = 64


class Connections:
    """Watches the connections of one runner while its application runs."""

    def __init__(self, max_open: int | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._max_open = _most_open() if max_open is None else max_open
        self._clock = clock
        self._busy: set[object] = set()
        self._since: dict[object, float] = {}
        self.runner: web.AppRunner | None = None

    def begin(self, connection: object) -> None:
        """Count a connection as busy until `end`."""
        self._busy.add(connection)

    def end(self, connection: object) -> None:
        """Count it as idle from now on."""
        self._busy.discard(connection)
        self._since[connection] = self._clock()

    async def run(self, application: web.Application) -> AsyncIterator[None]:
        """Look for as long as the application runs."""
        looking = asyncio.create_task(self._look_on())
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Close those that have been idle for too long, or are too many."""
        server = None if self.runner is None else self.runner.server
        standing = [] if server is None else server.connections
        now = self._clock()
        known = self._since
        self._since = {each: known.get(each, now) for each in standing}
        idle = [each for each in standing if each not in self._busy]
        idle.sort(key=self._since.__getitem__)
        excess = len(standing) - self._max_open
        for position, connection in enumerate(idle):
            if position < excess or now - self._since[connection] >= IDLE_SECONDS:
                _abort(connection)


def _abort(connection: web.RequestHandler) -> None:
    # Not ``close``, which would wait until the client has taken what is written.
    if connection.transport is not None:
        connection.transport.abort()


def _most_open() -> int:
    """How many may stand: the process needs descriptors for other things, too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_OPEN
    return max(1, min(MAX_OPEN, soft - SPARE_DESCRIPTORS))
