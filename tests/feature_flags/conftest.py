"""A node for flag tests: a real replica, written by another process and read by this one."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.replica.format import FLAG, SEGMENT, SERVED, record_key

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


class Publisher:
    """The process that writes; one for the whole run."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("writer_process.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def send(self, do: str, folder: Path, **rest: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "folder": str(folder), **rest}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the writing process died"
        return int(json.loads(line)["generation"])

    def close(self) -> None:
        self._process.communicate(timeout=10)


class Node:
    """One environment's replica on this node."""

    def __init__(self, publisher: Publisher, root: Path) -> None:
        self.root = root
        self.folder = root / "production"
        self.publisher = publisher
        self._managers: list[FeatureFlagManager] = []

    def manager(self) -> FeatureFlagManager:
        manager = FeatureFlagManager(replica=str(self.root), environment="production")
        self._managers.append(manager)
        return manager

    def flag(self, name: str, metadata: Any, kill: Any = None) -> dict[str, Any]:
        """A flag's record."""
        return self.raw(record_key(FLAG, name), msgpack.packb({"m": metadata, "k": kill}))

    def members(self, name: str, members: list[str]) -> dict[str, Any]:
        """The record of a segment that holds its members itself."""
        body = msgpack.packb({"members": self.packed(members)})
        return self.raw(record_key(SEGMENT, name), body)

    def shards(self, name: str, bits: int, members: list[str]) -> list[dict[str, Any]]:
        """The records of a segment in 2^bits shards."""
        records = [self.raw(record_key(SEGMENT, name), msgpack.packb({"shards": bits}))]
        by_shard: dict[int, list[str]] = {}
        for member in members:
            top = int.from_bytes(hashlib.sha256(member.encode()).digest()[:8], "big") >> (64 - bits)
            by_shard.setdefault(top, []).append(member)
        for shard, inside in by_shard.items():
            key = record_key(SEGMENT, name, f"{shard:04x}")
            records.append(self.raw(key, self.packed(inside)))
        return records

    @staticmethod
    def packed(members: list[str]) -> bytes:
        return b"".join(sorted(hashlib.sha256(m.encode()).digest()[:16] for m in members))

    @staticmethod
    def raw(key: bytes, body: bytes | None, status: int = SERVED) -> dict[str, Any]:
        text = None if body is None else body.hex()
        return {"key": key.hex(), "body": text, "status": status}

    def commit(self, *records: dict[str, Any]) -> int:
        """Commit records in one transaction and return its generation."""
        self.publisher.send("commit", self.folder, records=list(records))
        return self.publisher.answer()

    def put(self, name: str, metadata: Any = ON_OFF, kill: Any = None) -> int:
        """Commit one flag."""
        return self.commit(self.flag(name, metadata, kill))

    def swap(self, *records: dict[str, Any]) -> int:
        """Rebuild the replica with these records only, in a new folder."""
        self.publisher.send("swap", self.folder, records=list(records))
        return self.publisher.answer()

    def close(self) -> None:
        for manager in self._managers:
            manager.close()
        self.publisher.send("close", self.folder)
        self.publisher.answer()


@pytest.fixture(scope="session")
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    yield publisher
    publisher.close()


@pytest.fixture
def node(publisher: Publisher, tmp_path: Path) -> Iterator[Node]:
    node = Node(publisher, tmp_path)
    yield node
    node.close()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the tags of flagd's scenarios, which become marks."""
    suite = Path(__file__).parents[3] / "shared" / "conformance" / "flagd-evaluator"
    texts = (file.read_text(encoding="utf-8") for file in suite.glob("*.feature"))
    for tag in {tag for text in texts for tag in re.findall(r"@([\w-]+)", text)}:
        config.addinivalue_line("markers", f"{tag}: a tag of flagd's scenarios")
