"""What one writer does, refuses, and leaves behind when it dies."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from control_plane.errors import (
    FormatUnsupported,
    ReplicaCorrupt,
    ReplicaLocked,
    ReplicaUnwritable,
)
from control_plane.replica import format, header
from control_plane.replica.header import map_header
from control_plane.replica.source import current_folder

CLASSES = (header.FLAGS_REVISION, header.CONFIG_REVISION, header.REGISTRY_REVISION)


def words_of(folder: str) -> memoryview:
    return map_header(current_folder(folder) + "/header")


def current(folder: str) -> str:
    return str(Path(folder, "v1/current").readlink())


def revisions(folder: str) -> list[int]:
    words = words_of(folder)
    return [words[8 * word] for word in (header.REVISION, *CLASSES)]


def put(change, kind: int, *fields: str, body: bytes = b"value") -> None:
    key = format.record_key(kind, *fields)
    change.put_record(key, kind, body, head_generation=1, served_generation=1)


def test_a_new_replica_is_a_folder_that_anyone_may_read_and_only_its_writer_may_lock(
    folder, open_writer
):
    before = os.umask(0o077)
    try:
        open_writer()
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode)
        for path in Path(folder).rglob("*")
    }
    assert modes == {
        "v1": 0o755,
        "v1/daemon.lock": 0o600,
        "v1/current": 0o777,
        "v1/1": 0o755,
        "v1/1/data.mdb": 0o644,
        "v1/1/lock.mdb": 0o600,
        "v1/1/header": 0o644,
    }
    assert (Path(folder) / "v1/current").readlink() == Path("1")


def test_a_commit_moves_transaction_generation_and_the_classes_it_touched(folder, open_writer):
    writer = open_writer()
    before = revisions(folder)
    with writer.write() as change:
        change.generation = 7
        put(change, format.SEGMENT, "beta")
        put(change, format.STATUS, "tool", "crm_tool", "1.0.0")
    words, after = words_of(folder), revisions(folder)
    assert words[8 * header.TXN_ID] == writer.txn_id == 2
    assert words[8 * header.GENERATION] == writer.generation == 7
    moved = [new > old for old, new in zip(before, after, strict=True)]
    assert moved == [True, True, False, True]


def test_a_commit_of_heads_alone_moves_the_revision_and_no_class(folder, open_writer):
    writer = open_writer()
    before = revisions(folder)
    with writer.write() as change:
        change.generation = 1
        change.heads.put(b"flag\0x\0", b"head")
    after = revisions(folder)
    assert after[0] > before[0]
    assert after[1:] == before[1:]


def test_storing_the_bytes_that_are_there_is_no_change(folder, open_writer):
    writer = open_writer()
    with writer.write() as change:
        put(change, format.FLAG, "x")
    before = revisions(folder)
    with writer.write() as change:
        put(change, format.FLAG, "x")
        change.delete_record(format.record_key(format.CONFIG, "", "absent"))
    assert revisions(folder) == before


def test_a_block_that_raises_leaves_nothing(folder, open_writer, put_flag):
    writer = open_writer()
    put_flag(writer, "kept")
    before = (writer.txn_id, writer.generation, revisions(folder))

    def fail_half_way() -> None:
        with writer.write() as change:
            change.generation = 9
            put(change, format.FLAG, "lost")
            raise KeyError("lost")

    with pytest.raises(KeyError):
        fail_half_way()
    assert (writer.txn_id, writer.generation, revisions(folder)) == before
    with writer.write() as change:
        assert change.get_record(format.record_key(format.FLAG, "lost")) is None
        assert change.get_record(format.record_key(format.FLAG, "kept")).body == b"value"


def test_tables_are_dicts_of_bytes_with_prefixes_in_order(open_writer):
    writer = open_writer()
    with writer.write() as change:
        for key in (b"b2", b"a", b"b1", b"c"):
            change.staging.put(key, key.upper())
        change.staging.delete(b"c")
        change.staging.delete(b"never there")
    with writer.write() as change:
        assert list(change.staging.items(b"b")) == [(b"b1", b"B1"), (b"b2", b"B2")]
        assert [key for key, _ in change.staging.items()] == [b"a", b"b1", b"b2"]
        assert change.staging.get(b"c") is None


def test_a_write_inside_a_write_is_misuse(open_writer):
    writer = open_writer()
    with writer.write(), pytest.raises(RuntimeError), writer.write():
        pass


def test_a_second_writer_is_refused_by_name(folder, open_writer, run_script):
    open_writer()
    with pytest.raises(ReplicaLocked, match=rf"found process {os.getpid()}; stop"):
        open_writer()
    elsewhere = run_script(
        "from control_plane.replica.writer import ReplicaWriter\nReplicaWriter.open(FOLDER)"
    )
    assert f"found process {os.getpid()}" in elsewhere.stderr


def test_a_killed_writer_leaves_its_lock_to_the_next(folder, open_writer, run_script):
    died = run_script(
        "import os, signal\n"
        "from control_plane.replica.writer import ReplicaWriter\n"
        "writer = ReplicaWriter.open(FOLDER)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert died.returncode == -9
    assert open_writer().generation == 0


def test_a_writer_waits_before_its_first_write_only_when_old_readers_may_exist(
    folder, open_writer, put_flag, clock, monkeypatch
):
    first = open_writer()
    put_flag(first, "a")
    first.close()
    assert clock.sleeps == []
    second = open_writer()
    put_flag(second, "a", b"2")
    put_flag(second, "a", b"3")
    second.close()
    assert clock.sleeps == [2.0]
    monkeypatch.setattr("control_plane.replica.writer.read_boot_id", lambda: 12345)
    put_flag(open_writer(), "a", b"4")
    assert clock.sleeps == [2.0]


def test_a_crash_between_commit_and_header_is_published_at_the_next_start(
    folder, open_writer, run_script, start_reader
):
    died = run_script(
        "import os\n"
        "from control_plane.replica import folder, format\n"
        "from control_plane.replica.writer import ReplicaWriter\n"
        "writer = ReplicaWriter.open(FOLDER)\n"
        "folder.Folder.publish = lambda *arguments: os._exit(9)\n"
        "with writer.write() as change:\n"
        "    change.generation = 5\n"
        "    change.put_record(b'\\1x', 1, b'new', head_generation=5, served_generation=5)\n"
    )
    assert died.returncode == 9
    words, before = words_of(folder), revisions(folder)
    assert (words[8 * header.TXN_ID], words[8 * header.GENERATION]) == (1, 0)
    # A reader that looks now is not turned away, and not served the older snapshot.
    reader = start_reader()
    assert reader.ask("body('x')") == b"new"

    writer = open_writer()
    assert (words[8 * header.TXN_ID], words[8 * header.GENERATION]) == (2, 5)
    assert writer.generation == 5
    assert all(new > old for old, new in zip(before, revisions(folder), strict=True))


def test_a_write_the_disk_refuses_leaves_the_last_commit_and_a_working_writer(run_script):
    outcome = run_script(
        "import os, resource\n"
        "from control_plane.errors import ReplicaUnwritable\n"
        "from control_plane.replica.writer import ReplicaWriter\n"
        "writer = ReplicaWriter.open(FOLDER)\n"
        "def put(name, size):\n"
        "    with writer.write() as change:\n"
        "        change.generation += 1\n"
        "        change.blobs.put(name, bytes(size))\n"
        "put(b'kept', 10)\n"
        "full = os.path.getsize(FOLDER + '/v1/1/data.mdb') + 100_000\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    put(b'large', 1_000_000)\n"
        "except ReplicaUnwritable as error:\n"
        "    print(error)\n"
        "put(b'small', 10)\n"
        "with writer.write() as change:\n"
        "    print(writer.generation, [key for key, _ in change.blobs.items()])\n"
    )
    assert outcome.stderr == ""
    refused, left = outcome.stdout.splitlines()
    assert "expected to write the replica, found:" in refused
    assert left == "2 [b'kept', b'small']"


def test_a_damaged_database_is_refused_at_the_start_and_left_as_it_is(
    folder, open_writer, put_flag
):
    writer = open_writer()
    for number in range(200):
        put_flag(writer, f"flag{number}", bytes(300))
    writer.close()
    data = Path(current_folder(folder)) / "data.mdb"
    damaged = bytearray(data.read_bytes())
    damaged[8192:] = bytes(len(damaged) - 8192)
    data.write_bytes(damaged)
    with pytest.raises(ReplicaCorrupt, match="rebuilt beside it"):
        open_writer()
    assert data.read_bytes() == damaged
    assert current(folder) == "1"


def test_a_damaged_replica_is_rebuilt_beside_and_swapped(folder, open_writer, put_flag):
    writer = open_writer()
    put_flag(writer, "x")
    writer.close()
    old, before = words_of(folder), revisions(folder)
    (Path(current_folder(folder)) / "data.mdb").write_bytes(b"nothing like LMDB" * 1000)

    writer = open_writer(rebuild=True)
    put_flag(writer, "x", b"again")
    assert current(folder) == "1"
    writer.swap()
    assert current(folder) == "2"
    assert old[8 * header.TOMBSTONE] == 1
    assert min(revisions(folder)) > max(before)
    assert words_of(folder)[8 * header.GENERATION] == 1


def test_a_swap_sends_hot_paths_of_the_old_header_to_the_new_one(folder, open_writer, put_flag):
    writer = open_writer()
    put_flag(writer, "x")
    old, before = words_of(folder), revisions(folder)
    writer.rebuild()
    put_flag(writer, "x", b"new")
    assert revisions(folder) == before, "a rebuild shows nothing before the swap"
    writer.swap()
    assert old[8 * header.TOMBSTONE] == 1
    assert all(old[8 * word] > value for word, value in zip(CLASSES, before[1:], strict=True))
    assert all(new != old[8 * w] for w, new in zip(CLASSES, revisions(folder)[1:], strict=True))


def test_even_an_empty_new_folder_has_revisions_of_its_own(folder, open_writer, put_flag):
    writer = open_writer()
    put_flag(writer, "x")
    old = words_of(folder)
    writer.rebuild()
    writer.swap()
    assert all(new > old[8 * w] for w, new in zip(CLASSES, revisions(folder)[1:], strict=True))


def test_an_old_folder_goes_after_the_grace_period(folder, open_writer, put_flag, clock):
    writer = open_writer(grace_seconds=300)
    writer.rebuild()
    writer.swap()
    clock.now += 299
    writer.tend()
    assert Path(folder, "v1/1").is_dir()
    clock.now += 1
    writer.tend()
    assert not Path(folder, "v1/1").exists()
    put_flag(writer, "x")
    assert Path(folder, "v1/2").is_dir()


def test_a_folder_with_the_number_of_an_abandoned_one_stays(folder, open_writer, put_flag, clock):
    open_writer().close()
    Path(folder, "v1/2").mkdir()
    writer = open_writer(rebuild=True)
    put_flag(writer, "x")
    writer.swap()
    assert current(folder) == "2"
    clock.now += 1_000
    writer.tend()
    assert Path(folder, "v1/2/data.mdb").exists()
    assert not Path(folder, "v1/1").exists()


@pytest.mark.parametrize("step", ["_point_current_at", "_condemn"])
def test_a_crash_around_the_swap_is_mended_at_the_next_start(folder, open_writer, run_script, step):
    died = run_script(
        "import os\n"
        "from control_plane.replica.writer import ReplicaWriter\n"
        "writer = ReplicaWriter.open(FOLDER)\n"
        "writer.rebuild()\n"
        f"ReplicaWriter.{step} = lambda *arguments: os._exit(9)\n"
        "writer.swap()\n"
    )
    assert died.returncode == 9
    swapped = step == "_condemn"
    old = map_header(folder + "/v1/1/header")
    assert old[8 * header.TOMBSTONE] == 0
    open_writer()
    assert current(folder) == ("2" if swapped else "1")
    assert old[8 * header.TOMBSTONE] == int(swapped)
    assert Path(folder, "v1/2").exists() is swapped


def test_a_lost_link_is_mended_with_revisions_that_no_reader_has_seen(
    folder, open_writer, put_flag
):
    with open_writer() as writer:
        for number in range(5):
            put_flag(writer, "x", b"%d" % number)
    before, old = revisions(folder), words_of(folder)
    Path(folder, "v1/current").unlink()
    open_writer()
    assert current(folder) == "2"
    assert old[8 * header.TOMBSTONE] == 1
    assert min(revisions(folder)) > max(before)


@pytest.mark.parametrize("gone", ["v1/1", "v1", "."])
def test_what_was_taken_away_under_the_writer_is_made_anew_with_its_lock(
    folder, open_writer, put_flag, gone
):
    with open_writer() as writer:
        for number in range(5):
            put_flag(writer, "x", b"%d" % number)
        writer.check_place()
        before, old = revisions(folder), words_of(folder)
        shutil.rmtree(Path(folder, gone))
        with pytest.raises(ReplicaCorrupt, match=r"/1: expected the files that are being written"):
            writer.check_place()
        writer.rebuild()
        put_flag(writer, "x", b"again")
        writer.check_place()
        writer.swap()
        writer.check_place()
        assert old[8 * header.TOMBSTONE] == 1
        assert min(revisions(folder)) > max(before)
        with pytest.raises(ReplicaLocked, match=f"found process {os.getpid()}"):
            open_writer()
    modes = [stat.S_IMODE(Path(folder, name).stat().st_mode) for name in ("v1", "v1/daemon.lock")]
    assert modes == [0o755, 0o600]


def test_a_folder_taken_over_by_another_writer_is_left_to_it(folder, open_writer, put_flag):
    with open_writer() as writer:
        put_flag(writer, "x", b"first")
        shutil.rmtree(folder)
        with open_writer() as other:
            put_flag(other, "x", b"other")
            with pytest.raises(ReplicaLocked):
                writer.rebuild()
            other.check_place()
        assert current(folder) == "1"


def test_the_mark_of_a_development_writer_stays_until_its_successor_vouches(folder, open_writer):
    open_writer(development=True).close()
    writer = open_writer()
    assert words_of(folder)[8 * header.STATE] == header.DEVELOPMENT
    writer.set_state(0)
    assert words_of(folder)[8 * header.STATE] == 0


def test_state_and_development_are_published(folder, open_writer):
    writer = open_writer(development=True)
    writer.set_state(header.STALE)
    writer.set_checkpoint_time(1_700_000_000)
    writer.heartbeat(5)
    words = words_of(folder)
    assert words[8 * header.STATE] == header.STALE | header.DEVELOPMENT
    assert words[8 * header.CHECKPOINT_TIME_S] == 1_700_000_000
    assert words[8 * header.HEARTBEAT_NS] == 5
    writer.close()
    open_writer().set_state(header.DEVELOPMENT)
    assert words[8 * header.STATE] == 0


def test_a_replica_of_a_newer_format_is_refused_and_left(folder, open_writer):
    open_writer().close()
    page = header.HeaderWriter(folder + "/v1/1/header")
    page[header.MIN_READER] = 2
    page.close()
    with pytest.raises(FormatUnsupported, match="found one for reader 2"):
        open_writer()
    assert current(folder) == "1"


def test_a_process_that_reads_the_replica_cannot_also_write_it(open_writer, open_source):
    open_writer().close()
    source = open_source()
    replica = source.open()
    with pytest.raises(ReplicaUnwritable, match="already open in this process"):
        open_writer()
    assert replica.read(b"\x01x") == (1, [None])
    source.close()
    assert open_writer().generation == 0
