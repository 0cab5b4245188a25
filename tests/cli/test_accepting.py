"""A store restored from a backup, for real: who moves by itself, who asks, and what is saved."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli.children import Child
from control_plane.cli.project import create_project
from control_plane.cli.services import start_daemon, start_store
from control_plane.client import ControlPlaneClient
from control_plane.log.checkpoint import open_checkpoint
from control_plane.replica.evidence import read_consent, read_standing
from control_plane.replica.reader import open_replica
from control_plane.replica.source import current_folder

Cli = Callable[..., Any]
KEPT, LOST = ("one", "two"), ("three", "four")


@dataclass
class World:
    """A project, its store and its nodes, all processes."""

    folder: Path
    project: Any
    store: Child | None = None
    daemons: dict[str, Child] = field(default_factory=dict)

    def start_store(self) -> None:
        with (self.folder / "store.log").open("ab") as log:
            self.store, _ = start_store(
                self.project, self.project.store, say=lambda line: None, stderr=log
            )

    def stop_store(self) -> None:
        assert self.store is not None
        self.store.stop()

    def start(self, name: str) -> None:
        with self.log(name).open("ab") as log:
            self.daemons[name] = start_daemon(
                self.project, self.project.store, self.folder / name, ["production"],
                say=lambda line: None, stderr=log,
            )  # fmt: skip

    def stop(self, name: str) -> None:
        self.daemons.pop(name).stop()

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def replica(self, name: str) -> str:
        return str(self.folder / name / "production")

    def generation(self, name: str) -> int:
        with ControlPlaneClient(str(self.folder / name), "production") as client:
            return client.health().generation

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def heads(self, name: str) -> dict[bytes, bytes]:
        replica = open_replica(current_folder(self.replica(name)))
        try:
            handle = replica.database("heads")
            with replica.view() as view:
                return dict(view.scan(b"", 1 << 62, handle))
        finally:
            replica.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    project = create_project(
        folder / "p", installation="acme", environments=["production", "staging"],
        store=f"unix:{folder / 's'}", replica=str(folder / "ahead"),
    )  # fmt: skip
    world = World(folder, project)
    try:
        yield world
    finally:
        for daemon in world.daemons.values():
            daemon.stop()
        if world.store is not None:
            world.store.stop()
        shutil.rmtree(folder)


@pytest.fixture
def run(cli: Cli, world: World) -> Cli:
    def ran(*arguments: object) -> Any:
        return cli(*arguments, cwd=world.project.folder)

    return ran


def kill(run: Cli, *flags: str) -> int:
    for flag in flags:
        ran = run("kill", flag, "-e", "production", "--json")
        assert ran.code == 0, ran.err
    return int(ran.json["generation"])


def test_a_restored_store_a_node_that_was_behind_and_a_node_that_is_ahead_come_together(
    world: World, run: Cli, tmp_path: Path
) -> None:
    # Two nodes follow; one sleeps from the backup on.
    world.start_store()
    world.start("ahead")
    world.start("behind")
    backed_up = kill(run, *KEPT)
    world.until(lambda: {world.generation(name) for name in ("ahead", "behind")} == {backed_up})
    world.stop("behind")
    world.stop_store()
    database = world.project.private / "store.sqlite3"
    shutil.copy(database, world.folder / "backup")
    world.start_store()
    lost = kill(run, *LOST)
    world.until(lambda: world.generation("ahead") == lost)
    world.stop_store()
    for name in ("store.sqlite3-wal", "store.sqlite3-shm"):
        (world.project.private / name).unlink(missing_ok=True)
    shutil.copy(world.folder / "backup", database)
    world.start_store()
    world.start("behind")
    told = world.log("ahead").read_text
    world.until(lambda: "batch refused: acme/production/1: expected a size of at least" in told())
    assert world.generation("ahead") == lost
    forked = run("log", "prove-fork", "-e", "production", "--out", tmp_path / "evidence", "--json")
    assert forked.code == 0, forked.err
    evidence = forked.json["evidence"]
    assert (evidence["weight"], evidence["size"]) == ("sign", lost)
    sizes = [
        open_checkpoint(evidence[note].encode(), evidence["vkeys"]).checkpoint.size
        for note in ("ours", "theirs")
    ]
    assert sizes == [lost, backed_up]
    assert (tmp_path / "evidence" / "theirs.note").read_text() == evidence["theirs"]
    assert run("replica", "accept-epoch", "-e", "production").code == 1

    # A new epoch: the node that was behind goes on in it, the other one asks.
    begun = run("log", "new-epoch", "-e", "production", "--restored", "--json")
    assert begun.code == 0, begun.err
    world.until(lambda: world.generation("behind") > 1 << 20)
    world.until(lambda: "'control-plane replica accept-epoch -e production'" in told())
    offer = read_standing(world.replica("ahead"), "production").offer
    assert (offer.origin, offer.size, offer.keeps) == ("acme/production/2", backed_up, backed_up)
    with ControlPlaneClient(str(world.folder / "ahead"), "production") as reader:
        assert (reader.health().generation, reader.health().rejected) == (lost, True)
        # Consent, with the process that applications read through open all the while.
        out = tmp_path / "dropped.json"
        accepted = run("replica", "accept-epoch", "-e", "production", "--out", out, "--json")
        assert accepted.code == 0, accepted.err
        assert accepted.json["moved"]
        world.until(lambda: reader.health().generation == world.generation("behind"))
        world.until(lambda: not reader.health().rejected)
    saved = json.loads(out.read_bytes())
    assert [entry["key"] for entry in saved["dropped"]] == [f"kill/{name}" for name in sorted(LOST)]
    assert {str(entry["value"]) for entry in saved["dropped"]} == {"{'variant': None}"}
    assert saved["offer"]["held_size"] == lost
    assert out.stat().st_mode & 0o777 == 0o600
    assert read_consent(world.replica("ahead")) is None
    assert "Traceback" not in told()

    # Store, both nodes and a new one agree, byte for byte.
    world.start("new")
    after = kill(run, "five")
    names = ("ahead", "behind", "new")
    world.until(lambda: {world.generation(name) for name in names} == {after})
    assert world.heads("ahead") == world.heads("behind") == world.heads("new")
    log = run("log", "verify", "-e", "production", "--json").json
    for name in names:
        ran = run(
            "replica", "verify", "-e", "production", "--replica", world.folder / name,
            "--against", world.project.store, "--json",
        )  # fmt: skip
        assert ran.code == 0, ran.out
        (row,) = ran.json["environments"]
        assert (row["heads_root"], row["generation"]) == (log["heads_root"], after)
    # The evidence is still there, under the keys the old epoch had.
    again = run("log", "prove-fork", "-e", "production", "--json")
    assert again.json["evidence"] == evidence


def test_a_node_without_an_offer_has_nothing_to_accept(world: World, run: Cli) -> None:
    ran = run("replica", "accept-epoch", "-e", "production")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "expected an epoch that the daemon offers, found none" in ran.err
    assert "follows acme/production/2" in ran.err


def test_a_node_that_saw_no_contradiction_has_no_evidence(world: World, run: Cli) -> None:
    ran = run("log", "prove-fork", "-e", "production", "--replica", world.folder / "new")
    assert (ran.code, "no evidence" in ran.out) == (1, True)
