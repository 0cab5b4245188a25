"""How often each variant of each flag was served, counted by whoever serves it.

A counter is an ``itertools.repeat`` of the answer itself: ``next`` of it hands the answer out and
takes one from what remains, in one step of the interpreter, so threads lose no count and the
caller needs no lock; it costs 15 ns. What was counted is what is missing from ``MANY``.

There is a counter for each answer of a variant, as a variant's value can change with its flag.
Of a variant whose value changed more than ``KEPT`` times the oldest counters become a plain sum,
and what a view from before those changes serves later is no longer counted.
"""

from __future__ import annotations

from itertools import repeat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MANY = (1 << 63) - 1
KEPT = 8

Counter = repeat
"""The type of a counter; nothing else that a table holds has it."""

NOTHING = repeat(None)
"""Stands where a counter is asked and no variant is served: nothing is counted."""


class Counts:
    """The counters of one manager's flags; they only grow."""

    __slots__ = ("_folded", "_series")

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str], dict[Any, repeat[Any]]] = {}
        self._folded: dict[tuple[str, str], int] = {}

    def counter(self, flag: str, variant: str, mode: str, answer: Any) -> repeat[Any]:
        """What to ask for the ``next`` instead of giving this answer: it counts, and gives it."""
        series = self._series.setdefault((flag, variant, mode), {})
        kind = answer.__class__
        # Mappings and lists are told apart by their text, 1 and 1.0 and True by their type.
        same = (kind, answer if kind in (bool, str, int, float) else repr(answer))
        counter = series.get(same)
        if counter is None:
            # One step for all threads: they share what the first to come put there.
            counter = series.setdefault(same, repeat(answer, MANY))
            if len(series) > KEPT:
                self._fold(flag, variant, series)
        return counter

    def read(self) -> dict[tuple[str, str], int]:
        """How often each (flag, variant) was served since the manager was made."""
        total = dict(self._folded)
        for (flag, variant, _), series in list(self._series.items()):
            counted = sum(map(_counted, list(series.values())))
            if counted:
                total[flag, variant] = total.get((flag, variant), 0) + counted
        return total

    def _fold(self, flag: str, variant: str, series: dict[Any, repeat[Any]]) -> None:
        # A list in one step: another thread may add to the series meanwhile.
        oldest = series.pop(list(series)[0], None)  # noqa: RUF015
        if oldest is not None:
            key = flag, variant
            self._folded[key] = self._folded.get(key, 0) + _counted(oldest)


def _counted(counter: repeat[Any]) -> int:
    return MANY - counter.__length_hint__()
