"""How calls are timed: compiled loops of about a millisecond, interleaved, the loop taken off.

* Every variant is a loop of its own, compiled for it alone, so that the interpreter specialises
  each call site as it would in an application.
* A batch is one run of such a loop, sized to take about a millisecond. All variants of a run are
  batched in turn, in a new random order each round, so that drift of the machine meets all.
* The empty loop is a variant too; its median per iteration is subtracted from every other batch.
  Taking a call's arguments from the prepared lists is part of the call, for F as for the others.
* Reported are the median and the 99th percentile of the batch means, and the ratio of medians to
  F, a method that only looks a name up, timed in the same run.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

BATCH_NS = 1_000_000
BATCHES = 100
# Batches after which CPython has specialised a loop and the caches are warm.
WARM_UP = 3

_LOOP = """
def loop(times):
    start = clock()
    for i in range(times):
        {call}
    return clock() - start
"""


@dataclass
class Variant:
    """Something that is timed; ``run(times)`` answers the nanoseconds that many calls took."""

    label: str
    run: Callable[[int], int]
    times: int = 0
    limit: float | None = None  # in F
    limit_ns: float | None = None  # for what has no limit in F
    over: Variant | None = None  # what ``limit`` counts from, else from nothing
    plain: bool = False  # no loop around it whose cost would have to be taken off
    batches: list[float] = field(default_factory=list)

    def batch(self) -> None:
        """Time one batch and keep its mean per call."""
        self.batches.append(self.run(self.times) / self.times)


def calls(
    label: str,
    call: str,
    names: Mapping[str, Any],
    limit: float | None = None,
    over: Variant | None = None,
    limit_ns: float | None = None,
) -> Variant:
    """A variant whose loop evaluates ``call``, in which ``i`` is the index and ``names`` are known.

    The names become parameters: they are local, as they would be in a function of a program.
    """
    bound = ", ".join(f"{name}={name}" for name in names)
    source = _LOOP.format(call=call).replace("(times)", f"(times, {bound})", 1)
    namespace: dict[str, Any] = {"clock": perf_counter_ns, **names}
    exec(compile(source, f"<{label}>", "exec"), namespace)
    return Variant(label, namespace["loop"], limit=limit, limit_ns=limit_ns, over=over)


def measure(variants: list[Variant], most: int, batches: int = BATCHES, seed: int = 1) -> None:
    """Time all variants, interleaved; ``most`` is the length of the lists they walk."""
    for variant in variants:
        variant.times = variant.times or _sized(variant, most)
    order = random.Random(seed)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(WARM_UP + batches):
            for variant in order.sample(variants, len(variants)):
                variant.batch()
            if number + 1 == WARM_UP:
                for variant in variants:
                    variant.batches.clear()
    finally:
        if collecting:
            gc.enable()


def _sized(variant: Variant, most: int) -> int:
    probe = min(most, 1000)
    variant.run(probe)
    return max(1, min(most, BATCH_NS * probe // max(1, variant.run(probe))))


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def rows(variants: list[Variant], empty: Variant, reference: Variant) -> list[tuple[str, ...]]:
    """(label, median ns, p99 ns, ratio to the reference, limit) for each variant, as text."""
    overhead = statistics.median(empty.batches)
    unit = statistics.median(reference.batches) - overhead
    table: list[tuple[str, ...]] = []
    for variant in variants:
        taken = 0.0 if variant.plain else overhead
        median = statistics.median(variant.batches) - taken
        high = percentile(variant.batches, 0.99) - taken
        limit = ""
        if variant.limit_ns is not None:
            limit = f"<= {variant.limit_ns:,.0f} ns"
        elif variant.limit is not None:
            less = variant.over
            start = 0.0 if less is None else (statistics.median(less.batches) - overhead) / unit
            limit = f"<= {start + variant.limit:.2f} F"
        ratio = f"{median / unit:.2f}"
        table.append((variant.label, f"{median:,.0f}", f"{high:,.0f}", ratio, limit))
    return table


def printed(title: str, head: tuple[str, ...], body: list[tuple[str, ...]]) -> None:
    """Print one table, the first column left, the others right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    print(f"\n{title}")
    for line in (head, tuple("-" * width for width in widths), *body):
        first, *rest = (
            text.ljust(width) if position == 0 else text.rjust(width)
            for position, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join((first, *rest)).rstrip())


def circumstances(module: str) -> str:
    """One line: interpreter, machine, commit and the command that prints this again."""
    return (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, commit {_commit()}; "
        f"python -m benchmarks {module.rpartition('.')[2]}"
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    return commit + (" with changes" if git("status", "--porcelain", "--", "lib") else "")


def keeping(bytecode: Path) -> dict[str, str]:
    """This process's environment for another, which keeps compiled modules in that folder."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPYCACHEPREFIX": str(bytecode)}


def fresh_process(program: str, arguments: list[str], bytecode: Path) -> tuple[float, str]:
    """Milliseconds from start to end of a fresh interpreter, and what the program printed.

    Compiled modules are kept in the folder ``bytecode``, whatever this process's environment
    says about them: an installed package has them, and the first run here makes them.
    """
    environment = keeping(bytecode)
    start = perf_counter_ns()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return (perf_counter_ns() - start) / 1e6, done.stdout


def program(module: str, *arguments: str) -> dict[str, Any]:
    """What a module of this folder, run as a process of its own, prints as one line of JSON."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
