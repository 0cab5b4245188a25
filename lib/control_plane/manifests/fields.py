"""Where two documents differ, field by field.

A field is a path of keys, as people write it (``metadata.tools``). Mappings are looked into; a list
is one value, because its places have no names. Checksum, signature and the version itself are no
differences: they always differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from control_plane.log.canonical import canonical
from control_plane.manifests.documents import SEALS
from control_plane.shown import shown

ABSENT: Final = object()
"""In place of a value that one of the two does not have."""

MAX_SHOWN = 60
_BEFORE_A_CHANGE = 15


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field; ``before`` or ``after`` is ``ABSENT`` where only the other document has it."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        before, after = _written(self.before), _written(self.after)
        start = _shared(before, after)
        return f"{self.path}: {_part(before, start)} → {_part(after, start)}"


def field_differences(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[FieldDifference, ...]:
    """The fields in which ``after`` differs from ``before``, in order of their paths."""
    return tuple(_differences(_bare(before), _bare(after), ""))


def _bare(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in document.items() if name not in SEALS and name != "version"
    }


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], place: str
) -> Iterator[FieldDifference]:
    for name in sorted({*before, *after}):
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        path = f"{place}.{name}" if place else name
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, path)
        elif old is ABSENT or new is ABSENT or canonical(old) != canonical(new):
            yield FieldDifference(path, old, new)


def _written(value: Any) -> str:
    return "none" if value is ABSENT else canonical(value).decode()


def _shared(before: str, after: str) -> int:
    """Where two long texts begin to differ; a prompt is best shown from there."""
    if max(len(before), len(after)) <= MAX_SHOWN:
        return 0
    same = next(
        (at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]),
        min(len(before), len(after)),
    )
    return max(same - _BEFORE_A_CHANGE, 0)


def _part(text: str, start: int) -> str:
    shortened = text[start : start + MAX_SHOWN]
    before = "…" if start else ""
    behind = "…" if start + MAX_SHOWN < len(text) else ""
    return f"{before}{shown(shortened)}{behind}"
