"""A project that runs, and the command line as a person mistypes it, told without its accidents."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli import main
from control_plane.cli.project import create_project
from control_plane.cli.services import start_daemon, start_store
from control_plane.cli.settings import Project

# What differs from run to run: folders, digests and key ids, ages and process ids.
ACCIDENTS = (
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "HEX"),
    (re.compile(r"\b\d+ s old"), "N s old"),
    (re.compile(r"\b(process|pid) \d+"), r"\1 N"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"generation \d+"), "generation N"),
)


class Desk:
    """A folder with a person's files, beside a project whose store and daemon run."""

    def __init__(self, project: Project, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.project = project
        self.folder = folder
        self._capsys = capsys

    def write(self, name: str, text: str) -> str:
        """A file of that name; its path as it is typed."""
        (self.folder / name).write_text(text, encoding="utf-8")
        return str(self.folder / name)

    def ran(self, *arguments: str, cwd: Path | None = None) -> str:
        """What a run in the project prints, and its exit code, as the file has it."""
        self._capsys.readouterr()
        with contextlib.chdir(cwd or self.project.folder):
            code = main(list(arguments))
        captured = self._capsys.readouterr()
        typed = " ".join(f"'{word}'" if " " in word or not word else word for word in arguments)
        return self.told(f"$ control-plane {typed}\n{captured.out}{captured.err}exit {code}\n")

    def must(self, *arguments: str) -> None:
        """A run that is no mistake."""
        with contextlib.chdir(self.project.folder):
            assert main(list(arguments)) == 0, self._capsys.readouterr().err

    def told(self, text: str) -> str:
        """The text without what differs from run to run."""
        for path, name in (
            (self.project.folder, "PROJECT"), (self.project.folder.parent, "HOST"),
            (self.folder, "DESK"),
        ):  # fmt: skip
            text = text.replace(str(path), name)
        for pattern, name in ACCIDENTS:
            text = pattern.sub(name, text)
        return text


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """A project for production and staging whose store and daemon run."""
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    socket = f"unix:{folder / 'store.sock'}"
    made = create_project(
        folder / "project",
        installation="acme",
        environments=["production", "staging"],
        store=socket,
        replica=str(folder / "replica"),
    )
    with (
        (folder / "log").open("wb") as log,
        start_store(made, socket, say=lambda line: None, stderr=log)[0],
        start_daemon(
            made, socket, folder / "replica", ["production"], say=lambda line: None, stderr=log
        ),
    ):
        yield made
    shutil.rmtree(folder)


@pytest.fixture
def desk(
    project: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    """A desk of its own for each test; the machine's settings stay outside."""
    for name in [name for name in os.environ if name.startswith("CONTROL_PLANE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return Desk(project, tmp_path, capsys)


Mistake = Callable[[Desk], str]
