"""What generated code may name: every flag, configuration key, agent and tool, with its type.

- A name counts when one of the environments has it. A flag has the variants of all of them; its
  values' type is that of all its values together.
- A flag is a boolean, string, whole number, number, or JSON flag (object or array). One that
  environments disagree about counts as each type it has.
- A configuration key is a path of keys joined by dots, as ``get`` takes it; a key that itself
  holds a dot is reached by tuple only and stands in its section's type alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from control_plane.codegen.shapes import (
    Either,
    Fields,
    Open,
    Plain,
    Shape,
    either,
    observed,
    shape_of,
)

BOOLEAN: Final = "boolean"
STRING: Final = "string"
INTEGER: Final = "integer"
NUMBER: Final = "number"
JSON: Final = "json"
FLAG_TYPES: Final = (BOOLEAN, STRING, INTEGER, NUMBER, JSON)

_TYPES: Final = {"bool": BOOLEAN, "str": STRING, "int": INTEGER, "float": NUMBER}


@dataclass(slots=True)
class Seen:
    """What one environment shows.

    ``flags`` has the variants of each; ``sections`` has the schema of each configuration namespace
    (None without one) and its merged values, the base's and each tenant's.
    """

    flags: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    deprecated: set[str] = field(default_factory=set)
    sections: dict[str, tuple[Any, Sequence[Any]]] = field(default_factory=dict)
    agents: set[str] = field(default_factory=set)
    tools: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag as code may use it; ``type`` is one of FLAG_TYPES."""

    name: str
    type: str
    variants: tuple[str, ...]
    value: Shape
    deprecated: bool


@dataclass(frozen=True, slots=True)
class Description:
    """All that generated code may name, each part by name."""

    flags: tuple[Flag, ...]
    sections: Mapping[str, Shape]
    keys: Mapping[str, Shape]
    agents: tuple[str, ...]
    tools: tuple[str, ...]


def described(environments: Sequence[Seen]) -> Description:
    """What these environments show, together."""
    sections = {name: _section(name, environments) for name in _names(environments, "sections")}
    keys = {key: shape for name in sections for key, shape in _keys(name, sections[name], ())}
    return Description(
        flags=tuple(
            flag
            for name in _names(environments, "flags")
            for flag in _flags(name, [each for each in environments if name in each.flags])
        ),
        sections=sections,
        keys=dict(sorted(keys.items())),
        agents=_names(environments, "agents"),
        tools=_names(environments, "tools"),
    )


def _names(environments: Sequence[Seen], what: str) -> tuple[str, ...]:
    return tuple(sorted({name for each in environments for name in getattr(each, what)}))


def _flags(name: str, environments: Sequence[Seen]) -> Iterator[Flag]:
    """The flag of that name; several where environments disagree about its type."""
    variants = sorted({variant for each in environments for variant in each.flags[name]})
    values = [value for each in environments for value in each.flags[name].values()]
    deprecated = any(name in each.deprecated for each in environments)
    shape = observed(values)
    members = shape.members if isinstance(shape, Either) else (shape,)
    types = [_TYPES.get(each.name, JSON) if isinstance(each, Plain) else JSON for each in members]
    for kind in dict.fromkeys(types):
        value = either(each for each, its in zip(members, types, strict=True) if its == kind)
        yield Flag(name, kind, tuple(variants), value, deprecated)


def _section(name: str, environments: Sequence[Seen]) -> Shape:
    having = [each.sections[name] for each in environments if name in each.sections]
    values = [tree for _, trees in having for tree in trees]
    schemas: list[Any] = []
    for schema, _ in having:
        if schema not in schemas:
            schemas.append(schema)
    return either(shape_of(schema, values) for schema in schemas)


def _keys(path: str, shape: Shape, inside: tuple[Fields, ...]) -> Iterator[tuple[str, Shape]]:
    """The key of a place and those below it, as `get` takes them."""
    yield path, shape
    below: dict[str, list[Shape]] = {}
    for each in shape.members if isinstance(shape, Either) else (shape,):
        if isinstance(each, Fields) and each not in inside:
            inside = (*inside, each)
            for key, member in each.fields.items():
                below.setdefault(key, []).append(member)
        elif isinstance(each, Open):
            for key in each.known:
                below.setdefault(key, []).append(each.value)
    for key, members in below.items():
        if "." not in key:
            yield from _keys(f"{path}.{key}", either(members), inside)
