"""``lint``: advice about flags and segments that are allowed and probably not meant."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json
from control_plane.errors import SyntaxInvalid

if TYPE_CHECKING:
    from control_plane.cli.files import DocumentFile
    from control_plane.manifests.linting import Advice, Known
    from control_plane.publish.publisher import Publisher

CONTEXT: Final = "context.schema.json"
"""What the context's schema is called; it lies in a folder ``schemas`` beside the documents."""


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="Look at flags as this environment sees them; default each they name.",
)  # fmt: skip
@click.option(
    "--context", metavar="FILE",
    help=f"JSON Schema of the evaluation context; default schemas/{CONTEXT} in a PATH.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def lint(paths: Sequence[str], environment: str | None, context: str | None, as_json: bool) -> int:
    """Look at the documents in PATH (manifests/) for what is allowed and probably not meant.

    Rules that are never reached, weights that do not divide, flags, segments and attributes with
    another spelling, flags that ask each other in a ring. Flags and segments are known when they
    are among the documents. Exit code 1 when there is advice.
    """
    from control_plane.cli.files import read_documents

    named = paths or ("manifests",)
    files = read_documents(named)
    schema = Path(context) if context is not None else context_file(named)
    known = known_of((item.document for item in files), schema)
    advice = [each for item in files for each in advised(item, known, environment)]
    ring = ring_among((item.document for item in files), environment)
    if as_json:
        listed = [
            {"document": each.reference, "place": each.place, "advice": each.sentence}
            for each in advice
        ]
        print_json({"advice": listed, "ring": list(ring), "documents": len(files)})
        return 1 if advice or ring else 0
    for each in advice:
        click.echo(str(each))
    if ring:
        click.echo(f"flag/{ring[0]}: expected flags without a ring, found {' > '.join(ring)}")
    count = len(advice) + bool(ring)
    click.echo(f"{len(files)} documents, {count or 'no'} advice")
    return 1 if count else 0


def context_file(paths: Iterable[str | Path]) -> Path | None:
    """The context's schema beside the documents; None when there is none."""
    found = (Path(path) / "schemas" / CONTEXT for path in paths)
    return next((path for path in found if path.is_file()), None)


def known_of(documents: Iterable[Mapping[str, Any]], context: Path | None) -> Known:
    """What documents may ask for, by the documents themselves."""
    from control_plane.manifests.environments import environments_of, merged_flag
    from control_plane.manifests.linting import Known

    flags: dict[str, list[str] | None] = {}
    segments = []
    for document in documents:
        if document["kind"] == "flag":
            # Those that an environment adds, too: the flag is asked for in that one.
            metadata = document["metadata"]
            merged = [merged_flag(metadata, each) for each in [None, *environments_of(document)]]
            names = (name for each in merged for name in each["variants"])
            flags[document["name"]] = list(dict.fromkeys(names))
        elif document["kind"] == "segment":
            segments.append(document["name"])
    return Known(time.time(), flags, segments, None if context is None else _schema(context))


def advised(item: DocumentFile, known: Known, environment: str | None) -> list[Advice]:
    """Advice about one file's document."""
    from control_plane.manifests.linting import lint

    return lint(item.document, known, environment)


def advise(
    author: Publisher, environment: str, files: Sequence[DocumentFile], paths: Iterable[str | Path]
) -> list[Advice]:
    """Advice about documents that go into an environment, which may hold what they ask for."""
    from control_plane.log.statements import Key
    from control_plane.manifests.environments import merged_flag
    from control_plane.manifests.linting import asked_flags, asked_segments, flags_of_version
    from control_plane.names import VERSIONED_KINDS

    given = known_of((item.document for item in files), context_file(paths))
    flags, segments = dict(given.flags), set(given.segments)
    asked: set[Key] = set()
    for item in files:
        if item.document["kind"] == "flag":
            merged = merged_flag(item.document["metadata"], environment)
            asked |= {Key("flag", name) for name in asked_flags(merged) if name not in flags}
            asked |= {Key("segment", name) for name in asked_segments(merged) - segments}
        elif item.document["kind"] in VERSIONED_KINDS:
            named = flags_of_version(item.document["metadata"]).values()
            asked |= {Key("flag", name) for name in named if name not in flags}
    if asked:
        for key, head in author.heads(environment, sorted(asked)).items():
            if head.live and key.kind == "flag":
                flags[key.name] = None
            elif head.live:
                segments.add(key.name)
    known = replace(given, flags=flags, segments=segments)
    return [each for item in files for each in advised(item, known, environment)]


def ring_among(documents: Iterable[Mapping[str, Any]], environment: str | None) -> tuple[str, ...]:
    """Flags that ask each other round in a ring, as one environment sees them."""
    from control_plane.manifests.environments import environments_of, merged_flag
    from control_plane.manifests.linting import asked_flags, rings

    flags = {each["name"]: each for each in documents if each["kind"] == "flag"}
    seen: dict[str | None, None] = {environment: None}
    if environment is None:
        seen |= {name: None for each in flags.values() for name in environments_of(each)}
    for each in seen:
        asked = {
            name: list(asked_flags(merged_flag(document["metadata"], each)))
            for name, document in flags.items()
        }
        ring = rings(sorted(asked), lambda name, asked=asked: asked.get(name, ()))  # type: ignore[misc]
        if ring:
            return ring
    return ()


def _schema(path: Path) -> Mapping[str, Any]:
    from control_plane.cli.settings import read_file
    from control_plane.log.canonical import parse

    cure = "name the context's schema with --context FILE"
    found = parse(read_file(path, "a JSON Schema", cure), what=str(path))
    if not isinstance(found, dict):
        raise SyntaxInvalid(f"{path}: expected a JSON Schema as one object, found another value")
    return found
