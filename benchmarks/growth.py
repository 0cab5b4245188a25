"""What grows with time and must not: a store's memory, a node's memory, a replica's file.

* submissions: change sets of one kill each, from several connections at once, to a store with one
  node behind it; each a process of its own. Their resident memory, without what they map of their
  databases, after each fifth; what the first fifth takes is not growth.
* hour: a replica is committed to a hundred times a second for an hour. The writer's clock is told
  that much time went by between two commits, so that pins are made and dropped as they would be,
  with the grace period nodes have; the disk is not synced. Each commit changes one flag as the
  daemon does: record, head, document and position. The largest size of the file stands beside
  the pages that are in use at the end.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from benchmarks.memory import rss_without_kib
from benchmarks.reader_load import write_flags
from benchmarks.reading import definitions
from benchmarks.recorded import ENVIRONMENT
from control_plane.cli.project import create_project
from control_plane.cli.services import start_daemon, start_store
from control_plane.cli.settings import read_token
from control_plane.log.canonical import canonical
from control_plane.log.fold import Head
from control_plane.log.statements import Change, change_set
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import load_signer, sign_envelope
from control_plane.replica.format import FLAG, head_key, record_key
from control_plane.replica.writer import ReplicaWriter

CONNECTIONS = 4
PARTS = 5
FLAGS_EACH = 250
COMMITS_A_SECOND = 100
PIN_BUDGET_BYTES = 512 << 20


@dataclass(slots=True)
class Memory:
    """KiB of store and node after each fifth of the submissions."""

    store: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    seconds: float = 0.0


def submissions(folder: Path, count: int) -> Memory:
    """Submit so many change sets."""
    found = Memory()
    with ExitStack() as stack:
        log = stack.enter_context((folder / "services.log").open("wb"))
        project = create_project(
            folder / "project", installation="bench", environments=[ENVIRONMENT]
        )
        store, url = start_store(project, "127.0.0.1:0", say=_nothing, stderr=log)
        stack.callback(store.stop)
        node = start_daemon(
            project, url, folder / "replica", [ENVIRONMENT], say=_nothing, stderr=log
        )
        stack.callback(node.stop)
        token = read_token(project.private / "tokens" / "submit.token")
        authors = [_Author(url, token, project.private, number) for number in range(CONNECTIONS)]
        began = time.monotonic()
        for _ in range(PARTS):
            each = count // PARTS // CONNECTIONS
            with ThreadPoolExecutor(CONNECTIONS) as threads:
                list(threads.map(_Author.submit, authors, [each] * CONNECTIONS))
            found.store.append(rss_without_kib("store.sqlite3-shm", store.pid))
            found.node.append(rss_without_kib("data.mdb", node.pid))
        found.seconds = time.monotonic() - began
        for author in authors:
            author.client.close()
    return found


class _Author:
    """Kills and un-kills flags of its own, one after another, over one connection."""

    def __init__(self, url: str, token: str, private: Path, number: int) -> None:
        self.client = StoreClient(url, token)
        self._signer = load_signer(str(private / "keys" / "author.pem"))
        self._origin = str(self.client.position(ENVIRONMENT)["origin"])
        self._names = [f"flag-{number}-{flag}" for flag in range(FLAGS_EACH)]
        self._heads: dict[str, int] = {}
        self._done = 0

    def submit(self, count: int) -> None:
        """Submit so many."""
        for _ in range(count):
            name = self._names[self._done % FLAGS_EACH]
            off = (self._done // FLAGS_EACH) % 2 == 1
            change = Change(
                action="delete" if off else "put", kind="kill", name=name,
                replaces=self._heads.get(name), value=None if off else {"variant": None},
            )  # fmt: skip
            now_ms = time.time_ns() // 1_000_000
            statement, _ = change_set(
                self._origin, [change], created_at=now_ms, not_after=now_ms + 60_000,
                reason="benchmark", verb="kill",
            )  # fmt: skip
            envelope = sign_envelope(statement.envelope(), self._signer)
            generation = self.client.submit(ENVIRONMENT, envelope).generation
            if generation is None:
                raise RuntimeError("expected a generation, found a set that waits")
            self._heads[name] = generation
            self._done += 1


@dataclass(frozen=True, slots=True)
class Grown:
    """Bytes: of the file at its largest, of its pages in use, and what pins may keep."""

    file_bytes: int
    data_bytes: int
    budget_bytes: int = PIN_BUDGET_BYTES

    @property
    def limit_bytes(self) -> int:
        """Twice the data and what pins may keep."""
        return 2 * self.data_bytes + self.budget_bytes


def hour(folder: Path, flags: int, seconds: int) -> Grown:
    """Commit to a replica of so many flags for so many seconds of its writer's clock."""
    place = folder / ENVIRONMENT
    place.mkdir(parents=True)
    write_flags(place, flags)
    clock = _Clock()
    file = (place / "v1" / "current").resolve() / "data.mdb"
    order, largest = random.Random(5), 0
    with ReplicaWriter.open(
        str(place), development=True, sync=False, pin_budget_bytes=PIN_BUDGET_BYTES,
        monotonic=clock, sleep=clock.sleep,
    ) as writer:  # fmt: skip
        for number, name in enumerate(_names(flags, seconds * COMMITS_A_SECOND, order), 2):
            clock.sleep(1 / COMMITS_A_SECOND)
            with writer.write() as transaction:
                _change(transaction, name, number)
            if number % COMMITS_A_SECOND == 0:
                writer.tend()
                largest = max(largest, file.stat().st_size)
        target = writer._target
        data = target.environment.info()["last_pgno"] * 4096 - target.spare_bytes()
    return Grown(largest, data)


def _names(flags: int, count: int, order: random.Random) -> Iterator[str]:
    return (f"other-{order.randrange(flags - 400):06}" for _ in range(count))


def _change(transaction: Any, name: str, number: int) -> None:
    """What one entry with one flag changes in a replica."""
    metadata = definitions()["w1"]
    document = canonical({"kind": "flag", "name": name, "metadata": metadata})
    head = Head(number, f"{number:064x}", "", "apply", (f"{number:064x}",))
    transaction.generation = number
    transaction.put_record(
        record_key(FLAG, name), FLAG, msgpack.packb({"m": metadata, "k": None}),
        head_generation=number, served_generation=number,
    )  # fmt: skip
    transaction.heads.put(head_key("flag", name, ""), head.encode())
    transaction.blobs.put(f"live\0flag\0{name}".encode(), document)
    transaction.log.put(b"position", number.to_bytes(8, "little") * 64)


class _Clock:
    """A clock that goes by only when somebody sleeps."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time go by."""
        with self._lock:
            self._now += seconds


def _nothing(line: str) -> None:
    """What services print is of no interest here."""
