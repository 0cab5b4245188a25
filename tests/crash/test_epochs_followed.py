"""The daemon, killed before and after each durable effect of going on in a new epoch.

Two nodes: one stands where root ended the old epoch and goes on by itself; the other holds an entry
that the new epoch does not have, its owner has consented, and it reads the log again beside what it
serves. After each kill readers find one whole generation, none older than one they saw; after the
restart the node has the store's heads byte for byte, and nothing of the move is left.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from control_plane.log.checkpoint import Checkpoint
from control_plane.log.note import Note
from control_plane.publish.keyfiles import NEVER, load_public, load_signer
from control_plane.replica.evidence import consent_path, write_consent
from control_plane.replica.format import parse_head_key
from control_plane.replica.verify import verify
from control_plane.trust import authoring
from control_plane_store.database import Database

GAP = 1 << 20
NEXT = "a/production/2"

# (effect, what a crash right before or after it leaves, who picks it up)
TABLE = (
    ("commit * new tables", "a folder nobody links to", "_sweep"),
    ("commit * entries", "the end of the old epoch, or the new one begun", "read again"),
    ("commit * log", "an epoch that was offered, or not yet", "offered again"),
    ("commit * nothing", "the last commit", "read again from the log"),
    ("unlink */accept-epoch", "consent to the epoch followed", "taken away at the start"),
    ("rename */current", "the old link, or the new one and no tombstone", "_sweep"),
    ("fsync */v1", "the new link and no tombstone, or consent", "_sweep; the start"),
    ("word * *", "a header that is behind", "_open_current publishes"),
    ("* */daemon.lock", "another holder's number", "_lock"),
    ("mkdir */v1/[0-9]*", "a folder nobody links to", "_sweep"),
    ("chmod */v1/[0-9]*", "a folder nobody links to", "_sweep"),
    ("* */header*", "a folder nobody links to", "_sweep"),
    ("make */data.mdb", "a folder nobody links to; or one that was there", "_sweep; LMDB"),
    ("* */current.new", "a link nobody follows", "_point_current_at removes it"),
    ("fsync */v1/[0-9]", "a link nobody follows", "_point_current_at removes it"),
    ("unlink */v1/[0-9]*/*", "a part of a folder nobody is sent to", "_sweep"),
    ("rmdir */v1/[0-9]*", "an empty folder nobody is sent to", "_sweep"),
)  # fmt: skip


def flag(name: str) -> dict[str, Any]:
    metadata = {"variants": {"on": True, "off": False}, "default": "off"}
    return {"kind": "flag", "name": name, "metadata": metadata}


def offer_next(installation: Any, end: Checkpoint) -> None:
    """Put a root into the trust folder in which the log goes on from ``end`` in epoch 2."""
    public = {
        name: load_public(installation.keys / f"{name}.pem").public
        for name in ("root", "targets", "log-production")
    }
    continues: dict[str, Any] = {
        "epoch": 1, "size": end.size, "root": end.root.hex(), "generation": end.size + GAP
    }  # fmt: skip
    log = authoring.new_log(
        "a", "production", public["log-production"], epoch=2, continues=continues
    )
    root = authoring.new_root(
        version=2, expires=NEVER, root_keys=[public["root"]], targets_keys=[public["targets"]],
        logs=[log],
    )  # fmt: skip
    data = authoring.signed(root, [load_signer(installation.keys / "root.pem")])
    (installation.place / "trust" / "2.root.json").write_bytes(data)
    installation.options = ("--trust", installation.place / "trust")


def end_of(installation: Any) -> tuple[Checkpoint, int]:
    """The newest log's checkpoint and generation, from a stopped store's database or a running."""
    database = Database.open(installation.database)
    try:
        with database.read() as snapshot:
            log = snapshot.log("production")
            assert log is not None
            return Checkpoint.parse_text(Note.parse(log.note).text), log.generation
    finally:
        database.close()


@dataclass
class Moves:
    """A store in its second epoch, the two nodes to begin with, and the heads of generations."""

    world: Any
    store: Any
    begin: Mapping[str, Callable[[], Any]]
    heads_at: Mapping[str, Mapping[int, Any]]
    tuned: Mapping[str, object]
    end: int = 0
    traces: dict[str, list[str]] = field(default_factory=dict)

    def run(self, name: str, at: tuple[str, int] | None, when: str) -> list[str]:
        """Follow into the new epoch and die at an effect, or be killed when all is done."""
        node = self.begin[name]()
        daemon = self.store.daemon(node.root, at=at, when=when, tuned=self.tuned, grace_seconds=0.0)
        daemon.wait_until(lambda: self.is_done(node), node.look)
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL, daemon.complained()
        node.check_dead(self.heads_at[name])
        again = node.catch_up(
            self.end, lambda: self.is_done(node), tuned=self.tuned, grace_seconds=0.0
        )
        assert "refused" not in again.complained()
        assert node.table("heads", parse_head_key) == self.store.heads()
        assert verify(node.folder).problems == ()
        assert node.untold() == []
        shutil.rmtree(node.root)
        return list(daemon.effects())

    def is_done(self, node: Any) -> bool:
        """Whether a node has moved and nothing of the move is left."""
        folders = list(Path(node.folder, "v1").glob("[0-9]*"))
        return (
            node.generation() == self.end
            and node.settled()
            and not consent_path(node.folder).exists()
            and len(folders) == 1
        )

    def trace(self, name: str) -> list[str]:
        """The effects of a move that nothing disturbs."""
        if name not in self.traces:
            self.traces[name] = self.run(name, None, "before")
        return self.traces[name]


@pytest.fixture(scope="module")
def moves(world: Any, quick: Mapping[str, object]) -> Moves:
    base = world.installation()
    heads: dict[int, dict[Any, bytes]] = {0: {}, 1: {}}

    def publish(installation: Any, name: str) -> None:
        world.author(installation).publish(lambda change: change.put(flag(name)))
        heads[end_of(installation)[1]] = installation.heads()

    base.start_store()
    publish(base, "a")
    old = world.node(base)
    old.catch_up(2)
    base.stop_store()
    store, ahead = world.copy(base), world.copy(base)
    ahead.start_store()
    publish(ahead, "lost")
    further = world.node(ahead, old)
    further.catch_up(3)
    ahead.stop_store()
    offer_next(store, end_of(base)[0])
    store.start_store()
    heads |= {2 + GAP + 1: heads[2], 2 + GAP + 2: heads[2]}
    publish(store, "b")

    def stands_there() -> Any:
        return world.node(store, old)

    def consented() -> Any:
        node = world.node(store, further)
        write_consent(node.folder, NEXT)
        return node

    begin = {"where the old epoch ended": stands_there, "further, with consent": consented}
    tuned = {**quick, "control_plane_daemon.loop.CONSENT_SECONDS": 0.05}
    return Moves(world, store, begin, dict.fromkeys(begin, heads), tuned, end_of(store)[1])


NAMES = ["where the old epoch ended", "further, with consent"]


def test_every_effect_of_a_move_is_in_the_table(moves: Moves) -> None:
    met = {effect for name in NAMES for effect in moves.trace(name)}
    rows = {effect: next((r[0] for r in TABLE if fnmatch(effect, r[0])), None) for effect in met}
    assert [effect for effect, row in rows.items() if row is None] == []
    assert [row[0] for row in TABLE if row[0] not in rows.values()] == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_daemon_killed_where_an_epoch_begins_goes_on_in_it(moves: Moves, when: str) -> None:
    for name in NAMES:
        for effect in dict.fromkeys(moves.trace(name)):
            if effect.endswith((" entries", "/accept-epoch", "/current")):
                moves.run(name, (effect, 1), when)


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_a_daemon_killed_anywhere_on_its_way_to_an_epoch_goes_on_in_it(
    moves: Moves, numbered: Any, name: str, when: str
) -> None:
    for effect in numbered(moves.trace(name)):
        moves.run(name, effect, when)
