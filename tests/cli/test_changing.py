"""Changes through the command line, against a store that runs as a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.publish import Publisher

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def generation(cli: Cli, project: Any, environment: str = "production") -> int:
    """The environment's generation as a verified log has it."""
    ran = cli("log", "verify", "-e", environment, "--json", cwd=project.folder)
    assert ran.code == 0, ran.err
    return int(ran.json["generation"])


def apply(cli: Cli, project: Any, path: Path, *options: str) -> Any:
    return cli("apply", "-f", path, "-e", "production", *options, cwd=project.folder)


def test_apply_publishes_and_activates_and_then_leaves_alone(
    cli: Cli, project: Any, write: Write, tool: Make
) -> None:
    path = write(tool("t_apply"))
    before = path.read_bytes()
    first = apply(cli, project, path, "--json")
    assert first.json["changed"] == ["tool/t_apply v/1.0.0", "tool/t_apply c/stable"]
    stood = generation(cli, project)
    again = apply(cli, project, path)
    assert (again.code, "unchanged tool/t_apply v/1.0.0" in again.out) == (0, True)
    assert generation(cli, project) == stood
    assert path.read_bytes() == before


def test_no_activate_publishes_a_version_and_moves_no_channel(
    cli: Cli, project: Any, write: Write, tool: Make
) -> None:
    ran = apply(cli, project, write(tool("t_quiet")), "--no-activate", "--json")
    assert ran.json["changed"] == ["tool/t_quiet v/1.0.0"]
    missing = cli("get", "tool/t_quiet", "-e", "production", cwd=project.folder)
    assert (missing.code, "expected channel stable" in missing.err) == (1, True)


def test_a_dry_run_writes_nothing(cli: Cli, project: Any, write: Write, flag: Make) -> None:
    before = generation(cli, project)
    ran = apply(cli, project, write(flag("f_dry")), "--dry-run")
    assert (ran.code, "would change flag/f_dry" in ran.out) == (0, True)
    assert generation(cli, project) == before


def test_what_is_probably_not_meant_is_said_and_published(
    cli: Cli, project: Any, write: Write, flag: Make
) -> None:
    asking = flag("f_asking")
    when = {"$flag": {"f_advised": "on"}, "$segment": "nobody_published"}
    asking["metadata"]["rules"] = [{"name": "r", "when": when, "serve": "on"}]
    ran = apply(cli, project, write(asking))
    assert ran.code == 0
    assert "advice: flag/f_asking: expected a flag that is published" in ran.err
    assert "advice: flag/f_asking: expected a segment that is published" in ran.err
    # What the environment holds is known, and a document that stands is not looked at again.
    assert apply(cli, project, write(flag("f_advised"))).err == ""
    asking["metadata"]["rules"][0]["when"] = {"$flag": {"f_advised": "on"}}
    assert apply(cli, project, write(asking)).err == ""


def test_many_documents_go_in_sets_of_250_or_in_one(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    for number in range(300):
        write(flag(f"f_many_{number}"), tmp_path / "many")
    before = generation(cli, project)
    ran = apply(cli, project, tmp_path / "many", "--json")
    assert ran.json["generations"] == [before + 1, before + 2]
    atomic = ("apply", "-f", tmp_path / "many", "-e", "staging", "--atomic", "--json")
    assert len(cli(*atomic, cwd=project.folder).json["generations"]) == 1


def test_apply_does_not_undo_what_an_operator_switched_until_it_was_pulled(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "pulled"
    path = write(flag("f_switched"), folder)
    apply(cli, project, path)
    off = cli("flag", "off", "f_switched", "-e", "production", "--json", cwd=project.folder)
    at = off.json["generation"]
    path.write_text(path.read_text().replace("default: 'off'", "default: 'on'"))
    refused = apply(cli, project, path)
    assert refused.code == 1
    assert (
        refused.err
        == "control-plane: flag f_switched (production): expected last change by apply, found"
        f" 'flag off' by author at generation {at}; run 'control-plane pull', or pass --take-over\n"
    )
    assert generation(cli, project) == at
    cli("pull", folder, "-e", "production", cwd=project.folder)
    assert "enabled: false" in path.read_text()
    path.write_text(path.read_text().replace("default: 'off'", "default: 'on'"))
    assert apply(cli, project, path).code == 0


def test_take_over_writes_over_an_operators_change(
    cli: Cli, project: Any, write: Write, flag: Make
) -> None:
    path = write(flag("f_taken"))
    apply(cli, project, path)
    cli("flag", "off", "f_taken", "-e", "production", cwd=project.folder)
    assert apply(cli, project, path).code == 1
    assert apply(cli, project, path, "--take-over").code == 0


def test_pull_leaves_equal_files_alone_and_keeps_leading_comments(
    cli: Cli, project: Any, write: Write, flag: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "pull"
    same, other = write(flag("f_same"), folder), write(flag("f_other"), folder)
    for path in (same, other):
        path.write_text("# yaml-language-server: schema\n" + path.read_text() + "# the end\n")
    apply(cli, project, folder)
    cli("flag", "rollout", "f_other", "25", "-e", "production", cwd=project.folder)
    before = same.read_bytes()
    ran = cli("pull", folder, "-e", "production", "--json", cwd=project.folder)
    assert str(other) in ran.json["written"]
    assert str(same) not in ran.json["written"]
    assert same.read_bytes() == before
    assert other.read_text().startswith("# yaml-language-server: schema\nkind: flag\n")
    assert "weight: 25" in other.read_text()


def test_a_kill_is_its_own_record_and_survives_a_deployment(
    cli: Cli, project: Any, write: Write, flag: Make
) -> None:
    path = write(flag("f_killed"))
    apply(cli, project, path)
    killed = cli("kill", "f_killed", "-e", "production", "--json", cwd=project.folder)
    assert killed.json["changed"] == ["kill/f_killed"]
    path.write_text(path.read_text().replace("default: 'off'", "default: 'on'"))
    assert apply(cli, project, path).code == 0
    listed = cli("list", "flag", "-e", "production", "--json", cwd=project.folder).json
    notes = {row["name"]: row["notes"] for row in listed["documents"]}
    assert notes["f_killed"] == ["killed"]
    assert cli("unkill", "f_killed", "-e", "production", cwd=project.folder).code == 0
    again = cli("unkill", "f_killed", "-e", "production", cwd=project.folder)
    assert (again.code, "expected a kill in production, found none" in again.err) == (1, True)


def test_a_kill_of_a_flag_that_is_not_there_stands_and_says_so(cli: Cli, project: Any) -> None:
    ran = cli("kill", "f_typo", "-e", "production", cwd=project.folder)
    assert (ran.code, "flag/f_typo is not in production" in ran.err) == (0, True)
    listed = cli("list", "kill", "-e", "production", "--json", cwd=project.folder).json
    assert "f_typo" in [row["name"] for row in listed["documents"]]


def test_deleting_a_version_deletes_the_channel_that_points_to_it(
    cli: Cli, project: Any, write: Write, tool: Make
) -> None:
    path = write(tool("t_gone"))
    apply(cli, project, path)
    unnamed = cli("delete", "tool/t_gone", "-e", "production", cwd=project.folder)
    assert (unnamed.code, "tool/t_gone@1.0.0" in unnamed.err) == (1, True)
    ran = cli("delete", "tool/t_gone@1.0.0", "-e", "production", "--json", cwd=project.folder)
    assert ran.json["changed"] == ["tool/t_gone v/1.0.0", "tool/t_gone c/stable"]
    assert "channel stable points to it and is deleted too" in ran.err
    assert cli("get", "tool/t_gone@1.0.0", "-e", "production", cwd=project.folder).code == 1


def test_revert_brings_documents_back_and_leaves_kills(
    cli: Cli, project: Any, write: Write, flag: Make, tool: Make, tmp_path: Path
) -> None:
    apply(cli, project, write(flag("f_back"), tmp_path / "back"))
    write(tool("t_back"), tmp_path / "back")
    then = apply(cli, project, tmp_path / "back", "--json").json["generations"][-1]
    cli("flag", "off", "f_back", "-e", "production", cwd=project.folder)
    cli("kill", "f_back", "-e", "production", cwd=project.folder)
    cli("delete", "tool/t_back@1.0.0", "-e", "production", cwd=project.folder)
    apply(cli, project, write(flag("f_later")))
    ran = cli("revert", "--to", then, "-e", "production", "--json", cwd=project.folder)
    assert ran.code == 0, ran.err
    assert set(ran.json["changed"]) == {
        "flag/f_back", "tool/t_back v/1.0.0", "tool/t_back c/stable", "flag/f_later",
    }  # fmt: skip
    listed = cli("list", "-e", "production", "--json", cwd=project.folder).json["documents"]
    names = {row["reference"]: row for row in listed}
    assert "flag/f_later" not in names
    assert names["flag/f_back"]["notes"] == ["killed"]
    assert names["tool/t_back@1.0.0"]["notes"] == ["stable"]
    again = cli("revert", "--to", then, "-e", "production", cwd=project.folder)
    assert "all stands" in again.out
    assert cli("revert", "--to", 99_999, "-e", "production", cwd=project.folder).code == 1


def test_segments_grow_from_a_file_into_shards_and_shrink(
    cli: Cli, project: Any, write: Write, tmp_path: Path
) -> None:
    document = {"kind": "segment", "name": "s_grow", "metadata": {"members": ["a"]}}
    apply(cli, project, write(document))
    members = tmp_path / "members.txt"
    members.write_text("\n".join(f"member-{number}" for number in range(1_200)))
    add = ("segment", "add", "s_grow", "--from", members, "-e", "production", "--json")
    assert cli(*add, cwd=project.folder).json["changed"] == 1_200
    got = cli("get", "segment/s_grow", "-e", "production", "--json", cwd=project.folder).json
    assert got["document"]["metadata"] == {"shards": 3}
    one = cli("segment", "add", "s_grow", "new", "-e", "production", cwd=project.folder)
    assert (one.code, "1 added, 1202 members now" in one.out) == (0, True)
    remove = ("segment", "remove", "s_grow", "new", "a", "-e", "production", "--json")
    assert cli(*remove, cwd=project.folder).json["changed"] == 2
    assert cli(*remove, cwd=project.folder).json["generation"] is None


def test_history_says_who_did_what_and_why(
    cli: Cli, project: Any, write: Write, flag: Make
) -> None:
    apply(cli, project, write(flag("f_told")), "--reason", "because of acme")
    cli("kill", "f_told", "-e", "production", "--reason", "it burns", cwd=project.folder)
    told = cli("history", "flag/f_told", "-e", "production", cwd=project.folder).out
    assert "apply by author: 'because of acme'; put flag/f_told" in told
    assert "it burns" not in told
    entries = cli("history", "-e", "production", "--limit", 1, "--json", cwd=project.folder).json
    assert entries["entries"][0]["reason"] == "it burns"


def test_get_prints_what_was_published(cli: Cli, project: Any, write: Write, flag: Make) -> None:
    document = flag("f_got", description="größer")
    apply(cli, project, write(document))
    got = cli("get", "flag/f_got", "-e", "production", "--json", cwd=project.folder).json
    assert got["document"] == document
    text = cli("get", "flag/f_got", "-e", "production", cwd=project.folder).out
    assert "description: größer" in text


def test_the_publisher_does_in_python_what_apply_does(
    cli: Cli, project: Any, flag: Make, tool: Make
) -> None:
    token = (project.private / "tokens" / "submit.token").read_text().strip()
    key = str(project.private / "keys" / "author.pem")
    with Publisher(project.store, key, token=token) as publisher:
        change = publisher.change("staging", "from python")
        change.put(flag("f_python"))
        change.put(tool("t_python"))
        change.activate("tool/t_python@1.0.0")
        (submission,) = publisher.submit(change)
        assert publisher.document("staging", "flag/f_python") == flag("f_python")
        assert publisher.submit(change) == []
    entries = cli("history", "-e", "staging", "--limit", 1, "--json", cwd=project.folder).json
    told = entries["entries"][0]
    assert (told["generation"], told["reason"]) == (submission.generation, "from python")


@pytest.mark.parametrize("reference", ["flag/absent", "tool/absent", "tool/absent@1.0.0"])
def test_what_is_not_there_is_said_in_one_line(cli: Cli, project: Any, reference: str) -> None:
    ran = cli("get", reference, "-e", "production", cwd=project.folder)
    assert ran.code == 1
    assert ran.err.startswith(f"control-plane: {reference}: expected ")
    assert ran.err.count("\n") == 1
