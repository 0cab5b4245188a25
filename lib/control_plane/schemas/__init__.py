"""The JSON Schemas of the five kinds of manifest: what a document's shape is decided by.

``python -m control_plane.schemas DIR`` writes the copies that editors read.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from control_plane.names import MANIFEST_KINDS


def schema_text(kind: str) -> bytes:
    """The bytes of the kind's schema.

    Raises:
        ValueError: for a kind that has none.
    """
    if kind not in MANIFEST_KINDS:
        raise ValueError(f"expected one of {', '.join(MANIFEST_KINDS)}, found {kind!r}")
    return (files(__name__) / f"{kind}.schema.json").read_bytes()


def schema(kind: str) -> dict[str, Any]:
    """The kind's JSON Schema (2020-12), a fresh object each time.

    Raises:
        ValueError: for a kind that has none.
    """
    loaded: dict[str, Any] = json.loads(schema_text(kind))
    return loaded


def copy_to(folder: Path) -> list[Path]:
    """Write every schema into the folder, made if needed; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in MANIFEST_KINDS:
        path = folder / f"{kind}.schema.json"
        path.write_bytes(schema_text(kind))
        paths.append(path)
    return paths
