"""``import``: other systems' definitions as manifests.

Each system has a module ``control_plane.manifests.<system>`` that makes manifests of a file; what
becomes of them is the same for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from control_plane.cli.output import print_json
from control_plane.errors import ManifestInvalid
from control_plane.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.manifests.imported import Imported, Problem
    from control_plane.manifests.imported import Path as Place

    Convert = Callable[[Any], Imported]

    class Source(Protocol):
        """A file that was read, and where in it something stands."""

        def place(self, path: Place) -> str: ...


BUCKETINGS = ("flagd-v1", "flagd-v2", "flagd-v3")

_FILE = click.argument("file", metavar="FILE")
_RENAME = click.option(
    "--rename", is_flag=True, help="Make names of keys that are none, such as newUI."
)
_OPTIONS = (
    click.option(
        "--out", metavar="DIR", default="manifests", show_default=True,
        help="The folder; a flag goes to DIR/flags/NAME.yaml, a segment to DIR/segments, a tool"
        " to DIR/tools/NAME@VERSION.yaml.",
    ),
    click.option("--partial", is_flag=True, help="Write the rest though some are refused."),
    click.option("--replace", is_flag=True, help="Write over files that hold something else."),
    click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.'),
)  # fmt: skip
_LISTS = click.option(
    "--list", "lists", metavar="ATTRIBUTE", multiple=True,
    help="An attribute that holds lists, such as groups; others are taken for single values.",
)  # fmt: skip


def _importer(command: Any) -> Any:
    """The argument and options that every import of flags has."""
    return _importer_of_tools(_RENAME(command))


def _importer_of_tools(command: Any) -> Any:
    """The argument and options of an import that always maps names, and keeps them."""
    for option in (*reversed(_OPTIONS), _FILE):
        command = option(command)
    return command


@click.group("import")
def import_() -> None:
    """Make manifests of another system's definitions.

    Each flag or tool that is refused is one line; then nothing is written, unless --partial says
    so, and the exit code is 1. A flag that is written though it answers somebody otherwise than
    before is one line, too.
    """


@import_.command()
@_importer
@click.option(
    "--bucketing", type=click.Choice(BUCKETINGS), default=BUCKETINGS[-1], show_default=True,
    help="How the flagd in use splits; another would move units.",
)  # fmt: skip
def flagd(file: str, bucketing: str, rename: bool, **how: Any) -> int:
    """Write one manifest for each flag of FILE, a definition of flagd's in JSON or YAML."""
    from control_plane.manifests.flagd import import_flagd

    return _import(
        file, lambda source: import_flagd(source, bucketing=bucketing, rename=rename), **how
    )


@import_.command()
@_importer
@_LISTS
def growthbook(file: str, lists: tuple[str, ...], rename: bool, **how: Any) -> int:
    """Write one manifest for each feature of FILE, what GrowthBook's SDK endpoint answers."""
    from control_plane.manifests.growthbook import import_growthbook

    return _import(
        file, lambda source: import_growthbook(source, lists=lists, rename=rename), **how
    )


@import_.command()
@_importer
@_LISTS
def launchdarkly(file: str, lists: tuple[str, ...], rename: bool, **how: Any) -> int:
    """Write one manifest for each flag and segment of FILE, a flag-data file of LaunchDarkly's."""
    from control_plane.manifests.launchdarkly import import_launchdarkly

    return _import(
        file, lambda source: import_launchdarkly(source, lists=lists, rename=rename), **how
    )


@import_.command()
@_importer
def unleash(file: str, rename: bool, **how: Any) -> int:
    """Write the manifests of each feature of FILE, what Unleash's API for clients answers.

    A feature with variants has two: NAME, and NAME.variant for which one is served.
    """
    from control_plane.manifests.unleash import import_unleash

    return _import(file, lambda source: import_unleash(source, rename=rename), **how)


@import_.command("mcp-registry")
@_importer_of_tools
def mcp_registry(file: str, **how: Any) -> int:
    """Write one tool for each server of FILE, a list of MCP servers or a registry's answer.

    Such a tool is listed and pinned; it has no input schema and cannot be bound.
    """
    from control_plane.manifests.mcp_registry import import_mcp_registry
    from control_plane.manifests.rows import load_rows

    source = load_rows(file, under=("servers",))
    return _import_from(source, import_mcp_registry, "server", **how)


@import_.command("openai-tools")
@_importer_of_tools
def openai_tools(file: str, **how: Any) -> int:
    """Write the tools of FILE: functions as OpenAI's APIs take them, a list or JSON lines.

    The same name with other content is the next version.
    """
    from control_plane.manifests.openai_tools import import_openai_tools
    from control_plane.manifests.rows import load_rows

    return _import_from(load_rows(file, under=("tools",)), import_openai_tools, "tool", **how)


def _import(file: str, convert: Convert, **how: Any) -> int:
    from control_plane.manifests.loader import load_file

    return _import_from(load_file(file), convert, "flag", **how)


def _import_from(
    source: Source,
    convert: Convert,
    thing: str,
    *,
    out: str,
    partial: bool,
    replace: bool,
    as_json: bool,
) -> int:
    try:
        found = convert(source)
    except ManifestInvalid as error:
        raise ManifestInvalid(f"{source.place(error.path)}: {error}", error.path) from error
    problems, changes = _placed(source, found.problems), _placed(source, found.changes)
    texts = {} if problems and not partial else _texts(found, Path(out))
    written = _written(texts, replace)
    if as_json:
        told = {"written": written, "problems": problems, "changes": changes}
        print_json({"ok": not problems, **told, "notes": list(found.notes)})
        return int(bool(problems))
    for problem in problems:
        click.echo(f"control-plane: {shown(problem)}", err=True)
    for change in changes:
        click.echo(f"changed: {shown(change)}")
    for note in found.notes:
        click.echo(f"note: {shown(note)}")
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(
        f"{_counted(len(written), 'file')} written, {len(texts) - len(written)} as they were,"
        f" {_counted(len(problems), thing)} refused"
        + (f", {_counted(len(changes), 'difference')}" if changes else "")
        + (f"; nothing is written while a {thing} is refused" if problems and not partial else "")
    )
    return int(bool(problems))


def _placed(source: Source, problems: tuple[Problem, ...]) -> list[str]:
    return [f"{source.place(problem.path)}: {problem.text}" for problem in problems]


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _texts(found: Imported, folder: Path) -> dict[Path, str]:
    from control_plane.cli.written import dump

    return {folder / _file(document): dump(document) for document in found.documents}


def _file(document: dict[str, Any]) -> str:
    """Where a document goes; of a tool there may be several versions."""
    version = f"@{document['version']}" if document["kind"] == "tool" else ""
    return f"{document['kind']}s/{document['name']}{version}.yaml"


def _written(texts: dict[Path, str], replace: bool) -> list[str]:
    """Write the files that differ; the names of those.

    Raises:
        ManifestInvalid: a file holds something else and is not to be replaced; none is written.
    """
    changed = {path: text for path, text in texts.items() if _content(path) != text}
    for path in changed:
        if path.exists() and not replace:
            raise ManifestInvalid(
                f"{path}: expected no other document, found one; pass --replace to write over it"
            )
    for path, text in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [str(path) for path in changed]


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
