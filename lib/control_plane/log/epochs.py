"""How a log goes on in a new epoch, and whose word is enough for it.

A log goes on in a new epoch only where root says so: a root version names the new log, its keys
and, as ``continues``, exactly the history held: epoch, size and root hash. Heads, the policy and
the order of generations carry over; time starts anew. The new log must begin with two entries:

- index 0 is a trust entry with the roots after the one in force at the end of the old log, the last
  of which names the new log; the new log's key signs it.
- index 1 is an epoch statement that repeats ``continues`` and commits to the state carried over.

Both are judged by `control_plane.log.steps.judge` like any entry. Before that, a reader at the end
of what it holds asks here whether the first of them has the authority to lead on:

1. it is a trust entry, and a chain of roots leads from the one in force to its newest,
2. that root names the log which the statement and its signature are of,
3. the epoch is a later one, and its generations are above every one held,
4. it continues the history held; else it diverged, which is said only of what passed 1 to 3,
5. no root is listed that was in force before, and targets and expiry are in order.
"""

from __future__ import annotations

from collections.abc import Mapping

from control_plane.errors import EpochDiverged, RolledBack, StatementInvalid
from control_plane.log.envelope import Envelope
from control_plane.log.leaf import Leaf
from control_plane.log.statements import (
    Continuation,
    TrustStatement,
    continuation,
    parse_statement,
)
from control_plane.log.steps import BlobReader, Position, bytes_of
from control_plane.trust.state import LogIdentity, Policy, adopt, newest_root, verify_by_log


def begin_epoch(
    position: Position, policy: Policy, environment: str, leaf: Leaf, blobs: BlobReader
) -> tuple[Position, LogIdentity]:
    """Where a log goes on in the epoch that ``leaf``, its index 0, begins; and which log that is.

    ``position`` and ``policy`` are those at the end of what is held of the old log. Nothing moves
    by this: the new log's batch is then checked and judged from the position returned.

    Raises:
        BlobMissing: trust metadata is not at hand.
        TrustError, InputInvalid: the entry has no authority to begin an epoch here.
        EpochDiverged: it has, but for another history than the one held.
    """
    statement = _trust_statement(leaf.envelope)
    roots = [bytes_of(blobs, digest) for digest in statement.root]
    root = newest_root(policy, roots)
    log = _named(root.logs, environment, statement)
    verify_by_log(log, leaf.envelope)
    if log.epoch <= position.epoch or log.continues is None:
        raise StatementInvalid(
            f"{log.origin}: expected an epoch after {position.epoch}, found epoch {log.epoch}"
        )
    continues = continuation(dict(log.continues))
    if continues.generation < position.generation:
        # Also before a diverged epoch is offered to anybody: a generation never falls.
        raise RolledBack(
            f"{log.origin}: expected to go on above generation {position.generation}, found"
            f" {continues.generation}; sign another epoch with --generation {position.generation}"
        )
    _check_continues(position, log, continues, root.version)
    adopted = adopt(policy, roots, bytes_of(blobs, statement.targets), at_ms=leaf.sequenced_at)
    return Position(log.origin, continues_generation=continues.generation), adopted.log(environment)


def first_identity(environment: str, leaf: Leaf, blobs: BlobReader) -> LogIdentity:
    """The log that the first entry of an epoch names for itself.

    Nobody vouches for it yet: it is believed once an anchor confirms what it leads to, an enrolled
    checkpoint or what a later epoch continues.

    Raises:
        BlobMissing: trust metadata is not at hand.
        TrustError, InputInvalid: the entry does not hold together.
    """
    statement = _trust_statement(leaf.envelope)
    root = newest_root(None, [bytes_of(blobs, digest) for digest in statement.root])
    log = _named(root.logs, environment, statement)
    verify_by_log(log, leaf.envelope)
    return log


def check_on_the_way(position: Position, log: LogIdentity) -> None:
    """Refuse more entries at ``position``, in an epoch before that of ``log``, than lead to it.

    Who is enrolled in a later epoch has nobody's word for those before but this: root names the
    size and the generation at which the last of them ends. Without it anybody could send entries
    for ever.

    Raises:
        StatementInvalid: the earlier epoch has ended there.
    """
    if log.continues is None or position.epoch >= log.epoch:
        return
    end = continuation(dict(log.continues))
    at_end = position.epoch == end.epoch and position.size >= end.size
    if at_end or position.generation >= end.generation:
        raise StatementInvalid(
            f"{position.origin}: expected at most {end.size} entries of epoch {end.epoch} before"
            f" {log.origin}, found more after entry {position.size} of epoch {position.epoch}"
        )


def _trust_statement(envelope: Envelope) -> TrustStatement:
    statement = parse_statement(envelope)
    if not isinstance(statement, TrustStatement):
        raise StatementInvalid("a log's first entry: expected a trust entry, found another")
    return statement


def _named(
    logs: Mapping[str, LogIdentity], environment: str, statement: TrustStatement
) -> LogIdentity:
    log = logs.get(environment)
    if log is None or log.origin != statement.origin:
        raise StatementInvalid(
            f"trust entry: expected a root that names {statement.origin}, found"
            f" {'none for ' + environment if log is None else log.origin}"
        )
    return log


def _check_continues(
    position: Position, log: LogIdentity, continues: Continuation, root_version: int
) -> None:
    ours = (position.epoch, position.size, position.frontier.root().hex())
    theirs = (continues.epoch, continues.size, continues.root)
    if ours != theirs:
        raise EpochDiverged(
            f"{log.origin}: expected to continue epoch {ours[0]} at size {ours[1]} with root"
            f" {ours[2]}, found epoch {theirs[0]} at size {theirs[1]} with root {theirs[2]}",
            log.origin,
            root_version,
            continues.size,
            continues.root,
        )
