"""A log kept by the test itself, with real keys, trees and checkpoints, and a node that follows it.

The log says what it is told to say: it can lie in every way a store could, and sign it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
from aiohttp import web

from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.fold import Head, Rejection, fold, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import Frontier, consistency_proof, leaf_hash, subtree_reader
from control_plane.log.statements import (
    Change,
    Continuation,
    EpochStatement,
    Key,
    SnapshotStatement,
    TrustStatement,
    change_set,
)
from control_plane.log.steps import Batch, BlobMissing
from control_plane.manifests.documents import blob
from control_plane.publish.keyfiles import NEVER, Trust, create_trust, sign_envelope
from control_plane.publish.sign import signed
from control_plane.replica.format import Record, decode_record
from control_plane.replica.header import GENERATION, map_header
from control_plane.replica.source import current_folder
from control_plane.replica.writer import ReplicaWriter
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane_daemon.enrol import enrolled, open_replica
from control_plane_daemon.follower import Follower
from control_plane_daemon.loop import EnvironmentLoop
from control_plane_daemon.source import Fetched, Followed, StoreSource

START_MS = 1_700_000_000_000
ENVIRONMENT = "production"


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return create_trust(
        tmp_path_factory.mktemp("trust"), installation="a", authors=["author", "second"],
        environments=[ENVIRONMENT, "staging"],
    )  # fmt: skip


@pytest.fixture(scope="session")
def foreign_trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return create_trust(
        tmp_path_factory.mktemp("foreign"), installation="b", environments=[ENVIRONMENT]
    )


@dataclass
class Clock:
    """Milliseconds that move when a test says so."""

    ms: int = START_MS

    def __call__(self) -> int:
        return self.ms


class KeptLog:
    """An environment's log in memory: entries in, follow answers out."""

    def __init__(self, trust: Trust, clock: Clock, environment: str = ENVIRONMENT) -> None:
        self.trust = trust
        self.clock = clock
        self.environment = environment
        self.epoch = 1
        self.base = 0
        self.earlier: dict[int, KeptLog] = {}
        self.log = LogSigner(self.origin, trust.log_key(environment))
        self.leaves: list[bytes] = []
        self.blobs: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self.heads: dict[Key, Head] = {}
        self._append_trust()

    @property
    def origin(self) -> str:
        return f"{self.trust.installation}/{self.environment}/{self.epoch}"

    @property
    def generation(self) -> int:
        return self.base + len(self.leaves)

    def epochs(self) -> dict[int, KeptLog]:
        """This log in each epoch it had, by number."""
        return {**self.earlier, self.epoch: self}

    # Entries

    def _append_trust(self, *roots: bytes) -> None:
        targets = self.keep(self.trust.targets)
        digests = tuple(self.keep(root) for root in roots or (self.trust.root,))
        statement = TrustStatement(origin=self.origin, root=digests, targets=targets)
        self.append(self.log.sign_envelope(Envelope(PAYLOAD_TYPE["trust"], statement.payload())))

    # Epochs

    def copy(self) -> KeptLog:
        """The log as a backup keeps it."""
        log = copy(self)
        log.leaves, log.heads, log.blobs = [*self.leaves], {**self.heads}, {**self.blobs}
        log.deleted = {*self.deleted}
        return log

    def next_epoch(
        self,
        *,
        epoch: int | None = None,
        generation: int | None = None,
        version: int | None = None,
        witnesses: dict[str, Any] | None = None,
        **continues: Any,
    ) -> KeptLog:
        """The log going on in a new epoch by a new root; ``continues`` says what is not so."""
        base = (1 << 20) + self.generation if generation is None else generation
        new = self.copy()
        new.earlier = self.epochs()
        new.epoch, new.base = epoch or self.epoch + 1, base
        named = {
            "epoch": self.epoch, "size": len(self.leaves), "root": self.tree().hex(),
            "generation": base,
        } | continues  # fmt: skip
        new.trust = replace(self.trust, root=self._next_root(new, named, version, witnesses))
        new.log = LogSigner(new.origin, new.trust.log_key(self.environment))
        new.leaves = []
        new._append_trust()
        new.append(new.log.sign_envelope(new.epoch_statement(named)))
        return new

    def _next_root(
        self, new: KeptLog, continues: Any, version: int | None, witnesses: dict[str, Any] | None
    ) -> bytes:
        trust = self.trust
        root = authoring.new_root(
            version=version or trust.policy.root_version + 1, expires=NEVER,
            root_keys=[trust.keys["root"].public], targets_keys=[trust.keys["targets"].public],
            logs=[
                authoring.new_log(
                    trust.installation, self.environment,
                    trust.keys[f"log-{self.environment}"].public, epoch=new.epoch,
                    continues=continues, witnesses=witnesses,
                )
            ],
        )  # fmt: skip
        return authoring.signed(root, [trust.signers["root"]])

    def epoch_statement(self, continues: dict[str, Any], **state: Any) -> Envelope:
        """What the second entry of this epoch says, unsigned; ``state`` says what is not so."""
        count, root = snapshot_root(snapshot_line(key, head) for key, head in self.heads.items())
        statement = EpochStatement(
            origin=self.origin, continues=Continuation(**continues),
            state=SnapshotStatement(
                **{
                    "origin": self.origin, "generation": self.base + 1, "count": count,
                    "root": root, "policy": self.trust.policy.digest,
                } | state
            ),
        )  # fmt: skip
        return Envelope(PAYLOAD_TYPE["epoch"], statement.payload())

    def tree(self, size: int | None = None) -> bytes:
        """The root hash at a size."""
        return Frontier().extended(map(leaf_hash, self.leaves[:size])).root()

    def keep(self, data: bytes) -> str:
        self.blobs[sha256_hex(data)] = data
        return sha256_hex(data)

    def append(self, envelope: Envelope) -> int:
        """Append an envelope whatever it says; its generation."""
        self.leaves.append(Leaf(self.clock.ms, envelope).encode())
        return self.generation

    def submit(self, *changes: Change, signer: str = "author", verb: str = "apply") -> int:
        """Append a change set that replaces the heads there are; its generation."""
        fitted = [replace(change, replaces=self._replaces(change)) for change in changes]
        return self.submit_as_is(*fitted, signer=signer, verb=verb)

    def submit_as_is(
        self,
        *changes: Change,
        signer: str | None = "author",
        verb: str = "apply",
        not_after: int | None = None,
        origin: str | None = None,
    ) -> int:
        statement, listed = change_set(
            origin or self.origin, changes, created_at=self.clock.ms,
            not_after=self.clock.ms + 60_000 if not_after is None else not_after,
            reason="a test", verb=verb,
        )  # fmt: skip
        if listed is not None:
            self.keep(listed)
        envelope = statement.envelope()
        if signer is not None:
            envelope = sign_envelope(envelope, self.trust.signers[signer])
        generation = self.append(envelope)
        try:
            key_ids = tuple(held.key_id for held in envelope.signatures)
            self.heads |= fold(
                changes, self.heads.get, generation=generation, verb=verb, key_ids=key_ids
            )
        except Rejection:
            pass
        return generation

    def _replaces(self, change: Change) -> int | None:
        head = self.heads.get(change.key)
        return None if head is None else head.generation

    def put(self, *documents: Mapping[str, Any]) -> int:
        """Publish documents in one set."""
        return self.submit(*(self.change(document) for document in documents))

    def change(self, document: Mapping[str, Any], author: str = "author") -> Change:
        """The put of a document, its blob kept; agents and tools are signed by their author."""
        kind = document["kind"]
        versioned = kind in ("agent", "tool")
        finished = signed(document, self.trust.signers[author]) if versioned else dict(document)
        return Change(
            action="put", kind=kind, name=document["name"], replaces=None,
            digest=self.keep(blob(finished)),
            version=document["version"] if versioned else None,
            checksum=str(finished["checksum_sha256"]) if versioned else None,
        )  # fmt: skip

    def kill(self, flag: str, variant: str | None = None) -> int:
        return self.submit(
            Change(action="put", kind="kill", name=flag, replaces=None, value={"variant": variant}),
            verb="kill",
        )

    def unkill(self, flag: str) -> int:
        return self.submit(Change(action="delete", kind="kill", name=flag, replaces=None))

    def delete(self, kind: str, name: str, version: str | None = None) -> int:
        return self.submit(
            Change(action="delete", kind=kind, name=name, replaces=None, version=version)
        )

    def activate(self, kind: str, name: str, version: str) -> int:
        change = Change(
            action="activate", kind=kind, name=name, replaces=None, version=version,
            channel="stable",
        )  # fmt: skip
        return self.submit(change)

    def snapshot(self, root: str, count: int) -> int:
        statement = SnapshotStatement(
            origin=self.origin, generation=self.generation, count=count, root=root,
            policy=self.trust.policy.digest,
        )  # fmt: skip
        envelope = Envelope(PAYLOAD_TYPE["snapshot"], statement.payload())
        return self.append(self.log.sign_envelope(envelope))

    # Answers

    def checkpoint(self, size: int | None = None, time_s: int | None = None) -> bytes:
        return self.log.sign_checkpoint(
            Checkpoint(self.origin, len(self.leaves[:size]), self.tree(size)),
            self.clock.ms // 1000 if time_s is None else time_s,
        )

    def followed(self, size: int, limit: int = 8_192, *, blobs: bool = True) -> Followed:
        """The answer to a node that holds ``size`` entries: at most ``limit`` more."""
        leaves = tuple(self.leaves[size : size + limit])
        stop, total = size + len(leaves), len(self.leaves)
        hashes = [leaf_hash(leaf) for leaf in self.leaves]
        proof = None
        if stop < total:
            proof = tuple(consistency_proof(stop, total, subtree_reader(hashes)))
        batch = Batch(size, leaves, self.checkpoint(), proof)
        given = {d: b for d, b in self.blobs.items() if d not in self.deleted} if blobs else {}
        return Followed(batch, given, proof is not None)

    def fetched(self, digests: Iterable[str]) -> Fetched:
        """What fetching by digest gives."""
        fetched = Fetched()
        for digest in digests:
            if digest in self.deleted:
                fetched.gone.add(digest)
            elif digest in self.blobs:
                fetched.found[digest] = self.blobs[digest]
            else:
                fetched.missing[digest] = f"expected blob {digest}, found none"
        return fetched

    def enrolment(self, size: int | None = None) -> Enrolment:
        note = self.checkpoint(size)
        return Enrolment(self.trust.root, self.trust.targets, {self.environment: note})


@dataclass
class Node:
    """A follower over a real replica, driven by hand, and a reader beside it."""

    folder: Path
    follower: Follower
    writer: ReplicaWriter
    log: KeptLog
    opened: Any
    asked: list[str] = field(default_factory=list)

    def follow(self, limit: int = 8_192, *, blobs: bool = True) -> None:
        """Follow the log to its end, through all its epochs."""
        while True:
            log = self.log.epochs()[self.follower.epoch]
            followed = log.followed(self.follower.position.size, limit, blobs=blobs)
            self.take(followed)
            if followed.more:
                continue
            later = [epoch for epoch in sorted(self.log.epochs()) if epoch > self.follower.epoch]
            if not later:
                return
            self.begin(self.log.epochs()[later[0]].followed(0, limit, blobs=blobs))

    def begin(self, followed: Followed) -> None:
        """Go on in the epoch that an answer begins."""
        self.take(followed, self.follower.begin)

    def take(self, followed: Followed, verify: Any = None) -> None:
        """Check one answer and take all of it."""
        verified = self._verified(verify or self.follower.check, followed)
        while not (progress := self.follower.take(verified)).done:
            wanted = [progress.required] if progress.required else progress.wanted
            self.asked.extend(wanted)
            fetched = self.log.fetched(wanted)
            assert progress.required is None or fetched.found, f"waiting for {progress.required}"
            self.follower.deliver(fetched)
        self.opened.show_when_ready(self.follower)

    def _verified(self, verify: Any, followed: Followed) -> Any:
        while True:
            try:
                return verify(followed)
            except BlobMissing as missing:
                self.asked.append(missing.digest)
                digest = missing.digest
            self.follower.deliver(Fetched({digest: self.log.blobs[digest]}))

    def record(self, key: bytes) -> Record | None:
        """A record of the newest commit."""
        data = self.records().get(key)
        return None if data is None else decode_record(key, data)

    def word(self, number: int) -> int:
        """A word of the header readers see."""
        return int(map_header(f"{current_folder(str(self.folder))}/header")[8 * number])

    @property
    def generation(self) -> int:
        return self.word(GENERATION)

    @property
    def state(self) -> int:
        """The state bits the follower would publish."""
        return self.follower.state_bits()

    def table(self, name: str) -> dict[bytes, bytes]:
        """A whole sub-database as committed, in a snapshot of its own."""
        # A process that writes a replica cannot also open it for reading, so the writer's own
        # environment is asked; readers in processes of their own are in test_daemon.py.
        folder = self.writer._target
        with folder.environment.begin() as transaction:
            return dict(transaction.cursor(folder.databases[name]))

    def records(self) -> dict[bytes, bytes]:
        """Every record's bytes, as committed."""
        return self.table("records")

    def close(self) -> None:
        self.follower.close()
        self.writer.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(trust: Trust, clock: Clock) -> KeptLog:
    return KeptLog(trust, clock)


@pytest.fixture
def foreign_log(foreign_trust: Trust, clock: Clock) -> KeptLog:
    return KeptLog(foreign_trust, clock)


class Served:
    """A log over HTTP on loopback, as a store serves it, until a test tells it to lie."""

    def __init__(self, log: KeptLog) -> None:
        self.log = log
        self.asked: list[str] = []
        self.moved = asyncio.Event()
        self.follow: Callable[[web.Request], web.StreamResponse] | None = None
        self.blob: Callable[[web.Request], web.StreamResponse] | None = None
        self.send_blobs = True
        self.url = ""

    async def answer_follow(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if self.follow is not None:
            return self.follow(request)
        size, wait = int(request.query["size"]), float(request.query["wait"])
        if wait and size == len(self.log.leaves):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.moved.wait(), wait)
        self.moved.clear()
        epoch = int(request.query["epoch"])
        log = self.log.epochs().get(epoch)
        if epoch > self.log.epoch:
            return web.json_response(
                {"format": 1, "code": "not_found", "message": "none"}, status=404
            )
        if log is None or (epoch < self.log.epoch and size >= len(log.leaves)):
            return web.json_response({"epoch": self.log.epoch}, status=410)
        return web.Response(body=self.packed(size, epoch=epoch))

    def packed(self, size: int, *, epoch: int | None = None, **changed: Any) -> bytes:
        log = self.log.epochs()[epoch or self.log.epoch]
        followed = log.followed(size, blobs=self.send_blobs)
        answer = {
            "format": 1, "epoch": log.epoch, "checkpoint": followed.batch.checkpoint,
            "first": size, "entries": list(followed.batch.leaves),
            "blobs": dict(followed.blobs), "more": followed.more,
        }  # fmt: skip
        proof = {"proof": list(followed.batch.proof)} if followed.batch.proof else {}
        data: bytes = msgpack.packb(answer | proof | changed)
        return data

    async def answer_blob(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if self.blob is not None:
            return self.blob(request)
        data = self.log.blobs.get(request.match_info["digest"])
        return web.Response(status=404) if data is None else web.Response(body=data)


@pytest.fixture
async def served(log: KeptLog) -> AsyncIterator[Served]:
    served = Served(log)
    application = web.Application()
    application.router.add_get("/v1/production/follow", served.answer_follow)
    application.router.add_get("/production/{epoch}/blob/sha256/{digest}", served.answer_blob)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    served.moved.set()
    await runner.cleanup()


class Running:
    """A loop and what it has said; `until` waits for a condition of the replica."""

    def __init__(self, loop: EnvironmentLoop, folder: str) -> None:
        self.loop = loop
        self.folder = folder
        self.ready: list[tuple[str, int]] = []

    def word(self, number: int) -> int:
        return int(map_header(f"{current_folder(self.folder)}/header")[8 * number])

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - a header is another process's, in earnest
                await asyncio.sleep(0.01)

    async def reach(self, generation: int) -> None:
        await self.until(lambda: self.word(GENERATION) == generation)


@pytest.fixture
def running(tmp_path: Path, log: Any, clock: Any) -> Any:
    @asynccontextmanager
    async def running(served: Any, enrolment: Enrolment | None = None) -> AsyncIterator[Running]:
        folder = str(tmp_path)
        async with StoreSource(served.url, "production", None) as source:
            made: list[Running] = []
            loop = EnvironmentLoop(
                enrolled(enrolment or log.enrolment(1), "production"), folder, source,
                ready=lambda *told: made[0].ready.append(told),
                patience_seconds=0.2, now_ms=clock,
            )  # fmt: skip
            made.append(Running(loop, folder))
            await loop.open()
            task = asyncio.create_task(loop.run())
            try:
                yield made[0]
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await loop.close()

    return running


NodeFactory = Callable[..., Node]


@pytest.fixture
def make_node(tmp_path: Path, log: KeptLog, clock: Clock) -> Iterator[NodeFactory]:
    """Nodes by name; making one of a name again is a restart. All are closed at the end."""
    nodes: dict[str, Node] = {}
    writing = partial(ReplicaWriter.open, sleep=lambda seconds: None, sync=False)

    def make(
        name: str = "node",
        *,
        of: KeptLog = log,
        enrolment: Enrolment | None = None,
        writer: Callable[..., ReplicaWriter] = writing,
    ) -> Node:
        if name in nodes:
            nodes.pop(name).close()
        folder = tmp_path / name / of.environment
        folder.mkdir(parents=True, exist_ok=True)
        known = enrolled(enrolment or of.enrolment(1), of.environment)
        opened = open_replica(str(folder), known.log.origin, open_writer=writer)
        follower = Follower(
            of.environment, opened.writer, known, now_ms=clock, monotonic=lambda: 0.0
        )
        node = Node(folder, follower, opened.writer, of, opened)
        nodes[name] = node
        return node

    yield make
    for node in nodes.values():
        node.close()


@pytest.fixture
def node(make_node: NodeFactory) -> Node:
    return make_node()


@pytest.fixture
def flag() -> Callable[..., dict[str, Any]]:
    """A flag document; its default is what tells versions apart."""

    def make(name: str = "pilot", default: str = "off", **metadata: Any) -> dict[str, Any]:
        variants = {"on": True, "off": False}
        return {
            "kind": "flag", "name": name,
            "metadata": {"variants": variants, "default": default, **metadata},
        }  # fmt: skip

    return make


@pytest.fixture
def tool() -> Callable[..., dict[str, Any]]:
    def make(version: str = "1.2.0", name: str = "crm_tool") -> dict[str, Any]:
        return _versioned("tool", name, version, {"description": "d", "category": "crm"})

    return make


@pytest.fixture
def agent() -> Callable[..., dict[str, Any]]:
    def make(
        *tools: Any, version: str = "1.0.0", name: str = "support", **metadata: Any
    ) -> dict[str, Any]:
        fields = {"description": "d", "capabilities": [], "tools": list(tools), **metadata}
        return _versioned("agent", name, version, fields)

    return make


def _versioned(kind: str, name: str, version: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": kind, "name": name, "version": version, "owner": "team",
        "created_at": "2024-01-01T00:00:00Z", "changelog": "first", "deprecated": False,
        "metadata": metadata,
    }  # fmt: skip
