"""Run every module of this folder that has a ``main()``, or those named: ``… reading``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def main(wanted: list[str]) -> None:
    """Run the benchmarks named, or all, in alphabetical order."""
    found = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        sys.exit(f"benchmarks: expected some of {', '.join(found)}, found {', '.join(unknown)}")
    for name in wanted or found:
        if name.startswith("_"):
            continue
        run = getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)
        if run is not None:
            run()


if __name__ == "__main__":
    main(sys.argv[1:])
