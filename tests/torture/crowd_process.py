"""Many processes that read one replica at once: ROOT PUBLISHED PROCESSES READS.

Each opens the replica for itself; they begin together. Prints the sum of their counts; ``lost``
of them ended otherwise than well.
"""

from __future__ import annotations

import json
import os
import sys

from reading import COUNTED, Reading


def main(root: str, published: str, processes: int, reads: int) -> None:
    ready, told = os.pipe()
    gate, opened = os.pipe()
    results, answer = os.pipe()
    children = []
    for _ in range(processes):
        child = os.fork()
        if not child:
            os.close(opened)
            read_alone(root, published, reads, told, gate, answer)
        children.append(child)
    os.close(answer)
    for _ in children:
        os.read(ready, 1)
    os.close(opened)
    counts = dict.fromkeys(COUNTED, 0)
    with os.fdopen(results) as lines:
        for line in lines:
            for name, value in json.loads(line).items():
                counts[name] += value
    lost = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    print(json.dumps({**counts, "lost": lost}), flush=True)


def read_alone(root: str, published: str, reads: int, told: int, gate: int, answer: int) -> None:
    """What one child does; it never returns."""
    status = 1
    try:
        reading = Reading.open(root, published)
        reading.read_snapshot(0)
        os.write(told, b".")
        os.read(gate, 1)  # ends when the parent closes its side
        reading.go(reads)
        # Short enough to be written whole, whoever else writes.
        os.write(answer, json.dumps(reading.counts).encode() + b"\n")
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
