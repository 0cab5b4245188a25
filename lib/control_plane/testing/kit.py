"""A client over a replica of its own, and the calls with which a test changes that replica.

Each change is a new generation in a new numbered folder beside the old one, swapped in when it is
complete, as a daemon does it after a rebuild. The process that reads a replica may not have it
open for writing, and this way it never has: the folder being written is one nobody has read, and
it is closed before anybody can. Readers follow as they follow any swap; the folder before the last
is deleted, so that a change costs the same however many came before it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from control_plane.client import ControlPlaneClient
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.replica.reader import OPEN
from control_plane.replica.source import FORMAT_FOLDER
from control_plane.replica.writer import ReplicaWriter
from control_plane.testing.documents import Body, Documents, Segment

Config = Mapping[str, Any]
Flag = Mapping[str, Any] | bool


class ReplicaKit(ControlPlaneClient):
    """A client whose replica the test itself changes; made by `replica`.

    Every call that changes something returns the new generation, and the next read sees it. An
    invalid document raises ``ManifestInvalid`` and changes nothing.
    """

    def __init__(
        self, root: Path, documents: Documents, now: Callable[[], float] = time.time
    ) -> None:
        self._root = root
        self._now = now
        self._documents = documents
        self._records: dict[bytes, tuple[Body, int]] = {}
        self._generation = 0
        self._publish(documents)
        super().__init__(str(root), documents.environment)
        self._flags = FeatureFlagManager(self, now=now)

    def set_flag(self, name: str, flag: Flag | None) -> int:
        """Publish a flag's metadata, or true or false for everybody; None deletes it."""
        return self._publish(self._documents.with_flag(name, flag))

    def set_flags(self, flags: Mapping[str, Flag | None]) -> int:
        """Publish several flags as one change set, as `set_flag` each."""
        documents = self._documents
        for name, flag in flags.items():
            documents = documents.with_flag(name, flag)
        return self._publish(documents)

    def kill(self, flag: str, variant: str | None = None) -> int:
        """Serve one variant to everybody; None serves what the flag serves when disabled."""
        return self._publish(self._documents.with_kill(flag, variant))

    def unkill(self, flag: str) -> int:
        """Let the flag's own rules decide again."""
        return self._publish(self._documents.without_kill(flag))

    def set_segment(self, name: str, segment: Segment) -> int:
        """Publish a segment with these members and no others, or with this metadata."""
        return self._publish(self._documents.with_segment(name, segment))

    def set_config(self, name: str, config: Config | None) -> int:
        """Publish a namespace's values or metadata (``database@acme``: one tenant's own)."""
        return self._publish(self._documents.with_config(name, config))

    def put_agent(self, document: Mapping[str, Any], channel: str | None = "stable") -> int:
        """Publish an agent's version, and move the channel to it unless None."""
        return self._publish(self._documents.with_version("agent", document, channel))

    def put_tool(self, document: Mapping[str, Any], channel: str | None = "stable") -> int:
        """Publish a tool's version, and move the channel to it unless None."""
        return self._publish(self._documents.with_version("tool", document, channel))

    def set_status(
        self,
        kind: str,
        name: str,
        version: str,
        status: str,
        reason: str | None = None,
        successor: str | None = None,
    ) -> int:
        """Deprecate or yank a version of an agent or tool, or make it active again."""
        value = {"status": status, "reason": reason, "successor": successor}
        return self._publish(self._documents.with_status(kind, name, version, value))

    def _now_ns(self) -> int:
        return int(self._now() * 1e9)

    def _publish(self, documents: Documents) -> int:
        """Write a whole generation and swap it in; on an error nothing has changed."""
        generation = self._generation + 1
        before = {key: body for key, (body, _) in self._records.items()}
        records = self._dated(documents.records(generation, before), generation)
        folder = self._root / documents.environment
        # No sync: the replica ends with the test. No sleep: a restarted writer waits for readers
        # of the folder it goes on writing, and this one only ever writes folders nobody has read.
        writer = ReplicaWriter.open(
            str(folder),
            development=True,
            rebuild=self._generation > 0,
            sync=False,
            sleep=_no_sleep,
            wall_ns=self._now_ns,
        )
        with writer:
            with writer.write() as transaction:
                for key, ((kind, body), since) in records.items():
                    transaction.put_record(
                        key, kind, body, head_generation=since, served_generation=since
                    )
                transaction.generation = generation
            # Sources of this process follow the link only when the writer has closed the file:
            # one that tried in between would find it open and look again a second later.
            with OPEN.moving:
                if self._generation > 0:
                    writer.swap()
                writer.close()
        # Folders are numbered as generations are. Who still maps this one keeps what is mapped.
        shutil.rmtree(folder / FORMAT_FOLDER / str(generation - 2), ignore_errors=True)
        self._documents, self._records, self._generation = documents, records, generation
        return generation

    def _dated(
        self, bodies: Mapping[bytes, Body], generation: int
    ) -> dict[bytes, tuple[Body, int]]:
        """Each record with the generation that last changed it."""
        dated = {}
        for key, body in bodies.items():
            before = self._records.get(key)
            dated[key] = before if before and before[0] == body else (body, generation)
        return dated


@contextmanager
def replica(
    flags: Mapping[str, Flag] | None = None,
    config: Mapping[str, Config] | None = None,
    agents: Iterable[Mapping[str, Any]] = (),
    tools: Iterable[Mapping[str, Any]] = (),
    segments: Mapping[str, Segment] | None = None,
    kills: Mapping[str, str | None] | None = None,
    environment: str = "test",
    now: Callable[[], float] = time.time,
) -> Iterator[ReplicaKit]:
    """Make a replica in a temporary folder and give a client that reads it.

    Args:
        flags: metadata by name, or true or false.
        config: values or metadata by namespace.
        agents, tools: their documents; the last version of a name becomes stable.
        segments: members or metadata by name.
        kills: by flag the variant to serve, or None.
        environment: what the replica is called, and whose ``environments`` blocks count.
        now: the clock of writer, health and schedules, in seconds since 1970.

    Raises:
        ManifestInvalid: naming the document and the place in it.
    """
    documents = _documents(
        environment, flags or {}, config or {}, agents, tools, segments or {}, kills or {}
    )
    with (
        tempfile.TemporaryDirectory(prefix="control-plane-") as root,
        ReplicaKit(Path(root), documents, now) as kit,
    ):
        yield kit


def _documents(
    environment: str,
    flags: Mapping[str, Flag],
    config: Mapping[str, Config],
    agents: Iterable[Mapping[str, Any]],
    tools: Iterable[Mapping[str, Any]],
    segments: Mapping[str, Segment],
    kills: Mapping[str, str | None],
) -> Documents:
    documents = Documents(environment)
    for name, flag in flags.items():
        documents = documents.with_flag(name, flag)
    for name, segment in segments.items():
        documents = documents.with_segment(name, segment)
    # A tenant's own part is checked against its namespace, so that one comes first.
    for name in sorted(config):
        documents = documents.with_config(name, config[name])
    for document in tools:
        documents = documents.with_version("tool", document)
    for document in agents:
        documents = documents.with_version("agent", document)
    for name, variant in kills.items():
        documents = documents.with_kill(name, variant)
    return documents


def _no_sleep(seconds: float) -> None:
    """In place of waiting for readers that cannot exist."""
