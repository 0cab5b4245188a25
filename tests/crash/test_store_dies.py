"""The store, killed before and after each of its durable effects, and started again.

A history is published over it; whoever was not answered sends the same signed set again. At the
end: what was answered stands at the generation it was told, each set once, nothing nobody signed;
what was refused is in the audit file; the tree never shrank; and a daemon that lived through it all
and one that comes late have the store's heads byte for byte.

`TABLE` has every effect by name, of the service and of the commands that write its files. A new
effect has no row and fails a test.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import pytest

from control_plane.errors import NotFound, StoreUnreachable
from control_plane.log.canonical import sha256_hex
from control_plane.log.envelope import PAYLOAD_TYPE
from control_plane.publish.client import StoreClient
from control_plane_store.database import Database

ENVIRONMENT = "production"

# (effect, what a crash right before or after it leaves, who picks it up)
TABLE = (
    ("create store.sqlite3.lock", "an empty file; the lock died with its process", "hold"),
    ("ftruncate store.sqlite3.lock", "no holder's name, or another's", "hold"),
    ("pwrite store.sqlite3.lock", "no holder's name, or another's", "hold"),
    ("unlink s", "the dead process's socket, or none", "listening._clear"),
    ("bind s", "the dead process's socket, or none", "listening._clear"),
    ("commit blobs+grants", "a blob nobody names", "the author sends it again"),
    ("commit blobs+entries+*", "the old trust metadata, or entries without note", "publish_all"),
    ("commit entries+*", "no entry, or one that no checkpoint covers", "publish_all"),
    ("commit logs", "the note before, or one nobody was told of", "publish_all"),
    ("commit pending", "no waiting set, or one whose author was not told", "the author"),
    ("create audit.jsonl", "no line of a refusal nobody was told of", "the author"),
    ("write audit.jsonl", "no line, or one of a refusal nobody was told of", "the author"),
    ("fsync audit.jsonl", "a line of a refusal nobody was told of", "the author"),
    ("close store.sqlite3", "a write-ahead log", "SQLite, at the next open"),
)  # fmt: skip


def flag(name: str, default: str = "off") -> dict[str, Any]:
    metadata = {"variants": {"on": True, "off": False}, "default": default}
    return {"kind": "flag", "name": name, "metadata": metadata}


def history(author: Any) -> None:
    """One of each thing that a store can be told."""
    author.publish(lambda change: change.put(flag("a")))
    early = author.sign(lambda change: change.put(flag("a", "on")))
    waiting = author.publish(lambda change: change.put(flag("b")), "alice")
    author.publish(lambda change: change.kill("a"), "bob", verb="kill")
    author.publish(lambda change: change.delete("flag/a"))
    author.send(early)
    assert author.refused == {early.identity}
    author.approve(waiting, "bob")
    author.publish(lambda change: [change.kill(f"k{number}") for number in range(70)])


@dataclass
class Store:
    """An installation to copy for each kill, and a node that has followed it so far."""

    world: Any
    base: Any
    node: Any
    trace: list[str] = field(default_factory=list)

    def run(self, effect: tuple[str, int] | None, when: str) -> bool:
        """Publish the history; whether the store died at the effect."""
        installation = self.world.copy(self.base)
        installation.renew_targets()
        installation.leave_a_socket()
        author = self.world.author(installation)
        node = self.world.node(installation, self.node)
        live = installation.daemon(node.root)
        store = installation.start_store(at=effect, when=when)
        if store.code is not None:
            author.restart()
        history(author)
        assert live.wait_until(
            lambda: node.generation() == len(installation.leaves()), node.look
        ), live.complained()
        assert live.end() == 0
        if store is installation.store:
            # Its last effects are those of a stop.
            store.end()
            installation.start_store()
        died = store.code == -signal.SIGKILL
        self.world.check(installation, node, self.world.node(installation), author=author)
        installation.stop_store()
        payloads = [leaf.envelope.payload_type for leaf in installation.leaves()]
        assert payloads.count(PAYLOAD_TYPE["trust"]) == 2
        if effect is None:
            self.trace = store.effects()
        shutil.rmtree(installation.place)
        return died


@pytest.fixture(scope="module")
def store(world: Any) -> Store:
    base = world.installation()
    base.start_store()
    node = world.node(base)
    world.check(base, node)
    base.stop_store()
    for name in ("store.sqlite3.lock", "audit.jsonl"):
        (base.place / name).unlink()
    made = Store(world, base, node)
    assert not made.run(None, "before")
    return made


def row_of(effect: str) -> int | None:
    """The table's row for an effect."""
    rows = (number for number, row in enumerate(TABLE) if fnmatch(effect, row[0]))
    return next(rows, None)


def test_every_effect_of_the_store_is_in_the_table(store: Store) -> None:
    assert {effect for effect in store.trace if row_of(effect) is None} == set()
    rows = {row_of(effect) for effect in store.trace}
    assert [row for number, row in enumerate(TABLE) if number not in rows] == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_killed_at_an_effect_keeps_what_it_promised(store: Store, when: str) -> None:
    for effect in dict.fromkeys(store.trace):
        assert store.run((effect, 1), when), effect


@pytest.mark.parametrize("when", ["before", "after"])
def test_blobs_of_one_request_are_all_kept_or_none(store: Store, when: str) -> None:
    installation = store.world.copy(store.base)
    installation.start_store(at=("commit blobs+grants", 1), when=when)
    token = (installation.place / "tokens" / "submit.token").read_text().strip()
    blobs = [b"blob %d" % number for number in range(300)]
    with StoreClient(installation.url, token) as client, pytest.raises(StoreUnreachable):
        client.put_blobs(ENVIRONMENT, blobs)
    assert installation.store.end() == -signal.SIGKILL
    opened = Database.open(installation.database)
    with opened.read() as snapshot:
        found = [held(snapshot, data) for data in blobs]
    opened.close()
    assert found == [when == "after"] * len(blobs)
    installation.start_store()
    with StoreClient(installation.url, token) as client:
        client.put_blobs(ENVIRONMENT, blobs)
        assert [client.blob(ENVIRONMENT, sha256_hex(data)) for data in blobs] == blobs
    installation.stop_store()


def held(snapshot: Any, data: bytes) -> bool:
    try:
        return bool(snapshot.blob(ENVIRONMENT, sha256_hex(data)) == data)
    except NotFound:
        return False


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_killed_anywhere_keeps_what_it_promised(
    store: Store, numbered: Any, when: str
) -> None:
    everywhere = numbered(store.trace)
    died = [store.run(effect, when) for effect in everywhere]
    # How many sets share a transaction, and how often notes are renewed, is not always the same.
    assert sum(died) >= 0.8 * len(everywhere)
