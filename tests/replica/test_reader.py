"""Which snapshot a reader accepts, and when it gives one up."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.errors import (
    ReplicaBusy,
    ReplicaCorrupt,
    ReplicaUnavailable,
    UnsupportedPlatformError,
    ViewExpired,
)
from control_plane.replica import format, header
from control_plane.replica.header import HeaderWriter
from control_plane.replica.reader import OPEN, open_replica
from control_plane.replica.source import current_folder

X = format.record_key(format.FLAG, "x")


@pytest.fixture
def replica(folder, open_writer, put_flag):
    """A replica with flags x and y, whose writer has gone."""
    writer = open_writer()
    put_flag(writer, "x", b"1")
    put_flag(writer, "y", b"2")
    writer.close()
    found = open_replica(current_folder(folder))
    yield found
    found.close()


@pytest.fixture
def page(replica) -> Iterator[HeaderWriter]:
    """The header of ``replica``, for pretending a writer."""
    writer = HeaderWriter(replica.directory + "/header")
    yield writer
    writer.close()


def test_all_records_of_one_read_are_of_one_snapshot(replica):
    absent = format.record_key(format.FLAG, "absent")
    txn_id, [x, none, y] = replica.read(X, absent, format.record_key(format.FLAG, "y"))
    assert txn_id == 3
    assert (x[-1:], none, y[-1:]) == (b"1", None, b"2")


def test_a_scan_stops_at_the_prefix_and_at_the_limit(folder, open_writer, open_source):
    with open_writer() as writer, writer.write() as change:
        for path in ("ai.model", "ai.temperature", "air", "b"):
            key = format.record_key(format.CONFIG, "", path)
            change.put_record(key, format.CONFIG, b"", head_generation=0, served_generation=0)
    replica = open_source().open()
    prefix = format.record_key(format.CONFIG, "", "ai.")
    _, found = replica.scan(prefix)
    assert [key[2:] for key, _ in found] == [b"ai.model", b"ai.temperature"]
    assert len(replica.scan(b"", limit=3)[1]) == 3
    assert replica.scan(b"\xff")[1] == []


def test_a_snapshot_older_than_the_published_one_is_never_accepted(replica, page):
    page[header.TXN_ID] = 4
    with pytest.raises(ReplicaBusy, match="the last good value stands"):
        replica.read(X)
    page[header.TXN_ID] = 3
    assert replica.read(X)[0] == 3


def test_a_snapshot_newer_than_the_published_one_is_accepted_on_the_second_look(replica, page):
    page[header.TXN_ID] = 2
    assert replica.read(X)[0] == 3


def test_a_snapshot_below_the_safe_one_is_never_read(replica, page):
    page[header.SAFE_TXNID] = 4
    with pytest.raises(ReplicaBusy):
        replica.read(X)
    with pytest.raises(ReplicaBusy):
        replica.scan(b"")


def test_a_snapshot_that_expired_during_the_copy_is_thrown_away(replica, page, monkeypatch):
    def expire(*arguments: object) -> list[tuple[bytes, bytes]]:
        page[header.SAFE_TXNID] = 4
        return [(X, b"torn")]

    monkeypatch.setattr("control_plane.replica.reader._scan", expire)
    with pytest.raises(ReplicaBusy):
        replica.scan(b"")
    page[header.SAFE_TXNID] = 3
    with replica.view() as view, pytest.raises(ViewExpired):
        view.scan(b"")


def test_a_view_keeps_its_generation_while_the_writer_goes_on(open_writer, put_flag, start_reader):
    writer = open_writer()
    put_flag(writer, "x", b"old")
    reader = start_reader()
    reader.ask("views.append(source.open().view())")
    put_flag(writer, "x", b"new")
    put_flag(writer, "y", b"new")
    assert reader.ask("(views[0].txn_id, views[0].generation)") == (2, 1)
    assert reader.ask("[r and r[-3:] for r in views[0].read(key('x'), key('y'))]") == [b"old", None]
    assert len(reader.ask("views[0].scan(b'')")) == 1
    assert reader.ask("body('x')") == b"new"


def test_a_closed_view_has_expired_and_lets_the_replica_go(folder, replica):
    view = replica.view()
    with view:
        assert view.generation == 2
    with pytest.raises(ViewExpired, match="found it closed"):
        view.read(X)
    view.close()
    assert replica.read(X)[0] == 3


def test_a_view_outlives_the_source_it_came_from(folder, replica, open_source):
    source = open_source()
    view = source.open().view()
    source.close()
    assert view.read(X)[0][-1:] == b"1"
    view.close()


def test_everybody_in_a_process_shares_one_open_file(replica, open_source):
    first, second = open_source(), open_source()
    assert first.open() is second.open() is replica
    first.close()
    assert second.open().read(X)[0] == 3
    second.close()
    assert replica.read(X)[0] == 3
    assert list(OPEN._replicas.values()) == [replica]


def test_a_closed_replica_says_so(folder, open_writer):
    open_writer().close()
    replica = open_replica(current_folder(folder))
    replica.close()
    assert OPEN._replicas == {}
    with pytest.raises(ReplicaUnavailable, match="closed"):
        replica.read(X)


def test_the_writers_own_process_is_told_why_it_cannot_read(open_writer, open_source):
    open_writer()
    source = open_source()
    assert source.open() is None
    assert "already open in this process" in str(source.error)


def test_a_flipped_bit_on_disk_is_found_when_the_record_is_decoded(
    folder, open_writer, put_flag, open_source
):
    with open_writer() as writer:
        put_flag(writer, "x", b"needle in the file")
    data = Path(current_folder(folder)) / "data.mdb"
    damaged = bytearray(data.read_bytes())
    damaged[damaged.index(b"needle")] ^= 1
    data.write_bytes(damaged)
    _, [raw] = open_source().open().read(X)
    with pytest.raises(ReplicaCorrupt, match="flag/x: expected"):
        format.decode_record(X, raw)


def test_a_file_that_is_no_database_is_corrupt(folder, open_writer, open_source):
    open_writer().close()
    (Path(current_folder(folder)) / "data.mdb").write_bytes(b"x" * 20_000)
    source = open_source()
    assert source.open() is None
    assert isinstance(source.error, ReplicaCorrupt)
    assert "rebuild" in str(source.error)


def test_windows_is_sent_to_wsl(folder, open_writer, open_source, monkeypatch):
    open_writer().close()
    monkeypatch.setattr(sys, "platform", "win32")
    source = open_source()
    assert source.open() is None
    assert isinstance(source.error, UnsupportedPlatformError)
    assert "WSL" in str(source.error)


@pytest.fixture
def public_folder() -> Iterator[str]:
    """A folder that other users can reach (pytest's own is closed to them)."""
    path = tempfile.mkdtemp()
    Path(path).chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_reads_what_it_cannot_write(public_folder, run_script):
    outcome = run_script(
        f"FOLDER = {public_folder!r} + '/production'\n"
        "import os\n"
        "from control_plane.replica.source import ReplicaSource\n"
        "from control_plane.replica.writer import ReplicaWriter\n"
        "with ReplicaWriter.open(FOLDER) as writer, writer.write() as change:\n"
        "    change.put_record(b'\\1x', 1, b'seen', head_generation=1, served_generation=1)\n"
        "os.setuid(65534)\n"
        "source = ReplicaSource(FOLDER)\n"
        "print(source.open().read(b'\\1x')[1][0][-4:])\n"
        "for name in ('v1/1/data.mdb', 'v1/1/header'):\n"
        "    print(os.access(os.path.join(FOLDER, name), os.W_OK))\n"
        "for name in ('v1/1/lock.mdb', 'v1/daemon.lock'):\n"
        "    print(os.access(os.path.join(FOLDER, name), os.R_OK))\n"
        "print(os.listdir(FOLDER + '/v1/1'))\n"
    )
    assert outcome.stderr == ""
    lines = outcome.stdout.splitlines()
    assert lines[:5] == ["b'seen'", "False", "False", "False", "False"]
    assert sorted(eval(lines[5])) == ["data.mdb", "header", "lock.mdb"]
