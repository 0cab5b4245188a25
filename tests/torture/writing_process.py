"""A writer at full speed: every commit stores its own number everywhere, then says so.

Commit i (generation i) stores i as the value of each flag in `NAMES` and throws other records
about, so that pages move. After the commit has returned it stores i in the `published` page, a
file of eight bytes: from then on an answer below i is stale. With ``swap_seconds`` it rebuilds
the replica beside and swaps it in, again and again.

Its clock runs ``speed`` times as fast, so that pins are taken, left and dropped and their pages
reused within a test of seconds: grace period and margin last 10 / ``speed`` seconds each.
SIGTERM ends it after a commit; it prints how many commits and swaps there were.
"""

from __future__ import annotations

import json
import mmap
import random
import signal
import sys
import time
from pathlib import Path

import msgpack

from control_plane.replica.format import FLAG, record_key
from control_plane.replica.writer import ReplicaWriter, WriteTransaction

NAMES = ("first", "second", "third", "fourth")
KEYS = tuple(record_key(FLAG, name) for name in NAMES)
# What the pins of a second keep stays within a few hundred megabytes.
PAUSE_SECONDS = 50e-6


def publish_page(path: str) -> memoryview:
    """Map the page that says which commit has returned."""
    with Path(path).open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")


def store(change: WriteTransaction, number: int) -> None:
    """Store ``number`` in every flag, as generation ``number``."""
    change.generation = number
    definition = {"variants": {"n": number, "no": 0}, "default": "n", "disabled": "no"}
    body = msgpack.packb({"m": definition, "k": None})
    for key in KEYS:
        change.put_record(key, FLAG, body, head_generation=number, served_generation=number)
    other = b"%d" % random.randint(0, 500)
    if random.random() < 0.5:
        change.staging.put(other, bytes(random.randint(1, 6000)))
    else:
        change.staging.delete(other)


def main(folder: str, published: str, speed: float, swap_seconds: float) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    page = publish_page(published)
    commits = swaps = 0
    with ReplicaWriter.open(
        folder,
        sync=False,
        grace_seconds=10,
        monotonic=lambda: time.monotonic() * speed,
        sleep=lambda seconds: time.sleep(seconds / speed),
    ) as writer:
        number = writer.generation
        next_swap = time.monotonic() + swap_seconds
        while not stopping:
            number += 1
            swapping = swap_seconds > 0 and time.monotonic() > next_swap
            if swapping:
                writer.rebuild()
            with writer.write() as change:
                store(change, number)
            if swapping:
                writer.swap()
                swaps += 1
                next_swap = time.monotonic() + swap_seconds
            page[0] = number
            commits += 1
            if number % 256 == 0:
                writer.heartbeat()
                writer.tend()
            if commits == 1:
                print("ready", flush=True)
            time.sleep(PAUSE_SECONDS)
    print(json.dumps({"commits": commits, "swaps": swaps}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
