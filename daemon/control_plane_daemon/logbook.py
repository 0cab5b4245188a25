"""What a replica remembers of the log it follows: the ``log`` sub-database.

Three things stand there beside each other, written in the transaction that moves them:

- the *position*: how far the log was applied, the Merkle frontier there, and the signed checkpoint
  that covers it;
- the *policy*: root and targets metadata in force at the position, verified when they were adopted;
- the *evidence*: the checkpoint of a refused batch and ours, for a person to look at. Bytes nobody
  signed never displace the proof of a fork or of a rollback that was found before, and two roots
  the log signed for one size are never displaced: they prove the fork to anybody, by themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgpack

from control_plane.errors import Forked, ReplicaCorrupt, RolledBack, SyntaxInvalid
from control_plane.log.checkpoint import Checkpoint
from control_plane.log.merkle import Frontier
from control_plane.log.note import Note
from control_plane.log.steps import Position
from control_plane.replica.plan import Table
from control_plane.trust.state import Policy, restore

# The keys of the `log` sub-database.
ORIGIN: Final = b"origin"
SIZE: Final = b"size"
FRONTIER: Final = b"frontier"
CHECKPOINT: Final = b"checkpoint"
SEQUENCED_AT: Final = b"sequenced_at"
CONTINUES: Final = b"continues"
ROOT: Final = b"root"
TARGETS: Final = b"targets"
EVIDENCE: Final = b"evidence"


def write_position(log: Table, position: Position) -> None:
    """Store a position."""
    log.put(ORIGIN, position.origin.encode())
    log.put(SIZE, position.size.to_bytes(8, "little"))
    log.put(FRONTIER, position.frontier.encode())
    log.put(CHECKPOINT, position.checkpoint)
    log.put(SEQUENCED_AT, position.sequenced_at.to_bytes(8, "little"))
    log.put(CONTINUES, position.continues_generation.to_bytes(8, "little"))


def read_position(log: Table, origin: str) -> Position:
    """The position a replica stands at; the start of ``origin``'s log for a new replica.

    Raises:
        ReplicaCorrupt: what is stored is no position.
    """
    stored = log.get(ORIGIN)
    if stored is None:
        return Position(origin)
    try:
        frontier = Frontier.decode(log.get(FRONTIER) or b"")
    except SyntaxInvalid as error:
        raise ReplicaCorrupt(f"position of {origin}: expected a frontier, found {error}") from error
    return replace(
        Position(stored.decode()),
        size=frontier.size,
        frontier=frontier,
        checkpoint=log.get(CHECKPOINT) or b"",
        sequenced_at=int.from_bytes(log.get(SEQUENCED_AT) or b"", "little"),
        continues_generation=int.from_bytes(log.get(CONTINUES) or b"", "little"),
    )


def write_policy(log: Table, policy: Policy) -> None:
    """Store the trust metadata in force at the position."""
    log.put(ROOT, policy.root_bytes)
    log.put(TARGETS, policy.targets_bytes)


def read_policy(log: Table) -> Policy | None:
    """The policy in force at the position; None before the log's first entry."""
    root, targets = log.get(ROOT), log.get(TARGETS)
    if root is None or targets is None:
        return None
    # Verified when it was adopted; whether it has expired since is a question of state.
    return restore(root, targets)


def keep_evidence(
    log: Table, ours: Position, theirs: bytes, error: Exception, *, seen_at_ms: int
) -> bool:
    """Store the checkpoint of a refused batch beside ours; False where a better proof stands."""
    # These two come only after the signature was found good.
    proves = isinstance(error, (Forked, RolledBack))
    stored = log.get(EVIDENCE)
    if stored is not None:
        before = msgpack.unpackb(stored)
        if not proves or before["proof"] or before["theirs"] == theirs:
            return False
    evidence = {
        "ours": ours.checkpoint, "theirs": theirs, "size": ours.size, "reason": str(error),
        "seen_at": seen_at_ms, "proof": proves and _contradict(ours.checkpoint, theirs),
    }  # fmt: skip
    log.put(EVIDENCE, msgpack.packb(evidence))
    return True


def _contradict(ours: bytes, theirs: bytes) -> bool:
    """Whether two notes, whose signatures were verified, name two roots for one size."""
    try:
        one, other = (Checkpoint.parse_text(Note.parse(note).text) for note in (ours, theirs))
    except SyntaxInvalid:
        return False
    return one.size == other.size and one.root != other.root
