"""Disks that are full, damaged, emptied or read-only: the last good replica stays readable.

The table. What holds in every row: no process ends by a signal, a reader that was there before
and one that comes after read the last good numbers, and when the cause is gone the next attempt
succeeds and leaves a sound replica.

| what is injected                                     | what is left behind                      |
|------------------------------------------------------|------------------------------------------|
| a disk with so few free pages, at every action of a  | the last commit, or the new one when the |
| writer: start, commit, large commit, rebuild         | action said it was done                  |
| a full disk under a writer that pins and pins        | every commit                             |
| one to three runs of random bytes at random offsets, | every record, as it was or rebuilt       |
| chosen by hypothesis, while nobody writes            |                                          |
| a file or the folder removed, nobody writing         | all of the old data for those who have   |
|                                                      | it open, then the rebuilt replica        |
| the same under the writer                            | the next write says so; then as above    |
| the daemon itself: full, damaged, robbed, read-only  | its clients read on; its log or the      |
|                                                      | state bits say why                       |
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from control_plane.errors import ReplicaInvalid
from control_plane.replica.format import FLAG, decode_record, record_key
from control_plane.replica.header import TOMBSTONE, map_header
from control_plane.replica.source import ReplicaSource, current_folder
from control_plane.replica.verify import verify
from control_plane.replica.writer import ReplicaWriter

HERE = Path(__file__).parent
PAGE = 4096
KEYS = [record_key(FLAG, name) for name in ("first", "second", "third", "fourth")]

MANY = [record_key(FLAG, f"flag{number}") for number in range(400)]


class Disk:
    """A small disk with a replica on it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = str(place / "production")

    def act(self, action: str, number: int) -> str:
        """What a writing process says; it ended well."""
        done = subprocess.run(
            [sys.executable, HERE / "disk_process.py", self.folder, action, str(number)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def fill(self, free_pages: int) -> None:
        """Leave so many pages free."""
        descriptor = os.open(self.place / "filler", os.O_WRONLY | os.O_CREAT)
        status = os.statvfs(self.place)
        for _ in range(status.f_bavail * status.f_frsize // PAGE - free_pages):
            os.write(descriptor, bytes(PAGE))
        os.close(descriptor)

    def make_room(self) -> None:
        (self.place / "filler").unlink()


@pytest.fixture
def disk(mount: Callable[..., Path]) -> Disk:
    return Disk(mount("-t", "tmpfs", "-o", "size=12m", "none"))


@pytest.fixture
def open_source() -> Iterator[Callable[[str], ReplicaSource]]:
    opened: list[ReplicaSource] = []

    def open_one(folder: str) -> ReplicaSource:
        opened.append(ReplicaSource(folder))
        return opened[-1]

    yield open_one
    for source in opened:
        source.close()


def numbers(source: ReplicaSource) -> set[int]:
    """The numbers of one snapshot."""
    replica = source.open()
    assert replica is not None, source.error
    _, raw = replica.read(*KEYS)
    found = set()
    for key, data in zip(KEYS, raw, strict=True):
        assert data is not None
        found.add(msgpack.unpackb(decode_record(key, data).body)["m"]["variants"]["n"])
    return found


def problems(folder: str) -> list[str]:
    """What is wrong with a replica, but for the heads that these writers do not keep."""
    return [line for line in verify(folder).problems if not line.startswith("flag/")]


@pytest.mark.parametrize("free_pages", [0, 1, 3, 8, 30, 70, 140])
@pytest.mark.parametrize("action", ["start", "commit", "large", "rebuild"])
def test_a_full_disk_keeps_the_last_good_replica(
    disk: Disk, open_source: Any, action: str, free_pages: int
) -> None:
    assert disk.act("commit", 1) == "done"
    before = open_source(disk.folder)
    assert numbers(before) == {1}
    disk.fill(free_pages)
    said = disk.act(action, 2)
    assert said == "done" or "expected to write the replica, found" in said
    left = {2} if said == "done" and action != "start" else {1}
    assert numbers(before) == numbers(open_source(disk.folder)) == left
    disk.make_room()
    assert disk.act("rebuild", 3) == "done"
    assert numbers(before) == {3}
    assert problems(disk.folder) == []


def test_a_writer_pins_on_while_the_disk_is_full(disk: Disk, open_source: Any) -> None:
    # The database has pages to spare, so commits need nothing of the disk; nor may pins.
    assert disk.act("large", 1) == "done"
    assert disk.act("commit", 2) == disk.act("commit", 3) == "done"
    disk.fill(0)
    assert disk.act("pins", 4) == "done"
    assert numbers(open_source(disk.folder)) == {83}


def test_the_writers_lock_has_its_blocks_from_the_start(tmp_path: Path) -> None:
    # The same for those who may not mount: a hole in the mapped file is a SIGBUS to come.
    disk = Disk(tmp_path)
    assert disk.act("commit", 1) == "done"
    status = (Path(current_folder(disk.folder)) / "lock.mdb").stat()
    assert 512 * status.st_blocks >= status.st_size > 64 * 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replica of many records, none of them what it was at first; copied, never changed."""
    folder = tmp_path_factory.mktemp("sound") / "production"
    with ReplicaWriter.open(str(folder), sync=False) as writer:
        for generation in (1, 2):
            with writer.write() as change:
                change.generation = generation
                for key in MANY:
                    change.put_record(
                        key,
                        FLAG,
                        key * generation * 5,
                        head_generation=generation,
                        served_generation=generation,
                    )
    return folder


def in_child(work: Callable[[], int]) -> int:
    """What ``work`` returns in a process of its own; minus the signal that ended it."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


WHOLE, LACKING, REFUSED = 0, 1, 2


def read_many(folder: str) -> int:
    """Whether every record is there and sound."""
    source = ReplicaSource(folder)
    replica = source.open()
    if replica is None:
        return REFUSED
    for key in MANY:
        try:
            _, [raw] = replica.read(key)
            if raw is None:
                return LACKING
            decode_record(key, raw)
        except ReplicaInvalid:
            return REFUSED
    return WHOLE


def restart(folder: str) -> int:
    """What a daemon does at its start: go on, or rebuild beside; 1 says that it rebuilt."""
    try:
        ReplicaWriter.open(folder, sync=False, sleep=lambda seconds: None).close()
        return 0
    except ReplicaInvalid:
        with ReplicaWriter.open(folder, sync=False, rebuild=True) as writer:
            with writer.write() as change:
                change.generation = 2
                for key in MANY:
                    change.put_record(key, FLAG, b"rebuilt", head_generation=2, served_generation=2)
            writer.swap()
        return 1


damage = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=64)),
    min_size=1,
    max_size=3,
)


@seed(1)
@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damage=damage)
def test_random_damage_is_found_at_the_next_start(
    sound: Path, tmp_path: Path, damage: list[tuple[float, bytes]]
) -> None:
    folder = tmp_path / "production"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder, symlinks=True)
    with (folder / "v1" / "1" / "data.mdb").open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for part, data in damage:
            file.seek(min(int(part * size), size - len(data)))
            file.write(data)
    # LMDB follows what a page says: a reader that meets a damaged one before the writer has checked
    # the file may even end by SIGBUS. The writer walks it without LMDB and does not.
    found = in_child(lambda: read_many(str(folder)))
    rebuilt = in_child(lambda: restart(str(folder)))
    assert rebuilt == 1 or (rebuilt, found) == (0, WHOLE)
    assert in_child(lambda: read_many(str(folder))) == WHOLE


def is_left(folder: str) -> bool:
    """Whether readers are told to leave the folder in use, which goes after the grace period."""
    return bool(map_header(f"{current_folder(folder)}/header")[8 * TOMBSTONE])


def rebuild(writer: Any, number: int, *, opened: bool) -> None:
    """What a daemon does on ReplicaInvalid."""
    assert writer.ask("rebuild" if opened else "open-rebuild") == "done"
    assert writer.ask(f"commit {number}") == "done"


ROBBED = ("data.mdb", "header", ".")


def rob(folder: str, name: str) -> None:
    path = Path(current_folder(folder)) / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@pytest.mark.parametrize("name", ROBBED)
def test_what_is_removed_while_nobody_writes_is_rebuilt(
    start_script: Any, open_source: Any, tmp_path: Path, name: str
) -> None:
    folder = str(tmp_path / "production")
    writer = start_script("commanded_process.py", folder)
    assert [writer.ask(line) for line in ("open", "commit 1", "close")] == ["done"] * 3
    before = open_source(folder)
    assert numbers(before) == {1}
    rob(folder, name)
    assert writer.ask("open").startswith("ReplicaCorrupt: ")
    rebuild(writer, 2, opened=False)
    assert numbers(before) == {1}
    # Nobody is sent to what is not finished.
    assert open_source(folder).open() is None or numbers(open_source(folder)) == {1}
    assert writer.ask("swap") == "done"
    assert numbers(open_source(folder)) == {2}
    assert numbers(before) == ({2} if name == "data.mdb" else {1})
    assert not is_left(folder)
    assert problems(folder) == []


@pytest.mark.parametrize("name", ROBBED)
def test_what_is_removed_under_the_writer_is_found_and_rebuilt(
    start_script: Any, open_source: Any, tmp_path: Path, name: str
) -> None:
    folder = str(tmp_path / "production")
    writer = start_script("commanded_process.py", folder)
    assert [writer.ask(line) for line in ("open", "commit 1")] == ["done"] * 2
    before = open_source(folder)
    assert numbers(before) == {1}
    rob(folder, name)
    assert writer.ask("commit 2").startswith("ReplicaCorrupt: ")
    rebuild(writer, 2, opened=True)
    assert numbers(before) == {1}
    assert writer.ask("swap") == "done"
    # Also those who had opened what is gone now: the writer still has their header.
    assert numbers(before) == numbers(open_source(folder)) == {2}
    assert not is_left(folder)
    assert problems(folder) == []


def test_a_lock_file_in_the_place_of_a_deleted_one_keeps_nobody_from_the_new_folder(
    start_script: Any, open_source: Any, tmp_path: Path
) -> None:
    # Readers do not open the lock file, so a new one may get the number of an old one while the old
    # folder is still open here; a second name for the old file stands for that.
    folder = tmp_path / "production"
    writer = start_script("commanded_process.py", folder)
    assert [writer.ask(line) for line in ("open", "commit 1")] == ["done"] * 2
    source = open_source(str(folder))
    assert numbers(source) == {1}
    old = Path(current_folder(str(folder))) / "lock.mdb"
    assert [writer.ask(line) for line in ("rebuild", "commit 2")] == ["done"] * 2
    (folder / "v1" / "2" / "lock.mdb").unlink()
    (folder / "v1" / "2" / "lock.mdb").hardlink_to(old)
    assert writer.ask("swap") == "done"
    assert numbers(source) == {2}
