"""Tool schemas from the field: what is JSON Schema passes whole, what is not is told apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import parse
from control_plane.manifests.documents import blob, checksum, sealed
from control_plane.manifests.loader import load_yaml
from control_plane.manifests.validation import validate, validate_blob

DIALECT = {"dict": "object", "float": "number", "tuple": "array"}


def translated(part: Any) -> Any:
    """The schema with the words of that dialect in JSON Schema's."""
    if isinstance(part, list):
        return [translated(item) for item in part]
    if not isinstance(part, dict):
        return part
    whole = {key: translated(value) for key, value in part.items()}
    word = whole.get("type")
    if word == "any":
        del whole["type"]
    elif isinstance(word, str):
        whole["type"] = DIALECT.get(word, word)
    return whole


def manifest(row: dict[str, Any], parameters: Any) -> dict[str, Any]:
    return {
        "kind": "tool",
        "name": re.sub(r"[^a-z0-9_.-]", "_", row["name"].lower()).lstrip("_.-"),
        "version": "0.0.1",
        "metadata": {
            "description": row["description"] or "no description",
            "inputs_schema": parameters,
        },
    }


def refusal(tool: dict[str, Any]) -> ManifestInvalid | None:
    try:
        validate(tool)
    except ManifestInvalid as error:
        return error
    return None


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as lines:
        loaded: list[Any] = [parse(line, what="row") for line in lines]
    return loaded


def test_another_dialect_is_refused_with_the_place(tool_schemas: Path) -> None:
    refusals = [refusal(manifest(row, row["parameters"])) for row in rows(tool_schemas)]
    refused = [error for error in refusals if error is not None]
    assert (len(refusals), len(refused)) == (1170, 1170)
    assert {error.path[:2] for error in refused} == {("metadata", "inputs_schema")}
    assert not any("\n" in str(error) for error in refused)


def test_translated_they_are_valid_and_their_bytes_travel(tool_schemas: Path) -> None:
    found = rows(tool_schemas)
    assert len(found) == 1170
    for row in found:
        tool = sealed(manifest(row, translated(row["parameters"])), "key", bytes(64))
        data = blob(tool)
        again = validate_blob("tool", str(tool["name"]), "0.0.1", data, checksum(tool))
        assert blob(again) == data
        assert load_yaml(json.dumps(tool, ensure_ascii=False).encode(), what="row") == again
