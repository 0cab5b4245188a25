"""The writing side of these tests: LMDB lets a process open a file once, so it is another one.

Reads one JSON object a line, does it, answers one JSON line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from control_plane.replica.writer import ReplicaWriter


def commit(writer: ReplicaWriter, records: list[dict[str, Any]]) -> int:
    with writer.write() as transaction:
        transaction.generation += 1
        for record in records:
            key = bytes.fromhex(record["key"])
            if record["body"] is None:
                transaction.delete_record(key)
                continue
            transaction.put_record(
                key,
                key[0],
                bytes.fromhex(record["body"]),
                head_generation=transaction.generation,
                served_generation=transaction.generation,
                status=record["status"],
            )
        return transaction.generation


def main() -> None:
    writers: dict[str, ReplicaWriter] = {}
    for line in sys.stdin:
        request = json.loads(line)
        folder = request["folder"]
        if folder not in writers:
            writers[folder] = ReplicaWriter.open(folder, development=True, sync=False)
        writer = writers[folder]
        generation = 0
        if request["do"] == "close":
            writers.pop(folder).close()
        elif request["do"] == "swap":
            writer.rebuild()
            generation = commit(writer, request["records"])
            writer.swap()
        elif request["do"] == "each":
            # One commit after the other, as fast as they can be made.
            for records in request["states"]:
                generation = commit(writer, records)
        else:
            generation = commit(writer, request["records"])
        print(json.dumps({"generation": generation}), flush=True)


if __name__ == "__main__":
    main()
