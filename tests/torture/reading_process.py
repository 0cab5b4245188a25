"""A process that reads: ROOT PUBLISHED READS THREADS USER; prints its counts, one line of JSON.

It opens the replica, says so, and begins when a line comes on stdin. SIGTERM ends it early.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from reading import Reading


def main(root: str, published: str, reads: int, threads: int, user: int) -> None:
    if user:
        os.setuid(user)
    reading = Reading.open(root, published)
    reading.read_snapshot(0)
    print("ready", flush=True)
    sys.stdin.readline()
    signal.signal(signal.SIGTERM, lambda number, frame: reading.stop())
    started = [threading.Thread(target=reading.go, args=(reads,)) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    reading.client.close()
    print(json.dumps(reading.counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(text) for text in sys.argv[3:6]))
