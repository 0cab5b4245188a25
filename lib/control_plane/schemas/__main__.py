"""``python -m control_plane.schemas DIR``: copy the schemas to where editors find them."""

from __future__ import annotations

import sys
from pathlib import Path

from control_plane.schemas import copy_to

_ARGUMENTS = 2


def main(arguments: list[str]) -> int:
    """Copy to the folder named; 2 when none is."""
    if len(arguments) != _ARGUMENTS:
        print("usage: python -m control_plane.schemas DIR", file=sys.stderr)
        return 2
    for path in copy_to(Path(arguments[1])):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
