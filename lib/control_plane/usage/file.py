"""The writer's side of one usage file, as ``slots`` lays it out.

What keeps it from doing harm to the application it belongs to:

- Blocks are reserved with ``posix_fallocate`` before they are stored to: a full disk is an
  ``OSError`` here and no SIGBUS there.
- Before stores the file is asked for its size, so that one which somebody cut short is left alone.
- It appears under its name only once it is locked and whole. The lock is the map's, so it goes
  with the process, however that ends; a forked child lets go of its copy of the map.
"""

from __future__ import annotations

import fcntl
import os
from mmap import MAP_SHARED, PROT_READ, PROT_WRITE, mmap

from control_plane.usage.slots import (
    ENVIRONMENT_AT,
    FILE_BYTES,
    HEADER_BYTES,
    MAGIC,
    MAX_NAMES_BYTES,
    MAX_SLOTS,
    NAMES_AT,
    NAMES_WORD,
    SLOTS_WORD,
    VALUES_AT,
    named,
)

RESERVED_BYTES = 4096
MODE = 0o644
"""The daemon may be another user's: it reads, and nobody else writes."""


class UsageFile:
    """A file of this process in the usage folder.

    Raises:
        OSError: it cannot be made there; nothing is left behind.
    """

    __slots__ = ("_map", "_names_end", "_reserved", "_slots", "_words", "inode", "path")

    def __init__(self, folder: str, environment: str) -> None:
        name = os.urandom(16).hex()
        self.path = os.path.join(folder, name)
        made = os.path.join(folder, "." + name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(made, flags, MODE)
        try:
            # The umask of an application does not keep its daemon from reading.
            os.fchmod(descriptor, MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, FILE_BYTES)
            self._reserved = {"values": VALUES_AT, "names": NAMES_AT}
            os.posix_fallocate(descriptor, 0, HEADER_BYTES)
            self._slots: dict[bytes, int] = {}
            self._names_end = 0
            # The map has a descriptor of its own for the same open file: the lock stays with it.
            self._map = mmap(descriptor, FILE_BYTES, MAP_SHARED, PROT_READ | PROT_WRITE)
            self._words = memoryview(self._map).cast("Q")
            given = environment.encode()
            self._map[ENVIRONMENT_AT : ENVIRONMENT_AT + len(given)] = given
            self._words[0] = MAGIC
            self.inode = os.fstat(descriptor).st_ino
            os.rename(made, self.path)
        except BaseException:
            _remove(made)
            raise
        finally:
            os.close(descriptor)

    def is_whole(self) -> bool:
        """Whether stores are safe: nobody cut it short, or closed what is not theirs."""
        try:
            return self._map.size() == FILE_BYTES
        except (OSError, ValueError):
            return False

    def is_in_place(self) -> bool:
        """Whether the daemon can find it: nobody took it away."""
        try:
            return os.stat(self.path, follow_symlinks=False).st_ino == self.inode
        except OSError:
            return False

    def add(self, name: bytes, count: int) -> bool:
        """Raise a slot; False where there is no room for another one.

        Raises:
            OSError: no space is left for it.
        """
        slot = self._slots.get(name)
        if slot is None:
            slot = self._begin(name)
            if slot is None:
                return False
        self._words[VALUES_AT // 8 + slot] += count
        return True

    def _begin(self, name: bytes) -> int | None:
        slot, entry = len(self._slots), named(name)
        end = self._names_end + len(entry)
        if slot == MAX_SLOTS or end > MAX_NAMES_BYTES:
            return None
        self._reserve("values", VALUES_AT + 8 * (slot + 1))
        self._reserve("names", NAMES_AT + end)
        self._map[NAMES_AT + self._names_end : NAMES_AT + end] = entry
        self._words[NAMES_WORD] = self._names_end = end
        self._words[SLOTS_WORD] = slot + 1
        self._slots[name] = slot
        return slot

    def _reserve(self, part: str, end: int) -> None:
        reserved = self._reserved[part]
        if end <= reserved:
            return
        more = -(-(end - reserved) // RESERVED_BYTES) * RESERVED_BYTES
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags)
        try:
            if os.fstat(descriptor).st_ino != self.inode:
                raise FileNotFoundError(self.path)
            os.posix_fallocate(descriptor, reserved, more)
        finally:
            os.close(descriptor)
        self._reserved[part] = reserved + more

    def close(self) -> None:
        """Let go of the file and its lock; the daemon takes the last numbers and removes it."""
        self._words.release()
        self._map.close()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        # Gone already, or not ours to remove any more: the daemon does it.
        return
