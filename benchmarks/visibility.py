"""How long from submitting a change to seeing it in another process of the node.

The workload: a store on SQLite, a daemon following it and a process that polls one flag through the
library, each a process of its own on this host. One change of that flag every 100 ms. t0 is taken
before the submit request; t1 is taken by the poller when the flag's value has changed; both are
CLOCK_MONOTONIC. In between the store judges the set, writes and syncs the entry, signs the
checkpoint and writes it; the daemon gets both, verifies them, commits and syncs. A second line
counts from before the upload of the flag's blob, which the store writes and syncs too.

The baseline in the same run, between the changes: two writes of 4 KiB, each synced, on the same
file system, and one HTTP round trip to the same store over a kept connection. Nothing durable at
both ends can be faster than that on this machine.

    python -m benchmarks.visibility [--changes 500] [--kills]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.resources import as_file
from pathlib import Path
from typing import Any

from control_plane.cli.children import Child
from control_plane.cli.project import create_project, templates
from control_plane.cli.services import start_daemon, start_store
from control_plane.cli.settings import read_token
from control_plane.publish.client import StoreClient
from control_plane.publish.publisher import Publisher

ENVIRONMENT = "production"
PERIOD_SECONDS = 0.1
FLAG = "visibility"
PAGE = b"\x55" * 4096


def main(arguments: Sequence[str] = ()) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.visibility")
    parser.add_argument("--changes", type=int, default=500, help="changes, one every 100 ms")
    parser.add_argument("--kills", action="store_true", help="kill and un-kill instead of put")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        measured = measure(stack, options.changes, options.kills)
    _print(measured, options)
    return 0


@dataclass(slots=True)
class Measured:
    """Milliseconds of each change, and of the baseline between them."""

    submit_ms: list[float] = field(default_factory=list)
    upload_and_submit_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)


def measure(stack: ExitStack, changes: int, kills: bool) -> Measured:
    """Start the processes, make the changes, and end the processes with ``stack``."""
    programs = stack.enter_context(as_file(templates() / "demo"))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="visibility-")))
    project = create_project(folder / "project", installation="bench", environments=[ENVIRONMENT])
    log = stack.enter_context((folder / "services.log").open("wb"))
    store, url = start_store(project, "127.0.0.1:0", say=_nothing, stderr=log)
    stack.callback(store.stop)
    replica = folder / "replica"
    daemon = start_daemon(project, url, replica, [ENVIRONMENT], say=_nothing, stderr=log)
    stack.callback(daemon.stop)
    token = read_token(project.private / "tokens" / "submit.token")
    author = stack.enter_context(
        Publisher(StoreClient(url, token), str(project.private / "keys" / "author.pem"))
    )
    _submit(author, on=False, kills=False)
    watcher = stack.enter_context(
        Child(
            "watcher",
            [str(programs / "watcher.py"), FLAG, str(changes)],
            variables={
                "CONTROL_PLANE_REPLICA": str(replica),
                "CONTROL_PLANE_ENVIRONMENT": ENVIRONMENT,
            },
        )
    )
    watcher.line("ready False")
    baseline = stack.enter_context((folder / "baseline").open("wb", buffering=0))
    measured = Measured()
    begin = time.monotonic()
    for number in range(changes):
        time.sleep(max(begin + number * PERIOD_SECONDS - time.monotonic(), 0))
        on = number % 2 == 0
        upload_ns, submit_ns = _submit(author, on=on, kills=kills)
        seen_ns = int(watcher.line(str(on)).split()[1])
        measured.submit_ms.append((seen_ns - submit_ns) / 1e6)
        measured.upload_and_submit_ms.append((seen_ns - upload_ns) / 1e6)
        measured.bare_ms.append(_bare_ms(baseline.fileno(), author.store))
    return measured


def _submit(author: Publisher, *, on: bool, kills: bool) -> tuple[int, int]:
    """Submit the change; when its upload and its submit request began, after it was signed."""
    change = author.change(ENVIRONMENT, "benchmark")
    if kills and on:
        change.kill(FLAG, "on")
    elif kills:
        change.unkill(FLAG)
    else:
        change.put(_flag(on))
    signed = author.sign(change)
    upload_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for data in signed.blobs.values():
        author.store.put_blob(ENVIRONMENT, data)
    submit_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    author.store.submit(ENVIRONMENT, signed.envelope)
    return upload_ns, submit_ns


def _flag(on: bool) -> dict[str, Any]:
    return {
        "kind": "flag",
        "name": FLAG,
        "metadata": {"variants": {"on": True, "off": False}, "default": "on" if on else "off"},
    }


def _bare_ms(descriptor: int, store: StoreClient) -> float:
    began_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for _ in range(2):
        os.write(descriptor, PAGE)
        os.fsync(descriptor)
    store.checkpoint(ENVIRONMENT)
    return (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - began_ns) / 1e6


def _print(measured: Measured, options: argparse.Namespace) -> None:
    what = "kill or un-kill" if options.kills else "put of a flag"
    kills = " --kills" if options.kills else ""
    print(f"publish to visible: {what}, {options.changes} changes, one every 100 ms")
    print(f"  {'':<44}{'median':>9}{'p99':>10}")
    for name, values in (
        ("submit to seen by a polling process", measured.submit_ms),
        ("the same with the upload of the blob", measured.upload_and_submit_ms),
        ("bare: 2 synced 4 KiB writes, 1 round trip", measured.bare_ms),
    ):
        print(f"  {name:<44}{statistics.median(values):>6.2f} ms{_p99(values):>7.2f} ms")
    print(f"  Python {sys.version.split()[0]}, commit {_commit()}")
    print(f"  python -m benchmarks.visibility --changes {options.changes}{kills}")


def _p99(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _nothing(line: str) -> None:
    """What services print is of no interest here."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
