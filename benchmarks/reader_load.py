"""An application that reads while the daemon writes, and the memory it has for itself.

* evaluations: the four workloads of `reading`, all 400 flags in use, of 100,000 in the replica;
  another process commits ten changes of other flags a second in every other quarter of a second,
  so that quiet and busy batches meet the same machine.
* memory: `reader_memory`, a process of its own, evaluates 100 flags; what ``smaps_rollup`` calls
  Private_Dirty, less what it was after the imports.
* commits: durable ones of one record, in turn on replicas of two sizes and as two synced writes.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgpack

from benchmarks.harness import calls, program
from benchmarks.reading import CONTEXT, OF_EACH, PILOTS, TENANTS, definitions, walked
from control_plane.cli.children import Child
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.replica.format import FLAG, record_key
from control_plane.replica.writer import ReplicaWriter

ENVIRONMENT = "production"
COMMITS_A_SECOND = 10
PHASE_SECONDS = 0.5
BATCH_NS = 1_000_000
A_COMMIT = 20_000


def write_flags(folder: Path, count: int) -> None:
    """A replica of so many flags, 100 of each workload among them."""
    kinds = definitions()
    named = {f"{kind}-{n:03}": kinds[kind] for kind in kinds for n in range(OF_EACH)}
    mixture = list(kinds.values())
    for number in range(count - len(named)):
        named[f"other-{number:06}"] = mixture[number % len(mixture)]
    names = sorted(named)
    with ReplicaWriter.open(str(folder), development=True, sync=False) as writer:
        for start in range(0, count, A_COMMIT):
            with writer.write() as transaction:
                transaction.generation = 1
                for name in names[start : start + A_COMMIT]:
                    _put(transaction, name, named[name], 1)


def _put(transaction: Any, name: str, metadata: dict[str, Any], generation: int) -> None:
    body = msgpack.packb({"m": metadata, "k": None})
    transaction.put_record(
        record_key(FLAG, name), FLAG, body,
        head_generation=generation, served_generation=generation,
    )  # fmt: skip


def evaluations(root: Path, phases: int) -> dict[str, tuple[float, float]]:
    """For each workload the median nanoseconds of a call, quiet and at ten commits a second."""
    arguments = ["-m", "benchmarks.reader_load", str(root)]
    found: dict[str, tuple[list[float], list[float]]] = {}
    with (
        Child("writer", arguments) as writer,
        FeatureFlagManager(replica=str(root), environment=ENVIRONMENT) as flags,
    ):
        loops = _loops(flags)
        for phase in range(2 * phases):
            writer.line("busy" if phase % 2 else "quiet", 30.0)
            end = time.monotonic() + PHASE_SECONDS * 0.8
            while time.monotonic() < end:
                for name, run, times in loops:
                    batches = found.setdefault(name, ([], []))[phase % 2]
                    batches.append(run(times) / times)
        writer.kill()
    return {
        name: (statistics.median(quiet), statistics.median(busy))
        for name, (quiet, busy) in found.items()
    }


def _loops(flags: FeatureFlagManager) -> list[tuple[str, Any, int]]:
    lists = {
        "flags": flags,
        "tenants": walked(TENANTS),
        "pilots": walked(PILOTS),
        "contexts": walked([dict(CONTEXT) for _ in TENANTS]),
        **{kind: walked([f"{kind}-{n:03}" for n in range(OF_EACH)]) for kind in definitions()},
    }
    sources = {
        "W1": "flags.is_enabled(w1[i], tenant_id=tenants[i])",
        "W2": "flags.is_enabled(w2[i], tenant_id=pilots[i], context=contexts[i])",
        "W3": "flags.is_enabled(w3[i], tenant_id=tenants[i])",
        "W4": "flags.variant(w4[i], tenant_id=tenants[i], context=contexts[i])",
    }
    loops = []
    for name, source in sources.items():
        run = calls(name, source, lists).run
        run(10_000)
        loops.append((name, run, max(1, BATCH_NS * 10_000 // run(10_000))))
    return loops


def write(root: Path) -> None:
    """Commit ten times a second in every other phase, for ever; says which phase begins."""
    flag = definitions()["w1"]
    with ReplicaWriter.open(str(root / ENVIRONMENT), development=True) as writer:
        number = 0
        while True:
            print("quiet", flush=True)
            time.sleep(PHASE_SECONDS)
            print("busy", flush=True)
            began = time.monotonic()
            for step in range(int(COMMITS_A_SECOND * PHASE_SECONDS)):
                time.sleep(max(0.0, began + step / COMMITS_A_SECOND - time.monotonic()))
                with writer.write() as transaction:
                    number += 1
                    transaction.generation += 1
                    _put(transaction, f"other-{number % 1000:06}", flag, transaction.generation)
                writer.tend()
            time.sleep(max(0.0, began + PHASE_SECONDS - time.monotonic()))


def memory(root: Path) -> dict[str, int]:
    """KiB a process of its own has after the imports, and more after 100 evaluations."""
    return program("reader_memory", str(root))


def commits(root: Path, small: int, large: int, times: int) -> dict[str, list[float]]:
    """Milliseconds of durable commits of one record, alternately on replicas of two sizes."""
    flag, order = definitions()["w1"], random.Random(3)
    found: dict[str, list[float]] = {"small": [], "large": [], "bare": []}
    writers, sizes = {}, {"small": small, "large": large}
    for name, count in sizes.items():
        write_flags(root / name, count)
        writers[name] = ReplicaWriter.open(str(root / name), development=True)
    with (root / "bare").open("wb", buffering=0) as bare:
        for _ in range(times):
            for name, writer in writers.items():
                flag_name = f"other-{order.randrange(sizes[name] - 400):06}"
                began = perf_counter_ns()
                with writer.write() as transaction:
                    transaction.generation += 1
                    _put(transaction, flag_name, flag, transaction.generation)
                found[name].append((perf_counter_ns() - began) / 1e6)
                writer.tend()
            began = perf_counter_ns()
            for _ in range(2):
                bare.write(b"\x55" * 4096)
                os.fsync(bare.fileno())
            found["bare"].append((perf_counter_ns() - began) / 1e6)
    for writer in writers.values():
        writer.close()
    return found


if __name__ == "__main__":
    write(Path(sys.argv[1]))
