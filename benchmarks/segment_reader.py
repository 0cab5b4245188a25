"""A process that asks who is in a segment; prints one line of JSON.

Arguments: the replica's folder, how many members there are and how many names are asked for. Those
are spread over all shards, every other one is a stranger. What is timed is the whole call of
``is_enabled``, of a flag with one rule, for the segment. ``growth_kib`` is private memory
after every name was asked for once more, beside what it was before: the flag was compiled, and as
many lookups made, by then.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys

from benchmarks.harness import calls, measure, percentile
from benchmarks.memory import private_dirty_kib
from control_plane.feature_flags.flag_manager import FeatureFlagManager

ENVIRONMENT = "production"
FLAG = "asks"
ASK = "flags.is_enabled('asks', names[i])"
BATCHES = 200


def main(folder: str, count: int, asked: int) -> None:
    order = random.Random(7)
    numbers = order.sample(range(count), asked // 2)
    members = [f"member-{number:07}" for number in numbers]
    strangers = [f"stranger-{number:07}" for number in numbers]
    with FeatureFlagManager(replica=folder, environment=ENVIRONMENT) as flags:
        wrong = sum(not flags.is_enabled(FLAG, name) for name in members)
        wrong += sum(flags.is_enabled(FLAG, name) for name in strangers)
        runs = {
            "member": calls("member", ASK, {"flags": flags, "names": members}),
            "stranger": calls("stranger", ASK, {"flags": flags, "names": strangers}),
            "plain": calls("plain", "flags.is_enabled('plain', names[i])",
                           {"flags": flags, "names": members}),
        }  # fmt: skip
        measure(list(runs.values()), len(members), batches=BATCHES)
        gc.collect()
        before_kib = private_dirty_kib()
        for name in ("member", "stranger"):
            runs[name].run(len(members))
        growth_kib = private_dirty_kib() - before_kib
    found: dict[str, object] = {"wrong": wrong, "growth_kib": growth_kib, "asked": 2 * len(members)}
    for label, variant in runs.items():
        found[f"{label}_ns"] = statistics.median(variant.batches)
        found[f"{label}_p99_ns"] = percentile(variant.batches, 0.99)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
