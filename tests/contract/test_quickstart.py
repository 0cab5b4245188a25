"""The README's first steps outside a clone: install, init, up, kill, and watch it change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

LOOP = """\
import time
from control_plane import ControlPlaneClient
client = ControlPlaneClient()
while True:
    print(client.is_enabled("new_ai_model", tenant_id="tenant123"), flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def installed(root: Path, tmp_path: Path) -> Path:
    """The built wheel unpacked outside the clone, before everything else on the path."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    site = tmp_path / "site"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(site)
    return site


@contextmanager
def running(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, ended with everything it started."""
    process = subprocess.Popen(command, text=True, start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def read_until(process: subprocess.Popen[str], wanted: str, seconds: float = 40) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        lines.append(line.rstrip("\n"))
        if wanted in line or line == "":
            break
    assert wanted in lines[-1], lines
    return lines


def test_a_newcomer_sees_a_kill_in_a_running_program(installed: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "HOME": str(tmp_path),
        "CONTROL_PLANE_REPLICA": str(tmp_path / "replica"),
    }
    tool = [sys.executable, "-m", "control_plane"]
    where = subprocess.run(
        [sys.executable, "-c", "import control_plane; print(control_plane.__file__)"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(installed))
    subprocess.run([*tool, "init", "hello"], env=environment, cwd=tmp_path, check=True)
    hello = tmp_path / "hello"
    with running(
        [*tool, "up", "--listen", "127.0.0.1:0"],
        env=environment, cwd=hello, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as up:  # fmt: skip
        read_until(up, "ready")
        with running(
            [sys.executable, "-c", LOOP],
            env=environment, cwd=hello, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as loop:  # fmt: skip
            read_until(loop, "True")
            kill = [*tool, "kill", "new_ai_model", "-e", "development"]
            subprocess.run(kill, env=environment, cwd=hello, check=True)
            read_until(loop, "False")
