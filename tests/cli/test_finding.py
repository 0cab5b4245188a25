"""Where verbs find store, token, keys, trust and database, and what is said when they do not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.publish.keyfiles import new_key

Cli = Callable[..., Any]


@pytest.fixture
def elsewhere(project: Any, tmp_path: Path) -> Path:
    """A folder outside any project with copies of what the project would have given."""
    for name in ("tokens/submit.token", "keys/author.pem", "trust.json"):
        shutil.copy(project.private / name, tmp_path)
    return tmp_path


def test_token_verbs_in_a_project_use_its_database(cli: Cli, project: Any) -> None:
    inside = project.manifests
    new = ("token", "new", "robot", "-e", "staging", "--may", "follow", "--json")
    made = cli(*new, cwd=inside)
    assert made.json["token"].startswith("cpt_")
    listed = cli("token", "list", "--json", cwd=inside).json["tokens"]
    assert ("robot", "staging", "follow", None) in [
        (row["name"], row["environment"], row["may"], row["revoked_at"]) for row in listed
    ]
    assert cli("token", "revoke", "robot", cwd=inside).out == "robot: revoked in 1 environment\n"
    again = cli("token", "revoke", "robot", cwd=inside)
    assert (again.code, "expected a token 'robot' in force" in again.err) == (1, True)


def test_a_token_that_could_not_be_handed_over_is_not_made(
    cli: Cli, project: Any, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    new = ("token", "new", "lost", "-e", "staging", "--may", "submit", "--out", taken)
    ran = cli(*new, cwd=project.folder)
    assert (ran.code, "expected no file, found one" in ran.err) == (1, True)
    assert taken.read_text() == "mine"
    listed = cli("token", "list", "--json", cwd=project.folder).json["tokens"]
    assert "lost" not in [row["name"] for row in listed]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["token", "list"], 2, "expected --database FILE or a project here or above"),
        (["keys", "list"], 2, "expected --directory DIR or a project here or above"),
        (["kill", "x", "-e", "production"], 1, "expected a key file, found none; pass --key"),
        (["log", "verify", "-e", "production"], 1, "expected a trust.json, found none; pass"),
        (["pending", "-e", "production", "--store", "unix:none"], 4, "expected a store, found"),
    ],
)
def test_outside_a_project_a_verb_says_what_it_lacks_and_where_it_would_find_it(
    cli: Cli, arguments: list[str], code: int, words: str
) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)
    assert words in ran.err
    if code != 4:
        assert "run it inside the folder that 'control-plane init DIR' made" in ran.err


@pytest.mark.parametrize("arguments", [["up"], ["up", "--project", "none"]])
def test_up_without_a_project_says_how_to_make_one(cli: Cli, arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "expected a project" in ran.err
    assert ran.err.endswith("; run 'control-plane init DIR' to make one\n")


FILES = [
    (["pending", "--token-file"], "a token file", "control-plane token new"),
    (["kill", "x", "--passphrase-file"], "a passphrase file", "--passphrase-file FILE"),
    (["log", "verify", "--trust"], "a trust.json", "--trust"),
    (["segment", "add", "s", "--from"], "a file of members", "one member a line"),
    (["kill", "x", "--key"], "a key file", "control-plane keys new"),
]


@pytest.mark.parametrize(("arguments", "what", "cure"), FILES)
def test_a_missing_file_is_one_line_that_says_what_it_was_to_be(
    cli: Cli, project: Any, arguments: list[str], what: str, cure: str
) -> None:
    ran = cli(*arguments, "/nope", "-e", "production", cwd=project.folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert f"expected {what}, found none" in ran.err
    assert "/nope" in ran.err
    assert cure in ran.err.partition(";")[2]


@pytest.mark.parametrize(("arguments", "what", "cure"), FILES)
def test_a_folder_in_a_files_place_is_one_line_too(
    cli: Cli, project: Any, tmp_path: Path, arguments: list[str], what: str, cure: str
) -> None:
    ran = cli(*arguments, tmp_path, "-e", "production", cwd=project.folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "expected a " in ran.err
    assert str(tmp_path) in ran.err
    assert cure in ran.err.partition(";")[2]


def test_each_variable_stands_for_its_option(command: Cli, project: Any, elsewhere: Path) -> None:
    variables = {
        "CONTROL_PLANE_STORE": project.store,
        "CONTROL_PLANE_TOKEN_FILE": str(elsewhere / "submit.token"),
        "CONTROL_PLANE_KEY_FILE": str(elsewhere / "author.pem"),
        "CONTROL_PLANE_HOME": str(elsewhere),
    }
    killed = command("kill", "v_all", "-e", "staging", "--json", cwd=elsewhere, **variables)
    assert killed.code == 0, killed.err
    verified = command("log", "verify", "-e", "staging", "--json", cwd=elsewhere, **variables)
    assert verified.json["generation"] == killed.json["generation"]


@pytest.mark.parametrize(
    ("missing", "code", "words"),
    [
        ("STORE", 4, "http://127.0.0.1:7840: expected a store"),
        ("TOKEN_FILE", 1, "expected a token, found none"),
        ("KEY_FILE", 1, "expected a key file, found none"),
    ],
)
def test_without_its_variable_nothing_is_taken_from_elsewhere(
    command: Cli, project: Any, elsewhere: Path, missing: str, code: int, words: str
) -> None:
    variables = {
        "CONTROL_PLANE_STORE": project.store,
        "CONTROL_PLANE_TOKEN_FILE": str(elsewhere / "submit.token"),
        "CONTROL_PLANE_KEY_FILE": str(elsewhere / "author.pem"),
    }
    del variables[f"CONTROL_PLANE_{missing}"]
    ran = command("kill", "v_none", "-e", "staging", cwd=elsewhere, **variables)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1), ran.err
    assert words in ran.err


def test_an_option_beats_its_variable_and_a_variable_the_project(
    cli: Cli, project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_TOKEN_FILE", "/from/variable")
    beaten = cli("pending", "-e", "staging", cwd=project.folder)
    assert (beaten.code, "found none at /from/variable" in beaten.err) == (1, True)
    own = project.private / "tokens" / "submit.token"
    assert cli("pending", "-e", "staging", "--token-file", own, cwd=project.folder).code == 0
    monkeypatch.setenv("CONTROL_PLANE_STORE", f"unix:{tmp_path}/none.sock")
    away = cli("pending", "-e", "staging", "--token-file", own, cwd=project.folder)
    assert (away.code, "none.sock: expected a store" in away.err) == (4, True)


def test_several_key_files_and_a_passphrase_come_from_variables(
    command: Cli, two_persons: Any, tmp_path: Path
) -> None:
    locked, secret = tmp_path / "locked.pem", tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    new_key(locked, "locked", b"correct horse")
    keys = [two_persons.keys / "alice.pem", two_persons.keys / "bob.pem", locked]
    out = tmp_path / "change.json"
    flag = tmp_path / "flag.json"
    flag.write_text(
        '{"kind": "flag", "name": "v_keys",'
        ' "metadata": {"variants": {"on": true, "off": false}, "default": "off"}}'
    )
    variables = {
        "CONTROL_PLANE_STORE": two_persons.store,
        "CONTROL_PLANE_TOKEN_FILE": str(two_persons.token),
        "CONTROL_PLANE_KEY_FILE": os.pathsep.join(map(str, keys)),
    }
    apply = ("apply", "-f", flag, "-e", "production", "--out", out)
    without = command(*apply, **variables)
    assert (without.code, "expected a passphrase for a locked key" in without.err) == (1, True)
    assert not out.exists()
    variables["CONTROL_PLANE_KEY_PASSPHRASE_FILE"] = str(secret)
    signed = command(*apply, **variables)
    assert signed.code == 0, signed.err
    assert out.read_text().count('"keyid"') == len(keys)
