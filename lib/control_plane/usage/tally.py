"""The daemon's side: what all processes of a node have served, summed from their files.

What this module decides:

- A file is read by its bytes, never mapped: one that shrinks under the reader gives fewer bytes and
  no fault. Nothing in it is believed. One that is no regular file, of another size, with other
  words, names or environment than there can be, with a slot that went down, or with one that rose
  by more than a process can count, is ignored from then on; what it told before stays.
- A slot's rise since the last look is added, so nothing is counted twice, however often it is read.
- A file whose lock can be had belongs to nobody alive: its last numbers are taken, and it is
  removed. What cannot be removed is remembered, and not counted again. A file that is gone took
  nothing with it but what was never read.
- What lies there at the first look is where counting begins: an earlier daemon of this node may
  have told it already, and a sum that starts again at zero is what Prometheus expects.
- Bounded: 4,096 files, 20,000 names; what comes under other names is summed under ``other``.
"""

from __future__ import annotations

import fcntl
import os
import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import lt

from control_plane.names import ENVIRONMENT
from control_plane.usage import slots

MAX_FILES = 4096
MAX_NAMES = 20_000
MAX_RISE = 1 << 40
OTHER = "other"
FOLDER_MODE = 0o1777

Name = tuple[str, str, str]
Key = tuple[str, str, str, str]
"""Environment, and the name's word and two fields."""


class Faulty(Exception):
    """A file that no writer of ours left; its text says what is wrong."""


@dataclass(slots=True)
class Seen:
    """What was read of one file so far."""

    inode: int
    environment: str = ""
    keys: list[Key] = field(default_factory=list)
    names_end: int = 0
    values: array[int] = field(default_factory=lambda: array("Q"))
    is_ignored: bool = False


class Tally:
    """The sums of one usage folder since the first `collect`.

    ``ignored`` counts the files that were refused, ``alive`` is how many are being written;
    ``tell`` is given a line for each refused file.
    """

    def __init__(self, folder: str, tell: Callable[[str], object] = lambda line: None) -> None:
        self.totals: dict[Key, int] = {}
        self.ignored = self.alive = 0
        self._folder = folder
        self._tell = tell
        self._seen: dict[str, Seen] = {}
        self._has_begun = False

    def collect(self) -> None:
        """Add what was counted since the last time; a folder that cannot be read adds nothing."""
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for _, entry in zip(range(MAX_FILES), entries, strict=False)]
        except OSError:
            return
        self.alive = 0
        for name in self._seen.keys() - set(names):
            del self._seen[name]
        for name in names:
            self._look(name)
        self._has_begun = True

    def _look(self, name: str) -> None:
        path = os.path.join(self._folder, name)
        # Never waits for a FIFO's other end, never follows a link out of the folder.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except OSError:
            return
        try:
            status = os.fstat(descriptor)
            seen = self._seen.get(name)
            if seen is None or seen.inode != status.st_ino:
                seen = self._seen[name] = Seen(status.st_ino)
            # Before it is read: what a process wrote last is there once its lock is free.
            is_dead = _is_free(descriptor)
            if not name.startswith(".") and not seen.is_ignored:
                self._read(name, descriptor, status, seen)
            if is_dead:
                # Whoever is about to lock a file it has just made finds it gone, and makes another.
                seen.is_ignored = _remains(path)
            else:
                self.alive += not name.startswith(".")
        finally:
            os.close(descriptor)

    def _read(self, name: str, descriptor: int, status: os.stat_result, seen: Seen) -> None:
        try:
            values = _values(descriptor, status, seen)
        except (Faulty, OSError) as error:
            seen.is_ignored = True
            self.ignored += 1
            self._tell(f"{os.path.join(self._folder, name)}: {error}; its numbers are ignored")
            return
        self._add(seen, values)
        seen.values = values

    def _add(self, seen: Seen, values: array[int]) -> None:
        if not self._has_begun or values == seen.values:
            return
        before = seen.values + array("Q", bytes(8 * (len(values) - len(seen.values))))
        for key, now, then in zip(seen.keys, values, before, strict=True):
            if now != then:
                known = self.totals.get(key)
                if known is None and len(self.totals) >= MAX_NAMES:
                    key = (key[0], key[1], OTHER, OTHER)
                    known = self.totals.get(key)
                self.totals[key] = (known or 0) + now - then


def _values(descriptor: int, status: os.stat_result, seen: Seen) -> array[int]:
    """The slots as they are now; ``seen`` gets names that are new.

    Raises:
        Faulty: it is no usage file, or not what it was.
    """
    if (status.st_mode & 0o170000) != 0o100000 or status.st_size != slots.FILE_BYTES:
        raise Faulty(f"expected a file of {slots.FILE_BYTES:,} bytes, found {status.st_size:,}")
    header = os.pread(descriptor, slots.ENVIRONMENT_AT + slots.ENVIRONMENT_BYTES, 0)
    words = [int.from_bytes(header[at : at + 8], "little") for at in (0, 8, 16)]
    count, names_end = words[slots.SLOTS_WORD], words[slots.NAMES_WORD]
    if words[0] == 0 and not seen.keys:
        # It was made, and its header not written yet, or its process died over that.
        return array("Q")
    if words[0] != slots.MAGIC or not len(seen.keys) <= count <= slots.MAX_SLOTS:
        raise Faulty("expected a usage file's header, found another")
    if not seen.names_end <= names_end <= slots.MAX_NAMES_BYTES:
        raise Faulty(f"expected at most {slots.MAX_NAMES_BYTES:,} bytes of names that stay")
    _take_names(descriptor, header, count, names_end, seen)
    count = len(seen.keys)
    data = os.pread(descriptor, 8 * count, slots.VALUES_AT)
    if len(data) != 8 * count:
        raise Faulty(f"expected {count} slots, found it cut short")
    values = array("Q", data)
    if sys.byteorder == "big":
        values.byteswap()
    if any(map(lt, values, seen.values)):
        raise Faulty("expected counts that only grow, found one that went down")
    rises = (now - then for now, then in zip(values, seen.values, strict=False) if now != then)
    if max(values, default=0) > slots.MAX_VALUE or max(rises, default=0) > MAX_RISE:
        raise Faulty("expected counts of what a process can serve, found more")
    return values


def _take_names(descriptor: int, header: bytes, count: int, end: int, seen: Seen) -> None:
    """Read the names of slots that are new."""
    if count == len(seen.keys):
        return
    if not seen.environment:
        environment = header[slots.ENVIRONMENT_AT :].rstrip(b"\0").decode("ascii", "replace")
        if not ENVIRONMENT.fullmatch(environment):
            raise Faulty(f"expected the name of an environment, found {environment!r}")
        seen.environment = environment
    # A slot's number is stored last: names may already be there for one that is not told yet, and
    # are read again with it.
    data = os.pread(descriptor, end - seen.names_end, slots.NAMES_AT + seen.names_end)
    found = slots.read_names(data, count - len(seen.keys))
    if found is None:
        again = int.from_bytes(os.pread(descriptor, 8, 8), "little")
        if again != count:
            # Being written just now.
            return
        raise Faulty("expected a name for each slot, found other bytes")
    seen.keys += [(seen.environment, *name) for name in found]
    seen.names_end = end


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remains(path: str) -> bool:
    """Remove a file; whether it is still there."""
    try:
        os.unlink(path)
    except OSError:
        return True
    return False


def make_folder(folder: str) -> bool:
    """Make the usage folder for everybody's files; whether it is there."""
    try:
        os.makedirs(folder, exist_ok=True)
        if os.stat(folder).st_uid == os.geteuid():
            os.chmod(folder, FOLDER_MODE)
    except OSError:
        return False
    return os.path.isdir(folder)


def top(counts: dict[str, int], most: int) -> Iterable[tuple[str, int]]:
    """The ``most`` greatest of these, and all others under ``other``; in a stable order."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [item for item in ordered[:most] if item[0] != OTHER]
    rest = sum(counts.values()) - sum(count for _, count in kept)
    return [*kept, (OTHER, rest)] if rest else kept
