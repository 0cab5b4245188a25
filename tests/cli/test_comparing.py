"""`diff`: what `apply` or `promote` would make of an environment, line by line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


@pytest.fixture
def run(cli: Cli, project: Any) -> Cli:
    """A verb inside the project."""

    def ran(*arguments: object) -> Any:
        return cli(*arguments, cwd=project.folder)

    return ran


def test_a_published_file_differs_in_nothing_even_unsigned_and_in_another_order(
    run: Cli, write: Write, tool: Make
) -> None:
    document = tool("t_equal")
    path = write(document)
    run("apply", "-f", path, "-e", "production")
    write({name: document[name] for name in reversed(document)})
    same = run("diff", "-f", path, "-e", "production")
    assert (same.code, same.out) == (0, f"production and {path} hold the same\n")


def test_an_edited_file_shows_its_lines_and_what_it_would_change(
    run: Cli, write: Write, flag: Make
) -> None:
    path = write(flag("f_edited"))
    run("apply", "-f", path, "-e", "production")
    write(flag("f_edited", default="on"))
    shown = run("diff", "-f", path, "-e", "production")
    assert shown.code == 1
    lines = shown.out.splitlines()
    assert lines[0] == "--- flag/f_edited (production)"
    changed = [line for line in lines[2:] if line[0] in "+-"]
    assert changed == ["-  default: 'off'", "+  default: 'on'"]
    assert run("get", "flag/f_edited", "-e", "production").out.count("default: 'off'") == 1


def test_a_folder_is_told_what_only_one_side_has_and_a_file_only_about_itself(
    run: Cli, write: Write, flag: Make, tmp_path: Path
) -> None:
    run("apply", "-f", write(flag("f_there")), "-e", "production")
    path = write(flag("f_here"), tmp_path / "folder")
    whole = run("diff", "-f", tmp_path / "folder", "-e", "production", "--json").json
    assert whole["only_right"] == ["flag/f_here"]
    assert "flag/f_there" in whole["only_left"]
    single = run("diff", "-f", path, "-e", "production", "--json").json
    assert (single["only_left"], single["equal"]) == ([], False)


def test_environments_are_compared_with_kills_channels_and_members(
    run: Cli, write: Write, flag: Make, tool: Make
) -> None:
    for environment, version in (("staging", "1.1.0"), ("production", "1.0.0")):
        run("apply", "-f", write(tool("t_channel", version)), "-e", environment)
        run("apply", "-f", write(flag("f_killed")), "-e", environment)
    run("kill", "f_killed", "-e", "production")
    ran = run("diff", "--from", "staging", "--to", "production", "tool/t_channel", "--json")
    assert ran.code == 1
    assert ran.json["only_left"] == ["tool/t_channel@1.0.0"]
    assert ran.json["only_right"] == ["tool/t_channel@1.1.0"]
    (channel,) = ran.json["changed"]
    assert channel["name"] == "tool/t_channel channel stable"
    assert (channel["left"], channel["right"]) == ({"version": "1.0.0"}, {"version": "1.1.0"})
    kills = run("diff", "--from", "staging", "--to", "production", "kill/f_killed")
    assert (kills.code, kills.out) == (1, "only in production: kill/f_killed\n")
    same = run("diff", "--from", "staging", "--to", "production", "flag/f_killed")
    assert same.code == 0


def test_members_are_compared_and_never_shown(run: Cli, write: Write) -> None:
    path = write({"kind": "segment", "name": "s_diff", "metadata": {"shards": 1}})
    for environment in ("staging", "production"):
        run("apply", "-f", path, "-e", environment)
    run("segment", "add", "s_diff", "ann.private", "-e", "staging")
    shown = run("diff", "--from", "staging", "--to", "production", "segment/s_diff")
    assert shown.code == 1
    assert "--- segment/s_diff members (production)" in shown.out
    assert "private" not in shown.out


def test_after_a_promotion_nothing_differs(run: Cli, write: Write, flag: Make) -> None:
    run("apply", "-f", write(flag("f_same")), "-e", "staging")
    sides = ("--from", "staging", "--to", "production")
    assert run("diff", *sides, "flag/f_same").code == 1
    run("promote", *sides, "flag/f_same")
    assert run("diff", *sides, "flag/f_same").code == 0


@pytest.mark.parametrize(
    "arguments",
    [["-e", "production"], ["--from", "staging"], ["--from", "staging", "-e", "production"]],
)
def test_half_a_comparison_is_wrong_usage(run: Cli, arguments: list[str]) -> None:
    ran = run("diff", *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "expected -f PATH with -e ENV, or --from ENV with --to ENV" in ran.err
