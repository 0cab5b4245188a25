"""The README's first steps outside a clone: install, init, up, kill, and watch it change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def installed(root: Path, tmp_path: Path) -> Path:
    """The built wheel unpacked outside the clone, before everything else on the path."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    site = tmp_path / "site"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(site)
    return site


def hello_of(readme: Path) -> str:
    """The README's program, as it stands there."""
    match = re.search(r"^```python\n(# hello\.py\n.*?)^```$", readme.read_text(), re.M | re.S)
    assert match is not None
    return match[1]


@pytest.mark.timeout(120)
def test_a_newcomer_sees_a_kill_in_a_running_program(
    root: Path, installed: Path, tmp_path: Path, running: Callable[..., object]
) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "HOME": str(tmp_path),
        "CONTROL_PLANE_REPLICA": str(tmp_path / "replica"),
    }
    tool = [sys.executable, "-m", "control_plane"]
    where = [sys.executable, "-c", "import control_plane; print(control_plane.__file__)"]
    place = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, check=True)
    assert place.stdout.decode().startswith(str(installed))
    subprocess.run([*tool, "init", "hello"], env=environment, cwd=tmp_path, check=True)
    hello = tmp_path / "hello"
    (hello / "hello.py").write_text(hello_of(root / "README.md"))
    up = [*tool, "up", "--listen", "127.0.0.1:0"]
    program = [sys.executable, "hello.py"]
    with running(up, hello, environment) as services:  # type: ignore[attr-defined]
        services.until("ready")
        with running(program, hello, environment) as reader:  # type: ignore[attr-defined]
            reader.until("True")
            kill = [*tool, "kill", "new_ai_model", "-e", "development"]
            subprocess.run(kill, env=environment, cwd=hello, check=True)
            assert set(reader.until("False")[:-1]) <= {"True"}
