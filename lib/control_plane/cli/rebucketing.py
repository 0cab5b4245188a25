"""``flag rebucket-report``: who would be moved by a change, before it is made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from control_plane.cli.output import print_json, print_table
from control_plane.cli.settings import (
    environment_option,
    publisher,
    read_file,
    settings,
    store_options,
)
from control_plane.errors import ManifestInvalid, NotFound

if TYPE_CHECKING:
    from control_plane.feature_flags.rebucketing import Moves

SAMPLE: Final = 100_000
MAX_SAMPLE: Final = 10_000_000


@click.command("rebucket-report")
@click.argument("file", metavar="FILE")
@environment_option
@click.option("--before", metavar="FILE", help="Compare with this file and not with the store.")
@click.option("--by", metavar="ATTRIBUTE", help="What units are; default what the splits go by.")
@click.option("--units", metavar="FILE", help="Real units, one a line.")
@click.option(
    "--sample", metavar="N", type=click.IntRange(1, MAX_SAMPLE), default=SAMPLE, show_default=True,
    help="How many made-up units stand for real ones.",
)  # fmt: skip
@click.option("--context", metavar="JSON", help="Further attributes, the same for every unit.")
@store_options
def rebucket_report(
    file: str,
    environment: str,
    before: str | None,
    by: str | None,
    units: str | None,
    sample: int,
    context: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Say which share of units would move if FILE were applied, and from where to where.

    Segments count as empty here, and flags that others ask for as absent. Nothing is changed.
    """
    from control_plane.cli.evaluating import attributes
    from control_plane.cli.files import read_document
    from control_plane.feature_flags.rebucketing import moves, split_attribute
    from control_plane.feature_flags.rebucketing import sample as made_up
    from control_plane.manifests.environments import merged_flag

    after = _flag(read_document(Path(file)).document, file)
    name = after["name"]
    known = (
        _published(name, environment, given)
        if before is None
        else _flag(read_document(Path(before)).document, before)
    )
    one, other = (merged_flag(each["metadata"], environment) for each in (known, after))
    attribute = by or split_attribute(other) or split_attribute(one) or "targeting_key"
    found = moves(
        name, one, other, _units(units) if units is not None else made_up(sample),
        by=attribute, context=attributes(context) or {}, now=time.time(),
    )  # fmt: skip
    if not found.units:
        raise NotFound(f"{units}: expected one unit a line, found none")
    _report(name, environment, attribute, found, as_json)


def _flag(document: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    if document["kind"] != "flag":
        raise ManifestInvalid(f"{what}: expected a flag, found kind {document['kind']}")
    return document


def _published(name: str, environment: str, given: dict[str, Any]) -> Mapping[str, Any]:
    with publisher(settings(**given), sign=False, waiting=False) as reader:
        return reader.document(environment, f"flag/{name}")


def _units(file: str) -> Iterable[str]:
    data = read_file(Path(file), "a file of units", "write one unit a line")
    lines = data.decode("utf-8", "replace").splitlines()
    return dict.fromkeys(line.strip() for line in lines if line.strip())


def _report(name: str, environment: str, by: str, found: Moves, as_json: bool) -> None:
    rows = sorted(found.pairs.items(), key=lambda item: (item[0][0] == item[0][1], -item[1]))
    if as_json:
        listed = [{"from": one, "to": other, "units": count} for (one, other), count in rows]
        print_json({
            "name": name, "environment": environment, "by": by, "units": found.units,
            "moved": found.moved, "pairs": listed,
        })  # fmt: skip
        return
    share = _percent(found.moved, found.units)
    click.echo(f"flag/{name} ({environment}): {share} of {found.units:,} units by {by} would move")
    print_table(
        ("from", "to", "units", "share"),
        [
            (one or "(default)", other or "(default)", f"{count:,}", _percent(count, found.units))
            for (one, other), count in rows
        ],
    )


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.2f} %"
