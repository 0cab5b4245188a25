"""What the contract tests look at: the repository, the imports of a file, a project that runs."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = [sys.executable, "-m", "control_plane"]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def imported() -> Callable[[Path], set[str]]:
    """Every module a file imports absolutely, at any depth of its code, as written."""

    def names(file: Path) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        return found

    return names


class Running:
    """A process in a session of its own and the lines it prints."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def until(self, wanted: str, seconds: float = 40) -> list[str]:
        """Every line up to the first that holds ``wanted``."""
        assert self.process.stdout is not None
        lines: list[str] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            line = self.process.stdout.readline()
            lines.append(line.rstrip("\n"))
            if wanted in line or line == "":
                break
        assert wanted in lines[-1], lines
        return lines

    def end(self) -> None:
        """End the process and everything it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture(scope="session")
def running() -> Callable[..., object]:
    """A context manager that starts a command and ends it with everything it started."""

    @contextmanager
    def start(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Running]:
        process = Running(command, folder, environment)
        try:
            yield process
        finally:
            process.end()

    return start


@dataclass
class Project:
    """A project folder whose store and daemon run, and the variables its programs see."""

    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, running: Callable[..., object]
) -> Iterator[Project]:
    """What `init` and `up` leave on the repository's own manifests, in three environments."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    names = ["development", "staging", "production"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "CONTROL_PLANE_REPLICA": str(folder / "replica"),
        "CONTROL_PLANE_ENVIRONMENT": "production",
    }
    chosen = [word for name in names for word in ("-e", name)]
    init = [*TOOL, "init", str(folder), "--manifests", str(folder / "manifests"), *chosen]
    subprocess.run(init, env=environment, cwd=folder, check=True, capture_output=True)
    up = [*TOOL, "up", "--listen", "127.0.0.1:0"]
    with running(up, folder, environment) as process:  # type: ignore[attr-defined]
        process.until("ready")
        yield Project(folder, environment)
