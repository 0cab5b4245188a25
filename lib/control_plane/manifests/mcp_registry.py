"""What the servers of an MCP registry are as tools of ours; rows in, documents out.

The file is a list of servers, or what a registry's API answers: ``{"servers": [{"server": …}]}``.
Each server becomes a tool with ``metadata.mcp.server``, the whole entry as it was, and without
``inputs_schema``: what a server can do is known only when it is asked. So such a tool is listed and
pinned by version and digest, and cannot be bound.

- The name and the version are mapped where they have to be (see `tool_names`); the originals are
  ``source.name`` and ``source.version``. The version is ``version``, or ``version_detail.version``
  of the registry's first format.
- A server without name or version is refused, and one whose name and version come to another's
  with other content. The same again is the same tool.
- A server that says nothing of itself is described by its name: a tool's description is required.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from control_plane.errors import ManifestInvalid
from control_plane.manifests.imported import Imported, Problem
from control_plane.manifests.rows import Rows
from control_plane.manifests.tool_names import tool_name, tool_version
from control_plane.manifests.validation import validate

MCP_REGISTRY: Final = "mcp-registry"


def import_mcp_registry(source: Rows) -> Imported:
    """The servers of a registry as tools."""
    documents: dict[tuple[str, str], dict[str, Any]] = {}
    originals: dict[str, str] = {}
    problems: list[Problem] = []
    told: Counter[str] = Counter()
    for number, row in source.value.items():
        try:
            document, original = _document(row)
            _place(document, original, documents, originals)
        except ManifestInvalid as error:
            problems.append(Problem((number, *error.path), f"{_called(row)}: {error}"))
            continue
        told.update(_told(document))
    notes = tuple(f"{number} {text}" for text, number in sorted(told.items()))
    return Imported(tuple(documents.values()), tuple(problems), notes=notes)


def _called(row: Any) -> str:
    name = _server(row).get("name")
    return f"server {name}" if isinstance(name, str) and name else "server"


def _server(row: Any) -> dict[str, Any]:
    entry = row.get("server", row) if isinstance(row, dict) else None
    return entry if isinstance(entry, dict) else {}


def _document(row: Any) -> tuple[dict[str, Any], str]:
    """The tool, and its name as the registry has it."""
    server = _server(row)
    original = _text(server.get("name"), "name", ("name",))
    detail = server.get("version_detail")
    place = ("version",) if "version" in server else ("version_detail", "version")
    written = server.get("version", detail.get("version") if isinstance(detail, dict) else None)
    theirs = _text(written, "version", place)
    name, version = tool_name(original), tool_version(theirs)
    if name is None:
        raise ManifestInvalid("expected a name of letters and digits, found another", ("name",))
    if version is None:
        raise ManifestInvalid("expected a version of at most 64 characters, found another", place)
    document: dict[str, Any] = {
        "kind": "tool",
        "name": name,
        "version": version,
        "metadata": {
            "description": server.get("description") or original,
            "source": {
                "format": MCP_REGISTRY,
                **({"name": original} if name != original else {}),
                **({"version": theirs} if version != theirs else {}),
            },
            "mcp": {"server": server},
        },
    }
    validate(document)
    return document, original


def _place(
    document: dict[str, Any],
    original: str,
    documents: dict[tuple[str, str], dict[str, Any]],
    originals: dict[str, str],
) -> None:
    """Keep a document, unless its name or its version are another's.

    Raises:
        ManifestInvalid: saying whose.
    """
    name, version = document["name"], document["version"]
    first = originals.setdefault(name, original)
    if first != original:
        raise ManifestInvalid(
            f"expected a name no other server has, found {name} of {first!r}", ("name",)
        )
    if documents.setdefault((name, version), document) != document:
        raise ManifestInvalid(f"expected one server as {name}@{version}, found another before")


def _told(document: dict[str, Any]) -> list[str]:
    metadata = document["metadata"]
    told = []
    for field in ("name", "version"):
        if field in metadata["source"]:
            told.append(f"{field}s are mapped; metadata.source.{field} has the original")
    if not metadata["mcp"]["server"].get("description"):
        told.append("servers say nothing of themselves; their name describes them")
    return told


def _text(value: Any, field: str, path: tuple[str, ...]) -> str:
    if not isinstance(value, str) or not value:
        found = "none" if not value else f"a {type(value).__name__}"
        raise ManifestInvalid(f"expected a {field}, found {found}", path)
    return value
