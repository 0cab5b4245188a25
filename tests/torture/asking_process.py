"""Threads that ask for flags under ``flipping_process``: ROOT PUBLISHED ASKED THREADS.

They share one client and its handles, ask in every way there is and judge each answer:

- *mixed*: the flag of one generation met the flag or segment of another, and gave its default; or
  the answers of one pinned view are not all of its generation;
- *stale*: it is below what was published before it was asked for, or below this thread's answer to
  the same question before it;
- *failed*: the caller's default. A view that outlived its pages says so and is counted apart.

It prints the counts, one line of JSON, once at least so many answers were judged.
"""

from __future__ import annotations

import json
import mmap
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from flipping_process import ANN, BOOLS, VALUES

from control_plane import ControlPlaneClient
from control_plane.errors import ViewExpired

TURNS = 40
COUNTED = ("asked", "views", "expired", "mixed", "stale", "failed")


class Asking:
    """One thread's questions and the count of its answers."""

    def __init__(self, client: ControlPlaneClient, page: memoryview, handles: list[Any]) -> None:
        self._client = client
        self._flags: Any = client.flags
        self._page = page
        self._handles = handles
        self._last = dict.fromkeys((*VALUES, *(f"evaluate {name}" for name in VALUES)), 0)
        self.counts = dict.fromkeys(COUNTED, 0)

    def go(self, asked: int) -> None:
        """Ask at least so often."""
        view, until = self._client.pinned(), 0.0
        try:
            while self.counts["asked"] < asked:
                for _ in range(TURNS):
                    self._ask()
                self._ask_view(view)
                if time.monotonic() > until:
                    view.close()
                    view = self._client.pinned()
                    until = time.monotonic() + random.uniform(0.0, 0.5)
        finally:
            view.close()

    def _ask(self) -> None:
        counts, flags, page = self.counts, self._flags, self._page
        for name, handle in zip(BOOLS, self._handles, strict=True):
            # The caller's default is true: false is what the rule should have prevented.
            counts["mixed"] += flags.is_enabled(name, ANN, default=True) is not True
            counts["mixed"] += handle(ANN, default=True) is not True
        for name in VALUES:
            published = page[0]
            self._judge(name, flags.value(name, 0, ANN), published)
            published = page[0]
            found = flags.evaluate(name, 0, ANN)
            self._judge(f"evaluate {name}", found.value, published)
            counts["mixed"] += found.value != 0 and found.generation != found.value
        counts["asked"] += 2 * len(BOOLS) + 2 * len(VALUES)

    def _judge(self, question: str, number: int, published: int) -> None:
        if number <= 0:
            self.counts["mixed" if number else "failed"] += 1
        elif number < published or number < self._last[question]:
            self.counts["stale"] += 1
        else:
            self._last[question] = number

    def _ask_view(self, view: Any) -> None:
        numbers = {view.value(name, 0, ANN) for name in VALUES}
        bools = {view.is_enabled(name, ANN) for name in BOOLS}
        try:
            generation = view.generation
        except ViewExpired:
            self.counts["expired"] += 1
            return
        self.counts["views"] += 1
        self.counts["asked"] += len(VALUES) + len(BOOLS)
        self.counts["mixed"] += numbers != {generation} or bools != {True}


def main(root: str, published: str, asked: int, threads: int) -> None:
    with Path(published).open("rb") as file:
        page = memoryview(mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)).cast("Q")
    with ControlPlaneClient(root, "production") as client:
        handles = [client.flags.flag(name) for name in BOOLS]
        each = [Asking(client, page, handles) for _ in range(threads)]
        share = -(-asked // threads)
        started = [threading.Thread(target=asking.go, args=(share,)) for asking in each]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    print(json.dumps({name: sum(asking.counts[name] for asking in each) for name in COUNTED}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
