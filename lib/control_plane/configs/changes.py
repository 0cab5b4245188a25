"""Changes of configuration as an asynchronous iterator.

- The thread that serves all watches of the manager hands each change to the event loop; there is
  no thread for an iterator, and nothing is asked in between.
- Changes count from the moment `ConfigManager.changes` is called, and wait until they are taken:
  up to 1,000, then the last one waiting takes in what comes, from its old value to the newest.
- Whoever stops iterating (a ``break``, a cancelled task) ends the watch with the iterator's last
  reference, or at once with ``aclose`` or ``async with``. A closed manager ends the iteration.
- An iterator belongs to the event loop it was made in, and does not live on in a forked child.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import TYPE_CHECKING, Self

from control_plane.configs.watch import Change

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.configs.watch import Watch

    Register = Callable[[Callable[[Change], object], Callable[[], object]], Watch]

MAX_WAITING = 1_000


class Changes:
    """Gives the changes below one prefix, in order; made by `ConfigManager.changes`.

    Raises:
        RuntimeError: made outside of a running event loop.
    """

    def __init__(self, register: Register) -> None:
        # The watch knows the mailbox only, so that nobody holds an iterator nobody iterates.
        self._mailbox = mailbox = _Mailbox(asyncio.get_running_loop())
        self._watch = register(mailbox.put, mailbox.end)
        self._finalizer = weakref.finalize(self, self._watch.close)
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        mailbox = self._mailbox
        while not mailbox.waiting:
            if mailbox.ended:
                raise StopAsyncIteration
            mailbox.moved.clear()
            await mailbox.moved.wait()
        return mailbox.waiting.popleft()

    async def aclose(self) -> None:
        """End the watch; what was not taken yet is dropped. May be called again."""
        self._finalizer()
        self._mailbox.waiting.clear()
        self._mailbox.ended = True
        self._mailbox.moved.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Mailbox:
    """What waits to be taken; everything but ``put`` and ``end`` happens in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting: deque[Change] = deque()
        self.moved = asyncio.Event()
        self.ended = False

    def put(self, change: Change) -> None:
        """Hand a change to the loop; called by the watcher's thread."""
        self._in_loop(self._arrived, change)

    def end(self) -> None:
        """Let the iteration end after what has been put; called by any thread."""
        self._in_loop(self._ended)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # The loop is closed: nobody will ever take anything from here.
            self.ended = True

    def _arrived(self, change: Change) -> None:
        if self.ended:
            return
        if len(self.waiting) >= MAX_WAITING:
            change.old = self.waiting.pop().old
        self.waiting.append(change)
        self.moved.set()

    def _ended(self) -> None:
        self.ended = True
        self.moved.set()
