"""A fork while another thread is importing what the reader put off importing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control_plane.forking import PUT_OFF

PROCESS = Path(__file__).with_name("forking_process.py")


@pytest.mark.parametrize("module", ["control_plane.usage.file", "msgpack", "hashlib"])
def test_a_child_never_waits_for_an_import_of_its_parents_thread(
    node: Any, tmp_path: Path, module: str
) -> None:
    node.flag("new_ai_model", True)
    usage = tmp_path / "usage"
    usage.mkdir(mode=0o1777)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", PROCESS, node.root, module],
        env={**os.environ, "CONTROL_PLANE_USAGE": str(usage)},
        timeout=20,
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.parametrize("module", PUT_OFF)
def test_what_is_imported_before_a_fork_is_there(module: str) -> None:
    __import__(module)


def test_nothing_that_hooks_into_forks_comes_into_being_before_one() -> None:
    done = subprocess.run(
        [
            sys.executable, "-c",
            "from control_plane.forking import end_imports; import os, sys; end_imports();"
            "sys.exit(bool({'logging', 'concurrent.futures.thread'} & set(sys.modules)))",
        ],
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
