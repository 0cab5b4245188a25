"""``segment add|remove``.

What is said at the end is counted: how many came or went, and how many are in it now. A segment in
so many shards that counting would take longer than the change is not counted.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from control_plane.cli.arguments import name_argument, reason_option
from control_plane.cli.output import print_json, progress
from control_plane.cli.settings import (
    environment_option,
    key_options,
    open_file,
    publisher,
    settings,
    store_options,
)
from control_plane.cli.standing import Standing
from control_plane.errors import InputInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from control_plane.cli.output import Progress
    from control_plane.log.statements import Key
    from control_plane.publish.publisher import Publisher

BLANKS: Final = " \t\r\n"
MAX_LINE_BYTES: Final = 64 << 10

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


def _members(named: tuple[str, ...], source: str | None) -> Iterator[str]:
    """The members named and those of the file, one after another; how many does not matter."""
    from control_plane.manifests.members import check_member

    count = 0
    for count, member in enumerate(named, 1):
        yield check_member(member, f"member {count}")
    if source is not None:
        with _opened(source) as lines:
            for number, line in _lines(lines, source):
                count += 1
                yield check_member(line, f"{source} line {number}")
    if not count:
        raise click.UsageError("expected members or --from FILE, found neither")


def _lines(file: BinaryIO, source: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, by number, without the blanks around them."""
    number = 0
    # A line that does not end is not read to its end.
    while data := file.readline(MAX_LINE_BYTES):
        number += 1
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            if len(data) == MAX_LINE_BYTES:
                line = data.decode("utf-8", "replace")
            else:
                raise InputInvalid(
                    f"{source} line {number}: expected UTF-8, found byte"
                    f" 0x{data[error.start]:02x} at offset {error.start}"
                ) from error
        if line := line.strip(BLANKS):
            yield number, line


def _opened(source: str) -> AbstractContextManager[BinaryIO]:
    if source == "-":
        return nullcontext(sys.stdin.buffer)
    return open_file(Path(source), "a file of members", "write one member a line")


def _edit(action: str, name: str, members: Iterator[str], given: dict[str, Any]) -> None:
    from control_plane.publish.segment_edits import noted, with_noted

    environment, reason, as_json = (given.pop(key) for key in ("environment", "reason", "as_json"))
    found = settings(**given)
    with ExitStack() as stack:
        moved = stack.enter_context(progress(f"{environment}: segment/{name}"))
        # Before anything is asked of the store: the file may be out of form.
        edits = noted(add=members) if action == "add" else noted(remove=members)
        author = stack.enter_context(publisher(found, waiting=False))
        standing = Standing.read(found, author, environment, "segment", moved)
        document = standing.document("segment", name)
        shards = Shards(author, environment, name, standing.digests)
        edit = with_noted(document, shards.read, edits, moved)
        proposal = author.change(
            environment, reason or f"segment {action} {name}", verb=f"segment-{action}"
        )
        if edit.document is not None:
            proposal.put(edit.document)
        proposal.put_shards(name, edit.shards)
        comparison = author.compare(proposal)
        standing.require(comparison.changes)
        submissions = author.submit(proposal, comparison, atomic=True, progress=moved)
        total = shards.total(edit.document or document, edit.shards.sizes, moved)
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
    """The shards of one segment as they stand; how many members were in those that were read."""

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
        self._sizes: dict[str, int] = {}

    def read(self, shard: str) -> list[str]:
        """The members in a shard; none in one that does not exist."""
        from control_plane.publish.resharding import read_shard

        if shard not in self._digests:
            return []
        members = read_shard(self._author.store, self._environment, self._digests[shard])
        self._sizes[shard] = len(members)
        return members

    def total(
        self, document: Mapping[str, Any], written: Mapping[str, int], moved: Progress
    ) -> int | None:
        """How many members there are after an edit; None where counting takes too many requests.

        ``written`` says how many are in the shards that the edit wrote.
        """
        from control_plane.publish.segment_edits import shard_names

        bits = document["metadata"].get("shards")
        if bits is None:
            return len(document["metadata"].get("members", ()))
        names = shard_names(bits)
        known = self._sizes | dict(written)
        if len(set(names) - set(known)) > MAX_COUNTED_SHARDS:
            return None
        total = 0
        for done, name in enumerate(names):
            total += known[name] if name in known else len(self.read(name))
            moved(done + 1, len(names))
        return total
