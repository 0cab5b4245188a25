"""`promote`: the same signed bytes in another environment, and what stays behind."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
PROMOTE = ("promote", "--from", "staging", "--to", "production")


@pytest.fixture
def run(cli: Cli, project: Any) -> Cli:
    """A verb inside the project that is expected to succeed."""

    def ran(*arguments: object) -> Any:
        done = cli(*arguments, "--json", cwd=project.folder)
        assert done.code == 0, done.err
        return done.json

    return ran


def size(run: Cli, environment: str = "production") -> int:
    return int(run("log", "verify", "-e", environment)["size"])


def test_a_promotion_carries_the_signed_bytes_and_the_channel(
    run: Cli, write: Write, tool: Make
) -> None:
    run("apply", "-f", write(tool("t_promoted")), "-e", "staging")
    done = run(*PROMOTE, "tool/t_promoted")
    assert done["changed"] == ["tool/t_promoted v/1.0.0", "tool/t_promoted c/stable"]
    there, here = (run("get", "tool/t_promoted", "-e", each) for each in ("staging", "production"))
    assert here["digest"] == there["digest"]
    assert here["document"]["signature"] == there["document"]["signature"]
    (entry,) = run("history", "tool/t_promoted", "-e", "production")["entries"][-1:]
    assert (entry["verb"], entry["reason"]) == ("promote", "promote from staging")


def test_what_stands_already_is_not_promoted_again(run: Cli, write: Write, flag: Make) -> None:
    run("apply", "-f", write(flag("f_stands")), "-e", "staging")
    run(*PROMOTE, "flag/f_stands")
    before = size(run)
    assert run(*PROMOTE, "flag/f_stands")["changed"] == []
    assert size(run) == before


def test_kills_stay_and_nothing_is_deleted(
    run: Cli, cli: Cli, project: Any, write: Write, flag: Make
) -> None:
    run("apply", "-f", write(flag("f_staged")), "-e", "staging")
    run("apply", "-f", write(flag("f_live")), "-e", "production")
    run("kill", "f_staged", "-e", "staging")
    assert "flag/f_staged" in run(*PROMOTE)["changed"]
    listed = {row["reference"]: row for row in run("list", "-e", "production")["documents"]}
    assert {"flag/f_staged", "flag/f_live"} <= set(listed)
    assert (listed["flag/f_staged"]["notes"], "kill/f_staged" in listed) == ([], False)
    refused = cli(*PROMOTE, "kill/f_staged", cwd=project.folder)
    assert (refused.code, "kills stay" in refused.err) == (2, True)


def test_a_flag_switched_in_the_target_is_left_to_its_operator(
    run: Cli, cli: Cli, project: Any, write: Write, flag: Make
) -> None:
    path = write(flag("f_switched"))
    for environment in ("staging", "production"):
        run("apply", "-f", path, "-e", environment)
    run("flag", "off", "f_switched", "-e", "production")
    before = size(run)
    refused = cli(*PROMOTE, "flag/f_switched", cwd=project.folder)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "found 'flag off' by author" in refused.err
    assert size(run) == before
    assert run(*PROMOTE, "flag/f_switched", "--take-over")["changed"] == ["flag/f_switched"]


def test_a_segment_with_other_shards_comes_whole(run: Cli, write: Write, tmp_path: Path) -> None:
    document: dict[str, Any] = {"kind": "segment", "name": "s_promoted"}
    run("apply", "-f", write({**document, "metadata": {"members": ["old"]}}), "-e", "production")
    run("apply", "-f", write({**document, "metadata": {"shards": 1}}), "-e", "staging")
    run("segment", "add", "s_promoted", "ann", "bob", "cy", "-e", "staging")
    done = run(*PROMOTE, "segment/s_promoted")
    assert sorted(done["changed"]) == [
        "segment/s_promoted", "segment/s_promoted s/0000", "segment/s_promoted s/0001",
    ]  # fmt: skip
    again = run(*PROMOTE, "segment/s_promoted")
    assert again["changed"] == []


def test_a_segment_is_promoted_with_its_rules_and_who_is_excluded(run: Cli, write: Write) -> None:
    rest = {"exclude": ["ann"], "rules": [{"name": "pro", "when": {"plan": "pro"}}]}
    document: dict[str, Any] = {"kind": "segment", "name": "s_whole"}
    run("apply", "-f", write({**document, "metadata": {"shards": 1, **rest}}), "-e", "staging")
    run("segment", "add", "s_whole", "ann", "bob", "-e", "staging")
    run(*PROMOTE, "segment/s_whole")
    sides = ("--from", "staging", "--to", "production", "segment/s_whole")
    assert run("diff", *sides)["equal"] is True
    rest["rules"].append({"name": "free", "when": {"plan": "free"}})
    run("apply", "-f", write({**document, "metadata": {"shards": 1, **rest}}), "-e", "staging",
        "--take-over")  # fmt: skip
    assert run(*PROMOTE, "segment/s_whole")["changed"] == ["segment/s_whole"]
    assert run("diff", *sides)["equal"] is True


def test_members_of_the_target_do_not_survive_in_a_promoted_segment(run: Cli, write: Write) -> None:
    # Its shard of four is the second, of two the first: that one is empty on both sides.
    member = next(m for m in map(str, range(99)) if sha256(m.encode()).digest()[0] >> 6 == 1)
    for environment, bits in (("staging", 1), ("production", 2)):
        document = {"kind": "segment", "name": "s_members", "metadata": {"shards": bits}}
        run("apply", "-f", write(document), "-e", environment)
    run("segment", "add", "s_members", member, "-e", "production")
    run(*PROMOTE, "segment/s_members", "--take-over")
    sides = ("--from", "staging", "--to", "production", "segment/s_members")
    assert run("diff", *sides)["equal"] is True


def test_a_dry_run_or_a_file_writes_nothing_to_the_log(
    run: Cli, write: Write, flag: Make, tmp_path: Path
) -> None:
    run("apply", "-f", write(flag("f_planned")), "-e", "staging")
    before = size(run)
    assert run(*PROMOTE, "flag/f_planned", "--dry-run")["changed"] == ["flag/f_planned"]
    run(*PROMOTE, "flag/f_planned", "--out", tmp_path / "change.json")
    assert size(run) == before
    assert run("submit", tmp_path / "change.json")["generation"] == before + 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--from", "staging", "--to", "staging"], 2, "expected two environments"),
        (["--from", "staging", "--to", "production", "flag/f_none"], 1, "it in staging, found"),
        (["--to", "production"], 2, "missing option '--from'"),
    ],
)
def test_a_promotion_of_nothing_is_refused(
    cli: Cli, project: Any, arguments: list[str], code: int, words: str
) -> None:
    ran = cli("promote", *arguments, cwd=project.folder)
    assert (ran.code, ran.err.count("\n"), words in ran.err) == (code, 1, True), ran.err
