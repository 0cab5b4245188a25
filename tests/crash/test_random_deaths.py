"""Short random histories, in which store and daemon die at random effects.

Whatever the history and wherever they die: what was answered stands, what was not signed does not,
no reader's generation falls, and store, live node and late node have equal heads byte for byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.errors import InputInvalid, NotFound

FEW = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MANY = settings(FEW, max_examples=200)

FOLDERS = st.sampled_from(["production/v1/1", "production/v1/2"])
STORE_EFFECTS = st.sampled_from(
    [
        "create store.sqlite3.lock", "unlink s", "bind s", "commit blobs+grants", "commit logs",
        "commit entries+hashes+heads+logs+touches", "commit pending", "create audit.jsonl",
        "commit entries+hashes+heads+logs+pending+touches", "write audit.jsonl",
        "commit entries+hashes+heads+logs+required+touches", "close store.sqlite3",
    ]
)  # fmt: skip
DAEMON_EFFECTS = st.one_of(
    st.sampled_from(["rename production/v1/current", "fsync production/v1"]),
    st.builds(
        "commit {} {}".format, FOLDERS,
        st.sampled_from(["entries", "part of an entry", "staging cleared", "new tables"]),
    ),
    st.builds(
        "word {}/header {}".format, FOLDERS,
        st.sampled_from(
            [
                "SAFE_TXNID", "TXN_ID", "GENERATION", "COMMIT_TIME_NS", "FLAGS_REVISION",
                "REVISION", "TOMBSTONE", "STATE",
            ]
        ),
    ),
)  # fmt: skip
WHEN = st.sampled_from(["before", "after"])


def deaths(effects: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.lists(st.tuples(st.tuples(effects, st.integers(1, 4)), WHEN), max_size=3)


NAMES = st.sampled_from(["a", "b"])
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from(["on", "off"])),
    st.tuples(st.just("wait"), NAMES, st.sampled_from(["on", "off"])),
    st.tuples(st.just("approve"), NAMES, st.none()),
    st.tuples(st.just("sign"), NAMES, st.sampled_from(["on", "off"])),
    st.tuples(st.just("send"), NAMES, st.none()),
    st.tuples(st.just("kill"), NAMES, st.none()),
    st.tuples(st.just("unkill"), NAMES, st.none()),
    st.tuples(st.just("delete"), NAMES, st.none()),
    st.tuples(st.just("many"), NAMES, st.integers(2, 70)),
)


class History:
    """Does what the steps say; what a store refuses is part of it."""

    def __init__(self, author: Any) -> None:
        self.author = author
        self.waiting: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}

    def take(self, step: tuple[str, str, Any]) -> None:
        what, name, value = step
        # Where there is nothing to change or to delete nothing is signed.
        with suppress(InputInvalid, NotFound):
            getattr(self, what)(name, value)

    def put(self, name: str, default: str) -> None:
        self.author.publish(lambda change: change.put(flag(name, default)))

    def wait(self, name: str, default: str) -> None:
        self.waiting[name] = self.author.publish(
            lambda change: change.put(flag(name, default)), "alice"
        )

    def approve(self, name: str, _: None) -> None:
        if name in self.waiting:
            self.author.approve(self.waiting.pop(name), "bob")

    def sign(self, name: str, default: str) -> None:
        self.kept[name] = self.author.sign(lambda change: change.put(flag(name, default)))

    def send(self, name: str, _: None) -> None:
        if name in self.kept:
            self.author.send(self.kept.pop(name))

    def kill(self, name: str, _: None) -> None:
        self.author.publish(lambda change: change.kill(name), "bob", verb="kill")

    def unkill(self, name: str, _: None) -> None:
        self.author.publish(lambda change: change.unkill(name))

    def delete(self, name: str, _: None) -> None:
        self.author.publish(lambda change: change.delete(f"flag/{name}"))

    def many(self, name: str, count: int) -> None:
        self.author.publish(
            lambda change: [change.kill(f"{name}{number}", "on") for number in range(count)]
        )


def flag(name: str, default: str) -> dict[str, Any]:
    metadata = {"variants": {"on": True, "off": False}, "default": default}
    return {"kind": "flag", "name": name, "metadata": metadata}


class Live:
    """A daemon that is started again whenever it died."""

    def __init__(self, node: Any, deaths: Iterator[Any], small: Any, heads_at: Any) -> None:
        self.node = node
        self.deaths = deaths
        self.small = small
        self.heads_at = heads_at
        self.daemon: Any = None

    def keep_alive(self) -> None:
        if self.daemon is not None:
            if self.daemon.poll() is None:
                return
            assert self.daemon.code == -9, self.daemon.complained()
            self.node.check_dead(self.heads_at)
        at, when = next(self.deaths, (None, "before"))
        self.daemon = self.node.installation.daemon(
            self.node.root, at=at, when=when, tuned=self.small
        )


@pytest.fixture(scope="module")
def base(world: Any) -> Any:
    return world.installation()


def live_through(
    world: Any, base: Any, small: Any, history: list[Any], store: list[Any], daemon: list[Any]
) -> None:
    installation, store_deaths = world.copy(base), iter(store)

    def start_store() -> None:
        while True:
            at, when = next(store_deaths, (None, "before"))
            if installation.start_store(at=at, when=when).code is None:
                return
            assert installation.store.code == -9, installation.store.complained()

    heads_at: dict[int, Any] = {0: {}, 1: {}}
    start_store()
    author = world.author(installation)
    author.restart = start_store
    live = Live(world.node(installation), iter(daemon), small, heads_at)
    told = History(author)
    for step in history:
        live.keep_alive()
        told.take(step)
        heads_at[len(installation.leaves())] = installation.heads()
    live.keep_alive()
    live.daemon.end(9)
    live.node.check_dead(heads_at)
    installation.stop_store()
    installation.start_store()
    world.check(installation, live.node, world.node(installation), author=author)
    installation.stop_store()
    shutil.rmtree(installation.place)


HISTORIES = {
    "history": st.lists(STEPS, max_size=10),
    "store": deaths(STORE_EFFECTS),
    "daemon": deaths(DAEMON_EFFECTS),
}


@FEW
@given(**HISTORIES)
def test_a_history_outlives_its_processes(
    world: Any, base: Any, small: Any, history: Any, store: Any, daemon: Any
) -> None:
    live_through(world, base, small, history, store, daemon)


@pytest.mark.torture
@MANY
@given(**HISTORIES)
def test_many_histories_outlive_their_processes(
    world: Any, base: Any, small: Any, history: Any, store: Any, daemon: Any
) -> None:
    live_through(world, base, small, history, store, daemon)
