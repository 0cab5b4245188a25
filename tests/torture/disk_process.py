"""A writer on a disk that may be full: FOLDER ACTION NUMBER; prints ``done`` or what refused it.

Actions: ``start`` only opens the replica, ``commit`` stores the number, ``large`` stores it with
four megabytes beside it, which the next commit removes, ``rebuild`` stores it in a new folder and
swaps that in, ``pins`` commits until eighty pins are held.
"""

from __future__ import annotations

import sys

from writing_process import store

from control_plane.errors import ReplicaUnwritable
from control_plane.replica.writer import ReplicaWriter


def act(folder: str, action: str, number: int) -> None:
    now = [1_000.0]
    with ReplicaWriter.open(
        folder, grace_seconds=1_000, monotonic=lambda: now[0], sleep=lambda seconds: None
    ) as writer:
        if action == "start":
            return
        if action == "rebuild":
            writer.rebuild()
        for step in range(80 if action == "pins" else 1):
            with writer.write() as change:
                store(change, number + step)
                change.blobs.delete(b"large")
                if action == "large":
                    change.blobs.put(b"large", bytes(4 << 20))
            now[0] += 1
        if action == "rebuild":
            writer.swap()


def main(folder: str, action: str, number: int) -> None:
    try:
        act(folder, action, number)
    except ReplicaUnwritable as error:
        print(error)
    else:
        print("done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
