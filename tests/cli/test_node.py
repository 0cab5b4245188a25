"""The whole on real processes: `up` and `demo`, and what `eval` and `status` see of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli import up
from control_plane.cli.children import Child
from control_plane.cli.project import create_project
from control_plane.cli.settings import RUNNING, Project

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Child]]:
    """A project whose `up` runs on a free port."""
    folder = tmp_path_factory.mktemp("node")
    project = create_project(
        folder / "hello",
        installation="hello",
        environments=["development"],
        replica=str(folder / "replica"),
    )
    arguments = ["-m", "control_plane", "up", "--project", str(project.folder)]
    with (folder / "up.log").open("wb") as log:
        child = Child("up", [*arguments, "--listen", "127.0.0.1:0"], stderr=log)
        with child:
            child.line("ready")
            yield project, child


def eventually(answer: Callable[[], Any], expected: object) -> None:
    """The answer becomes what is expected; a change takes a moment to travel."""
    deadline = time.monotonic() + 20
    while answer() != expected:
        assert time.monotonic() < deadline, answer()
        time.sleep(0.05)


def evaluated(cli: Cli, project: Project, name: str, *options: str) -> Any:
    ran = cli("eval", name, "--json", *options, cwd=project.folder)
    assert ran.code == 0, ran.err
    return ran.json


def test_a_kill_by_command_reaches_the_replica_and_is_explained(
    cli: Cli, node: tuple[Project, Child]
) -> None:
    project, _ = node
    assert evaluated(cli, project, "new_ai_model", "--tenant-id", "acme")["rule"] == "pilot"
    killed = cli("kill", "new_ai_model", "-e", "development", "--json", cwd=project.folder).json
    eventually(lambda: evaluated(cli, project, "new_ai_model")["reason"], "DISABLED")
    told = evaluated(cli, project, "new_ai_model", "--context", '{"tenant_id": "acme"}')
    assert (told["value"], told["variant"]) == (False, "off")
    assert told["generation"] == killed["generation"]
    text = cli("eval", "new_ai_model", "--explain", cwd=project.folder).out
    assert text.startswith("false\n")
    assert "reason      DISABLED" in text


def test_an_edited_file_is_published_and_a_broken_one_changes_nothing(
    cli: Cli, node: tuple[Project, Child]
) -> None:
    project, _ = node
    path = project.manifests / "flags" / "beta_features.yaml"
    text = path.read_text()
    path.write_text(text.replace('default: "off"', 'default: "on"'))
    eventually(lambda: evaluated(cli, project, "beta_features")["value"], True)
    path.write_text("kind: flag\nname: [\n")
    other = project.manifests / "flags" / "added.yaml"
    other.write_text(text.replace("beta_features", "added"))
    time.sleep(0.6)
    assert evaluated(cli, project, "beta_features")["value"] is True
    assert cli("eval", "added", cwd=project.folder).code == 1
    path.write_text(text)
    eventually(lambda: cli("eval", "added", cwd=project.folder).code, 0)


def test_status_shows_replica_and_store_side_by_side(cli: Cli, node: tuple[Project, Child]) -> None:
    project, _ = node
    eventually(lambda: cli("status", "--json", cwd=project.folder).json["ok"], True)
    (row,) = cli("status", "--json", cwd=project.folder).json["environments"]
    assert (row["environment"], row["ready"], row["development"]) == ("development", True, False)
    assert row["generation"] == row["store_generation"]
    away = ("status", "--json", "--store", "unix:/nowhere/store.sock")
    ran = cli(*away, cwd=project.folder)
    assert (ran.code, ran.json["environments"][0]["store_generation"]) == (0, None)


def test_a_node_without_replica_is_a_negative_answer(cli: Cli, tmp_path: Path) -> None:
    ran = cli("status", "--replica", tmp_path)
    assert (ran.code, "expected a replica, found none" in ran.err) == (1, True)


def test_a_second_up_names_the_port_in_use(cli: Cli, node: tuple[Project, Child]) -> None:
    project, _ = node
    address = project.running_store.removeprefix("http://")
    ran = cli("up", "--listen", address, cwd=project.folder)
    assert ran.code == 1
    assert f"control-plane: {address}: expected a free port" in ran.err
    assert "pass --listen" in ran.err


def test_up_ends_its_children_and_reads_go_on(cli: Cli, node: tuple[Project, Child]) -> None:
    project, up = node
    before = evaluated(cli, project, "beta_features")
    os.kill(up.pid, signal.SIGTERM)
    up.line("ending")
    eventually(lambda: up.exit_code, 0)
    assert not (project.private / RUNNING).exists()
    unreachable = cli("pending", "-e", "development", cwd=project.folder)
    assert unreachable.code == 4
    assert evaluated(cli, project, "beta_features") == before


def test_the_stores_address_is_whole_whenever_it_is_read(project: Project) -> None:
    path, before = project.private / RUNNING, project.private / "before"
    path.write_text("unix:/a/longer/address\n")
    before.hardlink_to(path)
    with up._announced(project, "unix:/s"):
        # Another file took its place: what was read of the old one is the old one.
        assert before.read_text() == "unix:/a/longer/address\n"
        assert path.read_text() == "unix:/s\n"
    before.unlink()
    assert not path.exists()


def test_the_demo_keeps_its_promises_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "control_plane", "demo"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split(":")[0][3:] for line in done.stdout.splitlines() if line.startswith("== ")]
    assert steps == ["trust", "services", "publish", "read", "kill", "lose the store"]
    assert "ms after the submit began" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_demo_whose_claim_fails_ends_with_1(tmp_path: Path) -> None:
    flag = {
        "kind": "flag",
        "name": "dark",
        "metadata": {"variants": {"on": True, "off": False}, "default": "off"},
    }
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "dark.json").write_text(json.dumps(flag))
    done = subprocess.run(
        [sys.executable, "-m", "control_plane", "demo", "--manifests", str(tmp_path / "m")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "expected a flag that is on for tenant123 in production" in done.stderr


def test_eval_without_a_choice_of_environment_names_those_there_are(
    cli: Cli, tmp_path: Path
) -> None:
    for name in ("production", "staging"):
        (tmp_path / name / "v1").mkdir(parents=True)
    ran = cli("eval", "x", "--replica", tmp_path)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "expected one environment, found production, staging" in ran.err
