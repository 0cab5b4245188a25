"""docs/testing.md: its tests are run by pytest, as somebody who copied them would run them.

That each block runs by itself is a promise of all pages, see tests/contract.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
IS_TEST = re.compile(r"^ *(?:async )?def test_", re.MULTILINE)


def test_every_test_of_the_recipes_passes(tmp_path: Path) -> None:
    for package in ("celery", "django", "fastapi", "httpx"):
        pytest.importorskip(package)
    recipes = [block for block in BLOCKS if IS_TEST.search(block)]
    for number, recipe in enumerate(recipes):
        (tmp_path / f"test_{number}.py").write_text(recipe, encoding="utf-8")
    installed = any(p.name == "control_plane" for p in entry_points(group="pytest11"))
    # From a checkout without metadata the plugin has no entry point and is named instead.
    plugin = [] if installed else ["-p", "control_plane.testing.pytest_plugin"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert len(recipes) == 6
    # One of them is parametrized twice.
    count = sum(len(IS_TEST.findall(recipe)) for recipe in recipes) + 1
    assert re.search(rf"^{count} passed", run.stdout, re.MULTILINE), run.stdout
