"""The form in which a held entry lies in the replica."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from control_plane.errors import ReplicaCorrupt
from control_plane.log.statements import Key
from control_plane.replica.held import HeldEntry, held_key

DIGEST = "ab" * 32
ENTRY = HeldEntry(
    7, b"leaf", (Key("flag", "x"), Key("segment", "s", "s/0000")), "lost",
    {Key("flag", "x"): DIGEST}, (DIGEST, "cd" * 32), DIGEST, DIGEST,
)  # fmt: skip


def fields(**changed: Any) -> bytes:
    packed: bytes = msgpack.packb(msgpack.unpackb(ENTRY.encode()) | changed)
    return packed


def test_a_held_entry_reads_back() -> None:
    assert HeldEntry.decode(held_key(7), ENTRY.encode()) == ENTRY
    bare = HeldEntry(7, b"leaf", (Key("flag", "x"),), "lost")
    assert HeldEntry.decode(held_key(7), bare.encode()) == bare


def test_a_field_of_a_later_version_is_no_damage() -> None:
    assert HeldEntry.decode(held_key(7), fields(since=3)) == ENTRY


@pytest.mark.parametrize(
    "data",
    [
        fields(entry="leaf"),
        fields(entry=None),
        fields(keys="flag"),
        fields(keys=[["flag", "x"]]),
        fields(keys=[["flag", "x", 1]]),
        fields(keys={"flag": 1}),
        fields(reason=1),
        fields(missing=[["flag", "x", "", 1]]),
        fields(missing=[["flag", "x", DIGEST]]),
        fields(missing=[["flag", "x", "", DIGEST, "more"]]),
        fields(missing={"a": "b"}),
        fields(kept="ab"),
        fields(kept=["no digest"]),
        fields(kept=[1]),
        fields(root=0),
        fields(targets=None),
        msgpack.packb([1, 2]),
        msgpack.packb({"entry": b"leaf"}),
    ],
)
def test_a_held_entry_with_fields_of_other_types_is_corrupt(data: bytes) -> None:
    with pytest.raises(ReplicaCorrupt, match="held entry: expected its fields"):
        HeldEntry.decode(held_key(7), data)


def test_a_held_entry_lies_under_its_generation() -> None:
    for key in (b"", b"\0" * 7, b"\0" * 9):
        with pytest.raises(ReplicaCorrupt, match="held entry"):
            HeldEntry.decode(key, ENTRY.encode())
