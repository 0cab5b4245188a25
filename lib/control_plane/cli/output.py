"""How answers look: one JSON object with ``"format": 1``, or lines for people.

Lines for people go through rich only where they are a table or progress; progress goes to stderr
and only to a terminal, so output can be piped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

Progress = Callable[[int, int], None]


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
def progress(what: str) -> Iterator[Progress]:
    """Calls of (done, all) become a bar on the terminal's stderr when they take over a second."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    started = time.monotonic()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)

        def moved(done: int, total: int) -> None:
            visible = time.monotonic() - started > 1
            bar.update(task, completed=done, total=total, visible=visible)

        yield moved
