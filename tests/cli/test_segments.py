"""Segments from the command line, and who is in them on a real node before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane import ControlPlaneClient
from control_plane.cli.services import start_daemon
from control_plane.publish.segment_edits import shard_of

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]

EVERYBODY = [f"member-{number}" for number in range(1_200)]


@pytest.fixture(scope="module")
def client(project: Any, short_path: Path) -> Iterator[ControlPlaneClient]:
    """A client of a node that follows the project's production."""
    root = short_path / "node"
    with (short_path / "daemon.log").open("wb") as log:
        daemon = start_daemon(
            project, project.store, root, ["production"], say=lambda line: None, stderr=log
        )
        with daemon, ControlPlaneClient(str(root), "production") as made:
            yield made


class Segment:
    """A segment in production, and the flag that is on for its members."""

    def __init__(self, cli: Cli, project: Any, write: Write, client: ControlPlaneClient) -> None:
        self.cli, self.project, self.write, self.client = cli, project, write, client
        self.name = ""

    def apply(self, *options: str, **metadata: Any) -> Any:
        path = self.write({"kind": "segment", "name": self.name, "metadata": metadata})
        arguments = ("apply", "-f", path, "-e", "production", *options)
        return self.cli(*arguments, cwd=self.project.folder)

    def members(self, among: list[str]) -> set[str]:
        """Who of these the node takes for members, once it has everything the store has."""
        verified = self.cli("log", "verify", "-e", "production", "--json", cwd=self.project.folder)
        self.client.wait_for(int(verified.json["generation"]), timeout_seconds=20)
        flag = self.name
        return {each for each in among if self.client.flags.is_enabled(flag, user_id=each)}

    def shards(self, changed_by: int = 0) -> list[str]:
        """The live shards in the store; with a generation only those it wrote."""
        return sorted(
            part
            for part, head in self.heads().items()
            if part and head.live and changed_by in (0, head.generation)
        )

    def heads(self) -> dict[str, Any]:
        """The heads of the segment's keys, by their parts."""
        from control_plane.publish import Publisher

        token = (self.project.private / "tokens" / "submit.token").read_text().strip()
        with Publisher(self.project.store, token=token) as reader:
            heads = reader.heads("production", kind="segment")
        return {key.part: head for key, head in heads.items() if key.name == self.name}

    def edit(self, action: str, *arguments: Any) -> Any:
        """Run ``segment add`` or ``remove``."""
        given = ("segment", action, self.name, *arguments, "-e", "production")
        return self.cli(*given, cwd=self.project.folder)


@pytest.fixture
def segment(
    cli: Cli, project: Any, write: Write, flag: Make, client: ControlPlaneClient, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Segment:  # fmt: skip
    """A segment of 1,200 in eight shards."""
    made = Segment(cli, project, write, client)
    made.name = request.node.name.removeprefix("test_")
    rule = {"name": "members", "when": {"$segment": made.name}, "serve": "on"}
    assert made.apply(members=["first"]).code == 0
    path = write(flag(made.name, rules=[rule]))
    assert cli("apply", "-f", path, "-e", "production", cwd=project.folder).code == 0
    members = tmp_path / "members.txt"
    members.write_text("\n".join(EVERYBODY))
    add = ("segment", "add", made.name, "--from", members, "-e", "production")
    ran = cli(*add, cwd=project.folder)
    assert f"segment/{made.name}, 1200 added, 1201 members now; generation" in ran.out
    return made


def test_another_number_of_shards_moves_every_member_in_one_set(segment: Segment) -> None:
    asked = [*EVERYBODY, "first", "stranger"]
    assert segment.members(asked) == {*EVERYBODY, "first"}
    for bits in (5, 2):
        ran = segment.apply("--take-over", "--json", shards=bits)
        assert ran.code == 0, ran.err
        assert len(ran.json["generations"]) == 1
        assert len(segment.shards()) == 1 << bits
        assert segment.members(asked) == {*EVERYBODY, "first"}
    again = segment.apply("--json", shards=2)
    assert again.json["changed"] == []


def test_more_shards_than_a_set_has_changes_are_still_one_set(segment: Segment) -> None:
    ran = segment.apply("--take-over", "--json", shards=9)
    assert ran.code == 0, ran.err
    assert (len(ran.json["generations"]), len(ran.json["changed"])) == (1, 513)
    assert segment.members([*EVERYBODY, "stranger"]) == set(EVERYBODY)


def test_back_to_a_list_leaves_no_shard(segment: Segment) -> None:
    ran = segment.apply("--take-over", members=["first", "second"])
    assert (ran.code, f"changed 8 shards of segment/{segment.name}" in ran.out) == (0, True)
    assert segment.shards() == []
    assert segment.members([*EVERYBODY, "first", "second"]) == {"first", "second"}
    assert segment.apply(shards=1).code == 0
    assert segment.shards() == ["s/0000", "s/0001"]
    assert segment.members([*EVERYBODY, "first", "second"]) == {"first", "second"}


def test_a_revert_over_another_number_of_shards_brings_all_of_them(segment: Segment) -> None:
    before = segment.apply("--json", "--take-over", shards=4).json["generations"][-1]
    segment.apply("--take-over", members=["second"])
    assert segment.members([*EVERYBODY, "second"]) == {"second"}
    revert = ("revert", "--to", before, "-e", "production")
    ran = segment.cli(*revert, cwd=segment.project.folder)
    assert ran.code == 0, ran.err
    assert len(segment.shards()) == 16
    assert segment.members([*EVERYBODY, "second"]) == set(EVERYBODY)


def test_too_few_shards_are_refused_and_nothing_changes(segment: Segment) -> None:
    ran = segment.apply("--take-over", shards=0)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "expected at most 500 members a shard, found 1201 in 0000 of 1; raise shards" in ran.err
    assert len(segment.shards()) == 8
    assert segment.members(EVERYBODY) == set(EVERYBODY)


def test_a_dry_run_judges_all_shards_and_writes_none(segment: Segment) -> None:
    ran = segment.apply("--take-over", "--dry-run", "--json", shards=4)
    assert (ran.code, len(ran.json["changed"]), ran.json["generations"]) == (0, 17, [])
    assert len(segment.shards()) == 8


def test_what_came_and_what_there_is_are_counted(segment: Segment) -> None:
    def edit(action: str, *members: str) -> dict[str, Any]:
        arguments = ("segment", action, segment.name, *members, "-e", "production", "--json")
        ran = segment.cli(*arguments, cwd=segment.project.folder)
        return {name: ran.json[name] for name in ("changed", "members")}

    assert edit("add", "first", "a", "b", "b") == {"changed": 2, "members": 1_203}
    assert edit("remove", "a", "nobody") == {"changed": 1, "members": 1_202}
    again = ("segment", "remove", segment.name, "a", "-e", "production")
    ran = segment.cli(*again, cwd=segment.project.folder)
    assert (
        ran.out == f"production: segment/{segment.name}, 0 removed, 1202 members now; unchanged\n"
    )


def test_members_that_come_and_go_change_their_shards_and_nothing_else(segment: Segment) -> None:
    for action, members in (("add", ["a", "b", "c"]), ("remove", ["member-7", "a"])):
        before = segment.heads()
        ran = segment.edit(action, *members, "first" if action == "add" else "nobody", "--json")
        after, generation = segment.heads(), ran.json["generation"]
        written = {part for part, head in after.items() if head.generation == generation}
        assert written == {f"s/{shard_of(member, 3)}" for member in members}
        for part, head in after.items():
            assert (head.digest == before[part].digest) is (part not in written)


def test_rules_and_exclusions_are_applied_over_shards_that_stay(segment: Segment) -> None:
    before = {part: head.digest for part, head in segment.heads().items() if part}
    rest = {"exclude": ["member-1", "outsider"], "rules": [{"name": "p", "when": {"plan": "pro"}}]}
    ran = segment.apply("--take-over", "--json", shards=3, **rest)
    assert (ran.code, ran.json["changed"]) == (0, [f"segment/{segment.name}"])
    assert {part: head.digest for part, head in segment.heads().items() if part} == before
    assert segment.members([*EVERYBODY, "outsider"]) == set(EVERYBODY) - {"member-1"}
    asked = segment.client.flags.is_enabled
    assert asked(segment.name, "stranger", context={"plan": "pro"})
    assert not asked(segment.name, "outsider", context={"plan": "pro"})
    # A word about members leaves the rest as it is, and who is excluded stays out.
    assert segment.edit("add", "member-1", "late").code == 0
    assert segment.members(["member-1", "late"]) == {"late"}
    assert asked(segment.name, context={"plan": "pro"})


def test_rules_alone_and_then_members_beside_them(segment: Segment) -> None:
    rules = [{"name": "p", "when": {"plan": "pro"}}]
    assert segment.apply("--take-over", rules=rules).code == 0
    assert segment.shards() == []
    assert segment.members(EVERYBODY[:50]) == set()
    asked = segment.client.flags.is_enabled
    assert asked(segment.name, context={"plan": "pro"})
    assert segment.edit("add", "member-3").code == 0
    assert segment.members(EVERYBODY[:50]) == {"member-3"}
    assert asked(segment.name, "member-4", context={"plan": "pro"})


def test_what_is_pulled_has_its_rules_and_shards_and_differs_in_nothing(
    segment: Segment, tmp_path: Path
) -> None:
    rest = {"exclude": ["member-1"], "rules": [{"name": "p", "when": {"plan": "pro"}}]}
    assert segment.apply("--take-over", shards=4, **rest).code == 0
    folder = tmp_path / "pulled"
    run = segment.cli("pull", folder, "-e", "production", cwd=segment.project.folder)
    assert run.code == 0, run.err
    path = folder / "segments" / f"{segment.name}.yaml"
    assert yaml.safe_load(path.read_text())["metadata"] == {"shards": 4, **rest}
    ran = segment.cli("diff", "-f", path, "-e", "production", cwd=segment.project.folder)
    assert ran.code == 0, ran.out
    again = segment.cli(
        "apply", "-f", path, "-e", "production", "--json", cwd=segment.project.folder
    )
    assert again.json["changed"] == []


LONG = "x" * 513
BAD_FILES = [
    (b"a\nb\n\n" + LONG.encode(), "line 4: expected a member of 1 to 512 bytes, found 513"),
    (b"a\nb\tc\n", "line 2: expected a member without control characters, found U+0009 at ch"),
    (b"a\rb\n", "line 1: expected a member without control characters, found U+000D at"),
    ("a\nb\u0085c".encode(), "line 2: expected a member without control characters, found U+0085"),
    (b"a\0\n", "line 1: expected a member without control characters, found U+0000"),
    (b"ok\n\xff\xfe\n", "line 2: expected UTF-8, found byte 0xff at offset 0"),
    (b"y" * 3_000_000, "line 1: expected a member of 1 to 512 bytes, found"),
]


@pytest.mark.parametrize(("data", "told"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_file_with_what_is_no_member_is_refused_by_its_line(
    cli: Cli, project: Any, tmp_path: Path, data: bytes, told: str
) -> None:
    path = tmp_path / "members.txt"
    path.write_bytes(data)
    ran = cli("segment", "add", "any", "--from", path, "-e", "production", cwd=project.folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert f"{path} {told}" in ran.err


def test_a_member_named_is_held_to_the_same(cli: Cli, project: Any) -> None:
    ran = cli("segment", "add", "any", "good", "a\nb", "-e", "production", cwd=project.folder)
    assert (ran.code, ran.out) == (1, "")
    assert "member 2: expected a member without control characters, found U+000A" in ran.err


def test_a_file_of_blank_lines_and_no_file_are_told(cli: Cli, project: Any, tmp_path: Path) -> None:
    path = tmp_path / "members.txt"
    path.write_bytes(b"\n  \r\n\n")
    ran = cli("segment", "add", "any", "--from", path, "-e", "production", cwd=project.folder)
    assert (ran.code, "expected members or --from FILE, found neither" in ran.err) == (2, True)
    path.unlink()
    ran = cli("segment", "add", "any", "--from", path, "-e", "production", cwd=project.folder)
    assert (ran.code, "expected a file of members, found none at" in ran.err) == (1, True)
