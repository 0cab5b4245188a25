"""Generated code, and what type checkers say of a program that uses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli import main
from control_plane.codegen.description import described
from control_plane.codegen.sources import seen_in_documents
from control_plane.codegen.writing import module_text, stub_text

Generate = Callable[..., Path]
Reported = Callable[[str], set[int]]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own settings stay outside."""
    for name in [name for name in os.environ if name.startswith("CONTROL_PLANE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def document(kind: str, name: str, metadata: Mapping[str, Any], **envelope: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "metadata": dict(metadata), **envelope}


@pytest.fixture
def documents() -> Callable[..., dict[str, Any]]:
    """Make one document: kind, name, metadata and fields of the envelope."""
    return document


@pytest.fixture
def texts() -> Callable[..., tuple[str, str]]:
    """Module and stub of these documents."""

    def made(*given: Mapping[str, Any], environments: tuple[str, ...] = ()) -> tuple[str, str]:
        found = described(seen_in_documents(given, environments))
        return module_text(found), stub_text(found)

    return made


@pytest.fixture
def generate(tmp_path: Path) -> Generate:
    """Write documents into ``manifests`` and generate ``features.py`` of them, by the command."""

    def run(*given: Mapping[str, Any], options: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "manifests"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for each in given:
            (folder / f"{each['kind']}-{each['name']}.json").write_text(json.dumps(each))
        out = tmp_path / "features.py"
        assert main(["codegen", "-f", str(folder), "--out", str(out), *options]) == 0
        return out

    return run


@pytest.fixture
def mypy_reports(tmp_path: Path) -> Reported:
    """The lines of ``program.py`` in which mypy --strict finds an error."""

    def run(program: str) -> set[int]:
        (tmp_path / "program.py").write_text(program)
        command = [
            sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context",
            "--enable-error-code", "deprecated", "program.py", "features.pyi",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stderr == "", done.stderr
        found = re.findall(r"^([^:]+):(\d+): error: ", done.stdout, re.MULTILINE)
        assert {file for file, _ in found} <= {"program.py"}, done.stdout
        return {int(line) for _, line in found}

    return run


@pytest.fixture
def pyright_reports(tmp_path: Path) -> Reported:
    """The lines of ``program.py`` in which pyright finds an error."""

    def run(program: str) -> set[int]:
        (tmp_path / "program.py").write_text(program)
        settings: dict[str, Any] = {
            "include": ["program.py", "features.pyi"],
            "reportDeprecated": "error",
        }
        settings |= {"typeCheckingMode": "strict"}
        (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
        command = [
            sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable,
            "-p", str(tmp_path),
        ]  # fmt: skip
        # Nothing is fetched and no newer version is told of, whatever the machine has.
        alone = {
            "PYRIGHT_PYTHON_CACHE_DIR": str(tmp_path / "cache"),
            "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
        }
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, **alone},
        )  # fmt: skip
        told = json.loads(done.stdout)["generalDiagnostics"]
        errors = [each for each in told if each["severity"] == "error"]
        assert {Path(each["file"]).name for each in errors} <= {"program.py"}, done.stdout
        return {each["range"]["start"]["line"] + 1 for each in errors}

    return run
