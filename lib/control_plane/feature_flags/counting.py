"""How often each variant of each flag was served, counted by whoever serves it.

A counter is an ``itertools.repeat`` of the answer itself: ``next`` of it hands the answer out and
takes one from what remains, in one step of the interpreter, so threads lose no count and the
caller needs no lock; it costs 15 ns. What was counted is what is missing from ``STRETCH``.

A counter that has run out raises ``StopIteration`` and counts nothing. Whoever meets that asks for
the counter again and gets the next stretch, the same one whichever thread comes first; so once in
1,024 evaluations, and at no cost to the others, somebody can be told how far the count has come.

There is a counter for each answer of a variant, as a variant's value can change with its flag.
Of a variant whose value changed more than ``KEPT`` times the oldest counters become a plain sum,
and what a view from before those changes serves later is no longer counted.
"""

from __future__ import annotations

from itertools import repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

STRETCH = 1024
KEPT = 8

Counter = repeat
"""The type of a counter; nothing else that a table holds has it."""

NOTHING = repeat(None)
"""Stands where a counter is asked and no variant is served: nothing is counted."""


class Spent(Exception):
    """Raised where a counter has run out: ask for the next stretch and evaluate again."""


class Stretch:
    """The ``ordinal``-th 1,024 of one count, and the stretch that follows once there is one."""

    __slots__ = ("_next", "answer", "counter", "ordinal")

    def __init__(self, answer: Any, ordinal: int = 0) -> None:
        self.answer = answer
        self.ordinal = ordinal
        self.counter = repeat(answer, STRETCH)
        self._next: dict[None, Stretch] = {}

    def newest(self) -> Stretch:
        """The stretch that is counted on now."""
        stretch = self
        while not stretch.counter.__length_hint__():
            # One step for all threads: they share what the first to come put there.
            successor = Stretch(stretch.answer, stretch.ordinal + 1)
            stretch = stretch._next.setdefault(None, successor)
        return stretch

    def counted(self) -> int:
        """What was counted on this stretch, those before it and those after it; only grows."""
        stretch = self
        while stretch._next:
            stretch = stretch._next[None]
        return (stretch.ordinal + 1) * STRETCH - stretch.counter.__length_hint__()


class Counts:
    """The counters of one manager's flags; they only grow.

    ``passed``, where it is set, is called with the counts, a flag and a variant each time one of
    its counters ran out.
    """

    __slots__ = ("_folded", "_series", "passed")

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], dict[str, dict[Any, Stretch]]] = {}
        self._folded: dict[tuple[str, str], int] = {}
        self.passed: Callable[[Counts, str, str], None] | None = None

    def counter(self, flag: str, variant: str, mode: str, answer: Any) -> repeat[Any]:
        """What to ask for the ``next`` instead of giving this answer: it counts, and gives it."""
        modes = self._series.setdefault((flag, variant), {})
        series = modes.setdefault(mode, {})
        kind = answer.__class__
        # Mappings and lists are told apart by their text, 1 and 1.0 and True by their type.
        same = (kind, answer if kind in (bool, str, int, float) else repr(answer))
        known = series.get(same)
        if known is None:
            # One step for all threads, as above.
            known = series.setdefault(same, Stretch(answer))
            if len(series) > KEPT:
                self._fold(flag, variant, series)
        newest = known.newest()
        if newest is not known:
            # An older one that a slower thread puts there still leads to the newest.
            series[same] = newest
            if self.passed is not None:
                self.passed(self, flag, variant)
        return newest.counter

    def count(self, flag: str, variant: str) -> None:
        """Count one that was served without asking a counter for it."""
        while True:
            try:
                next(self.counter(flag, variant, "", None))
                return
            except StopIteration:
                # Other threads used it up in between.
                continue

    def of(self, flag: str, variant: str) -> int:
        """How often this variant was served since the manager was made."""
        key = flag, variant
        total = self._folded.get(key, 0)
        for series in list(self._series.get(key, {}).values()):
            total += sum([stretch.counted() for stretch in list(series.values())])
        return total

    def read(self) -> dict[tuple[str, str], int]:
        """How often each (flag, variant) was served since the manager was made."""
        totals = {key: self.of(*key) for key in list(self._series)}
        return {key: total for key, total in totals.items() if total}

    def _fold(self, flag: str, variant: str, series: dict[Any, Stretch]) -> None:
        # A list in one step: another thread may add to the series meanwhile.
        oldest = series.pop(list(series)[0], None)  # noqa: RUF015
        if oldest is not None:
            key = flag, variant
            self._folded[key] = self._folded.get(key, 0) + oldest.counted()


def is_spent(answer: Any) -> bool:
    """Whether a counter, or one that a function asks, has run out."""
    if answer.__class__ is Counter:
        return answer is not NOTHING and not answer.__length_hint__()
    for constant in answer.__code__.co_consts:
        if constant.__class__ is Counter:
            if is_spent(constant):
                return True
        elif issubclass(constant.__class__, dict):
            # The variants of an override by unit.
            for given in constant.values():
                if given.__class__ is Counter and is_spent(given):
                    return True
    return False
