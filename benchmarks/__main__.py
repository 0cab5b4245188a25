"""Run every benchmark of this folder, or those named: ``… reading``, ``… peers --flags 100``.

A benchmark is a module with a ``main()``; options go to the one that is named. A module whose
``main`` has to be told something is a process that a benchmark starts.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run the benchmarks named, or all, in alphabetical order."""
    first = next((n for n, word in enumerate(arguments) if word[0] == "-"), len(arguments))
    wanted, options = arguments[:first], arguments[first:]
    found = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        sys.exit(f"benchmarks: expected some of {', '.join(found)}, found {', '.join(unknown)}")
    if options and len(wanted) != 1:
        sys.exit(f"benchmarks: expected one benchmark for {options[0]}, found {len(wanted)}")
    for name in wanted or found:
        if name.startswith("_"):
            continue
        run = getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)
        if run is None or not _runs_alone(run):
            continue
        if options and not inspect.signature(run).parameters:
            sys.exit(f"benchmarks: expected no options for {name}, found {' '.join(options)}")
        run(*([options] if options else []))


def _runs_alone(run: object) -> bool:
    parameters = inspect.signature(run).parameters.values()  # type: ignore[arg-type]
    return all(parameter.default is not parameter.empty for parameter in parameters)


if __name__ == "__main__":
    main(sys.argv[1:])
