"""How many connections may stand open without asking for anything.

A connection is idle from the moment it is accepted until it has sent a whole request, and again
between requests; a long poll is not idle. ``MAX_IDLE`` may stand, or a quarter of what the process
may open; beyond that those that have been idle the longest are closed. So whoever opens thousands
of connections and sends nothing, or a byte a minute, takes no descriptor from those who ask.
(``service.IDLE_SECONDS`` ends the others in time.)

A connection that is idle for less than ``PATIENCE_SECONDS`` is left alone while descriptors are
plenty: after a change a thousand followers stand idle together for the moment before they ask
again, and a new client takes a moment to say what it wants.

It must not come to the last descriptor: asyncio before Python 3.13 then tries again for every
place of the backlog, logs each and answers nobody. So connections are looked through many times a
second, and ``listening`` accepts few between two looks.
"""

from __future__ import annotations

import asyncio
import contextlib
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
        # Since when a connection is idle: when it was first seen, or when it was last answered.
        self._since: dict[object, float] = {}

    @web.middleware
    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count the request's connection as busy until it is answered."""
        connection = request.protocol
        self._busy.add(connection)
        try:
            return await handler(request)
        finally:
            self._busy.discard(connection)
            self._since[connection] = self._monotonic()

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
        server, now = self._runner.server, self._monotonic()
        standing = [] if server is None else server.connections
        if len(self._since) > len(standing):
            open_now = set(standing)
            self._since = {each: at for each, at in self._since.items() if each in open_now}
        if len(standing) <= self._max_idle:
            return
        idle = [each for each in standing if each not in self._busy]
        idle.sort(key=lambda each: self._since.setdefault(each, now))
        spared = now - PATIENCE_SECONDS if len(standing) < self._crowd else now
        for connection in idle[: max(0, len(idle) - self._max_idle)]:
            if self._since[connection] <= spared:
                connection.force_close()


def _descriptors() -> int:
    """How many the process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else max(4, soft)
