"""Services as child processes: started, awaited by the line they print, ended without leftovers.

A child says on stdout when it is ready; what it prints later is passed on. Its stderr is ours. A
child that ends before it is ready is an error that names it and its exit code.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO

from control_plane.errors import Unavailable

STOP_SECONDS = 10.0


class Child:
    """One running service. ``say`` is called with each line it prints, from a thread."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        say: Callable[[str], None] = lambda line: None,
        variables: Mapping[str, str] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> None:
        self.name = name
        self._say = say
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(variables or {})},
            # In our process group: whoever kills the group, even at once, leaves no child behind.
        )
        self._reader = threading.Thread(target=self._read, name=f"{name} output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def line(self, starting: str, timeout_seconds: float = 20.0) -> str:
        """The next line that starts so.

        Raises:
            Unavailable: the child ended, or did not print it in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                text = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise Unavailable(
                    f"{self.name}: expected {starting!r} within {timeout_seconds:.0f} s,"
                    " found nothing"
                ) from None
            if text is None:
                code = self._process.wait()
                raise Unavailable(f"{self.name}: expected it to run, found it ended with {code}")
            if text.startswith(starting):
                return text

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, wait, and insist after 10 seconds; a child that ended stays ended."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode("utf-8", "replace").rstrip()
            self._lines.put(text)
            self._say(text)
        self._lines.put(None)
