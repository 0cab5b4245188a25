"""Which blobs the entries ahead need, which of them have come, and which are left out.

- A blob is asked for once per batch, together with those of the entries that follow: up to 512 at
  once. A second answer about it is not waited for.
- A key whose next change is announced in the same batch is *superseded*: its older blob is not
  asked for, and without it its value is left out.
- A blob the store deleted (*gone*) was superseded too, the store says. While more entries are
  announced that is believed and the value left out; at the log's end it is not, and the entry is
  held.
- A blob that neither came nor is gone is *missing*: its entry is held.

What superseded a value may be an entry that is rejected for its signatures. Then the key stays
noted as skipped, counts as held from the log's end on, and its blob is asked for like any held
entry's.

A known weakness: during a catch-up of several answers a store can call the blob of a live head
gone, and the other keys of that change set are served before the log's end shows the lie. Holding
the set until then would cost every honest catch-up more than the lie is worth: the large first
import of a log, of which some blobs are always gone, would be kept twice and served last of all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from control_plane.log.statements import Change, Key
from control_plane.replica.apply import Unservable
from control_plane_daemon.batch import Verified
from control_plane_daemon.shelf import Shelf
from control_plane_daemon.source import Fetched

LOOKAHEAD_BLOBS: Final = 512
"""How many missing blobs are asked for at once."""


class Wanting(Exception):
    """An entry names blobs nobody has been asked for yet."""


class Demand:
    """The blobs of the batch being taken: those on the shelf, and what became of the others."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._gone: set[str] = set()
        self._missing: dict[str, str] = {}

    def deliver(self, fetched: Fetched) -> None:
        """Take in what was fetched."""
        self._gone |= fetched.gone
        self._missing |= fetched.missing
        self.shelf.put(fetched.found)

    def superseded(
        self, changes: Iterable[Change], verified: Verified, index: int
    ) -> frozenset[Key]:
        """The keys to leave out of the entry at ``index``; the blobs of all others are at hand.

        Raises:
            Wanting: a blob has to be asked for first; see `ahead`.
            Unservable: one is not to be had.
        """
        superseded: set[Key] = set()
        for change in changes:
            digest = change.digest
            if digest is None or digest in self.shelf or not change.known:
                continue
            if verified.is_superseded(change.key, index, self.shelf.get):
                superseded.add(change.key)
            elif digest in self._gone:
                if not verified.more:
                    raise Unservable(f"{change.key}: expected blob {digest}, found it deleted")
                superseded.add(change.key)
            elif digest in self._missing:
                raise Unservable(f"{change.key}: {self._missing[digest]}")
            else:
                raise Wanting
        return frozenset(superseded)

    def ahead(self, verified: Verified, index: int) -> tuple[str, ...]:
        """What to ask for: all the entry at ``index`` lacks, and some of what follows."""
        wanted: dict[str, None] = {}
        for at in range(index, verified.end):
            for change in verified.announced(at, self.shelf.get):
                if change.digest is None or not self._lacks(change.digest):
                    continue
                if not verified.is_superseded(change.key, at, self.shelf.get):
                    wanted[change.digest] = None
            if len(wanted) >= LOOKAHEAD_BLOBS:
                break
        return tuple(wanted)

    def clear(self) -> None:
        """Forget everything: the batch was taken to its end."""
        self._gone.clear()
        self._missing.clear()
        self.shelf.clear()

    def _lacks(self, digest: str) -> bool:
        return not (digest in self.shelf or digest in self._gone or digest in self._missing)
