"""What `verify` notices."""

import threading
import time
from pathlib import Path

import pytest

from control_plane.errors import ReplicaUnavailable
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.statements import Key
from control_plane.replica import format, header
from control_plane.replica.header import HeaderWriter
from control_plane.replica.source import current_folder
from control_plane.replica.verify import verify

HEADS = {
    Key("flag", "x"): Head(1, "aa" * 32),
    Key("kill", "killed"): Head(2, "bb" * 32),
    Key("agent", "support", "v/1.0.0"): Head(3, "cc" * 32, "dd" * 32),
    Key("agent", "support", "c/stable"): Head(4, "ee" * 32),
    Key("tool", "gone", "v/1.0.0"): Head(5, ""),
    Key("segment", "beta", "s/0001"): Head(5, "ff" * 32),
}
RECORDS = [
    (format.FLAG, "x"),
    (format.FLAG, "killed"),
    (format.AGENT, "support", "1.0.0"),
    (format.CHANNEL, "agent", "support", "stable"),
    (format.SEGMENT, "beta", "0001"),
    (format.CONFIG, "", "database.url"),
]


@pytest.fixture
def write_replica(open_writer):
    """Write a replica of these heads and records."""

    def write(heads=HEADS, records=RECORDS, generation=5) -> None:
        with open_writer() as writer, writer.write() as change:
            change.generation = 5
            for key, head in heads.items():
                change.heads.put(format.head_key(*key), head.encode())
            for kind, *fields in records:
                change.put_record(
                    format.record_key(kind, *fields),
                    kind,
                    b"the body of " + fields[0].encode(),
                    head_generation=generation,
                    served_generation=1,
                )

    return write


def test_a_sound_replica_has_no_problems_and_the_root_of_its_heads(folder, write_replica):
    write_replica()
    report = verify(folder)
    assert report.problems == ()
    assert report.generation == 5
    assert report.records == {"flag": 2, "segment": 1, "config": 1, "agent": 1, "channel": 1}
    lines = [snapshot_line(key, head) for key, head in HEADS.items()]
    assert (report.heads, report.root) == snapshot_root(lines)


def test_a_head_without_record_and_a_record_without_head_are_named(folder, write_replica):
    heads = {key: head for key, head in HEADS.items() if key.kind != "kill"}
    records = [record for record in RECORDS if record != (format.AGENT, "support", "1.0.0")]
    write_replica(heads=heads, records=records)
    assert verify(folder).problems == (
        "agent/support v/1.0.0: expected a record for the head, found none",
        "flag/killed: expected a live head for the served record, found none",
    )


def test_a_generation_from_the_future_is_named(folder, write_replica):
    write_replica(records=[(format.CONFIG, "", "a")], heads={}, generation=9)
    assert verify(folder).problems == ("config//a: expected served <= head <= 5, found 1 and 9",)


def test_a_flipped_bit_is_named(folder, write_replica):
    write_replica()
    data = Path(current_folder(folder)) / "data.mdb"
    damaged = bytearray(data.read_bytes())
    damaged[damaged.rindex(b"the body of killed")] ^= 1
    data.write_bytes(damaged)
    problems = verify(folder).problems
    assert len(problems) == 2
    assert problems[0].startswith("flag/killed: expected kind 1")
    assert problems[1].startswith("kill/killed: expected a record")


def test_damaged_pages_are_named_and_not_read_through(folder, write_replica):
    write_replica()
    data = Path(current_folder(folder)) / "data.mdb"
    damaged = bytearray(data.read_bytes())
    page = damaged.rindex(b"the body of killed") // 4096 * 4096
    damaged[page + 10] ^= 0xFF
    data.write_bytes(damaged)
    report = verify(folder)
    assert report.problems
    assert all(problem.startswith("database: expected sound") for problem in report.problems)
    assert (report.records, report.root) == ({}, "")


def test_a_link_to_no_folder_is_unavailable(folder, open_writer):
    open_writer().close()
    Path(folder, "v1/current").unlink()
    Path(folder, "v1/current").symlink_to("7")
    with pytest.raises(ReplicaUnavailable, match="expected a database"):
        verify(folder)


def test_a_header_that_lies_is_named(folder, write_replica):
    write_replica()
    page = HeaderWriter(current_folder(folder) + "/header")
    page[header.GENERATION] = 4
    page[header.CONFIG_REVISION] = 99
    page.close()
    problems = verify(folder).problems
    assert problems[0] == "header: expected generation 5, found 4"
    assert problems[1].startswith("header: expected word 6 up to")


def test_a_header_that_a_commit_is_about_to_reach_is_waited_for(folder, write_replica):
    write_replica()
    page = HeaderWriter(current_folder(folder) + "/header")
    told = page[header.TXN_ID], page[header.GENERATION]
    page[header.TXN_ID], page[header.GENERATION] = told[0] - 1, told[1] - 1

    def tell() -> None:
        page[header.TXN_ID] = told[0]
        time.sleep(0.05)
        page[header.GENERATION] = told[1]

    writer = threading.Timer(0.1, tell)
    writer.start()
    try:
        assert verify(folder).problems == ()
    finally:
        writer.join()
        page.close()


def test_a_replica_is_verified_beside_its_running_writer(
    folder, open_writer, put_flag, start_reader
):
    writer = open_writer()
    for number in range(50):
        put_flag(writer, f"flag{number}")
    reader = start_reader()
    found = reader.ask(
        "__import__('control_plane.replica.verify').replica.verify.verify(source.folder).generation"
    )
    assert found == 50
