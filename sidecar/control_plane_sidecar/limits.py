"""How much one client may ask: a rate, and how many requests at once.

- A client has ``rate`` requests to spend, and earns as many a second (a token bucket); a request
  that finds nothing left is refused with the seconds until there is something again.
- Long polls and event streams count among the requests at once for as long as they last.
- At most ``MAX_CLIENTS`` are remembered. One more takes the place of one that asks for nothing
  now, those first that have earned back all they may spend: forgetting these changes nothing.
  While all of them ask for something, it is refused.
- The clock is monotonic; one that stands or falls earns nobody anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Final

MAX_CLIENTS: Final = 1_024
FULL_SECONDS: Final = 1.0
"""How long a client with nothing left takes to have all again."""


class TooMany(Exception):
    """A request past its client's limits; ``retry_after_seconds`` is a whole number."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"expected fewer requests, found more; retry in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class _Client:
    __slots__ = ("asking", "at", "left")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at
        self.asking = 0


class Limits:
    """What each client has asked; for one event loop."""

    def __init__(
        self,
        rate: int,
        concurrent: int,
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``rate``: requests a second; ``concurrent``: requests at once."""
        self._rate = rate
        self._concurrent = concurrent
        self._max_clients = max_clients
        self._clock = clock
        self._clients: dict[str, _Client] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def enter(self, name: str) -> None:
        """Count a request that begins; `leave` must follow unless it raises.

        Raises:
            TooMany: it may not.
        """
        now = self._clock()
        client = self._clients.get(name)
        if client is None:
            client = self._added(name, now)
        if now > client.at:
            client.left = min(float(self._rate), client.left + (now - client.at) * self._rate)
            client.at = now
        if client.left < 1.0:
            raise TooMany(max(1, math.ceil((1.0 - client.left) / self._rate)))
        if client.asking >= self._concurrent:
            raise TooMany(1)
        client.left -= 1.0
        client.asking += 1

    def leave(self, name: str) -> None:
        """Count a request that ended."""
        self._clients[name].asking -= 1

    def _added(self, name: str, now: float) -> _Client:
        if len(self._clients) >= self._max_clients:
            self._forget(now)
        client = self._clients[name] = _Client(float(self._rate), now)
        return client

    def _forget(self, now: float) -> None:
        idle = [name for name, client in self._clients.items() if not client.asking]
        if not idle:
            raise TooMany(1)
        whole = [name for name in idle if now - self._clients[name].at >= FULL_SECONDS]
        for name in whole or [min(idle, key=lambda each: self._clients[each].at)]:
            del self._clients[name]
