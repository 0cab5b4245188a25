"""The one writer: it judges what comes in, appends what fits, and signs the tree that results.

One thread writes, so that two sets that name the same head can never both fit. Waiting work is
done together in one transaction; sets that only kill or un-kill flags go before all others, and a
transaction is never long (``BATCH_JOBS`` or ``BATCH_SECONDS``, whichever comes first), so a kill
waits for one large set at most.

The durable effects of a change set, in order:

 (1) its blobs, by earlier calls of ``put_blob`` or ``put_blobs``;
 (2) one transaction: entry, tile hashes, position, heads, touched keys, identity, and the removal
     of the waiting set it may have been;
 (3) the signed checkpoint over the position of (2), by ``publish_checkpoint``; the only effect
     that is stored without being synced, for the reason given there.

Then long polls wake, then the author is answered. What a crash leaves after each stands at the
code.

Newer trust metadata is one more entry, written in the same order. When it begins an epoch, (2) is
the whole beginning: the new log with its first two entries, the heads it carries over, the last
checkpoint of the old log if that was still to come and the first of the new one, so that nobody
ever sees an epoch by halves. Then, as (2b) and (2c), the change sets that waited for the old log
are told to the audit file and dropped.

An environment rests when the newest root known here does not name it, or when its log's key is
said to be lost: the log is served as it stands, takes nothing but trust metadata, which may name it
again or begin an epoch with another key, and no checkpoint of it is renewed, so its nodes say that
they are stale.

``publish_checkpoint`` is the same function after a batch, at start and for the renewal
every ``RENEW_SECONDS``; it signs what the database holds and nothing else, and refuses to sign a
tree that is smaller than, or different from, the one signed before.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from control_plane.errors import (
    ControlPlaneError,
    EpochMoved,
    Forked,
    KeyFileRefused,
    NotFound,
    Refused,
    Unavailable,
)
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.fold import Head
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import leaf_hash
from control_plane.log.statements import ChangeSet, Key
from control_plane.trust.state import LogIdentity, Policy
from control_plane_store import epochs
from control_plane_store.admission import Surroundings, Waiting, admit, check_origin, is_urgent
from control_plane_store.audit import Audit
from control_plane_store.database import Database
from control_plane_store.gathering import gathered, keep_waiting
from control_plane_store.namespaces import MentionsKept
from control_plane_store.soundness import check_grown, check_tree, policy_at_end
from control_plane_store.transactions import Log, PendingRow, Snapshot, Transaction

RENEW_SECONDS = 8.0
"""Nodes call a checkpoint stale at 60 s; the promise is a renewal every 10 s at the latest."""

BATCH_JOBS = 64
BATCH_SECONDS = 0.05
MAX_WAITING_JOBS = 4_096
MAX_WAITING_BYTES = 256 << 20
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class StoreFailed(Unavailable):
    """The store could not write; nothing was acknowledged. Submitting again is safe."""

    code = "store_failed"


class AtRest(Refused):
    """The environment's log is served as it stands and takes no change."""

    code = "environment_at_rest"


class StoreBusy(Unavailable):
    """Too much work is waiting; try again in a moment."""

    code = "store_busy"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A statement stands in the log; ``repeated`` when it stood there before."""

    statement: str
    generation: int
    index: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """A change set waits for ``threshold - found`` further signatures."""

    statement: str
    threshold: int
    found: int


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a dry run found: the generation the set would have had, None if it would wait."""

    statement: str
    generation: int | None
    threshold: int = 0
    found: int = 0


Outcome = Receipt | Pending | Rehearsal


@dataclass(frozen=True, slots=True)
class Position:
    """A log as far as committed transactions carry it, and the policy in force there."""

    log: Log
    policy: Policy


@dataclass(slots=True)
class _Batch:
    """One transaction under way; its positions become the store's when it has committed."""

    transaction: Transaction
    positions: dict[str, Position]
    refusals: list[dict[str, object]] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    """The environments whose logs begin an epoch here."""


@dataclass(slots=True)
class _Job:
    urgent: bool
    size_bytes: int
    work: Callable[[_Batch], Any]
    answer: Future[Any]


_Answers = list[tuple["Future[Any]", Any]]


class Sequencer:
    """The writer of one database.

    ``signers`` gives the signer of a log the first time it is to sign. ``published(environment,
    log)`` is called in the writer's thread once a checkpoint is stored. The logs of the
    environments ``without_key`` rest until their next epoch.

    Raises:
        NotFound: an environment ``without_key`` has no log.
        Forked: the database's tree is not the one its last checkpoint was signed for.
        ControlPlaneError: a log's trust entries do not lead to a policy.
    """

    def __init__(
        self,
        database: Database,
        signers: Callable[[LogIdentity], LogSigner],
        *,
        audit: Audit,
        now_ms: Callable[[], int],
        published: Callable[[str, Log], None] = lambda environment, log: None,
        without_key: Iterable[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._load_signer = signers
        self._signers: dict[str, LogSigner] = {}
        self._audit = audit
        self._now_ms = now_ms
        self._mentions = MentionsKept()
        self._published = published
        self._monotonic = monotonic
        self._thread: threading.Thread | None = None
        self._wake = threading.Condition()
        self._queue: list[tuple[int, int, _Job]] = []
        self._waiting_bytes = 0
        self._arrivals = 0
        self._closing = False
        self._renewed_at: dict[str, float] = {}
        self._retry_at = 0.0
        self._positions = self._load()
        self._without_key = {each: self.position(each).log.epoch for each in without_key}
        self._doubtful = False

    # Reading, from any thread

    def position(self, environment: str) -> Position:
        """The newest committed position.

        Raises:
            NotFound: this store has no log of that environment.
        """
        try:
            return self._positions[environment]
        except KeyError as error:
            raise NotFound(
                f"expected one of the environments {', '.join(self._positions) or '(none)'},"
                f" found {environment!r}"
            ) from error

    @property
    def environments(self) -> tuple[str, ...]:
        """The environments this store has a log of."""
        return tuple(self._positions)

    def why_at_rest(self, environment: str) -> str | None:
        """Why the environment's log takes no change and no checkpoint is signed; None if it does.

        Raises:
            NotFound: this store has no log of that environment.
        """
        if self._without_key.get(environment) == self.position(environment).log.epoch:
            return f"{environment}: expected the log's key, which is said to be lost"
        policies = [position.policy for position in self._positions.values()]
        newest = max(policies, key=lambda policy: policy.root_version)
        if environment not in newest.environments:
            return (
                f"{environment}: expected a newest root that names it, found version"
                f" {newest.root_version} that names {', '.join(newest.environments)}"
            )
        return None

    # Work, from any thread

    def submit(
        self,
        environment: str,
        envelope: Envelope,
        statement: ChangeSet,
        *,
        dry_run: bool = False,
        token: str = "",
    ) -> Future[Outcome]:
        """Judge a change set and append it if it fits; the future raises what refused it."""

        def work(batch: _Batch) -> Outcome:
            try:
                return self._sequence(batch, environment, envelope, statement, dry_run)
            except ControlPlaneError as error:
                if not dry_run:
                    batch.refusals.append(
                        refusal(self._now_ms(), environment, token, error, envelope.identity)
                    )
                raise

        return self._enqueue(work, len(envelope.payload), urgent=is_urgent(statement))

    def put_blob(self, environment: str, digest: str, data: bytes) -> Future[None]:
        """Keep a blob, durably once the future is done; the caller checked its digest."""
        return self.put_blobs(environment, {digest: data})

    def put_blobs(self, environment: str, blobs: Mapping[str, bytes]) -> Future[None]:
        """Keep blobs by digest, all of them or none; as ``put_blob``."""
        return self._enqueue(
            lambda batch: batch.transaction.put_blobs(environment, blobs),
            sum(map(len, blobs.values())),
        )

    def append_trust(
        self, environment: str, roots: Sequence[bytes], targets: bytes
    ) -> Future[Receipt]:
        """Append newer trust metadata, or begin the epoch it names; ``repeated`` when in force.

        ``roots`` may hold versions the log has; they are left out.
        """
        return self._enqueue(
            lambda batch: self._append_trust(batch, environment, roots, targets),
            len(targets) + sum(map(len, roots)),
        )

    def offer_trust(
        self, environment: str, named: epochs.Named, *, token: str = ""
    ) -> Future[Receipt]:
        """As ``append_trust``, for metadata whose bytes were put before."""

        def work(batch: _Batch) -> Receipt:
            try:
                found = epochs.read_metadata(batch.transaction, environment, named)
                return self._append_trust(batch, environment, *found)
            except ControlPlaneError as error:
                # The key file that is missing is the store's own, not what was asked for.
                told = KeyFileRefused(str(error)) if isinstance(error, NotFound) else error
                batch.refusals.append(refusal(self._now_ms(), environment, token, told))
                raise told from error

        return self._enqueue(work, 0)

    def begin_logs(
        self, identities: Iterable[LogIdentity], roots: Sequence[bytes], targets: bytes
    ) -> Future[None]:
        """Begin logs whose first entry is this trust metadata, all of them or none."""
        wanted = list(identities)

        def work(batch: _Batch) -> None:
            offer = epochs.Offer(tuple(roots), targets)
            at_ms = self._now_ms()
            entries = [
                epochs.first_entry(each, offer, signer=self._signer(each), at_ms=at_ms)
                for each in wanted
            ]
            for identity, entry in zip(wanted, entries, strict=True):
                transaction = batch.transaction
                transaction.put_blobs(identity.environment, offer.blobs)
                log = transaction.add_log(identity.environment, identity.epoch, identity.origin, 0)
                self._append(batch, log, entry)

        return self._enqueue(work, len(targets))

    def record(self, event: Mapping[str, object]) -> Future[None]:
        """Write an event that was decided elsewhere to the audit file."""
        return self._enqueue(lambda batch: batch.refusals.append(dict(event)), 0)

    # The writer's thread

    def start(self) -> None:
        """Finish what a crash left unfinished, then begin to work.

        Raises:
            NotFound, KeyFileRefused, SyntaxInvalid: a log's key is not the one it has.
        """
        self._drop_ended()
        self.publish_all()
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the work that waits, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def work(self) -> None:
        """Do all that waits, in this thread; checkpoints stay as they are."""
        while self._queue:
            answers: _Answers = []
            self._commit(answers)
            _settle(answers)

    def publish_all(self) -> None:
        """Publish a checkpoint of every log that is not at rest.

        Raises:
            NotFound, KeyFileRefused, SyntaxInvalid: as ``start``; nothing is published.
        """
        resting = {name: why for name in self._positions if (why := self.why_at_rest(name))}
        moving = self._positions.keys() - resting.keys()
        for environment in moving:
            self._signer(self._positions[environment].policy.log(environment))
        for environment in moving:
            self.publish_checkpoint(environment)
        for name, why in resting.items():
            logger.warning(
                "%s; its log is served as it stands and takes no change", why,
                extra={"environment": name},
            )  # fmt: skip

    def publish_checkpoint(self, environment: str) -> None:
        """Sign the tree the database holds, store the checkpoint, and tell of it.

        Raises:
            Forked: the tree is not the one this process verified and extended; nothing is signed.
        """
        position = self._positions[environment]
        time_s = self._now_ms() // 1000
        with self._database.write(synced=False) as transaction:
            log = transaction.log(environment)
            if log is None or log.frontier != position.log.frontier:
                raise Forked(
                    f"{position.log.origin}: expected the database at size"
                    f" {position.log.frontier.size} as written, found another tree"
                )
            # A crash here, before (3): the entries of (2) stand, no checkpoint covers them, nobody
            # was told. Start-up signs the same tree again. The lost note never left the process.
            log = self._note(transaction, log, position.policy, time_s)
        # A crash here, after (3): start-up renews the note. An author who was not answered submits
        # again and finds the statement's entry. A power cut may take the note back though it was
        # served: the tree it covers was synced by (2), so start-up signs that tree or a larger one.
        self._positions[environment] = replace(position, log=log)
        self._renewed_at[environment] = self._monotonic()
        self._published(environment, log)

    def _note(self, transaction: Transaction, log: Log, policy: Policy, time_s: int) -> Log:
        """Sign the log's tree and store the checkpoint; the log with it."""
        check_grown(log)
        checkpoint = Checkpoint(log.origin, log.frontier.size, log.frontier.root())
        signer = self._signer(policy.log(log.environment))
        note = signer.sign_checkpoint(checkpoint, time_s)
        transaction.set_note(log, note, checkpoint.size, checkpoint.root)
        return replace(log, note=note, note_size=checkpoint.size, note_root=checkpoint.root)

    def _signer(self, log: LogIdentity) -> LogSigner:
        if log.origin not in self._signers:
            self._signers[log.origin] = self._load_signer(log)
        return self._signers[log.origin]

    def _run(self) -> None:
        while self._wait():
            answers: _Answers = []
            try:
                self._commit(answers)  # (2)
                self._publish_due()  # (3)
            except Exception as error:
                # The outermost loop. Whether (2) or (3) took place is in doubt, so the next round
                # reads the positions anew and publishes what is not; authors are told to repeat.
                logger.exception("store: expected to write, found an error; trying again")
                failure = StoreFailed(f"store: expected to write, found {error}; submit again")
                answers = [(answer, failure) for answer, _ in answers]
                self._doubtful = True
                self._retry_at = self._monotonic() + RETRY_SECONDS
            _settle(answers)

    def _wait(self) -> bool:
        """Sleep until there is work or a checkpoint to renew; False once closed and idle."""
        with self._wake:
            while not self._queue:
                if self._closing:
                    return False
                due = min(self._renewed_at.values(), default=0.0) + RENEW_SECONDS
                remaining = max(due, self._retry_at) - self._monotonic()
                if remaining <= 0:
                    return True
                self._wake.wait(remaining)
        return True

    def _publish_due(self) -> None:
        now = self._monotonic()
        for environment, position in list(self._positions.items()):
            renewed_at = self._renewed_at.get(environment)
            unpublished = position.log.note_size < position.log.frontier.size
            # What was taken before the log came to rest is published; after a restart nobody may
            # be left to sign it, and nobody was told of it.
            signed = not unpublished or position.log.origin not in self._signers
            if signed and self.why_at_rest(environment):
                self._renewed_at.pop(environment, None)
            elif unpublished or renewed_at is None or now - renewed_at >= RENEW_SECONDS:
                self.publish_checkpoint(environment)

    def _enqueue(
        self, work: Callable[[_Batch], Any], size_bytes: int, *, urgent: bool = False
    ) -> Future[Any]:
        job = _Job(urgent, size_bytes, work, Future())
        with self._wake:
            if self._closing:
                raise StoreBusy("store: expected to take work, found it stopping")
            full = len(self._queue) >= MAX_WAITING_JOBS or self._waiting_bytes > MAX_WAITING_BYTES
            if full and not urgent:
                raise StoreBusy(
                    f"store: expected fewer than {MAX_WAITING_JOBS} requests waiting, found"
                    f" {len(self._queue)}; try again"
                )
            self._arrivals += 1
            self._waiting_bytes += size_bytes
            heapq.heappush(self._queue, (0 if urgent else 1, self._arrivals, job))
            self._wake.notify()
        return job.answer

    def _next(self) -> _Job | None:
        with self._wake:
            if not self._queue:
                return None
            job = heapq.heappop(self._queue)[2]
            self._waiting_bytes -= job.size_bytes
            return job

    # One transaction

    def _commit(self, answers: _Answers) -> None:
        """Take waiting work and make its effects durable together; ``answers`` grows with it."""
        if self._doubtful:
            self._positions = self._load()
            # Also a log that has moved on since is told of.
            self._renewed_at.clear()
            self._drop_ended()
            self._doubtful = False
        if not self._queue:
            return
        with self._database.write() as transaction:
            batch = _Batch(transaction, dict(self._positions))
            self._work_off(batch, answers)
            # A crash here, before (2): nothing of the batch exists but the blobs of (1), which
            # nobody names yet. Authors were not answered and submit again.
        # A crash here, after (2): see publish_checkpoint, which start-up runs.
        self._positions = batch.positions
        # A refusal moved nothing. Losing its line to a crash loses no answer either, because the
        # answer is given only after the line is synced.
        self._audit.append(batch.refusals)
        if batch.moved:
            for environment in batch.moved:
                self._renewed_at.pop(environment, None)
            self._drop_ended()

    def _drop_ended(self) -> None:
        """(2b) and (2c): tell of the sets that waited for a log that has ended, and drop them.

        Nobody is shown them once the epoch has begun. A crash before (2b) or (2c) leaves them to
        the next start, which may write their lines once more.
        """
        with self._database.read() as snapshot:
            ended = snapshot.ended_pending()
        if not ended:
            return
        now_ms = self._now_ms()
        self._audit.append(
            refusal(now_ms, log.environment, "", self._ended(log, row), row.statement)
            for log, row in ended
        )
        with self._database.write() as transaction:
            for log, row in ended:
                transaction.drop_pending(log, row.statement)

    def _ended(self, log: Log, row: PendingRow) -> EpochMoved:
        epoch = self._positions[log.environment].log.epoch
        return EpochMoved(
            f"{log.origin}: expected {row.threshold} signatures before epoch {epoch} began, found"
            f" {row.found}; sign the change anew",
            epoch,
        )

    def _work_off(self, batch: _Batch, answers: _Answers) -> None:
        deadline = self._monotonic() + BATCH_SECONDS
        while len(answers) < BATCH_JOBS and (not answers or self._monotonic() < deadline):
            job = self._next()
            if job is None:
                return
            # Listed before it is worked on: whatever happens, its author is answered.
            answers.append((job.answer, None))
            try:
                answers[-1] = (job.answer, job.work(batch))
            except ControlPlaneError as error:
                answers[-1] = (job.answer, error)
            if job.urgent and not (self._queue and self._queue[0][0] == 0):
                return  # what is urgent becomes visible now, not behind bulk work

    def _sequence(
        self,
        batch: _Batch,
        environment: str,
        envelope: Envelope,
        statement: ChangeSet,
        dry_run: bool,
    ) -> Outcome:
        """One change set; everything that can refuse it comes before the first write."""
        position, transaction = batch.positions[environment], batch.transaction
        log, identity = position.log, envelope.identity
        # Whoever was not answered sends the same set again, also when an epoch has begun since.
        meant = _log_meant(transaction, log, statement.origin)
        index = transaction.index_of_statement(meant, identity)
        if index is not None:
            generation = meant.generation_of(index)
            if dry_run:
                return Rehearsal(identity, generation)
            return Receipt(identity, generation, index, repeated=True)
        check_origin(statement, log.origin)
        why = self.why_at_rest(environment)
        if why is not None:
            raise AtRest(f"{why}; its log is served as it stands and takes no change")
        around = self._surroundings(transaction, position)
        waiting = transaction.pending_envelope(log, identity)
        envelope = gathered(waiting, envelope, around.policy)
        found = admit(envelope, statement, around)
        if isinstance(found, Waiting):
            if not dry_run:
                keep_waiting(transaction, log, found, around.sequenced_at)
                return Pending(identity, found.threshold, found.found)
            return Rehearsal(identity, None, found.threshold, found.found)
        # A leaf past its bound is refused here, before anything is written.
        found.leaf.encode()
        if dry_run:
            return Rehearsal(identity, found.accepted.generation)
        if waiting is not None:
            transaction.drop_pending(log, identity)
        entry = epochs.Entry(found.leaf, found.accepted, found.required)
        return self._append(batch, log, entry)

    def _surroundings(self, transaction: Transaction, position: Position) -> Surroundings:
        log = position.log

        def heads(keys: tuple[Key, ...]) -> dict[Key, Head]:
            return {key: row.head for key, row in transaction.heads(log, keys).items()}

        def transaction_blob(digest: str) -> bytes | None:
            return transaction.held_blob(log.environment, digest)

        return Surroundings(
            origin=log.origin,
            environment=log.environment,
            generation=log.generation + 1,
            sequenced_at=max(self._now_ms(), log.sequenced_at),
            policy=position.policy,
            heads=heads,
            tenants=lambda namespace: {
                row.key: row.head
                for row in transaction.heads_from(log, f"config\0{namespace}@".encode())
            },
            mentions=lambda: self._mentions.of(
                transaction.live_digests(log, "config"), transaction_blob
            ),
            versions=lambda kind, name: {
                row.key: (row.head, row.change)
                for row in transaction.heads_from(log, f"{kind}\0{name}\0".encode())
            },
            blob=transaction_blob,
        )

    def _append(self, batch: _Batch, log: Log, entry: epochs.Entry) -> Receipt:
        transaction, leaf, accepted = batch.transaction, entry.leaf, entry.accepted
        envelope, data = leaf.envelope, leaf.encode()
        index, hashed = log.frontier.size, leaf_hash(data)
        transaction.append(
            log, data, hashed, statement=envelope.identity, payload_type=envelope.payload_type
        )
        transaction.set_heads(log, accepted.heads or {}, accepted.changes)
        transaction.require(log, index, entry.required)
        moved = replace(
            log, frontier=log.frontier.extended([hashed]), sequenced_at=leaf.sequenced_at
        )
        transaction.move(moved)
        batch.positions[log.environment] = Position(moved, accepted.policy)
        return Receipt(envelope.identity, accepted.generation, index)

    def _append_trust(
        self, batch: _Batch, environment: str, roots: Sequence[bytes], targets: bytes
    ) -> Receipt:
        """Newer trust metadata; everything that can refuse it comes before the first write."""
        position, now_ms = batch.positions[environment], self._now_ms()
        log, policy = position.log, position.policy
        offer = epochs.newer(policy, roots, targets)
        if offer is None:
            return _standing(batch.transaction, log)
        named = epochs.named_log(policy, offer, environment, now_ms)
        if named.epoch > log.epoch:
            return self._begin_epoch(batch, position, named, offer, now_ms)
        entry = epochs.trust_entry(
            named,
            offer,
            generation=log.generation + 1,
            policy=policy,
            signer=self._signer(named),
            at_ms=max(now_ms, log.sequenced_at),
        )
        batch.transaction.put_blobs(environment, offer.blobs)
        return self._append(batch, log, entry)

    def _begin_epoch(
        self,
        batch: _Batch,
        position: Position,
        named: LogIdentity,
        offer: epochs.Offer,
        now_ms: int,
    ) -> Receipt:
        transaction, old = batch.transaction, position.log
        generation, first, second = epochs.epoch_entries(
            transaction,
            old,
            position.policy,
            named,
            offer,
            signer=self._signer(named),
            at_ms=now_ms,
        )
        if old.note_size < old.frontier.size:
            # Entries that no checkpoint covers yet are entries of the old log all the same. (If its
            # key is lost, too, no epoch can begin: it takes a crash between (2) and (3) as well.)
            self._note(transaction, old, position.policy, now_ms // 1000)
        transaction.put_blobs(old.environment, offer.blobs)
        log = transaction.add_log(old.environment, named.epoch, named.origin, generation)
        transaction.carry_heads(old, log)
        receipt = self._append(batch, log, first)
        self._append(batch, batch.positions[old.environment].log, second)
        begun = batch.positions[old.environment]
        noted = self._note(transaction, begun.log, begun.policy, now_ms // 1000)
        batch.positions[old.environment] = replace(begun, log=noted)
        batch.moved.add(old.environment)
        return receipt

    # Start-up

    def _load(self) -> dict[str, Position]:
        """Positions and policies, folded from what the database holds and checked against it."""
        with self._database.read() as snapshot:
            newest = {log.environment: log for log in snapshot.logs()}
            for log in newest.values():
                check_tree(snapshot, log)
            return {
                environment: Position(log, policy_at_end(snapshot, log))
                for environment, log in newest.items()
            }


def refusal(
    at_ms: int, environment: str, token: str, error: ControlPlaneError, statement: str = ""
) -> dict[str, object]:
    """The audit line of a refused submission."""
    return {
        "at": at_ms,
        "event": "refused",
        "environment": environment,
        "token": token,
        "statement": statement,
        "code": error.code,
        "message": str(error),
    }


def _settle(answers: _Answers) -> None:
    for answer, result in answers:
        # A caller who went away has cancelled; the effect stands all the same.
        if not answer.set_running_or_notify_cancel():
            continue
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)


def _log_meant(snapshot: Snapshot, newest: Log, origin: str) -> Log:
    """The epoch of this log that a set was signed for, else the newest."""
    if origin == newest.origin:
        return newest
    epochs_here = snapshot.epochs(newest.environment)
    return next((log for log in epochs_here if log.origin == origin), newest)


def _standing(snapshot: Snapshot, log: Log) -> Receipt:
    """Where the policy in force was adopted: the log's last trust entry."""
    index, data = snapshot.leaves_of_type(log, PAYLOAD_TYPE["trust"])[-1]
    identity = Leaf.decode(data).envelope.identity
    return Receipt(identity, log.generation_of(index), index, repeated=True)
