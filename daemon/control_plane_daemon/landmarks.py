"""Trees a log is held to while a node is still on its way to them.

A node that catches up in parts knows of larger trees than its own: the one it was enrolled with,
and every one whose signed checkpoint it was shown. Steps 2 and 3 hold for these too: no later
checkpoint is smaller than one of them, and where the node's own history, or a checkpoint, reaches
the size of one, it has that root. Without this a log could show one future and lead into another.

The newest shown checkpoint is stored beside the position, so a restart does not forget it.

A landmark belongs to one epoch. Where root says at which tree an epoch ends, a larger one that was
only shown is no longer ahead: the log was put back, and root has said so. The enrolled tree stays;
who trusts another history now was given another ``trust.json``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from control_plane.errors import Forked, RolledBack
from control_plane.log.checkpoint import Checkpoint
from control_plane.log.merkle import leaf_hash
from control_plane.log.note import Note
from control_plane.log.steps import Position

ENROLLED = "trust.json"
SHOWN = "a checkpoint shown before"


@dataclass(frozen=True, slots=True)
class Landmark:
    """A tree the log of ``origin`` has shown, or will have to come to; ``note`` says so, signed."""

    origin: str
    size: int
    root: bytes
    what: str
    note: bytes = b""


class Landmarks:
    """The trees ahead; begins with the enrolled one."""

    def __init__(self, enrolled: Landmark) -> None:
        self._marks = [enrolled]
        self.broken: Landmark | None = None
        """The landmark that the last `check` found contradicted."""

    def remember(self, note: bytes) -> None:
        """Hold the log to a checkpoint whose signature was verified; empty bytes are none."""
        if not note:
            return
        shown = Checkpoint.parse_text(Note.parse(note).text)
        place = (shown.origin, shown.size)
        if all((mark.origin, mark.size) != place for mark in self._marks):
            self._marks.append(Landmark(*place, shown.root, SHOWN, note))

    def end(self, origin: str, size: int, root: bytes, what: str) -> bool:
        """Hold an epoch to the tree that root ends it with; False when it was held to it before."""
        ending = Landmark(origin, size, root, what)
        if ending in self._marks:
            return False
        self._marks = [mark for mark in self._marks if (mark.origin, mark.what) != (origin, SHOWN)]
        self._marks.append(ending)
        return True

    def check(self, position: Position, leaves: tuple[bytes, ...], checkpoint: Checkpoint) -> None:
        """Accept the leaves after ``position``, and a checkpoint they were found to be covered by.

        Raises:
            RolledBack: the checkpoint is smaller than a landmark.
            Forked: another root stands where a landmark is.
        """
        self.broken = None
        self._marks = list(_ahead(self._marks, position))
        for mark in self._marks:
            if mark.origin == position.origin:
                self._check_mark(mark, position, leaves, checkpoint)

    def _check_mark(
        self, mark: Landmark, position: Position, leaves: tuple[bytes, ...], checkpoint: Checkpoint
    ) -> None:
        if checkpoint.size < mark.size:
            self.broken = mark
            raise RolledBack(
                f"{position.origin}: expected a size of at least {mark.size} ({mark.what}),"
                f" found {checkpoint.size}"
            )
        found = _root_at(mark.size, position, leaves, checkpoint)
        if found is not None and found != mark.root:
            self.broken = mark
            raise Forked(
                f"{position.origin}: expected root {mark.root.hex()} at size {mark.size}"
                f" ({mark.what}), found {found.hex()}"
            )


def _ahead(marks: Iterable[Landmark], position: Position) -> Iterable[Landmark]:
    """Those not passed yet: further on in this epoch, or in another."""
    for mark in marks:
        if mark.origin != position.origin or mark.size > position.size:
            yield mark


def _root_at(
    size: int, position: Position, leaves: tuple[bytes, ...], checkpoint: Checkpoint
) -> bytes | None:
    """The root these bytes give the tree of that size, None when they do not reach it."""
    if checkpoint.size == size:
        return checkpoint.root
    ahead = size - position.size
    if ahead > len(leaves):
        return None
    return position.frontier.extended(map(leaf_hash, leaves[:ahead])).root()
