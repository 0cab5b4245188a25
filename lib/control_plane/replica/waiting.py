"""Waiting until a replica may have changed, without asking it again and again.

- The writer's last step after a commit is a ``pwrite`` of the header's revision word, and a swap
  renames ``current`` in the ``v1`` folder. inotify on both ends the wait; where inotify is absent
  or used up (128 instances a user, by default) it ends every 50 ms instead.
- Nothing is lost between looking and waiting: the kernel queues what happens after `follow`, so
  whoever calls that before each look sees what came during it. A wait ends after a second anyway,
  which finds what no event told: a replica that was not there at all, an overflowing queue, a file
  system without inotify.

A reader that never waits does not load this module, nor ``select`` and ``ctypes`` with it.
"""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOOK_SECONDS = 1.0
POLL_SECONDS = 0.05

# linux/inotify.h
IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_CREATE = 0x100


class Signal:
    """Sleeps until a header or a ``current`` link changes, or somebody calls ``wake``."""

    def __init__(self) -> None:
        self._libc, self._inotify = _open_inotify()
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def follow(self, folder: str) -> None:
        """Wake for this environment's folder from now on; cheap to repeat, and must be.

        The header named by ``current`` is another file after a swap; adding a watch that exists
        changes nothing, so there is no state here that could go stale.
        """
        if self._libc is not None:
            v1 = os.path.join(folder, "v1")
            add = self._libc.inotify_add_watch
            add(self._inotify, os.fsencode(v1), IN_MOVED_TO | IN_CREATE)
            add(self._inotify, os.fsencode(os.path.join(v1, "current", "header")), IN_MODIFY)

    def wait(self) -> None:
        """Return after an event, after `wake`, or when it is time for a look anyway."""
        if self._libc is None:
            select.select([self._read_end], [], [], POLL_SECONDS)
        else:
            poll = select.poll()
            poll.register(self._inotify, select.POLLIN)
            poll.register(self._read_end, select.POLLIN)
            poll.poll(LOOK_SECONDS * 1000)
        for descriptor in (self._read_end, self._inotify):
            _drain(descriptor)

    def wake(self) -> None:
        """End the current or the next wait."""
        try:
            os.write(self._write_end, b"\0")
        except BlockingIOError:
            # A full pipe is readable: the wait ends without this byte.
            pass
        except OSError:
            # Closed by the thread that waited, on its way out.
            pass

    def close(self) -> None:
        """Give the descriptors back; also the child's part after a fork."""
        descriptors = (self._inotify, self._read_end, self._write_end)
        self._inotify = self._read_end = self._write_end = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


def _drain(descriptor: int) -> None:
    try:
        while descriptor >= 0 and os.read(descriptor, 65_536):
            pass
    except BlockingIOError:
        pass


def _open_inotify() -> tuple[Any, int]:
    """libc and an inotify descriptor, or (None, -1) where there is none to be had."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    except (ImportError, OSError, AttributeError, TypeError):
        return None, -1
    return (libc, descriptor) if descriptor >= 0 else (None, -1)
