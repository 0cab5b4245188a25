"""Tools of other systems all the way: imported, signed, published, synced and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane import RegistryManager
from control_plane.manifests.mcp_registry import import_mcp_registry
from control_plane.manifests.openai_tools import import_openai_tools
from control_plane.manifests.rows import load_rows

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FUNCTIONS = [
    {"name": "Add_Alarm", "parameters": {"type": "dict", "required": ["time"]}},
    {"name": "Add_Alarm", "parameters": {"type": "dict", "required": ["at"]}},
    {"name": "now"},
]
SERVERS = [
    {"name": "io.github.a/b", "description": "", "version_detail": {"version": "0.0.1-seed"}},
    {"name": "", "version_detail": {"version": ""}},
]


def travelled(governed: Any, functions: Path, servers: Path, folder: Path) -> dict[str, Any]:
    """What came of two files on their way to a node, counted at every station."""
    told = {}
    for name, file in (("openai-tools", functions), ("mcp-registry", servers)):
        ran = governed("import", name, file, "--out", folder / name, "--partial", "--json")
        told[name] = {key: len(value) for key, value in ran.json.items() if key in _LISTS}
        signed = folder / f"{name}-signed"
        told[name]["signed"] = len(governed.done("sign", folder / name, "--out", signed)["signed"])
        governed.done("apply", "-f", signed, "-e", "production", "--reason", "imported")
    generation = governed.history().position.generation
    governed.start_node("n")
    governed.held("n", generation)
    return told


_LISTS = ("written", "problems", "changes")


def documents(functions: Path, servers: Path) -> list[dict[str, Any]]:
    found = import_openai_tools(load_rows(functions)).documents
    return [*found, *import_mcp_registry(load_rows(servers)).documents]


def read_back(root: Path, expected: list[dict[str, Any]]) -> None:
    """Every document is there, signed, and its own."""
    with RegistryManager(replica=root, environment="production") as registry:
        for document in expected:
            found = registry.get_tool(document["name"], document["version"]).to_dict()
            assert len(found.pop("checksum_sha256")) == 64
            assert found.pop("signature").startswith("ed25519:")
            assert found == document


def test_imported_tools_reach_a_node_signed_and_whole(governed: Any, tmp_path: Path) -> None:
    functions, servers = tmp_path / "tools.jsonl", tmp_path / "servers.json"
    functions.write_text("\n".join(map(json.dumps, FUNCTIONS)), encoding="utf-8")
    servers.write_text(json.dumps(SERVERS), encoding="utf-8")
    assert travelled(governed, functions, servers, tmp_path) == {
        "openai-tools": {"written": 3, "problems": 0, "changes": 0, "signed": 3},
        "mcp-registry": {"written": 1, "problems": 1, "changes": 0, "signed": 1},
    }
    expected = documents(functions, servers)
    read_back(governed.root("n"), expected)
    with RegistryManager(replica=governed.root("n"), environment="production") as registry:
        # Of several versions the highest is the stable one.
        alarm = registry.get_tool("add_alarm")
        assert (alarm.version, alarm.to_openai()["function"]["name"]) == ("0.0.2", "Add_Alarm")


@pytest.mark.skipif(not DATA.exists(), reason=f"needs the shared data sets in {DATA}")
def test_the_fields_own_tools_reach_a_node_signed_and_whole(governed: Any, tmp_path: Path) -> None:
    functions, servers = DATA / "tool_schemas.jsonl", DATA / "mcp_servers.json"
    assert travelled(governed, functions, servers, tmp_path) == {
        "openai-tools": {"written": 1167, "problems": 0, "changes": 0, "signed": 1167},
        "mcp-registry": {"written": 464, "problems": 7, "changes": 0, "signed": 464},
    }
    expected = documents(functions, servers)
    read_back(governed.root("n"), expected)
    with RegistryManager(replica=governed.root("n"), environment="production") as registry:
        listed = registry.list_tools()
        assert len(listed) == 711 + 464
        assert sum(len(each.versions) for each in listed) == 1167 + 464
