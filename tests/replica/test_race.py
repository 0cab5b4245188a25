"""Readers beside a writer at full speed: no torn, mixed or stale result, ever."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.errors import ReplicaBusy, ViewExpired
from control_plane.replica import format, header
from control_plane.replica.source import ReplicaSource
from control_plane.replica.verify import verify

KEYS = [format.record_key(format.FLAG, f"flag{number}") for number in range(8)]


def start_writer(folder: str, seconds: float) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "race_writer.py"), folder, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline().split()[1])


def numbers(raw: list[bytes | None]) -> set[int]:
    """The commit number in each record; a torn record does not decode."""
    found = set()
    for key, data in zip(KEYS, raw, strict=True):
        if data is None:
            found.add(0)
            continue
        body = format.decode_record(key, data).body
        assert body == body[:8] * (len(body) // 8)
        found.add(int.from_bytes(body[:8], "big"))
    return found


@pytest.fixture
def race(folder) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()
    # Hundreds of megabytes of old pages; pytest would keep them for three runs.
    subprocess.run(["rm", "-rf", folder], check=True)


def run_race(folder: str, race: list[subprocess.Popen[str]], seconds: float) -> dict[str, int]:
    process, first = start_writer(folder, seconds)
    race.append(process)
    source = ReplicaSource(folder)
    replica, words = source.open(), source.words
    counts = {"reads": 0, "busy": 0, "views": 0, "expired": 0}
    last = 0
    view = replica.view()
    view_until = 0.0
    while process.poll() is None:
        for _ in range(200):
            published = words[8 * header.TXN_ID]
            try:
                txn_id, raw = replica.read(*KEYS)
            except ReplicaBusy:
                counts["busy"] += 1
                continue
            # Commit i is transaction first + i: whole, of this snapshot, and not older than
            # what was published before the read.
            assert numbers(raw) == {txn_id - first}
            assert txn_id >= max(published, last)
            last = txn_id
            counts["reads"] += 1
        try:
            assert numbers(view.read(*KEYS)) == {view.txn_id - first} == {view.generation}
            counts["views"] += 1
        except ViewExpired:
            counts["expired"] += 1
            view_until = 0.0
        if time.monotonic() > view_until:
            view.close()
            view = replica.view()
            # Some close in time, some outlive the (accelerated) ten seconds.
            view_until = time.monotonic() + random.uniform(0.0, 2.5)
    view.close()
    source.close()
    assert process.returncode == 0
    counts["commits"] = last - first
    return counts


def test_a_reader_beside_a_writer_at_full_speed_sees_whole_fresh_snapshots(folder, race):
    counts = run_race(folder, race, seconds=6)
    print(counts)
    assert counts["reads"] > 10_000
    assert counts["commits"] > 500
    assert counts["views"] > 100
    assert counts["expired"] > 0, "the race was to cross expiring views"
    assert counts["busy"] * 1000 < counts["reads"]


def test_a_writer_killed_again_and_again_never_shows_half_a_commit(folder, race):
    source = ReplicaSource(folder)
    last, reads = 0, 0
    for _ in range(8):
        process, first = start_writer(folder, 60)
        race.append(process)
        assert first == 1, "restarts write nothing of their own"
        replica = source.open()
        kill_at = time.monotonic() + random.uniform(0.15, 0.3)
        while process.poll() is None or reads % 50:
            if time.monotonic() > kill_at:
                process.kill()
            txn_id, raw = replica.read(*KEYS)
            assert numbers(raw) == {txn_id - first}
            assert txn_id >= last
            last, reads = txn_id, reads + 1
    source.close()
    assert reads > 1_000
    report = verify(folder)
    assert [line for line in report.problems if not line.startswith("flag/")] == []
    assert report.generation == report.txn_id - 1 >= last - 1


@pytest.mark.torture
@pytest.mark.timeout(400)
def test_a_reader_beside_a_writer_for_minutes_sees_whole_fresh_snapshots(folder, race):
    counts = run_race(folder, race, seconds=180)
    print(counts)
    assert counts["reads"] > 1_000_000
