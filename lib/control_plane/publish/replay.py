"""Read a log from its first entry and believe only what it proves.

The same numbered steps 1 to 7 that a node takes, in the same functions, started from an enrolment:
the checkpoint it carries must be one the log still leads through, and the root metadata it carries
must be in force by then. What comes out are the heads every honest node has, and how they came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from control_plane.errors import Forked, FormatUnsupported, NotFound, StoreUnreachable
from control_plane.log.checkpoint import SignedCheckpoint, open_checkpoint
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import Frontier, leaf_hash
from control_plane.log.statements import Change, Key
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
from control_plane.trust.state import Policy, adopt

Progress = Callable[[int, int], None]
MAX_STALLS: Final = 3


class Source(Protocol):
    """Where entries and blobs come from: a store, or its files; nothing it says is believed."""

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        """Entries from index ``size`` on with a checkpoint and, for a part, a proof."""

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        """The bytes whose SHA-256 is ``digest``."""


@dataclass(slots=True)
class History:
    """A verified log: where it stands, what it holds, and the change sets that led there."""

    environment: str
    position: Position
    policy: Policy | None = None
    checkpoint: SignedCheckpoint | None = None
    heads: dict[Key, Head] = field(default_factory=dict)
    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def changes(self) -> dict[Key, Change]:
        """The change each live key rests on now."""
        return self.changes_at(self.position.generation)

    def changes_at(self, generation: int) -> dict[Key, Change]:
        """The change each key rested on that was live at ``generation``.

        Raises:
            NotFound: the log has no such generation.
        """
        if not self.position.continues_generation < generation <= self.position.generation:
            raise NotFound(
                f"{self.environment}: expected a generation from"
                f" {self.position.continues_generation + 1} to {self.position.generation},"
                f" found {generation}"
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
    """Follow the environment's log from index 0 to its newest checkpoint.

    Raises:
        TrustError: the log proves something else than it claims; the message says which step.
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
        log = self._enrolled.log(environment)
        if log.continues is not None:
            raise FormatUnsupported(
                f"{environment}: expected the first epoch, found epoch {log.epoch};"
                " verify it with a newer version"
            )
        self._epoch = log.epoch
        self._vkeys = log.vkeys
        self._blobs: dict[str, bytes] = {}
        note = enrolment.checkpoints.get(environment)
        encoded = note.encode() if isinstance(note, str) else note
        self._anchor = None if encoded is None else open_checkpoint(encoded, log.vkeys).checkpoint
        self.history = History(environment, Position(log.origin))

    def run(self, progress: Progress | None) -> History:
        history, stalls = self.history, 0
        while True:
            answer = self._store.follow(
                self._environment, epoch=self._epoch, size=history.position.size
            )
            self._blobs = answer["blobs"]
            batch = Batch(
                answer["first"],
                tuple(answer["entries"]),
                answer["checkpoint"],
                tuple(answer["proof"]) if answer.get("more") else None,
            )
            checked = check_batch(history.position, batch, self._vkeys)
            self._take(checked)
            if progress is not None:
                progress(history.position.size, checked.checkpoint.checkpoint.size)
            if not answer.get("more"):
                break
            stalls = 0 if batch.leaves else stalls + 1
            if stalls == MAX_STALLS:
                raise StoreUnreachable(f"{self._environment}: expected entries, found none")
        self._check_anchor()
        return history

    def _take(self, checked: CheckedBatch) -> None:
        history = self.history
        size, frontier = history.position.size, history.position.frontier
        for leaf in checked.leaves:
            frontier = frontier.extended([leaf_hash(leaf.encode())])
            size += 1
            self._judge(history.position.continues_generation + size, leaf)
            if self._anchor is not None and size == self._anchor.size:
                self._check_root(frontier)
        history.position = checked.position
        history.checkpoint = checked.checkpoint

    def _judge(self, generation: int, leaf: Leaf) -> None:
        history = self.history
        while True:
            try:
                verdict = judge(
                    generation,
                    leaf,
                    origin=history.position.origin,
                    environment=self._environment,
                    policy=history.policy,
                    heads=history.heads.get,
                    blobs=self._blobs.get,
                    state=history.state,
                )
                break
            except BlobMissing as missing:
                self._blobs[missing.digest] = self._store.blob(
                    self._environment, missing.digest, self._epoch
                )
        history.policy = verdict.policy
        if isinstance(verdict, Rejected):
            history.rejected.append(verdict)
            return
        self._vkeys = verdict.policy.log(self._environment).vkeys
        history.accepted.append(verdict)
        history.heads.update(verdict.heads or {})

    def _check_root(self, frontier: Frontier) -> None:
        """The enrolment's checkpoint is of a prefix of this history."""
        assert self._anchor is not None
        assert self.history.policy is not None
        if frontier.root() != self._anchor.root:
            raise Forked(
                f"{self.history.position.origin}: expected root {self._anchor.root.hex()} at size"
                f" {self._anchor.size} as enrolled, found {frontier.root().hex()}"
            )

    def _check_anchor(self) -> None:
        history = self.history
        assert history.policy is not None
        if self._anchor is not None and history.position.size < self._anchor.size:
            raise Forked(
                f"{history.position.origin}: expected at least {self._anchor.size} entries as"
                f" enrolled, found {history.position.size}"
            )
        if history.policy.root_version < self._enrolled.root_version or (
            history.policy.root_version == self._enrolled.root_version
            and history.policy.root_digest != self._enrolled.root_digest
        ):
            raise Forked(
                f"{history.position.origin}: expected the enrolled root metadata version"
                f" {self._enrolled.root_version} in force, found another"
            )
