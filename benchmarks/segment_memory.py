"""What 10,000 lookups in a segment of a million add to a process; prints bytes as JSON.

The flag and segment are those of `reading`. A hundred lookups go first: they open the replica,
compile the flag, and load what hashes members. Half of all asked for are no members, and nobody is
asked for twice. Argument: the replica's root.
"""

from __future__ import annotations

import json
import sys

from benchmarks.memory import private_dirty_kib
from control_plane.feature_flags.flag_manager import FeatureFlagManager

# Past the 1,024th answer, with which a process first tells its usage: 20 KiB of code, once.
FIRST = 5_000
LOOKUPS = 10_000
# Members are unit-0 to unit-999999: every second lookup is of one.
STEP = 99


def main(root: str) -> None:
    """Open, look up, measure, look up, measure."""
    flags = FeatureFlagManager(replica=root, environment="production")
    held = 0
    for number in range(FIRST):
        held += flags.is_enabled("segment", tenant_id=f"unit-{number}")
    if held != FIRST:
        raise RuntimeError(f"expected {FIRST} members, found {held}")
    # Twice, as the first reading makes room for itself.
    private_dirty_kib()
    before = private_dirty_kib()
    for number in range(LOOKUPS):
        unit = f"unit-{FIRST + number * STEP + (number % 2) * 1_000_000}"
        held += flags.is_enabled("segment", tenant_id=unit)
    after = private_dirty_kib()
    if held != FIRST + LOOKUPS // 2:
        raise RuntimeError(f"expected {LOOKUPS // 2} members, found {held - FIRST}")
    print(json.dumps({"bytes": 1024 * (after - before)}))
    flags.close()


if __name__ == "__main__":
    main(sys.argv[1])
