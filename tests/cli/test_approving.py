"""Two people for one change: by file, and by what waits in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def entries(cli: Cli, two: Any) -> int:
    ran = cli("history", "-e", "production", "--json", *two.options())
    return len(ran.json["entries"])


def test_a_change_file_becomes_an_entry_with_its_second_signature(
    cli: Cli, two_persons: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    out = tmp_path / "change.json"
    apply = ("apply", "-f", write(flag("f_file")), "-e", "production", "--out", out)
    assert cli(*apply, *two_persons.options("alice")).code == 0
    before = entries(cli, two_persons)
    approved = cli("approve", out, "--json", *two_persons.options("bob"))
    assert len(approved.json["signatures"]) == 2
    assert approved.json["changes"] == ["put flag/f_file"]
    assert entries(cli, two_persons) == before
    submitted = cli("submit", out, "--json", *two_persons.options())
    assert submitted.json["repeated"] is False
    assert entries(cli, two_persons) == before + 1


def test_a_change_waits_in_the_store_for_its_second_signature(
    cli: Cli, two_persons: Any, write: Write, flag: Make
) -> None:
    before = entries(cli, two_persons)
    apply = ("apply", "-f", write(flag("f_wait")), "-e", "production", "--reason", "two eyes")
    waiting = cli(*apply, *two_persons.options("alice"))
    assert waiting.code == 1
    assert "expected 2 signatures, found 1" in waiting.err
    assert entries(cli, two_persons) == before
    listed = cli("pending", "-e", "production", *two_persons.options()).out
    assert "1 of 2" in listed
    assert "two eyes" in listed
    statement = listed.splitlines()[1].split()[0]
    approved = cli("approve", statement, "-e", "production", *two_persons.options("bob"))
    assert approved.code == 0, approved.err
    assert "put flag/f_wait" in approved.out
    assert entries(cli, two_persons) == before + 1
    assert "no change set waits" in cli("pending", "-e", "production", *two_persons.options()).out


def test_the_same_person_twice_is_one_signature(
    cli: Cli, two_persons: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    out = tmp_path / "change.json"
    apply = ("apply", "-f", write(flag("f_once")), "-e", "production", "--out", out)
    cli(*apply, *two_persons.options("alice"))
    again = cli("approve", out, "--json", *two_persons.options("alice"))
    assert len(again.json["signatures"]) == 1
    assert cli("submit", out, *two_persons.options()).code == 1


def test_a_kill_needs_one_person(cli: Cli, two_persons: Any, write: Write, flag: Make) -> None:
    kill = cli("kill", "f_alone", "-e", "production", "--json", *two_persons.options("bob"))
    assert (kill.code, kill.json["changed"]) == (0, ["kill/f_alone"])


def test_a_waiting_change_that_is_not_there_is_named(cli: Cli, two_persons: Any) -> None:
    ran = cli("approve", "beef", "-e", "production", *two_persons.options("bob"))
    assert (ran.code, "expected one waiting change set beef…, found 0" in ran.err) == (1, True)
