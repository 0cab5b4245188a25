"""What a store can do to its nodes, and what it cannot: a row for each lie.

| the store                       | a node                      | what is left behind             |
|---------------------------------|-----------------------------|---------------------------------|
| cuts an answer off, sends junk  | has no answer               | nothing; one line in its log    |
| leaves entries out, turns them  | refuses the batch           | both checkpoints; position,     |
|   around, skips or alters one   |                             |   data and heads as they were   |
| shows an older checkpoint       | refuses the batch           | the same                        |
| freezes                         | serves on, stale after 60 s | nothing                         |
| swaps or withholds a blob       | holds the entry             | the last good value, `held`     |
| is restored from an old backup  | refuses it, says why        | both checkpoints                |
| goes on from the old backup     | refuses it, says why        | two roots for one size: a proof |
| adds an entry by a revoked key  | rejects the entry           | the position only               |
| goes on under expired trust     | rejects the entry           | the position only               |
| sequences in the future         | rejects the entry, then     | the position; a pinned clock    |
|                                 |   refuses what goes back    |                                 |

After each an honest store is followed again. The first seven rows have a real store behind a proxy
that lies; the others need the log's own key, so the log is kept here. Entries nobody signed, that
were altered or sent again, and checkpoints from the future are in `test_refusing.py`, all ways to
be held in `test_held.py`.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from aiohttp import web

from control_plane.cli.children import Child
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.leaf import Leaf
from control_plane.log.statements import Key, TrustStatement
from control_plane.publish.keyfiles import NEVER, create_trust
from control_plane.publish.publisher import Publisher
from control_plane.replica.format import FLAG, Record, decode_record, record_key
from control_plane.replica.header import (
    GENERATION,
    HELD,
    REJECTED,
    STALE,
    STATE,
    TRUST_EXPIRED,
    map_header,
)
from control_plane.replica.source import current_folder
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane_daemon.enrol import enrolled
from control_plane_daemon.loop import EnvironmentLoop
from control_plane_daemon.source import StoreSource

PILOT = record_key(FLAG, "pilot")
COMMAND = (sys.executable, "-m", "control_plane")
DAY_MS = 86_400_000

Answer = dict[str, Any]


class RealStore:
    """A store's process and its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = count()
        self._child: Child | None = None

    @property
    def socket(self) -> str:
        return str(self.folder / "s")

    def begin(self) -> None:
        """Make keys, trust and database."""
        create_trust(self.folder, installation="a", environments=["production"])
        arguments: list[str | Path] = [
            "store", "init", "--database", self.folder / "store.sqlite3",
            "--trust", self.folder / "trust", "--keys", self.folder / "keys",
            "--enrolment", self.folder / "trust.json", "--tokens", self.folder / "tokens",
        ]  # fmt: skip
        subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)

    def start(self) -> None:
        arguments = [
            "store", "--database", str(self.folder / "store.sqlite3"),
            "--keys", str(self.folder / "keys"), "--listen", f"unix:{self.socket}",
        ]  # fmt: skip
        self._child = Child("store", [*COMMAND[1:], *arguments])
        self._child.line("store ready at ")

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def copy(self, place: Path) -> RealStore:
        """A backup: everything as it is now, in another folder."""
        self.stop()
        shutil.copytree(self.folder, place, ignore=shutil.ignore_patterns("s"))
        return RealStore(place)

    def token(self, may: str) -> str:
        return (self.folder / "tokens" / f"{may}.token").read_text().strip()

    def publish(self, *documents: Mapping[str, Any]) -> int:
        """Publish each in a set of its own; the last one's generation."""
        key = str(self.folder / "keys" / "author.pem")
        with Publisher(f"unix:{self.socket}", key, token=self.token("submit")) as publisher:
            for document in documents:
                change = publisher.change("production", "a test")
                change.put(document)
                generation = publisher.submit(change)[-1].generation
        assert generation is not None
        return generation

    def enrolment(self) -> Enrolment:
        return Enrolment.decode((self.folder / "trust.json").read_bytes())


class Liar:
    """A proxy before a store, that changes its answers when a test says how."""

    def __init__(self, store: RealStore) -> None:
        self.store = store
        self.follow: Callable[[Answer], Answer | bytes] = lambda answer: answer
        self.blob: Callable[[str, bytes], bytes | None] = lambda digest, data: data
        self.lies = 0
        self.url = ""

    def be_honest(self) -> None:
        self.follow = lambda answer: answer
        self.blob = lambda digest, data: data

    async def handle(self, request: web.Request) -> web.Response:
        # A poll that is going on keeps a new lie waiting.
        path = request.path_qs.replace("&wait=20", "&wait=1")
        connector = aiohttp.UnixConnector(self.store.socket)
        token = {"Authorization": f"Bearer {self.store.token('follow')}"}
        try:
            async with (
                aiohttp.ClientSession(connector=connector, headers=token) as session,
                session.get(f"http://store{path}") as answer,
            ):
                status, body = answer.status, await answer.read()
        except aiohttp.ClientError:
            return web.Response(status=502)
        if request.path.startswith("/v1/") and status == 200:
            changed = self.follow(msgpack.unpackb(body))
            body = changed if isinstance(changed, bytes) else msgpack.packb(changed)
            self.lies += 1
        elif status == 200:
            found = self.blob(request.path.rpartition("/")[2], body)
            status, body = (404, b"") if found is None else (status, found)
        return web.Response(status=status, body=body)


class Watched:
    """A daemon's loop over a replica, and what it shows."""

    def __init__(self, loop: EnvironmentLoop, folder: str) -> None:
        self.loop = loop
        self.folder = folder
        self.ready = False

    def word(self, number: int) -> int:
        return int(map_header(f"{current_folder(self.folder)}/header")[8 * number])

    def has(self, bit: int) -> bool:
        return bool(self.word(STATE) & bit)

    def table(self, name: str) -> dict[bytes, bytes]:
        """A sub-database as committed."""
        target = self.loop.follower.writer._target
        with target.environment.begin() as transaction:
            return dict(transaction.cursor(target.databases[name]))

    def record(self, key: bytes = PILOT) -> Record | None:
        data = self.table("records").get(key)
        return None if data is None else decode_record(key, data)

    def default(self) -> str:
        """The value of the flag that tells its versions apart."""
        record = self.record()
        assert record is not None
        return str(msgpack.unpackb(record.body)["m"]["default"])

    def left(self) -> tuple[Any, ...]:
        """Everything a refusal must leave as it is."""
        position = self.loop.follower.position
        return self.table("records"), self.table("heads"), position, self.word(GENERATION)

    def evidence(self) -> dict[str, Any] | None:
        data = self.table("log").get(b"evidence")
        return None if data is None else msgpack.unpackb(data)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(15):
            while not condition():  # noqa: ASYNC110 - a header is another process's, in earnest
                await asyncio.sleep(0.01)

    async def reach(self, generation: int) -> None:
        await self.until(lambda: self.word(GENERATION) == generation)


class Skewed:
    """The true time, moved by ``ms``."""

    ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ms


Watching = Callable[..., Any]


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watching:
    """Runs a loop over a new replica, with short pauses."""
    monkeypatch.setattr("control_plane_daemon.loop.HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr("control_plane_daemon.loop.FIRST_HEAL_SECONDS", 0.05)

    @asynccontextmanager
    async def watching(
        url: str, enrolment: Enrolment, now_ms: Callable[[], int]
    ) -> AsyncIterator[Watched]:
        made: list[Watched] = []
        async with StoreSource(url, "production", None) as source:
            loop = EnvironmentLoop(
                enrolled(enrolment, "production"), str(tmp_path / "production"), source,
                ready=lambda *told: setattr(made[0], "ready", True),
                patience_seconds=0.2, now_ms=now_ms,
            )  # fmt: skip
            made.append(Watched(loop, str(tmp_path / "production")))
            await loop.open()
            task = asyncio.create_task(loop.run())
            try:
                await made[0].until(lambda: made[0].ready)
                yield made[0]
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await loop.close()

    return watching


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStore]:
    made = RealStore(tmp_path_factory.mktemp("i"))
    made.begin()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStore]:
    """A store of its own, not started, and its backups: all are stopped at the end."""
    made = RealStore(tmp_path_factory.mktemp("b"))
    made.begin()
    yield made
    made.stop()


@asynccontextmanager
async def behind_a_liar(store: RealStore) -> AsyncIterator[Liar]:
    liar = Liar(store)
    application = web.Application()
    application.router.add_get("/{path:.*}", liar.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    liar.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield liar
    finally:
        await runner.cleanup()


# Answers


def _altered(entry: bytes) -> bytes:
    return entry.replace(b'"v":1', b'"v":1 ')


REFUSED: dict[str, tuple[str, Callable[[Answer], Answer]]] = {
    "leaves the last out": (
        "expected our history to lead to root|leaves or a proof",
        lambda answer: {**answer, "entries": answer["entries"][:-1]},
    ),
    "turns them around": (
        "expected our history to lead to root",
        lambda answer: {**answer, "entries": answer["entries"][::-1]},
    ),
    "skips one": (
        "expected leaves from",
        lambda answer: {
            **answer, "first": answer["first"] + 1, "entries": answer["entries"][1:],
        },
    ),
    "alters one": (
        "expected our history to lead to root",
        lambda answer: {**answer, "entries": [*map(_altered, answer["entries"])]},
    ),
}  # fmt: skip


def when_two(lie: Callable[[Answer], Any]) -> Callable[[Answer], Any]:
    """Lie about answers of two entries, and let no smaller one through."""

    def follow(answer: Answer) -> Any:
        if len(answer["entries"]) >= 2:
            return lie(answer)
        return b"not yet"

    return follow


@pytest.mark.parametrize("name", REFUSED)
async def test_a_batch_its_checkpoint_does_not_cover_is_refused(
    store: RealStore, watching: Watching, flag: Any, name: str, caplog: Any
) -> None:
    words, lie = REFUSED[name]
    store.publish(flag())
    async with (
        behind_a_liar(store) as liar,
        watching(liar.url, store.enrolment(), Skewed()) as node,
    ):
        before, ours = node.left(), node.loop.follower.position.checkpoint
        liar.follow = when_two(lie)
        generation = store.publish(flag(default="on"), flag(f"other{next(store.numbers)}"))
        await node.until(lambda: node.has(REJECTED) and node.evidence())
        assert node.left() == before
        assert node.default() == "off"
        evidence = node.evidence()
        assert evidence is not None
        assert evidence["ours"] == ours
        assert evidence["theirs"] != ours
        assert re.search(words, evidence["reason"])
        assert not evidence["proof"]
        liar.be_honest()
        await node.reach(generation)
        await node.until(lambda: not node.has(REJECTED))
        assert node.default() == "on"
    # What the daemon says: the store's own access log has a line for each request, alike or not.
    told = [r.getMessage() for r in caplog.records if r.name.startswith("control_plane")]
    assert len(told) == len(set(told)), "a reason is told once"
    assert any("batch refused" in said for said in told)


NO_ANSWER: dict[str, Callable[[Answer], bytes]] = {
    "cuts an answer off": lambda answer: msgpack.packb(answer)[:-20],
    "sends junk": lambda answer: b"<!doctype html>",
    "leaves a field out": lambda answer: msgpack.packb({**answer, "checkpoint": None}),
}


@pytest.mark.parametrize("name", NO_ANSWER)
async def test_an_answer_out_of_form_is_none_and_leaves_nothing(
    store: RealStore, watching: Watching, flag: Any, name: str
) -> None:
    store.publish(flag())
    async with (
        behind_a_liar(store) as liar,
        watching(liar.url, store.enrolment(), Skewed()) as node,
    ):
        before = node.left()
        liar.follow = NO_ANSWER[name]
        generation = store.publish(flag(default="on"))
        told = liar.lies
        await node.until(lambda: liar.lies > told + 2)
        assert node.left() == before
        assert node.evidence() is None
        assert not node.has(REJECTED | HELD)
        liar.be_honest()
        await node.reach(generation)
        assert node.default() == "on"


async def test_an_older_checkpoint_is_refused_with_both_kept(
    store: RealStore, watching: Watching, flag: Any
) -> None:
    store.publish(flag())
    async with (
        behind_a_liar(store) as liar,
        watching(liar.url, store.enrolment(), Skewed()) as node,
    ):
        old = node.loop.follower.position.checkpoint
        await node.reach(store.publish(flag(default="on")))
        ours, before = node.loop.follower.position.checkpoint, node.left()
        liar.follow = lambda answer: {**answer, "entries": [], "checkpoint": old, "more": False}
        generation = store.publish(flag(f"other{next(store.numbers)}"))
        await node.until(lambda: node.has(REJECTED) and node.evidence())
        evidence = node.evidence()
        assert evidence is not None
        assert (evidence["ours"], evidence["theirs"]) == (ours, old)
        assert "expected a size of at least" in evidence["reason"]
        assert node.left() == before
        liar.be_honest()
        await node.reach(generation)
        await node.until(lambda: not node.has(REJECTED))


async def test_a_frozen_store_makes_a_node_stale_and_takes_nothing_away(
    store: RealStore, watching: Watching, flag: Any
) -> None:
    store.publish(flag())
    clock = Skewed()
    async with (
        behind_a_liar(store) as liar,
        watching(liar.url, store.enrolment(), clock) as node,
    ):
        frozen = node.loop.follower.position.checkpoint
        liar.follow = lambda answer: {
            **answer, "entries": [], "blobs": {}, "checkpoint": frozen, "more": False,
        }  # fmt: skip
        generation = store.publish(flag(default="on"))
        told, before = liar.lies, node.left()
        await node.until(lambda: liar.lies > told + 2)
        assert not node.has(STALE)
        clock.ms = 61_000
        await node.until(lambda: node.has(STALE))
        assert node.left() == before
        assert node.evidence() is None
        assert not node.has(REJECTED)
        # By this clock the honest answers are as old. They are stale, and taken.
        liar.be_honest()
        await node.reach(generation)
        assert node.default() == "on"
        assert node.has(STALE)
        clock.ms = 0
        await node.until(lambda: not node.has(STALE))


BLOBS: dict[str, Callable[[str, bytes], bytes | None]] = {
    "swaps": lambda digest, data: data.replace(b'"on"', b'"no"'),
    "withholds": lambda digest, data: None,
}


@pytest.mark.parametrize("name", BLOBS)
async def test_a_blob_that_is_not_what_its_digest_says_is_never_served(
    store: RealStore, watching: Watching, flag: Any, name: str
) -> None:
    first = store.publish(flag())
    async with (
        behind_a_liar(store) as liar,
        watching(liar.url, store.enrolment(), Skewed()) as node,
    ):
        lie, body = BLOBS[name], node.record().body

        def follow(answer: Answer) -> Answer:
            lied = {digest: lie(digest, data) for digest, data in answer["blobs"].items()}
            return {**answer, "blobs": {digest: data for digest, data in lied.items() if data}}

        liar.follow, liar.blob = follow, lie
        generation = store.publish(flag(default="on"))
        await node.until(lambda: node.has(HELD))
        record = node.record()
        assert (record.body, record.served_generation) == (body, first)
        assert record.head_generation == node.word(GENERATION) == generation
        (held,) = node.loop.follower.held.values()
        assert list(held.missing) == [Key("flag", "pilot")]
        assert node.evidence() is None
        liar.be_honest()
        await node.until(lambda: not node.has(HELD))
        assert node.record().served_generation == generation
        assert node.default() == "on"
        assert node.table("held") == {}


# Backups


async def test_a_store_restored_from_an_old_backup_is_refused_until_the_newest_is_back(
    backed_up: RealStore, watching: Watching, flag: Any, tmp_path: Path, caplog: Any
) -> None:
    backed_up.start()
    backed_up.publish(flag())
    old = backed_up.copy(tmp_path / "old")
    backed_up.start()
    backed_up.publish(flag(default="on"))
    async with (
        behind_a_liar(backed_up) as liar,
        watching(liar.url, backed_up.enrolment(), Skewed()) as node,
    ):
        ours, before = node.loop.follower.position.checkpoint, node.left()
        backed_up.stop()
        old.start()
        try:
            liar.store = old
            await node.until(lambda: node.has(REJECTED) and node.evidence())
            evidence = node.evidence()
            assert evidence is not None
            assert evidence["ours"] == ours
            assert "expected a size of at least 3, found 2" in evidence["reason"]
            assert not evidence["proof"]
            # Whoever publishes into it makes a second history: the log has signed both.
            old.publish(flag("instead"))
            await node.until(lambda: node.evidence()["proof"])
            assert node.evidence()["ours"] == ours
            assert node.left() == before
            assert node.default() == "on"
        finally:
            old.stop()
        backed_up.start()
        liar.store = backed_up
        await node.reach(backed_up.publish(flag()))
        await node.until(lambda: not node.has(REJECTED))
        assert node.default() == "off"
        # The proof is for a person, and stays until one has seen it.
        assert node.evidence()["proof"]
    refusals = [said for said in caplog.messages if "batch refused" in said]
    assert "expected a size of at least 3, found 2" in refusals[0]
    assert "expected our history to lead to root" in refusals[1]


# What takes the log's own key


def renewed(log: Any, version: int, *authors: str, expires: datetime = NEVER) -> None:
    """Append a trust entry with targets that name these authors."""
    keys = [log.trust.keys[name].public for name in authors]
    grants = authoring.first_delegations(log.trust.environments, keys, 1)
    targets = authoring.new_targets(version=version, expires=expires, delegations=grants)
    digest = log.keep(authoring.signed(targets, [log.trust.signers["targets"]]))
    statement = TrustStatement(origin=log.origin, root=(), targets=digest)
    log.append(log.log.sign_envelope(Envelope(PAYLOAD_TYPE["trust"], statement.payload())))


def no_node_takes(log: Any, document: Any, ahead_ms: int = 0) -> None:
    """Append a change set that the log's rules reject: its heads stay as they are."""
    heads = dict(log.heads)
    change = log.change(document)
    log.submit_as_is(replace(change, replaces=heads[change.key].generation))
    sequenced_later(log, ahead_ms)
    log.heads = heads


def sequenced_later(log: Any, ahead_ms: int) -> None:
    """Give the last entry a time that is ahead of the clock."""
    envelope = Leaf.decode(log.leaves[-1]).envelope
    log.leaves[-1] = Leaf(log.clock.ms + ahead_ms, envelope).encode()


async def test_an_entry_by_a_revoked_key_is_rejected_and_the_others_go_on(
    served: Any, watching: Watching, log: Any, make_node: Any, flag: Any, caplog: Any
) -> None:
    log.put(flag())
    async with watching(served.url, log.enrolment(1), log.clock) as node:
        renewed(log, 2, "second")
        served.moved.set()
        await node.reach(3)
        records, heads = node.table("records"), node.table("heads")
        no_node_takes(log, flag(default="on"))
        served.moved.set()
        await node.reach(4)
        await node.until(lambda: node.has(REJECTED))
        assert (node.table("records"), node.table("heads")) == (records, heads)
        log.submit(log.change(flag(default="on")), signer="second")
        served.moved.set()
        await node.reach(5)
        await node.until(lambda: not node.has(REJECTED))
        assert node.default() == "on"
        late = make_node("late")
        late.follow()
        assert late.table("heads") == node.table("heads")
        assert late.records() == node.table("records")
    assert any("entry 4 rejected" in said for said in caplog.messages)


async def test_under_expired_trust_entries_are_rejected_until_it_is_renewed(
    served: Any, watching: Watching, log: Any, flag: Any, caplog: Any
) -> None:
    log.put(flag())
    soon = datetime.fromtimestamp(log.clock.ms // 1000 + 60, UTC)
    renewed(log, 2, "author", expires=soon)
    async with watching(served.url, log.enrolment(1), log.clock) as node:
        await node.reach(3)
        assert not node.has(TRUST_EXPIRED)
        records = node.table("records")
        log.clock.ms += 61_000
        await node.until(lambda: node.has(TRUST_EXPIRED))
        no_node_takes(log, flag(default="on"))
        served.moved.set()
        await node.reach(4)
        await node.until(lambda: node.has(REJECTED))
        assert node.table("records") == records
        renewed(log, 3, "author")
        log.put(flag(default="on"))
        served.moved.set()
        await node.reach(6)
        await node.until(lambda: not node.has(REJECTED | TRUST_EXPIRED))
        assert node.default() == "on"
    assert any("trust_expired" in said for said in caplog.messages)


async def test_an_entry_sequenced_in_the_future_is_late_and_pins_the_clock(
    served: Any, watching: Watching, log: Any, flag: Any, caplog: Any
) -> None:
    log.put(flag())
    async with watching(served.url, log.enrolment(1), log.clock) as node:
        no_node_takes(log, flag(default="on"), ahead_ms=DAY_MS)
        served.moved.set()
        await node.reach(3)
        await node.until(lambda: node.has(REJECTED))
        assert node.default() == "off"
        before = node.left()
        # The true time is now the past: such an entry contradicts the log itself.
        no_node_takes(log, flag(default="on"))
        served.moved.set()
        await node.until(lambda: node.evidence() is not None)
        assert "expected entry 3 at" in node.evidence()["reason"]
        assert node.left() == before
        # Whoever signs for longer than the clock is ahead is followed.
        log.leaves.pop()
        change = replace(log.change(flag(default="on")), replaces=2)
        log.submit_as_is(change, not_after=log.clock.ms + 2 * DAY_MS)
        sequenced_later(log, DAY_MS)
        served.moved.set()
        await node.reach(4)
        await node.until(lambda: not node.has(REJECTED))
        assert node.default() == "on"
    assert any("entry 3 rejected (late)" in said for said in caplog.messages)
