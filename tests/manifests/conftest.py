"""Documents to start from, and where the repository's own are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLAG = {
    "kind": "flag",
    "name": "x",
    "metadata": {"variants": {"on": True, "off": False}, "default": "off"},
}
SEGMENT = {"kind": "segment", "name": "s", "metadata": {"members": ["a", "b"]}}
CONFIG = {
    "kind": "config",
    "name": "database",
    "metadata": {
        "schema": {
            "type": "object",
            "required": ["url"],
            "properties": {
                "url": {"type": "string"},
                "pool": {"type": "object", "properties": {"size": {"type": "integer"}}},
            },
        },
        "values": {"url": "localhost", "pool": {"size": 5}},
        "environments": {"production": {"url": "db.internal"}},
        "tenants": {"acme": {"pool": {"size": 80}}},
    },
}
AGENT = {
    "kind": "agent",
    "name": "a",
    "version": "1.0.0",
    "metadata": {"description": "answers", "tools": ["crm_tool>=1.2,<2"]},
}
TOOL = {
    "kind": "tool",
    "name": "crm_tool",
    "version": "1.2.0",
    "metadata": {"description": "asks", "inputs_schema": {"type": "object"}},
}
_BY_KIND: dict[str, dict[str, Any]] = {
    "flag": FLAG,
    "segment": SEGMENT,
    "config": CONFIG,
    "agent": AGENT,
    "tool": TOOL,
}

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def manifest() -> Make:
    """A valid document of a kind, with these fields of its metadata put or (None) left out."""

    def make(kind: str, **metadata: Any) -> dict[str, Any]:
        document = copy.deepcopy(_BY_KIND[kind])
        document["metadata"].update(metadata)
        return document

    return make


@pytest.fixture
def shipped() -> Path:
    """The repository's ``manifests/``."""
    return ROOT / "manifests"


@pytest.fixture
def tool_schemas() -> Path:
    """1,170 tool schemas from the field, where a checkout of the shared data is beside this one."""
    path = ROOT.parent / "shared" / "data" / "tool_schemas.jsonl"
    if not path.exists():
        pytest.skip(f"needs the shared data set at {path}")
    return path
