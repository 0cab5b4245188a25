"""Who may import whom, and what an application pays for reading."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

HOMES = {
    "control_plane": "lib",
    "control_plane_store": "store",
    "control_plane_daemon": "daemon",
}
Imported = Callable[[Path], set[str]]

# The modules that decide: no file, no socket, no clock, no environment.
DECIDING = [
    "lib/control_plane/log",
    "lib/control_plane/trust",
    "lib/control_plane/feature_flags",
    "lib/control_plane/configs/layers.py",
    "lib/control_plane/manifests/documents.py",
    "lib/control_plane/manifests/environments.py",
    "lib/control_plane/manifests/json_schema.py",
    "lib/control_plane/manifests/mcp_registry.py",
    "lib/control_plane/manifests/openai_tools.py",
    "lib/control_plane/manifests/schema_dialect.py",
    "lib/control_plane/manifests/tool_names.py",
    "lib/control_plane/manifests/validation.py",
    "lib/control_plane/registries/exchange.py",
    "lib/control_plane/registries/compatibility.py",
    "lib/control_plane/registries/containment.py",
    "lib/control_plane/registries/locking.py",
    "lib/control_plane/registries/schema_comparison.py",
    "lib/control_plane/registries/schema_places.py",
    "lib/control_plane/replica/apply.py",
    "lib/control_plane/replica/compile.py",
    "lib/control_plane/replica/format.py",
    "lib/control_plane/replica/held.py",
    "lib/control_plane/replica/plan.py",
    "lib/control_plane/replica/resolution.py",
    "store/control_plane_store/admission.py",
]
OUTSIDE_WORLD = {
    "aiohttp", "asyncio", "http", "io", "mmap", "os", "pathlib", "shutil", "signal", "socket",
    "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib", "lmdb", "sqlalchemy",
}  # fmt: skip


@pytest.mark.parametrize("package", HOMES)
def test_services_import_the_library_and_never_each_other(
    package: str, root: Path, imported: Imported
) -> None:
    files = list((root / HOMES[package] / package).rglob("*.py"))
    assert files, f"no source found for {package}"
    for file in files:
        packages = {name.partition(".")[0] for name in imported(file)}
        strangers = packages & set(HOMES) - {"control_plane", package}
        assert not strangers, f"{file.relative_to(root)} imports {sorted(strangers)}"


@pytest.mark.parametrize("place", DECIDING)
def test_deciding_modules_do_no_input_or_output(place: str, root: Path, imported: Imported) -> None:
    path = root / place
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    for file in files:
        outside = {name.partition(".")[0] for name in imported(file)} & OUTSIDE_WORLD
        assert not outside, f"{file.relative_to(root)} imports {sorted(outside)}"
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"open", "print", "input"}, file.relative_to(root)


def test_only_the_command_line_and_the_defaults_read_the_environment(root: Path) -> None:
    for home, package in ((HOMES[name], name) for name in HOMES):
        for file in (root / home / package).rglob("*.py"):
            place = file.relative_to(root / home / package)
            if (
                place.parts[0] in ("cli", "__main__.py", "defaults.py")
                or place.name == "command.py"
            ):
                continue
            source = file.read_text(encoding="utf-8")
            for word in ("os.environ", "os.getenv", "sys.argv"):
                assert word not in source, f"{file.relative_to(root)} reads {word}"


def test_no_module_starts_an_import_cycle_with_itself(root: Path, imported: Imported) -> None:
    """Imports at the top of modules form no cycle; an import inside a function breaks none."""
    graph = {}
    for package, home in HOMES.items():
        for file in (root / home / package).rglob("*.py"):
            parts = list(file.relative_to(root / home).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            graph[name] = _top_level_imports(file)
    for start in graph:
        seen: set[str] = set()
        stack = [name for name in graph[start] if name in graph]
        while stack:
            name = stack.pop()
            assert name != start, f"{start} imports itself through {sorted(seen)}"
            if name not in seen:
                seen.add(name)
                stack.extend(other for other in graph[name] if other in graph)


def _top_level_imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def fresh(script: str) -> set[str]:
    """The modules a script adds to those of a fresh interpreter."""
    command = [sys.executable, "-c", f"{script}\nimport sys; print(*sys.modules)"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split()) - set(bare.stdout.split())


def test_an_application_loads_three_dependencies_and_no_event_loop(tmp_path: Path) -> None:
    loaded = fresh(
        "from control_plane.feature_flags.flag_manager import FeatureFlagManager\n"
        f"FeatureFlagManager(replica={str(tmp_path)!r}, environment='test').is_enabled('x')"
    )
    owners = packages_distributions()
    tops = {name.partition(".")[0] for name in loaded}
    distributions = {owner for name in tops for owner in owners.get(name, ())}
    assert distributions <= {"control-plane", "lmdb", "msgpack", "xxhash"}


def test_nothing_heavy_is_loaded_on_the_way_to_a_first_evaluation() -> None:
    from control_plane.testing import replica

    rules = {
        "variants": {"on": True, "off": False},
        "default": "off",
        "rules": [{"name": "r", "when": {"tenant_id": "t"}, "serve": "on"}],
    }
    with replica(flags={"x": rules}) as client:
        place, environment = client.replica, client.environment
        loaded = fresh(
            "from control_plane import ControlPlaneClient\n"
            f"client = ControlPlaneClient(replica={str(place)!r}, environment={environment!r})\n"
            "assert client.is_enabled('x', tenant_id='t') is True"
        )
    heavy = {
        "asyncio",
        "ssl",
        "typing",
        "json",
        "logging",
        "dataclasses",
        "pathlib",
        "re",
        "socket",
    }
    assert not loaded & heavy
