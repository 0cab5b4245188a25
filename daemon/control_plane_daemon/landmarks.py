"""Trees a log is held to while a node is still on its way to them.

A node that catches up in parts knows of larger trees than its own: the one it was enrolled with,
and every one whose signed checkpoint it was shown. Steps 2 and 3 hold for these too: no later
checkpoint is smaller than one of them, and where the node's own history, or a checkpoint, reaches
the size of one, it has that root. Without this a log could show one future and lead into another.

The newest shown checkpoint is stored beside the position, so a restart does not forget it.
"""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.errors import Forked, RolledBack
from control_plane.log.checkpoint import Checkpoint
from control_plane.log.merkle import leaf_hash
from control_plane.log.note import Note
from control_plane.log.steps import Position


@dataclass(frozen=True, slots=True)
class Landmark:
    """A tree this log has shown, or will have to come to."""

    size: int
    root: bytes
    what: str


class Landmarks:
    """The trees ahead; begins with the enrolled one."""

    def __init__(self, size: int, root: bytes, what: str) -> None:
        self._marks = [Landmark(size, root, what)]

    def remember(self, note: bytes) -> None:
        """Hold the log to a checkpoint whose signature was verified; empty bytes are none."""
        if not note:
            return
        shown = Checkpoint.parse_text(Note.parse(note).text)
        if all(mark.size != shown.size for mark in self._marks):
            self._marks.append(Landmark(shown.size, shown.root, "a checkpoint shown before"))

    def check(self, position: Position, leaves: tuple[bytes, ...], checkpoint: Checkpoint) -> None:
        """Accept the leaves after ``position``, and a checkpoint they were found to be covered by.

        Raises:
            RolledBack: the checkpoint is smaller than a landmark.
            Forked: another root stands where a landmark is.
        """
        self._marks = [mark for mark in self._marks if mark.size > position.size]
        for mark in self._marks:
            if checkpoint.size < mark.size:
                raise RolledBack(
                    f"{position.origin}: expected a size of at least {mark.size} ({mark.what}),"
                    f" found {checkpoint.size}"
                )
            found = _root_at(mark.size, position, leaves, checkpoint)
            if found is not None and found != mark.root:
                raise Forked(
                    f"{position.origin}: expected root {mark.root.hex()} at size {mark.size}"
                    f" ({mark.what}), found {found.hex()}"
                )


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
