"""A process with reading threads and an open view that forks: METHOD READS CHILDREN.

Children come from a `multiprocessing` pool, a process for each. Prints the counts of each child,
and at the end those of the threads that read all the while, one JSON list.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import warnings

from preloaded import READING, read_on

THREADS = 3


def main(method: str, reads: int, children: int) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork beside threads
    stop = threading.Event()
    meanwhile = READING.beside()

    def read_meanwhile() -> None:
        while not stop.is_set():
            meanwhile.go(100)

    threads = [threading.Thread(target=read_meanwhile) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["preloaded"])
    with READING.client.pinned() as view:
        assert READING.read_view(view)
        with context.Pool(3, maxtasksperchild=1) as pool:
            counts = pool.map(read_on, [reads] * children, chunksize=1)
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps([*counts, meanwhile.counts]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
