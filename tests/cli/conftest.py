"""A project with a real store process, and the command line called in this process or its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli import main
from control_plane.cli.children import Child
from control_plane.cli.project import create_project
from control_plane.cli.services import start_store
from control_plane.cli.settings import Project
from control_plane.publish.keyfiles import create_trust


@dataclass(frozen=True)
class Ran:
    """How a run of the command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.out)
        assert value["format"] == 1
        assert isinstance(value, dict)
        return value


Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own settings stay outside."""
    for name in [name for name in os.environ if name.startswith("CONTROL_PLANE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run the command in this process, in a folder of its own unless ``cwd`` names one."""

    def run(*arguments: object, cwd: Path | None = None) -> Ran:
        capsys.readouterr()
        with contextlib.chdir(cwd or tmp_path):
            code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Cli:
    """Run the command as a process, as a shell does."""

    def run(*arguments: object, cwd: Path | None = None, **variables: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "control_plane", *map(str, arguments)],
            cwd=cwd or tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def short_path() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def project(short_path: Path) -> Iterator[Project]:
    """A project for production and staging whose store runs."""
    socket = f"unix:{short_path / 'store.sock'}"
    made = create_project(
        short_path / "project",
        installation="acme",
        environments=["production", "staging"],
        store=socket,
        replica=str(short_path / "replica"),
    )
    with (short_path / "store.log").open("wb") as log:
        store, _ = start_store(made, socket, say=lambda line: None, stderr=log)
        with store:
            yield made


@dataclass(frozen=True)
class TwoPersons:
    """A store whose changes need two signatures, and what to call it with."""

    store: str
    token: Path
    keys: Path
    store_process: Child

    def options(self, *holders: str) -> list[str]:
        """The options of a command that these people run."""
        options = ["--store", self.store, "--token-file", str(self.token)]
        for holder in holders:
            options += ["--key", str(self.keys / f"{holder}.pem")]
        return options


@pytest.fixture(scope="module")
def two_persons(short_path: Path) -> Iterator[TwoPersons]:
    """Alice and Bob must both sign what goes into production; either may kill."""
    folder = short_path / "two"
    trust = create_trust(
        folder, installation="acme", environments=["production"], authors=["alice", "bob"],
        threshold=2,
    )  # fmt: skip
    database = folder / "store.sqlite3"
    arguments = [
        "-m", "control_plane", "store", "init", "--database", str(database),
        "--trust", str(trust.trust_directory), "--keys", str(trust.keys_directory),
        "--enrolment", str(folder / "trust.json"), "--tokens", str(folder / "tokens"),
    ]  # fmt: skip
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    url = f"unix:{folder / 'store.sock'}"
    service = [
        "-m", "control_plane", "store", "--database", str(database),
        "--keys", str(trust.keys_directory), "--listen", url,
    ]  # fmt: skip
    with (
        (folder / "store.log").open("wb") as log,
        Child("store", service, stderr=log) as process,
    ):
        process.line("store ready at ")
        token = folder / "tokens" / "submit.token"
        yield TwoPersons(url, token, trust.keys_directory, process)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a document as a YAML file and return its path."""

    def written(document: Mapping[str, Any], folder: Path | None = None) -> Path:
        import yaml

        path = (folder or tmp_path) / f"{document['kind']}-{document['name']}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False))
        return path

    return written


@pytest.fixture
def flag() -> Callable[..., dict[str, Any]]:
    """A boolean flag's document."""

    def made(name: str, **metadata: Any) -> dict[str, Any]:
        variants = {"on": True, "off": False}
        return {
            "kind": "flag",
            "name": name,
            "metadata": {"variants": variants, "default": "off", **metadata},
        }

    return made


@pytest.fixture
def tool() -> Callable[..., dict[str, Any]]:
    """A tool's document."""

    def made(name: str, version: str = "1.0.0", **metadata: Any) -> dict[str, Any]:
        return {
            "kind": "tool",
            "name": name,
            "version": version,
            "metadata": {"description": "a tool", "inputs_schema": {"type": "object"}, **metadata},
        }

    return made
