"""``history --refused``: what the store turned away, from its ``audit.jsonl``.

The log holds what was accepted; this file lies beside the store's database and is never served, so
it is read where it lies: on the store's host, or of the project around. A line that a crash cut
short is passed over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from control_plane.cli.output import when
from control_plane.cli.settings import Settings
from control_plane.errors import NotFound, SyntaxInvalid

AUDIT = "audit.jsonl"
SHOWN_DIGITS = 16


def audit_file(found: Settings, given: str | None) -> Path:
    """The audit file that was named, else that of the project's own store.

    Raises:
        NotFound: nobody named one and there is no project.
    """
    if given is not None:
        return Path(given)
    project = found.project
    if project is None:
        raise NotFound(
            f"expected the store's {AUDIT}, found no project here or above; on the store's host"
            " pass --audit FILE, it lies beside the database"
        )
    return project.private / AUDIT


def read_refusals(path: Path, environment: str, limit: int) -> list[dict[str, Any]]:
    """The newest refusals of an environment, newest first; none where the store refused nothing.

    Raises:
        NotFound: there is no store whose file this could be, or it cannot be read.
    """
    from control_plane.log.canonical import parse

    if not path.exists() and path.parent.is_dir():
        return []  # the store makes the file with its first event
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        reason = (error.strerror or "none").lower()
        raise NotFound(f"{path}: expected the store's audit file, found {reason}") from error
    refusals: deque[dict[str, Any]] = deque(maxlen=limit)
    for line in lines:
        try:
            event = parse(line, what=str(path))
        except SyntaxInvalid:
            continue  # cut short by a crash; the store began its next line anew
        if (
            isinstance(event, dict)
            and event.get("event") == "refused"
            and event.get("environment") == environment
        ):
            refusals.append(event)
    return list(reversed(refusals))


def refusal_line(refusal: Mapping[str, Any]) -> str:
    """One refusal, for people: when, by whose token, what and why."""
    statement = str(refusal.get("statement") or "")[:SHOWN_DIGITS]
    named = f" change set {statement}" if statement else ""
    return (
        f"{when(int(refusal['at']))}  token {refusal['token']}{named}: {refusal['code']}:"
        f" {refusal['message']}"
    )
