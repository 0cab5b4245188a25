"""How answers look: one JSON object with ``"format": 1``, or lines for people.

Lines for people go through rich only where they are a table or progress; progress goes to stderr
and only to a terminal, so output can be piped.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

Progress = Callable[[int, int], None]

PATIENCE_SECONDS: Final = 1.0


def print_json(value: Mapping[str, Any]) -> None:
    """One object, ``format`` first, indented."""
    click.echo(json.dumps({"format": 1, **value}, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns without borders; wide as needed when piped."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max(len(column), *(len(row[at]) for row in cells), 0) for at, column in enumerate(columns)
    ]
    for row in ([column.upper() for column in columns], *cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def when(ms: int) -> str:
    """A moment given in milliseconds, in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))


def short(digest: str) -> str:
    """The first 12 digits of a digest, for people."""
    return digest[:12]


@contextmanager
def progress(what: str, after_seconds: float = PATIENCE_SECONDS) -> Iterator[Progress]:
    """Show what is waited for once it takes over a second, on a terminal's stderr only.

    Calls of (done, all) fill the bar; without any it moves from end to end, so that a store that
    is slow to answer does not look like a command that hangs.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bar = _Bar(what)
    timer = threading.Timer(after_seconds, bar.show)
    timer.daemon = True
    timer.start()
    try:
        yield bar.moved
    finally:
        timer.cancel()
        bar.close()


class _Bar:
    """A bar that is drawn by nobody until ``show``: a verb that is quick loads no rich."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._state: tuple[int, int | None] = (0, None)
        self._lock = threading.Lock()
        self._bar: Any = None
        self._closed = False

    def moved(self, done: int, total: int) -> None:
        with self._lock:
            self._state = (done, total)
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichBar

        with self._lock:
            if self._closed:
                return
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = RichBar(*columns, console=Console(stderr=True), transient=True)
            done, total = self._state
            self._bar.add_task(self._what, completed=done, total=total)
            self._bar.start()

    def close(self) -> None:
        """Take the bar away; one that was not drawn yet never is."""
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.stop()
