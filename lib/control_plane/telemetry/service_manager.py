"""What a service tells systemd of itself: ready, alive, stopping (sd_notify).

- Messages go as datagrams to the socket that ``NOTIFY_SOCKET`` names, a path or an abstract name
  (``@…``), in the form of sd_notify(3). Without the variable nothing is sent.
- Signs of life are sent at half the interval that ``WATCHDOG_USEC`` gives, as
  sd_watchdog_enabled(3) advises, by the event loop itself: a loop that hangs stops sending, and is
  ended and started again. With a ``WATCHDOG_PID`` of another process none are sent.
- Who takes the variables takes them away, so that no child process speaks for its parent.
- A service manager that does not listen is none of a service's trouble: a message that cannot be
  sent is dropped.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress


class ServiceManager:
    """The service manager this process was started by, if it wants to be told.

    ``address`` is a socket's path or ``@`` and an abstract name; ``watchdog_seconds`` how often it
    expects a sign of life. None stands for never.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str], pid: int | None = None) -> ServiceManager:
        """The one that the environment names, and names no longer; ``pid`` is ours by default."""
        address = environ.pop("NOTIFY_SOCKET", "") or None
        meant = environ.pop("WATCHDOG_PID", None)
        usec = environ.pop("WATCHDOG_USEC", "")
        mine = meant is None or meant == str(os.getpid() if pid is None else pid)
        seconds = int(usec) / 1e6 if usec.isascii() and usec.isdigit() and mine else 0.0
        return cls(address, seconds or None)

    def ready(self) -> None:
        """Say that the service does its work."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Say in one line what it does; ``systemctl status`` shows it."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that it has begun to end."""
        self._send("STOPPING=1")

    @asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """Give signs of life from the running event loop until the end of the block."""
        if self._address is None or self._watchdog_seconds is None:
            yield
            return
        task = asyncio.create_task(self._beat(self._watchdog_seconds / 2))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _beat(self, interval_seconds: float) -> None:
        while True:
            self.alive()
            await asyncio.sleep(interval_seconds)

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A name that begins with NUL is Linux's abstract one.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            # A full queue must not hold up the event loop.
            sender.setblocking(False)
            sender.sendto(message.encode(), address)
