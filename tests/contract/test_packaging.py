"""What is built and installed: wheel contents, extras, commands."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest

PACKAGES = ("control_plane", "control_plane_store", "control_plane_daemon")
EXTRAS = ["all", "cli", "daemon", "publish", "store"]


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `pip wheel` would build it, with the build backend that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_a_bare_install_needs_three_packages() -> None:
    bare = [need for need in requires("control-plane") or [] if "extra ==" not in need]
    assert sorted(need.partition(">")[0].partition("<")[0] for need in bare) == [
        "lmdb",
        "msgpack",
        "xxhash",
    ]


def test_the_extras_are_these() -> None:
    assert sorted(distribution("control-plane").metadata.get_all("Provides-Extra") or []) == EXTRAS


def test_there_is_one_command() -> None:
    scripts = distribution("control-plane").entry_points.select(group="console_scripts")
    assert [script.name for script in scripts] == ["control-plane"]


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Path, root: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = set()
    for package, home in zip(PACKAGES, ("lib", "store", "daemon"), strict=True):
        for file in (root / home / package).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                expected.add(str(file.relative_to(root / home)))
    assert held == expected
    assert {"control_plane/py.typed", "control_plane/schemas/flag.schema.json"} <= held


def python_of(place: Path, *install: str) -> Path:
    """A new virtual environment with these things installed."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *install]
    subprocess.run(pip, check=True, capture_output=True)
    return python


@pytest.mark.timeout(300)
def test_a_bare_install_reads_and_names_the_extra_for_everything_else(
    wheel: Path, tmp_path: Path
) -> None:
    python = python_of(tmp_path / "bare", str(wheel))
    script = (
        "from control_plane.testing import replica\n"
        "with replica(flags={'x': True}, config={'ai': {'model': 'm'}}) as client:\n"
        "    print(client.is_enabled('x'), client.config.get('ai.model'))\n"
    )
    run = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("True m\n", "")
    command = subprocess.run(
        [str(python.parent / "control-plane"), "get", "flag/x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert command.returncode == 3
    assert (
        command.stderr == "control-plane: expected the package click, found none; "
        "pip install 'control-plane[cli]'\n"
    )
