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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any

from control_plane.client import ControlPlaneClient, PinnedView
from control_plane.configs.settings import ConfigManager
from control_plane.defaults import wall_clock
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.manifests.environments import merged_flag
from control_plane.names import ENVIRONMENT
from control_plane.replica.reader import OPEN
from control_plane.replica.source import FORMAT_FOLDER
from control_plane.replica.writer import ReplicaWriter
from control_plane.testing.clock import Clock, Moment
from control_plane.testing.deliveries import Deliveries, Pending, deliver
from control_plane.testing.documents import Body, Documents, Segment
from control_plane.testing.evaluations import Evaluations
from control_plane.testing.units import U, find_unit

if TYPE_CHECKING:
    from control_plane.client import Manager
    from control_plane.configs.watch import Change

MAX_NS = (1 << 63) - 1

Config = Mapping[str, Any]
Flag = Mapping[str, Any] | bool


class ReplicaKit(ControlPlaneClient):
    """A client whose replica the test itself changes; made by `replica`.

    Every call that changes something returns the new generation, and the next read sees it. An
    invalid document raises ``ManifestInvalid`` and changes nothing. Safe from any thread.

    ``clock`` is the time for flags' schedules, ages and health, of this client and of every
    manager made with it: ``clock.advance(3600)``, ``clock.set("2026-03-01T09:00:00Z")``.
    """

    def __init__(
        self, root: Path, documents: Documents, clock: Clock, watch_thread: bool = True
    ) -> None:
        self.clock = clock
        self._root = root
        self._documents = documents
        self._collected: Documents | None = None
        self._records: dict[bytes, tuple[Body, int]] = {}
        self._generation = 0
        self._changing = RLock()
        self._over = False
        self._viewing = Lock()
        self._views: list[PinnedView] = []
        self._watch_thread = watch_thread
        self._watchers: list[Deliveries] = []
        self._pending: Pending = deque()
        self._recordings: list[Evaluations] = []
        self._publish(documents)
        super().__init__(str(root), documents.environment)
        self._flags = FeatureFlagManager(self, counting=True)

    @property
    def generation(self) -> int:
        """The newest generation."""
        return self._generation

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables with which another client, or another process, reads this replica.

        Such a client has a clock and watches of its own.
        """
        return {
            "CONTROL_PLANE_REPLICA": str(self._root),
            "CONTROL_PLANE_ENVIRONMENT": self._documents.environment,
        }

    def pinned(self) -> PinnedView:
        """As `ControlPlaneClient.pinned`; a view that nobody closes is closed with the kit."""
        view = super().pinned()
        with self._viewing:
            self._views = [each for each in self._views if _is_open(each)]
            self._views.append(view)
        return view

    def adopt(self, manager: Manager) -> None:
        """Let the kit's clock, recordings and `deliver` reach a manager made with this client."""
        super().adopt(manager)
        if isinstance(manager, FeatureFlagManager):
            # No record is loaded yet: nothing has asked the other clock.
            if manager._library.now is wall_clock:
                manager._library.now = self.clock
            for recording in self._recordings:
                recording.follow(manager)
        elif isinstance(manager, ConfigManager) and not self._watch_thread:
            manager._watcher = watcher = Deliveries(manager, self._pending)
            self._watchers.append(watcher)

    @contextmanager
    def one_generation(self) -> Iterator[int]:
        """Publish what the block changes as one generation, when it ends; nothing when it raises.

        Reads inside the block see the generation before. Other threads' changes wait for the end;
        other tasks of an event loop would join, so do not await inside. Yields the number of the
        new generation, which the calls inside return, too.
        """
        with self._changing:
            before = self._collected
            self._collected = self._documents if before is None else before
            try:
                yield self._generation + 1
                collected = self._collected
            finally:
                self._collected = before
            if before is None:
                self._publish(collected)
            else:
                self._collected = collected

    def unit_for(
        self,
        flag: str,
        variant: str,
        by: str = "user_id",
        *,
        user_id: str | int | None = None,
        tenant_id: str | int | None = None,
        context: Mapping[str, Any] | None = None,
        among: Iterable[U] | None = None,
    ) -> U | str:
        """A unit that the flag, as it is published now, serves this variant.

        The first of ``unit-0``, ``unit-1``, … or of ``among`` that is served it when passed as
        ``by``: ``user_id``, ``tenant_id``, or an attribute of the context (keys joined by dots).
        The other arguments are passed to each evaluation as they are. Nothing is counted.

        Raises:
            ValueError: none of them is, at most 100,000 are tried; says why.
        """
        given = {"user_id": user_id, "tenant_id": tenant_id, "context": context}
        documents = self._documents
        if flag not in documents.flags:
            raise ValueError(f"flag {flag}: expected a flag of this kit, found none")
        metadata = merged_flag(documents.flags[flag]["metadata"], documents.environment)
        with FeatureFlagManager(self, counting=False).pinned() as flags:
            return find_unit(flags, flag, variant, by, given, among, metadata)

    @contextmanager
    def recording(self) -> Iterator[Evaluations]:
        """What flags of this client are served inside the block, for assertions.

        A manager that counts nothing (``counting=False``) does not appear in it.
        """
        managers = (each for each in self._adopted() if isinstance(each, FeatureFlagManager))
        evaluations = Evaluations(managers)
        self._recordings.append(evaluations)
        try:
            yield evaluations
        finally:
            self._recordings.remove(evaluations)
            evaluations.end()

    def deliver(self) -> list[Change]:
        """Call every watch with what changed since the last call, here and now.

        Each is called once per generation that changed its value, in the order of generations; the
        changes are returned. Whatever a callback raises comes out, and the changes behind it wait.

        Raises:
            RuntimeError: watches have their thread; make the kit with ``watch_thread=False``.
        """
        if self._watch_thread:
            raise RuntimeError(
                "expected watches without a thread, found a kit whose watches have one; make it "
                "with watch_thread=False"
            )
        return deliver(self._pending)

    def set_flag(self, name: str, flag: Flag | None) -> int:
        """Publish a flag's metadata, or true or false for everybody; None deletes it."""
        return self._change(lambda documents: documents.with_flag(name, flag))

    def set_flags(self, flags: Mapping[str, Flag | None]) -> int:
        """Publish several flags as one change set, as `set_flag` each."""

        def changed(documents: Documents) -> Documents:
            for name, flag in flags.items():
                documents = documents.with_flag(name, flag)
            return documents

        return self._change(changed)

    def kill(self, flag: str, variant: str | None = None) -> int:
        """Serve one variant to everybody; None serves what the flag serves when disabled."""
        return self._change(lambda documents: documents.with_kill(flag, variant))

    def unkill(self, flag: str) -> int:
        """Let the flag's own rules decide again."""
        return self._change(lambda documents: documents.without_kill(flag))

    def set_segment(self, name: str, segment: Segment) -> int:
        """Publish a segment with these members and no others, or with this metadata."""
        return self._change(lambda documents: documents.with_segment(name, segment))

    def set_config(self, name: str, config: Config | None) -> int:
        """Publish a namespace's values or metadata (``database@acme``: one tenant's own)."""
        return self._change(lambda documents: documents.with_config(name, config))

    def put_agent(self, document: Mapping[str, Any], channel: str | None = "stable") -> int:
        """Publish an agent's version, and move the channel to it unless None."""
        return self._change(lambda documents: documents.with_version("agent", document, channel))

    def put_tool(self, document: Mapping[str, Any], channel: str | None = "stable") -> int:
        """Publish a tool's version, and move the channel to it unless None."""
        return self._change(lambda documents: documents.with_version("tool", document, channel))

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
        return self._change(lambda documents: documents.with_status(kind, name, version, value))

    def _end(self) -> None:
        """Refuse changes from now on, whichever thread makes them: the folder goes away."""
        with self._changing:
            self._over = True
        for view in self._views:
            view.close()

    def _now_ns(self) -> int:
        # A header's word holds 2^64 ns, which is short of the year 9999 that schedules may name.
        return min(max(int(self.clock() * 1e9), 0), MAX_NS)

    def _change(self, changed: Callable[[Documents], Documents]) -> int:
        """Publish what the documents become, or keep it for the generation being collected."""
        with self._changing:
            if self._collected is None:
                return self._publish(changed(self._documents))
            self._collected = changed(self._collected)
            return self._generation + 1

    def _publish(self, documents: Documents) -> int:
        """Write a whole generation and swap it in; on an error nothing has changed."""
        if self._over:
            raise RuntimeError("expected a kit in its with block, found it over")
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
        for watcher in self._watchers:
            watcher.look()
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
    manifests: Iterable[str | PathLike[str]] = (),
    environment: str = "test",
    now: Callable[[], float] | Moment = time.time,
    watch_thread: bool = True,
) -> Iterator[ReplicaKit]:
    """Make a replica in a temporary folder and give a client that reads it.

    Args:
        flags: metadata by name, or true or false.
        config: values or metadata by namespace.
        agents, tools: their documents; the last version of a name becomes stable.
        segments: members or metadata by name.
        kills: by flag the variant to serve, or None.
        manifests: files and folders of manifests; what the other arguments name replaces theirs.
        environment: what the replica is called, and whose ``environments`` blocks count.
        now: the clock of writer, health and schedules: seconds since 1970, RFC 3339 text or an
            aware ``datetime`` where it stands still, or a function that gives those seconds.
        watch_thread: call watches from a thread of their own, as in production; otherwise
            `ReplicaKit.deliver` calls them.

    Raises:
        ManifestInvalid: naming the document and the place in it.
        SyntaxInvalid: a file that is no manifest, with line and column.
        TypeError | ValueError: ``environment`` or ``now`` is none.
    """
    if not isinstance(environment, str) or ENVIRONMENT.fullmatch(environment) is None:
        # Before anything is written: it becomes a part of a path.
        raise ValueError(f"expected an environment like production, found {environment!r}")
    clock = Clock(now)
    documents = _documents(
        Documents(environment).with_files(manifests),
        flags or {},
        config or {},
        agents,
        tools,
        segments or {},
        kills or {},
    )
    with (
        tempfile.TemporaryDirectory(prefix="control-plane-") as root,
        ReplicaKit(Path(root), documents, clock, watch_thread) as kit,
    ):
        try:
            yield kit
        finally:
            kit._end()


def _is_open(view: PinnedView) -> bool:
    return view._view is not None and view._view._transaction is not None


def _documents(
    documents: Documents,
    flags: Mapping[str, Flag],
    config: Mapping[str, Config],
    agents: Iterable[Mapping[str, Any]],
    tools: Iterable[Mapping[str, Any]],
    segments: Mapping[str, Segment],
    kills: Mapping[str, str | None],
) -> Documents:
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
