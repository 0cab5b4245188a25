"""Telling an application that a configuration value changed: one thread, woken by the kernel.

- What wakes the thread, and that nothing is lost between a look and the next: `replica.waiting`.
- *What is compared.* Woken, the thread compares the configuration revision. If that moved, it
  takes one snapshot and asks it which records changed since its last look (`replica.changed`);
  only watches that such a record can concern are read again. All are, where that is not known:
  after a folder swap, after more than 64 commits, or after a very large one.
- *What is a change.* A merged value, process overrides included, that differs from the one seen
  last; old and new are of two snapshots, each of one generation. Generations that pass between
  two looks come as one change, from the value seen last to the newest; when that is the same
  value again, there is none.
- *In order, one by one.* What was found to have changed is called to the end, in the order the
  watches were made, before anything is compared again.
- A read that fails changes nothing: the values last seen stay, the next look tries again.
- *Fork.* The child inherits watches and values, but neither the thread nor the right to read the
  parent's queue. Right after the fork it starts a thread of its own. What was found and not yet
  called at that moment is the child's too; a call under way in the parent's thread then is made
  anew in the child, where it never ended. What belongs to an event loop of the parent ends.

This module is imported by the first watch, so that a process that never watches has no thread and
does not load ``threading`` or ``ctypes``.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque

from control_plane.configs.layers import same
from control_plane.configs.merged import ABSENT, merged_value
from control_plane.configs.overrides import overridden
from control_plane.copies import fresh
from control_plane.errors import ControlPlaneError
from control_plane.replica.changed import change_count, changed_keys
from control_plane.replica.header import CONFIG_REVISION
from control_plane.replica.waiting import Signal
from control_plane.shown import MAX_SHOWN_NAME, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
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

    __slots__ = (
        "_callback",
        "_closed",
        "_complaint",
        "_key",
        "_last",
        "_number",
        "_on_close",
        "_path",
        "_tenant",
        "closed",
    )

    def __init__(
        self,
        path: str,
        key: str | tuple[str, ...],
        tenant: str,
        callback: Callable[[Change], object],
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._path = path
        self._key = key
        self._tenant = tenant
        self._callback = callback
        self._on_close = on_close
        self._last: object = ABSENT
        self._number = 0
        self._closed: deque[Watch] = deque()
        self._complaint: object = None
        self.closed = False

    def close(self) -> None:
        """Call the callback no more; may be called from the callback, and again."""
        # No lock: a garbage collection may call this in any thread, in the middle of anything.
        if not self.closed:
            self.closed = True
            self._closed.append(self)
            if self._on_close is not None:
                self._on_close()

    def _read(self, view: View, overrides: Mapping[tuple[str, ...], str]) -> object:
        return overridden(overrides, self._path, merged_value(view, self._path, self._tenant))

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
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Whatever an application raises, the other watches and the next change go on. What
            # fails at each change is told once, until it succeeds or fails elsewhere.
            complaint = _place_of(error)
            if complaint != self._complaint:
                _log.exception("%r: the callback raised; later changes still reach it", change)
            self._complaint = complaint
        else:
            self._complaint = None


class Position:
    """How far the watches of one source have looked."""

    __slots__ = ("count", "revision", "words")

    def __init__(self, words: memoryview, revision: int, count: int) -> None:
        self.words = words
        self.revision = revision
        self.count = count


class Watched:
    """The watches of one source, found by what they watch, and how far they have looked.

    ``added`` are watches to read with the next look, whatever changed: no look has known them yet,
    or the last could not read them. ``complaints`` is what was said of that. Everything here
    changes under the watcher's lock, but for ``closed``, which takes what is closed at any time.
    """

    __slots__ = ("added", "closed", "complaints", "places", "position", "source", "watches")

    def __init__(self, source: ChosenSource) -> None:
        self.source = source
        self.watches: dict[Watch, None] = {}
        self.added: list[Watch] = []
        self.closed: deque[Watch] = deque()
        # A change of the base concerns whoever watches the path, one of a tenant only its own.
        self.places: dict[str | tuple[str, str], dict[Watch, None]] = {}
        self.position: Position | None = None
        self.complaints: set[str] = set()

    def rebuild(self, watches: list[Watch]) -> None:
        """Know these and no others, and compare them all with the next look."""
        self.watches, self.places, self.added, self.closed = {}, {}, [], deque()
        self.position = None
        for watch in watches:
            self.add(watch)
            if watch.closed:
                self.closed.append(watch)

    def add(self, watch: Watch) -> None:
        """Know one more watch."""
        watch._closed = self.closed
        self.watches[watch] = None
        self.added.append(watch)
        for place in _places(watch):
            self.places.setdefault(place, {})[watch] = None

    def forget_closed(self) -> None:
        """Know those no more that were closed since the last time."""
        while self.closed:
            watch = self.closed.popleft()
            self.watches.pop(watch, None)
            for place in _places(watch):
                there = self.places.get(place, {})
                there.pop(watch, None)
                if not there:
                    self.places.pop(place, None)

    def concerned(self, keys: Iterable[bytes]) -> dict[Watch, None]:
        """The watches whose value the records with these keys can have changed."""
        found: dict[Watch, None] = {}
        for key in keys:
            tenant, _, path = key[1:].partition(b"\0")
            if b"\0" in path:
                # A long key ends in a hash: which path it is of is not to be seen.
                return dict(self.watches)
            for prefix in _prefixes(path.decode()):
                place = (tenant.decode(), prefix) if tenant else prefix
                found.update(self.places.get(place, {}))
        return found


class Watcher:
    """The watches of one manager, in one or more environments, and the thread that serves them."""

    def __init__(self, manager: ConfigManager) -> None:
        # Its client closes a manager that is in use, and one that watches is.
        self._manager = manager
        self._groups: dict[int, Watched] = {}
        self._kept: list[ChosenSource] = []
        self._lock = threading.RLock()
        self._delivering = threading.RLock()
        self._deliverer: int | None = None
        self._found: deque[Found] = deque()
        self._made = 0
        self._thread: threading.Thread | None = None
        self._signal: Signal | None = None
        self._closed = False
        WATCHERS.add(self)

    def add(
        self,
        source: ChosenSource,
        path: str,
        key: str | tuple[str, ...],
        tenant: str,
        callback: Callable[[Change], object],
        on_close: Callable[[], object] | None = None,
    ) -> Watch:
        """Register a callback for changes after this moment; starts the thread if there is none.

        ``on_close`` belongs to an event loop: it is called when the watch ends, and such a watch
        does not live on in a forked child.
        """
        watch = Watch(path, key, tenant, callback, on_close)
        replica = source.open()
        if replica is not None:
            with replica.view() as view:
                watch._last = watch._read(view, self._manager.overrides)
        with self._lock:
            if self._closed:
                watch.close()
                return watch
            self._made += 1
            watch._number = self._made
            self._groups.setdefault(id(source), Watched(source)).add(watch)
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
            watches = [watch for group in self._groups.values() for watch in group.watches]
            if signal is not None:
                signal.wake()
        for watch in watches:
            watch.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for source in self._kept:
            source.close()

    def deliver(self) -> None:
        """Compare all watches and call those whose value changed, in this thread.

        The thread does this whenever something moved; another that calls it waits for the one
        that is at it. Called from a callback it does nothing: its caller goes on.
        """
        here = threading.get_ident()
        if self._deliverer == here:
            return
        with self._delivering:
            self._deliverer = here
            try:
                self._call_found()
                with self._lock:
                    groups = list(self._groups.values())
                for group in groups:
                    self._find(group)
                    self._call_found()
            finally:
                if self._deliverer == here:
                    self._deliverer = None

    def _run(self, signal: Signal) -> None:
        try:
            # It is no longer the signal where a callback forked and returned in the child.
            while not self._closed and self._signal is signal:
                with self._lock:
                    groups = list(self._groups.values())
                for group in groups:
                    signal.follow(group.source.folder)
                try:
                    self.deliver()
                except Exception:
                    # No defect may end the thread and with it, unnoticed, every watch.
                    _log.exception("a look at watched configuration failed, the next reads it all")
                    for group in groups:
                        group.position = None
                if not self._closed and self._signal is signal:
                    signal.wait()
        finally:
            # Under the lock that `wake` is called under: the number of a closed descriptor may
            # be another file's a moment later.
            with self._lock:
                signal.close()

    def _call_found(self) -> None:
        """Call what was found, one by one.

        A fork anywhere in here leaves the child what was not called to the end: the value counts
        as seen before the call, and the entry goes after it.
        """
        entries = self._found
        while entries:
            found = entries[0]
            found.watch._last = found.new
            if not found.watch.closed:
                found.watch._call(found.change)
            # Empty where the callback forked and this is the child: its own thread has the rest.
            if entries:
                entries.popleft()

    def _find(self, group: Watched) -> None:
        """Put what changed for the watches of a group into ``_found``."""
        found, position = self._compared(group)
        # In this order: a fork in between finds changes twice, and the second time they are none.
        if found:
            self._found = deque(found)
        group.position = position

    def _changes(self, group: Watched) -> list[tuple[Watch, Change]]:
        """What changed for the watches of a group; it counts as seen from now on."""
        found, position = self._compared(group)
        for each in found:
            each.watch._last = each.new
        group.position = position
        return [(each.watch, each.change) for each in found]

    def _compared(self, group: Watched) -> tuple[list[Found], Position | None]:
        """What differs from what was seen, and how far that look came; None: look again."""
        with self._lock:
            group.forget_closed()
        replica = group.source.open()
        before = group.position
        # Values seen before stay: a replica that is away has not changed them.
        if replica is None:
            return [], before
        # Revision before snapshot: what moves in between is looked at once more, never missed.
        words = group.source.words
        revision = words[_WORD]
        with self._lock:
            added = group.added
            if before and before.words is words and before.revision == revision and not added:
                return [], before
            group.added = []
        try:
            with replica.view() as view:
                position = Position(words, revision, change_count(view))
                watches = self._to_read(group, view, position)
                watches.update(dict.fromkeys(added))
                return self._differing(group, watches, view), position
        except ControlPlaneError as error:
            _complain(group, error)
            return [], None

    def _to_read(self, group: Watched, view: View, position: Position) -> dict[Watch, None]:
        """The watches that may have changed since the last look; all, where that is not known."""
        before = group.position
        keys = None
        if before is not None and before.words is position.words:
            commits = position.count - before.count
            # A revision that rose more often than the count: somebody wrote who does not count,
            # or the header is behind its snapshot for a moment.
            if position.revision - before.revision <= commits:
                keys = changed_keys(view, before.count, position.count)
        with self._lock:
            return dict(group.watches) if keys is None else group.concerned(keys)

    def _differing(self, group: Watched, watches: Iterable[Watch], view: View) -> list[Found]:
        """Those whose value moved, in the order they were made.

        One that cannot be read keeps its value, and the next look reads it again.
        """
        overrides, environment = self._manager.overrides, group.source.environment
        generation = view.generation
        found, unread = [], []
        for watch in sorted(watches, key=_number):
            try:
                new = watch._read(view, overrides)
            except (ControlPlaneError, ValueError) as error:
                _complain(group, error)
                unread.append(watch)
            else:
                if not same(watch._last, new):
                    change = watch._change(watch._last, new, generation, environment)
                    found.append(Found(watch, new, change))
        if not unread:
            group.complaints.clear()
        with self._lock:
            group.added += unread
        return found


class Found:
    """A watch whose value changed, its new value, and what its callback is told."""

    __slots__ = ("change", "new", "watch")

    def __init__(self, watch: Watch, new: object, change: Change) -> None:
        self.watch = watch
        self.new = new
        self.change = change


def _complain(group: Watched, error: Exception) -> None:
    """Say why a look failed, once until one succeeds."""
    if str(error) not in group.complaints:
        group.complaints.add(str(error))
        _log.warning("watching configuration goes on, a look failed: %s", shown(error))


def _number(watch: Watch) -> int:
    return watch._number


def _places(watch: Watch) -> tuple[str | tuple[str, str], ...]:
    """Where a change concerns this watch: in the base, and in its tenant if it has one."""
    return (watch._path, (watch._tenant, watch._path)) if watch._tenant else (watch._path,)


def _prefixes(path: str) -> Iterator[str]:
    """The path, everything it is below, and the empty path of the whole configuration."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _place_of(error: BaseException) -> tuple[type, object, int]:
    """What an error is known by: its type and where it was raised. Its text may always differ."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (type(error), trace and trace.tb_frame.f_code, trace.tb_lineno if trace else 0)


class Watchers:
    """The watchers of this process, which go on in a forked child.

    The interpreter is told of them once and for all: what it is told of forks it never forgets.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: weakref.WeakSet[Watcher] = weakref.WeakSet()

    def add(self, watcher: Watcher) -> None:
        """Let this one go on, too, for as long as anybody has it."""
        self._known.add(watcher)

    def after_fork_in_child(self) -> None:
        """Let each go on in the child."""
        for watcher in list(self._known):
            _after_fork_in_child(watcher)


WATCHERS = Watchers()
if hasattr(os, "register_at_fork"):
    # After the reader's own, whose locks the threads that start then are to find new.
    import control_plane.replica.reader  # noqa: F401

    os.register_at_fork(after_in_child=WATCHERS.after_fork_in_child)


def _after_fork_in_child(watcher: Watcher) -> None:
    """Nobody holds the child's locks, and the thread and its queue stayed with the parent."""
    left = list(watcher._found)
    if watcher._deliverer == threading.get_ident():
        # A callback forked: it goes on in this very thread, and is not called anew.
        del left[:1]
    watcher._found.clear()
    watcher._found = deque(left)
    watcher._lock = threading.RLock()
    watcher._delivering = threading.RLock()
    watcher._deliverer = None
    watcher._thread = None
    signal, watcher._signal = watcher._signal, None
    if signal is not None:
        signal.close()
    for group in watcher._groups.values():
        # Another thread may have been in the middle of a change of these when it was left behind.
        group.rebuild([watch for watch in group.watches if not _of_a_loop(watch)])
    if any(group.watches for group in watcher._groups.values()) and not watcher._closed:
        with watcher._lock:
            watcher._attend()


def _of_a_loop(watch: Watch) -> bool:
    """Whether a watch belongs to an event loop of the parent; if so it ends here, unsaid."""
    if watch._on_close is not None:
        watch.closed = True
    return watch._on_close is not None
