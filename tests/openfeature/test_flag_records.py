"""What two snapshots differ in, without a replica: shards, rings, records that are none."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from control_plane.openfeature import flag_records
from control_plane.openfeature.flag_records import FlagRecords
from control_plane.replica.format import DELETED, FLAG, SEGMENT, encode_record, record_key

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}
MEMBERS = b"m" * 16


class Snapshot:
    """Records in a dictionary."""

    def __init__(self, *records: dict[bytes, bytes]) -> None:
        self._records = {key: raw for each in records for key, raw in each.items()}

    def read(self, key: bytes) -> list[bytes | None]:
        return [self._records.get(key)]

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return [(k, raw) for k, raw in sorted(self._records.items()) if k.startswith(prefix)]


def record(kind: int, *fields: str, body: bytes, status: int = 0) -> dict[bytes, bytes]:
    key = record_key(kind, *fields)
    raw = encode_record(key, kind, body, head_generation=1, served_generation=1, status=status)
    return {key: raw}


def flag(name: str, when: Any = None) -> dict[bytes, bytes]:
    rules = [] if when is None else [{"name": "r", "when": when, "serve": "on"}]
    body = msgpack.packb({"m": {**ON_OFF, "rules": rules}, "k": None})
    return record(FLAG, name, body=body)


def sharded(name: str, shards: dict[str, bytes]) -> dict[bytes, bytes]:
    found = record(SEGMENT, name, body=msgpack.packb({"shards": 4}))
    for shard, body in shards.items():
        found |= record(SEGMENT, name, shard, body=body)
    return found


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    records = FlagRecords.of(before)
    return FlagRecords.of(after, records).changed_since(records)


@pytest.mark.parametrize("shard", ["0000", "000a", "00ff", "8000", "ffff"])
def test_a_change_of_any_shard_is_one_of_its_segment(shard: str) -> None:
    asking = flag("asking", {"$segment": "crowd"})
    beside = sharded("crowds", {"0000": MEMBERS})
    before = Snapshot(asking, beside, sharded("crowd", {shard: MEMBERS, "0001": MEMBERS}))
    after = Snapshot(asking, beside, sharded("crowd", {shard: MEMBERS * 2, "0001": MEMBERS}))
    gone = Snapshot(asking, beside, sharded("crowd", {"0001": MEMBERS}))
    assert changed(before, after) == changed(before, gone) == changed(gone, after) == ["asking"]
    other = Snapshot(
        asking,
        sharded("crowd", {shard: MEMBERS, "0001": MEMBERS}),
        sharded("crowds", {"0000": MEMBERS * 2}),
    )
    assert changed(before, other) == []


def test_flags_that_ask_each_other_in_a_ring_are_named_once() -> None:
    ring = flag("a", {"$flag": {"b": "on"}}) | flag("b", {"$flag": {"a": "on"}})
    before = Snapshot(ring, flag("c", {"$flag": {"a": "on"}}))
    after = Snapshot(before._records, flag("a", {"$not": {"$flag": {"b": "on"}}}))
    assert changed(before, after) == ["a", "b", "c"]


def test_a_flag_that_was_created_and_deleted_in_between_never_was() -> None:
    nothing = record(FLAG, "brief", body=b"", status=DELETED)
    assert changed(Snapshot(), Snapshot(nothing)) == []
    assert changed(Snapshot(flag("brief")), Snapshot(nothing)) == ["brief"]


@pytest.mark.parametrize(
    "body", [b"$flag", b"\xc1$segment", msgpack.packb({"m": {"$flag": 1}, "k": None}), b"\x05$flag"]
)
def test_a_record_that_is_no_flag_asks_for_nothing(body: bytes) -> None:
    broken = record(FLAG, "broken", body=body)
    before, after = Snapshot(flag("a"), broken), Snapshot(flag("a", {"x": 1}), broken)
    assert changed(before, after) == ["a"]


def test_only_records_that_are_new_and_may_ask_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def unpacking(body: bytes) -> Any:
        decoded.append(body)
        return msgpack.unpackb(body)

    monkeypatch.setattr(flag_records, "unpackb", unpacking)
    before = Snapshot(flag("plain"), flag("asking", {"$flag": {"plain": "on"}}))
    records = FlagRecords.of(before)
    assert len(decoded) == 1
    after = Snapshot(before._records, flag("plain", {"x": 1}))
    assert FlagRecords.of(after, records).changed_since(records) == ["asking", "plain"]
    assert len(decoded) == 1
