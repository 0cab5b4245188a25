"""Whose a key id is, for people: a name from key files and trust, else the id's first digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.cli.output import short
from control_plane.errors import ControlPlaneError

if TYPE_CHECKING:
    from control_plane.cli.settings import Settings


def holder_names(found: Settings) -> Callable[[tuple[str, ...]], str]:
    """A function that names key ids; the names come from ``<name>.pem.pub`` beside known keys."""
    names = _known(found)

    def named(key_ids: tuple[str, ...]) -> str:
        return ", ".join(names.get(key_id, short(key_id)) for key_id in key_ids) or "nobody"

    return named


def _known(found: Settings) -> dict[str, str]:
    from control_plane.log.canonical import parse

    project = found.project
    folders = {Path(path).parent for path in found.key_files}
    if project is not None:
        folders.add(project.private / "keys")
    names = {}
    for path in sorted(file for folder in folders for file in folder.glob("*.pub")):
        try:
            key = parse(path.read_bytes(), what=str(path))
        except (ControlPlaneError, OSError):
            continue  # a name is a courtesy; a file that is no key just gives none
        if isinstance(key, dict) and isinstance(key.get("keyid"), str):
            names[str(key["keyid"])] = path.name.removesuffix(".pub").removesuffix(".pem")
    return names
