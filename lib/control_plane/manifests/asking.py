"""The order of an import whose parts ask each other, and what their rules may be called.

A part that is asked comes before those that ask it. In a ring there is no such order: the part that
closes the ring comes first, and which it asks is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

Part = TypeVar("Part")


def after_asked(
    parts: Iterable[Part], asked: Callable[[Part], Iterable[Part]]
) -> Iterator[tuple[Part, Collection[Part]]]:
    """Each part once, after all that it asks, and those it asks that lead back to it.

    ``asked`` names parts of the import only. However far they lead, each is looked at once.
    """
    done: set[Part] = set()
    for first in parts:
        way = {} if first in done else {first: iter(asked(first))}
        back: dict[Part, list[Part]] = {}
        while way:
            part, rest = next(reversed(way.items()))
            for other in rest:
                if other in way:
                    back.setdefault(part, []).append(other)
                elif other not in done:
                    way[other] = iter(asked(other))
                    break
            else:
                del way[part]
                done.add(part)
                yield part, back.pop(part, ())


class RuleNames:
    """Names for the rules of one flag: their own, with a number where that is taken."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def of(self, name: str) -> str:
        """A name that no other rule has."""
        unique, number = name, self._next.get(name, 2)
        while unique in self._taken:
            unique, number = f"{name} ({number})", number + 1
        self._next[name] = number
        self._taken.add(unique)
        return unique
