"""A tool in the forms that model APIs and MCP have, and back.

What each form holds, and where its rest is kept, so that a way there and back loses nothing:

================  ==========================  ========================  ==========================
the manifest's    OpenAI                      Anthropic                 MCP
================  ==========================  ========================  ==========================
name              name, [a-zA-Z0-9_-]{1,64}   name, the same to 128     name, as it is
description       description                 description               description
inputs_schema     parameters                  input_schema              inputSchema
outputs_schema    --                          --                        outputSchema
source.strict     strict                      strict                    --
mcp.tool          --                          --                        title, annotations, icons,
                                                                        execution, _meta
================  ==========================  ========================  ==========================

- Nothing else of a manifest travels: not its version, owner, checksum, signature, category or tags,
  and none of ``timeout_ms``, ``retry_attempts`` and ``circuit_breaker_threshold``. `left_out`
  lists what one tool has of these.
- A name the target does not have is mapped: other characters become ``_`` and eight digits of
  the name's SHA-256 are put behind, so that ``a.b`` and ``a_b`` stay two. A tool that was imported
  has its first name again, where that fits and leads to the tool's own name.
- ``type: object`` is written into a schema of inputs that leaves it out: Anthropic and MCP want it,
  and inputs are always an object.
- Source: OpenAI's ``FunctionDefinition`` (Chat Completions) and ``FunctionTool`` (Responses),
  Anthropic's ``ToolParam``, Model Context Protocol 2026-07-28 and 2025-11-25, ``Tool``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, Literal

from control_plane.copies import fresh
from control_plane.errors import ManifestInvalid
from control_plane.manifests.tool_names import tool_name

Format = Literal["openai", "anthropic", "mcp"]
Api = Literal["chat", "responses"]

NAMES: Final[dict[str, re.Pattern[str]]] = {
    "openai": re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    "anthropic": re.compile(r"[a-zA-Z0-9_-]{1,128}"),
    "mcp": re.compile(r"[a-zA-Z0-9_.-]{1,128}"),
}
OPENAI_TOOLS: Final = "openai-tools"
MCP_FIELDS: Final = ("title", "annotations", "icons", "execution", "_meta")

_LONGEST: Final = {"openai": 64, "anthropic": 128, "mcp": 128}
_OTHER: Final = re.compile(r"[^a-zA-Z0-9_-]")
_DIGITS: Final = 8
_ENVELOPE: Final = (
    "version", "owner", "created_at", "changelog", "deprecated", "checksum_sha256", "signature",
)  # fmt: skip
_CARRIED: Final = {
    "openai": ("description", "inputs_schema", "source"),
    "anthropic": ("description", "inputs_schema", "source"),
    "mcp": ("description", "inputs_schema", "outputs_schema", "source", "mcp"),
}
_FUNCTION: Final = frozenset(("name", "description", "parameters", "strict"))

Parts = tuple[str, dict[str, Any]]
"""A name as the other system has it, and a tool's metadata."""


def to_openai(document: Mapping[str, Any], api: Api = "chat") -> dict[str, Any]:
    """The function that Chat Completions takes, or the flat one of the Responses API.

    Raises:
        ManifestInvalid: the tool has no ``inputs_schema``.
        ValueError: for another API.
    """
    if api not in ("chat", "responses"):
        raise ValueError(f"expected the API chat or responses, found {api!r}")
    function: dict[str, Any] = {
        "name": exchanged_name(document, "openai"),
        "description": document["metadata"]["description"],
        "parameters": _inputs(document),
    }
    strict = _strict(document)
    if api == "responses":
        # There strict is the default, and a schema is rewritten for it unless this says no.
        return {"type": "function", **function, "strict": bool(strict)}
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def to_anthropic(document: Mapping[str, Any]) -> dict[str, Any]:
    """The tool that the Messages API takes.

    Raises:
        ManifestInvalid: the tool has no ``inputs_schema``.
    """
    strict = _strict(document)
    return {
        "name": exchanged_name(document, "anthropic"),
        "description": document["metadata"]["description"],
        "input_schema": _inputs(document),
        **({} if strict is None else {"strict": strict}),
    }


def to_mcp(document: Mapping[str, Any]) -> dict[str, Any]:
    """The tool as an MCP server lists it.

    Raises:
        ManifestInvalid: the tool has no ``inputs_schema``.
    """
    metadata = document["metadata"]
    tool: dict[str, Any] = {
        "name": exchanged_name(document, "mcp"),
        "description": metadata["description"],
        "inputSchema": _inputs(document),
    }
    if "outputs_schema" in metadata:
        tool["outputSchema"] = fresh(metadata["outputs_schema"])
    return {**tool, **fresh(metadata.get("mcp", {}).get("tool", {}))}


def from_openai(tool: Any) -> Parts:
    """Name and metadata of a function: bare, of Chat Completions or of the Responses API.

    Raises:
        ManifestInvalid: when it is none, with the place inside it.
    """
    function, path = _function(tool)
    _check_fields(function, (_FUNCTION | {"type"}) if not path else _FUNCTION, path)
    name = _text(function, "name", path)
    metadata = _described(function, name, path)
    # Without parameters a function takes none.
    parameters = function.get("parameters")
    metadata["inputs_schema"] = {"type": "object", "properties": {}}
    if parameters is not None:
        metadata["inputs_schema"] = _mapping(parameters, (*path, "parameters"))
    strict = function.get("strict")
    if strict is not None:
        if not isinstance(strict, bool):
            raise _refused((*path, "strict"), "true or false", strict)
        metadata["source"] = {"format": OPENAI_TOOLS, "strict": strict}
    return name, metadata


def from_anthropic(tool: Any) -> Parts:
    """Name and metadata of a tool of the Messages API.

    Raises:
        ManifestInvalid: when it is none, with the place inside it.
    """
    known = _mapping(tool, ())
    _check_fields(known, frozenset(("name", "description", "input_schema", "strict", "type")), ())
    if known.get("type", "custom") not in ("custom", None):
        raise _refused(("type",), "custom", known["type"])
    name = _text(known, "name", ())
    metadata = _described(known, name, ())
    metadata["inputs_schema"] = _mapping(known.get("input_schema"), ("input_schema",))
    if known.get("strict") is not None:
        if not isinstance(known["strict"], bool):
            raise _refused(("strict",), "true or false", known["strict"])
        metadata["source"] = {"format": "anthropic", "strict": known["strict"]}
    return name, metadata


def from_mcp(tool: Any) -> Parts:
    """Name and metadata of a tool that an MCP server lists.

    Raises:
        ManifestInvalid: when it is none, with the place inside it.
    """
    known = _mapping(tool, ())
    fields = frozenset(("name", "description", "inputSchema", "outputSchema", *MCP_FIELDS))
    _check_fields(known, fields, ())
    name = _text(known, "name", ())
    metadata = _described(known, name, ())
    metadata["inputs_schema"] = _mapping(known.get("inputSchema"), ("inputSchema",))
    if known.get("outputSchema") is not None:
        metadata["outputs_schema"] = _mapping(known["outputSchema"], ("outputSchema",))
    rest = {field: fresh(known[field]) for field in MCP_FIELDS if field in known}
    if rest:
        metadata["mcp"] = {"tool": rest}
    return name, metadata


def exchanged_name(document: Mapping[str, Any], format: Format) -> str:
    """What the tool is called in another system; see the rules above."""
    name: str = document["name"]
    first = document["metadata"].get("source", {}).get("name")
    pattern = NAMES[format]
    # A manifest could claim any first name, another tool's too: only one that leads here counts.
    if isinstance(first, str) and pattern.fullmatch(first) and tool_name(first) == name:
        return first
    if pattern.fullmatch(name):
        return name
    longest = _LONGEST[format] - _DIGITS - 1
    digits = sha256(name.encode("utf-8")).hexdigest()[:_DIGITS]
    return f"{_OTHER.sub('_', name)[:longest]}_{digits}"


def left_out(document: Mapping[str, Any], format: Format) -> tuple[str, ...]:
    """What of this tool the form does not hold, field by field.

    A name that is mapped is told with both: ``name: a.b is a_b_…``.
    """
    if format not in NAMES:
        raise ValueError(f"expected one of {', '.join(NAMES)}, found {format!r}")
    told = [field for field in _ENVELOPE if field in document]
    told += [f"metadata.{field}" for field in document["metadata"] if field not in _CARRIED[format]]
    name = exchanged_name(document, format)
    source = document["metadata"].get("source", {})
    carried = {"name"} if source.get("name") == name else set()
    carried |= set() if format == "mcp" else {"strict"}
    told += [f"metadata.source.{field}" for field in source if field not in carried]
    if name != document["name"]:
        told.append(f"name: {document['name']} is {name}")
    if "type" not in document["metadata"].get("inputs_schema", {"type": "object"}):
        told.append("metadata.inputs_schema: type object is written out")
    return tuple(told)


def _inputs(document: Mapping[str, Any]) -> dict[str, Any]:
    schema = document["metadata"].get("inputs_schema")
    if schema is None:
        what = "an MCP server" if "mcp" in document["metadata"] else "none"
        raise ManifestInvalid(
            f"tool/{document['name']}@{document['version']}: expected an inputs_schema,"
            f" found {what}",
            ("metadata", "inputs_schema"),
        )
    copy: dict[str, Any] = fresh(schema)
    return copy if "type" in copy else {"type": "object", **copy}


def _strict(document: Mapping[str, Any]) -> bool | None:
    strict = document["metadata"].get("source", {}).get("strict")
    return strict if isinstance(strict, bool) else None


def _function(tool: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    known = _mapping(tool, ())
    if known.get("type", "function") != "function":
        raise _refused(("type",), "a function, which has a schema", known["type"])
    if "function" in known:
        _check_fields(known, frozenset(("type", "function")), ())
        return _mapping(known["function"], ("function",)), ("function",)
    return known, ()


def _described(known: Mapping[str, Any], name: str, path: tuple[str, ...]) -> dict[str, Any]:
    # A tool's description is required here; where there is none, the name is all there is.
    description = known.get("description") or name
    if not isinstance(description, str):
        raise _refused((*path, "description"), "text", description)
    return {"description": description}


def _mapping(value: Any, path: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refused(path, "a mapping", value)
    return value


def _text(known: Mapping[str, Any], field: str, path: tuple[str, ...]) -> str:
    value = known.get(field)
    if not isinstance(value, str) or not value:
        raise _refused((*path, field), f"a {field}", value)
    return value


def _check_fields(known: Mapping[str, Any], fields: frozenset[str], path: tuple[str, ...]) -> None:
    for field in known:
        if field not in fields:
            raise ManifestInvalid(
                f"expected one of {', '.join(sorted(fields))}, found {field!r}", (*path, field)
            )


def _refused(path: tuple[str, ...], expected: str, found: Any) -> ManifestInvalid:
    words: dict[type, Callable[[Any], str]] = {str: repr, bool: str, type(None): lambda _: "none"}
    told = words.get(type(found), lambda value: f"a {type(value).__name__}")(found)
    return ManifestInvalid(f"expected {expected}, found {told}", path)
