"""A batch that passed steps 1 to 3, and what its entries announce before they are judged.

An entry is known to be the log's once its batch is verified, but not yet to be accepted: its
signatures and its ``replaces`` may still be refused. So what is read here ahead of judgement
decides only which blobs to ask for and which to leave out, never what is served. A change counts
as followed by a newer one where an entry announces that it ``replaces`` exactly this generation:
an entry that the log's fold is sure to reject takes no value away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from control_plane.errors import InputInvalid
from control_plane.log.checkpoint import SignedCheckpoint
from control_plane.log.leaf import Leaf
from control_plane.log.statements import (
    Change,
    ChangeSet,
    Key,
    decode_change_list,
    parse_statement,
)
from control_plane.log.steps import BlobMissing

Blobs = Callable[[str], bytes | None]
"""Digest → bytes, None where they are not at hand."""


@dataclass(slots=True)
class Verified:
    """Entries ``first`` to ``end`` under a signed checkpoint; ``more`` follow in another answer.

    ``generation`` is that of the entry before the first.
    """

    first: int
    generation: int
    data: tuple[bytes, ...]
    leaves: tuple[Leaf, ...]
    checkpoint: SignedCheckpoint
    more: bool
    _replaced: set[tuple[Key, int | None]] | None = field(default=None, init=False)

    @property
    def end(self) -> int:
        """The index after the last entry."""
        return self.first + len(self.leaves)

    def announced(self, index: int, blobs: Blobs) -> tuple[Change, ...]:
        """The changes the entry at ``index`` lists, as far as they can be read now."""
        try:
            return read_changes(self.leaves[index - self.first], blobs)
        except (InputInvalid, BlobMissing):
            return ()

    def is_superseded(self, key: Key, index: int, blobs: Blobs) -> bool:
        """Whether an entry announces the change of the key that follows the one at ``index``."""
        if self._replaced is None:
            self._replaced = {
                (change.key, change.replaces)
                for at in range(self.first, self.end)
                for change in self.announced(at, blobs)
            }
        return (key, self.generation + 1 + index - self.first) in self._replaced


def read_changes(leaf: Leaf, blobs: Blobs) -> tuple[Change, ...]:
    """The changes of an entry; none for other statements than change sets.

    Raises:
        BlobMissing: the change list is a blob that is not at hand.
        InputInvalid: the statement is out of form.
    """
    statement = parse_statement(leaf.envelope)
    if not isinstance(statement, ChangeSet):
        return ()
    if statement.changes_blob is None:
        return statement.changes
    data = blobs(statement.changes_blob.digest)
    if data is None:
        raise BlobMissing(statement.changes_blob.digest)
    return decode_change_list(data, statement.changes_blob)
