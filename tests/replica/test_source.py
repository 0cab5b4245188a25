"""A source through absence, appearance and swaps."""

import shutil
from pathlib import Path

import pytest

from control_plane.errors import ReplicaUnavailable
from control_plane.replica import format, header
from control_plane.replica.reader import OPEN, open_replica

X = format.record_key(format.FLAG, "x")


def test_an_absent_replica_is_zeros_and_a_reason(folder, open_source):
    source = open_source()
    assert source.open() is None
    assert isinstance(source.error, ReplicaUnavailable)
    assert folder in str(source.error)
    assert set(source.words) == {0}


def test_a_replica_that_appears_is_found_within_a_second_and_not_looked_for_more_often(
    folder, open_source, open_writer, clock
):
    source = open_source(clock=clock)
    assert source.open() is None
    open_writer().close()
    clock.now += 0.9
    assert source.open() is None
    clock.now += 0.1
    assert source.open() is not None
    assert source.error is None
    assert source.words[8 * header.FLAGS_REVISION] > 0


def test_a_swap_is_followed_by_a_reader_that_is_reading(open_writer, put_flag, start_reader):
    writer = open_writer()
    put_flag(writer, "x", b"old")
    reader = start_reader()
    assert reader.ask("body('x')") == b"old"
    revision = reader.ask("source.words[8 * header.FLAGS_REVISION]")
    writer.rebuild()
    put_flag(writer, "x", b"new")
    assert reader.ask("body('x')") == b"old"
    writer.swap()
    assert reader.ask("source.words[8 * header.FLAGS_REVISION]") > revision
    assert reader.ask("body('x')") == b"new"
    assert reader.ask("source.words[8 * header.FLAGS_REVISION]") > revision


def test_a_view_of_the_old_folder_is_served_after_the_swap(open_writer, put_flag, start_reader):
    writer = open_writer()
    put_flag(writer, "x", b"old")
    reader = start_reader()
    reader.ask("views.append(source.open().view())")
    writer.rebuild()
    writer.swap()
    assert reader.ask("body('x')") is None
    assert reader.ask("views[0].read(key('x'))[0][-3:]") == b"old"


def test_the_old_replica_serves_until_the_new_one_can_be_opened(
    folder, open_writer, put_flag, open_source, clock
):
    with open_writer() as writer:
        put_flag(writer, "x", b"old")
    source = open_source(clock=clock)
    old = source.open()
    with open_writer(rebuild=True) as writer:
        put_flag(writer, "x", b"new")
        writer.swap()
    Path(folder, "v1/2").rename(Path(folder, "v1/away"))
    assert source.open() is old
    assert source.error is not None
    assert source.open().read(X)[1][0][-3:] == b"old"
    Path(folder, "v1/away").rename(Path(folder, "v1/2"))
    clock.now += 1
    assert source.open().read(X)[1][0][-3:] == b"new"
    assert source.error is None


def test_a_folder_that_goes_while_it_is_opened_is_not_waited_for(
    folder, open_writer, put_flag, open_source, clock, monkeypatch
):
    """A slow reader: between the link it read and the folder it opens lie a swap and a deletion."""
    for body in (b"old", b"new"):
        with open_writer(rebuild=body == b"new") as writer:
            put_flag(writer, "x", body)
            if body == b"new":
                source = open_source(clock=clock)
                assert source.open() is not None
                writer.swap()
    slow = []

    def open_late(directory):
        if not slow:
            slow.append(directory)
            with open_writer(rebuild=True) as writer:
                put_flag(writer, "x", b"newest")
                writer.swap()
            shutil.rmtree(directory)
        return open_replica(directory)

    monkeypatch.setattr("control_plane.replica.source.open_replica", open_late)
    assert source.open().read(X)[1][0][-6:] == b"newest"
    assert source.error is None
    assert slow


def test_the_replica_left_by_a_swap_is_closed_a_minute_later(
    open_writer, put_flag, open_source, clock
):
    with open_writer() as writer:
        put_flag(writer, "x", b"old")
    source = open_source(clock=clock)
    old = source.open()
    with open_writer(rebuild=True) as writer:
        writer.swap()
    source.open()
    # A thread that took the old one a moment ago can still read it.
    assert old.read(X)[1][0][-3:] == b"old"
    clock.now += 60
    source.open()
    assert list(OPEN._replicas.values()) == [source.open()]
    with pytest.raises(ReplicaUnavailable):
        old.read(X)


def test_a_deleted_replica_is_still_served(folder, open_writer, put_flag, open_source):
    with open_writer() as writer:
        put_flag(writer, "x", b"old")
    source = open_source()
    source.open()
    shutil.rmtree(folder)
    assert source.open().read(X)[1][0][-3:] == b"old"


def test_a_closed_source_stays_closed(open_writer, open_source):
    open_writer().close()
    source = open_source()
    source.open()
    source.close()
    source.close()
    assert source.open() is None
    assert "closed" in str(source.error)
    assert OPEN._replicas == {}
