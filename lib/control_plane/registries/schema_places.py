"""A JSON Schema 2020-12 as places: what a reference leads to, and what one place says of a value.

A place is a subschema as it stands in the document, known by its identity. Whether a value fits a
place is asked of the engine that judges inputs and outputs elsewhere, never decided here: the
document is put into another under an id of its own, so that its references mean what they did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from control_plane.manifests.json_schema import CompiledSchema, compile_schema

_ROOT: Final = "urn:control-plane:compared"

Place = Mapping[str, Any] | bool
"""A subschema."""


class Places:
    """One schema document.

    Raises:
        ManifestInvalid: it breaks the rules for schemas of manifests.
    """

    def __init__(self, root: Any) -> None:
        self.root: Place = root
        whole = compile_schema(root)
        self.judgeable = not whole.multiplies
        """Whether values can be judged place by place in bounded time."""
        self._pointers: dict[int, str] = {}
        self._texts: dict[int, str] = {}
        self._engines: dict[int, CompiledSchema] = {}
        self._note(root, "")

    def resolve(self, reference: str) -> Place:
        """What ``#/…`` leads to; the document's rules have seen that it stays inside."""
        found: Any = self.root
        for step in reference.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
        return found if isinstance(found, (bool, Mapping)) else True

    def accepts(self, place: Place, value: Any) -> bool:
        """Whether a value fits a place of this document."""
        if isinstance(place, bool):
            return place
        return self.engine(place).first_finding(value) is None

    def engine(self, place: Mapping[str, Any]) -> CompiledSchema:
        """The engine that judges one place."""
        if id(place) not in self._engines:
            root = {**self.root, "$id": _ROOT} if isinstance(self.root, Mapping) else {}
            self._engines[id(place)] = CompiledSchema(
                {
                    "$id": f"{_ROOT}:place",
                    "$defs": {"whole": root},
                    "$ref": f"{_ROOT}#{self._pointers[id(place)]}",
                }
            )
        return self._engines[id(place)]

    def text(self, place: Any) -> str:
        """A place in one spelling: 1, 1.0 and true stay three."""
        if not isinstance(place, (dict, list)):
            return json.dumps(place)
        if id(place) not in self._texts:
            self._texts[id(place)] = json.dumps(place, sort_keys=True)
        return self._texts[id(place)]

    def _note(self, top: Any, at: str) -> None:
        pending = [(top, at)]
        while pending:
            value, pointer = pending.pop()
            if isinstance(value, (dict, list)):
                # Two places with one identity hold the same; either pointer will do.
                self._pointers[id(value)] = pointer
                steps = value.items() if isinstance(value, dict) else enumerate(value)
                pending.extend((inner, f"{pointer}/{_step(step)}") for step, inner in steps)


@lru_cache(maxsize=1024)
def name_matches(pattern: str, name: str) -> bool:
    """Whether a pattern of ``patternProperties`` is found in a name, as the engine finds it."""
    return CompiledSchema({"pattern": pattern}).first_finding(name) is None


def references(value: Any) -> set[str]:
    """Every reference in a part of a schema; one that is data is among them."""
    found: set[str] = set()
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            for key in ("$ref", "$dynamicRef"):
                if isinstance(part.get(key), str):
                    found.add(part[key])
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return found


def alike(one: Places, place: Any, other: Places, beside: Any) -> bool:
    """Whether two parts say the same: equal text, and equal text behind all their references."""
    pending: list[tuple[Any, Any]] = [(place, beside)]
    seen: set[str] = set()
    while pending:
        mine, yours = pending.pop()
        if one.text(mine) != other.text(yours):
            return False
        for reference in references(mine) - seen:
            seen.add(reference)
            pending.append((_behind(one, reference), _behind(other, reference)))
    return True


def _behind(places: Places, reference: str) -> Any:
    try:
        return places.resolve(reference)
    except (KeyError, IndexError, ValueError, TypeError):
        # Data under a key called $ref: whatever it is, it was compared as text.
        return True


def _step(step: str | int) -> str:
    """One step of a JSON pointer (RFC 6901) as part of a fragment (RFC 3986)."""
    text = str(step).replace("~", "~0").replace("/", "~1")
    return "".join(
        character if character.isascii() and (character.isalnum() or character in "-._~") else coded
        for character in text
        for coded in ["".join(f"%{byte:02X}" for byte in character.encode())]
    )
