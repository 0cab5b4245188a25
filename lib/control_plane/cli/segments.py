"""``segment add|remove``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from control_plane.errors import InputInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.publish.publisher import Publisher

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
    with publisher(settings(**given)) as author:
        document = author.document(environment, f"segment/{name}")
        shards = _shards(author, environment, name)
        edit = with_members(
            document,
            lambda shard: _read_shard(author, environment, shards.get(shard)),
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
        for shard in edit.dropped:
            if shard in shards:
                proposal.delete(f"segment/{name}", shard=shard)
        with progress(f"{environment}: shards") as moved:
            submissions = author.submit(proposal, atomic=True, progress=moved)
    generation = submissions[-1].generation if submissions else None
    if as_json:
        print_json({"environment": environment, "changed": edit.changed, "generation": generation})
    elif generation is None:
        click.echo(f"{environment}: segment/{name} unchanged")
    else:
        click.echo(
            f"{environment}: segment/{name}, {edit.changed} members; generation {generation}"
        )


def _shards(author: Publisher, environment: str, name: str) -> Mapping[str, str]:
    """Digest of each live shard."""
    return {
        key.part[2:]: head.digest
        for key, head in author.heads(environment, kind="segment").items()
        if key.name == name and key.part and head.live
    }


def _read_shard(author: Publisher, environment: str, digest: str | None) -> list[str]:
    from control_plane.log.canonical import parse

    if digest is None:
        return []
    value = parse(author.store.blob(environment, digest), what=digest)
    if not isinstance(value, list):
        raise InputInvalid(f"{digest}: expected a list of members, found other JSON")
    return [str(member) for member in value]
