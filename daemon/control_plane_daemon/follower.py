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

A `Follower` is used by one thread at a time and does no network input or output: it says which
blobs it wants, and whoever runs it brings them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import lmdb
import msgpack

from control_plane.errors import (
    Forked,
    InputInvalid,
    Refused,
    ReplicaUnwritable,
    RolledBack,
    SignatureInvalid,
    TrustError,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import SignedCheckpoint
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import leaf_hash
from control_plane.log.statements import (
    Change,
    ChangeSet,
    Key,
    decode_change_list,
    parse_statement,
)
from control_plane.log.steps import (
    Accepted,
    BlobMissing,
    Position,
    Rejected,
    check_batch,
    judge,
    staleness,
)
from control_plane.manifests.documents import content, signature_of
from control_plane.manifests.validation import validate_blob
from control_plane.names import VERSIONED_KINDS
from control_plane.replica.apply import Checked, Materialiser, Serving, Unservable, read_head
from control_plane.replica.format import parse_head_key
from control_plane.replica.header import (
    CLASS_REVISIONS,
    CLOCK,
    DISK,
    HELD,
    REJECTED,
    STALE,
    TRUST_EXPIRED,
)
from control_plane.replica.held import SUPERSEDED, HeldEntry, held_blob_key
from control_plane.replica.plan import STAGED, Plan, Table
from control_plane.replica.writer import ReplicaWriter
from control_plane.trust.state import LogIdentity, Policy, restore
from control_plane_daemon.commits import EVIDENCE, ROOT, TARGETS, Commits, read_position
from control_plane_daemon.enrol import Enrolled
from control_plane_daemon.landmarks import Landmarks
from control_plane_daemon.shelf import Shelf
from control_plane_daemon.source import Fetched, Followed

LOOKAHEAD_BLOBS: Final = 512
"""How many missing blobs are asked for at once."""

HEALED_AT_ONCE: Final = 64
"""How many missing blobs of held entries are asked for in one attempt."""

logger = logging.getLogger("control_plane_daemon")


@dataclass(slots=True)
class Verified:
    """A batch that passed steps 1 to 3; ``next`` is the index of its first entry not taken yet."""

    first: int
    next: int
    data: tuple[bytes, ...]
    leaves: tuple[Leaf, ...]
    checkpoint: SignedCheckpoint
    newest: dict[Key, int] | None = None

    @property
    def end(self) -> int:
        """The index after the last entry."""
        return self.first + len(self.leaves)


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


class _Wanting(Exception):
    """The entry names blobs nobody has been asked for yet."""


_UNSERVABLE: Final = (Unservable, InputInvalid, TrustError, Refused)
_WRITE_ERRORS: Final = (ReplicaUnwritable, lmdb.Error)


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
        self._cosigned_at: int | None = None
        self._more = True
        self._refused = self._rejected = self._disk = self._held = self._lacking = False
        self._announced_more = False
        self._gone: set[str] = set()
        self._missing: dict[str, str] = {}
        self._load()

    def _load(self) -> None:
        """Read everything this object knows from the replica; also after a failed write."""
        commits = Commits(self.writer, Position(self._enrolled.log.origin), self._monotonic)
        self.policy = _stored_policy(commits)
        commits.position = read_position(commits.transaction().log, self._enrolled.log.origin)
        self._commits = commits
        self._shelf = Shelf(commits)
        commits.clear_staging()
        self._materialiser = Materialiser.load(
            self.environment, commits.plan(), commits.transaction().held
        )
        commits.abort()
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
        return not self._more

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
        return self._materialiser.held.entries

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
        # (4) cosigned within 60 s: noted here, told by `tick`, blocks nothing
        if checked.checkpoint.cosigned_at is not None:
            self._cosigned_at = max(self._cosigned_at or 0, checked.checkpoint.cosigned_at)
        self._refused = False
        self._more = followed.more or bool(batch.leaves)
        self._shelf.put(followed.blobs)
        self._announced_more = followed.more
        self._landmarks.remember(batch.checkpoint)
        return Verified(batch.first, batch.first, batch.leaves, checked.leaves, checked.checkpoint)

    def refuse(self, followed: Followed, error: Exception) -> None:
        """Keep both checkpoints of a batch that failed steps 1 to 3; the replica stays as it is."""
        self._refused = True
        theirs = followed.batch.checkpoint
        log = self._commits.writing().log
        before = log.get(EVIDENCE)
        # Bytes nobody signed must not displace the proof of a fork that was found before.
        proves = isinstance(error, (Forked, RolledBack))
        if before is None or (proves and msgpack.unpackb(before)["theirs"] != theirs):
            evidence = {
                "ours": self.position.checkpoint, "theirs": theirs, "size": self.position.size,
                "reason": str(error), "seen_at": self._now_ms(),
            }  # fmt: skip
            log.put(EVIDENCE, msgpack.packb(evidence))
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
        verified.next = max(verified.next, self.position.size)
        progress = Progress(done=False)
        try:
            while verified.next < verified.end and not self._commits.full:
                self._take_entry(verified)
                verified.next += 1
        except BlobMissing as missing:
            progress = Progress(done=False, required=missing.digest)
        except _Wanting:
            progress = Progress(done=False, wanted=self._lookahead(verified))
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
        if verified.next < verified.end:
            return progress
        self._finish(verified)
        return Progress(done=True)

    def _take_entry(self, verified: Verified) -> None:
        offset = verified.next - verified.first
        leaf, data = verified.leaves[offset], verified.data[offset]
        before = self.position
        # (5) envelope, origin, time  (6) thresholds  (7) replaces is the head
        verdict = judge(
            before.generation + 1,
            leaf,
            origin=before.origin,
            environment=self.environment,
            policy=self.policy,
            heads=self._head,
            blobs=self._shelf.get,
            state=self._fold_state,
        )
        after = replace(
            before,
            size=before.size + 1,
            frontier=before.frontier.extended([leaf_hash(data)]),
            checkpoint=verified.checkpoint.note,
            sequenced_at=leaf.sequenced_at,
        )
        if after.size == self._enrolled.size:
            self._enrolled.confirm(verdict.policy)
        if isinstance(verdict, Rejected):
            self._reject(verdict, after)
        else:
            self._accept(verdict, data, after, verified)

    def _reject(self, verdict: Rejected, after: Position) -> None:
        self._rejected = True
        logger.warning(
            "%s: entry %d rejected (%s): %s",
            self.environment, verdict.generation, verdict.code, verdict.reason,
        )  # fmt: skip
        self._commits.add(self._commits.plan(), after)

    def _accept(self, accepted: Accepted, data: bytes, after: Position, verified: Verified) -> None:
        if accepted.heads:
            plan = self._serve_or_hold(accepted, data, verified)
        else:
            plan = self._commits.plan()
        self._commits.add(plan, after)
        self._rejected = False
        if self.policy is None or accepted.policy.digest != self.policy.digest:
            self.policy = accepted.policy
            write_policy(self._commits.writing().log, accepted.policy)

    def _serve_or_hold(self, accepted: Accepted, data: bytes, verified: Verified) -> Plan:
        heads = accepted.heads or {}
        plan = self._commits.plan()
        serving = self._materialiser.begin(plan, accepted.generation, heads)
        try:
            superseded = self._superseded(accepted, verified)
            self._serve(serving, accepted.changes, accepted.policy, superseded)
        except _UNSERVABLE as error:
            if plan.staged:
                self._commits.clear_staging(STAGED)
            return self._hold(accepted, data, error)
        self._materialiser.move(plan, heads)
        if serving.skipped:
            missing = {c.key: c.digest or "" for c in accepted.changes if c.key in superseded}
            entry = _held_entry(accepted, data, serving.skipped, SUPERSEDED, missing)
            self._materialiser.held.add(plan, entry, _blobs_to_judge(accepted, self._shelf))
        return plan

    def _serve(
        self,
        serving: Serving,
        changes: Iterable[Change],
        policy: Policy,
        superseded: frozenset[Key] = frozenset(),
    ) -> None:
        """Steps 8 and 9 for every change of an entry; all of them pass, or none is served."""
        for change in changes:
            if change.key in superseded:
                self._materialiser.skip(serving, change)
                continue
            # (8) bytes with the digest  (9) owner's signature, schema, limits
            checked = self._checked(change, policy)
            # (9) and the record compiles
            self._materialiser.serve(serving, change, checked)
        self._materialiser.finish(serving)

    def _checked(self, change: Change, policy: Policy) -> Checked | None:
        if change.digest is None or not change.known:
            return None
        # (8) only bytes with their digest are on the shelf
        blob = self._shelf.get(change.digest)
        if blob is None:
            raise Unservable(f"{change.key}: expected blob {change.digest}, found none")
        if change.shard is not None:
            return Checked(blob, None)  # (9) a shard's form is checked where it is packed
        # (9) schema and limits, the checksum, kind, name and version
        document: Any = validate_blob(
            change.kind, change.name, change.version, blob, change.checksum,
            environment=self.environment,
        )  # fmt: skip
        # (9) the owner's signature
        if change.kind in VERSIONED_KINDS:
            _check_author(change, document, policy)
        return Checked(blob, document)

    def _hold(self, accepted: Accepted, data: bytes, error: Exception) -> Plan:
        heads = accepted.heads or {}
        digests = {c.key: c.digest for c in accepted.changes if c.digest is not None}
        missing = {key: digest for key, digest in digests.items() if digest not in self._shelf}
        entry = _held_entry(accepted, data, heads, _one_line(error), missing)
        plan = self._commits.plan()
        self._materialiser.move(plan, heads)
        blobs = _blobs_to_judge(accepted, self._shelf)
        blobs |= {d: found for d in digests.values() if (found := self._shelf.get(d)) is not None}
        self._materialiser.hold(plan, entry, accepted.changes, blobs)
        logger.warning(
            "%s: entry %d held, last good values stay: %s",
            self.environment, accepted.generation, entry.reason,
        )  # fmt: skip
        return plan

    # Blobs

    def deliver(self, fetched: Fetched) -> None:
        """Take in what was fetched for `Progress.wanted` or `Progress.required`.

        Raises:
            DiskFailed: the blobs did not fit in memory and could not be staged.
        """
        self._gone |= fetched.gone
        self._missing |= fetched.missing
        try:
            self._shelf.put(fetched.found)
        except _WRITE_ERRORS as error:
            raise self._disk_failed(error) from error

    def _superseded(self, accepted: Accepted, verified: Verified) -> frozenset[Key]:
        """The keys whose blobs are left out because a newer change of the key is on its way.

        What superseded them may be an entry that is rejected. Then the key stays noted as skipped,
        counts as held from the log's end on, and its blob is asked for like any held entry's.
        """
        superseded: set[Key] = set()
        for change in accepted.changes:
            digest = change.digest
            if digest is None or digest in self._shelf or not change.known:
                continue
            if self._is_superseded(change.key, verified):
                superseded.add(change.key)
            elif digest in self._gone:
                if not self._announced_more:
                    raise Unservable(f"{change.key}: expected blob {digest}, found it deleted")
                superseded.add(change.key)
            elif digest in self._missing:
                raise Unservable(f"{change.key}: {self._missing[digest]}")
            else:
                raise _Wanting
        return frozenset(superseded)

    def _is_superseded(self, key: Key, verified: Verified) -> bool:
        if verified.newest is None:
            verified.newest = {
                change.key: verified.first + offset
                for offset, leaf in enumerate(verified.leaves)
                for change in self._changes_of(leaf)
            }
        return verified.newest.get(key, -1) > verified.next

    def _lookahead(self, verified: Verified) -> tuple[str, ...]:
        """What to ask for: all the next entry lacks, and some of what follows."""
        wanted: dict[str, None] = {}
        for offset in range(verified.next - verified.first, len(verified.leaves)):
            for change in self._changes_of(verified.leaves[offset]):
                digest = change.digest
                newest = (verified.newest or {}).get(change.key, -1)
                if digest is not None and newest <= verified.first + offset and self._lacks(digest):
                    wanted[digest] = None
            if len(wanted) >= LOOKAHEAD_BLOBS:
                break
        return tuple(wanted)

    def _lacks(self, digest: str) -> bool:
        return not (digest in self._shelf or digest in self._gone or digest in self._missing)

    def _changes_of(self, leaf: Leaf) -> tuple[Change, ...]:
        """The changes an entry lists, as far as they can be read before it is judged."""
        try:
            return read_changes(leaf, self._shelf.get)
        except (InputInvalid, BlobMissing):
            return ()

    # Held entries

    def held_missing(self) -> tuple[str, ...]:
        """Digests that held entries lack; fetch them and call `heal`."""
        entries = self.held.values()
        digests = dict.fromkeys(d for entry in entries for d in entry.missing.values())
        return tuple(islice(digests, HEALED_AT_ONCE))

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
        blobs = {digest: data for digest, data in found.items() if sha256_hex(data) == digest}
        try:
            healed = self._heal(blobs, everything=not found)
            if healed:
                # What was served late may matter to every reader: all of them look again.
                self._commits.writing().touched.update(CLASS_REVISIONS)
            self._commit()
        except _WRITE_ERRORS as error:
            raise self._disk_failed(error) from error
        except Exception:
            self.forget()
            raise
        return healed

    def _heal(self, blobs: Mapping[str, bytes], *, everything: bool) -> int:
        healed, progress = 0, True
        while progress:
            progress = False
            for generation in sorted(self.held):
                entry = self.held[generation]
                arrived = {d: blobs[d] for d in entry.missing.values() if d in blobs}
                if arrived:
                    plan = self._commits.plan()
                    entry = self._materialiser.held.arrived(plan, entry, arrived)
                    self._commits.add(plan, self.position)
                if not entry.missing and (arrived or everything) and self._heal_entry(entry):
                    healed += 1
                    # A channel may have waited for this version: look at the others once more.
                    progress = everything = True
        return healed

    def _heal_entry(self, entry: HeldEntry) -> bool:
        kept = {digest: self._kept_blob(digest) for digest in entry.kept}
        plan = self._commits.plan()
        serving = self._materialiser.begin(plan, entry.generation, entry.keys)
        try:
            # The policy in force at the entry's own index judges it, however late that is.
            policy = restore(kept[entry.root], kept[entry.targets])
            self._shelf.put(kept)
            changes = read_changes(Leaf.decode(entry.leaf), kept.get)
            self._serve(serving, [c for c in changes if c.key in serving.keys], policy)
        except (*_UNSERVABLE, BlobMissing) as error:
            if plan.staged:
                self._commits.clear_staging(STAGED)
            logger.info("%s: entry %d still held: %s", self.environment, entry.generation, error)
            return False
        self._materialiser.held.release(plan, entry.keys)
        self._commits.add(plan, self.position)
        logger.info("%s: entry %d healed", self.environment, entry.generation)
        return True

    def _kept_blob(self, digest: str) -> bytes:
        return self._commits.transaction().blobs.get(held_blob_key(digest)) or b""

    # State

    def state_bits(self) -> int:
        """The bits of the header's state word that hold now; any thread may ask."""
        now_ms = self._now_ms()
        freshness = staleness(self._cosigned_at, now_ms // 1000)
        expired = self.policy is not None and self.policy.expired_at(now_ms)
        conditions = {
            STALE: freshness == "stale",
            CLOCK: freshness == "clock",
            HELD: self._held,
            REJECTED: self._refused or self._rejected,
            DISK: self._disk,
            TRUST_EXPIRED: expired,
        }
        return sum(bit for bit, holds in conditions.items() if holds)

    @property
    def cosigned_at(self) -> int:
        """When the newest checkpoint was cosigned, in seconds; 0 when none was seen."""
        return self._cosigned_at or 0

    def forget(self) -> None:
        """Drop what was not committed and read everything from the last commit again."""
        self._commits.abort()
        self._load()

    def close(self) -> None:
        """End an open transaction; the writer is its owner's to close."""
        self._commits.abort()

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

    def _finish(self, verified: Verified) -> None:
        self._more = self._announced_more
        self._gone.clear()
        self._missing.clear()
        self._shelf.clear()
        self._note_held()
        skipped = [entry for entry in self.held.values() if entry.skipped]
        if skipped and self.caught_up and verified.leaves:
            logger.warning(
                "%s: entry %d held: expected the blobs of its heads, found them deleted",
                self.environment, skipped[0].generation,
            )  # fmt: skip

    def _commit(self) -> None:
        before = self._commits.count
        self._commits.commit()
        self._note_held()
        if self._commits.count > before:
            self._disk = False

    def _note_held(self) -> None:
        # A plain attribute, so that a heartbeat in another thread reads it whole.
        self._held = any(self.caught_up or not entry.skipped for entry in self.held.values())
        self._lacking = any(entry.missing for entry in self.held.values())

    def _disk_failed(self, error: Exception) -> DiskFailed:
        """Forget what was not written: everything is read from the last commit again."""
        self._disk = True
        self.forget()
        return DiskFailed(f"{self.environment}: {_one_line(error)}")


def read_changes(leaf: Leaf, blobs: Callable[[str], bytes | None]) -> tuple[Change, ...]:
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


def write_policy(log: Table, policy: Policy) -> None:
    """Keep the trust metadata in force beside the position."""
    log.put(ROOT, policy.root_bytes)
    log.put(TARGETS, policy.targets_bytes)


def _stored_policy(commits: Commits) -> Policy | None:
    log = commits.transaction().log
    root, targets = log.get(ROOT), log.get(TARGETS)
    if root is None or targets is None:
        return None
    # Verified when it was adopted; whether it has expired since is a question of state.
    return restore(root, targets)


def _check_author(change: Change, document: Mapping[str, Any], policy: Policy) -> None:
    signature = signature_of(document)
    if signature is None:
        raise SignatureInvalid(
            f"{change.kind}/{change.name}@{change.version}: expected the owner's signature, found"
            " none; sign it with 'control-plane sign'"
        )
    policy.author(change.kind, change.name, *signature, content(document))


def _held_entry(
    accepted: Accepted, leaf: bytes, keys: Iterable[Key], reason: str, missing: Mapping[Key, str]
) -> HeldEntry:
    policy = accepted.policy
    return HeldEntry(
        accepted.generation, leaf, tuple(keys), reason, missing,
        root=sha256_hex(policy.root_bytes), targets=sha256_hex(policy.targets_bytes),
    )  # fmt: skip


def _blobs_to_judge(accepted: Accepted, shelf: Shelf) -> dict[str, bytes]:
    """What judging the entry again takes: the policy at its index, and its change list."""
    policy = accepted.policy
    blobs = {sha256_hex(data): data for data in (policy.root_bytes, policy.targets_bytes)}
    statement = accepted.statement
    if isinstance(statement, ChangeSet) and statement.changes_blob is not None:
        digest = statement.changes_blob.digest
        blobs[digest] = shelf.get(digest) or b""
    return blobs


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
