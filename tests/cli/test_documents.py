"""Documents on the author's side: sign, verify, schema, help and a new project."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from control_plane.cli.root import SECTIONS, SERVICES, root
from control_plane.publish.keyfiles import new_key

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


def verbs() -> Iterator[tuple[str, ...]]:
    """Every verb and sub-verb of the library's own."""
    context = click.Context(root)
    for name in [name for section in SECTIONS.values() for name in section]:
        yield (name,)
        command = root.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, each) for each in command.list_commands(context))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "author.pem"
    new_key(path)
    return path


def test_signing_in_place_keeps_comments_and_adds_two_lines(
    cli: Cli, write: Write, tool: Make, key: Path
) -> None:
    path = write(tool("t"))
    path.write_text("# first\n" + path.read_text() + "# last\n")
    before = path.read_text()
    ran = cli("sign", path, "--in-place", "--key", key, "--json")
    assert ran.json["signed"][0]["reference"] == "tool/t@1.0.0"
    added = [line for line in path.read_text().splitlines() if line not in before.splitlines()]
    assert [line.split(":")[0] for line in added] == ["checksum_sha256", "signature"]
    assert path.read_text().startswith(before)


@pytest.mark.parametrize("again", [False, True])
def test_signing_in_place_keeps_the_line_breaks_of_the_file(
    cli: Cli, write: Write, tool: Make, key: Path, again: bool
) -> None:
    path = write(tool("t"))
    before = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(before)
    for _ in range(2 if again else 1):
        ran = cli("sign", path, "--in-place", "--key", key)
        assert ran.code == 0, ran.err
    after = path.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == after.count(b"\r\n") == before.count(b"\n") + 2


def test_signed_copies_go_below_out_and_leave_the_files_alone(
    cli: Cli, write: Write, tool: Make, flag: Make, key: Path, tmp_path: Path
) -> None:
    source = write(tool("t"), tmp_path / "m" / "tools")
    write(flag("f"), tmp_path / "m" / "flags")
    before = source.read_bytes()
    ran = cli("sign", tmp_path / "m", "--out", tmp_path / "signed", "--key", key)
    assert ran.code == 0, ran.err
    copies = [path for path in (tmp_path / "signed").rglob("*") if path.is_file()]
    assert copies == [tmp_path / "signed" / "tools" / source.name]
    assert source.read_bytes() == before


def test_verify_names_each_failure_and_ends_with_the_gravest(
    cli: Cli, write: Write, tool: Make, flag: Make, key: Path
) -> None:
    good, bad = write(flag("f")), write(flag("g", colour="blue"))
    assert cli("verify", good).code == 0
    assert cli("verify", good, bad).code == 1
    signed = write(tool("t"))
    cli("sign", signed, "--in-place", "--key", key)
    assert cli("verify", signed).code == 0
    signed.write_text(signed.read_text().replace("a tool", "another tool"))
    ran = cli("verify", good, bad, signed, "--json")
    assert ran.code == 6
    assert [each["ok"] for each in ran.json["documents"]] == [True, False, False]
    assert "expected checksum" in ran.json["documents"][2]["problem"]


def test_verify_with_trust_asks_whose_key_it_is(
    cli: Cli, project: Any, write: Write, tool: Make, key: Path
) -> None:
    trust = project.private / "trust.json"
    theirs, ours = write(tool("t")), write(tool("u"))
    cli("sign", theirs, "--in-place", "--key", key)
    cli("sign", ours, "--in-place", "--key", project.private / "keys" / "author.pem")
    assert cli("verify", ours, "--trust", trust).code == 0
    assert cli("verify", theirs, "--trust", trust).code in (1, 6)
    unsigned = write(tool("v"))
    assert cli("verify", unsigned, "--trust", trust).code == 0
    assert cli("verify", unsigned, "--trust", trust, "--signed").code == 6


def test_the_schema_of_a_kind_is_json(cli: Cli) -> None:
    value = json.loads(cli("schema", "flag").out)
    assert value["properties"]["kind"]["const"] == "flag"
    assert cli("schema", "flags").code == 2


@pytest.mark.parametrize("verb", list(verbs()), ids=" ".join)
def test_every_verb_has_help_that_explains_each_option(verb: tuple[str, ...], cli: Cli) -> None:
    ran = cli(*verb, "--help")
    assert ran.code == 0
    context = click.Context(root)
    command: click.Command = root
    for name in verb:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command = found
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert max(option.opts, key=len) in ran.out


def test_help_lists_every_verb_without_importing_one(command: Cli) -> None:
    ran = command("--help")
    listed = {line.split()[0] for line in ran.out.splitlines() if line.startswith("  ")}
    wanted = {name for section in SECTIONS.values() for name in section} | set(SERVICES)
    assert wanted <= listed


def test_a_new_project_keeps_its_secrets_to_its_owner(project: Any) -> None:
    private = project.private
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    secrets = [*private.glob("keys/*.pem"), *private.glob("tokens/*.token")]
    assert len(secrets) == 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def test_a_second_init_is_refused_and_changes_nothing(cli: Cli, project: Any) -> None:
    before = sorted(
        (path, path.stat().st_mtime_ns) for path in (project.private / "keys").iterdir()
    )
    refused = cli("init", project.folder)
    assert (refused.code, "expected no project yet, found one" in refused.err) == (1, True)
    assert cli("init", project.folder, "--if-absent").code == 0
    after = sorted((path, path.stat().st_mtime_ns) for path in (project.private / "keys").iterdir())
    assert after == before


def test_an_init_with_a_wrong_name_leaves_no_project(cli: Cli, tmp_path: Path) -> None:
    ran = cli("init", "here", "-e", "Production")
    assert (ran.code, "expected a name like" in ran.err) == (2, True)
    assert not (tmp_path / "here" / ".control-plane").exists()
