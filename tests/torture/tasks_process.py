"""A Celery worker with a prefork pool on an in-memory broker: FOLDER READS TASKS.

The client is opened and read from before the pool forks, and by a thread meanwhile. Prints each
task's counts, one JSON list.
"""

from __future__ import annotations

import json
import sys
import threading

from celery import Celery
from celery.contrib.testing.worker import start_worker
from preloaded import READING, read_on

app = Celery("torture", broker="memory://", backend=f"file://{sys.argv[1]}")


@app.task(name="read")
def read(reads: int) -> dict[str, int]:
    """Read in a worker process."""
    return read_on(reads)


def main(reads: int, tasks: int) -> None:
    stop = threading.Event()

    def read_meanwhile() -> None:
        while not stop.is_set():
            READING.beside().go(100)

    thread = threading.Thread(target=read_meanwhile)
    thread.start()
    with start_worker(
        app, pool="prefork", concurrency=3, perform_ping_check=False, loglevel="ERROR"
    ):
        results = [read.delay(reads) for _ in range(tasks)]
        counts = [result.get(timeout=100) for result in results]
        stop.set()
        thread.join()
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[2]), int(sys.argv[3]))
