"""One environment, followed for as long as the daemon runs.

What this module decides:

- Verifying and committing happen in one thread of the environment's own, in slices of at most one
  commit; the event loop only polls, fetches and keeps the header's clock. So a heartbeat goes on
  while a long log is read, and an LMDB transaction never changes its thread.
- Nothing that goes wrong ends the loop but a log this version cannot read, or one that contradicts
  itself. Everything else is told in one line, once for each new reason, and tried again later;
  what was served before is served on.
- The replica's age is told every second, whatever else happens.
- Every second too it is looked whether the replica's files are where readers look. Where somebody
  took them away they are made again from the log, and readers of the old ones are sent on.
- Where an epoch has no more entries the next one there is begins; numbers may be skipped. A log
  that is refused because it went back is looked at once more that way: root may have said so.
- What a new node reads of epochs before the enrolled one is anybody's word. Where that leads to
  something that is refused, or that this version cannot read, it is read again from its start.
- An epoch that leaves what this node holds is told in one line, with the command that accepts it,
  and waited for: what is held is served on. Once consent to that very epoch lies in the folder the
  log is read again from its start beside the replica, which is replaced when the end is reached.
  Consent to anything else is told and ignored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar, TypeVarTuple

from control_plane.errors import (
    ControlPlaneError,
    EpochDiverged,
    EpochMoved,
    Forked,
    InputInvalid,
    ReplicaCorrupt,
    ReplicaInvalid,
    ReplicaLocked,
    ReplicaUnwritable,
    RolledBack,
    StoreUnreachable,
    TokenRefused,
    TrustError,
)
from control_plane.log.leaf import UnknownLeafVersion
from control_plane.log.statements import UnknownPayloadType
from control_plane.log.steps import BlobMissing, SnapshotMismatch
from control_plane.replica.evidence import (
    Offer,
    consent_path,
    read_consent,
    remove_consent,
)
from control_plane.replica.header import REJECTED
from control_plane_daemon.batch import Verified
from control_plane_daemon.demand import LOOKAHEAD_BLOBS
from control_plane_daemon.enrol import Enrolled, Opened, open_replica
from control_plane_daemon.events import Events
from control_plane_daemon.follower import DiskFailed, Follower, Progress
from control_plane_daemon.source import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    Backoff,
    Followed,
    Source,
)

HEARTBEAT_SECONDS: Final = 1.0
FIRST_HEAL_SECONDS: Final = 1.0
LAST_HEAL_SECONDS: Final = 60.0
CONSENT_SECONDS: Final = 2.0
MAX_SKIPPED_EPOCHS: Final = 64
MAX_TOLD: Final = 64
_EMPTY_ANSWER_SECONDS: Final = 0.1

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

logger = logging.getLogger("control_plane_daemon")


class Stopped(Exception):
    """The loop has ended for good; the replica stays as it is."""


class _Again(Exception):
    """Try again after a pause; the reason has been told or is this exception's text."""


class EnvironmentLoop:
    """Follows one environment; `open`, then `run` until cancelled, then `close`.

    ``ready`` is called once, with environment and generation, when readers see the log's end. A
    blob that cannot be had for ``patience_seconds`` is missing: its entry is held.
    """

    def __init__(
        self,
        enrolled: Enrolled,
        folder: str,
        source: Source,
        *,
        ready: Callable[[str, int], None],
        development: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.environment = enrolled.log.environment
        self._enrolled = enrolled
        self._folder = folder
        self._source = source
        self._ready = ready
        self._development = development
        self._patience_seconds = patience_seconds
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self.environment)
        self._opened: Opened | None = None
        self._follower: Follower | None = None
        # What the first commit of the batch checked last came to, when it was made with the check.
        self._begun: Future[Progress] | None = None
        # The task that polls, while it does, and why it is to stop that.
        self._polling: asyncio.Task[object] | None = None
        self._gone: ReplicaCorrupt | None = None
        self._told: set[str] = set()
        self._is_ready = self._has_been_ready = self._is_short = False
        self._offer: Offer | None = None
        self._ignored_consent: str | None = None
        self._backoff, self._replays = Backoff(), Backoff()
        # Whether what was read of an epoch nobody vouches for turned out to lead nowhere.
        self._doubted = False
        self._heal_due = 0.0
        self._heal_interval = FIRST_HEAL_SECONDS

    @property
    def follower(self) -> Follower:
        """The follower; only between `open` and `close`."""
        if self._follower is None:
            raise RuntimeError("expected an opened loop, found one that is closed")
        return self._follower

    @property
    def events(self) -> Events | None:
        """What happened so far, counted; None while the loop is closed."""
        return None if self._follower is None else self._follower.events

    async def open(self) -> None:
        """Open the replica.

        Raises:
            ControlPlaneError: it cannot be written, or is another log's.
        """
        await self._on_thread(self._open)

    def _open(self) -> None:
        origin = self._enrolled.log.origin
        opened = open_replica(self._folder, origin, development=self._development)
        self._opened = opened
        try:
            self._follower = self._new_follower(opened)
        except ReplicaInvalid as error:
            self._rebuild(error)
        if read_consent(self._folder) == self.follower.position.origin:
            # Followed before, and the daemon ended before it took the file away.
            remove_consent(self._folder)

    def _new_follower(self, opened: Opened) -> Follower:
        return Follower(
            self.environment,
            opened.writer,
            self._enrolled,
            now_ms=self._now_ms,
            monotonic=self._monotonic,
        )

    def _rebuild(self, error: ReplicaInvalid) -> None:
        self._tell_once(f"{error}; rebuilding beside it from the log", logging.ERROR)
        self._read_again(accepting=False)

    def _read_again(self, *, accepting: bool) -> None:
        """Begin beside the replica, from the log's first entry; the evidence is kept."""
        assert self._opened is not None
        evidence = None
        if self._follower is not None:
            evidence = self._follower.evidence
            self._follower.close()
        self._opened.rebuild(accepting=accepting)
        self._follower = self._new_follower(self._opened)
        self._follower.inherit(evidence)
        self._is_ready = False

    async def close(self) -> None:
        """Finish the commit that is going on and let go of the replica."""
        await self._on_thread(self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        if self._opened is not None:
            self._opened.writer.close()
            self._opened = None

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat())
            group.create_task(self._follow())

    async def _beat(self) -> None:
        while True:
            self._tell()
            self._look()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _look(self) -> None:
        """End the poll that goes on when the replica's files are gone: the loop makes them anew."""
        assert self._opened is not None
        if self._polling is None or self._gone is not None:
            return
        try:
            self._opened.writer.check_place()
        except ReplicaCorrupt as error:
            self._gone = error
            self._polling.cancel()

    def _tell(self) -> None:
        """Write what ages into the header: heartbeat, checkpoint time, state."""
        assert self._opened is not None
        writer = self._opened.writer
        writer.tend()
        writer.heartbeat()
        writer.set_checkpoint_time(self.follower.cosigned_at)
        # While an epoch is being accepted, or the log shows less, readers have what it leaves.
        left = self._opened.accepting or self._opened.falls_short(self.follower)
        writer.set_state(self.follower.state_bits() | (REJECTED if left else 0))

    async def _follow(self) -> None:
        await self._attempt(self._heal_everything)
        while True:
            try:
                if await self._attempt(self._round):
                    self._backoff.reset()
                    self._told.clear()
                    continue
            except Stopped as stopped:
                logger.error(
                    "%s: %s; the last good values stay", self.environment, stopped,
                    extra=self._concerned(),
                )  # fmt: skip
                return
            await self._pause(self._backoff.next_seconds())
            if self._doubted and self._is_unvouched:
                await self._attempt(self._start_over)

    @property
    def _is_unvouched(self) -> bool:
        """Whether all that was read so far is of epochs before the enrolled one, and not shown."""
        assert self._opened is not None
        return self._opened.waiting and self.follower.is_unvouched

    async def _start_over(self) -> None:
        """Read the log again from its start: nobody vouched for what was read, or was shown it."""
        self._doubted = False
        if self.follower.position.size:
            await asyncio.sleep(self._replays.next_seconds())
            await self._on_thread(lambda: self._read_again(accepting=False))

    async def _pause(self, seconds: float) -> None:
        """Wait; not longer than until an epoch that was offered is accepted."""
        due = self._monotonic() + seconds
        while (remaining := due - self._monotonic()) > 0:
            if self._offer is not None and self._is_accepted(self._offer):
                return
            await asyncio.sleep(min(remaining, CONSENT_SECONDS))

    async def _attempt(self, work: Callable[[], object]) -> bool:
        """Do one round of work; False when it has to be tried again after a pause."""
        try:
            await work()  # type: ignore[misc]
        except (UnknownLeafVersion, UnknownPayloadType) as error:
            self._stop(f"this daemon is too old for the log; {error}", error)
        except SnapshotMismatch as error:
            self._stop(str(error), error)
        except ReplicaInvalid as error:
            try:
                await self._on_thread(self._rebuild, error)
            except (ReplicaUnwritable, ReplicaLocked) as failed:
                self._tell_once(str(failed))
        except (StoreUnreachable, TokenRefused, EpochMoved, DiskFailed, _Again) as error:
            self._tell_once(str(error))
        except Exception:
            logger.exception(
                "%s: unexpected; going on from the last commit", self.environment,
                extra=self._concerned(),
            )  # fmt: skip
            await self._on_thread(self.follower.forget)
        else:
            return True
        return False

    def _stop(self, reason: str, error: Exception) -> None:
        """End the loop for good, unless it may be a log that nobody ever vouched for."""
        if not self._is_unvouched:
            raise Stopped(reason) from error
        self._tell_once(reason)
        self._doubted = True

    def _tell_once(self, reason: str, level: int = logging.WARNING) -> None:
        if reason and reason not in self._told:
            if len(self._told) >= MAX_TOLD:
                self._told.clear()
            self._told.add(reason)
            logger.log(level, "%s: %s", self.environment, reason, extra=self._concerned())

    def _concerned(self) -> dict[str, object]:
        """What every line of this loop is about: the environment, and how far it came."""
        generation = None if self._follower is None else self._follower.position.generation
        return {"environment": self.environment, "generation": generation}

    # One round: poll, verify, take, heal

    async def _round(self) -> None:
        began = self._monotonic()
        # A replica that waits beside may be at the log's end for long; that is waited for, too.
        waiting = self._is_ready or self.follower.at_end
        wait_seconds = self._wait_seconds() if waiting else 0
        followed, verified = await self._next_batch(wait_seconds)
        await self._take_all(followed, verified)
        self._tell()
        self._say_ready()
        await self._heal_if_due()
        if wait_seconds and not followed.batch.leaves:
            # A store that does not wait must not be asked in a circle.
            spent = self._monotonic() - began
            await asyncio.sleep(max(0.0, _EMPTY_ANSWER_SECONDS - spent))

    def _wait_seconds(self) -> int:
        """How long a poll may wait: not beyond the next attempt at what is held."""
        if not self.follower.held_missing_any:
            return POLL_SECONDS
        remaining = self._heal_due - self._monotonic()
        return max(1, min(POLL_SECONDS, int(remaining)))

    async def _next_batch(self, wait_seconds: int) -> tuple[Followed, Verified]:
        """The entries that follow, in this epoch or in a later one, through steps 1 to 4."""
        epoch, size = self.follower.epoch, self.follower.position.size
        try:
            followed = await self._poll(epoch, size, wait_seconds)
        except EpochMoved as moved:
            return await self._next_epoch(moved.epoch)
        try:
            return followed, await self._with_blobs(self._check, followed, epoch)
        except (UnknownLeafVersion, UnknownPayloadType):
            raise
        except (RolledBack, Forked) as error:
            await self._refuse(followed, error)
            with suppress(StoreUnreachable, TokenRefused, EpochMoved):
                return await self._next_epoch(epoch + 1)
            raise _Again("") from error
        except (TrustError, InputInvalid) as error:
            await self._refuse(followed, error)
            raise _Again("") from error

    async def _poll(self, epoch: int, size: int, wait_seconds: int) -> Followed:
        """Ask for what follows.

        Raises:
            ReplicaCorrupt: its files are gone, so that what follows would have no place.
        """
        assert self._opened is not None
        self._opened.writer.check_place()
        task = self._polling = asyncio.current_task()
        try:
            return await self._source.follow(epoch, size, wait_seconds)
        except asyncio.CancelledError:
            # `_look` cancels the poll and not the loop; whoever ends the loop does both.
            if task is None or self._gone is None or task.uncancel():
                raise
            raise self._gone from None
        finally:
            self._polling = self._gone = None

    def _check(self, followed: Followed) -> Verified:
        """Steps 1 to 4; the first commit of a batch that passes follows at once, in this thread.

        To wake the loop and be woken by it would take as long as a small commit does.
        """
        self._begun = None
        verified = self.follower.check(followed)
        if not self.follower.pause_seconds:
            begun: Future[Progress] = Future()
            try:
                begun.set_result(self._take(verified))
            except Exception as error:
                # It is `_take_all` that knows what a commit's failure means.
                begun.set_exception(error)
            self._begun = begun
        return verified

    async def _with_blobs(
        self, verify: Callable[[Followed], Verified], followed: Followed, epoch: int
    ) -> Verified:
        """Verify a batch, with the trust metadata that its first entry turns out to need."""
        while True:
            try:
                return await self._on_thread(verify, followed)
            except BlobMissing as missing:
                await self._bring_required(epoch, missing.digest)

    # The next epoch

    async def _next_epoch(self, newest: int) -> tuple[Followed, Verified]:
        """The batch that begins the first epoch there is after the one followed."""
        epoch, followed = await self._first_after(newest)
        try:
            return followed, await self._with_blobs(self.follower.begin, followed, epoch)
        except (UnknownLeafVersion, UnknownPayloadType):
            raise
        except EpochDiverged as error:
            await self._diverge(followed, error)
            raise _Again("") from error
        except (TrustError, InputInvalid) as error:
            await self._refuse(followed, error, signed=False)
            raise _Again("") from error

    async def _first_after(self, newest: int) -> tuple[int, Followed]:
        """The number of the first epoch after ours, and its first entries.

        Raises:
            EpochMoved: there is none among the next 64 numbers.
        """
        number = self.follower.epoch + 1
        last = number + MAX_SKIPPED_EPOCHS
        while True:
            try:
                return number, await self._source.follow(number, 0, 0)
            except EpochMoved as moved:
                # That number was skipped.
                number += 1
                newest = max(newest, moved.epoch)
                if number > min(newest, last):
                    raise

    async def _diverge(self, followed: Followed, error: EpochDiverged) -> None:
        """Keep and tell what root offers, and follow it where the node's owner accepted it."""
        assert self._opened is not None
        offer = await self._on_thread(self.follower.diverge, followed, error)
        if offer is None:
            return
        if self._opened.waiting:
            # Nobody was shown what this replay holds, so nobody has to be asked.
            self._tell_once(f"{error}; reading the log again from its start")
            await asyncio.sleep(self._replays.next_seconds())
            await self._on_thread(lambda: self._read_again(accepting=False))
            return
        if self._is_accepted(offer):
            logger.warning(
                "%s: %s accepted; reading the log again beside generation %d, which stays readable",
                self.environment, offer.origin, self._opened.writer.generation,
                extra=self._concerned() | {"origin": offer.origin},
            )  # fmt: skip
            await self._on_thread(lambda: self._read_again(accepting=True))
            self._offer = None
            # What was waited for is there: the replay begins now.
            self._backoff.reset()
            return
        self._offer = offer
        self._tell_once(
            f"expected {offer.held_origin} to be continued at size {offer.held_size}, found"
            f" {offer.origin}, which continues epoch {offer.epoch} at size {offer.size}; this node"
            " serves on what it has; to follow, run"
            f" 'control-plane replica accept-epoch -e {self.environment}'"
        )
        self._tell()

    def _is_accepted(self, offer: Offer) -> bool:
        """Whether consent to this very epoch lies in the folder."""
        found = read_consent(self._folder)
        if found is not None and found not in (offer.origin, self._ignored_consent):
            self._ignored_consent = found
            logger.warning(
                "%s: expected consent to %s in %s, found %s; it is ignored",
                self.environment, offer.origin, consent_path(self._folder), ascii(found),
                extra=self._concerned() | {"origin": offer.origin},
            )  # fmt: skip
        return found == offer.origin

    async def _take_all(self, followed: Followed, verified: Verified) -> None:
        """Steps 5 to 9, a commit at a time, with the blobs they turn out to need in between."""
        while True:
            try:
                progress = await self._next_take(verified)
            except (UnknownLeafVersion, UnknownPayloadType, SnapshotMismatch):
                raise
            except (TrustError, InputInvalid) as error:
                await self._refuse(followed, error)
                raise _Again("") from error
            if progress.done:
                return
            await self._bring(progress)

    async def _next_take(self, verified: Verified) -> Progress:
        begun, self._begun = self._begun, None
        if begun is not None:
            return begun.result()
        await asyncio.sleep(self.follower.pause_seconds)
        return await self._on_thread(self._take, verified)

    def _take(self, verified: Verified) -> Progress:
        try:
            return self.follower.take(verified)
        finally:
            # Also on the way out of an error: what came before it is committed, and good.
            self._show()

    def _show(self) -> None:
        assert self._opened is not None
        accepting = self._opened.accepting
        if self._opened.show_when_ready(self.follower):
            generation = self._opened.writer.generation
            logger.info(
                "%s: readers see generation %d", self.environment, generation,
                extra={"environment": self.environment, "generation": generation},
            )  # fmt: skip
            if accepting:
                # A crash before this leaves consent to the epoch followed: taken away at the start.
                remove_consent(self._folder)

    async def _refuse(
        self, followed: Followed, error: ControlPlaneError, *, signed: bool = True
    ) -> None:
        self._tell_once(f"batch refused: {error}")
        self._doubted = True
        await self._on_thread(lambda: self.follower.refuse(followed, error, signed=signed))
        self._tell()

    async def _bring(self, progress: Progress) -> None:
        """Fetch what an entry needs; a blob the log itself rests on is waited for."""
        if progress.required is not None:
            await self._bring_required(self.follower.epoch, progress.required)
            return
        for digests in _chunks(progress.wanted, LOOKAHEAD_BLOBS):
            fetched = await self._source.fetch(self.follower.epoch, digests, self._patience_seconds)
            await self._on_thread(self.follower.deliver, fetched)

    async def _bring_required(self, epoch: int, digest: str) -> None:
        fetched = await self._source.fetch(epoch, [digest], self._patience_seconds)
        if digest not in fetched.found:
            raise _Again(f"waiting for blob {digest}")
        await self._on_thread(self.follower.deliver, fetched)

    def _say_ready(self) -> None:
        assert self._opened is not None
        self._say_short()
        if self._is_ready or not self.follower.at_end or self._opened.waiting:
            return
        self._is_ready = True
        if not self._has_been_ready:
            self._has_been_ready = True
            self._ready(self.environment, self.follower.position.generation)

    def _say_short(self) -> None:
        assert self._opened is not None
        short = self._opened.falls_short(self.follower)
        if short and not self._is_short:
            logger.error(
                "%s: expected the log to come to generation %d, which readers have, found its end"
                " at %d; they keep what they have; if the store was restored from an older backup,"
                " run 'control-plane log new-epoch -e %s --restored'",
                self.environment, self._opened.floor, self.follower.position.generation,
                self.environment,
                extra=self._concerned(),
            )  # fmt: skip
        self._is_short = short

    # Held entries

    async def _heal_everything(self) -> None:
        await self._on_thread(lambda: self.follower.heal({}))

    async def _heal_if_due(self) -> None:
        missing = await self._on_thread(self.follower.held_missing)
        if not missing:
            self._heal_interval = FIRST_HEAL_SECONDS
            return
        if self._monotonic() < self._heal_due:
            return
        fetched = await self._source.fetch(self.follower.epoch, missing, 0.0)
        found: Mapping[str, bytes] = fetched.found
        healed = await self._on_thread(self.follower.heal, found) if found else 0
        slower = min(LAST_HEAL_SECONDS, 2 * self._heal_interval)
        self._heal_interval = FIRST_HEAL_SECONDS if healed else slower
        self._heal_due = self._monotonic() + self._heal_interval
        self._tell()

    async def _on_thread(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The thread finishes what it does; `close` queues behind it.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise


def _chunks(digests: tuple[str, ...], size: int) -> Iterable[tuple[str, ...]]:
    return (digests[start : start + size] for start in range(0, len(digests), size))
