"""The header file: 64 words through which the writer tells readers what moved.

- 4,096 bytes; word ``i`` is a little-endian u64 at byte ``64 * i``, so each has a cache line to
  itself and is loaded and stored whole: aligned eight-byte accesses do not tear on x86-64 and
  arm64. Through ``memoryview.cast("Q")`` word ``i`` is element ``8 * i``.
- The file is written whole beside its place and renamed into it once. It is never truncated
  (a reader's map would fault) and never replaced (a reader would watch the old one for ever).
- No two words are promised to belong together. After a commit the writer changes them in the
  order transaction id, generation, commit time, class revisions, revision; a reader that saw a
  later one move therefore finds the earlier ones moved too.
- ``revision`` alone is written with ``pwrite``, because stores through a map raise no inotify
  event; everything a watcher needs is in place before it.
"""

from __future__ import annotations

import mmap
import os
import sys

from control_plane.errors import (
    FormatUnsupported,
    ReplicaCorrupt,
    ReplicaUnavailable,
    UnsupportedPlatformError,
)

HEADER_BYTES = 4096
WORD_BYTES = 64
FORMAT = 1

MAGIC = 0  # b"CPLANE" and the u16 format
MIN_READER = 1  # the oldest reader that understands this folder
BOOT_ID = 2  # first 8 bytes of the kernel's boot id when the writer last started
REVISION = 3  # rises after every change a reader can see; inotify fires
GENERATION = 4
FLAGS_REVISION = 5  # rises when a flag or segment changed
CONFIG_REVISION = 6
REGISTRY_REVISION = 7  # rises when an agent, tool, channel, status or resolution changed
TXN_ID = 8  # the newest committed transaction
SAFE_TXNID = 9  # the oldest transaction a reader may still use
COMMIT_TIME_NS = 10  # wall clock, ns since 1970
HEARTBEAT_NS = 11  # wall clock, ns since 1970
CHECKPOINT_TIME_S = 12  # the newest cosignature's time, seconds since 1970; 0 = none
STATE = 13
TOMBSTONE = 14  # not 0: the folder that `current` names has taken this one's place

CLASS_REVISIONS = (FLAGS_REVISION, CONFIG_REVISION, REGISTRY_REVISION)

# Bits of STATE.
DEVELOPMENT = 1  # written by a development daemon or a test kit: trust nothing in it
STALE = 2
HELD = 4
REJECTED = 8
DISK = 16
TRUST_EXPIRED = 32
CLOCK = 64

MAGIC_VALUE = int.from_bytes(b"CPLANE" + FORMAT.to_bytes(2, "little"), "little")
# SAFE_TXNID before the writer published one: no transaction is that new, so none is readable.
NOTHING_SAFE = (1 << 64) - 1


def check_platform() -> None:
    """Raise `UnsupportedPlatformError` where a replica cannot be mapped."""
    if sys.platform == "win32":
        raise UnsupportedPlatformError(
            "expected Linux or macOS to open a replica, found Windows; run the process in WSL"
        )
    if sys.byteorder != "little":
        raise UnsupportedPlatformError(
            "expected a little-endian processor to open a replica, found a big-endian one"
        )


def empty_words() -> memoryview:
    """Return a private all-zero page: the header of a replica that is not there yet."""
    return memoryview(bytes(HEADER_BYTES)).cast("Q")


def map_header(path: str) -> memoryview:
    """Return the words of the header file at ``path``, read-only and shared with its writer.

    The map lives as long as the view or anything sliced from it.

    Raises:
        ReplicaUnavailable: there is no such file, or it may not be read.
        ReplicaCorrupt: the file is no header.
        FormatUnsupported: its writer is newer than this reader.
    """
    check_platform()
    return _map(path, os.O_RDONLY, mmap.PROT_READ)


def _map(path: str, flags: int, protection: int) -> memoryview:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size != HEADER_BYTES:
                raise ReplicaCorrupt(
                    f"{path}: expected a header of {HEADER_BYTES} bytes, found {size}; "
                    "restart the daemon to rebuild the replica"
                )
            page = mmap.mmap(descriptor, HEADER_BYTES, mmap.MAP_SHARED, protection)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ReplicaUnavailable(
            f"{path}: expected a replica header that can be mapped, found {error.strerror}; "
            "start the daemon or name another replica"
        ) from error
    words = memoryview(page).cast("Q")
    _check_words(path, words)
    return words


def _check_words(path: str, words: memoryview) -> None:
    magic, min_reader = words[8 * MAGIC], words[8 * MIN_READER]
    if magic & 0xFFFFFFFFFFFF != MAGIC_VALUE & 0xFFFFFFFFFFFF:
        raise ReplicaCorrupt(
            f"{path}: expected the magic {MAGIC_VALUE:016x}, found {magic:016x}; "
            "restart the daemon to rebuild the replica"
        )
    if min_reader > FORMAT:
        raise FormatUnsupported(
            f"{path}: expected a replica for reader {FORMAT}, found one for reader {min_reader}; "
            "upgrade control-plane in this process"
        )


class HeaderWriter:
    """The writer's hold on a header file."""

    __slots__ = ("_descriptor", "words")

    def __init__(self, path: str) -> None:
        """Map an existing header for writing.

        Raises:
            ReplicaUnavailable | ReplicaCorrupt | FormatUnsupported: as `map_header`.
        """
        check_platform()
        self.words = _map(path, os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __getitem__(self, word: int) -> int:
        return int(self.words[8 * word])

    def __setitem__(self, word: int, value: int) -> None:
        if word == REVISION:
            os.pwrite(self._descriptor, value.to_bytes(8, "little"), WORD_BYTES * REVISION)
        else:
            self.words[8 * word] = value

    def sync(self) -> None:
        """Wait until the words as they are now would survive a crash of the machine."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file; its bytes stay."""
        os.close(self._descriptor)


def create_header(path: str, values: dict[int, int]) -> None:
    """Write a new header, mode 0644 whatever the umask, durable when this returns.

    A crash before the rename leaves a ``.new`` file that the next call overwrites.

    Raises:
        FileExistsError: there is a header already; it may be mapped, so it is never replaced.
        OSError: the file cannot be written.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path}: expected no header yet, found one")
    page = bytearray(HEADER_BYTES)
    words = memoryview(page).cast("Q")
    defaults = {MAGIC: MAGIC_VALUE, MIN_READER: FORMAT, SAFE_TXNID: NOTHING_SAFE}
    for word, value in (defaults | values).items():
        words[8 * word] = value
    temporary = path + ".new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        os.write(descriptor, page)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
