"""The daemon as a process, with its store, while disks fail and processes come and go.

| what is injected                                   | what must hold, and what is left behind    |
|----------------------------------------------------|--------------------------------------------|
| a disk too small for the next changes              | clients read the last good numbers, health |
|                                                    | says disk; with room the daemon catches up |
| random bytes in the stopped daemon's database      | the log says so; clients follow the swap   |
| header, database or folder removed, daemon running | the same, with no change to wait for       |
| a read-only folder at the start                    | the daemon ends with one line, clients read|
| the daemon killed or stopped every few seconds     | every change arrives, none torn or stale   |
| a second daemon, a second store                    | refused, the holder named; the first go on |
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.replica.source import current_folder

NAMES = ("first", "second", "third", "fourth")
PATIENCE_SECONDS = 30.0


@pytest.fixture
def root() -> Iterator[Path]:
    """A replica root that other users can reach.

    Ask for it before ``install``: a daemon that runs makes anew what is taken away under it.
    """
    path = Path(tempfile.mkdtemp(prefix="root"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def open_client() -> Iterator[Callable[[Path], ControlPlaneClient]]:
    opened: list[ControlPlaneClient] = []

    def open_one(root: Path) -> ControlPlaneClient:
        opened.append(ControlPlaneClient(str(root), "production"))
        return opened[-1]

    yield open_one
    for client in opened:
        client.close()


def shown(client: ControlPlaneClient) -> set[int]:
    return {client.value(name, -1) for name in NAMES}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def said(installation: Any) -> str:
    text: str = installation.errors.read_text()
    return text


def test_a_full_disk_is_told_and_caught_up_with(mount: Any, install: Any, open_client: Any) -> None:
    root = mount("-t", "tmpfs", "-o", "size=6m", "none")
    installation = install(root)
    daemon = installation.start_daemon()
    client = open_client(root)
    installation.publish(1)
    until(lambda: shown(client) == {1})
    for number in range(2, 12):
        installation.publish(number, padding=1_000)
    until(lambda: any(reason.startswith("disk: ") for reason in client.health().reasons))
    before = shown(client)
    assert len(before) == 1
    assert before < set(range(1, 11))
    assert shown(open_client(root)) == before
    assert daemon.exit_code is None
    assert "make room" in said(installation)
    subprocess.run(["mount", "-o", "remount,size=200m", str(root)], check=True)
    until(lambda: shown(client) == {11})
    until(lambda: not client.health().reasons)


def test_a_damaged_database_is_rebuilt_under_clients_that_read(
    root: Path, install: Any, open_client: Any
) -> None:
    installation = install(root)
    daemon = installation.start_daemon()
    installation.publish(1, padding=200)
    client = open_client(root)
    until(lambda: shown(client) == {1})
    generation = client.health().generation
    daemon.stop()
    with (Path(current_folder(str(root / "production"))) / "data.mdb").open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(20):
            # Not the two meta pages: they name the pages that readers already hold.
            file.seek(random.randrange(8192, size - 64))
            file.write(os.urandom(64))
    # What was read before damage is kept.
    assert shown(client) == {1}
    installation.start_daemon()
    assert shown(client) == {1}
    assert client.health().generation >= generation
    assert "rebuilt beside it" in said(installation)
    installation.publish(2)
    until(lambda: shown(client) == {2})


@pytest.mark.parametrize("name", ["header", "data.mdb", "."])
def test_what_is_removed_under_the_daemon_is_rebuilt(
    root: Path, install: Any, open_client: Any, name: str
) -> None:
    installation = install(root)
    daemon = installation.start_daemon()
    installation.publish(1)
    client = open_client(root)
    until(lambda: shown(client) == {1})
    path = Path(current_folder(str(root / "production"))) / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert shown(client) == {1}
    until(lambda: "rebuilt beside it" in said(installation))
    assert shown(client) == {1}
    installation.publish(2)
    # Those who had the replica open, and those who come after.
    until(lambda: shown(client) == {2})
    assert shown(open_client(root)) == {2}
    assert daemon.exit_code is None
    assert "rebuilt beside it" in said(installation)


def test_a_read_only_folder_ends_the_daemon_and_no_client(
    mount: Any, root: Path, install: Any, open_client: Any
) -> None:
    installation = install(root)
    daemon = installation.start_daemon()
    installation.publish(1)
    until(lambda: shown(open_client(root)) == {1})
    daemon.stop()
    installation.root = mount("--bind", "-o", "ro", root)
    daemon = installation.start_daemon(ready=False)
    until(lambda: daemon.exit_code is not None)
    assert daemon.exit_code == 1
    [line] = said(installation).splitlines()[-1:]
    assert "Read-only file system" in line
    assert "make room or mend the permissions" in line
    assert "Traceback" not in said(installation)
    assert shown(open_client(installation.root)) == {1}


CHANGES_A_TURN = 12
"""At least so many between two restarts, however slow the machine is."""


class Restarted:
    """An installation that publishes without a pause, and readers, under restarts."""

    def __init__(self, installation: Any, race: Any) -> None:
        self.installation = installation
        self.race = race
        self.client = ControlPlaneClient(str(race.root), "production")
        self.daemon = installation.start_daemon()
        self.number = 1  # numbers are generations, and the log's first entry is its trust

    def publish(self) -> None:
        """Publish the next number; when this client shows it, no reader may show less."""
        self.number += 1
        assert self.installation.publish(self.number) == self.number
        until(lambda: shown(self.client) == {self.number})
        self.race.publish(self.number)

    def go(self, restarts: int, seconds: float = 3) -> None:
        for turn in range(restarts):
            end, enough = time.monotonic() + seconds, self.number + CHANGES_A_TURN
            while time.monotonic() < end or self.number < enough:
                self.publish()
            if turn % 2:
                self.daemon.stop()
            else:
                self.daemon.kill()
            self.daemon = self.installation.start_daemon(ready=False)
        self.publish()


@pytest.fixture
def restarted(race: Any, install: Any) -> Iterator[Restarted]:
    restarted = Restarted(install(race.root), race)
    yield restarted
    restarted.client.close()


def judged(restarted: Restarted, readers: list[Any], add: Any) -> dict[str, int]:
    for reader in readers:
        reader.signal(signal.SIGTERM)
    counts: dict[str, int] = add(reader.counts() for reader in readers)
    print(counts, "changes", restarted.number)
    assert (counts["torn"], counts["stale"], counts["failed"]) == (0, 0, 0)
    return counts


def test_readers_follow_a_daemon_that_is_restarted_again_and_again(
    restarted: Restarted, race: Any, add: Any
) -> None:
    restarted.publish()
    readers = [race.read(1 << 60)]
    readers[0].begin()
    restarted.go(3, 2)
    counts = judged(restarted, readers, add)
    assert counts["evaluations"] >= 200_000
    assert restarted.number > 20


@pytest.mark.torture
@pytest.mark.timeout(300)
def test_readers_follow_a_daemon_that_is_restarted_for_a_minute(
    restarted: Restarted, race: Any, add: Any
) -> None:
    restarted.publish()
    readers = [race.read(1 << 60), race.read(1 << 60, threads=2)]
    for reader in readers:
        reader.begin()
    restarted.go(20)
    counts = judged(restarted, readers, add)
    assert counts["evaluations"] >= 10_000_000
    assert restarted.number > 200


def refused(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    return line


def test_a_second_daemon_and_a_second_store_are_refused_and_nothing_stops(
    root: Path, install: Any, open_client: Any
) -> None:
    installation = install(root)
    daemon = installation.start_daemon()
    line = refused(installation.daemon_arguments())
    assert f"expected no other writer, found process {daemon.pid}" in line
    more = installation.store_arguments("--listen", "127.0.0.1:0")
    line = refused([str(part) for part in more])
    assert f"found process {installation.store.pid} on " in line
    installation.publish(1)
    client = open_client(root)
    until(lambda: shown(client) == {1})
    # A holder that is killed holds nothing.
    daemon.kill()
    installation.start_daemon()
    assert shown(client) == {1}
