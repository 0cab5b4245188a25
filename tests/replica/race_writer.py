"""A writer at full speed, for `test_race`: every commit rewrites the same records, all alike.

Commit i (generation i) stores i in each of KEYS, and throws other records about so that pages
move. Its clock runs 10 times as fast, so that within a test of seconds pins are taken, left and
dropped and their pages are reused; a reader stopped for over a second by a busy machine is still
safe. The pause bounds what the pins of those seconds keep to a few hundred megabytes.
"""

import random
import sys
import time

from control_plane.replica import format
from control_plane.replica.writer import ReplicaWriter

SPEED = 10
PAUSE_SECONDS = 50e-6
KEYS = [format.record_key(format.FLAG, f"flag{number}") for number in range(8)]


def main(folder: str, seconds: float) -> None:
    writer = ReplicaWriter.open(
        folder,
        sync=False,
        grace_seconds=10,
        monotonic=lambda: time.monotonic() * SPEED,
        sleep=lambda seconds: time.sleep(seconds / SPEED),
    )
    print("ready", writer.txn_id - writer.generation, flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with writer.write() as change:
            change.generation += 1
            body = change.generation.to_bytes(8, "big") * random.randint(1, 60)
            for key in KEYS:
                change.put_record(
                    key,
                    format.FLAG,
                    body,
                    head_generation=change.generation,
                    served_generation=change.generation,
                )
            other = b"%d" % random.randint(0, 500)
            if random.random() < 0.5:
                change.staging.put(other, bytes(random.randint(1, 6000)))
            else:
                change.staging.delete(other)
        time.sleep(PAUSE_SECONDS)
    print("commits", writer.generation, flush=True)
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
