"""Without its framework an integration says in one line what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
import {module}
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("control_plane.integrations.celery", "celery", "celery"),
        ("control_plane.integrations.django", "django", "django"),
        ("control_plane.integrations.django.middleware", "django", "django"),
        ("control_plane.integrations.fastapi", "fastapi", "fastapi"),
    ],
)
def test_a_missing_framework_is_named_with_its_extra(module: str, package: str, extra: str) -> None:
    command = [sys.executable, "-c", WITHOUT.format(module=module), package]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        f"control_plane.errors.MissingExtra: expected the package {package}, found none; "
        f"pip install 'control-plane[{extra}]'"
    )


@pytest.mark.parametrize("module", ["asgi", "current"])
def test_what_needs_no_framework_loads_none(module: str) -> None:
    script = (
        f"import sys, control_plane.integrations.{module}\n"
        "print({'celery', 'django', 'fastapi', 'starlette', 'asyncio'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
