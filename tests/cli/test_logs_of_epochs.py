"""`log verify`, `log export` and the past of a log that a real store has in three epochs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from control_plane.cli.services import start_daemon
from control_plane.client import ControlPlaneClient
from control_plane.replica.reader import LMDB_ENGINE, MAX_DATABASES

Cli = Callable[..., Any]
JUMP = 1 << 20


@pytest.fixture(scope="module")
def first_enrolment(project: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node's trust.json from before there was a second epoch."""
    kept = tmp_path_factory.mktemp("enrolment") / "trust.json"
    shutil.copy(project.private / "trust.json", kept)
    return kept


def follow(project: Any, generation: int, replica: Path | None = None) -> None:
    """Bring a replica to a generation, and leave it there; the project's unless one is named."""
    root = replica or Path(project.replica)
    with (
        (project.folder / "daemon.log").open("wb") as log,
        start_daemon(
            project, project.store, root, ["production"],
            say=lambda line: None, stderr=log,
        ),
        ControlPlaneClient(str(root), "production") as client,
    ):  # fmt: skip
        client.wait_for(generation, timeout_seconds=20)


@pytest.fixture
def three_epochs(project: Any, cli: Cli, first_enrolment: Path) -> Any:
    """The project, whose production log went on in a third epoch; made once."""

    def run(*arguments: object) -> None:
        ran = cli(*arguments, "-e", "production", cwd=project.folder)
        assert ran.code == 0, ran.err

    if not (project.folder / "exported").exists():
        follow(
            project,
            int(
                cli("kill", "one", "-e", "production", "--json", cwd=project.folder).json[
                    "generation"
                ]
            ),
        )
        run("log", "export", project.folder / "exported")
        for name in ("two", "three"):
            run("log", "new-epoch")
            run("kill", name)
    return project


def test_every_epoch_is_verified_and_the_node_of_the_first_day_agrees(
    cli: Cli, three_epochs: Any, first_enrolment: Path
) -> None:
    now = cli("log", "verify", "-e", "production", "--json", cwd=three_epochs.folder)
    assert now.code == 0, now.err
    then = cli(
        "log", "verify", "-e", "production", "--json", "--trust", first_enrolment,
        cwd=three_epochs.folder,
    )  # fmt: skip
    assert then.code == 0, then.err
    same = ("origin", "epochs", "size", "root", "policy", "heads_root", "accepted", "rejected")
    assert {name: then.json[name] for name in same} == {name: now.json[name] for name in same}
    assert [epoch["epoch"] for epoch in now.json["epochs"]] == [1, 2, 3]
    assert now.json["origin"] == "acme/production/3"
    assert now.json["rejected"] == 0
    assert now.json["generation"] > 2 * JUMP
    told = cli("log", "verify", "-e", "production", cwd=three_epochs.folder)
    sizes = [epoch["size"] for epoch in now.json["epochs"]]
    assert told.out.startswith(
        f"acme/production/3: verified {sum(sizes)} entries, {sizes[0]} of epoch 1,"
        f" {sizes[1]} of epoch 2\n"
    )


def test_an_export_of_the_first_epoch_grows_by_the_later_ones(
    cli: Cli, three_epochs: Any, first_enrolment: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "exported"
    shutil.copytree(three_epochs.folder / "exported", folder)
    assert {path.name for path in (folder / "production").iterdir()} == {"1"}
    done = cli("log", "export", folder, "-e", "production", "--json", cwd=three_epochs.folder)
    assert done.code == 0, done.err
    assert {path.name for path in (folder / "production").iterdir()} == {"1", "2", "3"}
    there = cli("log", "verify", "-e", "production", "--json", cwd=three_epochs.folder)
    for trust in (three_epochs.private / "trust.json", first_enrolment):
        here = cli(
            "log", "verify", folder, "-e", "production", "--json", "--trust", trust,
            cwd=three_epochs.folder,
        )  # fmt: skip
        assert here.code == 0, here.err
        for name in ("origin", "epochs", "root", "heads_root", "policy"):
            assert here.json[name] == there.json[name]
        assert here.json["tiles"] == 3


def test_a_stores_own_static_files_lead_through_all_epochs(cli: Cli, three_epochs: Any) -> None:
    ran = cli(
        "log", "verify", three_epochs.store, "-e", "production", "--json", cwd=three_epochs.folder
    )
    assert (ran.code, ran.json["tiles"]) == (0, 3), ran.err
    assert [epoch["epoch"] for epoch in ran.json["epochs"]] == [1, 2, 3]


def test_an_environment_goes_back_to_a_generation_of_an_older_epoch(
    cli: Cli, three_epochs: Any
) -> None:
    epochs = cli("log", "verify", "-e", "production", "--json", cwd=three_epochs.folder).json
    end_of_first = epochs["epochs"][0]["size"]
    ran = cli(
        "revert", "-e", "production", "--to", end_of_first, "--kills", "--dry-run", "--json",
        cwd=three_epochs.folder,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert sorted(ran.json["changed"]) == ["kill/three", "kill/two"]
    gap = cli("revert", "-e", "production", "--to", end_of_first + 1, cwd=three_epochs.folder)
    assert (gap.code, gap.err.count("\n")) == (1, 1)
    assert f"expected a generation from 1 to {end_of_first} or " in gap.err


@pytest.mark.parametrize("slept", [True, False], ids=["a node that slept", "a new node"])
def test_a_nodes_heads_are_those_of_the_log_through_all_epochs(
    cli: Cli, three_epochs: Any, tmp_path: Path, slept: bool
) -> None:
    """One that slept through two epochs goes on where it was; a new one begins with the first."""
    log = cli("log", "verify", "-e", "production", "--json", cwd=three_epochs.folder).json
    if slept:
        shutil.copytree(three_epochs.replica, tmp_path / "node", symlinks=True)
    follow(three_epochs, log["generation"], tmp_path / "node")
    ran = cli(
        "replica", "verify", "--replica", tmp_path / "node", "--against", three_epochs.store,
        "--json", cwd=three_epochs.folder,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    (row,) = ran.json["environments"]
    assert (row["generation"], row["heads"]) == (log["generation"], log["heads"])
    assert row["heads_root"] == log["heads_root"]
    with ControlPlaneClient(str(tmp_path / "node"), "production") as client:
        assert client.health().generation == log["generation"]


def test_a_replica_beyond_what_a_new_epoch_continues_is_told_so(
    cli: Cli, three_epochs: Any, tmp_path: Path
) -> None:
    """As of a node that had followed the part of a log that its store lost."""
    copy = tmp_path / "ahead"
    shutil.copytree(three_epochs.replica, copy, symlinks=True)
    against = ("replica", "verify", "--replica", copy, "--against", three_epochs.store)
    there = cli(*against, cwd=three_epochs.folder)
    assert (there.code, "the log agrees" in there.out) == (0, True), there.out
    ahead = lmdb.open(
        str((copy / "production" / "v1" / "current").resolve()),
        max_dbs=MAX_DATABASES, map_size=1 << 30, lib_version=LMDB_ENGINE,
    )  # fmt: skip
    with ahead, ahead.begin(write=True) as transaction:
        table = ahead.open_db(b"log", transaction, create=False)
        generation = int.from_bytes(transaction.get(b"generation", db=table) or b"", "little") + 1
        transaction.put(b"generation", generation.to_bytes(8, "little"), db=table)
    ran = cli(*against, cwd=three_epochs.folder)
    assert ran.code == 1
    assert f"found generation {generation}, which a new epoch left behind" in ran.out
    assert "replica accept-epoch" in ran.out
