"""``segment add|remove``.

What is said at the end is counted: how many came or went, and how many are in it now. A segment in
so many shards that counting would take longer than the change is not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from control_plane.cli.arguments import name_argument, reason_option
from control_plane.cli.output import print_json, progress
from control_plane.cli.settings import (
    environment_option,
    key_options,
    publisher,
    read_file,
    settings,
    store_options,
)
from control_plane.cli.standing import Standing
from control_plane.errors import InputInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.cli.output import Progress
    from control_plane.log.statements import Key
    from control_plane.publish.publisher import Publisher

MAX_COUNTED_SHARDS: Final = 1_024
"""Shards read only to tell how many members there are: a second or two of requests."""

FROM = click.option(
    "--from", "source", metavar="FILE", help="File with one member a line; - reads standard input."
)


@click.group()
def segment() -> None:
    """Add or remove members of a segment."""


@segment.command()
@name_argument("segment")
@click.argument("members", nargs=-1, metavar="MEMBER…")
@FROM
@environment_option
@reason_option
@key_options
@store_options
def add(name: str, members: tuple[str, ...], source: str | None, **given: Any) -> None:
    """Add members to a segment; those that are in it already stay."""
    _edit("add", name, _members(members, source), given)


@segment.command()
@name_argument("segment")
@click.argument("members", nargs=-1, metavar="MEMBER…")
@FROM
@environment_option
@reason_option
@key_options
@store_options
def remove(name: str, members: tuple[str, ...], source: str | None, **given: Any) -> None:
    """Remove members from a segment; those that are not in it are passed over."""
    _edit("remove", name, _members(members, source), given)


def _members(named: tuple[str, ...], source: str | None) -> list[str]:
    members = list(named)
    if source is not None:
        data = sys.stdin.buffer.read() if source == "-" else _read_source(source)
        try:
            lines = data.decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputInvalid(f"{source}: expected UTF-8, found other bytes") from error
        members += [line.strip() for line in lines if line.strip()]
    if not members:
        raise click.UsageError("expected members or --from FILE, found neither")
    return members


def _read_source(source: str) -> bytes:
    return read_file(Path(source), "a file of members", "write one member a line")


def _edit(action: str, name: str, members: list[str], given: dict[str, Any]) -> None:
    from control_plane.publish.segment_edits import with_members

    environment, reason, as_json = (given.pop(key) for key in ("environment", "reason", "as_json"))
    found = settings(**given)
    with (
        publisher(found, waiting=False) as author,
        progress(f"{environment}: segment/{name}") as moved,
    ):
        standing = Standing.read(found, author, environment, "segment", moved)
        document = standing.document("segment", name)
        shards = Shards(author, environment, name, standing.digests)
        edit = with_members(
            document,
            shards.read,
            add=members if action == "add" else (),
            remove=members if action == "remove" else (),
        )
        proposal = author.change(
            environment, reason or f"segment {action} {name}", verb=f"segment-{action}"
        )
        if edit.document is not None:
            proposal.put(edit.document)
        for shard, held in edit.shards.items():
            proposal.put_shard(name, shard, held)
        comparison = author.compare(proposal)
        standing.require(comparison.changes)
        submissions = author.submit(proposal, comparison, atomic=True, progress=moved)
        total = shards.total(edit.document or document, edit.shards, moved)
    generation = submissions[-1].generation if submissions else None
    if as_json:
        print_json(
            {
                "environment": environment,
                "changed": edit.changed,
                "members": total,
                "generation": generation,
            }
        )
        return
    done = "added" if action == "add" else "removed"
    now = "" if total is None else f", {total} {'member' if total == 1 else 'members'} now"
    outcome = "unchanged" if generation is None else f"generation {generation}"
    click.echo(f"{environment}: segment/{name}, {edit.changed} {done}{now}; {outcome}")


class Shards:
    """The shards of one segment, each read once."""

    def __init__(
        self, author: Publisher, environment: str, name: str, standing: Mapping[Key, str]
    ) -> None:
        self._author = author
        self._environment = environment
        self._digests = {
            key.part[2:]: digest
            for key, digest in standing.items()
            if key.name == name and key.part
        }
        self._read: dict[str, list[str]] = {}

    def read(self, shard: str) -> list[str]:
        """The members in a shard; none in one that does not exist."""
        from control_plane.publish.resharding import read_shard

        if shard not in self._digests:
            return []
        if shard not in self._read:
            digest = self._digests[shard]
            self._read[shard] = read_shard(self._author.store, self._environment, digest)
        return self._read[shard]

    def total(
        self, document: Mapping[str, Any], written: Mapping[str, list[str]], moved: Progress
    ) -> int | None:
        """How many members there are after an edit; None where counting takes too many requests."""
        from control_plane.publish.segment_edits import shard_names

        bits = document["metadata"].get("shards")
        if bits is None:
            return len(document["metadata"].get("members", ()))
        names = shard_names(bits)
        if len(set(names) - set(written) - set(self._read)) > MAX_COUNTED_SHARDS:
            return None
        total = 0
        for done, name in enumerate(names):
            total += len(written[name] if name in written else self.read(name))
            moved(done + 1, len(names))
        return total
