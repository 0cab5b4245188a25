"""The README's first steps outside a clone: install, init, up, kill, and watch it change."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def installed(root: Path, tmp_path: Path) -> Path:
    """The commands of a new environment into which the built wheel went with everything."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    commands = tmp_path / "venv" / "bin"
    wheel = f"{next(tmp_path.glob('*.whl'))}[all]"
    pip = [str(commands / "pip"), "install", "--quiet", "--disable-pip-version-check", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return commands


def hello_of(readme: Path) -> str:
    """The README's program, as it stands there."""
    match = re.search(r"^```python\n(# hello\.py\n.*?)^```$", readme.read_text(), re.M | re.S)
    assert match is not None
    return match[1]


@pytest.mark.timeout(300)
def test_a_newcomer_sees_a_kill_in_a_running_program(
    root: Path, installed: Path, tmp_path: Path, running: Callable[..., object]
) -> None:
    environment = {
        "PATH": f"{installed}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CONTROL_PLANE_REPLICA": str(tmp_path / "replica"),
    }
    tool, python = str(installed / "control-plane"), str(installed / "python")
    subprocess.run([tool, "init", "hello"], env=environment, cwd=tmp_path, check=True)
    hello = tmp_path / "hello"
    (hello / "hello.py").write_text(hello_of(root / "README.md"))
    with running([tool, "up", "--listen", "127.0.0.1:0"], hello, environment) as services:  # type: ignore[attr-defined]
        services.until("ready")
        with running([python, "hello.py"], hello, environment) as reader:  # type: ignore[attr-defined]
            reader.until("True")
            kill = [tool, "kill", "new_ai_model", "-e", "development"]
            subprocess.run(kill, env=environment, cwd=hello, check=True)
            assert set(reader.until("False")[:-1]) <= {"True"}
