"""Threads that meet in one table of flags: whoever is overtaken does not put back what is older."""

from __future__ import annotations

import msgpack

from control_plane.feature_flags.table import Library, Table
from control_plane.replica.format import FLAG, encode_record, record_key

KEY = record_key(FLAG, "first")


def record(number: int) -> bytes:
    variants = {"n": number, "no": 0}
    body = msgpack.packb({"m": {"variants": variants, "default": "n", "disabled": "no"}, "k": None})
    return encode_record(KEY, FLAG, body, head_generation=number, served_generation=number)


def test_a_thread_that_was_overtaken_answers_as_the_one_that_overtook_it() -> None:
    asked: list[bytes] = []

    def read(key: bytes) -> tuple[int, bytes | None]:
        asked.append(key)
        if len(asked) > 1:
            return 2, record(2)
        # This thread has its record and is stopped; a commit, and another thread asks.
        assert table.load_value("first") == 2
        return 1, record(1)

    table = Table(Library(), read, memoryview(bytes(8)).cast("Q"), 0)
    assert table.load_value("first") == 2
    assert table.values == {"first": 2}
    assert len(asked) == 2
