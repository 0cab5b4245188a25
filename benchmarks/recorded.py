"""A log written to files: the documents of a platform, signed, sequenced and packed as answers.

A file holds one answer to a long poll, at most 8 MiB of entries and blobs, under a checkpoint of
the log's key; `catching_up` takes them as the daemon does. Everything is signed for real: change
sets and manifests by their author, checkpoints by the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import Frontier, leaf_hash
from control_plane.log.statements import Change, TrustStatement, change_set
from control_plane.manifests.documents import blob
from control_plane.publish.keyfiles import create_trust, sign_envelope
from control_plane.publish.sign import signed
from control_plane.trust.enrolment import Enrolment

ENVIRONMENT = "production"
START_MS = 1_700_000_000_000
ANSWER_BYTES = 8 << 20
ANSWER_ENTRIES = 8_192
A_SET = 100
LEAVES = 50

Document = dict[str, Any]


class RecordedLog:
    """Writes answers ``00000.answer``, … and ``trust.json`` into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        trust = create_trust(folder / "trust", installation="bench", environments=[ENVIRONMENT])
        self._author = trust.signers["author"]
        self._origin = f"bench/{ENVIRONMENT}/1"
        self._log = LogSigner(self._origin, trust.log_key(ENVIRONMENT))
        self._frontier = Frontier()
        self._entries: list[bytes] = []
        self._blobs: dict[str, bytes] = {}
        self._bytes = self._answers = 0
        root, targets = (self._keep(data) for data in (trust.root, trust.targets))
        statement = TrustStatement(origin=self._origin, root=(root,), targets=targets)
        envelope = Envelope(PAYLOAD_TYPE["trust"], statement.payload())
        self._append(self._log.sign_envelope(envelope))
        enrolment = Enrolment(trust.root, trust.targets, {ENVIRONMENT: self._checkpoint()})
        (folder / "trust.json").write_bytes(enrolment.encode())

    def publish(self, documents: Iterable[Document], a_set: int = A_SET) -> None:
        """Append change sets of ``a_set`` changes; agents and tools are activated as well."""
        changes: list[Change] = []
        for document in documents:
            changes += self._changes(document)
            if len(changes) >= a_set:
                self._submit(changes)
                changes = []
        if changes:
            self._submit(changes)

    def end(self) -> None:
        """Write the last answer."""
        self._flush(more=False)

    def _changes(self, document: Document) -> Iterator[Change]:
        kind, name, version = document["kind"], document["name"], document.get("version")
        if version is not None:
            document = signed(document, self._author)
        yield Change(
            action="put", kind=kind, name=name, replaces=None, digest=self._keep(blob(document)),
            version=version, checksum=document.get("checksum_sha256"),
        )  # fmt: skip
        if version is not None:
            yield Change(
                action="activate", kind=kind, name=name, replaces=None, version=version,
                channel="stable",
            )  # fmt: skip

    def _submit(self, changes: list[Change]) -> None:
        statement, listed = change_set(
            self._origin, changes, created_at=START_MS, not_after=START_MS + 60_000,
            reason="benchmark", verb="apply",
        )  # fmt: skip
        if listed is not None:
            self._keep(listed)
        self._append(sign_envelope(statement.envelope(), self._author))
        if self._bytes > ANSWER_BYTES - (1 << 20) or len(self._entries) >= ANSWER_ENTRIES:
            self._flush(more=True)

    def _append(self, envelope: Envelope) -> None:
        data = Leaf(START_MS, envelope).encode()
        self._entries.append(data)
        self._bytes += len(data)
        self._frontier = self._frontier.extended([leaf_hash(data)])

    def _keep(self, data: bytes) -> str:
        digest = sha256_hex(data)
        self._blobs[digest] = data
        self._bytes += len(data) + len(digest)
        return digest

    def _checkpoint(self) -> bytes:
        size, root = self._frontier.size, self._frontier.root()
        return self._log.sign_checkpoint(Checkpoint(self._origin, size, root), START_MS // 1000)

    def _flush(self, *, more: bool) -> None:
        answer: dict[str, Any] = {
            "format": 1, "epoch": 1, "checkpoint": self._checkpoint(),
            "first": self._frontier.size - len(self._entries), "entries": self._entries,
            "blobs": self._blobs, "more": more,
        }  # fmt: skip
        if more:
            answer["proof"] = []
        path = self._folder / f"{self._answers:05}.answer"
        path.write_bytes(msgpack.packb(answer))
        self._entries, self._blobs, self._bytes = [], {}, 0
        self._answers += 1


def platform(records: int) -> Iterator[Document]:
    """Documents of about so many records: 45 % flags, 45 % leaves, 5 % tools, 5 % agents."""
    flags, tools = records * 45 // 100, records * 5 // 100
    yield from map(flag, range(flags))
    yield from map(config, range(flags // LEAVES))
    yield from map(tool, range(tools))
    yield from (agent(number, tools) for number in range(tools))


def flag(number: int) -> Document:
    """Two rules: a list of tenants, and a split of all others."""
    tenants = [f"tenant-{(number * 7 + step) % 1000}" for step in range(3)]
    split = [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}]
    rules = [
        {"name": "pilot", "when": {"tenant_id": {"in": tenants}}, "serve": "on"},
        {"name": "rollout", "serve": split, "by": "tenant_id"},
    ]
    metadata = {"variants": {"on": True, "off": False}, "default": "off", "rules": rules}
    return {"kind": "flag", "name": f"flag-{number:06}", "metadata": metadata}


def config(number: int) -> Document:
    """Fifty leaves in ten sections, five of them other values in this environment."""
    values = {
        f"section_{section}": {f"key_{key}": f"value {number} {key}" for key in range(5)}
        for section in range(LEAVES // 5)
    }
    here = {"section_0": {f"key_{key}": f"here {number} {key}" for key in range(5)}}
    metadata = {
        "schema": {"type": "object", "required": ["section_0"]},
        "values": values,
        "environments": {ENVIRONMENT: here},
    }
    return {"kind": "config", "name": f"service_{number:05}", "metadata": metadata}


def tool(number: int) -> Document:
    """A tool with a small input schema."""
    metadata = {
        "description": "Looks up a customer and adds notes to the record.",
        "category": "crm",
        "inputs_schema": {
            "type": "object",
            "required": ["action"],
            "properties": {"action": {"type": "string"}, "note": {"type": "string"}},
        },
        "outputs_schema": {"type": "object"},
        "timeout_ms": 5000,
        "retry_attempts": 3,
    }
    return _versioned("tool", f"tool-{number:06}", metadata)


def agent(number: int, tools: int) -> Document:
    """An agent that asks for two of so many tools."""
    metadata = {
        "description": "Answers questions about accounts and orders.",
        "capabilities": ["conversation", "lookup"],
        "max_tokens": 4096,
        "temperature": 0.7,
        "tools": [f"tool-{(number + step) % tools:06}>=1.0,<2" for step in range(2)],
        "system_prompt": "You help customers with their account and their orders. " * 5,
    }
    return _versioned("agent", f"agent-{number:06}", metadata)


def _versioned(kind: str, name: str, metadata: Document) -> Document:
    return {
        "kind": kind, "name": name, "version": "1.0.0", "owner": "platform-team",
        "created_at": "2024-01-01T00:00:00Z", "metadata": metadata,
    }  # fmt: skip
