"""`replica verify` and `doctor` on a node that runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest

from control_plane.cli.services import start_daemon
from control_plane.client import ControlPlaneClient
from control_plane.log.fold import Head
from control_plane.replica.reader import LMDB_ENGINE, MAX_DATABASES

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def node(project: Any, short_path: Path) -> Iterator[Any]:
    """A project whose daemon follows production."""
    with (
        (short_path / "daemon.log").open("wb") as log,
        start_daemon(
            project, project.store, Path(project.replica), ["production"],
            say=lambda line: None, stderr=log,
        ),
    ):  # fmt: skip
        yield project


@pytest.fixture
def run(cli: Cli, node: Any) -> Cli:
    def ran(*arguments: object) -> Any:
        return cli(*arguments, cwd=node.folder)

    return ran


def kill(run: Cli, node: Any, name: str) -> int:
    """Kill a flag and wait until the replica has it."""
    generation = int(run("kill", name, "-e", "production", "--json").json["generation"])
    with ControlPlaneClient(node.replica, "production") as client:
        client.wait_for(generation, timeout_seconds=20)
    return generation


def test_a_replica_is_verified_beside_its_daemon_and_against_the_log(run: Cli, node: Any) -> None:
    generation = kill(run, node, "one")
    alone = run("replica", "verify", "--json")
    assert alone.code == 0, alone.out
    (row,) = alone.json["environments"]
    assert (row["generation"], row["log_generation"], row["problems"]) == (generation, None, [])
    beside = run("replica", "verify", "--against", node.store, "--json").json
    assert beside["environments"][0]["log_generation"] == generation
    log = run("log", "verify", "-e", "production", "--json").json
    assert (row["heads"], row["heads_root"]) == (log["heads"], log["heads_root"])


def test_an_older_replica_agrees_at_its_own_generation(run: Cli, node: Any, tmp_path: Path) -> None:
    generation = kill(run, node, "two")
    shutil.copytree(Path(node.replica), tmp_path / "older", symlinks=True)
    newest = kill(run, node, "three")
    ran = run("replica", "verify", "--replica", tmp_path / "older", "--against", node.store)
    assert ran.code == 0, ran.out
    assert f"production: sound at generation {generation}" in ran.out
    assert f"the log agrees; it stands at generation {newest}" in ran.out


def test_a_replica_ahead_of_the_log_is_told(run: Cli, node: Any, tmp_path: Path) -> None:
    export = run("log", "export", tmp_path / "old", "-e", "production")
    assert export.code == 0, export.err
    generation = kill(run, node, "four")
    ran = run("replica", "verify", "--against", tmp_path / "old")
    assert ran.code == 1
    assert f"expected a log of at least generation {generation}" in ran.out


def test_a_damaged_copy_is_found_and_nothing_is_mended(run: Cli, node: Any, tmp_path: Path) -> None:
    kill(run, node, "five")
    copy = tmp_path / "damaged"
    shutil.copytree(Path(node.replica), copy, symlinks=True)
    data = (copy / "production" / "v1" / "current").resolve() / "data.mdb"
    damaged = bytearray(data.read_bytes())
    at = damaged.index(b"\x01five") + 8
    damaged[at : at + 8] = bytes(8)
    data.write_bytes(damaged)
    ran = run("replica", "verify", "--replica", copy)
    assert ran.code == 1
    assert "production: flag/five: expected " in ran.out
    assert data.read_bytes() == damaged


def test_heads_that_the_log_does_not_lead_to_are_told(run: Cli, node: Any, tmp_path: Path) -> None:
    kill(run, node, "forged")
    copy = tmp_path / "forged"
    shutil.copytree(Path(node.replica), copy, symlinks=True)
    directory = (copy / "production" / "v1" / "current").resolve()
    database = lmdb.open(
        str(directory), max_dbs=MAX_DATABASES, map_size=1 << 30, lib_version=LMDB_ENGINE
    )
    with database, database.begin(write=True) as transaction:
        heads = database.open_db(b"heads", transaction, create=False)
        key, data = next(iter(transaction.cursor(heads)))
        forged = replace(Head.decode(data), digest="f" * 64)
        transaction.put(key, forged.encode(), db=heads)
    ran = run("replica", "verify", "--replica", copy, "--against", node.store)
    assert (ran.code, "heads with root" in ran.out) == (1, True), ran.out
    assert "move the replica away and start the daemon" in ran.out


def test_a_node_without_replica_is_told_so(cli: Cli, tmp_path: Path) -> None:
    ran = cli("replica", "verify", "--replica", tmp_path)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "expected a replica, found none" in ran.err


def test_a_node_in_order_has_no_findings_to_cure(run: Cli, node: Any) -> None:
    kill(run, node, "six")
    ran = run("doctor", "--json")
    assert (ran.code, ran.json["ok"]) == (0, True), ran.out
    checks = {finding["check"] for finding in ran.json["findings"]}
    assert checks == {
        "clock", "limits", "mounts", "permissions", "replica", "space", "trust", "versions",
    }  # fmt: skip
    assert [each["cure"] for each in ran.json["findings"] if each["state"] == "wrong"] == []


def test_open_secrets_and_a_writable_replica_are_found_with_their_cure(
    run: Cli, node: Any, tmp_path: Path
) -> None:
    kill(run, node, "seven")
    copy = tmp_path / "copy"
    shutil.copytree(Path(node.replica), copy, symlinks=True)
    header = (copy / "production" / "v1" / "current") / "header"
    header.chmod(0o666)
    key = node.private / "keys" / "author.pem"
    key.chmod(0o644)
    try:
        ran = run("doctor", "--replica", copy)
    finally:
        key.chmod(0o600)
    assert ran.code == 1
    assert f"only its owner may open it, found mode 0644; chmod 600 {key}\n" in ran.out
    assert "only the daemon's user may write it, found mode 0666; chmod go-w" in ran.out
    assert header.stat().st_mode & 0o777 == 0o666


def test_a_daemon_that_is_gone_and_a_missing_replica_are_found(
    run: Cli, cli: Cli, node: Any, tmp_path: Path
) -> None:
    none = cli("doctor", "--replica", tmp_path / "none")
    assert (none.code, "expected a replica, found none; start 'control-plane" in none.out) == (
        1,
        True,
    )
    broken = tmp_path / "broken" / "production" / "v1"
    broken.mkdir(parents=True)
    gone = cli("doctor", "--replica", tmp_path / "broken", "--json")
    wrong = [each for each in gone.json["findings"] if each["state"] == "wrong"]
    assert gone.code == 1
    assert [each["check"] for each in wrong] == ["replica"]
    assert all(each["cure"] for each in wrong)
