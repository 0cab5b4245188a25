"""Segments from the command line, and who is in them on a real node before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.cli.services import start_daemon

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

    def shards(self) -> list[str]:
        """The live shards in the store."""
        from control_plane.publish import Publisher

        token = (self.project.private / "tokens" / "submit.token").read_text().strip()
        with Publisher(self.project.store, token=token) as reader:
            heads = reader.heads("production", kind="segment")
        return sorted(
            key.part
            for key, head in heads.items()
            if key.name == self.name and key.part and head.live
        )


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
