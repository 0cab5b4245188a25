"""The writing side of the client tests: a process that is the one writer of each folder it is told.

One JSON object a line: ``folder``, ``calls`` ([name of a method of Documents, its arguments] …),
``swap`` (rebuild beside and swap in), ``restart`` (a new writer first), ``forget`` (do not count
which configuration records change, as versions did that knew of no count), ``state`` (bits),
``checkpoint`` (seconds). Each line that holds calls is one generation. The answer is
``{"generation": …}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from control_plane.replica.writer import ReplicaWriter, WriteTransaction
from control_plane.testing.documents import Body, Documents


class Writing:
    """One folder, its writer, and what was written last."""

    def __init__(self, folder: Path, development: bool) -> None:
        self._place = {"folder": str(folder), "sync": False, "development": development}
        self.writer = ReplicaWriter.open(**self._place)
        self.documents = Documents(folder.name)
        self.written: dict[bytes, Body] = {}
        self.generation = 0

    def obey(self, order: dict[str, Any]) -> None:
        for method, arguments in order.get("calls", ()):
            self.documents = getattr(self.documents, method)(*arguments)
        if order.get("restart"):
            self.writer.close()
            self.writer = ReplicaWriter.open(**self._place)
        if order.get("swap"):
            self.writer.rebuild()
            self.written = {}
        if order.get("calls") or order.get("swap"):
            self.commit(order.get("forget", False))
        if order.get("swap"):
            self.writer.swap()
        if "state" in order:
            self.writer.set_state(order["state"])
        if "checkpoint" in order:
            self.writer.set_checkpoint_time(order["checkpoint"])
        self.writer.tend()

    def commit(self, forget: bool) -> None:
        self.generation += 1
        records = self.documents.records(self.generation, self.written)
        with self.writer.write() as transaction:
            for key in self.written.keys() - records.keys():
                transaction.delete_record(key)
            for key, (kind, body) in records.items():
                if self.written.get(key) != (kind, body):
                    transaction.put_record(
                        key,
                        kind,
                        body,
                        head_generation=self.generation,
                        served_generation=self.generation,
                    )
            transaction.generation = self.generation
            if forget:
                _forget(transaction)
        self.written = records


def _forget(transaction: WriteTransaction) -> None:
    transaction._configs.clear()


def main() -> None:
    folders: dict[str, Writing] = {}
    for line in sys.stdin:
        order = json.loads(line)
        folder = order["folder"]
        if order.get("close"):
            folders.pop(folder).writer.close()
            generation = 0
        else:
            if folder not in folders:
                folders[folder] = Writing(Path(folder), order.get("development", False))
            folders[folder].obey(order)
            generation = folders[folder].generation
        print(json.dumps({"generation": generation}), flush=True)


if __name__ == "__main__":
    main()
