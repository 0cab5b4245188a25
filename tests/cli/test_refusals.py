"""What the command line refuses: its exit code, its one line, and that nothing changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.publish.keyfiles import new_key

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def state(cli: Cli, project: Any) -> dict[str, Any]:
    """Size, root and heads of production, verified from the first entry."""
    ran = cli("log", "verify", "-e", "production", "--json", cwd=project.folder)
    assert ran.code == 0, ran.err
    return {name: ran.json[name] for name in ("size", "root", "heads_root")}


def refused(cli: Cli, project: Any, code: int, words: str, *arguments: object) -> None:
    """The command ends with the code and one line that holds the words; nothing changed."""
    before = state(cli, project)
    ran = cli(*arguments, cwd=project.folder)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert ran.err.startswith("control-plane: ")
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert state(cli, project) == before


def test_a_schema_violation_is_refused(cli: Cli, project: Any, write: Write, flag: Make) -> None:
    path = write(flag("f_bad", colour="blue"))
    refused(cli, project, 1, "colour", "apply", "-f", path, "-e", "production")


def test_one_bad_file_keeps_all_others_out(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    write(flag("f_good"), tmp_path / "mixed")
    write(flag("f_bad", colour="blue"), tmp_path / "mixed")
    refused(cli, project, 1, "f_bad", "apply", "-f", tmp_path / "mixed", "-e", "production")


def test_a_wrong_checksum_is_a_trust_failure(
    cli: Cli, project: Any, write: Write, tool: Make
) -> None:
    path = write({**tool("t_sum"), "checksum_sha256": "0" * 63 + "a"})
    words = "tool/t_sum@1.0.0: expected checksum 0000"
    refused(cli, project, 6, words, "apply", "-f", path, "-e", "production")


def test_a_key_that_trust_does_not_know_is_a_trust_failure(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    new_key(tmp_path / "stranger.pem")
    arguments = ("apply", "-f", write(flag("f_key")), "-e", "production")
    refused(cli, project, 6, "key", *arguments, "--key", tmp_path / "stranger.pem")


def test_a_published_version_keeps_its_content(
    cli: Cli, project: Any, write: Write, tool: Make
) -> None:
    path = write(tool("t_again"))
    assert cli("apply", "-f", path, "-e", "production", cwd=project.folder).code == 0
    write(tool("t_again", description="another"))
    refused(cli, project, 1, "t_again", "apply", "-f", path, "-e", "production")


def test_a_change_that_lost_the_race_is_a_conflict(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    path, out = write(flag("f_race")), tmp_path / "change.json"
    apply = ("apply", "-f", path, "-e", "production")
    assert cli(*apply, "--out", out, cwd=project.folder).code == 0
    assert cli(*apply, cwd=project.folder).code == 0
    refused(cli, project, 5, "flag/f_race", "submit", out)


def test_a_submitted_change_may_be_sent_again(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    out = tmp_path / "change.json"
    cli("apply", "-f", write(flag("f_twice")), "-e", "production", "--out", out, cwd=project.folder)
    first = cli("submit", out, "--json", cwd=project.folder)
    before = state(cli, project)
    second = cli("submit", out, "--json", cwd=project.folder)
    assert (first.json["repeated"], second.json["repeated"]) == (False, True)
    assert first.json["generation"] == second.json["generation"]
    assert state(cli, project) == before


def test_a_change_file_edited_on_its_way_is_a_trust_failure(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    out = tmp_path / "change.json"
    cli("apply", "-f", write(flag("f_edit")), "-e", "production", "--out", out, cwd=project.folder)
    value = json.loads(out.read_text())
    value["blobs"] = dict.fromkeys(value["blobs"], "e30=")
    out.write_text(json.dumps(value))
    refused(cli, project, 6, "expected blob", "submit", out)


def test_a_store_that_is_down_is_exit_4(cli: Cli, write: Write, flag: Make, tmp_path: Path) -> None:
    new_key(tmp_path / "k.pem")
    arguments = ("apply", "-f", write(flag("f")), "-e", "production", "--key", tmp_path / "k.pem")
    ran = cli(*arguments, "--store", f"unix:{tmp_path}/none.sock")
    assert ran.code == 4
    assert "expected a store, found no such file or directory" in ran.err


def test_a_projects_token_and_key_go_to_its_own_store_only(cli: Cli, project: Any) -> None:
    # The same store by another address: were the token sent, it would be let in.
    elsewhere = project.store.replace("/store.sock", "/./store.sock")
    refused(cli, project, 1, "token", "pending", "-e", "production", "--store", elsewhere)
    kill = ("kill", "x", "-e", "production", "--store", elsewhere)
    refused(cli, project, 1, "expected a key file, found none", *kill)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["aply"], "did you mean apply?"),
        (["apply", "-e", "production"], "missing option '-f'"),
        (["kill", "x"], "missing option '-e'"),
        (["kill", "x", "-e", "Production"], "expected an environment like"),
        (["flag", "rollout", "x", "many", "-e", "production"], "like 25 or 12.5, found 'many'"),
        (["sign", "x.yaml"], "expected one of --out DIR and --in-place"),
        (["list", "flags", "-e", "production"], "expected one of flag"),
        (["flag", "rollout", "x", "125", "-e", "production"], "expected a percentage from 0 to"),
        (["flag", "rollout", "x", "1e9", "-e", "production"], "found '1e9'"),
        (["flag", "rollout", "x", "0.0001", "-e", "production"], "found '0.0001'"),
        (["flag", "on", "Bad Name", "-e", "production"], "expected a name like"),
        (["kill", "../x", "-e", "production"], "expected a name like"),
        (["kill", "x", "-e", "production", "--reason", "é" * 513], "1024 bytes, found 1026"),
        (["segment", "add", "Bad", "a", "-e", "production"], "expected a name like"),
        (["segment", "add", "s", "-e", "production"], "expected members or --from FILE"),
        (["get", "foo", "-e", "production"], "expected a reference like"),
        (["get", "kill/Bad", "-e", "production"], "expected a name like"),
        (["history", "flag/", "-e", "production"], "expected a reference like"),
        (["delete", "flag/x", "tool", "-e", "production"], "found 'tool'"),
        (["revert", "--to", "now", "-e", "production"], "'now' is not a valid integer"),
        (["apply", "-f", ".", "-e", "x", "--channel", "Stable!"], "expected a channel like"),
        (["approve", "abc", "-e", "Production"], "expected an environment like"),
        (["eval", "x", "--context", "{bad"], "--context: expected JSON"),
        (["eval", "x", "--context", "[1]"], "expected --context as a JSON object"),
        (["eval", "x", "-e", "../etc"], "expected an environment like"),
        (["status", "-e", "Production"], "expected an environment like"),
        (["keys", "init", "--directory", "k", "--installation", "Bad", "-e", "x"], "installation"),
        (
            [
                "keys",
                "init",
                "--directory",
                "k",
                "--installation",
                "i",
                "-e",
                "x",
                "--threshold",
                "2",
            ],
            "threshold: expected 1 to 1",
        ),
        (["init", "p", "--store", "ftp://x"], "expected http"),
        (["init", "p", "-e", "Prod"], "expected a name like"),
        (["store", "--database", "d", "--keys", "k", "--listen", "nowhere"], "expected host:port"),
        (["pending", "-e", "production", "--store", "ftp://x"], "expected http"),
    ],
)
def test_wrong_usage_is_exit_2_says_where_to_look_and_makes_nothing(
    cli: Cli, arguments: list[str], words: str, tmp_path: Path
) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
    assert words in ran.err
    assert "--help'" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_exit_3_and_names_its_extra() -> None:
    program = (
        "import sys; sys.modules['click'] = None\n"
        "from control_plane.cli import main\nsys.exit(main(['list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr == (
        "control-plane: expected the package click, found none; pip install 'control-plane[cli]'\n"
    )


def test_a_package_missing_below_a_verb_is_exit_3_too(write: Write, flag: Make) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from control_plane.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    arguments = ["apply", "-f", str(write(flag("f"))), "-e", "x", "--key", "k.pem"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "expected the package cryptography" in done.stderr


def test_a_refused_change_is_told_newest_first_and_per_environment(
    cli: Cli, project: Any, tmp_path: Path
) -> None:
    new_key(tmp_path / "stranger.pem")
    asked = ("history", "--refused", "-e", "production")
    before = len(cli(*asked, "--json", cwd=project.folder).json["refused"])
    for name in ("first", "second"):
        kill = ("kill", name, "-e", "production", "--key", tmp_path / "stranger.pem")
        assert cli(*kill, cwd=project.folder).code == 6
    told = cli(*asked, "--json", cwd=project.folder).json["refused"]
    assert len(told) == before + 2
    assert told[0]["at"] >= told[1]["at"]
    assert told[0]["statement"] != told[1]["statement"]
    (line,) = cli(*asked, "--limit", "1", cwd=project.folder).out.splitlines()
    assert told[0]["statement"][:16] in line
    assert f"{told[0]['code']}: {told[0]['message']}" in line
    other = cli("history", "--refused", "-e", "staging", cwd=project.folder)
    assert (other.code, other.out) == (0, "")


def test_a_line_cut_short_by_a_crash_hides_no_other(cli: Cli, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    line = (
        b'{"at":1700000000000,"event":"refused","environment":"production","token":"ci",'
        b'"statement":"","code":"conflict","message":"flag/x: expected 3, found 4"}\n'
    )
    audit.write_bytes(line[:40] + b"\n" + line + line[:70])
    ran = cli("history", "--refused", "--audit", audit, "-e", "production")
    expected = "2023-11-14T22:13:20Z  token ci: conflict: flag/x: expected 3, found 4\n"
    assert (ran.code, ran.out) == (0, expected)


def test_without_a_store_at_hand_it_says_where_the_file_lies(cli: Cli, tmp_path: Path) -> None:
    nowhere = cli("history", "--refused", "-e", "production")
    assert (nowhere.code, nowhere.err.count("\n")) == (1, 1)
    assert "pass --audit FILE, it lies beside the database" in nowhere.err
    named = ("history", "--refused", "--audit", tmp_path / "none" / "audit.jsonl")
    missing = cli(*named, "-e", "production")
    assert (missing.code, "found no such file or directory" in missing.err) == (1, True)
    both = cli("history", "flag/x", "--refused", "-e", "production")
    assert (both.code, "expected no reference with --refused" in both.err) == (2, True)
