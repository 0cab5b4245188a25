"""What ``pull`` has seen, so that ``apply`` does not undo by accident what it has not.

``apply`` may write over a record whose last change was made by ``apply`` or ``promote``. Any other
last change, such as ``flag off`` at night, was made past the files; writing the files over it would
undo it unseen. So it is refused, unless ``pull`` recorded that very generation beside the files or
the author passes ``--take-over``.

The record is ``.control-plane-pulled.json`` in the folder that was pulled to:
``{"format": 1, "environments": {ENV: {"flag/x": generation}}}``. It is found upward from a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from control_plane.errors import InputInvalid, SyntaxInvalid

if TYPE_CHECKING:
    from control_plane.log.statements import Key
    from control_plane.publish.publisher import StoredHead

RECORD: Final = ".control-plane-pulled.json"
FILE_VERBS: Final = ("apply", "promote")
Pulled = Mapping[str, int]


def read_pulled(folder: Path, environment: str) -> dict[str, int]:
    """What ``pull`` recorded at or above ``folder`` for the environment; empty without a record.

    Raises:
        InputInvalid: the file is not what ``pull`` writes.
    """
    path = next((at / RECORD for at in (folder, *folder.parents) if (at / RECORD).is_file()), None)
    return {} if path is None else _read(path).get(environment, {})


def write_pulled(folder: Path, environment: str, generations: Mapping[str, int]) -> None:
    """Record the generations that were pulled, keeping other environments'."""
    path = folder / RECORD
    environments = _read(path) if path.is_file() else {}
    environments[environment] = dict(sorted(generations.items()))
    beside = path.with_name(path.name + ".new")
    beside.write_text(
        json.dumps({"format": 1, "environments": environments}, indent=2) + "\n", encoding="utf-8"
    )
    beside.replace(path)


def switched(
    environment: str,
    heads: Iterable[StoredHead],
    pulled: Callable[[Key], int | None],
    holder: Callable[[tuple[str, ...]], str],
    cure: str = "run 'control-plane pull', or pass --take-over",
) -> dict[Key, str]:
    """The records among ``heads`` that were changed past the files, with a sentence for each.

    ``pulled`` gives the generation that pull recorded for a key; ``holder`` names key ids.
    """
    return {
        head.key: f"{_sentence(environment, head, holder)}; {cure}"
        for head in heads
        if head.verb not in FILE_VERBS and pulled(head.key) != head.generation
    }


def _sentence(environment: str, head: StoredHead, holder: Callable[[tuple[str, ...]], str]) -> str:
    key = head.key
    version = f"@{key.part[2:]}" if key.part.startswith("v/") else ""
    return (
        f"{key.kind} {key.name}{version} ({environment}): expected last change by apply, found"
        f" '{head.verb.replace('-', ' ')}' by {holder(head.key_ids)} at generation"
        f" {head.generation}"
    )


def _read(path: Path) -> dict[str, dict[str, int]]:
    from control_plane.log.canonical import parse

    try:
        value = parse(path.read_bytes(), what=str(path))
    except SyntaxInvalid as error:
        raise InputInvalid(f"{error}; delete the file and run 'control-plane pull'") from error
    if not isinstance(value, dict) or value.get("format") != 1:
        raise InputInvalid(f"{path}: expected a record of format 1, found another")
    environments = value.get("environments")
    if not isinstance(environments, dict):
        raise InputInvalid(f"{path}: expected environments, found none")
    return {
        environment: {
            reference: generation
            for reference, generation in generations.items()
            if isinstance(generation, int)
        }
        for environment, generations in environments.items()
        if isinstance(generations, dict)
    }
