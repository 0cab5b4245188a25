"""The writing side of `configuration`: a process that is the replica's one writer.

Arguments: the environment's folder, how many leaves the large namespace has. It writes the first
generation and answers ``ready``. Then one namespace and value a line: that document is merged, the
leaves that differ are written and committed, and the answer is one line of JSON: when the commit
began (``CLOCK_MONOTONIC``, ns), and the CPU time of it all, ns.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from control_plane.replica.compile import config_records
from control_plane.replica.format import CONFIG, record_key
from control_plane.replica.writer import ReplicaWriter

ENVIRONMENT = "production"
FIELDS = 50
TENANTS = 1_000
SPACES = 200
PER_SPACE = 50

Leaves = dict[tuple[str, str], bytes]


def document(name: str, changed: int = 0) -> dict[str, Any]:
    """A namespace of 50 whole numbers, of which ``changed`` decides one."""
    values = {f"f{number:02}": number for number in range(FIELDS)}
    metadata: dict[str, Any] = {"values": {**values, "f00": changed}}
    if name == "service":
        metadata["tenants"] = {f"tenant-{n}": {"f01": 1_000 + n} for n in range(TENANTS)}
    return {"kind": "config", "name": name, "metadata": metadata}


def large(leaves: int) -> dict[str, Any]:
    """A namespace of that many leaves, a hundred in each mapping."""
    groups = {
        f"g{group:04}": {f"k{n:02}": group * 100 + n for n in range(100)}
        for group in range(leaves // 100)
    }
    return {"kind": "config", "name": "large", "metadata": {"values": groups}}


def names() -> list[str]:
    """The namespaces whose leaves are watched."""
    return [f"space{number:03}" for number in range(SPACES)]


def merged(document: dict[str, Any]) -> Leaves:
    """The leaves of a document; all name the first generation, so that equal ones stay equal."""
    return config_records(document, (), ENVIRONMENT, 1)


def write(writer: ReplicaWriter, generation: int, before: Leaves, after: Leaves) -> None:
    """Commit the leaves that differ as one generation."""
    with writer.write() as transaction:
        for place, body in after.items():
            if before.get(place) != body:
                transaction.put_record(
                    record_key(CONFIG, *place), CONFIG, body,
                    head_generation=generation, served_generation=generation,
                )  # fmt: skip
        transaction.generation = generation


def main(folder: str, leaves: int) -> None:
    """Write, say so, and then write what each line asks for."""
    documents = [document(name) for name in ("service", *names())]
    if leaves:
        documents.append(large(leaves))
    held = {each["name"]: merged(each) for each in documents}
    everything = {place: leaf for space in held.values() for place, leaf in space.items()}
    with ReplicaWriter.open(folder, development=True, sync=False) as writer:
        write(writer, 1, {}, everything)
        print("ready", flush=True)
        for generation, line in enumerate(sys.stdin, 2):
            name, value = line.split()
            cpu = time.process_time_ns()
            after = merged(document(name, int(value)))
            began = time.monotonic_ns()
            write(writer, generation, held[name], after)
            spent = time.process_time_ns() - cpu
            held[name] = after
            print(json.dumps([began, spent]), flush=True)
            writer.tend()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
