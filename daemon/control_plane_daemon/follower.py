"""What a node believes of a log, step by step, and what each step's failure leaves behind.

A batch is believed only whole:

(1) its checkpoint is signed by the log's key, and by the witnesses that root asks for,
(2) its size is not smaller than ours, nor than any the log has shown before,
(3) its root equals our stored Merkle frontier extended by the new leaves,
(4) it is cosigned within 60 s, else the state is *stale*, which blocks nothing.

Each entry is judged by the log alone:

(5) its envelope, origin and time,
(6) its signatures reach the threshold for every name,
(7) every ``replaces`` is the key's head.

Each blob is judged by this node:

(8) its bytes have the digest,
(9) its owner's signature, its schema and limits; and the record compiles.

1-3 fail: the batch is refused, the last good replica stays, both checkpoints are kept as evidence.
5-7 fail: the entry is rejected and nothing moves but the position. 8-9 fail: the entry is held. Its
heads move, its served values stay the last good ones, all together, until a newer change or the
missing bytes heal them. Else it is applied.

A log goes on in a later epoch where root says so. `begin` verifies the batch that begins one; what
it continues must be exactly what is held here, at its very end. The two entries that begin an epoch
and the position in it are written in one transaction, so a crash leaves either the end of the old
epoch or the new one begun, and a batch whose second entry is not the right one has moved nothing.
Heads, held entries, landmarks of the new log and evidence carry over. Where root has the log go on
from another history, nothing moves either: the epoch is *offered*, and the offer kept, until the
node's owner accepts it or the log goes on from what is held.

All nine are called here in order; `entries` has 8-9 in detail, `demand` the blobs they need, and
`healing` what becomes of held entries. A `Follower` is used by one thread at a time and does no
network input or output: it says which blobs it wants, and whoever runs it brings them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import lmdb

from control_plane.errors import (
    EpochDiverged,
    Forked,
    InputInvalid,
    ReplicaUnwritable,
    RolledBack,
    StatementInvalid,
    TrustError,
)
from control_plane.log.epochs import begin_epoch, check_on_the_way, first_identity
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf, UnknownLeafVersion
from control_plane.log.merkle import leaf_hash
from control_plane.log.statements import (
    Continuation,
    Key,
    TrustStatement,
    UnknownPayloadType,
    continuation,
    parse_statement,
)
from control_plane.log.steps import (
    Accepted,
    BlobMissing,
    BlobReader,
    Position,
    Rejected,
    check_batch,
    judge,
)
from control_plane.replica.apply import Materialiser, read_head
from control_plane.replica.evidence import EVIDENCE, Evidence, Offer
from control_plane.replica.format import parse_head_key
from control_plane.replica.held import HeldEntry
from control_plane.replica.plan import Plan
from control_plane.replica.writer import ReplicaWriter
from control_plane.trust.state import LogIdentity, newest_root
from control_plane_daemon.applied import Applied
from control_plane_daemon.batch import Verified
from control_plane_daemon.commits import Commits
from control_plane_daemon.conditions import Conditions
from control_plane_daemon.demand import Demand, Wanting
from control_plane_daemon.enrol import Enrolled
from control_plane_daemon.entries import Entries, one_line
from control_plane_daemon.events import Events
from control_plane_daemon.healing import Healing
from control_plane_daemon.landmarks import Landmarks
from control_plane_daemon.logbook import (
    keep_evidence,
    read_bases,
    read_offer,
    read_policy,
    read_position,
    write_offer,
    write_policy,
)
from control_plane_daemon.shelf import Shelf
from control_plane_daemon.source import Fetched, Followed

BEGINNING: Final = 2
"""Entries that begin an epoch: the trust entry that names it, and what it continues."""

_WRITE_ERRORS: Final = (ReplicaUnwritable, lmdb.Error)

logger = logging.getLogger("control_plane_daemon")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `Follower.take` came: done, or the digests it needs to go on.

    ``required`` is a blob that steps 5 to 7 cannot do without.
    """

    done: bool
    wanted: tuple[str, ...] = ()
    required: str | None = None


class DiskFailed(Exception):
    """The replica could not be written; what was committed before stands."""


class Follower:
    """One environment's log as this node has verified it, and the replica it writes.

    ``enrolled`` says which log that is until the log's own first entry has put a policy in force,
    and which tree and root it must come to. Clocks: ``now_ms`` since the epoch, ``monotonic`` in
    seconds.
    """

    def __init__(
        self,
        environment: str,
        writer: ReplicaWriter,
        enrolled: Enrolled,
        *,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.environment = environment
        self.writer = writer
        self._enrolled = enrolled
        self._landmarks = Landmarks(enrolled.landmark)
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._conditions = Conditions()
        self.events = Events()
        self._caught_up = self._at_end = self._lacking = False
        self._load()

    def _load(self) -> None:
        """Read everything this object knows from the replica; also after a failed write."""
        self._evidence: bytes | None = None
        # When the entries of the open transaction were sequenced.
        self._sequenced: list[int] = []
        # Where an epoch that was verified begins, until the entries that begin it are taken.
        self._begun: Position | None = None
        start = Position(self._enrolled.first_origin)
        self._commits = Commits(self.writer, start, self._monotonic)
        try:
            self._read(self._commits)
        finally:
            # Also of a damaged replica: an open transaction would keep it from being rebuilt.
            self._commits.abort()

    def _read(self, commits: Commits) -> None:
        self.policy = read_policy(commits.transaction().log)
        commits.position = read_position(commits.transaction().log, commits.position.origin)
        self._evidence = commits.transaction().log.get(EVIDENCE)
        self._offer = read_offer(commits.transaction().log)
        self._conditions.diverged = self._offer is not None
        # Blobs and parts of an entry that a crash, or a failed write, left behind.
        commits.clear_staging()
        materialiser = Materialiser.load(
            self.environment, commits.plan(), commits.transaction().held
        )
        self._demand = Demand(Shelf(commits))
        self._entries = Entries(self.environment, commits, self._demand, materialiser, self.events)
        self._healing = Healing(self.environment, commits, self._entries)
        self._applied = Applied(self.environment)
        self._landmarks.remember(self.position.checkpoint)
        # Before anybody asks: what was held before a restart is held after it.
        self._note_held()

    # What others ask

    @property
    def position(self) -> Position:
        """How far the log has been applied; at the start of an epoch that was just verified."""
        applied, begun = self._commits.position, self._begun
        return applied if begun is None or applied.origin == begun.origin else begun

    @property
    def epoch(self) -> int:
        """The number of the epoch followed."""
        return self.position.epoch

    @property
    def is_enrolled(self) -> bool:
        """Whether what was applied has come to the enrolled tree."""
        return self._enrolled.passed_by(self._commits.position)

    @property
    def is_unvouched(self) -> bool:
        """Whether the epoch followed comes before the enrolled one, which alone was vouched for."""
        return self._commits.position.epoch < self._enrolled.log.epoch

    @property
    def at_end(self) -> bool:
        """Whether the last answer was that nothing follows, in this epoch or in a later one."""
        return self._at_end

    @property
    def evidence(self) -> bytes | None:
        """What is kept of a batch that contradicted the log; any thread may ask."""
        return self._evidence

    def inherit(self, evidence: bytes | None) -> None:
        """Keep the evidence of the replica that this one is rebuilt beside."""
        if evidence is not None:
            self._commits.writing().log.put(EVIDENCE, evidence)
            self._commit()
            self._evidence = evidence

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next commit."""
        return self._commits.pause_seconds

    @property
    def commit_count(self) -> int:
        """How many transactions were committed since the start."""
        return self._commits.count

    @property
    def held(self) -> Mapping[int, HeldEntry]:
        """The held entries by generation."""
        return self._entries.held.entries

    @property
    def cosigned_at(self) -> int:
        """When the newest checkpoint was cosigned, in seconds; 0 when none was seen."""
        return self._conditions.cosigned_at or 0

    def state_bits(self) -> int:
        """The bits of the header's state word that hold now; any thread may ask."""
        return self._conditions.bits(self.policy, self._now_ms())

    # Steps 1 to 4: the batch

    def check(self, followed: Followed) -> Verified:
        """Verify a batch of the epoch that is followed; nothing moves.

        Raises:
            BlobMissing: the log's first entry names trust metadata; `deliver` it, and try again.
            TrustError, InputInvalid: the batch is refused; call `refuse` with the error.
        """
        self._begun = self._landmarks.broken = None
        if followed.batch.leaves:
            check_on_the_way(self.position, self._enrolled.log)
        verified = self._verify(self.position, self._identity(followed), followed)
        self._at_end = not (verified.more or verified.leaves)
        return verified

    def begin(self, followed: Followed) -> Verified:
        """Verify the batch that begins a later epoch; nothing moves before its entries are taken.

        Raises:
            BlobMissing: it names trust metadata; `deliver` it, and try again.
            EpochDiverged: root has the log go on from another history; call `diverge`.
            TrustError, InputInvalid: the batch is refused; call `refuse` with the error.
        """
        self._begun = self._landmarks.broken = None
        held, policy, leaves = self.position, self.policy, followed.batch.leaves
        if policy is None:
            raise StatementInvalid(
                f"{held.origin}: expected the first entry of the log, found it to go on in a later"
                " epoch only; the store has to serve every epoch"
            )
        if followed.batch.first != 0 or len(leaves) < BEGINNING:
            raise StatementInvalid(
                f"{held.origin}: expected the {BEGINNING} entries that begin a later epoch, found"
                f" {len(leaves)} from {followed.batch.first} on"
            )
        with _unauthorised():
            position, identity = begin_epoch(
                held, policy, self.environment, Leaf.decode(leaves[0]), self._blobs(followed)
            )
        if position.epoch > self._enrolled.log.epoch and not self.is_enrolled:
            raise Forked(
                f"{position.origin}: expected the log to come to {self._enrolled.log.origin} at"
                f" size {self._enrolled.size} (trust.json) first, found it to go on from"
                f" {held.origin} at size {held.size}; give this node a newer trust.json"
            )
        verified = self._verify(position, identity, followed)
        self._at_end = False
        self._begun = position
        return verified

    def _verify(self, position: Position, log: LogIdentity, followed: Followed) -> Verified:
        batch = followed.batch
        # (1) the log's key  (2) not smaller than ours  (3) our frontier, extended, is its root
        checked = check_batch(position, batch, log.vkeys, witnesses=log.witnesses)
        # (2) and (3) again, for the trees this log has shown before or must come to
        self._landmarks.check(position, batch.leaves, checked.checkpoint.checkpoint)
        # (4) cosigned within 60 s: noted here, told by `state_bits`, blocks nothing
        self._conditions.note_cosignature(checked.checkpoint.cosigned_at, self._now_ms())
        self._conditions.refused = False
        self._keep_offer(None)
        # Whether more follow is what the signed size says, not the answer.
        more = checked.position.size < checked.checkpoint.checkpoint.size
        self._caught_up = not (more or batch.leaves)
        self._demand.shelf.put(followed.blobs)
        self._landmarks.remember(batch.checkpoint)
        return Verified(
            batch.first,
            position.generation,
            batch.leaves,
            checked.leaves,
            checked.checkpoint,
            more,
        )

    def refuse(self, followed: Followed, error: Exception, *, signed: bool = True) -> None:
        """Keep both checkpoints of a batch that failed steps 1 to 3; the replica stays as it is.

        ``signed`` is false of a batch whose checkpoint nobody had looked at yet.
        """
        self._conditions.refused = True
        self.events.failed("refused", getattr(error, "code", ""))
        broken, log = self._landmarks.broken, self._commits.writing().log
        evidence = Evidence(
            ours=self.position.checkpoint if broken is None or not broken.note else broken.note,
            theirs=followed.batch.checkpoint,
            size=self.position.size,
            reason=str(error),
            seen_at=self._now_ms(),
            proof=False,
            vkeys=() if self.policy is None else self.policy.log(self.environment).vkeys,
        )
        # These two come only after the signature was found good.
        signed = signed and isinstance(error, (Forked, RolledBack))
        if keep_evidence(log, evidence, signed=signed):
            self._evidence = log.get(EVIDENCE)
            self._commit()
        self._commits.abort()

    # An epoch that leaves what is held

    def diverge(self, followed: Followed, error: EpochDiverged) -> Offer | None:
        """Keep the offer of an epoch that `begin` found to leave the history held here.

        None where this node is only behind: then root has said at which tree the epoch it follows
        ends, and from now on the log is held to that tree instead of those it showed before.
        """
        held, continues = self.position, self._continues(followed)
        here = continues.epoch == held.epoch
        root = bytes.fromhex(continues.root)
        if here and continues.size > held.size:
            what = f"root version {error.root_version}"
            if self._landmarks.end(held.origin, continues.size, root, what):
                return None
        base = read_bases(self._commits.transaction().log).get(continues.epoch)
        # Where another branch was left nobody here can tell: then all of it counts as left.
        branched = base is None or (here and continues.size >= held.size)
        offer = Offer(
            error.origin, error.root_version, continues.epoch, continues.size, continues.root,
            held.origin, held.size, 0 if branched or base is None else base + continues.size,
        )  # fmt: skip
        self._keep_offer(offer)
        self._commit()
        return offer

    def _continues(self, followed: Followed) -> Continuation:
        """What the epoch that `begin` has just found to diverge continues, as root says."""
        statement = parse_statement(Leaf.decode(followed.batch.leaves[0]).envelope)
        assert isinstance(statement, TrustStatement)
        blobs = self._blobs(followed)
        roots = [blobs(digest) or b"" for digest in statement.root]
        named = newest_root(self.policy, roots).logs[self.environment].continues
        assert named is not None
        return continuation(dict(named))

    def _keep_offer(self, offer: Offer | None) -> None:
        """Write an offer, or that there is none any more, into the open transaction."""
        if offer != self._offer:
            write_offer(self._commits.writing().log, offer)
        self._offer = offer
        self._conditions.diverged = offer is not None

    # Steps 5 to 9: its entries

    def take(self, verified: Verified) -> Progress:
        """Take entries until one transaction is full, and commit it.

        Raises:
            UnknownPayloadType: a newer version wrote an entry; those before it are applied.
            TrustError: the log contradicts itself; entries before that are applied.
            DiskFailed: nothing of this call was written.
        """
        try:
            return self._take(verified)
        except _WRITE_ERRORS as error:
            raise self._disk_failed(error) from error

    def _take(self, verified: Verified) -> Progress:
        progress = Progress(done=False)
        try:
            while self.position.size < verified.end and not self._is_full:
                self._take_entry(verified, self.position.size)
        except BlobMissing as missing:
            progress = Progress(done=False, required=missing.digest)
        except Wanting:
            wanted = self._demand.ahead(verified, self.position.size)
            progress = Progress(done=False, wanted=wanted)
        except (TrustError, InputInvalid):
            if self._begun is not None:
                # An epoch that was not begun rightly has no good entries.
                self.forget()
                raise
            # The entries before it are good; of this one nothing was written.
            self._commit()
            raise
        except _WRITE_ERRORS:
            raise
        except Exception:
            self.forget()
            raise
        self._commit()
        if self.position.size < verified.end:
            return progress
        self._finish(verified)
        return Progress(done=True)

    @property
    def _is_full(self) -> bool:
        """Whether to commit before the next entry; never between the two that begin an epoch."""
        return self._begun is None and self._commits.full

    def _take_entry(self, verified: Verified, index: int) -> None:
        leaf, before = verified.leaves[index - verified.first], self.position
        # (5) envelope, origin, time  (6) thresholds  (7) replaces is the head
        verdict = judge(
            before.generation + 1,
            leaf,
            origin=before.origin,
            environment=self.environment,
            policy=self.policy,
            heads=self._head,
            blobs=self._demand.shelf.get,
            state=self._fold_state,
        )
        after = replace(
            before,
            size=before.size + 1,
            frontier=before.frontier.extended([leaf_hash(verified.data[index - verified.first])]),
            checkpoint=verified.checkpoint.note,
            sequenced_at=leaf.sequenced_at,
        )
        if (after.origin, after.size) == (self._enrolled.log.origin, self._enrolled.size):
            self._enrolled.confirm(verdict.policy)
        if isinstance(verdict, Rejected):
            # 5-7 failed: nothing moves but the position
            self._reject(verdict, after)
            return
        # (8) bytes with the digest  (9) owner's signature, schema and limits, the record compiles;
        # where one fails the plan holds the entry: heads move, served values stay
        plan = self._entries.plan(verdict, index, verified)
        self._accept(verdict, plan, after)

    def _reject(self, verdict: Rejected, after: Position) -> None:
        self._conditions.entry_rejected = True
        self.events.failed("rejected", verdict.code)
        logger.warning(
            "%s: entry %d rejected (%s): %s",
            self.environment, verdict.generation, verdict.code, verdict.reason,
            extra={
                "environment": self.environment, "generation": verdict.generation,
                "change": verdict.identity, "code": verdict.code,
            },
        )  # fmt: skip
        self._commits.add(self._commits.plan(), after)

    def _accept(self, accepted: Accepted, plan: Plan, after: Position) -> None:
        self._commits.add(plan, after)
        self._applied.add(accepted)
        self._sequenced.append(after.sequenced_at)
        self._conditions.entry_rejected = False
        if self.policy is None or accepted.policy.digest != self.policy.digest:
            self.policy = accepted.policy
            write_policy(self._commits.writing().log, accepted.policy)
        if self._begun is not None and after.size == BEGINNING:
            self._begun = None
            logger.info(
                "%s: goes on as %s, from generation %d",
                self.environment, after.origin, after.continues_generation,
                extra={
                    "environment": self.environment, "origin": after.origin,
                    "generation": after.generation,
                },
            )  # fmt: skip

    def _finish(self, verified: Verified) -> None:
        self._caught_up = not verified.more
        if self._healing.is_loosened():
            self.heal({})
        self._demand.clear()
        self._note_held()
        skipped = [entry for entry in self.held.values() if entry.skipped]
        if skipped and self._caught_up and verified.leaves:
            logger.warning(
                "%s: entry %d held: expected the blobs of its heads, found them deleted",
                self.environment, skipped[0].generation,
                extra={
                    "environment": self.environment, "generation": skipped[0].generation,
                    "change": Leaf.decode(skipped[0].leaf).envelope.identity,
                },
            )  # fmt: skip

    def deliver(self, fetched: Fetched) -> None:
        """Take in what was fetched for `Progress.wanted` or `Progress.required`.

        Raises:
            DiskFailed: the blobs did not fit in memory and could not be staged.
        """
        try:
            self._demand.deliver(fetched)
        except _WRITE_ERRORS as error:
            raise self._disk_failed(error) from error

    # Held entries

    def held_missing(self) -> tuple[str, ...]:
        """Digests that held entries lack; fetch them and call `heal`."""
        return self._healing.missing()

    @property
    def held_missing_any(self) -> bool:
        """Whether a held entry lacks a blob; any thread may ask."""
        return self._lacking

    def heal(self, found: Mapping[str, bytes]) -> int:
        """Try held entries again, in the order of the log; how many are served now.

        With ``found`` empty every entry that lacks nothing is tried: at the start, where a newer
        version may understand what an older one held.

        Raises:
            DiskFailed: nothing was written.
        """
        try:
            healed = self._healing.heal(found)
            self._commit()
        except _WRITE_ERRORS as error:
            raise self._disk_failed(error) from error
        except Exception:
            self.forget()
            raise
        return healed

    # The replica

    def forget(self) -> None:
        """Drop what was not committed and read everything from the last commit again."""
        self._commits.abort()
        self._applied.forget()
        self._load()

    def close(self) -> None:
        """End an open transaction; the writer is its owner's to close."""
        self._commits.abort()

    def _commit(self) -> None:
        before = self._commits.count
        self._commits.commit()
        self._note_held()
        if self._commits.count > before:
            self._conditions.disk_failed = False
            self.events.commits += 1
            for sequenced_at in self._sequenced:
                self.events.seen((self._now_ms() - sequenced_at) / 1000)
        self._sequenced.clear()
        self._applied.tell(self.held)

    def _note_held(self) -> None:
        held = self.held.values()
        self._conditions.entry_held = any(self._caught_up or not entry.skipped for entry in held)
        self._lacking = any(entry.missing for entry in held)

    def _disk_failed(self, error: Exception) -> DiskFailed:
        """Forget what was not written: everything is read from the last commit again."""
        self._conditions.disk_failed = True
        self.events.commits_failed += 1
        self.forget()
        return DiskFailed(f"{self.environment}: {one_line(error)}")

    # What the steps read

    def _identity(self, followed: Followed) -> LogIdentity:
        """Which keys sign the epoch that is followed."""
        if self.policy is not None:
            return self.policy.log(self.environment)
        if self.position.origin == self._enrolled.log.origin:
            return self._enrolled.log
        if not followed.batch.leaves:
            raise StatementInvalid(f"{self.position.origin}: expected a first entry, found none")
        # An epoch before the enrolled one says itself whose it is. Nothing read of it is shown
        # before the log has come to the enrolled tree, whose root says what that continues.
        with _unauthorised():
            leaf = Leaf.decode(followed.batch.leaves[0])
            return first_identity(self.environment, leaf, self._blobs(followed))

    def _blobs(self, followed: Followed) -> BlobReader:
        """The blobs at hand before a batch is verified."""
        return lambda digest: followed.blobs.get(digest) or self._demand.shelf.get(digest)

    def _head(self, key: Key) -> Head | None:
        return read_head(self._commits.transaction().heads, key)

    def _fold_state(self) -> tuple[int, str]:
        heads = self._commits.transaction().heads
        return snapshot_root(
            snapshot_line(Key(*parse_head_key(key)), Head.decode(data))
            for key, data in heads.items()
        )


@contextmanager
def _unauthorised() -> Iterator[None]:
    """Bytes that nobody vouches for yet are refused, whatever they are; they stop no daemon."""
    try:
        yield
    except (UnknownLeafVersion, UnknownPayloadType) as error:
        raise StatementInvalid(str(error)) from error
