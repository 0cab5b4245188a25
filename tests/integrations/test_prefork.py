"""A client that was opened before a server forked answers in its workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from control_plane.testing import ReplicaKit

Ask = Callable[[str], tuple[int, list[bool]]]


@pytest.fixture
def ask(kit: ReplicaKit, tmp_path: Path) -> Iterator[Ask]:
    """Asks a server with two workers, for a tenant: (the worker's process, its answers)."""
    command = [sys.executable, "-m", "gunicorn", "django_project", "--preload", "--workers", "2"]
    environment = {
        **os.environ, "CONTROL_PLANE_REPLICA": kit.replica, "CONTROL_PLANE_ENVIRONMENT": "test",
        "HOME": str(tmp_path),  # gunicorn leaves a socket there
    }  # fmt: skip
    server = subprocess.Popen(
        [*command, "--bind", "127.0.0.1:0"],
        cwd=Path(__file__).parent, env=environment, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert server.stderr is not None
    said = ""
    for line in server.stderr:
        said += line
        if "Listening at" in line:
            break
    address = re.search(r"http://\S+", said)
    assert address is not None, said

    def asked(tenant: str) -> tuple[int, list[bool]]:
        with urlopen(Request(address[0], headers={"x-tenant": tenant}), timeout=20) as response:
            found = json.load(response)
        return found["process"], found["flags"]

    yield asked
    os.killpg(server.pid, signal.SIGKILL)
    server.communicate(timeout=20)


def test_workers_of_a_server_that_preloads_answer_and_see_changes(
    kit: ReplicaKit, ask: Ask
) -> None:
    def of_both() -> dict[int, list[bool]]:
        found: dict[int, list[bool]] = {}
        for _ in range(200):
            process, flags = ask("acme")
            found[process] = flags
            if len(found) == 2:
                break
        return found

    before = of_both()
    kit.set_flag("x", False)
    after = of_both()
    assert list(before.values()) == [[True, True]] * 2
    assert after == {process: [False, True] for process in before}
    assert ask("other")[1] == [False, False]
