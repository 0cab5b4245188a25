"""What summing the usage files of a node costs its daemon: ``python -m benchmarks.usage``.

200 files of 1,000 flags with two variants each, every slot of which rises between two looks: more
than processes do that tell at most once a second of what moved. Measured: processor time of one
look; the limit is 2 % of a core at one look every 10 s, 200 ms.
"""

from __future__ import annotations

import tempfile
from statistics import median
from time import process_time

from control_plane.usage.file import UsageFile
from control_plane.usage.slots import EVALUATIONS, slot_name
from control_plane.usage.tally import Tally

FILES, FLAGS, LOOKS = 200, 1000, 5
LIMIT_SECONDS = 0.2


def main() -> None:
    """Print the median look and its share of a core."""
    names = [slot_name(EVALUATIONS, f"flag_{n}", v) for n in range(FLAGS) for v in ("on", "off")]
    slots = [name for name in names if name is not None]
    with tempfile.TemporaryDirectory() as folder:
        files = [UsageFile(folder, "production") for _ in range(FILES)]
        tally = Tally(folder)
        spent = []
        for _ in range(LOOKS + 1):
            for file in files:
                for name in slots:
                    file.add(name, 3)
            began = process_time()
            tally.collect()
            spent.append(process_time() - began)
        for file in files:
            file.close()
    looked = median(spent[1:])
    print(f"first look {spent[0] * 1e3:,.0f} ms; a look {looked * 1e3:,.0f} ms, {looked / 10:.2%}")
    print(f"limit      {LIMIT_SECONDS * 1e3:,.0f} ms, 2.00% of a core every 10 s")


if __name__ == "__main__":
    main()
