"""What a node believes of a log, step by step, and what each step's failure leaves behind.

A batch is believed only whole:

(1) its checkpoint is signed by the log's key,
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

All nine are called here in order; `entries` has 8-9 in detail, `demand` the blobs they need, and
`healing` what becomes of held entries. A `Follower` is used by one thread at a time and does no
network input or output: it says which blobs it wants, and whoever runs it brings them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import lmdb

from control_plane.errors import InputInvalid, ReplicaUnwritable, TrustError
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.merkle import leaf_hash
from control_plane.log.statements import Key
from control_plane.log.steps import (
    Accepted,
    BlobMissing,
    Position,
    Rejected,
    check_batch,
    judge,
)
from control_plane.replica.apply import Materialiser, read_head
from control_plane.replica.format import parse_head_key
from control_plane.replica.held import HeldEntry
from control_plane.replica.plan import Plan
from control_plane.replica.writer import ReplicaWriter
from control_plane.trust.state import LogIdentity
from control_plane_daemon.batch import Verified
from control_plane_daemon.commits import Commits
from control_plane_daemon.conditions import Conditions
from control_plane_daemon.demand import Demand, Wanting
from control_plane_daemon.enrol import Enrolled
from control_plane_daemon.entries import Entries, one_line
from control_plane_daemon.healing import Healing
from control_plane_daemon.landmarks import Landmarks
from control_plane_daemon.logbook import keep_evidence, read_policy, read_position, write_policy
from control_plane_daemon.shelf import Shelf
from control_plane_daemon.source import Fetched, Followed

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
        self._landmarks = Landmarks(enrolled.size, enrolled.tree, "trust.json")
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._conditions = Conditions()
        self._caught_up = self._lacking = False
        self._load()

    def _load(self) -> None:
        """Read everything this object knows from the replica; also after a failed write."""
        origin = self._enrolled.log.origin
        self._commits = Commits(self.writer, Position(origin), self._monotonic)
        try:
            self._read(self._commits)
        finally:
            # Also of a damaged replica: an open transaction would keep it from being rebuilt.
            self._commits.abort()

    def _read(self, commits: Commits) -> None:
        self.policy = read_policy(commits.transaction().log)
        commits.position = read_position(commits.transaction().log, commits.position.origin)
        # Blobs and parts of an entry that a crash, or a failed write, left behind.
        commits.clear_staging()
        materialiser = Materialiser.load(
            self.environment, commits.plan(), commits.transaction().held
        )
        self._demand = Demand(Shelf(commits))
        self._entries = Entries(self.environment, commits, self._demand, materialiser)
        self._healing = Healing(self.environment, commits, self._entries)
        self._landmarks.remember(self.position.checkpoint)

    # What others ask

    @property
    def position(self) -> Position:
        """How far the log has been applied."""
        return self._commits.position

    @property
    def epoch(self) -> int:
        """The number of the epoch followed."""
        return int(self.position.origin.rpartition("/")[2])

    @property
    def caught_up(self) -> bool:
        """Whether the last verified batch was taken to its end and nothing more was announced."""
        return self._caught_up

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
        """Verify a batch; nothing moves.

        Raises:
            TrustError, InputInvalid: the batch is refused; call `refuse` with the error.
        """
        batch, position = followed.batch, self.position
        # (1) the log's key  (2) not smaller than ours  (3) our frontier, extended, is its root
        checked = check_batch(position, batch, self._identity().vkeys)
        # (2) and (3) again, for the trees this log has shown before or must come to
        self._landmarks.check(position, batch.leaves, checked.checkpoint.checkpoint)
        # (4) cosigned within 60 s: noted here, told by `state_bits`, blocks nothing
        self._conditions.note_cosignature(checked.checkpoint.cosigned_at)
        self._conditions.refused = False
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

    def refuse(self, followed: Followed, error: Exception) -> None:
        """Keep both checkpoints of a batch that failed steps 1 to 3; the replica stays as it is."""
        self._conditions.refused = True
        log, theirs = self._commits.writing().log, followed.batch.checkpoint
        if keep_evidence(log, self.position, theirs, error, seen_at_ms=self._now_ms()):
            self._commit()
        self._commits.abort()

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
            while self.position.size < verified.end and not self._commits.full:
                self._take_entry(verified, self.position.size)
        except BlobMissing as missing:
            progress = Progress(done=False, required=missing.digest)
        except Wanting:
            wanted = self._demand.ahead(verified, self.position.size)
            progress = Progress(done=False, wanted=wanted)
        except (TrustError, InputInvalid):
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
        if after.size == self._enrolled.size:
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
        logger.warning(
            "%s: entry %d rejected (%s): %s",
            self.environment, verdict.generation, verdict.code, verdict.reason,
        )  # fmt: skip
        self._commits.add(self._commits.plan(), after)

    def _accept(self, accepted: Accepted, plan: Plan, after: Position) -> None:
        self._commits.add(plan, after)
        self._conditions.entry_rejected = False
        if self.policy is None or accepted.policy.digest != self.policy.digest:
            self.policy = accepted.policy
            write_policy(self._commits.writing().log, accepted.policy)

    def _finish(self, verified: Verified) -> None:
        self._caught_up = not verified.more
        self._demand.clear()
        self._note_held()
        skipped = [entry for entry in self.held.values() if entry.skipped]
        if skipped and self._caught_up and verified.leaves:
            logger.warning(
                "%s: entry %d held: expected the blobs of its heads, found them deleted",
                self.environment, skipped[0].generation,
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

    def _note_held(self) -> None:
        held = self.held.values()
        self._conditions.entry_held = any(self._caught_up or not entry.skipped for entry in held)
        self._lacking = any(entry.missing for entry in held)

    def _disk_failed(self, error: Exception) -> DiskFailed:
        """Forget what was not written: everything is read from the last commit again."""
        self._conditions.disk_failed = True
        self.forget()
        return DiskFailed(f"{self.environment}: {one_line(error)}")

    # What the steps read

    def _identity(self) -> LogIdentity:
        return self._enrolled.log if self.policy is None else self.policy.log(self.environment)

    def _head(self, key: Key) -> Head | None:
        return read_head(self._commits.transaction().heads, key)

    def _fold_state(self) -> tuple[int, str]:
        heads = self._commits.transaction().heads
        return snapshot_root(
            snapshot_line(Key(*parse_head_key(key)), Head.decode(data))
            for key, data in heads.items()
        )
