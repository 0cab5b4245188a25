"""What one process tells of what it has served: when, of which counts, into which file.

- Counts stay the managers' own; here is kept how much of each has been told. What is told is a
  difference, so a manager that goes away leaves what it told, and its rest is told when it goes.
- Of one flag and variant it is told when one of its counters has run out, which is once in 1,024
  evaluations; of everything after the replica's revision has moved, at most once a second, and
  when a client is closed or the process exits. A killed process loses what it had not told.
- One thread tells at a time; another that comes meanwhile leaves it at that, and what it had comes
  with the next time. Nobody waits.
- A forked child begins with a file of its own, which it makes when it first has something to tell,
  and with what its parent had counted set aside.
- Without a folder that can be written to nothing is told, and it is looked for again once a minute.
  Whatever fails here is no concern of the application's: no call raises.
"""

from __future__ import annotations

import os
from _weakref import ref
from time import monotonic

from control_plane.usage.slots import slot_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from control_plane.feature_flags.counting import Counts
    from control_plane.usage.file import UsageFile

TOLD_SECONDS = 1.0
LOOK_SECONDS = 60.0
MAX_PARTED = 16
"""Managers that were dropped without being closed, until their counts are told at once."""


class _Source:
    """Counts, the word they are told under, and how much of them was told."""

    __slots__ = ("counts", "is_parted", "told", "word")

    def __init__(self, word: str, counts: Counts) -> None:
        self.word = word
        self.counts = counts
        self.told: dict[tuple[str, str], int] = {}
        self.is_parted = False


class ProcessUsage:
    """The usage of one environment by this process; ``environment`` says which, once decided.

    ``folder`` None: nothing is told. ``clock`` counts seconds.
    """

    __slots__ = (
        "__weakref__", "_clock", "_environment", "_exit", "_file", "_folder", "_looked_at",
        "_owners", "_sources", "_told_at", "_turn",
    )  # fmt: skip

    def __init__(
        self,
        folder: str | None,
        environment: Callable[[], str | None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._folder = folder
        self._environment = environment
        self._clock = clock
        self._file: UsageFile | None = None
        self._sources: list[_Source] = []
        self._owners: dict[ref[Any], list[_Source]] = {}
        self._turn = [None]
        self._told_at: float | None = None
        self._looked_at: float | None = None
        self._exit: Callable[[], None] | None = None

    def tell_of(self, owner: object, word: str, counts: Counts) -> None:
        """Tell of these counts from now on, until their owner is gone."""
        if self._folder is None:
            return
        if self._exit is None:
            self._begin()
        source = _Source(word, counts)
        self._sources.append(source)
        counts.passed = self._passed
        self._owners.setdefault(ref(owner, self._parted), []).append(source)

    def _begin(self) -> None:
        # Imported here: one line each of what only a process that tells anything needs.
        import atexit

        itself = ref(self)

        def leave() -> None:
            usage = itself()
            if usage is not None:
                usage.close()

        def forked() -> None:
            usage = itself()
            if usage is not None:
                usage._after_fork_in_child()

        self._exit = leave
        atexit.register(leave)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forked)

    def moved(self) -> None:
        """Tell of everything, unless that was less than a second ago."""
        if self._folder is None:
            return
        now = self._clock()
        if self._told_at is None or now - self._told_at >= TOLD_SECONDS:
            self._told_at = now
            self.tell()

    def tell(self) -> None:
        """Tell of everything that was counted."""
        self._in_turn(self._tell)

    def close(self) -> None:
        """Tell of everything and let go of the file; what comes later begins another."""
        self._in_turn(self._tell)
        self._in_turn(self._let_go)

    def _passed(self, counts: Counts, first: str, second: str) -> None:
        def tell() -> None:
            key, total = (first, second), counts.of(first, second)
            self._write([(source, key, total) for source in self._sources
                         if source.counts is counts])  # fmt: skip

        self._in_turn(tell)

    def _tell(self) -> None:
        if self._file is not None and not self._file.is_in_place():
            self._let_go()
        parted = [source for source in self._sources if source.is_parted]
        self._write([
            (source, key, total)
            for source in self._sources
            for key, total in source.counts.read().items()
            if total > source.told.get(key, 0)
        ])  # fmt: skip
        # Told, or without anybody to tell: their counts go with their managers.
        self._sources = [source for source in self._sources if source not in parted]

    def _write(self, news: list[tuple[_Source, tuple[str, str], int]]) -> None:
        file = self._opened() if news else None
        if file is None:
            return
        if not file.is_whole():
            # Cut short: a store might fault. Another file is begun next time.
            self._let_go()
            return
        for source, key, total in news:
            more = total - source.told.get(key, 0)
            name = slot_name(source.word, *key)
            if more > 0 and name is not None:
                file.add(name, more)
            source.told[key] = max(total, source.told.get(key, 0))

    def _opened(self) -> UsageFile | None:
        environment = self._environment()
        if self._file is not None or self._folder is None or environment is None:
            return self._file
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = now
        from control_plane.usage.file import UsageFile

        self._file = UsageFile(self._folder, environment)
        self._looked_at = None
        return self._file

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _in_turn(self, work: Callable[[], None]) -> None:
        try:
            # One step for all threads, and nothing that a fork could leave taken in the child.
            self._turn.pop()
        except IndexError:
            return
        try:
            work()
        except (OSError, ValueError, ImportError):
            # No space, no right, no such call here: nothing is told, and the file is left alone.
            self._file = None
            self._looked_at = self._clock()
        finally:
            self._turn.append(None)

    def _parted(self, owner: ref[Any]) -> None:
        for source in self._owners.pop(owner, ()):
            source.is_parted = True
        if sum([source.is_parted for source in self._sources]) >= MAX_PARTED:
            self.tell()

    def _after_fork_in_child(self) -> None:
        self._turn = [None]
        self._let_go()
        self._looked_at = self._told_at = None
        for source in self._sources:
            source.told = source.counts.read()
