"""A segment of a million members, from a file to the answer of a flag.

* publish: ``control-plane segment add NAME --from FILE`` with a million members, one a line, over a
  store and a node that follows it, each a process of its own on this host. Seconds of the author's
  process, and until the node has it; the most memory of each: the author's as the kernel counts it
  (``ru_maxrss``), those of store and node looked at 20 times a second, without what they map of
  their databases, beside what they had before.
* one more: the same for one member added to the million, and how many blobs the store got.
* lookup: a process that evaluates the flag which asks for the segment; see ``segment_reader``.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import circumstances, printed, program
from benchmarks.memory import rss_without_kib
from control_plane.cli.project import create_project
from control_plane.cli.services import COMMAND, start_daemon, start_store
from control_plane.cli.settings import Project, read_token
from control_plane.publish.publisher import Publisher

ENVIRONMENT = "production"
MEMBERS = 1_000_000
ASKED = 200_000
NAME = "everybody"
LOOK_SECONDS = 0.05

LOOKUP_NS = 2_000
ON_OFF = {"variants": {"on": True, "off": False}, "default": "off"}
FLAGS = {
    "asks": {**ON_OFF, "rules": [{"name": "in", "when": {"$segment": NAME}, "serve": "on"}]},
    "plain": {**ON_OFF, "default": "on"},
}


@dataclass(slots=True)
class Memory:
    """KiB of one service: before, and the most seen since."""

    process: int
    mapped: str
    before: int = 0
    peak: int = 0

    def look(self) -> None:
        """Look once."""
        self.peak = max(self.peak, rss_without_kib(self.mapped, self.process))


@dataclass(frozen=True, slots=True)
class Run:
    """One ``segment add``: seconds to its end and until the node had it, KiB of its process."""

    seconds: float
    seen_seconds: float
    author_kib: int
    blobs: int


class Installation:
    """A store, a node and an author's project in a folder."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        log = stack.enter_context((folder / "services.log").open("wb"))
        self.project: Project = create_project(
            folder / "project",
            installation="bench",
            environments=[ENVIRONMENT],
            store=f"unix:{folder}/store",
        )
        self.replica = folder / "replica"
        store, self.url = start_store(self.project, self.project.store, say=_nothing, stderr=log)
        stack.callback(store.stop)
        node = start_daemon(
            self.project, self.url, self.replica, [ENVIRONMENT], say=_nothing, stderr=log
        )
        stack.callback(node.stop)
        self.store = Memory(store.pid, "store.sqlite3-shm")
        self.node = Memory(node.pid, "data.mdb")

    def prepare(self) -> None:
        """The flags, and the segment with one member."""
        token = read_token(self.project.private / "tokens" / "submit.token")
        key = str(self.project.private / "keys" / "author.pem")
        with Publisher(self.url, key, token=token) as author:
            proposal = author.change(ENVIRONMENT, "benchmark")
            proposal.put({"kind": "segment", "name": NAME, "metadata": {"members": ["first"]}})
            for name, metadata in FLAGS.items():
                proposal.put({"kind": "flag", "name": name, "metadata": metadata})
            author.submit(proposal)

    def add(self, *arguments: str) -> Run:
        """Run ``segment add`` to its end."""
        from control_plane import ControlPlaneClient

        before = self._blobs()
        with ControlPlaneClient(str(self.replica), ENVIRONMENT) as client:
            began = time.monotonic()
            author = subprocess.Popen(
                [
                    sys.executable, *COMMAND, "segment", "add", NAME, *arguments,
                    "-e", ENVIRONMENT,
                ],
                cwd=self.project.folder, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            _, status, used = os.wait4(author.pid, 0)
            author.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - began
            if author.returncode:
                raise RuntimeError(f"expected an exit with 0, found {author.returncode}")
            client.wait_for(self._generation(), timeout_seconds=120)
            seen = time.monotonic() - began
        return Run(seconds, seen, used.ru_maxrss, self._blobs() - before)

    def _generation(self) -> int:
        token = read_token(self.project.private / "tokens" / "submit.token")
        with Publisher(self.url, token=token) as reader:
            return int(reader.store.position(ENVIRONMENT)["generation"])

    def _blobs(self) -> int:
        database = sqlite3.connect(self.project.private / "store.sqlite3")
        try:
            return int(database.execute("SELECT count(*) FROM blobs").fetchone()[0])
        finally:
            database.close()


@contextmanager
def watched(*memories: Memory) -> Iterator[None]:
    """Look at services' memory until the block ends."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            for memory in memories:
                memory.look()

    for memory in memories:
        memory.look()
        memory.before = memory.peak
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main(members: int = MEMBERS) -> None:
    """Print the tables."""
    print(f"\n{circumstances('benchmarks.segments')}; load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="segments") as made, ExitStack() as stack:
        folder = Path(made)
        found = Installation(stack, folder)
        found.prepare()
        file = folder / "members.txt"
        with file.open("w") as lines:
            lines.writelines(f"member-{number:07}\n" for number in range(members))
        with watched(found.store, found.node):
            many = found.add("--from", str(file))
        one = found.add("one-more")
        _print_published(members, many, one, found)
        arguments = (str(found.replica), str(members), str(min(ASKED, members)))
        _print_lookup(members, program("segment_reader", *arguments))


def _print_published(members: int, many: Run, one: Run, found: Installation) -> None:
    body = [
        (f"publish {members:,} members", f"{many.seconds:.1f}", f"{many.seen_seconds:.1f}",
         f"{many.blobs:,}", f"{many.author_kib / 1024:.0f}"),
        ("one member more", f"{one.seconds:.1f}", f"{one.seen_seconds:.1f}",
         f"{one.blobs:,}", f"{one.author_kib / 1024:.0f}"),
    ]  # fmt: skip
    head = ("segment add", "author s", "seen s", "blobs", "author MiB")
    printed("from a file to a node", head, body)
    services = [
        (label, f"{memory.before / 1024:.0f}", f"{memory.peak / 1024:.0f}")
        for label, memory in (("store", found.store), ("node", found.node))
    ]
    printed("memory meanwhile, MiB", ("service", "before", "peak"), services)


def _print_lookup(members: int, found: dict[str, Any]) -> None:
    body = [
        (label, f"{found[f'{key}_ns']:,.0f}", f"{found[f'{key}_p99_ns']:,.0f}", limit)
        for label, key, limit in (
            ("a member", "member", f"<= {LOOKUP_NS:,}"),
            ("a stranger", "stranger", f"<= {LOOKUP_NS:,}"),
            ("a flag without a segment", "plain", ""),
        )
    ]
    title = f"is_enabled of a flag that asks for {members:,} members, ns; {found['wrong']} wrong"
    printed(title, ("who is asked for", "median", "p99", "limit"), body)
    print(f"private memory grew by {found['growth_kib']} KiB over {found['asked']:,} lookups; <= 0")


def _nothing(line: str) -> None:
    """Services have nothing to say here."""


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MEMBERS)
