"""What a replica remembers of the log it follows: the ``log`` sub-database.

These stand there beside each other, written in the transaction that moves them:

- the *position*: how far the log was applied, the Merkle frontier there, and the signed checkpoint
  that covers it;
- the *policy*: root and targets metadata in force at the position, verified when they were adopted;
- the *evidence*: the checkpoint of a refused batch and ours, for a person to look at. Bytes nobody
  signed never displace the proof of a fork or of a rollback that was found before, and two roots
  the log signed for one size are never displaced: they prove the fork to anybody, by themselves.
  It outlives a rebuild;
- the *offer* of an epoch that leaves what is held here, until it is accepted or withdrawn;
- the *bases*: the generation at which each epoch began, for whoever asks what an offer would drop.

Evidence and offer are read without a daemon too: `control_plane.replica.evidence` has their form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from control_plane.errors import ReplicaCorrupt, SyntaxInvalid
from control_plane.log.checkpoint import Checkpoint
from control_plane.log.merkle import Frontier
from control_plane.log.note import Note
from control_plane.log.steps import Position
from control_plane.replica.evidence import (
    BASES,
    EVIDENCE,
    OFFERED,
    ORIGIN,
    ROOT,
    TARGETS,
    Evidence,
    Offer,
    contradict,
    decode_bases,
    encode_bases,
)
from control_plane.replica.plan import Table
from control_plane.trust.state import Policy, restore

# The keys of the `log` sub-database that only the daemon reads.
SIZE: Final = b"size"
FRONTIER: Final = b"frontier"
CHECKPOINT: Final = b"checkpoint"
SEQUENCED_AT: Final = b"sequenced_at"
CONTINUES: Final = b"continues"


def write_position(log: Table, position: Position) -> None:
    """Store a position, and where its epoch began."""
    bases = decode_bases(log.get(BASES))
    if bases.get(position.epoch) != position.continues_generation:
        log.put(BASES, encode_bases(bases | {position.epoch: position.continues_generation}))
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


def read_bases(log: Table) -> dict[int, int]:
    """The generation before the first entry of each epoch that was read, by its number."""
    return decode_bases(log.get(BASES))


def read_offer(log: Table) -> Offer | None:
    """The epoch that was offered last and neither accepted nor withdrawn."""
    data = log.get(OFFERED)
    return None if data is None else Offer.decode(data)


def write_offer(log: Table, offer: Offer | None) -> None:
    """Keep an offer; None forgets the one before."""
    if offer is None:
        log.delete(OFFERED)
    else:
        log.put(OFFERED, offer.encode())


def keep_evidence(log: Table, evidence: Evidence, *, signed: bool) -> bool:
    """Store evidence unless a better one stands; False where it does.

    ``signed`` says that the other checkpoint's signature was verified before it was refused.
    """
    stored = log.get(EVIDENCE)
    if stored is not None:
        before = Evidence.decode(stored)
        if not signed or before.proof or before.theirs == evidence.theirs:
            return False
    proof = signed and _contradict(evidence.ours, evidence.theirs)
    log.put(EVIDENCE, replace(evidence, proof=proof).encode())
    return True


def _contradict(ours: bytes, theirs: bytes) -> bool:
    """Whether two notes, whose signatures were verified, name two roots for one size."""
    try:
        return contradict(
            *(Checkpoint.parse_text(Note.parse(note).text) for note in (ours, theirs))
        )
    except SyntaxInvalid:
        return False
