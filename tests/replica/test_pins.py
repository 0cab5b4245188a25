"""How long a snapshot stays readable, and what it may cost."""

from pathlib import Path

import pytest

from control_plane.replica import header
from control_plane.replica.header import map_header
from control_plane.replica.source import current_folder


def safe(folder: str) -> int:
    return map_header(current_folder(folder) + "/header")[8 * header.SAFE_TXNID]


def pinned(writer) -> int:
    # The pins are the only readers LMDB knows of, whoever else reads.
    return sum(
        line.strip()[:1].isdigit() for line in writer._live.environment.readers().split("\n")
    )


def test_a_view_lives_through_the_grace_period_and_then_expires(
    folder, open_writer, put_flag, start_reader, clock, remote_error
):
    writer = open_writer(grace_seconds=300)
    put_flag(writer, "x", b"old")
    reader = start_reader()
    reader.ask("views.append(source.open().view())")
    put_flag(writer, "x", b"new")
    clock.now += 2
    writer.tend()
    clock.now += 299
    put_flag(writer, "x", b"newer")
    [raw] = reader.ask("views[0].read(key('x'))")
    assert raw.endswith(b"old")
    clock.now += 2
    put_flag(writer, "x", b"newest")
    with pytest.raises(remote_error, match="ViewExpired"):
        reader.ask("views[0].read(key('x'))")
    assert reader.ask("body('x')") == b"newest"


def test_a_snapshot_that_was_the_newest_for_an_hour_still_gets_its_grace(
    folder, open_writer, put_flag, clock
):
    writer = open_writer(grace_seconds=300)
    put_flag(writer, "x", b"old")
    clock.now += 1
    writer.tend()
    for _ in range(3600):
        clock.now += 1
        writer.tend()
    hour_old = writer.txn_id
    put_flag(writer, "x", b"new")
    writer.tend()
    clock.now += 299
    writer.tend()
    assert safe(folder) <= hour_old
    clock.now += 1
    writer.tend()
    assert safe(folder) == writer.txn_id


def test_a_snapshot_is_refused_long_before_its_pages_may_be_reused(
    folder, open_writer, put_flag, clock
):
    writer = open_writer(grace_seconds=300)
    clock.now += 1
    put_flag(writer, "x")
    clock.now += 1
    writer.tend()
    clock.now += 300
    writer.tend()
    assert safe(folder) == writer.txn_id
    assert pinned(writer) == 2, "the snapshot that is refused now is still pinned"
    clock.now += 9.9
    writer.tend()
    assert pinned(writer) == 2
    clock.now += 0.1
    writer.tend()
    assert pinned(writer) == 1


def test_pins_are_taken_at_most_once_a_second_and_only_when_something_moved(
    open_writer, put_flag, clock
):
    writer = open_writer()
    for number in range(100):
        put_flag(writer, "x", str(number).encode())
        clock.now += 0.1
    assert pinned(writer) <= 11
    before = pinned(writer)
    clock.now += 1
    writer.tend()
    for _ in range(50):
        clock.now += 1
        writer.tend()
    assert pinned(writer) == before + 1


def test_pages_over_the_budget_shorten_the_grace_to_ten_seconds_and_no_less(
    folder, open_writer, clock
):
    writer = open_writer(grace_seconds=300, pin_budget_bytes=1 << 20)

    def overwrite(seconds: int) -> None:
        for number in range(seconds):
            with writer.write() as change:
                change.generation += 1
                change.blobs.put(b"blob", bytes([number]) * 200_000)
            clock.now += 1

    overwrite(9)
    assert safe(folder) == 1, "within ten seconds nothing expires, whatever it costs"
    overwrite(60)
    assert writer.txn_id - safe(folder) >= 10
    # Ten seconds offered and ten in leaving; without the budget it were 69 versions of 200 kB.
    assert (Path(current_folder(folder)) / "data.mdb").stat().st_size < 32 * 200_000


def test_hours_of_commits_leave_the_file_within_the_budget(folder, open_writer, clock):
    data_bytes, budget = 400_000, 6 << 20
    writer = open_writer(grace_seconds=300, pin_budget_bytes=budget, sync=False)
    file, sizes = Path(current_folder(folder)) / "data.mdb", []
    for second in range(4000):
        for part in range(2):
            with writer.write() as change:
                change.generation += 1
                change.blobs.put(b"blob %d" % (change.generation % 4), bytes([part]) * 100_000)
            clock.now += 0.5
        if second % 1000 == 999:
            sizes.append(file.stat().st_size)
    assert max(sizes) < 2 * data_bytes + budget
    assert sizes[0] == sizes[-1], "what the first minutes needed is enough for ever"


def test_within_the_budget_the_grace_period_is_kept(folder, open_writer, put_flag, clock):
    writer = open_writer(grace_seconds=300)
    for number in range(200):
        put_flag(writer, "x", str(number).encode())
        clock.now += 1
    assert safe(folder) == 1


def test_a_killed_reader_holds_nothing(open_writer, put_flag, start_reader, clock):
    writer = open_writer()
    put_flag(writer, "x")
    reader = start_reader()
    reader.ask("views.append(source.open().view())")
    reader.process.kill()
    reader.process.wait()
    assert pinned(writer) == 1
    clock.now += 1
    put_flag(writer, "x", b"on it goes")
    clock.now += 1
    writer.tend()
    clock.now += 320
    writer.tend()
    clock.now += 20
    writer.tend()
    assert pinned(writer) == 1
