"""A process that asks who is in a segment; prints one line of JSON.

Arguments: the replica's folder, the flag that asks for the segment, how many members there are and
how many are asked for. Those asked for are spread over all shards, every other one is a stranger.
One evaluation is timed at a time, in batches; of each it is the whole call, flag and segment.
``growth_kib`` is private memory after all of them, beside what it was after the first thousand.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys

from benchmarks.harness import calls, percentile
from benchmarks.memory import private_dirty_kib
from control_plane.feature_flags.flag_manager import FeatureFlagManager

ENVIRONMENT = "production"
BATCH = 1_000


def main(folder: str, flag: str, count: int, asked: int) -> None:
    order = random.Random(7)
    numbers = order.sample(range(count), asked // 2)
    members = [f"member-{number:07}" for number in numbers]
    strangers = [f"stranger-{number:07}" for number in numbers]
    with FeatureFlagManager(replica=folder, environment=ENVIRONMENT) as flags:
        wrong = sum(not flags.is_enabled(flag, name) for name in members[:BATCH])
        wrong += sum(flags.is_enabled(flag, name) for name in strangers[:BATCH])
        table: dict[str, list[float]] = {"member": [], "stranger": [], "constant": []}
        gc.collect()
        gc.disable()
        before_kib = private_dirty_kib()
        for start in range(0, len(members) - BATCH + 1, BATCH):
            for label, names in (("member", members), ("stranger", strangers)):
                part = names[start : start + BATCH]
                known = {"flags": flags, "names": part, "flag": flag}
                run = calls(label, "flags.is_enabled(flag, names[i])", known).run
                table[label].append(run(BATCH) / BATCH)
        growth_kib = private_dirty_kib() - before_kib
        for _ in range(20):
            known = {"flags": flags, "names": members}
            run = calls("constant", "flags.is_enabled('plain', names[i])", known).run
            table["constant"].append(run(BATCH) / BATCH)
    found: dict[str, object] = {"wrong": wrong, "growth_kib": growth_kib, "asked": 2 * len(members)}
    for label, batches in table.items():
        found[f"{label}_ns"] = statistics.median(batches)
        found[f"{label}_p99_ns"] = percentile(batches, 0.99)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
