"""``import mcp-registry``: servers in, tools out that are listed and pinned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from control_plane.cli.failures import run
from control_plane.errors import ManifestInvalid
from control_plane.manifests.imported import Imported
from control_plane.manifests.mcp_registry import import_mcp_registry
from control_plane.manifests.rows import load_rows
from control_plane.manifests.tool_names import tool_name, tool_version
from control_plane.manifests.validation import validate
from control_plane.testing import replica

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "mcp_servers.json"
SERVER: dict[str, Any] = {
    "id": "4e9c",
    "name": "io.github.apify/actors-mcp-server",
    "description": "runs actors",
    "version_detail": {"version": "0.0.1-seed", "is_latest": True},
    "packages": [{"registry_name": "npm", "name": "@apify/actors", "version": "0.0.46"}],
}


def imported(folder: Path, rows: Any) -> Imported:
    file = folder / "servers.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return import_mcp_registry(load_rows(file, under=("servers",)))


def test_a_server_is_a_tool_that_keeps_all_it_was(tmp_path: Path) -> None:
    (document,) = imported(tmp_path, [SERVER]).documents
    assert document["name"] == "io.github.apify_actors-mcp-server"
    assert document["version"] == "0.0.1+seed"
    assert document["metadata"] == {
        "description": "runs actors",
        "source": {
            "format": "mcp-registry",
            "name": "io.github.apify/actors-mcp-server",
            "version": "0.0.1-seed",
        },
        "mcp": {"server": SERVER},
    }


def test_the_registrys_newer_answer_is_read_too(tmp_path: Path) -> None:
    newer = {"name": "com.example/x", "description": "x", "version": "1.0.2"}
    rows = {"servers": [{"server": newer, "_meta": {}}], "metadata": {"count": 1}}
    (document,) = imported(tmp_path, rows).documents
    assert (document["name"], document["version"]) == ("com.example_x", "1.0.2")
    assert document["metadata"]["mcp"]["server"] == newer


def test_a_server_without_name_or_version_is_refused_with_its_row(tmp_path: Path) -> None:
    rows = [SERVER, {**SERVER, "name": ""}, {"name": "x"}, 7]
    found = imported(tmp_path, rows)
    assert len(found.documents) == 1
    assert [(problem.path, problem.text) for problem in found.problems] == [
        ((2, "name"), "server: expected a name, found none"),
        ((3, "version_detail", "version"), "server x: expected a version, found none"),
        ((4, "name"), "server: expected a name, found none"),
    ]


def test_names_and_versions_that_meet_are_refused_and_repeats_are_one(tmp_path: Path) -> None:
    rows = [
        SERVER,
        SERVER,
        {**SERVER, "description": "other"},
        {**SERVER, "name": "io.github.apify.actors-mcp-server".replace(".actors", "_actors")},
    ]
    found = imported(tmp_path, rows)
    assert len(found.documents) == 1
    assert [problem.path[0] for problem in found.problems] == [3, 4]


def test_a_server_is_listed_and_pinned_and_not_bound(tmp_path: Path) -> None:
    (document,) = imported(tmp_path, [SERVER]).documents
    agent = {"name": "a", "metadata": {"description": "d", "tools": [document["name"]]}}
    with replica(tools=[document], agents=[agent]) as kit:
        (listed,) = kit.registry.list_tools()
        assert listed.versions == ("0.0.1+seed",)
        tool = kit.registry.get_tool(document["name"])
        assert tool.metadata["mcp"]["server"] == SERVER
        assert kit.registry.get_agent("a").tools[tool.name].digest == tool.digest
        with pytest.raises(ManifestInvalid, match="found an MCP server; connect to it"):
            kit.registry.bind(document["name"], print)


@given(st.text(max_size=80))
def test_whatever_a_version_is_ours_is_one_or_none(original: str) -> None:
    version = tool_version(original)
    if version is not None:
        metadata = {"description": "d"}
        validate({"kind": "tool", "name": "x", "version": version, "metadata": metadata})
        assert tool_version(version) == version


@given(st.text(max_size=200))
def test_whatever_a_name_is_ours_is_one_or_none(original: str) -> None:
    name = tool_name(original)
    assert name is None or tool_name(name) == name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("0.0.1-seed", "0.0.1+seed"),
        ("1.2", "1.2.0"),
        ("v1.2.3", "1.2.3"),
        ("1.0.0-beta.1", "1.0.0b1"),
        ("1.2.3.4", "1.2.3+4"),
        ("latest", "0.0.0+latest"),
        ("2025-05-16", "2025.0.0+5.16"),
        ("1!2.0.dev3", "1!2.0.0.dev3"),
        ("", None),
        ("1." + "9" * 80, None),
    ],
)
def test_versions_become_ours(theirs: str, ours: str | None) -> None:
    assert tool_version(theirs) == ours
    assert ours is None or str(Version(ours)) == ours


def test_the_command_writes_the_servers_and_names_the_rows_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "servers.json"
    file.write_text(json.dumps([SERVER, {**SERVER, "name": ""}]), encoding="utf-8")
    out = tmp_path / "m"
    command = ["import", "mcp-registry", str(file), "--out", str(out), "--partial", "--json"]
    assert run(command) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == [f"{file}: row 2: name: server: expected a name, found none"]
    assert [path.name for path in (out / "tools").iterdir()] == [
        "io.github.apify_actors-mcp-server@0.0.1+seed.yaml"
    ]


@pytest.mark.skipif(not REAL.exists(), reason=f"needs the shared data set at {REAL}")
def test_the_registry_of_the_field_imports_but_for_seven_rows() -> None:
    found = import_mcp_registry(load_rows(REAL))
    assert [problem.path[0] for problem in found.problems] == [16, 26, 109, 133, 189, 208, 407]
    assert len(found.documents) == 464
    assert {document["version"] for document in found.documents} == {"0.0.1+seed"}
    assert found.notes == (
        "464 names are mapped; metadata.source.name has the original",
        "72 servers say nothing of themselves; their name describes them",
        "464 versions are mapped; metadata.source.version has the original",
    )
