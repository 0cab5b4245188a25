"""A file of another system's that is a list: JSON, or a line of JSON for each row.

Rows are counted from 1, as a person counts them. In ``.jsonl`` the row is the line; blank lines are
counted and left out. A row that is no JSON ends the reading: what follows it cannot be trusted to
be what its author meant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.errors import SyntaxInvalid
from control_plane.manifests.json_schema import written_path
from control_plane.manifests.loader import load_json
from control_plane.names import MAX_CONFIG_BYTES

MAX_ROWS: Final = 100_000
"""As many changes as one set may list."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file by number."""

    value: dict[int, Any]
    source: str

    def place(self, path: tuple[str | int, ...]) -> str:
        """``servers.json: row 16: version_detail``; a path begins with the row's number."""
        if not path:
            return self.source
        inside = f": {written_path(path[1:])}" if path[1:] else ""
        return f"{self.source}: row {path[0]}{inside}"


def load_rows(path: str | os.PathLike[str], *, under: tuple[str, ...] = ()) -> Rows:
    """The rows of a ``.json`` or ``.jsonl`` file.

    A JSON file is a list, or a mapping that has the list ``under`` one of these keys.

    Raises:
        SyntaxInvalid: when the file is neither, is too large or cannot be read.
    """
    what, file = str(path), Path(path)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise SyntaxInvalid(f"{what}: expected a readable file, found {error.strerror}") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise SyntaxInvalid(f"{what}: expected at most {MAX_CONFIG_BYTES} bytes, found more")
    rows = _lines(data, what) if file.suffix == ".jsonl" else _listed(data, what, under)
    if len(rows) > MAX_ROWS:
        raise SyntaxInvalid(f"{what}: expected at most {MAX_ROWS} rows, found {len(rows)}")
    return Rows(rows, what)


def _lines(data: bytes, what: str) -> dict[int, Any]:
    return {
        number: load_json(line, what=f"{what}: row {number}")
        for number, line in enumerate(data.split(b"\n"), 1)
        if line.strip()
    }


def _listed(data: bytes, what: str, under: tuple[str, ...]) -> dict[int, Any]:
    value = load_json(data, what=what)
    if isinstance(value, dict):
        value = next((value[key] for key in under if key in value), None)
    if not isinstance(value, list):
        keys = f" or a mapping with {' or '.join(under)}" if under else ""
        raise SyntaxInvalid(f"{what}: expected a list{keys}, found another value")
    return dict(enumerate(value, 1))
