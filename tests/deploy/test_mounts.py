"""A node's folder as a pod has it: another mount, read-only, under another user."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.testing import ReplicaKit, replica

USER = 20001
IN_A_POD = """
mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && exec "$3" -c "$4" "$2" "$5"
"""
READER = """
import os, sys, threading
from control_plane import ControlPlaneClient
import control_plane.configs.watch, control_plane.feature_flags.flag_manager  # while still root
root, user = sys.argv[1], int(sys.argv[2])
changed = threading.Event()
with ControlPlaneClient(root) as warm:
    warm.flags.is_enabled("on"), warm.config.get("app.key")
    warm.config.watch("app", print).close()
os.setgroups([]); os.setgid(user); os.setuid(user)
try:
    open(os.path.join(root, "mine"), "w")
except OSError as error:
    print(error.strerror, flush=True)
with ControlPlaneClient(root) as client:
    print(client.flags.is_enabled("on"), client.config.get("app.key"), flush=True)
    watch = client.config.watch(
        "app.key", lambda change: (print(change.new, flush=True), changed.set())
    )
    print("watching", flush=True)
    assert changed.wait(30)
    watch.close()
"""


def _can_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "sh", "-c", "mount --bind /tmp /tmp"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    config = {"values": {"key": "before"}}
    with replica(flags={"on": True}, config={"app": config}) as kit:
        yield kit


def test_modes_let_every_user_read_and_the_writer_alone_write(kit: ReplicaKit) -> None:
    environment = Path(str(kit.replica)) / str(kit.health().environment)
    found = {each.name: each for each in environment.rglob("*")}
    folders = [each for each in found.values() if each.is_dir() and not each.is_symlink()]
    assert {stat.S_IMODE(each.stat().st_mode) for each in folders} == {0o755}
    for name in ("data.mdb", "header"):
        assert stat.S_IMODE(found[name].stat().st_mode) == 0o644
    assert found["current"].is_symlink()
    assert not os.path.isabs(os.readlink(found["current"]))  # noqa: PTH115, PTH117


@pytest.mark.skipif(not _can_mount(), reason="only who may mount can try a mount")
def test_another_user_reads_and_watches_through_a_read_only_mount(kit: ReplicaKit) -> None:
    with tempfile.TemporaryDirectory(prefix="cp") as place:
        Path(place).chmod(0o755)
        root = Path(str(kit.replica))
        # A test's folder is its user's alone; in production the root is 0755.
        root.chmod(0o755)
        arguments = ["sh", "-c", IN_A_POD, "pod", root, place, sys.executable, READER, USER]
        command = ["unshare", "--mount", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [process.stdout.readline().strip() for _ in range(3)]
            assert told == ["Read-only file system", "True before", "watching"]
            kit.set_config("app", {"values": {"key": "after"}})
            assert process.stdout.readline().strip() == "after"
        assert process.returncode == 0
    assert not (root / "mine").exists()
