"""What is built and installed: wheel contents, extras, commands."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest

from control_plane.testing import replica

PACKAGES = ("control_plane", "control_plane_store", "control_plane_daemon", "control_plane_sidecar")
EXTRAS = [
    "all", "bench", "celery", "cli", "contracts", "daemon", "django", "fastapi", "flagd",
    "openfeature", "opentelemetry", "publish", "pydantic", "sidecar", "store",
]  # fmt: skip


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
    for package, home in zip(PACKAGES, ("lib", "store", "daemon", "sidecar"), strict=True):
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


READ = """
import sys
from control_plane import ControlPlaneClient
with ControlPlaneClient(replica=sys.argv[1], environment=sys.argv[2]) as client:
    agent = client.registry.get_agent("helper", version="1.0.0")
    print(client.is_enabled("x"), client.config.get("ai.model"), agent.temperature, [*agent.tools])
"""
HELPER = {
    "kind": "agent", "name": "helper", "version": "1.0.0", "owner": "team",
    "metadata": {
        "description": "helps", "system_prompt": "help", "temperature": 0.5, "tools": ["crm_tool"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which only the wheel was installed."""
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return place / "bin" / "python"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_a_bare_install_reads_flags_configuration_and_registry(bare: Path) -> None:
    with replica(flags={"x": True}, config={"ai": {"model": "m"}}, agents=[HELPER]) as kit:
        read = run(bare, "-c", READ, kit.replica, kit.environment)
    assert (read.stdout, read.stderr) == ("True m 0.5 ['crm_tool']\n", "")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("script", "package", "extra"),
    [
        (
            "from control_plane.__main__ import main; sys.exit(main(['get', 'flag/x']))",
            "click",
            "cli",
        ),
        ("from control_plane.publish import Publisher", "rfc8785", "publish"),
        (
            "from control_plane.testing import replica\nwith replica(flags={'x': True}): pass",
            "rfc8785",
            "publish",
        ),
    ],
)
def test_a_bare_install_names_the_extra_it_lacks(
    bare: Path, script: str, package: str, extra: str
) -> None:
    found = run(bare, "-c", f"import sys\n{script}")
    assert found.returncode in (1, 3)
    assert found.stderr.splitlines()[-1].endswith(
        f": expected the package {package}, found none; pip install 'control-plane[{extra}]'"
    )
