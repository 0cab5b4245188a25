"""A node for client tests: replicas written by another process and read by this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.replica.format import Record, decode_record

PRODUCTION = {
    "values": {"url": "postgresql://localhost/app", "pool": {"size": 5, "timeout": 1.5}},
    "environments": {"production": {"url": "postgresql://db/app", "pool": {"size": 50}}},
    "tenants": {"acme": {"pool": {"size": 80}, "hosts": ["a", "b"]}},
}
CRM_TOOL = {"name": "crm_tool", "version": "1.2.0", "metadata": {"description": "Looks people up."}}
SUPPORT = {
    "name": "customer_support_agent",
    "version": "1.0.0",
    "owner": "platform-team",
    "metadata": {
        "description": "Answers customers.",
        "capabilities": ["chat"],
        "temperature": 0.7,
        "tools": ["crm_tool>=1.2,<2", {"name": "order_tool", "version": ">=1", "optional": True}],
    },
}


class Node:
    """The folder of replicas of one node, and the process that writes them."""

    def __init__(self, process: subprocess.Popen[str], root: Path) -> None:
        self.root = root
        self._process = process
        self._folders: set[str] = set()
        self._clients: list[ControlPlaneClient] = []

    def write(
        self, *calls: tuple[str, list[Any]], environment: str = "production", **order: Any
    ) -> int:
        """Write one generation: what these calls of Documents make; returns its number."""
        folder = str(self.root / environment)
        self._folders.add(folder)
        return self._send({"folder": folder, "calls": calls, **order})

    def config(self, name: str, config: Any, environment: str = "production", **order: Any) -> int:
        """Publish a namespace."""
        return self.write(("with_config", [name, config]), environment=environment, **order)

    def flag(self, name: str, flag: Any, environment: str = "production", **order: Any) -> int:
        """Publish a flag."""
        return self.write(("with_flag", [name, flag]), environment=environment, **order)

    def version(self, kind: str, document: Any, channel: str | None = "stable") -> int:
        """Publish a version of an agent or tool."""
        return self.write(("with_version", [kind, document, channel]))

    def status(self, kind: str, name: str, version: str, **status: Any) -> int:
        """Deprecate or yank a version."""
        return self.write(("with_status", [kind, name, version, status]))

    def swap(self, environment: str = "production") -> int:
        """Rebuild the replica in a new folder and swap it in."""
        return self.write(environment=environment, swap=True)

    def client(self, environment: str | None = "production", **options: Any) -> ControlPlaneClient:
        """A client of this node, closed with the test."""
        client = ControlPlaneClient(str(self.root), environment, **options)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for folder in self._folders:
            self._send({"folder": folder, "close": True})

    def _send(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the writing process died"
        return int(json.loads(answer)["generation"])


@pytest.fixture(scope="session")
def writer_process() -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("writer_process.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


@pytest.fixture
def node(writer_process: subprocess.Popen[str], tmp_path: Path) -> Iterator[Node]:
    node = Node(writer_process, tmp_path)
    yield node
    node.close()


@pytest.fixture
def stocked(node: Node) -> Node:
    """A node whose production has a flag, a configuration, an agent and its tool."""
    node.write(
        ("with_flag", ["new_ai_model", True]),
        ("with_config", ["database", PRODUCTION]),
        ("with_version", ["tool", CRM_TOOL]),
        ("with_version", ["agent", SUPPORT]),
    )
    return node


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """From now on every record whose key ends so is read as damaged."""

    def damage(end: bytes) -> None:
        def decode(key: bytes, data: bytes) -> Record:
            if key.endswith(end):
                data = data[:-1] + bytes((data[-1] ^ 1,))
            return decode_record(key, data)

        monkeypatch.setattr("control_plane.configs.merged.decode_record", decode)
        monkeypatch.setattr("control_plane.registries.registry_manager.decode_record", decode)

    return damage


@pytest.fixture
def without_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The process without the variables that choose a replica."""
    for variable in ("REPLICA", "ENVIRONMENT", "REQUIRE_TRUSTED"):
        monkeypatch.delenv(f"CONTROL_PLANE_{variable}", raising=False)
    return monkeypatch


@pytest.fixture
def in_child() -> Callable[..., str]:
    """Run a function in a forked child, another meanwhile here; return what the child's did."""

    def run(function: Callable[[], object], meanwhile: Callable[[], object] = int) -> str:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, str(function()).encode())
            except BaseException as error:
                os.write(write_end, repr(error).encode())
            finally:
                os._exit(0)
        os.close(write_end)
        meanwhile()
        os.waitpid(child, 0)
        with os.fdopen(read_end) as answer:
            return answer.read()

    return run
