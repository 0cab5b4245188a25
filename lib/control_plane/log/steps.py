"""Steps 1 to 7: what of a log may be believed, and what its entries decide.

A batch is refused whole, and nothing moves, unless

1. its checkpoint is signed by the log's key and, where root asks for it, by witnesses enough,
2. the checkpoint's size is not smaller than ours,
3. its root equals our stored frontier extended by the new leaves, whose times never fall (a part
   of a batch proves that the extended tree is a prefix of the checkpoint's).

4. A cosignature older than 60 s makes the state stale and blocks nothing.

An entry is rejected, alike on every node and in the store, unless

5. its envelope is in form, for this log, and sequenced in time,
6. its signatures reach the threshold for every name, under the policy in force at its own index,
7. every ``replaces`` is the key's head.

Steps 8 and 9 look at blobs and belong to each node.

The first entry of an epoch, and the second of one that continues another, decide which log this is
(see `control_plane.log.epochs`). What is not as it must be there is no entry to reject but a batch
to refuse: an epoch that was not begun has no entries. An epoch statement anywhere else is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    TrustExpired,
)
from control_plane.log.canonical import Json, sha256_hex
from control_plane.log.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from control_plane.log.fold import Head, HeadReader, Rejection, fold
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import EMPTY, Frontier, leaf_hash, verify_consistency
from control_plane.log.statements import (
    Change,
    ChangeSet,
    Continuation,
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


class EpochUnfounded(TrustError):
    """The second entry of an epoch is not the statement that founds it: the batch is refused."""

    code = "epoch_unfounded"


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

    @property
    def epoch(self) -> int:
        """The number at the end of the origin."""
        return int(self.origin.rpartition("/")[2])


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
    position: Position,
    batch: Batch,
    vkeys: tuple[str, ...] | list[str],
    *,
    witnesses: Mapping[str, Json] | None = None,
) -> CheckedBatch:
    """Steps 1 to 3.

    Raises:
        SignatureInvalid: (1) no valid signature by the log's key, or by witnesses enough.
        RolledBack: (2) a smaller tree than ours.
        Forked: (3) another history than ours, a gap, or leaves the checkpoint does not cover.
        SyntaxInvalid, StatementInvalid: bytes out of form; UnknownLeafVersion stops the loop.
    """
    # (1) the checkpoint is signed by the log's key and by witnesses enough
    signed = open_checkpoint(batch.checkpoint, vkeys, witnesses=witnesses)
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

    ``policy`` is None only for the first entry of the first epoch. Under the policy of another
    origin this is the first entry of a new epoch, the policy that of the old one's end.

    Raises:
        BlobMissing: a change list or trust metadata is not at hand.
        UnknownPayloadType: a newer version wrote this entry; the loop stops.
        SnapshotMismatch: the log's commitment differs from ``state``; the loop stops.
        TrustError, InputInvalid: the entries that begin an epoch do not; the batch is refused.
    """
    entry = _Entry(generation, leaf, origin, environment, heads, blobs, state)
    if policy is None or policy.log(environment).origin != origin:
        return _first(entry, policy)
    log = policy.log(environment)
    if log.continues is not None:
        continues = continuation(dict(log.continues))
        if generation == continues.generation + 2:
            return _second(entry, policy, continues)
    return _judge_under(policy)(entry)


class _Entry(NamedTuple):
    generation: int
    leaf: Leaf
    origin: str
    environment: str
    heads: HeadReader
    blobs: BlobReader
    state: StateReader | None


def _first(entry: _Entry, policy: Policy | None) -> Accepted:
    """Index 0: the policy, carried over or new, that names this very log."""
    statement = parse_statement(entry.leaf.envelope)
    if not isinstance(statement, TrustStatement):
        raise StatementInvalid(f"{entry.origin}: expected a trust entry first, found another")
    _check_origin(entry, statement.origin)
    try:
        adopted = _adopt(entry, policy, statement)
    except NotFound as error:
        raise StatementInvalid(f"{entry.origin}: {error}") from error
    named = adopted.log(entry.environment).continues
    before = 0 if named is None else continuation(dict(named)).generation
    if (policy is None) != (named is None) or entry.generation != before + 1:
        raise StatementInvalid(
            f"{entry.origin}: expected its first entry to be judged where the epoch before it"
            f" ended, at generation {before + 1}, found generation {entry.generation}"
        )
    return _accepted(entry, statement, adopted)


def _second(entry: _Entry, policy: Policy, continues: Continuation) -> Accepted:
    """Index 1 of an epoch that continues another: the statement that founds it."""
    statement = parse_statement(entry.leaf.envelope)
    _check_origin(entry, statement.origin)
    policy.verify_by_log(entry.environment, entry.leaf.envelope)
    if not isinstance(statement, EpochStatement) or statement.continues != continues:
        raise EpochUnfounded(
            f"{entry.origin}: expected a second entry that continues {continues}, found another"
        )
    if policy.expired_at(entry.leaf.sequenced_at):
        raise TrustExpired(f"{entry.origin}: expected a policy in force, found an expired one")
    _check_state(entry, statement.state, policy)
    return _accepted(entry, statement, policy)


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
            bytes_of(entry.blobs, statement.changes_blob.digest), statement.changes_blob
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
    roots = [bytes_of(entry.blobs, digest) for digest in statement.root]
    targets = bytes_of(entry.blobs, statement.targets)
    adopted = adopt(policy, roots, targets, at_ms=entry.leaf.sequenced_at)
    if adopted.log(entry.environment).origin != entry.origin:
        raise StatementInvalid(
            f"trust entry: expected a root that names {entry.origin}, found another origin"
        )
    # The envelope's signature only says that the log carried the metadata; the authority is the
    # metadata's own. The first entry of an epoch is by the key that the adopted root names.
    adopted.verify_by_log(entry.environment, entry.leaf.envelope)
    return adopted


def _check_commitment(
    entry: _Entry, statement: SnapshotStatement | EpochStatement, policy: Policy
) -> None:
    if isinstance(statement, EpochStatement):
        raise Rejection("epoch", "expected an epoch statement as an epoch's second entry only")
    if entry.state is not None:
        _check_state(entry, statement, policy)


def _check_state(entry: _Entry, statement: SnapshotStatement, policy: Policy) -> None:
    count, root = (statement.count, statement.root) if entry.state is None else entry.state()
    ours = (entry.origin, entry.generation - 1, count, root, policy.digest)
    theirs = (
        statement.origin, statement.generation, statement.count, statement.root, statement.policy
    )  # fmt: skip
    if ours != theirs:
        raise SnapshotMismatch(f"{entry.origin}: expected the snapshot {ours}, found {theirs}")


def bytes_of(blobs: BlobReader, digest: str) -> bytes:
    """The bytes that have this digest.

    Raises:
        BlobMissing: they are not at hand, or others are.
    """
    data = blobs(digest)
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
