"""Telling the event loop what happens to the replica: one thread, woken by the kernel.

- The thread waits as `control_plane.replica.waiting` does it, at most a second, and has the loop
  look. A look costs microseconds; everything below happens in the event loop.
- Long polls wait for ``moved``: any change a reader can see. Event streams wait for the ``moved``
  of `Flags`: a change of flags or segments. Both are set once and then replaced, so whoever takes
  the event before it looks at the data sleeps through nothing.
- The same look keeps what every answer's headers say: the generation, which is never above that of
  the answer, and whether the replica is stale. A stale replica is served all the same.
- The wall clock is read for ages only; one that jumps changes what is said of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from time import time
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from control_plane.client import ControlPlaneClient, Health
from control_plane.replica.header import (
    CONFIG_REVISION,
    FLAGS_REVISION,
    GENERATION,
    REGISTRY_REVISION,
)
from control_plane.replica.waiting import Signal
from control_plane_sidecar import ofrep

GENERATION_HEADER: Final = "Control-Plane-Generation"
STALE_HEADER: Final = "Control-Plane-Stale"

_WORDS: Final = tuple(8 * word for word in (FLAGS_REVISION, CONFIG_REVISION, REGISTRY_REVISION))


class Flags:
    """The flags as of one change of them: the event that tells of it, and when it is the past."""

    def __init__(self, generation: int, modified_seconds: int) -> None:
        self.identity = str(generation)
        self.event = ofrep.refetch(generation, modified_seconds) if generation else b""
        self.moved = asyncio.Event()


class Changes:
    """Follows one client's replica while an application runs."""

    def __init__(
        self,
        client: ControlPlaneClient,
        beside: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time,
    ) -> None:
        """``beside`` is called with every look, once a second at least."""
        self._client = client
        self._beside = beside
        self._wall = wall
        self._seen: tuple[int, ...] = ()
        self.moved = asyncio.Event()
        self.stopping = False
        self.flags = Flags(0, 0)
        self.health: Health = client.health()
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.look()

    async def run(self, application: web.Application) -> AsyncIterator[None]:
        """Look for as long as the application runs."""
        loop, signal, over = asyncio.get_running_loop(), Signal(), threading.Event()

        def wait() -> None:
            while not over.is_set():
                # Before the look, so that what comes during it ends the next wait.
                signal.follow(self._client.source.folder)
                loop.call_soon_threadsafe(self.look)
                signal.wait()

        thread = threading.Thread(target=wait, name="control-plane-sidecar", daemon=True)
        thread.start()
        yield
        over.set()
        signal.wake()
        await asyncio.to_thread(thread.join)
        signal.close()

    def look(self) -> None:
        """See what is new and wake those who wait for it."""
        self._beside()
        self.health = health = self._client.health()
        words = self._client.source.words
        generation = str(words[8 * GENERATION])
        headers = CIMultiDict({"Content-Type": "application/json", GENERATION_HEADER: generation})
        if health.stale:
            headers[STALE_HEADER] = "true"
        self.headers = headers
        seen = tuple(words[word] for word in _WORDS)
        if seen == self._seen or not health.ready:
            return
        before, self._seen = self._seen, seen
        if before[:1] != seen[:1]:
            past, self.flags = self.flags, Flags(int(generation), int(self._wall()))
            past.moved.set()
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()

    def stop(self) -> None:
        """Let everybody who waits answer with what there is, now and from now on."""
        self.stopping = True
        self.flags.moved.set()
        self.moved.set()
