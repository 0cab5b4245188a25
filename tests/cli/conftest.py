"""A project with a real store process, and the command line called in this process or its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli import main
from control_plane.cli.children import Child
from control_plane.cli.project import create_project
from control_plane.cli.services import start_store
from control_plane.cli.settings import Project, read_project
from control_plane.errors import ControlPlaneError
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import create_trust
from control_plane.publish.replay import History, replay
from control_plane.replica.reader import open_replica
from control_plane.replica.source import current_folder
from control_plane.replica.verify import verify as verify_replica
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.state import restore


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


@dataclass
class Governed:
    """A project of a test's own, its store, and nodes that follow it."""

    project: Project
    run: Cli
    store: Child | None = None
    nodes: list[Child] = field(default_factory=list)

    @property
    def private(self) -> Path:
        return self.project.private

    def __call__(self, *arguments: object) -> Ran:
        """Run the command in the project's folder."""
        return self.run(*arguments, cwd=self.project.folder)

    def done(self, *arguments: object) -> dict[str, Any]:
        """What a command that must succeed says with --json."""
        ran = self(*arguments, "--json")
        assert ran.code == 0, ran.err
        return ran.json

    def start_store(self) -> None:
        with (self.project.folder / "store.log").open("ab") as log:
            self.store, _ = start_store(
                self.project, self.project.store, say=lambda line: None, stderr=log
            )

    def stop_store(self) -> None:
        assert self.store is not None
        self.store.stop()

    def start_node(self, name: str, trust: Path | None = None, *, wait: bool = True) -> Child:
        """A daemon for production with a replica of its own."""
        arguments = [
            "-m", "control_plane", "daemon", "--store", self.project.store, "-e", "production",
            "--token-file", str(self.private / "tokens" / "follow.token"),
            "--trust", str(trust or self.private / "trust.json"), "--replica", str(self.root(name)),
        ]  # fmt: skip
        with (self.project.folder / f"{name}.log").open("ab") as log:
            node = Child(name, arguments, stderr=log)
        self.nodes.append(node)
        if wait:
            node.line("daemon ready: ")
        return node

    def root(self, name: str) -> Path:
        """A node's replica root."""
        return self.project.folder / name

    def held(self, name: str, generation: int) -> dict[str, Any]:
        """A node's heads, to the byte, and its policy, once it stands at a generation."""
        folder = str(self.root(name) / "production")
        for _ in range(600):
            with contextlib.suppress(ControlPlaneError, OSError):
                if (found := _held(folder))["generation"] == generation:
                    report = verify_replica(folder)
                    assert report.problems == ()
                    return found
            time.sleep(0.05)
        raise AssertionError((self.project.folder / f"{name}.log").read_text())

    def history(self, environment: str = "production") -> History:
        """The environment's log, verified from its first entry with the project's trust.json."""
        token = (self.private / "tokens" / "follow.token").read_text().strip()
        enrolment = Enrolment.decode((self.private / "trust.json").read_bytes())
        with StoreClient(self.project.store, token) as client:
            return replay(client, environment, enrolment)


def _held(folder: str) -> dict[str, Any]:
    replica = open_replica(current_folder(folder))
    try:
        heads, log = replica.database("heads"), replica.database("log")
        with replica.view() as view:
            kept = dict(view.scan(b"", limit=1 << 30, database=log))
            return {
                "generation": view.generation,
                "heads": dict(view.scan(b"", limit=1 << 30, database=heads)),
                "policy": restore(kept[b"root"], kept[b"targets"]).digest,
            }
    finally:
        replica.close()


@pytest.fixture(scope="session")
def _untouched() -> Iterator[Path]:
    """A project whose store never ran; tests copy it."""
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    create_project(folder / "p", installation="acme", environments=["production", "staging"])
    yield folder / "p"
    shutil.rmtree(folder)


@pytest.fixture
def governed(_untouched: Path, cli: Cli) -> Iterator[Governed]:
    """A new project for production and staging with its store running."""
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    shutil.copytree(_untouched, folder / "p")
    config = folder / "p" / ".control-plane" / "config.json"
    said = json.loads(config.read_text())
    said |= {"store": f"unix:{folder / 's'}", "replica": str(folder / "p" / "live")}
    config.write_text(json.dumps(said))
    made = Governed(read_project(folder / "p"), cli)
    made.start_store()
    yield made
    for child in (*made.nodes, made.store):
        if child is not None:
            child.stop()
    shutil.rmtree(folder)


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
