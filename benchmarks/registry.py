"""What the registry of agents and tools costs; ``python -m benchmarks registry``.

- *Calls*: a handler that returns a prepared answer to a ten-field input, bare and bound to a tool
  with schemas for both. Reported is what the binding adds, the median of batches; the bare call is
  timed in the same run. A plain function with ``timeout_ms`` runs in another thread: its price is
  two changes of thread, which the machine sets, and has no limit of ours.
- *Resolution*: which version an agent gets of each of 50 tools with 200 versions each, 10,000 in
  all, where stable does not meet the specifier and the highest that does is looked for. The median
  and the slowest of 21 runs; reading the records is not in it.
- *Import and publish*: 1,170 function definitions of 711 names become files, are signed and
  published through the command to a store process on SQLite, in sets of 250. ``--tools FILE`` takes
  a file instead of the generated ones. One run, each step in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

from benchmarks.harness import Variant, calls, circumstances, measure, percentile, printed
from control_plane.cli import main as command
from control_plane.cli.project import create_project
from control_plane.cli.services import start_store
from control_plane.replica.resolution import Offered, resolve
from control_plane.testing import replica

CALL_LIMIT_US = 15.0
RESOLUTION_LIMIT_MS = 50.0
PUBLISH_LIMIT_SECONDS = 5.0
FUNCTIONS = 1_170
NAMES = 711
WALK = 100_000

FIELDS: dict[str, Any] = {
    "customer_id": {"type": "string", "minLength": 1},
    "tenant_id": {"type": "string"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "offset": {"type": "integer", "minimum": 0},
    "order": {"enum": ["asc", "desc"]},
    "active": {"type": "boolean"},
    "score": {"type": "number"},
    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 10},
    "since": {"type": "string"},
    "note": {"type": ["string", "null"]},
}
INPUT = {
    "customer_id": "c-1", "tenant_id": "acme", "limit": 10, "offset": 0, "order": "asc",
    "active": True, "score": 0.5, "tags": ["a", "b"], "since": "2024-01-01", "note": None,
}  # fmt: skip
ANSWER = {"customers": [{"id": "c-1", "name": "Ada"}], "more": False}
OUTPUTS = {
    "type": "object",
    "required": ["customers"],
    "properties": {
        "customers": {"type": "array", "items": {"type": "object", "required": ["id"]}},
        "more": {"type": "boolean"},
    },
}


def tool(name: str, **metadata: Any) -> dict[str, Any]:
    """A tool with ten fields, all required."""
    inputs = {
        "type": "object",
        "properties": FIELDS,
        "required": list(FIELDS),
        "additionalProperties": False,
    }
    both = {"inputs_schema": inputs, "outputs_schema": OUTPUTS}
    return {"name": name, "metadata": {"description": "a tool", **both, **metadata}}


def answered(**inputs: Any) -> dict[str, Any]:
    """The bare handler."""
    return ANSWER


async def answered_later(**inputs: Any) -> dict[str, Any]:
    """The bare coroutine function."""
    return ANSWER


def awaited(label: str, call: Callable[..., Any]) -> Variant:
    """A variant that awaits in one coroutine; the loop around is part of it, as of its baseline."""

    async def loop(times: int) -> int:
        start = perf_counter_ns()
        for _ in range(times):
            await call(**INPUT)
        return perf_counter_ns() - start

    return Variant(label, lambda times: asyncio.run(loop(times)), plain=True)


def bound_calls() -> None:
    """Print what a binding adds to a call."""
    kept = {"retry_attempts": 2, "circuit_breaker_threshold": 5}
    tools = [tool("plain", **kept), tool("timed", timeout_ms=1000, **kept)]
    with replica(tools=tools) as kit, kit.registry.bind("timed", answered) as timed:
        plain = kit.registry.bind("plain", answered)
        later, later_timed = (
            kit.registry.bind(each, answered_later) for each in ("plain", "timed")
        )
        known = {"given": INPUT, "bare": answered, "plain": plain, "timed": timed}
        bare = calls("function", "bare(**given)", known)
        bare_later = awaited("coroutine function", answered_later)
        variants = [
            (calls("function, bound", "plain(**given)", known), bare, CALL_LIMIT_US),
            (calls("function with timeout_ms", "timed(**given)", known), bare, None),
            (awaited("coroutine function, bound", later), bare_later, CALL_LIMIT_US),
            (awaited("coroutine function with timeout_ms", later_timed), bare_later, CALL_LIMIT_US),
        ]
        measure([bare, bare_later, *(variant for variant, _, _ in variants)], WALK)
    rows = []
    for variant, base, limit in variants:
        less = statistics.median(base.batches)
        median, high = statistics.median(variant.batches), percentile(variant.batches, 0.99)
        added = f"{(median - less) / 1000:.1f}"
        told = "" if limit is None else f"<= {limit:g}"
        rows.append(
            (variant.label, f"{less / 1000:.2f}", added, f"{(high - less) / 1000:.1f}", told)
        )
    head = ("ten fields in", "bare", "added", "p99", "limit")
    printed("Bound calls; microseconds, medians of batches", head, rows)


def functions() -> Iterator[dict[str, Any]]:
    """Definitions of 711 names, the first of which have several contents."""
    for number in range(FUNCTIONS):
        properties = {
            f"field_{each}": {"type": "string", "description": f"What {each} of {number} is."}
            for each in range(5)
        }
        parameters = {"type": "dict", "properties": properties, "required": ["field_0"]}
        yield {
            "name": f"Service_{number % NAMES}_Call",
            "description": f"Calls the service as revision {number} of it says.",
            "parameters": parameters,
        }


def import_and_publish(tools: Path | None) -> None:
    """Print what each step of a large import takes."""
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="cp") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        project = create_project(
            folder / "p",
            installation="bench",
            environments=["production"],
            store=f"unix:{folder / 's'}",
            replica=str(folder / "r"),
        )
        log = stack.enter_context((folder / "log").open("wb"))
        store, _ = start_store(project, project.store, say=lambda line: None, stderr=log)
        stack.callback(store.stop)
        if tools is None:
            tools = folder / "tools.jsonl"
            tools.write_text("\n".join(map(json.dumps, functions())), encoding="utf-8")
        stack.enter_context(contextlib.chdir(project.folder))
        for step, arguments in (
            ("import", ("import", "openai-tools", tools.resolve(), "--out", folder / "m")),
            ("sign", ("sign", folder / "m", "--out", folder / "signed")),
            ("apply", ("apply", "-f", folder / "signed", "-e", "production", "--reason", "new")),
        ):
            start = perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                code = command([str(argument) for argument in arguments])
            took[step] = perf_counter() - start
            assert code == 0, step
    took["all"] = sum(took.values())
    rows = [
        (step, f"{seconds:.2f}", f"<= {PUBLISH_LIMIT_SECONDS:g}" if step == "all" else "")
        for step, seconds in took.items()
    ]
    printed("Import and publish of 1,170 schemas; seconds", ("step", "took", "limit"), rows)


def resolution() -> None:
    """Resolve one agent as the daemon does."""
    versions = {f"1.{minor}.0": "digest" for minor in range(200)}
    offered = {f"tool_{n}": Offered(versions, {}, "1.150.0") for n in range(50)}
    agent = {"metadata": {"tools": [f"{name}>=1.160,<2" for name in offered]}}
    took = []
    for _ in range(21):
        start = perf_counter()
        found = resolve(agent, offered.__getitem__)
        took.append((perf_counter() - start) * 1000)
    assert {each["version"] for each in found.values()} == {"1.199.0"}
    print(
        f"resolution, 50 tools of 10,000 versions  {statistics.median(took):8.1f} ms, slowest"
        f" {max(took):.1f} (limit {RESOLUTION_LIMIT_MS:.0f})"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks registry", description=__doc__)
    parser.add_argument("--tools", type=Path, help="function definitions to import and publish")
    options = parser.parse_args(arguments or [])
    print(circumstances(__name__))
    bound_calls()
    resolution()
    import_and_publish(options.tools and options.tools.resolve())


if __name__ == "__main__":
    main()
