"""`history --refused`: what was turned away, by whom and why, from the store's own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from control_plane.publish.keyfiles import new_key

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def test_a_refused_change_is_told_newest_first_and_per_environment(
    cli: Cli, project: Any, tmp_path: Path
) -> None:
    new_key(tmp_path / "stranger.pem")
    asked = ("history", "--refused", "-e", "production")
    assert (cli(*asked, cwd=project.folder).code, cli(*asked, cwd=project.folder).out) == (0, "")
    for name in ("first", "second"):
        kill = ("kill", name, "-e", "production", "--key", tmp_path / "stranger.pem")
        assert cli(*kill, cwd=project.folder).code == 6
    told = cli(*asked, "--json", cwd=project.folder).json["refused"]
    assert [entry["event"] for entry in told] == ["refused", "refused"]
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
