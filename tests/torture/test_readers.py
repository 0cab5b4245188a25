"""Readers under a writer at full speed, in every kind of process: no torn or stale answer, ever.

The table. In each row at least `BOUNDED` answers are judged (see reading.py), none may be torn,
stale or a default, and no process may end by a signal that the row did not send.

| what is done to the readers            | what must hold beside that                             |
|----------------------------------------|--------------------------------------------------------|
| threads, ten folder swaps a second     | every swap is followed                                 |
| another user, a read-only bind mount   | the same answers                                       |
| pools by fork and by forkserver        | children read on through what they inherited           |
| gunicorn --preload, a worker killed    | its successor answers                                  |
| Celery prefork                         | every task answers                                     |
| killed, one after another              | the others and the writer notice nothing, it is sound  |
| stopped for longer than the grace      | they go on; old views have expired                     |
| fifty at once (torture: five hundred)  | nobody is refused                                      |
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from control_plane.replica.verify import verify

BOUNDED = 200_000
HERE = Path(__file__).parent

Counts = dict[str, int]


@pytest.fixture
def judge(add: Callable[[Iterable[Counts]], Counts]) -> Callable[..., Counts]:
    """Hold counts against what every row promises; their sum."""

    def check(counts: Iterable[Counts], reads: int = BOUNDED) -> Counts:
        counts = add(counts)
        print(counts)
        assert (counts["torn"], counts["stale"], counts["failed"]) == (0, 0, 0)
        assert counts["snapshots"] + counts["evaluations"] + counts["views"] >= reads
        assert counts["busy"] * 1000 < counts["snapshots"]
        return counts

    return check


def test_threads_follow_a_folder_that_is_swapped_under_them(race: Any, judge: Any) -> None:
    writer = race.write(swap_seconds=0.1)
    readers = [race.read(5 * BOUNDED, threads=3) for _ in range(2)]
    for reader in readers:
        reader.begin()
    judge((reader.counts() for reader in readers), 10 * BOUNDED)
    assert race.stop(writer)["swaps"] > 3


def test_another_user_reads_the_same(race: Any, judge: Any, nobody: int) -> None:
    race.write(swap_seconds=0.2)
    reader = race.read(5 * BOUNDED, user=nobody)
    reader.begin()
    judge([reader.counts()], 5 * BOUNDED)


def test_a_read_only_mount_reads_the_same(race: Any, judge: Any, mount: Any) -> None:
    race.write(swap_seconds=0.2)
    place = mount("--bind", "-o", "ro", race.root)
    with pytest.raises(OSError, match="Read-only"):
        (place / "production" / "written").touch()
    reader = race.read(5 * BOUNDED, root=place)
    reader.begin()
    judge([reader.counts()], 5 * BOUNDED)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_pools_read_on_through_what_they_inherited(race: Any, judge: Any, method: str) -> None:
    race.write(swap_seconds=0.2)
    counts = race.run("forking_process.py", method, BOUNDED // 6, 6)
    assert len({each.pop("pid") for each in counts[:-1]}) == 6
    judge(counts)


def test_gunicorn_workers_read_on_and_a_killed_one_is_replaced(
    race: Any, judge: Any, tmp_path: Path
) -> None:
    race.write(swap_seconds=0.5)
    path = str(tmp_path / "s")
    server = race.serve(
        "-m", "gunicorn", "--preload", "--workers", "2", "--threads", "3", "--bind",
        f"unix:{path}", "--pythonpath", str(HERE), "--log-level", "warning",
        "application:application",
    )  # fmt: skip
    first = [ask(path, BOUNDED // 10) for _ in range(5)]
    os.kill(first[0]["pid"], signal.SIGKILL)
    second = [ask(path, BOUNDED // 10) for _ in range(5)]
    workers = {each.pop("pid") for each in first + second}
    assert server.pid not in workers
    judge(first + second)
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def ask(path: str, reads: int) -> Counts:
    """One request; tried again while there is no server, or the worker at hand was just killed."""
    deadline = time.monotonic() + 20
    while True:
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                connection.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % reads)
                while part := connection.recv(65536):
                    answer += part
        except OSError:
            pass
        if answer.startswith(b"HTTP/1.0 200"):
            found: Counts = json.loads(answer.partition(b"\r\n\r\n")[2])
            return found
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)


def test_celery_workers_read_on(race: Any, judge: Any, tmp_path: Path) -> None:
    race.write(swap_seconds=0.5)
    counts = race.run("tasks_process.py", tmp_path, BOUNDED // 9, 9)
    assert len(counts) == 9
    assert len({each.pop("pid") for each in counts}) > 1
    judge(counts)


def test_killed_readers_disturb_nobody(race: Any, judge: Any) -> None:
    writer = race.write()
    survivor = race.read(3 * BOUNDED)
    victims = [race.read(1 << 60) for _ in range(8)]
    for reader in (survivor, *victims):
        reader.begin()
    for victim in victims:
        time.sleep(random.uniform(0.02, 0.1))
        victim.kill()
    judge([survivor.counts()], 3 * BOUNDED)
    race.stop(writer)
    # Generations of the records are right; heads this writer does not keep.
    problems = verify(str(race.folder)).problems
    assert [line for line in problems if not line.startswith("flag/")] == []


def stop_and_continue(readers: list[Any], seconds: float) -> None:
    for reader in readers:
        time.sleep(random.uniform(0.0, 0.02))
        reader.signal(signal.SIGSTOP)
    time.sleep(seconds)
    for reader in readers:
        assert reader.process.poll() is None
        reader.signal(signal.SIGCONT)


def test_readers_stopped_for_longer_than_the_grace_period_go_on(race: Any, judge: Any) -> None:
    writer = race.write(speed=10)
    readers = [race.read(3 * BOUNDED) for _ in range(4)]
    for reader in readers:
        reader.begin()
    time.sleep(0.3)
    # Grace period and margin together are 2 s: all that was begun before is reused by then.
    stop_and_continue(readers, 3.0)
    counts = judge((reader.counts() for reader in readers), 4 * BOUNDED)
    assert counts["expired"] > 0
    assert race.stop(writer)["commits"] > 1_000


def test_fifty_processes_read_at_once(race: Any, judge: Any) -> None:
    race.write(speed=2)
    crowd = race.start("crowd_process.py", race.root, race.published, 50, BOUNDED // 50)
    counts = crowd.counts()
    assert counts.pop("lost") == 0
    judge([counts])


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_five_hundred_processes_read_at_once(race: Any, judge: Any) -> None:
    race.write(speed=1)
    crowd = race.start("crowd_process.py", race.root, race.published, 500, 20_000)
    counts = crowd.counts()
    assert counts.pop("lost") == 0
    judge([counts], 10_000_000)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_threads_follow_swaps_for_tens_of_millions_of_answers(race: Any, judge: Any) -> None:
    writer = race.write(swap_seconds=1)
    readers = [race.read(10_000_000, threads=threads) for threads in (1, 3)]
    for reader in readers:
        reader.begin()
    judge((reader.counts() for reader in readers), 20_000_000)
    print(race.stop(writer))


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_readers_stopped_again_and_again_go_on(race: Any, judge: Any) -> None:
    writer = race.write(speed=10)
    readers = [race.read(1 << 60) for _ in range(10)]
    for reader in readers:
        reader.begin()
    for _ in range(12):
        time.sleep(0.2)
        stop_and_continue(readers, 2.5)
    time.sleep(5)
    for reader in readers:
        reader.signal(signal.SIGTERM)
    judge((reader.counts() for reader in readers), 10_000_000)
    print(race.stop(writer))
