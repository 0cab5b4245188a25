"""The flags of one generation, shared by the bulk requests that come for it.

- What is held is a pinned view, and its flags are loaded once. It is in force until flags move,
  the replica is swapped or `HELD_SECONDS` have passed, well within the ten for which a view is
  promised to be readable. One that is replaced is closed when the last request has left it.
- Loading happens in a thread, once for all who wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from time import monotonic
from typing import Any, Final

from control_plane.client import ControlPlaneClient
from control_plane.errors import ReplicaUnavailable
from control_plane.feature_flags.flag_manager import PinnedFlags
from control_plane.replica.format import FLAG, HEADER_BYTES
from control_plane.replica.header import FLAGS_REVISION, GENERATION, TOMBSTONE
from control_plane.replica.reader import View
from control_plane_sidecar import ofrep

HELD_SECONDS: Final = 5.0
AT_ONCE: Final = 256
"""Flags evaluated before other requests have their turn."""

# What a record holds whose answer the clock can change: a rule's times, flagd's $flagd.timestamp.
_BY_THE_CLOCK: Final = (b"from", b"until", b"timestamp")

Mark = tuple[int, int, int]


class Generation:
    """One snapshot's flags; made and closed by `Generations`."""

    def __init__(self, view: View, flags: PinnedFlags, environment: str) -> None:
        self._view = view
        self._flags = flags
        self.environment = environment
        self.number = view.generation
        self.names = tuple(flags.all_flags())
        records = [raw for _, raw in view.scan(bytes((FLAG,)))]
        self.by_the_clock = any(word in raw for raw in records for word in _BY_THE_CLOCK)
        # A development replica that was made anew may come to the same number by other changes.
        self.digest = sha256(b"".join(raw[:HEADER_BYTES] for raw in records)).digest()
        self.users = 0
        self.retired = False

    async def answers(self, context: dict[str, Any]) -> list[ofrep.Answer]:
        """Every flag's answer for one context, by name; none is counted."""
        decided, found = self._flags.decided, []
        for position, name in enumerate(self.names, 1):
            found.append(ofrep.answer(name, *decided(name, None, None, context)))
            if not position % AT_ONCE:
                await asyncio.sleep(0)
        return found

    def close_unused(self) -> None:
        """Let go of the snapshot if nobody will ask it any more."""
        if self.retired and not self.users:
            self._view.close()


class Generations:
    """The generation in force."""

    def __init__(self, client: ControlPlaneClient) -> None:
        self._client = client
        self._held: Generation | None = None
        self._mark: Mark = (0, 0, 0)
        self._until = 0.0
        self._loading = asyncio.Lock()

    @asynccontextmanager
    async def current(self) -> AsyncIterator[Generation]:
        """The newest generation, open for as long as the block runs.

        Raises:
            ReplicaUnavailable: there is none.
        """
        held = await self._newest()
        held.users += 1
        try:
            yield held
        finally:
            held.users -= 1
            held.close_unused()

    def close(self) -> None:
        """Let go of what is held."""
        self._replace(None)

    async def _newest(self) -> Generation:
        async with self._loading:
            mark = self._marked()
            if self._held is None or mark != self._mark or monotonic() >= self._until:
                # The mark is older than the snapshot: what moves in between is loaded once more.
                self._replace(await self._loaded())
                self._mark = mark
                self._until = monotonic() + HELD_SECONDS
            assert self._held is not None
            return self._held

    async def _loaded(self) -> Generation:
        loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        try:
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            # Whoever asked has hung up; the thread goes on, and nobody wants what it opens.
            loading.add_done_callback(_dropped)
            raise

    def _marked(self) -> Mark:
        self._client.source.open()
        words = self._client.source.words
        return words[8 * FLAGS_REVISION], words[8 * GENERATION], words[8 * TOMBSTONE]

    def _load(self) -> Generation:
        source = self._client.source
        replica = source.open()
        if replica is None or source.environment is None:
            raise ReplicaUnavailable(str(source.error))
        view = replica.view()
        try:
            flags = self._client.flags.pinned_to(view)
            return Generation(view, flags, source.environment)
        except BaseException:
            view.close()
            raise

    def _replace(self, new: Generation | None) -> None:
        old, self._held = self._held, new
        if old is not None:
            old.retired = True
            old.close_unused()


def _dropped(loading: asyncio.Future[Generation]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        unwanted = loading.result()
        unwanted.retired = True
        unwanted.close_unused()
