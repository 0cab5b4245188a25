"""The same flags and questions put to other libraries that evaluate in the process.

For each size one set of flags, of the four kinds of `reading`, a quarter each, written in the form
each library reads without a network (see `benchmarks.sdks`), and asked for by its normal call with
its context prepared. A library that is not installed has a row that says so.

* latency: ours, with counting off and on, and F, in the same process and run as the library; each
  library has a process of its own, as some have threads that would disturb others. Medians and
  p99 of batch means, as `harness` has them. ``x`` is the ratio to ours, counting on, in that run;
  ours and F are of the run without a library. Answers are compared before anything is timed.
* start: a fresh process that imports, opens the flags and evaluates one of W2, beside one that
  does nothing, in turn; medians of 5, up to the answer. Ours counts, as it does unless told not to.
* memory: Private_Dirty after 100 of the flags were evaluated, over that after the imports.
* change: until a process that asks one flag every 0.1 ms sees it changed by another process: the
  median of 5. The clock starts before the commit (ours, durable) or before the finished file is
  renamed into place. A library without an update path for local flags is given the file anew when
  it has changed. ``by`` says how it is seen; what is polled is seen half a period later on average.

    python -m benchmarks peers [--flags 100 --flags 10000 --flags 100000] [--only NAME …]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgpack

from benchmarks.harness import circumstances, fresh_process, keeping, printed
from benchmarks.peer_process import CHANGED, KINDS, names_of
from benchmarks.reading import OF_EACH, PILOTS, definitions
from control_plane.replica.format import FLAG, record_key
from control_plane.replica.writer import ReplicaWriter

SIZES = (100, 10_000, 100_000)
PEERS = ("eppo", "statsig", "growthbook", "launchdarkly", "unleash", "flagd")
STARTS = 5
CHANGES = 5
ROOT = Path(__file__).parent.parent

BARE = "import os; os._exit(0)"
START = """
import os, sys
sys.path.insert(0, sys.argv[3])
sdk = __import__("benchmarks.sdks." + sys.argv[1], fromlist=[""])
sdk.imports()
client = sdk.opened(sys.argv[2])
attributes = {"plan": "pro", "country": "FR", "region": "eu", "seats": 40}
name, tenant, context = "w2-000", "tenant-0", sdk.context("tenant-0", attributes)
assert eval(sdk.CALLS["w2"]) is True
os._exit(0)
"""


def main(arguments: Sequence[str] = ()) -> None:
    """Measure all libraries that are installed, at each size, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers")
    parser.add_argument("--flags", type=int, action="append", help="how many, once for each size")
    parser.add_argument("--only", action="append", choices=PEERS, help="these libraries alone")
    options = parser.parse_args(arguments)
    versions = {name: _version(name) for name in options.only or PEERS}
    if not any(versions.values()):
        print("peers: none is installed; pip install 'control-plane[bench]'")
        return
    command = "".join(f" --flags {size}" for size in options.flags or ())
    command += "".join(f" --only {name}" for name in options.only or ())
    print(circumstances(__name__) + command)
    print(f"load before: {Path('/proc/loadavg').read_text().split()[0]}")
    for size in options.flags or SIZES:
        _size(size, versions)


def _version(name: str) -> str | None:
    """The version of a library that can be imported here, else None."""
    distribution = import_module(f"benchmarks.sdks.{name}").DISTRIBUTION
    program = f"from benchmarks.sdks import {name}; {name}.imports()"
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return None
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT)
    return found if done.returncode == 0 else None


def _size(size: int, versions: dict[str, str | None]) -> None:
    kinds = min(OF_EACH, size // 4)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        flags = _flags(size, kinds)
        with _replica(folder / "replica", flags) as writer:
            measured = Measured(folder, flags, kinds, writer)
            times, others = measured.ours()
            for name, found in versions.items():
                if found is None:
                    label = import_module(f"benchmarks.sdks.{name}").DISTRIBUTION
                    times.append((label, "not installed", *[""] * 11))
                    others.append((label, "not installed", "", "", ""))
                else:
                    timed, rest = measured.peer(name, found)
                    times.append(timed)
                    others.append(rest)
    head = [word for kind in KINDS for word in (kind.upper(), "p99", "x")]
    printed(f"Latency, {size:,} flags; ns", ("library", *head), times)
    printed(
        f"Start, memory and change, {size:,} flags",
        ("library", "start ms", "memory KiB", "change ms", "by"),
        others,
    )


def _flags(size: int, kinds: int) -> dict[str, str]:
    named = {name: kind for kind in KINDS for name in names_of(kind, kinds)}
    for number in range(size - len(named)):
        named[f"other-{number:06}"] = KINDS[number % len(KINDS)]
    return named


@contextmanager
def _replica(root: Path, flags: dict[str, str]) -> Iterator[ReplicaWriter]:
    with ReplicaWriter.open(str(root / "production"), development=True) as writer:
        _commit(writer, flags, 1)
        yield writer


def _commit(writer: ReplicaWriter, flags: dict[str, str], generation: int) -> None:
    kinds = definitions()
    kinds["w0"] = {**kinds["w1"], "default": "off"}
    bodies = {kind: msgpack.packb({"m": kinds[kind], "k": None}) for kind in kinds}
    with writer.write() as transaction:
        transaction.generation = generation
        for name in sorted(flags):
            transaction.put_record(
                record_key(FLAG, name), FLAG, bodies[flags[name]],
                head_generation=generation, served_generation=generation,
            )  # fmt: skip


class Measured:
    """What is measured of one size."""

    def __init__(
        self, folder: Path, flags: dict[str, str], kinds: int, writer: ReplicaWriter
    ) -> None:
        self._folder = folder
        self._flags = flags
        self._kinds = kinds
        self._writer = writer
        self._root = str(folder / "replica")
        self._order = random.Random(3)
        self._bytecode = folder / "bytecode"
        self._environment = keeping(self._bytecode)

    def ours(self) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        """The rows of F and of ours."""
        found = self._latency("ours", self._root)
        rows = [("F", *(f"{each:,.0f}" for each in found["F"]), *[""] * 10)]
        for label in ("ours off", "ours"):
            shown = "control-plane" + (", counting off" if label == "ours off" else "")
            rows.append((shown, *_cells(found, label)))
        rest = ("control-plane", *self._rest("ours", self._root))
        return rows, [rest]

    def peer(self, name: str, found: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The two rows of a library."""
        sdk = import_module(f"benchmarks.sdks.{name}")
        file = self._folder / f"{name}.json"
        file.write_bytes(sdk.document(self._flags, PILOTS))
        label = f"{sdk.DISTRIBUTION} {found}"
        timed = (label, *_cells(self._latency(name, str(file)), "peer"))
        rest = (label, *self._rest(name, str(file)))
        file.unlink()
        return timed, rest

    def _latency(self, name: str, file: str) -> dict[str, list[float]]:
        answer: dict[str, list[float]] = json.loads(self._process("latency", name, file))
        return answer

    def _rest(self, name: str, file: str) -> tuple[str, ...]:
        start = self._start(name, file)
        memory = int(self._process("memory", name, file))
        change = self._change(name, file)
        by = import_module(f"benchmarks.sdks.{name}").SEEN_BY
        return f"{start:,.1f}", f"{memory:,}", f"{change:,.2f}", by

    def _process(self, what: str, name: str, file: str) -> str:
        done = subprocess.run(
            self._command(what, name, file),
            check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self._environment,
        )  # fmt: skip
        return done.stdout.splitlines()[-1]

    def _command(self, what: str, name: str, file: str) -> list[str]:
        program = [sys.executable, "-m", "benchmarks.peer_process", what, name, file]
        return [*program, str(self._kinds), self._root]

    def _start(self, name: str, file: str) -> float:
        """Milliseconds over the bare interpreter."""
        bare: list[float] = []
        whole: list[float] = []
        for _ in range(1 + STARTS):
            bare.append(fresh_process(BARE, [], self._bytecode)[0])
            whole.append(fresh_process(START, [name, file, str(ROOT)], self._bytecode)[0])
        # The first wrote the compiled modules.
        return statistics.median(whole[1:]) - statistics.median(bare[1:])

    def _change(self, name: str, file: str) -> float:
        """Milliseconds until another process sees a flag changed."""
        taken = []
        with subprocess.Popen(
            self._command("changes", name, file),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=self._environment,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            while process.stdout.readline() != "ready\n":
                if process.poll() is not None:
                    raise RuntimeError(f"{name}: expected a process that is ready, found it ended")
            for number in range(CHANGES):
                kind = "w1" if number % 2 else "w0"
                begin = self._prepared(name, file, kind, number)
                # Somewhere in the period of whatever polls.
                time.sleep(1 + self._order.random())
                print("change", file=process.stdin, flush=True)
                start = begin()
                taken.append((int(process.stdout.readline()) - start) / 1e6)
            if CHANGES % 2:
                self._prepared(name, file, "w1", CHANGES)()
            process.stdin.close()
        return statistics.median(taken)

    def _prepared(self, name: str, file: str, kind: str, number: int) -> Any:
        """What makes the change, and answers the clock from before it."""
        if name == "ours":

            def commit() -> int:
                start = time.perf_counter_ns()
                _commit(self._writer, {CHANGED: kind}, 2 + number)
                return start

            return commit
        sdk = import_module(f"benchmarks.sdks.{name}")
        following = Path(file + ".next")
        following.write_bytes(sdk.document({**self._flags, CHANGED: kind}, PILOTS))

        def replace() -> int:
            start = time.perf_counter_ns()
            following.replace(file)
            if hasattr(sdk, "published"):
                sdk.published(file)
            return start

        return replace


def _cells(found: dict[str, list[float]], label: str) -> Iterator[str]:
    for kind in KINDS:
        median, high = found[f"{label} {kind}"]
        yield f"{median:,.0f}"
        yield f"{high:,.0f}"
        yield f"{median / found[f'ours {kind}'][0]:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
