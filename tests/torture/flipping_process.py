"""A writer that flips what a flag asks for, and the flag, in one commit each.

Commit i (generation i) is *on* where i is even. On and off alternate in ``base`` (the variant it
serves), in the segments ``listed`` and ``sharded`` (who is a member: ANN or BOB), and in the rules
that ask for them, so that in every generation each of `ASKING` serves to ANN by its rule:

    value-flag, value-listed, value-sharded     i; by their default -i, where something is mixed
    bool-flag, bool-listed, bool-sharded        true; by their default false

After the commit has returned it stores i in the ``published`` page: from then on an answer below i
is stale. It commits in bursts of 64 at full speed; between bursts it rests, if told to, while the
answers of one table are given again and again. Arguments: folder, page, how many times as fast its
clock runs, and the seconds to rest. SIGTERM ends it.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

import msgpack
from writing_process import PAUSE_SECONDS, publish_page

from control_plane.feature_flags.segments import shard_of
from control_plane.replica.compile import packed_members
from control_plane.replica.format import FLAG, SEGMENT, record_key
from control_plane.replica.writer import ReplicaWriter, WriteTransaction

ANN, BOB = "ann", "bob"
ASKED = ("flag", "listed", "sharded")
VALUES = tuple(f"value-{each}" for each in ASKED)
BOOLS = tuple(f"bool-{each}" for each in ASKED)
BITS = 3
BURST = 64


def records(number: int) -> dict[bytes, tuple[int, Any]]:
    """The kind and the body of every record of a generation."""
    on = number % 2 == 0
    member = ANN if on else BOB
    state = "on" if on else "off"
    found: dict[bytes, tuple[int, Any]] = {
        record_key(FLAG, "base"): (FLAG, flag({"on": 1, "off": 0}, state)),
        record_key(SEGMENT, "listed"): (SEGMENT, {"members": packed_members([member])}),
        record_key(SEGMENT, "sharded"): (SEGMENT, {"shards": BITS}),
    }
    for each in (ANN, BOB):
        # The two lie in different shards: an empty one is a record too.
        held = packed_members([each] if each == member else [])
        found[record_key(SEGMENT, "sharded", shard(each))] = (SEGMENT, held)
    for asked in ASKED:
        when: dict[str, Any] = {"$flag": {"base": state}}
        if asked != "flag":
            when = {"$segment": asked}
            when = when if on else {"$not": when}
        rules = [{"name": "together", "when": when, "serve": "n"}]
        found[record_key(FLAG, f"value-{asked}")] = (
            FLAG, flag({"n": number, "no": -number}, "no", rules),
        )  # fmt: skip
        found[record_key(FLAG, f"bool-{asked}")] = (
            FLAG, flag({"n": True, "no": False}, "no", rules),
        )  # fmt: skip
    return found


def shard(member: str) -> str:
    """The shard a member lies in."""
    return shard_of(packed_members([member]), BITS)


def flag(variants: dict[str, Any], default: str, rules: Any = ()) -> dict[str, Any]:
    """A flag record's content."""
    disabled = list(variants)[-1]
    metadata = {"variants": variants, "default": default, "disabled": disabled}
    return {"m": metadata | ({"rules": list(rules)} if rules else {}), "k": None}


def store(change: WriteTransaction, number: int) -> None:
    """Store generation ``number`` whole."""
    change.generation = number
    for key, (kind, content) in records(number).items():
        body = content if isinstance(content, bytes) else msgpack.packb(content)
        change.put_record(key, kind, body, head_generation=number, served_generation=number)


def main(folder: str, published: str, speed: float, rest: float) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    page = publish_page(published)
    if shard(ANN) == shard(BOB):
        raise RuntimeError("expected two members in different shards")
    with ReplicaWriter.open(
        folder,
        sync=False,
        grace_seconds=10,
        monotonic=lambda: time.monotonic() * speed,
        sleep=lambda seconds: time.sleep(seconds / speed),
    ) as writer:
        while not stopping:
            number = writer.generation + 1
            with writer.write() as change:
                store(change, number)
            page[0] = number
            if number % 256 == 0:
                writer.heartbeat()
                writer.tend()
            if number == 1:
                print("ready", flush=True)
            time.sleep(PAUSE_SECONDS if number % BURST else rest)
    print(json.dumps({"commits": number}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
