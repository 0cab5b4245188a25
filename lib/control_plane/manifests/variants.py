"""Values of another system's flags as variants: names for them, and a second one where one is all.

A flag of ours has 2 to 20 variants of one JSON type; what other systems serve has any number and
no names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from control_plane.feature_flags.definition import MIN_VARIANTS, TYPES

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SPARES: Final[dict[str, tuple[Any, ...]]] = {
    "bool": (False, True),
    "string": ("", "none"),
    "number": (0, 1),
    "object": ({}, {"none": True}),
    "array": ([], ["none"]),
}
SPARE: Final = "unused"
"""The variant beside an only one; nothing serves it."""


def is_variant_name(text: str) -> bool:
    """Whether a variant may have that name."""
    return _NAME.fullmatch(text) is not None


def type_of(values: Iterable[Any]) -> str | None:
    """The one JSON type of these values, in words; None where there are several, or none."""
    kinds = {TYPES.get(value.__class__) for value in values}
    return kinds.pop() if len(kinds) == 1 else None


def identity(value: Any) -> str:
    """A text that equal JSON values of one type share; 1 and 1.0 are equal."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def variant_names(values: Iterable[Any]) -> dict[str, str]:
    """The name of each value, by its identity, in the order they come."""
    names: dict[str, str] = {}
    for value in values:
        key = identity(value)
        if key not in names:
            names[key] = _name(value, set(names.values()), len(names) + 1)
    return names


def _name(value: Any, taken: set[str], place: int) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = identity(value) if isinstance(value, (int, float)) else value
    if isinstance(text, str) and is_variant_name(text) and text not in taken:
        return text
    number = place
    while f"v{number}" in taken:
        number += 1
    return f"v{number}"


def completed(variants: dict[str, Any]) -> dict[str, Any]:
    """These variants, and an unused one beside a single one."""
    if len(variants) >= MIN_VARIANTS:
        return variants
    ((name, value),) = variants.items()
    kind = TYPES[value.__class__]
    spare = next(other for other in _SPARES[kind] if identity(other) != identity(value))
    other = ("on" if spare else "off") if kind == "bool" else SPARE
    return {name: value, other if other != name else f"{SPARE}-2": spare}
