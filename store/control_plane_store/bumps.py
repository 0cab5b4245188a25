"""A tool's version number says what became of its schemas: the store lets none in that hides it.

A set is judged with the versions that stand in the log and those it brings, without the versions it
deletes and without yanked ones. Bytes that were published already are not judged again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from control_plane.log.canonical import Json, parse
from control_plane.log.fold import Head
from control_plane.log.statements import Change, Key
from control_plane.registries.compatibility import check_bump

KIND = "tool"

Versions = Callable[[str, str], Mapping[Key, tuple[Head, bytes]]]
"""All heads of one name, with the canonical bytes of the changes that made them."""


def check_bumps(
    changes: Collection[Change],
    documents: Mapping[Key, Json],
    versions: Versions,
    blob: Callable[[str], bytes | None],
) -> None:
    """Refuse a set with a version of a tool whose number does not fit its schemas.

    Raises:
        ManifestInvalid: naming the neighbouring version, the place and the reason.
    """
    for name in sorted({key.name for key in documents if key.kind == KIND}):
        heads = versions(KIND, name)
        standing = _standing(heads, blob)
        gone = [change.key for change in changes if change.action == "delete"]
        mine = {key: _document(documents[key]) for key in documents if key[:2] == (KIND, name)}
        made = [_change(data) for key, (_, data) in heads.items() if key.part.startswith("s/")]
        yanked = _yanked([*made, *changes], name)
        after = {key: each for key, each in {**standing, **mine}.items() if key not in gone}
        published = [each for each in after.values() if each["version"] not in yanked]
        for key, document in mine.items():
            head = heads.get(key)
            if head is None or not head[0].live:
                check_bump(document, published)


def _standing(
    heads: Mapping[Key, tuple[Head, bytes]], blob: Callable[[str], bytes | None]
) -> dict[Key, dict[str, Any]]:
    found = {}
    for key, (head, _) in heads.items():
        data = blob(head.digest) if key.part.startswith("v/") and head.live else None
        if data is not None:
            found[key] = _document(parse(data, what=str(key)))
    return found


def _yanked(changes: Iterable[Change], name: str) -> set[str | None]:
    """The versions that are yanked after these changes, the last of which counts."""
    said = {
        change.version: change.status
        for change in changes
        if (change.kind, change.name, change.action) == (KIND, name, "status")
    }
    return {version for version, status in said.items() if status == "yanked"}


def _change(data: bytes) -> Change:
    return Change.from_json(parse(data, what="change"))


def _document(value: Json) -> dict[str, Any]:
    assert isinstance(value, dict)  # it was validated before it came here or into the log
    return value
