"""Where a client's reads come from, while replicas appear, are swapped and disappear.

- Making a source never fails: until there is a replica its words are a page of zeros, and it
  looks again when asked, at most once a second. `error` keeps what the last look found.
- A tombstone in the header says that ``current`` names another folder. The source opens that one
  and only then lets go of the old one; while it cannot, the old data stays in use.
- The old replica is closed a minute later, or at the next swap if that comes first: other threads
  may be about to read it.
- Every class revision of the new header differs from the old header's, so whoever compares
  revisions reads everything anew.
"""

from __future__ import annotations

import os
from time import monotonic

from control_plane.errors import ControlPlaneError, ReplicaUnavailable
from control_plane.replica.header import TOMBSTONE, empty_words
from control_plane.replica.reader import OPEN, open_replica

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.replica.reader import Replica

FORMAT_FOLDER = "v1"
LOOK_INTERVAL_SECONDS = 1.0
RETIRED_SECONDS = 60.0
MAX_FOLLOWED_SWAPS = 8

_TOMBSTONE = 8 * TOMBSTONE


class ReplicaSource:
    """The replica of one environment folder, through swaps and absences.

    ``words`` are the current header's words (word ``i`` at ``8 * i``), all zero while there is no
    replica; take them again after `open`. ``error`` is what the last look failed with, or None.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_look_at",
        "_replica",
        "_retired",
        "_retired_at",
        "error",
        "folder",
        "words",
    )

    def __init__(self, folder: str, clock: Callable[[], float] = monotonic) -> None:
        """``folder`` is ``<replica root>/<environment>``; ``clock`` counts seconds."""
        self.folder = folder
        self.words = empty_words()
        self.error: ControlPlaneError | None = None
        self._clock = clock
        self._look_at: float | None = None
        self._replica: Replica | None = None
        self._retired: Replica | None = None
        self._retired_at = 0.0
        self._closed = False

    def open(self) -> Replica | None:
        """Return the replica to read, or None while there is none; never raises.

        The replica belongs to the source: its callers do not close it.
        """
        replica = self._replica
        if replica is not None and self._retired is None and not replica.words[_TOMBSTONE]:
            return replica
        with OPEN.moving:
            self._close_retired()
            self._move()
            return self._replica

    def close(self) -> None:
        """Let go of the replica. May be called again."""
        with OPEN.moving:
            self._closed = True
            self.words = empty_words()
            self.error = ReplicaUnavailable(
                f"{self.folder}: expected an open source, found it closed"
            )
            for replica in (self._replica, self._retired):
                if replica is not None:
                    replica.close()
            self._replica = self._retired = None

    def _move(self) -> None:
        """Open the folder that ``current`` names, unless it is open or it is too soon."""
        old = self._replica
        if self._closed or (old is not None and not old.words[_TOMBSTONE]):
            return
        now = self._clock()
        if self._look_at is not None and now < self._look_at:
            return
        try:
            new = _open_current(self.folder)
        except ControlPlaneError as error:
            self.error = error
            self._look_at = now + LOOK_INTERVAL_SECONDS
            return
        self.error = self._look_at = None
        # The replica first: whoever sees the new words also finds the replica they speak of.
        self._replica, self.words = new, new.words
        if old is not None:
            self._retire(old, now)

    def _retire(self, old: Replica, now: float) -> None:
        if self._retired is not None:
            self._retired.close()
        self._retired, self._retired_at = old, now

    def _close_retired(self) -> None:
        retired = self._retired
        if retired is not None and self._clock() >= self._retired_at + RETIRED_SECONDS:
            self._retired = None
            retired.close()


def _open_current(folder: str) -> Replica:
    """Open the folder in use; one that is swapped away and deleted meanwhile is not waited for."""
    directory = current_folder(folder)
    for _ in range(MAX_FOLLOWED_SWAPS):
        try:
            return open_replica(directory)
        except ControlPlaneError:
            before, directory = directory, current_folder(folder)
            if directory == before:
                raise
    return open_replica(directory)


def current_folder(folder: str) -> str:
    """Return the numbered folder in use under an environment's folder.

    The link is resolved once: header and database must come from the same folder, and the link
    may move between two opens.

    Raises:
        ReplicaUnavailable: there is no link.
    """
    formats = os.path.join(folder, FORMAT_FOLDER)
    try:
        return os.path.join(formats, os.readlink(os.path.join(formats, "current")))
    except OSError as error:
        raise ReplicaUnavailable(
            f"{folder}: expected a replica, found {error.strerror}; start the daemon or name "
            "another replica"
        ) from error
