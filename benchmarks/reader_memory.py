"""What a process that evaluates 100 flags has for itself, beyond its imports; prints KiB as JSON.

It imports no more than an application that reads flags. They are those of `reading`, 25 of each
kind: plain, five rules, a split, three variants. Argument: the replica's root.
"""

from __future__ import annotations

import json
import sys

from benchmarks.memory import private_dirty_kib
from control_plane.feature_flags.flag_manager import FeatureFlagManager

CONTEXT = {"plan": "pro", "country": "FR", "region": "eu", "seats": 40}


def main(root: str) -> None:
    """Open, evaluate, measure."""
    before = private_dirty_kib()
    flags = FeatureFlagManager(replica=root, environment="production")
    for kind in ("w1", "w2", "w3", "w4"):
        for number in range(25):
            if flags.variant(f"{kind}-{number:03}", tenant_id="tenant-0", context=CONTEXT) is None:
                raise RuntimeError(f"expected a variant of {kind}-{number:03}, found none")
    print(json.dumps({"before": before, "over": private_dirty_kib() - before}))
    flags.close()


if __name__ == "__main__":
    main(sys.argv[1])
