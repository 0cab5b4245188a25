"""``diff``: files beside an environment, or an environment beside another.

The lines are those of the documents as canonical content, written as YAML: ``-`` is what the
environment holds that would be written to, ``+`` what ``apply`` or ``promote`` would make of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment, checked_references
from control_plane.cli.output import print_json, progress
from control_plane.cli.settings import publisher, settings, store_options

if TYPE_CHECKING:
    from control_plane.publish.differences import Comparison, Difference, Holding
    from control_plane.publish.publisher import Publisher

CONTEXT_LINES = 3


@click.command()
@click.argument("references", nargs=-1, callback=checked_references, metavar="[REFERENCE]…")
@click.option(
    "-f", "--file", "files", multiple=True, metavar="PATH", help="File or folder; may be repeated."
)
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="With -f: the environment to compare with.",
)  # fmt: skip
@click.option(
    "--from", "source", metavar="ENV", callback=checked_environment,
    help="The environment whose documents would be promoted.",
)  # fmt: skip
@click.option(
    "--to", "target", metavar="ENV", callback=checked_environment,
    help="With --from: the environment to compare with.",
)  # fmt: skip
@store_options
def diff(
    references: tuple[str, ...],
    files: tuple[str, ...],
    environment: str | None,
    source: str | None,
    target: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Show how files differ from an environment, or one environment from another.

    Either -f PATH -e ENV, or --from ENV --to ENV; REFERENCEs like flag/x narrow it. Checksums and
    signatures are left out. Exit code 1 when anything differs.
    """
    left, right = _sides(files, environment, source, target)
    with publisher(settings(**given), sign=False, waiting=False) as reader, progress(left):
        comparison = _compared(reader, files, source, left, references)
    if as_json:
        print_json(_told(comparison, left, right))
    else:
        for line in _lines(comparison, left, right):
            click.echo(line)
    return 0 if comparison.equal else 1


def _sides(
    files: tuple[str, ...], environment: str | None, source: str | None, target: str | None
) -> tuple[str, str]:
    """The names of the side that would be written to and of the one it would be made like."""
    if files and environment and not (source or target):
        return environment, ", ".join(files)
    if source and target and not (files or environment):
        if source == target:
            raise click.UsageError(f"expected two environments, found {source} twice")
        return target, source
    raise click.UsageError("expected -f PATH with -e ENV, or --from ENV with --to ENV")


def _compared(
    reader: Publisher,
    files: tuple[str, ...],
    source: str | None,
    left: str,
    references: tuple[str, ...],
) -> Comparison:
    from control_plane.publish.differences import compare

    mine = _holdings(reader, left)
    if source is not None:
        theirs = _holdings(reader, source)
    else:
        theirs = _of_files(files)
        # Files say nothing about kills, channels and members; single ones nothing about others.
        whole = any(Path(path).is_dir() for path in files)
        mine = {name: mine[name] for name in mine if name in theirs or (whole and " " not in name)}
        mine = {name: mine[name] for name in mine if not name.startswith("kill/")}
    return compare(_narrowed(mine, references), _narrowed(theirs, references))


def _holdings(reader: Publisher, environment: str) -> dict[str, Holding]:
    from control_plane.publish.differences import of_environment

    heads = reader.heads(environment).values()
    return of_environment(heads, lambda digest: reader.document_at(environment, digest))


def _of_files(files: tuple[str, ...]) -> dict[str, Holding]:
    from control_plane.cli.files import read_documents
    from control_plane.publish.differences import of_documents

    return of_documents(item.document for item in read_documents(files))


def _narrowed(side: dict[str, Holding], references: tuple[str, ...]) -> dict[str, Holding]:
    """What the references name: all of ``agent/a``, or just ``agent/a@1.0.0``."""
    if not references:
        return side
    return {
        name: holding
        for name, holding in side.items()
        if any(name == each or name.startswith((f"{each}@", f"{each} ")) for each in references)
    }


def _lines(comparison: Comparison, left: str, right: str) -> Iterator[str]:
    for difference in comparison.changed:
        yield from _unified(difference, left, right)
    for side, names in ((left, comparison.only_left), (right, comparison.only_right)):
        for name in names:
            yield f"only in {side}: {name}"
    if comparison.equal:
        yield f"{left} and {right} hold the same"


def _unified(difference: Difference, left: str, right: str) -> Iterator[str]:
    return unified_diff(
        _text(difference.left),
        _text(difference.right),
        f"{difference.name} ({left})",
        f"{difference.name} ({right})",
        n=CONTEXT_LINES,
        lineterm="",
    )


def _text(content: dict[str, Any]) -> list[str]:
    """YAML lines in one order of keys for both sides, whatever order an author wrote."""
    from control_plane.cli.written import FIELD_ORDER, dump
    from control_plane.log.canonical import canonical, parse

    ordered = parse(canonical(content), what="document")
    assert isinstance(ordered, dict)
    envelope = {name: ordered[name] for name in FIELD_ORDER if name in ordered}
    return dump(ordered, like=envelope).splitlines()


def _told(comparison: Comparison, left: str, right: str) -> dict[str, Any]:
    return {
        "left": left,
        "right": right,
        "equal": comparison.equal,
        "only_left": list(comparison.only_left),
        "only_right": list(comparison.only_right),
        "changed": [
            {
                "name": difference.name,
                "left": difference.left,
                "right": difference.right,
                "lines": list(_unified(difference, left, right)),
            }
            for difference in comparison.changed
        ],
    }
