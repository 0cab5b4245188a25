"""Which log a node follows, and when what it read of it may be shown.

What this module decides:

- ``trust.json`` is what a node trusts first: it names the log's origin and keys. It is not enough
  to follow *a* log signed by them; the tree at the enrolled size must have the enrolled root hash,
  and the policy reached there must hold the enrolled root of trust.
- Until a new node's replay has passed that point, everything it writes goes into a folder beside
  the one readers are sent to. A replay that leads elsewhere is dropped with its folder.
- ``trust.json`` may name a later epoch than the first. Then earlier epochs are replayed too, under
  the keys that each names for itself, and nothing of them is believed before the log has come to
  the enrolled tree: that tree holds the root which says exactly what its epoch continues. A log
  that goes round the enrolled tree, into a still later epoch, is refused.
- A replica rebuilt because the old one was damaged replaces it only when it has caught up with it:
  a reader's generation never falls. The end of an epoch is not yet the end of the log.
- A folder that holds another log's replica is refused and left as it is. Epochs of one environment
  of one installation are one log, whichever of them ``trust.json`` and the replica stand in.
- Where root asks for witnesses the checkpoint of ``trust.json`` needs them like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from control_plane.errors import (
    ControlPlaneError,
    ReplicaForeign,
    ReplicaInvalid,
    SignatureInvalid,
)
from control_plane.log.checkpoint import open_checkpoint
from control_plane.log.steps import Position
from control_plane.replica.evidence import ORIGIN
from control_plane.replica.header import GENERATION, map_header
from control_plane.replica.source import current_folder
from control_plane.replica.writer import ReplicaWriter
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.state import LogIdentity, Policy
from control_plane_daemon.landmarks import ENROLLED, Landmark

if TYPE_CHECKING:
    from control_plane_daemon.follower import Follower

FIRST_EPOCH: Final = 1

logger = logging.getLogger("control_plane_daemon")


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The log of one environment as ``trust.json`` names it: its tree's root at a size."""

    log: LogIdentity
    size: int
    tree: bytes
    enrolment: Enrolment

    @property
    def landmark(self) -> Landmark:
        """The tree that the log has to come to."""
        note = self.enrolment.checkpoint(self.log.environment)
        return Landmark(self.log.origin, self.size, self.tree, ENROLLED, note)

    @property
    def first_origin(self) -> str:
        """What the log was called in its first epoch."""
        return f"{self.log.installation}/{self.log.environment}/{FIRST_EPOCH}"

    def passed_by(self, position: Position) -> bool:
        """Whether a log that stands there has come to the enrolled tree."""
        return (position.epoch, position.size) >= (self.log.epoch, self.size)

    def confirm(self, reached: Policy) -> None:
        """Accept the policy in force after the enrolled size.

        Raises:
            Forked: it holds another root of trust.
        """
        self.enrolment.confirm(self.log.environment, reached)


def enrolled(enrolment: Enrolment, environment: str) -> Enrolled:
    """What ``trust.json`` says of an environment, with its signatures verified.

    Raises:
        NotFound: it names no such environment.
        TrustError, InputInvalid: its metadata or checkpoint do not hold.
    """
    log = enrolment.policy().log(environment)
    note = enrolment.checkpoint(environment)
    signed = open_checkpoint(note, log.vkeys, witnesses=log.witnesses)
    if signed.checkpoint.size < 1:
        raise SignatureInvalid(f"{environment}: expected a checkpoint with entries, found size 0")
    return Enrolled(log, signed.checkpoint.size, signed.checkpoint.root, enrolment)


@dataclass(slots=True)
class Opened:
    """A replica open for writing, and whether it waits in a folder beside for its moment."""

    writer: ReplicaWriter
    waiting: bool
    floor: int = 0
    accepting: bool = False

    def rebuild(self, *, accepting: bool = False) -> None:
        """Begin again beside, after the replica turned out to be damaged while it was read.

        With ``accepting`` it was sound, and an epoch is followed that leaves it: nothing older than
        what it showed takes its place.
        """
        if not self.waiting:
            self.floor = max(self.floor, self.writer.generation)
        self.accepting = self.accepting or accepting
        self.writer.rebuild(afresh=self.waiting)
        self.waiting = True

    def show_when_ready(self, follower: Follower) -> bool:
        """Send readers to a replica that waited, once it is the enrolled one and old enough."""
        if not self.waiting or not follower.is_enrolled:
            return False
        if not self._has_caught_up(follower):
            return False
        self.writer.swap()
        self.waiting = self.accepting = False
        return True

    def _has_caught_up(self, follower: Follower) -> bool:
        newer = follower.position.generation >= self.floor
        if self.accepting:
            return newer and follower.at_end
        return newer or follower.at_end


def open_replica(
    folder: str,
    origin: str,
    *,
    development: bool = False,
    open_writer: Callable[..., ReplicaWriter] = ReplicaWriter.open,
) -> Opened:
    """Become the writer of an environment's folder.

    Raises:
        ReplicaForeign: it holds another log's replica.
        ReplicaLocked, ReplicaUnwritable: as the writer says.
    """
    try:
        writer = open_writer(folder, development=development)
    except ReplicaInvalid as error:
        logger.error("%s; the old one stays readable until then", error)
        writer = open_writer(folder, development=development, rebuild=True)
        return Opened(writer, waiting=True, floor=_shown_generation(folder))
    try:
        return _continued(writer, folder, origin)
    except BaseException:
        writer.close()
        raise


def _continued(writer: ReplicaWriter, folder: str, origin: str) -> Opened:
    stored = _stored_origin(writer)
    if stored is None:
        # Nothing was ever read into it: what is read now waits beside until it is known to be
        # the enrolled log's.
        writer.rebuild()
        return Opened(writer, waiting=True)
    if _log_of(stored) != _log_of(origin):
        raise ReplicaForeign(
            f"replica {folder}: expected origin {origin}, found {stored}; name another replica"
            f" with --replica, or remove {folder} to follow this log instead"
        )
    return Opened(writer, waiting=False)


def _log_of(origin: str) -> str:
    """Installation and environment: what its epochs have in common."""
    return origin.rpartition("/")[0]


def _stored_origin(writer: ReplicaWriter) -> str | None:
    with writer.write() as transaction:
        data = transaction.log.get(ORIGIN)
    return None if data is None else data.decode()


def _shown_generation(folder: str) -> int:
    """The generation the damaged replica's header shows, 0 when that cannot be read either."""
    try:
        words = map_header(f"{current_folder(folder)}/header")
    except ControlPlaneError:
        return 0
    return int(words[8 * GENERATION])
