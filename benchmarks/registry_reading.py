"""What taking an agent and searching cost; ``python -m benchmarks registry_reading``.

A replica of 100,000 versions of agents, 5 to a name, each with a manifest of 4 KiB, written by a
process of its own. All of it is in the page cache; each size is of one run.

- *Warm*: ``get_agent`` of 100 names, walked by index; plain, with one overridable field that a flag
  changes for the tenant, and with an attribute written on the caller's copy.
- *Cold*: each agent is taken for the first time by this manager, names in random order.
- *Search*: a page of 100 of everything, from the first and from behind a cursor in the middle; and
  a search that nothing meets, so that every record is walked.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import msgpack

from benchmarks.harness import Variant, calls, circumstances, measure, percentile, printed
from control_plane import ControlPlaneClient
from control_plane.log.canonical import canonical
from control_plane.registries.registry_manager import RegistryManager
from control_plane.replica.compile import flag_body
from control_plane.replica.format import AGENT, CHANNEL, FLAG, record_key
from control_plane.replica.writer import ReplicaWriter

VERSIONS = 100_000
PER_NAME = 5
MANIFEST_BYTES = 4_096
COLD = 2_000
WALK = 100_000
WARM_LIMIT_NS = 2_000
COLD_LIMIT_US = 60.0
OVERRIDABLE = {"temperature": {"flag": "warmth", "schema": {"maximum": 1}}}
WARMTH = {
    "variants": {"cool": 0.2, "warm": 0.9},
    "default": "cool",
    "disabled": "cool",
    "rules": [{"name": "pilot", "when": {"tenant_id": "acme"}, "serve": "warm"}],
}


def agent(number: int, version: int) -> bytes:
    """One version's blob; every tenth name has a field that a flag may change."""
    metadata = {
        "description": f"agent {number}",
        "capabilities": ["chat", f"capability_{number % 50}"],
        "tags": [f"tag_{number % 200}"],
        "temperature": 0.5,
        **({"overridable": OVERRIDABLE} if number % 10 == 0 else {}),
        "system_prompt": "",
    }
    document = {
        "kind": "agent", "name": f"agent_{number:05}", "version": f"1.{version}.0",
        "owner": f"team-{number % 100}", "metadata": metadata,
    }  # fmt: skip
    missing = MANIFEST_BYTES - len(canonical(document))
    metadata["system_prompt"] = ("You answer politely. " * 200)[:missing]
    return canonical(document)


def write(folder: str) -> None:
    """Write the replica; run in a process of its own, as no writer reads."""
    with ReplicaWriter.open(folder, development=True, sync=False) as writer:
        generation = 1
        for first in range(0, VERSIONS // PER_NAME, 500):
            with writer.write() as transaction:
                for number in range(first, first + 500):
                    name = f"agent_{number:05}"
                    for version in range(PER_NAME):
                        key = record_key(AGENT, name, f"1.{version}.0")
                        body = agent(number, version)
                        transaction.put_record(
                            key, AGENT, body, head_generation=1, served_generation=1
                        )
                    stable = msgpack.packb({"version": f"1.{PER_NAME - 1}.0"})
                    key = record_key(CHANNEL, "agent", name, "stable")
                    transaction.put_record(
                        key, CHANNEL, stable, head_generation=1, served_generation=1
                    )
                if first == 0:
                    body = flag_body({"name": "warmth", "metadata": WARMTH}, None, None)
                    transaction.put_record(
                        record_key(FLAG, "warmth"), FLAG, body,
                        head_generation=1, served_generation=1,
                    )  # fmt: skip
                transaction.generation = generation
            generation += 1


def warm(registry: RegistryManager) -> list[tuple[str, ...]]:
    """Agents that this manager has handed out before."""
    plain = [f"agent_{10 * number + 1:05}" for number in range(100)] * (WALK // 100)
    changed = [f"agent_{10 * number:05}" for number in range(100)] * (WALK // 100)
    names = {"get": registry.get_agent, "plain": plain, "changed": changed}
    empty = calls("empty", "pass", {})
    variants: list[Variant] = [
        calls("get_agent", 'get(plain[i], tenant_id="acme")', names),
        calls("… whose field a flag changes", 'get(changed[i], tenant_id="acme")', names),
        calls(
            "… and one attribute written",
            'get(plain[i], tenant_id="acme").temperature = 0.1',
            names,
        ),
    ]
    for name in set(plain + changed):
        registry.get_agent(name, tenant_id="acme")
    measure([empty, *variants], WALK)
    loop = percentile(empty.batches, 0.5)
    return [
        (each.label, f"{percentile(each.batches, 0.5) - loop:,.0f} ns",
         f"{percentile(each.batches, 0.99) - loop:,.0f} ns", f"<= {WARM_LIMIT_NS:,} ns")
        for each in variants
    ]  # fmt: skip


def cold(registry: RegistryManager) -> list[tuple[str, ...]]:
    """Agents that this manager has never seen, among all versions."""
    numbers = random.Random(1).sample(range(VERSIONS // PER_NAME), COLD)
    names = [f"agent_{number:05}" for number in numbers if number % 10]
    taken = []
    for name in names:
        start = perf_counter_ns()
        registry.get_agent(name)
        taken.append((perf_counter_ns() - start) / 1000)
    return [_row("get_agent, first time", taken, "us", f"<= {COLD_LIMIT_US:.0f} us")]


def searching(registry: RegistryManager) -> list[tuple[str, ...]]:
    """Pages of 100, and a search without result."""
    middle = f"agent/agent_{VERSIONS // PER_NAME // 2:05}@1.0.0"
    asked: list[tuple[str, Callable[[], object], int]] = [
        ("search, first page", lambda: registry.search("agent"), 20),
        ("search, page behind the middle", lambda: registry.search("agent", cursor=middle), 20),
        ("search, first page of an owner", lambda: registry.search("agent", owner="team-7"), 10),
        ("search, an owner that is not there", lambda: registry.search("agent", owner="nobody"), 3),
        ("search, words that are nowhere", lambda: registry.search("agent", text="xyzzy"), 3),
    ]
    rows = []
    for label, call, rounds in asked:
        taken = []
        for _ in range(rounds):
            start = perf_counter_ns()
            call()
            taken.append((perf_counter_ns() - start) / 1e6)
        rows.append(_row(label, taken, "ms", ""))
    return rows


def _row(label: str, taken: list[float], unit: str, limit: str) -> tuple[str, ...]:
    middle, high = percentile(taken, 0.5), percentile(taken, 0.99)
    return label, f"{middle:,.1f} {unit}", f"{high:,.1f} {unit}", limit


def main() -> None:
    """Write the replica, measure, and print one table."""
    with tempfile.TemporaryDirectory(prefix="control-plane-") as root:
        folder = str(Path(root) / "bench")
        script = f"from benchmarks.registry_reading import write; write({folder!r})"
        subprocess.run([sys.executable, "-c", script], check=True)
        with ControlPlaneClient(root, "bench") as client:
            body = [*cold(client.registry), *warm(client.registry), *searching(client.registry)]
    print(circumstances(__name__))
    printed(f"{VERSIONS:,} versions of 4 KiB", ("call", "median", "p99", "limit"), body)


if __name__ == "__main__":
    main()
