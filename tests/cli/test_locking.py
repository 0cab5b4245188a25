"""``lock`` and ``compatibility`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli import main


def tool(folder: Path, version: str, inputs: Any) -> str:
    path = folder / f"{version}.json"
    metadata = {"description": "d", "inputs_schema": inputs}
    path.write_text(
        json.dumps({"kind": "tool", "name": "t", "version": version, "metadata": metadata})
    )
    return str(path)


def test_two_versions_are_compared_with_place_and_bump(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tool(tmp_path, "1.0.0", {"properties": {"id": {"type": "number"}}})
    new = tool(tmp_path, "1.1.0", {"properties": {"id": {"type": "integer"}}})
    assert main(["compatibility", old, new]) == 1
    said = capsys.readouterr().out
    assert "inputs breaking: expected a whole number" in said
    assert "at id" in said
    assert said.endswith("breaking: the version needs a major step\n")
    assert main(["compatibility", new, old, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["needed"] == "minor"


def test_a_lock_of_something_else_than_an_agent_is_a_wrong_call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["lock", "create", "tool/x", "--out", str(tmp_path / "lock")]) == 2
    assert "expected agent/NAME" in capsys.readouterr().err


def test_a_missing_lock_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    replica = str(tmp_path)
    assert (
        main(["lock", "verify", str(tmp_path / "no"), "--replica", replica, "-e", "staging"]) == 1
    )
    assert capsys.readouterr().err.count("\n") == 1
