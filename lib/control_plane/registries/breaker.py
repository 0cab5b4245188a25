"""When calls of a tool are refused for a while: a circuit breaker, as values and a clock.

- *closed*: attempts pass. ``threshold`` failures on end, with no success between, open it.
- *open*: every attempt is refused until ``open_seconds`` after it opened.
- *half-open*: one attempt passes as a probe, the others are refused. Its success closes the
  breaker, its failure opens it again. One that was cancelled decides nothing, the next is the
  probe.
- An attempt answers for the *period* it began in. One that ends after the state moved on changes
  nothing: an old success does not close what newer failures opened.

It is the same for threads and for coroutines on any number of loops: nothing here waits but for
a lock held for a few instructions. That is why it is not a library's. pybreaker 1.4 holds its lock
while the call runs and knows coroutines of Tornado's only; purgatory 3 has one breaker for threads
and another for asyncio, lets every caller through when half open and reads the wall clock;
aiobreaker was last released in 2021 and has no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final, Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """The state of one circuit; safe to share between threads and event loops.

    Without a ``threshold`` it never opens.
    """

    __slots__ = (
        "_clock", "_failures", "_lock", "_open_seconds", "_opened_at", "_period", "_probing",
        "_state", "_threshold",
    )  # fmt: skip

    def __init__(
        self, threshold: int | None, open_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._threshold: Final = threshold
        self._open_seconds: Final = open_seconds
        self._clock: Final = clock
        self._lock = Lock()
        self._state: State = "closed"
        self._failures = 0
        self._opened_at = 0.0
        self._period = 0
        self._probing = False

    @property
    def state(self) -> State:
        """closed, open or half-open; open turns half-open by time, whether asked for or not."""
        with self._lock:
            return self._now()

    def admit(self) -> int | None:
        """The period the attempt belongs to, or None when it is refused.

        Whoever is admitted reports the end with `succeeded`, `failed` or `abandoned`.
        """
        with self._lock:
            if self._state == "closed":
                return self._period
            if self._now() == "open" or self._probing:
                return None
            if self._state == "open":
                self._move("half-open")
            self._probing = True
            return self._period

    def succeeded(self, period: int) -> None:
        """The attempt kept the contract."""
        with self._lock:
            if period != self._period:
                return
            self._failures = 0
            if self._state == "half-open":
                self._move("closed")

    def failed(self, period: int) -> bool:
        """The attempt failed; whether that opened the breaker."""
        with self._lock:
            if period != self._period:
                return False
            self._failures += 1
            if self._state == "closed" and not self._reached():
                return False
            self._opened_at = self._clock()
            self._move("open")
            return True

    def abandoned(self, period: int) -> None:
        """The attempt was taken back and says nothing about the tool."""
        with self._lock:
            if period == self._period:
                self._probing = False

    def retry_after_seconds(self) -> float:
        """How long until a probe is let through; 0 unless open."""
        with self._lock:
            if self._now() != "open":
                return 0.0
            return self._open_seconds - (self._clock() - self._opened_at)

    def _now(self) -> State:
        if self._state == "open" and self._clock() - self._opened_at >= self._open_seconds:
            return "half-open"
        return self._state

    def _reached(self) -> bool:
        return self._threshold is not None and self._failures >= self._threshold

    def _move(self, state: State) -> None:
        self._state = state
        self._period += 1
        self._failures = 0
        self._probing = False
