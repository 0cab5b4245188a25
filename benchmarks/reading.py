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
* bare lmdb: begin, get of the same records, abort, on a copy opened by py-lmdb alone.
* first evaluation and revalidation: over all 400 flags, one call each, with a new manager and
  after a commit that changed another flag (simulated by dropping the table).
* fresh process: ``python -c`` that imports, opens, evaluates one W2 flag and ends, beside
  ``python -c pass``: medians of 25, alternating; and by the same processes' own clock.
"""

from __future__ import annotations

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
    rows,
)
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.replica.format import FLAG, record_key
from control_plane.replica.writer import ReplicaWriter

FLAGS = 100_000
OF_EACH = 100
TENANTS = [f"tenant-{number}" for number in range(1000)]
PILOTS = TENANTS[::10]
CONTEXT = {"plan": "pro", "country": "FR", "region": "eu", "seats": 40}
WALK = 40_000
FRESH = 25

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
    """A replica of 100,000 flags, 100 of each kind under names like ``w1-007``."""
    kinds = definitions()
    named = {f"{kind}-{n:03}": kinds[kind] for kind in kinds for n in range(OF_EACH)}
    mixture = list(kinds.values())
    for number in range(FLAGS - len(named)):
        named[f"other-{number:06}"] = mixture[number % len(mixture)]
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


def variants(flags: FeatureFlagManager, view: Any, records: Any) -> list[Variant]:
    """The empty loop, F, and everything that is compared with it."""
    order = random.Random(7)
    tenants = order.sample(TENANTS, len(TENANTS))
    lists = {
        "tenants": walked(tenants),
        "pilots": walked(PILOTS),
        "contexts": walked([dict(CONTEXT) for _ in tenants]),
        **{kind: walked([f"{kind}-{n:03}" for n in range(OF_EACH)]) for kind in definitions()},
    }
    lookup = Lookup(dict.fromkeys(lists["w1"], True))
    known = {**lists, "flags": flags, "view": view, "o": lookup, "handle": flags.flag("w1-000")}
    keys = walked([record_key(FLAG, name) for name in lists["w1"][:OF_EACH]])

    def is_enabled(kind: str, who: str = "tenants", rest: str = "") -> str:
        return f"flags.is_enabled({kind}[i], tenant_id={who}[i]{rest})"

    context = ", context=contexts[i]"
    return [
        calls("empty loop", "pass", known),
        calls("F  o.kw(name, tenant_id=t)", "o.kw(w1[i], tenant_id=tenants[i])", known),
        calls("W1 plain flag", is_enabled("w1"), known, 3),
        calls("W2 five rules", is_enabled("w2", "pilots", context), known, 9),
        calls("W3 25 % split", is_enabled("w3"), known, 6),
        calls(
            "W4 three variants",
            f"flags.variant(w4[i], tenant_id=tenants[i]{context})",
            known,
            8,
        ),
        calls("W1 handle", "handle(tenant_id=tenants[i])", known),
        calls("W1 pinned view", "view.is_enabled(w1[i], tenant_id=tenants[i])", known),
        calls(
            "bare lmdb begin, get, abort",
            "t = begin(); t.get(keys[i], None, db); t.abort()",
            {**known, "keys": keys, "begin": records[0].begin, "db": records[1]},
        ),
        *_first_calls(flags, [name for kind in definitions() for name in lists[kind][:OF_EACH]]),
    ]


def _first_calls(flags: FeatureFlagManager, names: list[str]) -> list[Variant]:
    """The first evaluation of a flag, and the first after a commit that left it alone."""

    class Client:
        source = flags._source

        def adopt(self, manager: FeatureFlagManager) -> None:
            """It is never closed, so it needs to know none."""

    def first(times: int) -> int:
        manager = FeatureFlagManager(Client())
        start = perf_counter_ns()
        for name in names:
            manager.variant(name, tenant_id="t")
        return perf_counter_ns() - start

    settled = FeatureFlagManager(Client())

    def again(times: int) -> int:
        settled._dropped(settled._table)
        start = perf_counter_ns()
        for name in names:
            settled.variant(name, tenant_id="t")
        return perf_counter_ns() - start

    return [
        Variant("first evaluation of a flag", first, len(names), plain=True),
        Variant("revalidation of a flag", again, len(names), plain=True),
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
        copy = Path(scratch) / "copy"
        shutil.copytree((root / "production" / "v1" / "current").resolve(), copy)
        environment = lmdb.open(
            str(copy), readonly=True, lock=False, max_dbs=16, lib_version=0, create=False
        )
        records = environment, environment.open_db(b"records", create=False)
        with (
            FeatureFlagManager(replica=str(root), environment="production") as flags,
            flags.pinned() as view,
        ):
            found = variants(flags, view, records)
            measure(found, WALK)
        environment.close()
        started = fresh(root, Path(scratch) / "bytecode")
    print(circumstances(__name__))
    title = f"Flags, {FLAGS:,} in the replica; ns per call, mean of a batch"
    head = ("call", "median", "p99", "x F", "limit x F")
    printed(title, head, rows(found[1:], found[0], found[1]))
    printed("Fresh process, median of 25, ms", ("step", "ms", "limit"), started)


if __name__ == "__main__":
    main()
