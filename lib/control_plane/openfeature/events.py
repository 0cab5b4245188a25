"""Telling the OpenFeature SDK what happens to the replica: one thread, woken by the kernel.

- READY: there is a replica with a first generation, and it is not stale. STALE: there is one, and
  ``client.health()`` calls it stale: the daemon is silent or cannot confirm what is served, which
  is served all the same. ERROR (PROVIDER_NOT_READY): there is none to read. Each is told when it
  begins, with ``health``'s reasons as the message; what the SDK says of `initialize` is the first.
- CONFIGURATION_CHANGED: flags changed since the last one; ``flag_records`` says which are named.
  Changes that come close together may be told as one, none is lost. Nothing is told of a replica's
  first flags, or of the ones there were before the provider was attached.
- Each event's metadata has the generation and the environment.
- The thread waits as `replica.waiting` does it, looks at least once a second, and takes a breath
  of nine times as long as a look took: comparing 10,000 flags takes it ten milliseconds.
- ``fork``: the thread ends before, and both sides start one of their own after it, which go on
  from the same snapshot: no lock is held by a thread the child does not have, and no interpreter
  has a reason to warn of one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode

from control_plane.client import ControlPlaneClient, Health
from control_plane.errors import ControlPlaneError, ReplicaInvalid
from control_plane.openfeature.flag_records import FlagRecords
from control_plane.replica.header import FLAGS_REVISION
from control_plane.replica.reader import View
from control_plane.replica.waiting import Signal
from control_plane.shown import shown

Tell = Callable[[ProviderEvent, ProviderEventDetails], None]

SETTLED_SECONDS: Final = 0.1
"""The SDK announces how `initialize` ended after that has ended, and says not when: what this
thread knows better is told after that."""

STOP_SECONDS: Final = 1.0
RESTED: Final = 9

_WORD: Final = 8 * FLAGS_REVISION
_log = logging.getLogger("control_plane.openfeature")


def details_of(
    health: Health, flags_changed: list[str] | None = None, generation: int | None = None
) -> ProviderEventDetails:
    """What an event says of the replica; ``generation`` where it is not the one served now."""
    metadata: dict[str, bool | str | int | float] = {
        "generation": health.generation if generation is None else generation
    }
    if health.environment is not None:
        metadata["environment"] = health.environment
    amiss = flags_changed is None and standing(health) is not ProviderEvent.PROVIDER_READY
    return ProviderEventDetails(
        flags_changed=flags_changed,
        message="; ".join(health.reasons) if amiss else None,
        error_code=None if health.ready else ErrorCode.PROVIDER_NOT_READY,
        metadata=metadata,
    )


def standing(health: Health) -> ProviderEvent:
    """The event that began the state the replica is in."""
    if not health.ready:
        return ProviderEvent.PROVIDER_ERROR
    return ProviderEvent.PROVIDER_STALE if health.stale else ProviderEvent.PROVIDER_READY


class _Running:
    """A thread and what ends it."""

    def __init__(self, run: Callable[[_Running], None]) -> None:
        self.signal = Signal()
        self.stop = threading.Event()
        self._run = run
        self._closing = threading.Lock()
        self.thread = threading.Thread(
            target=self._until_ended, name="control-plane-openfeature", daemon=True
        )
        self.thread.start()

    def end(self) -> None:
        """Have the thread end; waits for it, a second at most, unless it is the caller's own."""
        self.stop.set()
        with self._closing:
            self.signal.wake()
        # Whoever is told of an event in this very thread may end it, too.
        if self.thread is not threading.current_thread():
            self.thread.join(STOP_SECONDS)

    def bury(self) -> None:
        """Give back what a thread waited with that stayed with the parent of a fork."""
        if not self.thread.is_alive():
            # No lock: the thread may have held it when this process came into being without it.
            self.signal.close()

    def _until_ended(self) -> None:
        try:
            self._run(self)
        finally:
            # However long after `end` that is: nobody else knows when it has ended. Under the lock
            # of `wake`: the number of a closed descriptor may be another file's a moment later.
            with self._closing:
                self.signal.close()


class Events:
    """Tells one provider's events from `start` to `stop`; its calls may not overlap."""

    def __init__(self, client: ControlPlaneClient, tell: Tell) -> None:
        self._client = client
        self._tell = tell
        self._running: _Running | None = None
        self._began: View | None = None
        self._records: FlagRecords | None = None
        self._revision: int | None = None
        self._told = ProviderEvent.PROVIDER_READY
        self._settled_at = 0.0
        self._failed = ""

    def mark(self) -> None:
        """Tell what changes after this moment, once `start` was called."""
        if self._running is not None:
            return
        self._unmark()
        replica = self._client.source.open()
        # Where it cannot be read now, the first look begins later, and from the newest then.
        with suppress(ControlPlaneError):
            self._began = None if replica is None else replica.view()

    def start(self, ready: bool) -> None:
        """Tell from now on; ``ready`` is how `initialize` is about to end."""
        self._told = ProviderEvent.PROVIDER_READY if ready else ProviderEvent.PROVIDER_ERROR
        self._settled_at = monotonic() + SETTLED_SECONDS
        if self._running is None:
            self._running = _Running(self._run)

    def stop(self) -> None:
        """Tell no more; waits for a look under way, a second at most."""
        running, self._running = self._running, None
        if running is not None:
            running.end()
        self._unmark()
        self._records = self._revision = None

    def pause(self) -> None:
        """Have no thread until `resume`."""
        if self._running is not None:
            self._running.end()

    def resume(self) -> None:
        """Go on from where `pause` ended the thread, if it did."""
        if self._running is not None:
            self._running.bury()
            self._running = _Running(self._run)

    def _run(self, running: _Running) -> None:
        while not running.stop.is_set():
            running.signal.follow(self._client.source.folder)
            began = monotonic()
            try:
                self._look()
            except Exception:
                # The last resort of a thread: without it nobody is told anything any more.
                _log.exception("telling OpenFeature failed; the next look is within a second")
            if not running.stop.wait(RESTED * (monotonic() - began)):
                running.signal.wait()

    def _look(self) -> None:
        """Tell what is new since the last look."""
        health = self._client.health()
        if monotonic() >= self._settled_at:
            self._tell_standing(health)
        self._tell_changes(health)

    def _tell_standing(self, health: Health) -> None:
        found = standing(health)
        if found is not self._told:
            self._told = found
            self._tell(found, details_of(health))

    def _tell_changes(self, health: Health) -> None:
        replica = self._client.source.open()
        if replica is None:
            return
        # Revision before snapshot: what moves in between is looked at once more, never missed.
        revision = self._client.source.words[_WORD]
        if self._records is None and self._began is not None:
            self._records = self._first()
        if revision == self._revision:
            return
        try:
            with replica.view() as view:
                generation = view.generation
                records = FlagRecords.of(view, self._records)
        except ControlPlaneError as error:
            self._complain(error)
            return
        self._revision = revision
        before, self._records = self._records, records
        changed = [] if before is None else records.changed_since(before)
        if changed:
            event = ProviderEvent.PROVIDER_CONFIGURATION_CHANGED
            self._tell(event, details_of(health, changed, generation))

    def _first(self) -> FlagRecords | None:
        """The flags as they were when the provider was attached; None if too long ago."""
        began, self._began = self._began, None
        if began is None:
            return None
        try:
            with began:
                return FlagRecords.of(began)
        except ControlPlaneError:
            return None

    def _complain(self, error: ControlPlaneError) -> None:
        """Say once why changes cannot be told; the next look tries again."""
        if isinstance(error, ReplicaInvalid) and self._failed != str(error):
            self._failed = str(error)
            _log.warning("telling OpenFeature of changes goes on, a look failed: %s", shown(error))

    def _unmark(self) -> None:
        began, self._began = self._began, None
        if began is not None:
            began.close()
