"""A writer that does as it is told: FOLDER, then a command a line on stdin, an answer a line.

``open``, ``open-rebuild``, ``commit NUMBER``, ``rebuild``, ``swap`` and ``close``; the answer is
``done``, or the class and the text of the error.
"""

from __future__ import annotations

import sys

from writing_process import store

from control_plane.errors import ControlPlaneError
from control_plane.replica.writer import ReplicaWriter


def do(folder: str, writer: ReplicaWriter | None, command: str, rest: list[str]) -> ReplicaWriter:
    if writer is None:
        return ReplicaWriter.open(
            folder, sync=False, rebuild=command == "open-rebuild", sleep=lambda seconds: None
        )
    if command == "commit":
        with writer.write() as change:
            store(change, int(rest[0]))
    else:
        getattr(writer, command)()
    return writer


def main(folder: str) -> None:
    writer: ReplicaWriter | None = None
    for line in sys.stdin:
        command, *rest = line.split()
        try:
            writer = do(folder, writer, command, rest)
        except ControlPlaneError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            continue
        if command == "close":
            writer = None
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
