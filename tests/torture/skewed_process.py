"""``control-plane`` under a wall clock that is wrong: FILE ARGUMENTS….

FILE holds by how many seconds, and is read at each look; the monotonic clock is right.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

_true_ns = time.time_ns


def skew(file: Path) -> None:
    """Put the wrong clock in the place of the right one; before anything takes it from there."""

    def wrong_ns() -> int:
        return _true_ns() + int(file.read_text()) * 1_000_000_000

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9


if __name__ == "__main__":
    skew(Path(sys.argv[1]))
    from control_plane.__main__ import main

    sys.exit(main(sys.argv[2:]))
