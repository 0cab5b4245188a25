"""Runs the command in processes of its own, each to be killed at a named effect.

Everything is imported once; each process is a fork that wraps its effects, calls the command's
``main`` with its arguments and ends with its exit code. A line of JSON asks for a process or waits
for one, a line of JSON answers. The processes end with this one.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

from effects import Effects

from control_plane.cli import main as command
from control_plane.replica.writer import ReplicaWriter
from control_plane_daemon.loop import EnvironmentLoop

_PR_SET_PDEATHSIG = 1

for name in (
    "cli.keys", "cli.logs", "cli.pulling", "cli.signing", "manifests.validation",
    "publish.keyfiles", "publish.publisher", "publish.static_log",
):  # fmt: skip
    importlib.import_module(f"control_plane.{name}")
for name in ("daemon.command", "daemon.embedded", "store.command"):
    importlib.import_module(f"control_plane_{name}")


def run(asked: dict[str, Any]) -> None:
    """Become the process that was asked for."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    os.umask(asked["umask"])
    for place, value in asked["tuned"].items():
        module, name = place.rsplit(".", 1)
        setattr(importlib.import_module(module), name, value)
    ReplicaWriter.open.__func__.__kwdefaults__["grace_seconds"] = asked["grace_seconds"]
    EnvironmentLoop.__init__.__kwdefaults__["patience_seconds"] = 0.0
    at = None if asked["at"] is None else (asked["at"][0], asked["at"][1])
    Effects(asked["root"], asked["trace"], at, asked["when"]).install()
    code = 1
    try:
        code = command(asked["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Start a process, or wait for one."""
    if "pid" in asked:
        found, status = os.waitpid(asked["pid"], asked["options"])
        return {"code": os.waitstatus_to_exitcode(status) if found else None}
    pid = os.fork()
    if pid == 0:
        run(asked)
    return {"pid": pid}


for line in iter(sys.stdin.readline, ""):
    print(json.dumps(answer(json.loads(line))), flush=True)
