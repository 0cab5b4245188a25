"""How many connections may stand open without asking for anything.

A connection is idle from the moment it is accepted until it has sent a whole request, and again
between requests; a long poll is not idle. ``MAX_IDLE`` may stand, or a quarter of what the process
may open; beyond that those that were silent the longest are closed, those that never asked first.
So whoever opens thousands of connections and sends nothing, or a byte a minute, takes no
descriptor from those who ask. (``service.IDLE_SECONDS`` ends the others in time.) A connection that
was answered less than ``PATIENCE_SECONDS`` ago is left alone while descriptors are plenty: after a
change a thousand followers stand idle together for the moment before they ask again.

It must not come to the last descriptor: asyncio before Python 3.13 then tries again for every
place of the backlog, logs each and answers nobody. So connections are looked through many times a
second, and ``listening`` accepts few between two looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

MAX_IDLE = 512
UNLIMITED = 1 << 20
SWEEP_SECONDS = 0.02
PATIENCE_SECONDS = 5.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Doorway:
    """Watches the connections of one runner while its application runs."""

    def __init__(
        self,
        runner: web.AppRunner,
        max_idle: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        descriptors = _descriptors()
        self._max_idle = min(MAX_IDLE, descriptors // 4) if max_idle is None else max_idle
        self._crowd = descriptors // 2
        self._monotonic = monotonic
        self._busy: set[object] = set()
        # Connections in the order of their last request's end, with its time.
        self._asked: dict[object, float] = {}

    @web.middleware
    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count the request's connection as busy until it is answered."""
        connection = request.protocol
        self._busy.add(connection)
        try:
            return await handler(request)
        finally:
            self._busy.discard(connection)
            self._asked.pop(connection, None)
            self._asked[connection] = self._monotonic()

    async def run(self, application: web.Application) -> AsyncIterator[None]:
        """Sweep for as long as the application runs."""
        sweeping = asyncio.create_task(self._sweep_on())
        yield
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep()

    def sweep(self) -> None:
        """Close the idle connections that are too many."""
        server = self._runner.server
        standing = [] if server is None else server.connections
        if len(standing) <= self._max_idle:
            return
        open_now = set(standing)
        for connection in [each for each in self._asked if each not in open_now]:
            del self._asked[connection]
        idle = [each for each in standing if each not in self._busy]
        # Those that never asked come first, then those that were answered longest ago.
        idle.sort(key=lambda each: self._asked.get(each, -math.inf))
        spared = self._monotonic() - PATIENCE_SECONDS if len(standing) < self._crowd else math.inf
        for connection in idle[: max(0, len(idle) - self._max_idle)]:
            if self._asked.get(connection, -math.inf) <= spared:
                connection.force_close()


def _descriptors() -> int:
    """How many the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else max(4, soft)
