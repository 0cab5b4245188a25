"""Reading flags: the four workloads, the raw database beside them, and a fresh process.

One replica of 100,000 flags, 100 of each workload's kind among them; 1,000 tenants; names,
tenants and contexts are prepared and walked by index.

* F: a method called as ``o.kw(name, tenant_id=t)`` that returns ``self.table[name]``.
* W1: a plain flag, ``is_enabled(name, tenant_id=t)``.
* W2: five rules; four ask for plan, country, plan and region, country and seats and do not match,
  the fifth is a list of 100 tenants that matches. The context has those four attributes.
* W3: a 25 % split by tenant_id.
* W4: three string variants in a split by tenant_id (1:1:2) under one condition, ``plan: pro``,
  which holds; through ``variant()``, the context as in W2.
* counting: the same calls of a manager that counts, as all do unless told otherwise, with what
  each may cost over the call that does not.
* segment: a flag for the members of a segment of a million in 4,096 shards, asked for members; the
  whole call, of which the membership is the most. Beside it what 10,000 lookups of members never
  asked for before add to a process's own memory (`segment_memory`).
* bare lmdb: begin, get of the same records, abort, on a copy opened by py-lmdb alone.
* first evaluation and revalidation: over all 400 flags, one call each, with a new manager and
  after a commit that changed another flag (simulated by dropping the table); of a manager that
  counts.
* fresh process: ``python -c`` that imports, opens, evaluates one W2 flag and ends, beside
  ``python -c pass``: medians of 25, alternating; and by the same processes' own clock.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import statistics
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import lmdb
import msgpack

from benchmarks.harness import (
    Variant,
    calls,
    circumstances,
    fresh_process,
    measure,
    printed,
    program,
    rows,
)
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.feature_flags.segments import HASH_BYTES, shard_of
from control_plane.replica.format import FLAG, SEGMENT, record_key
from control_plane.replica.writer import ReplicaWriter

FLAGS = 100_000
OF_EACH = 100
TENANTS = [f"tenant-{number}" for number in range(1000)]
PILOTS = TENANTS[::10]
CONTEXT = {"plan": "pro", "country": "FR", "region": "eu", "seats": 40}
WALK = 40_000
FRESH = 25
MEMBERS = 1_000_000
SHARD_BITS = 12

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


def definitions() -> dict[str, dict[str, Any]]:
    """The four kinds of flag."""
    quarter = [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}]
    thirds = [
        {"variant": name, "weight": 1 + (name == "blue")} for name in ("red", "green", "blue")
    ]
    rules = [
        {"name": "enterprise", "when": {"plan": "enterprise"}, "serve": "on"},
        {"name": "dach", "when": {"country": {"in": ["DE", "AT", "CH"]}}, "serve": "on"},
        {"name": "us", "when": {"plan": "pro", "region": "us"}, "serve": "on"},
        {"name": "large", "when": {"country": "FR", "seats": 500}, "serve": "on"},
        {"name": "pilots", "when": {"tenant_id": {"in": PILOTS}}, "serve": "on"},
    ]
    return {
        "w1": {**ON_OFF, "default": "on"},
        "w2": {**ON_OFF, "rules": rules},
        "w3": {**ON_OFF, "rules": [{"name": "rollout", "serve": quarter, "by": "tenant_id"}]},
        "w4": {
            "variants": {"red": "#f00", "green": "#0f0", "blue": "#00f"},
            "default": "red",
            "disabled": "red",
            "rules": [
                {
                    "name": "experiment",
                    "when": {"plan": "pro"},
                    "serve": thirds,
                    "by": "tenant_id",
                }
            ],
        },
    }


def write_replica(folder: Path) -> None:
    """A replica of 100,000 flags, 100 of each kind under names like ``w1-007``, and a segment."""
    kinds = definitions()
    named = {f"{kind}-{n:03}": kinds[kind] for kind in kinds for n in range(OF_EACH)}
    mixture = list(kinds.values())
    for number in range(FLAGS - len(named)):
        named[f"other-{number:06}"] = mixture[number % len(mixture)]
    asked = {"name": "members", "when": {"$segment": "million"}, "by": "tenant_id", "serve": "on"}
    named["segment"] = {**ON_OFF, "rules": [asked]}
    with (
        ReplicaWriter.open(str(folder), development=True, sync=False) as writer,
        writer.write() as transaction,
    ):
        transaction.generation = 1
        for name in sorted(named):
            body = msgpack.packb({"m": named[name], "k": None})
            transaction.put_record(
                record_key(FLAG, name), FLAG, body, head_generation=1, served_generation=1
            )
        write_segment(transaction)


def write_segment(transaction: Any) -> None:
    """The segment ``million``: the members ``unit-0`` to ``unit-999999``."""
    shards: dict[str, list[bytes]] = {}
    for number in range(MEMBERS):
        digest = hashlib.sha256(f"unit-{number}".encode()).digest()
        shards.setdefault(shard_of(digest, SHARD_BITS), []).append(digest[:HASH_BYTES])
    bodies = {record_key(SEGMENT, "million"): msgpack.packb({"shards": SHARD_BITS})}
    for shard, hashes in sorted(shards.items()):
        bodies[record_key(SEGMENT, "million", shard)] = b"".join(sorted(hashes))
    for key, body in bodies.items():
        transaction.put_record(key, SEGMENT, body, head_generation=1, served_generation=1)


class Lookup:
    """What F is measured on."""

    __slots__ = ("table",)

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table

    def kw(self, name: str, *, tenant_id: str | None = None) -> Any:
        """Look a name up and nothing else."""
        return self.table[name]


def walked(values: list[Any]) -> list[Any]:
    """A list long enough for every batch, repeating the values."""
    return [values[number % len(values)] for number in range(WALK)]


def variants(
    flags: FeatureFlagManager, counting: FeatureFlagManager, view: Any, records: Any
) -> list[Variant]:
    """The empty loop, F, and everything that is compared with it."""
    order = random.Random(7)
    tenants = order.sample(TENANTS, len(TENANTS))
    lists = {
        "tenants": walked(tenants),
        "pilots": walked(PILOTS),
        "contexts": walked([dict(CONTEXT) for _ in tenants]),
        "units": [f"unit-{order.randrange(MEMBERS)}" for _ in range(WALK)],
        **{kind: walked([f"{kind}-{n:03}" for n in range(OF_EACH)]) for kind in definitions()},
    }
    lookup = Lookup(dict.fromkeys(lists["w1"], True))
    known = {**lists, "flags": flags, "view": view, "o": lookup, "handle": flags.flag("w1-000")}
    keys = walked([record_key(FLAG, name) for name in lists["w1"][:OF_EACH]])
    not_counted = _workloads("", known, (2.2, 7.2, 4.8, 6.4))
    counted = _workloads(", counted", {**known, "flags": counting}, (1.0, 0.9, 0.9, 0.9))
    for mine, other in zip(counted, not_counted, strict=True):
        mine.over = other
    return [
        calls("empty loop", "pass", known),
        calls("F  o.kw(name, tenant_id=t)", "o.kw(w1[i], tenant_id=tenants[i])", known),
        *not_counted,
        calls("W1 handle", "handle(tenant_id=tenants[i])", known, 1.5),
        calls("W1 pinned view", "view.is_enabled(w1[i], tenant_id=tenants[i])", known, 1.4),
        *counted,
        calls(
            "segment of a million", "flags.is_enabled('segment', tenant_id=units[i])", known,
            limit_ns=2000,
        ),
        calls(
            "bare lmdb begin, get, abort",
            "t = begin(); t.get(keys[i], None, db); t.abort()",
            {**known, "keys": keys, "begin": records[0].begin, "db": records[1]},
        ),
        *_first_calls(flags, [name for kind in definitions() for name in lists[kind][:OF_EACH]]),
    ]  # fmt: skip


def _workloads(suffix: str, known: dict[str, Any], limits: tuple[float, ...]) -> list[Variant]:
    sources = {
        "W1 plain flag": "flags.is_enabled(w1[i], tenant_id=tenants[i])",
        "W2 five rules": "flags.is_enabled(w2[i], tenant_id=pilots[i], context=contexts[i])",
        "W3 25 % split": "flags.is_enabled(w3[i], tenant_id=tenants[i])",
        "W4 three variants": "flags.variant(w4[i], tenant_id=tenants[i], context=contexts[i])",
    }
    return [
        calls(label + suffix, source, known, limit)
        for (label, source), limit in zip(sources.items(), limits, strict=True)
    ]


def _first_calls(flags: FeatureFlagManager, names: list[str]) -> list[Variant]:
    """The first evaluation of a flag, and the first after a commit that left it alone."""

    class Client:
        source = flags._source

        def adopt(self, manager: FeatureFlagManager) -> None:
            """It is never closed, so it needs to know none."""

    def first(times: int) -> int:
        manager = FeatureFlagManager(Client(), counting=True)
        start = perf_counter_ns()
        for name in names:
            manager.variant(name, tenant_id="t")
        return perf_counter_ns() - start

    settled = FeatureFlagManager(Client(), counting=True)

    def again(times: int) -> int:
        settled._dropped(settled._table)
        start = perf_counter_ns()
        for name in names:
            settled.variant(name, tenant_id="t")
        return perf_counter_ns() - start

    return [
        Variant("first evaluation of a flag", first, len(names), limit_ns=25_000, plain=True),
        Variant("revalidation of a flag", again, len(names), limit_ns=5_000, plain=True),
    ]


FRESH_PROGRAM = """
import time
start = time.perf_counter_ns()
import sys
from control_plane.feature_flags.flag_manager import FeatureFlagManager
flags = FeatureFlagManager(replica=sys.argv[1], environment="production")
assert flags.is_enabled("w2-000", tenant_id="tenant-0", context={"plan": "pro"}) is True
print(time.perf_counter_ns() - start)
"""


def fresh(root: Path, bytecode: Path) -> list[tuple[str, ...]]:
    """Medians of fresh processes in milliseconds."""
    bare: list[float] = []
    whole: list[float] = []
    inside: list[float] = []
    for _ in range(2 + FRESH):
        bare.append(fresh_process("pass", [], bytecode)[0])
        taken, printed_ns = fresh_process(FRESH_PROGRAM, [str(root)], bytecode)
        whole.append(taken)
        inside.append(int(printed_ns) / 1e6)
    # The first two wrote the compiled modules and warmed the page cache.
    del bare[:2], whole[:2], inside[:2]
    base, total = statistics.median(bare), statistics.median(whole)
    return [
        ("bare interpreter", f"{base:.1f}", ""),
        ("import, open, first evaluation", f"{total:.1f}", ""),
        ("over the bare interpreter", f"{total - base:.1f}", "<= 8"),
        ("the same by the clock inside", f"{statistics.median(inside):.1f}", ""),
    ]


def main() -> None:
    """Build the replica, measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "replica"
        write_replica(root / "production")
        # Pages that wait for the disk would count as the memory of whoever maps them.
        os.sync()
        copy = Path(scratch) / "copy"
        shutil.copytree((root / "production" / "v1" / "current").resolve(), copy)
        environment = lmdb.open(
            str(copy), readonly=True, lock=False, max_dbs=16, lib_version=0, create=False
        )
        records = environment, environment.open_db(b"records", create=False)
        with (
            FeatureFlagManager(
                replica=str(root), environment="production", counting=False
            ) as flags,
            FeatureFlagManager(
                replica=str(root), environment="production", counting=True
            ) as counted,
            flags.pinned() as view,
        ):
            found = variants(flags, counted, view, records)
            measure(found, WALK)
        environment.close()
        started = fresh(root, Path(scratch) / "bytecode")
        growth = program("segment_memory", str(root))["bytes"]
    print(circumstances(__name__))
    title = f"Flags, {FLAGS:,} in the replica; ns per call, mean of a batch"
    head = ("call", "median", "p99", "x F", "limit")
    printed(title, head, rows(found[1:], found[0], found[1]))
    printed("Fresh process, median of 25, ms", ("step", "ms", "limit"), started)
    lookups = [("private memory after 10,000 lookups more", f"{growth:,}", "<= 0")]
    printed("Segment of a million members", ("what", "bytes", "limit"), lookups)


if __name__ == "__main__":
    main()
