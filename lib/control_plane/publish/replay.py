"""Read a log from its first entry and believe only what it proves.

The same numbered steps 1 to 7 that a node takes, in the same functions, started from an enrolment:
the checkpoint it carries must be one the log still leads through, and the root metadata it carries
must be among those the log adopted. What comes out are the heads every honest node has, and how
they came.

What this module decides:

- A log is read from index 0 of its first epoch, whichever epoch is enrolled. What that entry says
  of itself is believed for as long as the replay lasts; nothing comes out of it unless the enrolled
  checkpoint was passed and the enrolled root was adopted.
- An epoch goes on only from the very end of what was read of the one before it; one that continues
  another history is an error, and so is a log that ends before the epoch enrolled.
- Where the newest epoch ends is the source's word; a source can withhold what is new.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from control_plane.errors import EpochMoved, Forked, NotFound, StoreUnreachable
from control_plane.log.checkpoint import SignedCheckpoint, open_checkpoint
from control_plane.log.epochs import begin_epoch, check_on_the_way, first_identity
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import Frontier, leaf_hash
from control_plane.log.statements import Change, Key, TrustStatement
from control_plane.log.steps import (
    Accepted,
    Batch,
    BlobMissing,
    CheckedBatch,
    Position,
    Rejected,
    check_batch,
    judge,
)
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.state import LogIdentity, Policy, adopt

Progress = Callable[[int, int], None]
MAX_STALLS: Final = 3
FIRST_EPOCH: Final = 1
MAX_SKIPPED_EPOCHS: Final = 100
"""Epoch numbers that may be missing in a row: a source cannot send a reader looking for ever."""

_Taken = TypeVar("_Taken")


class Source(Protocol):
    """Where entries and blobs come from: a store, or its files; nothing it says is believed."""

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        """Entries from index ``size`` on with a checkpoint and, for a part, a proof.

        Raises:
            EpochMoved: that epoch has no more, a later one has.
        """

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        """The bytes whose SHA-256 is ``digest``."""


@dataclass(slots=True)
class Epoch:
    """One epoch of a verified log: which log it is, and where it ended or stands."""

    log: LogIdentity
    position: Position
    checkpoint: SignedCheckpoint


@dataclass(slots=True)
class History:
    """A verified log: where it stands, what it holds, and the change sets that led there.

    ``position`` and ``checkpoint`` are those of the newest of ``epochs``; ``accepted``,
    ``rejected`` and ``roots`` (by version, every root ever in force) are of all of them.
    """

    environment: str
    position: Position
    policy: Policy | None = None
    checkpoint: SignedCheckpoint | None = None
    heads: dict[Key, Head] = field(default_factory=dict)
    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    roots: dict[int, bytes] = field(default_factory=dict)
    epochs: list[Epoch] = field(default_factory=list)

    def holds(self, generation: int) -> bool:
        """Whether an entry of this log has that generation."""
        return any(first <= generation <= last for first, last in self._generations())

    def _generations(self) -> list[tuple[int, int]]:
        """The first and last generation of each epoch."""
        positions = [epoch.position for epoch in self.epochs]
        return [(each.continues_generation + 1, each.generation) for each in positions]

    @property
    def changes(self) -> dict[Key, Change]:
        """The change each live key rests on now."""
        return self.changes_at(self.position.generation)

    def changes_at(self, generation: int) -> dict[Key, Change]:
        """The change each key rested on that was live at ``generation``.

        Raises:
            NotFound: the log has no such generation.
        """
        if not self.holds(generation):
            known = " or ".join(f"{first} to {last}" for first, last in self._generations())
            raise NotFound(
                f"{self.environment}: expected a generation from {known}, found {generation}"
            )
        live: dict[Key, Change] = {}
        for entry in self.accepted:
            if entry.generation > generation:
                break
            for change in entry.changes:
                if change.action == "delete":
                    live.pop(change.key, None)
                else:
                    live[change.key] = change
        return live

    def state_at(self, generation: int) -> tuple[int, str]:
        """As ``state``, once the entry of that generation was judged."""
        heads: dict[Key, Head] = {}
        for entry in self.accepted:
            if entry.generation <= generation:
                heads.update(entry.heads or {})
        return snapshot_root(snapshot_line(key, head) for key, head in heads.items())

    def state(self) -> tuple[int, str]:
        """How many heads there are, and the RFC 6962 root over their lines."""
        return snapshot_root(snapshot_line(key, head) for key, head in self.heads.items())


def replay(
    store: Source,
    environment: str,
    enrolment: Enrolment,
    *,
    progress: Progress | None = None,
) -> History:
    """Follow the environment's log from index 0 of its first epoch to its newest checkpoint.

    Raises:
        TrustError, InputInvalid: the log proves something else than it claims; the message says
            which step.
        StoreUnreachable: the store does not answer, or withholds entries it has signed.
    """
    return _Replay(store, environment, enrolment).run(progress)


class _Replay:
    def __init__(self, store: Source, environment: str, enrolment: Enrolment) -> None:
        self._store = store
        self._environment = environment
        self._enrolment = enrolment
        # Which log to expect and whose signature; the log itself must lead to this very root.
        self._enrolled = adopt(None, [enrolment.root], enrolment.targets, at_ms=0)
        self._named = log = self._enrolled.log(environment)
        note = enrolment.checkpoints.get(environment)
        encoded = note.encode() if isinstance(note, str) else note
        self._anchor = None
        if encoded is not None:
            opened = open_checkpoint(encoded, log.vkeys, witnesses=log.witnesses)
            self._anchor = opened.checkpoint
        self._passed_anchor = self._anchor is None or self._anchor.size == 0
        self._log = log if log.epoch == FIRST_EPOCH else None
        self._blobs: dict[str, bytes] = {}
        origin = f"{log.installation}/{environment}/{FIRST_EPOCH}"
        self.history = History(environment, Position(origin))

    def run(self, progress: Progress | None) -> History:
        history, stalls, ended = self.history, 0, 0
        while True:
            answer = self._next_answer()
            batch = self._batch(answer)
            if batch.leaves:
                check_on_the_way(history.position, self._named)
            log = self._identity(batch)
            checked = check_batch(history.position, batch, log.vkeys, witnesses=log.witnesses)
            self._take(checked, log)
            if progress is not None:
                progress(history.position.size, checked.checkpoint.checkpoint.size)
            if answer.get("more"):
                stalls = 0 if batch.leaves else stalls + 1
                if stalls == MAX_STALLS:
                    raise StoreUnreachable(f"{self._environment}: expected entries, found none")
            elif ended == history.position.epoch:
                break
            else:
                # Asked once more, since only past its end an epoch says that it has a successor.
                ended = history.position.epoch
        self._check_enrolled()
        return history

    def _next_answer(self) -> dict[str, Any]:
        """What the source has from our position on, there or in the epoch that goes on from it."""
        position = self.history.position
        try:
            answer = self._follow(position.epoch, position.size)
        except EpochMoved as moved:
            return self._next_epoch(moved.epoch)
        if position.size and not answer["entries"] and position.epoch < self._named.epoch:
            # It does not tell, but we know. Where there is none, the log is less than enrolled.
            return self._found_epoch(self._named.epoch) or answer
        return answer

    def _next_epoch(self, newest: int) -> dict[str, Any]:
        """Begin the first epoch there is after ours, since there is one; its first answer."""
        position = self.history.position
        if not position.size or newest <= position.epoch:
            raise StoreUnreachable(
                f"{position.origin}: expected entries, found none; told that the log goes on in"
                f" epoch {newest}"
            )
        answer = self._found_epoch(newest)
        if answer is None:
            raise StoreUnreachable(
                f"{position.origin}: expected a later epoch up to {newest}, found none"
            )
        return answer

    def _found_epoch(self, newest: int) -> dict[str, Any] | None:
        """Begin the first epoch there is after ours, up to ``newest``; None when there is none."""
        history, ours = self.history, self.history.position.epoch
        assert history.policy is not None
        for epoch in range(ours + 1, min(newest, ours + MAX_SKIPPED_EPOCHS) + 1):
            try:
                answer = self._follow(epoch, 0)
            except (EpochMoved, NotFound):
                continue
            self._begin(answer, epoch, history.policy)
            return answer
        return None

    def _follow(self, epoch: int, size: int) -> dict[str, Any]:
        answer = self._store.follow(self._environment, epoch=epoch, size=size)
        self._blobs = dict(answer["blobs"])
        return answer

    def _begin(self, answer: dict[str, Any], epoch: int, policy: Policy) -> None:
        history = self.history
        if not answer["entries"]:
            raise StoreUnreachable(
                f"{self._environment}: expected entries of epoch {epoch}, found none"
            )
        leaf = Leaf.decode(answer["entries"][0])
        history.position, self._log = self._with_blobs(
            lambda: begin_epoch(history.position, policy, self._environment, leaf, self._blobs.get),
            epoch,
        )

    def _identity(self, batch: Batch) -> LogIdentity:
        """Whose signature a batch must have; a first epoch not enrolled names its own log."""
        if self._log is None:
            if not batch.leaves:
                raise StoreUnreachable(f"{self._environment}: expected entries, found none")
            leaf = Leaf.decode(batch.leaves[0])
            self._log = self._with_blobs(
                lambda: first_identity(self._environment, leaf, self._blobs.get), FIRST_EPOCH
            )
        return self._log

    def _with_blobs(self, take: Callable[[], _Taken], epoch: int) -> _Taken:
        """Do what may need blobs, fetching those that are missing."""
        while True:
            try:
                return take()
            except BlobMissing as missing:
                self._blobs[missing.digest] = self._store.blob(
                    self._environment, missing.digest, epoch
                )

    def _batch(self, answer: dict[str, Any]) -> Batch:
        return Batch(
            answer["first"],
            tuple(answer["entries"]),
            answer["checkpoint"],
            tuple(answer["proof"]) if answer.get("more") else None,
        )

    def _take(self, checked: CheckedBatch, log: LogIdentity) -> None:
        history = self.history
        size, frontier = history.position.size, history.position.frontier
        for leaf in checked.leaves:
            frontier = frontier.extended([leaf_hash(leaf.encode())])
            size += 1
            self._judge(history.position.continues_generation + size, leaf)
            self._check_anchor(history.position.origin, frontier)
        history.position = checked.position
        history.checkpoint = checked.checkpoint
        if not history.epochs or history.epochs[-1].log.origin != log.origin:
            history.epochs.append(Epoch(log, checked.position, checked.checkpoint))
        history.epochs[-1].position = checked.position
        history.epochs[-1].checkpoint = checked.checkpoint

    def _judge(self, generation: int, leaf: Leaf) -> None:
        history = self.history
        verdict = self._with_blobs(
            lambda: judge(
                generation,
                leaf,
                origin=history.position.origin,
                environment=self._environment,
                policy=history.policy,
                heads=history.heads.get,
                blobs=self._blobs.get,
                state=history.state,
            ),
            history.position.epoch,
        )
        history.policy = verdict.policy
        if isinstance(verdict, Rejected):
            history.rejected.append(verdict)
            return
        if isinstance(verdict.statement, TrustStatement):
            self._keep_roots(verdict.statement, verdict.policy)
        history.accepted.append(verdict)
        history.heads.update(verdict.heads or {})

    def _keep_roots(self, statement: TrustStatement, policy: Policy) -> None:
        # Versions step by one, and the last is in force now.
        first = policy.root_version - len(statement.root) + 1
        for version, digest in enumerate(statement.root, first):
            self.history.roots[version] = self._blobs[digest]

    def _check_anchor(self, origin: str, frontier: Frontier) -> None:
        """The enrolment's checkpoint is of a prefix of this history."""
        anchor = self._anchor
        if anchor is None or (origin, frontier.size) != (anchor.origin, anchor.size):
            return
        if frontier.root() != anchor.root:
            raise Forked(
                f"{origin}: expected root {anchor.root.hex()} at size {anchor.size} as enrolled,"
                f" found {frontier.root().hex()}"
            )
        self._passed_anchor = True

    def _check_enrolled(self) -> None:
        history, enrolled = self.history, self._enrolled
        reached = [epoch for epoch in history.epochs if epoch.log.origin == self._named.origin]
        if not reached or not self._passed_anchor:
            size = 0 if self._anchor is None else self._anchor.size
            found = reached[0].position.size if reached else 0
            raise Forked(
                f"{self._named.origin}: expected at least {size} entries as enrolled, found {found}"
            )
        if history.roots.get(enrolled.root_version) != enrolled.root_bytes:
            raise Forked(
                f"{history.position.origin}: expected the enrolled root metadata version"
                f" {enrolled.root_version} in force, found another"
            )
