"""Calls that their caller stops waiting for: threads that run one call each.

A thread cannot be stopped from outside. A call that takes too long goes on in its thread, its
result is dropped, and the thread is used again when it ends. So that a handler that hangs cannot
eat the process, the next call is refused once ``MAX_GIVEN_UP`` such calls still run.

The threads are daemons, unlike those of ``concurrent.futures``: an interpreter that ends does not
wait for a handler that hangs. An idle one ends by itself. A fork leaves none in the child: whoever
owns a pool makes a new one there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from threading import Lock, Thread
from typing import Any

MAX_GIVEN_UP = 64
"""Calls that nobody waits for any more and that still run."""
IDLE_SECONDS = 10.0


class TookTooLong(Exception):
    """The time is over; the call still runs."""


class TooManyGivenUp(Exception):
    """``MAX_GIVEN_UP`` calls still run that nobody waits for."""


class Workers:
    """Threads made when they are needed; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._idle: list[_Worker] = []
        self._given_up = 0
        self._closed = False

    def run(self, call: Callable[[], Any], timeout_seconds: float) -> Any:
        """What the call returns or raises, with the caller's context variables.

        Raises:
            TookTooLong: it has not ended in time.
            TooManyGivenUp: it was not begun.
        """
        job = _Job(call, copy_context())
        with self._lock:
            if self._given_up >= MAX_GIVEN_UP:
                raise TooManyGivenUp
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self)
        worker.take(job)
        try:
            ended = job.done.acquire(timeout=timeout_seconds)
        except BaseException:
            # An interrupt in the caller's thread: nobody waits any more.
            self._give_up(job)
            raise
        if not ended and self._give_up(job):
            raise TookTooLong
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None
        return job.result

    def close(self) -> None:
        """Let idle threads end; those that run a call end after it."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.take(None)

    def ended(self, worker: _Worker, job: _Job) -> bool:
        """Called by a worker after each call; whether it is to wait for another."""
        with self._lock:
            job.ended = True
            self._given_up -= job.given_up
            if not self._closed:
                self._idle.append(worker)
            again = not self._closed
        job.done.release()
        return again

    def tired(self, worker: _Worker) -> bool:
        """Called by a worker that nobody needed; False when it was chosen a moment ago."""
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                return True
            return False

    def _give_up(self, job: _Job) -> bool:
        """Whether the call still runs; from now on nobody waits for it."""
        with self._lock:
            if job.ended:
                return False
            job.given_up = True
            self._given_up += 1
            return True


class _Job:
    __slots__ = ("call", "context", "done", "ended", "error", "given_up", "result")

    def __init__(self, call: Callable[[], Any], context: Context) -> None:
        self.call = call
        self.context = context
        self.done = Lock()
        self.done.acquire()
        self.ended = False
        self.given_up = False
        self.error: BaseException | None = None
        self.result: Any = None

    def run(self) -> None:
        try:
            self.result = self.context.run(self.call)
        except BaseException as error:
            # Whatever it is, it belongs to the caller's thread.
            self.error = error


class _Worker:
    __slots__ = ("_job", "_wake", "_workers")

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._wake = Lock()
        self._wake.acquire()
        self._job: _Job | None = None
        Thread(target=self._run, name="control-plane-tool", daemon=True).start()

    def take(self, job: _Job | None) -> None:
        self._job = job
        self._wake.release()

    def _run(self) -> None:
        while True:
            if not self._wake.acquire(timeout=IDLE_SECONDS):
                if self._workers.tired(self):
                    return
                self._wake.acquire()
            job, self._job = self._job, None
            if job is None:
                return
            job.run()
            if not self._workers.ended(self, job):
                return
            # Nothing of a call is kept until the next.
            del job
