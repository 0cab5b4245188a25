"""Steps 1 to 7: what of a log may be believed, and what its entries decide.

A batch is refused whole, and nothing moves, unless

1. its checkpoint is signed by the log's key,
2. the checkpoint's size is not smaller than ours,
3. its root equals our stored frontier extended by the new leaves, whose times never fall (a part
   of a batch proves that the extended tree is a prefix of the checkpoint's).

4. A cosignature older than 60 s makes the state stale and blocks nothing.

An entry is rejected, alike on every node and in the store, unless

5. its envelope is in form, for this log, and sequenced in time,
6. its signatures reach the threshold for every name, under the policy in force at its own index,
7. every ``replaces`` is the key's head.

Steps 8 and 9 look at blobs and belong to each node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from control_plane.errors import (
    Forked,
    InputInvalid,
    NotFound,
    Refused,
    RolledBack,
    SignatureInvalid,
    StatementInvalid,
    TrustError,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from control_plane.log.fold import Head, HeadReader, Rejection, fold
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import EMPTY, Frontier, leaf_hash, verify_consistency
from control_plane.log.statements import (
    Change,
    ChangeSet,
    EpochStatement,
    Key,
    SnapshotStatement,
    Statement,
    TrustStatement,
    UnknownPayloadType,
    continuation,
    decode_change_list,
    parse_statement,
)
from control_plane.trust.state import Policy, adopt

STALE_AFTER_SECONDS = 60
FUTURE_TOLERANCE_SECONDS = 60

BlobReader = Callable[[str], bytes | None]
StateReader = Callable[[], tuple[int, str]]
"""The number of heads and the RFC 6962 root over their lines, before the entry being judged."""


class BlobMissing(Exception):
    """Steps 5 to 7 need these bytes: the loop waits for them, it never decides without."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"waiting for blob {digest}")
        self.digest = digest


class SnapshotMismatch(TrustError):
    """The log's commitment to the fold is not our fold: the loop stops."""

    code = "snapshot_mismatch"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log was followed: all that is needed to go on and to notice a rewritten past."""

    origin: str
    size: int = 0
    frontier: Frontier = EMPTY
    checkpoint: bytes = b""
    sequenced_at: int = 0
    continues_generation: int = 0

    @property
    def generation(self) -> int:
        """The generation of the last entry; 0 before the first of the first epoch."""
        return self.continues_generation + self.size


@dataclass(frozen=True, slots=True)
class Batch:
    """What a store answered: leaves from ``first`` on, its checkpoint and, for a part, a proof."""

    first: int
    leaves: tuple[bytes, ...]
    checkpoint: bytes
    proof: tuple[bytes, ...] | None = None


class CheckedBatch(NamedTuple):
    """A batch that passed steps 1 to 3: where it leads, who says so, and its leaves decoded."""

    position: Position
    checkpoint: SignedCheckpoint
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """An entry that passed steps 5 to 7, and what it moves."""

    generation: int
    sequenced_at: int
    identity: str
    statement: Statement
    policy: Policy
    changes: tuple[Change, ...] = ()
    heads: dict[Key, Head] | None = None
    key_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry that moves nothing, and why."""

    generation: int
    sequenced_at: int
    identity: str
    code: str
    reason: str
    policy: Policy


def check_batch(
    position: Position, batch: Batch, vkeys: tuple[str, ...] | list[str]
) -> CheckedBatch:
    """Steps 1 to 3.

    Raises:
        SignatureInvalid: (1) no valid signature by the log's key.
        RolledBack: (2) a smaller tree than ours.
        Forked: (3) another history than ours, a gap, or leaves the checkpoint does not cover.
        SyntaxInvalid, StatementInvalid: bytes out of form; UnknownLeafVersion stops the loop.
    """
    # (1) the checkpoint is signed by the log's key
    signed = open_checkpoint(batch.checkpoint, vkeys)
    checkpoint = signed.checkpoint
    if checkpoint.origin != position.origin:
        raise SignatureInvalid(
            f"checkpoint: expected the origin {position.origin}, found {checkpoint.origin}"
        )
    # (2) its size is not smaller than ours
    if checkpoint.size < position.size:
        raise RolledBack(
            f"{position.origin}: expected a size of at least {position.size}, found"
            f" {checkpoint.size}"
        )
    # (3) its root equals our frontier extended by the new leaves
    if batch.first != position.size:
        raise Forked(
            f"{position.origin}: expected leaves from {position.size} on, found {batch.first}"
        )
    frontier = position.frontier.extended(map(leaf_hash, batch.leaves))
    _check_root(position.origin, frontier, checkpoint, batch.proof)
    leaves = tuple(Leaf.decode(data) for data in batch.leaves)
    last = position.sequenced_at
    for offset, leaf in enumerate(leaves):
        if leaf.sequenced_at < last:
            raise Forked(
                f"{position.origin}: expected entry {batch.first + offset} at {last} ms or later,"
                f" found {leaf.sequenced_at}"
            )
        last = leaf.sequenced_at
    moved = Position(
        position.origin,
        frontier.size,
        frontier,
        batch.checkpoint,
        last,
        position.continues_generation,
    )
    return CheckedBatch(moved, signed, leaves)


def staleness(cosigned_at: int | None, now_s: int) -> str:
    """Step 4: ``fresh``, ``stale`` (over 60 s old, or never cosigned) or ``clock`` (future)."""
    if cosigned_at is None or now_s - cosigned_at > STALE_AFTER_SECONDS:
        return "stale"
    return "clock" if cosigned_at - now_s > FUTURE_TOLERANCE_SECONDS else "fresh"


def judge(
    generation: int,
    leaf: Leaf,
    *,
    origin: str,
    environment: str,
    policy: Policy | None,
    heads: HeadReader,
    blobs: BlobReader,
    state: StateReader | None = None,
) -> Accepted | Rejected:
    """Steps 5 to 7 for one entry, under the policy in force before it.

    ``policy`` is None only for the first entry of a log, which must be a trust entry.

    Raises:
        BlobMissing: a change list or trust metadata is not at hand.
        UnknownPayloadType: a newer version wrote this entry; the loop stops.
        SnapshotMismatch: the log's commitment differs from ``state``; the loop stops.
        TrustError, InputInvalid: for a first entry that does not establish a policy.
    """
    verdict = _first if policy is None else _judge_under(policy)
    return verdict(_Entry(generation, leaf, origin, environment, heads, blobs, state))


class _Entry(NamedTuple):
    generation: int
    leaf: Leaf
    origin: str
    environment: str
    heads: HeadReader
    blobs: BlobReader
    state: StateReader | None


def _first(entry: _Entry) -> Accepted | Rejected:
    statement = parse_statement(entry.leaf.envelope)
    if not isinstance(statement, TrustStatement):
        raise StatementInvalid(f"{entry.origin}: expected a trust entry first, found another")
    _check_origin(entry, statement.origin)
    return _accepted(entry, statement, _adopt(entry, None, statement))


def _judge_under(policy: Policy) -> Callable[[_Entry], Accepted | Rejected]:
    def verdict(entry: _Entry) -> Accepted | Rejected:
        try:
            # (5) envelope, origin, time
            statement = parse_statement(entry.leaf.envelope)
            _check_origin(entry, statement.origin)
            if isinstance(statement, TrustStatement):
                return _accepted(entry, statement, _adopt(entry, policy, statement))
            if policy.expired_at(entry.leaf.sequenced_at):
                raise Rejection("trust_expired", "expected a policy in force, found an expired one")
            if isinstance(statement, ChangeSet):
                return _change_set(entry, statement, policy)
            policy.verify_by_log(entry.environment, entry.leaf.envelope)
            _check_commitment(entry, statement, policy)
            return _accepted(entry, statement, policy)
        except (UnknownPayloadType, SnapshotMismatch):
            raise
        except Rejection as rejection:
            return _rejected(entry, policy, rejection.code, rejection.reason)
        except (InputInvalid, NotFound, Refused, TrustError) as error:
            # NotFound: a root that no longer names this environment.
            return _rejected(entry, policy, error.code, str(error))

    return verdict


def _change_set(entry: _Entry, statement: ChangeSet, policy: Policy) -> Accepted:
    if entry.leaf.sequenced_at > statement.not_after:
        raise Rejection(
            "late",
            f"expected to be sequenced by {statement.not_after} ms, found"
            f" {entry.leaf.sequenced_at} ms",
        )
    changes = statement.changes
    if statement.changes_blob is not None:
        changes = decode_change_list(
            _blob(entry, statement.changes_blob.digest), statement.changes_blob
        )
    # (6) signatures reach the threshold for every name
    paths = {change.path(entry.environment) for change in changes}
    key_ids = policy.authorise(sorted(paths), entry.leaf.envelope)
    # (7) replaces equals the head
    moved = fold(
        changes, entry.heads, generation=entry.generation, verb=statement.verb, key_ids=key_ids
    )
    return Accepted(
        entry.generation, entry.leaf.sequenced_at, entry.leaf.envelope.identity,
        statement, policy, changes, moved, key_ids,
    )  # fmt: skip


def _adopt(entry: _Entry, policy: Policy | None, statement: TrustStatement) -> Policy:
    roots = [_blob(entry, digest) for digest in statement.root]
    targets = _blob(entry, statement.targets)
    adopted = adopt(policy, roots, targets, at_ms=entry.leaf.sequenced_at)
    if adopted.log(entry.environment).origin != entry.origin:
        raise StatementInvalid(
            f"trust entry: expected a root that names {entry.origin}, found another origin"
        )
    # The envelope's signature only says that the log carried the metadata; the authority is the
    # metadata's own. Before the first entry the key is the one the adopted root names.
    (policy or adopted).verify_by_log(entry.environment, entry.leaf.envelope)
    return adopted


def _check_commitment(
    entry: _Entry, statement: SnapshotStatement | EpochStatement, policy: Policy
) -> None:
    if isinstance(statement, EpochStatement):
        named = policy.log(entry.environment).continues
        expected = None if named is None else continuation(dict(named))
        if statement.continues != expected:
            raise Rejection(
                "epoch", f"expected the continuation {expected}, found {statement.continues}"
            )
        return
    if entry.state is None:
        return
    count, root = entry.state()
    ours = (entry.generation - 1, count, root, policy.digest)
    theirs = (statement.generation, statement.count, statement.root, statement.policy)
    if ours != theirs:
        raise SnapshotMismatch(f"{entry.origin}: expected the snapshot {ours}, found {theirs}")


def _blob(entry: _Entry, digest: str) -> bytes:
    data = entry.blobs(digest)
    if data is None or sha256_hex(data) != digest:
        raise BlobMissing(digest)
    return data


def _check_origin(entry: _Entry, origin: str) -> None:
    if origin != entry.origin:
        raise StatementInvalid(
            f"entry {entry.generation}: expected the origin {entry.origin}, found {origin}"
        )


def _check_root(
    origin: str, frontier: Frontier, checkpoint: Checkpoint, proof: tuple[bytes, ...] | None
) -> None:
    if frontier.size > checkpoint.size:
        raise Forked(f"{origin}: expected at most {checkpoint.size} leaves, found {frontier.size}")
    if frontier.size < checkpoint.size and proof is None:
        raise Forked(
            f"{origin}: expected {checkpoint.size} leaves or a proof, found {frontier.size}"
            " without one"
        )
    try:
        verify_consistency(
            frontier.size, frontier.root(), checkpoint.size, checkpoint.root, proof or ()
        )
    except Forked as error:
        raise Forked(
            f"{origin}: expected our history to lead to root {checkpoint.root.hex()} at size"
            f" {checkpoint.size}, found {frontier.root().hex()} at size {frontier.size}"
        ) from error


def _accepted(entry: _Entry, statement: Statement, policy: Policy) -> Accepted:
    leaf = entry.leaf
    return Accepted(entry.generation, leaf.sequenced_at, leaf.envelope.identity, statement, policy)


def _rejected(entry: _Entry, policy: Policy, code: str, reason: str) -> Rejected:
    leaf = entry.leaf
    return Rejected(
        entry.generation, leaf.sequenced_at, leaf.envelope.identity, code, reason, policy
    )
