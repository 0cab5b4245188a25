"""What function definitions of OpenAI's form are as tools of ours; rows in, documents out.

A row is a function: bare (``{name, description, parameters}``), or as Chat Completions or the
Responses API take it. Of each:

- ``parameters`` is ``inputs_schema``, in JSON Schema's words (see `schema_dialect`).
- A name outside our pattern is mapped (see `tool_names`), the original is ``source.name``. A name
  that becomes another tool's is refused.
- These definitions have no versions. The first of a name is ``0.0.1``; the same name with the same
  content is the same tool, with other content it is ``0.0.2``, ``0.0.3``, … in the file's order.

Whatever the manifest of a tool refuses is a problem of its row; each row has one at most.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import canonical
from control_plane.manifests.imported import Imported, Problem
from control_plane.manifests.rows import Rows
from control_plane.manifests.schema_dialect import Translation
from control_plane.manifests.tool_names import tool_name
from control_plane.manifests.validation import validate
from control_plane.registries.exchange import OPENAI_TOOLS, from_openai


def import_openai_tools(source: Rows) -> Imported:
    """The tools of these functions, a version for each content of a name."""
    importing = _Tools()
    problems: list[Problem] = []
    for number, row in source.value.items():
        try:
            importing.add(row)
        except ManifestInvalid as error:
            problems.append(Problem((number, *error.path), f"{_called(row)}: {error}"))
    return Imported(tuple(importing.documents), tuple(problems), notes=importing.notes())


def _called(row: Any) -> str:
    """What a row calls itself, for the line that refuses it."""
    function = row.get("function", row) if isinstance(row, dict) else {}
    name = function.get("name") if isinstance(function, dict) else None
    return f"tool {name}" if isinstance(name, str) and name else "tool"


class _Tools:
    """The documents so far, in the order of the rows."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self._originals: dict[str, str] = {}
        self._contents: dict[str, set[bytes]] = {}
        self._told: Counter[str] = Counter()

    def add(self, row: Any) -> None:
        original, metadata = from_openai(row)
        name = tool_name(original)
        if name is None:
            raise ManifestInvalid(f"expected a name of letters and digits, found {original!r}")
        first = self._originals.get(name, original)
        if first != original:
            raise ManifestInvalid(f"expected a name no other tool has, found {name} of {first!r}")
        # Counted only for a row that becomes a document.
        translation = Translation()
        metadata["inputs_schema"] = translation.translated(metadata["inputs_schema"])
        metadata["source"] = {"format": OPENAI_TOOLS, **metadata.get("source", {})}
        if name != original:
            metadata["source"]["name"] = original
        content = canonical(metadata)
        versions = self._contents.get(name, set())
        if content in versions:
            self._told["rows repeat what an earlier row says"] += 1
            return
        document: dict[str, Any] = {
            "kind": "tool",
            "name": name,
            "version": f"0.0.{len(versions) + 1}",
            "metadata": metadata,
        }
        validate(document)
        self._contents.setdefault(name, versions).add(content)
        if name != original and name not in self._originals:
            self._told["names are mapped; metadata.source.name has the original"] += 1
        self._originals[name] = original
        self._told.update(translation.told)
        self.documents.append(document)

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{number} {text}" for text, number in sorted(self._told.items()))
