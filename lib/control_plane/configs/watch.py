"""Telling an application that a configuration value changed: one thread, woken by the kernel.

- What wakes the thread, and that nothing is lost between a look and the next: `replica.waiting`.
- Woken, it compares the configuration revision, and only if that moved reads every watched value
  of that environment from one snapshot. A value that differs from the one last seen is a change.
- A read that fails changes nothing: the values last seen stay, the next look tries again.
- ``fork``: the child inherits watches and values, but neither the thread nor the right to read
  the parent's queue. Its next call of ``watch`` starts a thread of its own, which then reports
  what changed since the fork.

This module is imported by the first watch, so that a process that never watches has no thread and
does not load ``threading`` or ``ctypes``.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref

from control_plane.configs.layers import same
from control_plane.configs.merged import ABSENT, merged_value
from control_plane.copies import fresh
from control_plane.errors import ControlPlaneError
from control_plane.replica.header import CONFIG_REVISION
from control_plane.replica.waiting import Signal
from control_plane.shown import MAX_SHOWN_NAME, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from control_plane.configs.settings import ConfigManager
    from control_plane.defaults import ChosenSource
    from control_plane.replica.reader import View

_WORD = 8 * CONFIG_REVISION
_log = logging.getLogger("control_plane")


class Change:
    """One value that one generation changed; ``old`` or ``new`` is None where there was none."""

    __slots__ = ("environment", "generation", "key", "new", "old", "tenant_id")

    def __init__(
        self,
        key: str | tuple[str, ...],
        old: Any,
        new: Any,
        generation: int,
        environment: str | None,
        tenant_id: str | None,
    ) -> None:
        self.key = key
        self.old = old
        self.new = new
        self.generation = generation
        self.environment = environment
        self.tenant_id = tenant_id

    def __repr__(self) -> str:
        # Values stay out: they may be private, and representations end in logs.
        key = shown(self.key, MAX_SHOWN_NAME)
        return f"<Change of {key} in {self.environment} at generation {self.generation}>"


class Watch:
    """One registered callback; ``close`` ends it. A call under way is not waited for."""

    __slots__ = ("_callback", "_key", "_last", "_path", "_tenant", "closed")

    def __init__(
        self,
        path: str,
        key: str | tuple[str, ...],
        tenant: str,
        callback: Callable[[Change], object],
    ) -> None:
        self._path = path
        self._key = key
        self._tenant = tenant
        self._callback = callback
        self._last: object = ABSENT
        self.closed = False

    def close(self) -> None:
        """Call the callback no more; may be called from the callback, and again."""
        self.closed = True

    def _see(self, view: View) -> tuple[object, object]:
        """The value seen last and the one in this view, which is remembered."""
        new = merged_value(view, self._path, self._tenant)
        old, self._last = self._last, new
        return old, new

    def _change(self, old: object, new: object, generation: int, environment: str | None) -> Change:
        """What the callback is told, in copies of its own."""
        return Change(
            self._key,
            None if old is ABSENT else fresh(old),
            None if new is ABSENT else fresh(new),
            generation,
            environment,
            self._tenant or None,
        )

    def _call(self, change: Change) -> None:
        try:
            self._callback(change)
        except Exception:
            # Whatever an application raises, the other watches and the next change go on.
            _log.exception("%r: the callback raised; later changes still reach it", change)


class Watched:
    """The watches of one source, and the configuration revision they have seen."""

    __slots__ = ("failed", "revision", "source", "watches")

    def __init__(self, source: ChosenSource) -> None:
        self.source = source
        self.watches: list[Watch] = []
        self.revision: int | None = None
        self.failed = ""


class Watcher:
    """The watches of one manager, in one or more environments, and the thread that serves them."""

    def __init__(self, manager: ConfigManager) -> None:
        # Its client closes a manager that is in use, and one that watches is.
        self._manager = manager
        self._groups: dict[int, Watched] = {}
        self._kept: list[ChosenSource] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._signal: Signal | None = None
        self._closed = False
        if hasattr(os, "register_at_fork"):
            itself = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _after_fork_in_child(itself()))

    def add(
        self,
        source: ChosenSource,
        path: str,
        key: str | tuple[str, ...],
        tenant: str,
        callback: Callable[[Change], object],
    ) -> Watch:
        """Register a callback for changes after this moment; starts the thread if there is none."""
        watch = Watch(path, key, tenant, callback)
        replica = source.open()
        if replica is not None:
            with replica.view() as view:
                watch._see(view)
        with self._lock:
            group = self._groups.setdefault(id(source), Watched(source))
            group.watches.append(watch)
            # A look that began before the line above did not know this watch; have one that does.
            group.revision = None
            self._attend()
        return watch

    def _attend(self) -> None:
        """Have the thread look at once, or start it; called under the lock."""
        if self._thread is None:
            self._signal = signal = Signal()
            self._thread = threading.Thread(
                target=self._run, args=(signal,), name="control-plane-watch", daemon=True
            )
            self._thread.start()
        elif self._signal is not None:
            self._signal.wake()

    def keep(self, source: ChosenSource) -> None:
        """Close this source too when the watcher closes: its manager has moved on."""
        self._kept.append(source)

    def close(self) -> None:
        """End every watch and the thread; waits for a callback under way, unless called by it."""
        with self._lock:
            self._closed = True
            thread, signal = self._thread, self._signal
            for group in self._groups.values():
                for watch in group.watches:
                    watch.close()
            if signal is not None:
                signal.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for source in self._kept:
            source.close()

    def _run(self, signal: Signal) -> None:
        try:
            while not self._closed:
                with self._lock:
                    groups = list(self._groups.values())
                for group in groups:
                    signal.follow(group.source.folder)
                    self._look(group)
                if not self._closed:
                    signal.wait()
        finally:
            # Under the lock that `wake` is called under: the number of a closed descriptor may
            # be another file's a moment later.
            with self._lock:
                signal.close()

    def _look(self, group: Watched) -> None:
        """Call every watch whose value differs from the one it saw last."""
        for watch, change in self._changes(group):
            if not watch.closed:
                watch._call(change)

    def _changes(self, group: Watched) -> list[tuple[Watch, Change]]:
        """The watches whose value differs from the one they saw last, and what to tell them."""
        replica = group.source.open()
        # Values seen before stay: a replica that is away has not changed them.
        if replica is None:
            return []
        revision = group.source.words[_WORD]
        with self._lock:
            if revision == group.revision:
                return []
            # Revision before snapshot: what moves in between is looked at once more, never missed.
            group.revision = revision
            group.watches = [watch for watch in group.watches if not watch.closed]
            watches = list(group.watches)
        try:
            with replica.view() as view:
                generation = view.generation
                seen = list(self._seen(group, watches, view))
        except ControlPlaneError as error:
            self._failed(group, error)
            return []
        environment = group.source.environment
        return [
            (watch, watch._change(old, new, generation, environment)) for watch, old, new in seen
        ]

    def _seen(
        self, group: Watched, watches: list[Watch], view: View
    ) -> Iterator[tuple[Watch, object, object]]:
        """The watches whose value moved; one that cannot be read keeps its last."""
        for watch in watches:
            try:
                old, new = watch._see(view)
            except ControlPlaneError as error:
                self._failed(group, error)
            else:
                if not same(old, new):
                    yield watch, old, new

    def _failed(self, group: Watched, error: ControlPlaneError) -> None:
        """Have the next look read again, and say why once."""
        group.revision = None
        if group.failed != str(error):
            group.failed = str(error)
            _log.warning("watching configuration goes on, a look failed: %s", shown(error))


def _after_fork_in_child(watcher: Watcher | None) -> None:
    """Nobody holds the child's lock, and the thread and its queue stayed with the parent."""
    if watcher is not None:
        watcher._lock = threading.Lock()
        watcher._thread = None
        signal, watcher._signal = watcher._signal, None
        if signal is not None:
            signal.close()
