"""The store, killed before and after each durable effect of a trust post and of a new epoch.

Over a store that dies once, targets are rotated, a root begins an epoch while a change set waits
for its second signature, and a change follows. Whoever was not answered sends the same bytes again.
Whatever a death leaves is the old log alone or both logs whole; at the end each thing stands once,
the heads are carried over, what waited is told and dropped, and who replays both epochs has the
store's heads.

`TABLE` has every effect by name; a new effect has no row and fails a test.
"""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import pytest

from control_plane.log.checkpoint import Checkpoint
from control_plane.log.envelope import PAYLOAD_TYPE
from control_plane.log.note import Note
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import NEVER, load_public, load_signer
from control_plane.publish.replay import replay
from control_plane.trust import authoring
from control_plane_store.database import Database

ENVIRONMENT = "production"
GAP = 1 << 20

# (effect, what a crash right before or after it leaves, who picks it up)
TABLE = (
    ("* store.sqlite3.lock", "no holder's name, or another's", "hold"),
    ("bind s", "the dead process's socket, or none", "listening._clear"),
    ("commit blobs+grants", "a blob nobody names", "the author sends it again"),
    ("commit entries+hashes+heads+logs+required", "one epoch, or two whole ones", "publish_all"),
    ("commit entries+hashes+logs+required", "the old policy, or no note yet", "publish_all"),
    ("commit entries+*", "no entry, or one that no checkpoint covers", "publish_all"),
    ("commit logs", "the note before, or one nobody was told of", "publish_all"),
    ("commit pending", "a waiting set, or one of an ended log", "_drop_ended at start"),
    ("* audit.jsonl", "waiting sets of an ended log that are not told", "_drop_ended at start"),
    ("close store.sqlite3", "a write-ahead log", "SQLite, at the next open"),
)  # fmt: skip


def flag(name: str) -> dict[str, Any]:
    metadata = {"variants": {"on": True, "off": False}, "default": "off"}
    return {"kind": "flag", "name": name, "metadata": metadata}


def targets(installation: Any) -> bytes:
    """Targets of version 2."""
    author = [load_public(installation.keys / f"{name}.pem").public for name in ("alice", "bob")]
    delegations = authoring.first_delegations([ENVIRONMENT], author, 2)
    made = authoring.new_targets(version=2, expires=NEVER, delegations=delegations)
    return authoring.signed(made, [load_signer(installation.keys / "targets.pem")])


def next_root(installation: Any, end: Checkpoint) -> bytes:
    """Root version 2, in which the log goes on from ``end`` in epoch 2."""
    public = {
        name: load_public(installation.keys / f"{name}.pem").public
        for name in ("root", "targets", f"log-{ENVIRONMENT}")
    }
    log = authoring.new_log(
        "a", ENVIRONMENT, public[f"log-{ENVIRONMENT}"], epoch=2,
        continues={
            "epoch": 1, "size": end.size, "root": end.root.hex(), "generation": end.size + GAP
        },
    )  # fmt: skip
    made = authoring.new_root(
        version=2, expires=NEVER, root_keys=[public["root"]], targets_keys=[public["targets"]],
        logs=[log],
    )  # fmt: skip
    return authoring.signed(made, [load_signer(installation.keys / "root.pem")])


def logs_of(installation: Any) -> list[tuple[Any, list[bytes], dict[Any, bytes]]]:
    """Each epoch, oldest first: its log, the types of its entries, its heads."""
    database = Database.open(installation.database)
    try:
        with database.read() as snapshot:
            return [
                (
                    log,
                    list(snapshot.leaves(log, 0, log.frontier.size)),
                    {row.key: row.head.encode() for row in snapshot.heads_from(log, b"")},
                )
                for log in reversed(snapshot.epochs(ENVIRONMENT))
            ]
    finally:
        database.close()


def check_whole(installation: Any) -> None:
    """What a death leaves: no epoch by halves."""
    logs = logs_of(installation)
    if len(logs) == 1:
        return
    (old, _, before), (new, leaves, carried) = logs
    assert old.note_size == old.frontier.size
    assert new.note_size >= 2
    assert len(leaves) >= 2
    assert before.keys() <= carried.keys()


@dataclass
class Beginning:
    """An installation to copy for each kill."""

    world: Any
    base: Any
    trace: list[str] = field(default_factory=list)

    def run(self, effect: tuple[str, int] | None, when: str) -> bool:
        """Live through it; whether the store died at the effect."""
        installation = self.world.copy(self.base)
        author = self.world.author(installation)
        revive = author.restart

        def restart() -> None:
            check_whole(installation)
            revive()

        author.restart = restart
        store = installation.start_store(at=effect, when=when)
        if store.code is not None:
            author.restart()
        self._history(installation, author)
        if store is installation.store:
            # Its last effects are those of a stop.
            store.end()
            check_whole(installation)
            installation.start_store()
        self._check(installation, author)
        installation.stop_store()
        if effect is None:
            self.trace = store.effects()
        shutil.rmtree(installation.place)
        return bool(store.code == -signal.SIGKILL)

    def _history(self, installation: Any, author: Any) -> None:
        def offer(roots: list[bytes], metadata: bytes) -> Any:
            return author._persist(
                lambda publisher: publisher.store.post_trust(ENVIRONMENT, roots, metadata), ("bob",)
            )

        author.publish(lambda change: change.put(flag("a")))
        author.publish(lambda change: change.put(flag("b")))
        rotated = targets(installation)
        offer([], rotated)
        self.waiting = author.publish(lambda change: change.put(flag("c")), "alice")
        note = author._persist(
            lambda publisher: publisher.store.checkpoint(ENVIRONMENT, 1), ("bob",)
        )
        end = Checkpoint.parse_text(Note.parse(note).text)
        self.begun = offer([next_root(installation, end)], rotated)
        author.publish(lambda change: change.kill("a"), "bob", verb="kill")

    def _check(self, installation: Any, author: Any) -> None:
        (old, ended, before), (new, leaves, heads) = logs_of(installation)
        assert (len(ended), len(leaves)) == (4, 3)
        assert (new.epoch, new.continues_generation) == (2, old.generation + GAP)
        assert self.begun.generation == old.generation + GAP + 1
        assert new.note_size == 3
        assert heads == before | {key: heads[key] for key in heads.keys() - before.keys()}
        assert len(heads) == len(before) + 1
        lines = (installation.place / "audit.jsonl").read_text().splitlines()
        told = [json.loads(line).get("statement") for line in lines]
        assert told.count(self.waiting.identity) >= 1
        token = (installation.place / "tokens" / "submit.token").read_text().strip()
        with StoreClient(installation.url, token) as client:
            assert client.pending(ENVIRONMENT)["pending"] == []
            history = replay(client, ENVIRONMENT, installation.enrolment())
        assert {key: head.encode() for key, head in history.heads.items()} == heads
        database = Database.open(installation.database)
        with database.read() as snapshot:
            assert snapshot.ended_pending() == []
            trust = [snapshot.leaves_of_type(log, PAYLOAD_TYPE["trust"]) for log in (old, new)]
        database.close()
        assert [[index for index, _ in entries] for entries in trust] == [[0, 3], [0]]


@pytest.fixture(scope="module")
def beginning(world: Any) -> Beginning:
    base = world.installation()
    made = Beginning(world, base)
    assert not made.run(None, "before")
    return made


def row_of(effect: str) -> int | None:
    """The table's row for an effect."""
    rows = (number for number, row in enumerate(TABLE) if fnmatch(effect, row[0]))
    return next(rows, None)


def test_every_effect_of_a_beginning_is_in_the_table(beginning: Beginning) -> None:
    assert {effect for effect in beginning.trace if row_of(effect) is None} == set()
    rows = {row_of(effect) for effect in beginning.trace}
    assert [row for number, row in enumerate(TABLE) if number not in rows] == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_killed_while_an_epoch_begins_leaves_nothing_by_halves(
    beginning: Beginning, when: str
) -> None:
    for effect in dict.fromkeys(beginning.trace):
        assert beginning.run((effect, 1), when), effect


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_killed_while_an_epoch_begins_at_its_start_begins_it_once(
    world: Any, beginning: Beginning, when: str
) -> None:
    base = world.copy(beginning.base)
    base.start_store()
    author = world.author(base)
    author.publish(lambda change: change.put(flag("a")))
    waiting = author.publish(lambda change: change.put(flag("c")), "alice")
    base.stop_store()
    (old, _, before), *_ = logs_of(base)
    end = Checkpoint(old.origin, old.frontier.size, old.frontier.root())
    (base.place / "trust" / "2.root.json").write_bytes(next_root(base, end))

    def start(effect: tuple[str, int] | None) -> Any:
        installation = world.copy(base)
        installation.options = ("--trust", installation.place / "trust")
        store = installation.start_store(at=effect, when=when)
        if store.code is None:
            return installation
        check_whole(installation)
        assert installation.start_store().code is None
        return installation

    undisturbed = start(None)
    assert undisturbed.store.end() == 0
    effects = undisturbed.store.effects()
    assert any("heads+logs+required" in effect for effect in effects)
    assert "commit pending" in effects
    for effect in dict.fromkeys(each for each in effects if not each.startswith("close")):
        installation = start((effect, 1))
        installation.stop_store()
        (ended, _, kept), (new, leaves, heads) = logs_of(installation)
        assert (ended.frontier, kept, heads) == (old.frontier, before, before), effect
        assert (new.epoch, len(leaves), new.note_size) == (2, 2, 2), effect
        lines = (installation.place / "audit.jsonl").read_text().splitlines()
        assert waiting.identity in {json.loads(line).get("statement") for line in lines}, effect
        shutil.rmtree(installation.place)


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_killed_anywhere_while_an_epoch_begins_leaves_nothing_by_halves(
    beginning: Beginning, numbered: Any, when: str
) -> None:
    everywhere = numbered(beginning.trace)
    died = [beginning.run(effect, when) for effect in everywhere]
    # How often notes are renewed is not always the same.
    assert sum(died) >= 0.8 * len(everywhere)
