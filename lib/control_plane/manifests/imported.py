"""What every importer answers: manifests, and what of another system's file they do not say.

A flag or segment is imported exactly, imported with a difference that is told (``changes``), or not
at all (``problems``). ``notes`` are what the whole import rests on, such as which attribute stands
for theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is refused or differs; ``path`` leads to the place in the other system's file.

    ``text`` begins with what it is about, such as ``flag checkout:``.
    """

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Imported:
    """The manifests of a file, why those that are missing are, and how the others differ."""

    documents: tuple[dict[str, Any], ...]
    problems: tuple[Problem, ...]
    changes: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
