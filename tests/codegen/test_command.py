"""``control-plane codegen``: from documents or replicas to two files, and back."""

from __future__ import annotations

import shlex
import shutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli import main
from control_plane.codegen.sources import seen_in_replica
from control_plane.replica.reader import open_replica
from control_plane.replica.source import current_folder
from control_plane.testing import replica

Documents = Callable[..., dict[str, Any]]
Generate = Callable[..., Path]

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


def made(path: Path) -> dict[str, Any]:
    """What a generated module holds."""
    found: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec", dont_inherit=True), found)
    return found


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and when they were written."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_module_and_stub_are_written_and_said(
    generate: Generate, documents: Documents, capsys: pytest.CaptureFixture[str]
) -> None:
    out = generate(documents("flag", "x", ON_OFF), documents("config", "c", {"values": {"a": 1}}))
    told = capsys.readouterr().out
    assert told == f"wrote {out} and {out}i: 1 flags, 2 configuration keys, 0 agents, 0 tools\n"
    assert out.stat().st_mode & 0o777 == out.with_suffix(".pyi").stat().st_mode & 0o777 == 0o644
    generate(documents("flag", "x", ON_OFF), documents("config", "c", {"values": {"a": 1}}))
    assert capsys.readouterr().out.startswith(f"up to date: {out}")


def test_check_ends_with_0_and_writes_nothing_while_both_files_are_right(
    generate: Generate, documents: Documents, tmp_path: Path
) -> None:
    generate(documents("flag", "x", ON_OFF))
    before = state(tmp_path)
    assert main(["codegen", "-f", "manifests", "--out", "features.py", "--check"]) == 0
    assert state(tmp_path) == before


@pytest.mark.parametrize("stale", ["features.py", "features.pyi"])
@pytest.mark.parametrize("gone", [True, False])
def test_check_names_the_file_and_the_cure_in_one_line(
    generate: Generate, documents: Documents, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], stale: str, gone: bool,
) -> None:  # fmt: skip
    generate(documents("flag", "x", ON_OFF))
    file = tmp_path / stale
    file.unlink() if gone else file.write_bytes(file.read_bytes() + b"# mine\n")
    before = state(tmp_path)
    capsys.readouterr()
    arguments = ["codegen", "-f", "manifests", "-e", "production", "--out", "features.py"]
    assert main([*arguments, "--check"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    cure = shlex.join(["control-plane", *arguments])
    found = "no file" if gone else "another text"
    assert (
        told.err
        == f"control-plane: {stale}: expected what manifests gives, found {found}; run '{cure}'\n"
    )
    assert state(tmp_path) == before
    assert main(arguments) == main([*arguments, "--check"]) == 0


def test_check_sees_a_deleted_flag(
    generate: Generate, documents: Documents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(documents("flag", "x", ON_OFF), documents("flag", "y", ON_OFF))
    (tmp_path / "manifests" / "flag-y.json").unlink()
    assert main(["codegen", "--out", "features.py", "--check"]) == 1
    assert "features.py and features.pyi: expected what manifests gives" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["x.pyi", "a-b.py", "class.py", "x", "3.py"])
def test_a_name_no_program_can_import_is_a_wrong_call(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["codegen", "--out", out]) == 2
    assert "expected --out as a file a program can import" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_files_and_replica_together_are_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codegen", "-f", "manifests", "--replica", "r"]) == 2
    assert "expected -f or --replica, found both" in capsys.readouterr().err


def test_a_root_without_replicas_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["codegen", "--replica", str(tmp_path)]) == 1
    assert f"{tmp_path}: expected a replica, found none" in capsys.readouterr().err
    assert main(["codegen", "--replica", str(tmp_path), "-e", "production"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_replica_gives_what_its_environment_serves(documents: Documents, tmp_path: Path) -> None:
    agent = {"description": "d", "capabilities": ["c"], "tools": [], "system_prompt": "p"}
    styles = {"variants": {"warm": "a", "brief": "b"}, "default": "warm", "disabled": "warm"}
    with replica(
        flags={"x": True, "style": styles, "gone": False},
        config={"c": {"values": {"a": 1}, "tenants": {"acme": {"b": "text"}}}},
        agents=[documents("agent", "support", agent, version="1.0.0")],
    ) as kit:
        kit.set_flag("gone", None)
        root = Path(kit.replica)
        assert main(["codegen", "--replica", str(root), "--out", "features.py"]) == 0
    module = made(tmp_path / "features.py")
    assert typing.get_args(module["BooleanFlag"]) == ("x",)
    assert typing.get_args(module["FlagName"]) == ("style", "x")
    assert typing.get_args(module["StyleVariant"]) == ("brief", "warm")
    assert typing.get_args(module["ConfigKey"]) == ("c", "c.a", "c.b")
    assert module["CConfig"].__required_keys__ == {"a"}
    assert typing.get_args(module["AgentName"]) == ("support",)


def test_a_daemons_replica_has_the_schemas_of_its_configuration(tmp_path: Path) -> None:
    kept = Path(__file__).parents[1] / "fixtures" / "0.1" / "replica" / "production"
    shutil.copytree(kept, tmp_path / "replica" / "production", symlinks=True)
    opened = open_replica(current_folder(str(tmp_path / "replica" / "production")))
    try:
        seen = seen_in_replica(opened)
    finally:
        opened.close()
    schema, trees = seen.sections["database"]
    assert schema == {"type": "object", "properties": {"url": {"type": "string"}}}
    assert all("url" in tree for tree in trees)
    assert len(seen.flags) > 50


def test_json_tells_the_files_and_counts(
    generate: Generate, documents: Documents, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    generate(documents("flag", "x", ON_OFF), options=("--json",))
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["flags"], len(told["written"])) == (1, 1, 2)
