"""``control-plane keys``, through the command itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from control_plane.cli.keys import keys
from control_plane.errors import KeyFileRefused
from control_plane.publish.keyfiles import load_signer
from control_plane.trust.state import restore


def run(*arguments: object) -> Result:
    return CliRunner().invoke(keys, [str(argument) for argument in arguments])


def described(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["format"] == 1
    return {key["name"]: key for key in value["keys"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result = run(
        "init", "--directory", tmp_path, "--installation", "hello", "-e", "production",
        "--author", "alice", "--author", "bob", "--threshold", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return tmp_path


def test_init_makes_an_installation_that_expires(folder: Path) -> None:
    trust = folder / "trust"
    policy = restore((trust / "1.root.json").read_bytes(), (trust / "targets.json").read_bytes())
    assert policy.log("production").origin == "hello/production/1"
    assert [delegation.threshold for delegation in policy.delegations] == [1, 2, 1]
    assert policy.expired_at(4_000_000_000_000)


def test_init_twice_is_refused(folder: Path) -> None:
    result = run("init", "--directory", folder, "--installation", "hello", "-e", "production")
    assert isinstance(result.exception, KeyFileRefused)


def test_list_tells_what_each_key_is_used_for(folder: Path) -> None:
    listed = described(run("list", "--directory", folder, "--json"))
    assert sorted(listed) == ["alice", "bob", "log-production", "root", "targets"]
    assert listed["root"]["roles"] == ["root"]
    assert listed["log-production"]["logs"] == ["production"]
    grants = {grant["name"]: grant for grant in listed["alice"]["delegations"]}
    assert grants["production.change"]["threshold"] == 2
    assert grants["production.kill"]["patterns"] == ["production/kill/*"]
    lines = run("list", "--directory", folder).stdout.splitlines()
    assert lines[0].split() == ["NAME", "KEY", "ID", "USED", "FOR"]
    assert any("production/*/* (needs 2 signatures)" in line for line in lines)


def test_list_names_keys_that_are_held_elsewhere(folder: Path) -> None:
    key_id = load_signer(folder / "keys" / "bob.pem").public_key.keyid
    for path in (folder / "keys").glob("bob.pem*"):
        path.unlink()
    elsewhere = described(run("list", "--directory", folder, "--json"))[None]  # type: ignore[index]
    assert (elsewhere["key_id"], elsewhere["file"]) == (key_id, None)


def test_new_makes_a_locked_key_that_is_used_for_nothing_yet(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    result = run("new", "carol", "--directory", folder, "--passphrase-file", secret, "--json")
    made = json.loads(result.stdout)
    signer = load_signer(folder / "keys" / "carol.pem", b"correct horse")
    assert made["key_id"] == signer.public_key.keyid
    listed = described(run("list", "--directory", folder, "--json"))
    assert listed["carol"]["delegations"] == []
    assert "nothing yet" in run("list", "--directory", folder).stdout


@pytest.mark.parametrize("name", ["../x", "A", "", "a/b"])
def test_new_refuses_names_that_are_no_names(folder: Path, name: str) -> None:
    before = sorted(folder.rglob("*"))
    result = run("new", name, "--directory", folder)
    assert result.exit_code == 2
    assert "expected a name like" in result.output
    assert sorted(folder.rglob("*")) == before
