"""``config validate``: what is wrong with files of configuration, without a store.

Without ``--all`` the files may be a part: what only other documents can tell is left open, as
``apply`` leaves it, and ten problems are listed. With ``--all`` they are the whole configuration:
every reference must lead somewhere among them, and every problem is listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json
from control_plane.errors import InputInvalid, ManifestInvalid
from control_plane.names import MANIFEST_KINDS

if TYPE_CHECKING:
    from control_plane.manifests.loader import Document
    from control_plane.publish.preflight import Spaces

MAX_LISTED: Final = 10


@dataclass(frozen=True, slots=True)
class Wrong:
    """One problem: the line that is printed, and its parts where they are known."""

    line: str
    place: str = ""
    document: str = ""
    path: tuple[str | int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The parts that are known, and the line."""
        told = {"place": self.place, "document": self.document, "path": list(self.path)}
        return {name: value for name, value in told.items() if value} | {"problem": self.line}


def _checked_environments(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(str(checked_environment(context, parameter, each)) for each in value)


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option(
    "-e", "--environment", "--env", "environments", multiple=True, metavar="ENV",
    callback=_checked_environments,
    help="An environment to judge besides those the files name; may be repeated.",
)  # fmt: skip
@click.option("--all", "whole", is_flag=True, help="The files are all there is; list everything.")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def validate(
    paths: tuple[str, ...], environments: tuple[str, ...], whole: bool, as_json: bool
) -> int:
    """Check the configuration in PATH (manifests/): every environment and tenant, merged.

    Needs no store. Each problem names file, line, document, environment, tenant, what was expected,
    what was found and where. With --all the files are the whole configuration: a reference that
    leads out of them is a problem, and all problems are listed. Exit code 1 when there is one.
    """
    documents, wrong = _read(paths or ("manifests",))
    judged = _environments(documents, environments)
    seen = {each.line for each in wrong}
    for found in _merged_problems(documents, judged, whole):
        if found.line not in seen:
            seen.add(found.line)
            wrong.append(found)
    tenants = _tenants(documents)
    if as_json:
        told = {"ok": not wrong, "documents": len(documents), "tenants": tenants}
        problems = [each.to_json() for each in wrong]
        print_json(told | {"environments": [each for each in judged if each], "problems": problems})
        return 1 if wrong else 0
    for found in wrong if whole else wrong[:MAX_LISTED]:
        click.echo(found.line)
    if not whole and len(wrong) > MAX_LISTED:
        click.echo(f"and {len(wrong) - MAX_LISTED:,} more; pass --all to see them")
    names = ", ".join(each for each in judged if each) or "no environment named"
    click.echo(
        f"{len(documents):,} documents, {tenants:,} tenants, {names}: {len(wrong) or 'no'} problems"
    )
    return 1 if wrong else 0


def _read(paths: Iterable[str]) -> tuple[list[Document], list[Wrong]]:
    """The configuration documents in form, and what is wrong with the other files."""
    from control_plane.cli.files import find_files
    from control_plane.manifests.loader import load_file
    from control_plane.manifests.validation import validate_document

    documents: dict[str, Document] = {}
    wrong = []
    for path in find_files(paths):
        try:
            document = load_file(path)
            kind = document.value.get("kind")
            if kind != "config" and isinstance(kind, str) and kind in MANIFEST_KINDS:
                continue
            validate_document(document)
        except ManifestInvalid as error:
            cause = error.__cause__
            if not (isinstance(cause, ManifestInvalid) and cause.document):
                wrong.append(Wrong(str(error), path=error.path, place=str(path)))
                continue
            # Its merged values are: each of them is looked at below.
        except InputInvalid as error:
            wrong.append(Wrong(str(error), place=str(path)))
            continue
        twin = documents.setdefault(document.reference, document)
        if twin is not document:
            what = document.reference
            sentence = f"expected one document {what}, found another in {twin.source}"
            wrong.append(Wrong(f"{path}: {sentence}", str(path), what))
    return list(documents.values()), wrong


def _environments(documents: Iterable[Document], given: Iterable[str]) -> list[str | None]:
    """Those the files name and those given; none named is judged as one without a block."""
    from control_plane.manifests.environments import environments_of

    named = {each for document in documents for each in environments_of(document.value)}
    return [*sorted(named.union(given))] or [None]


def _tenants(documents: Iterable[Document]) -> int:
    from control_plane.configs.layers import tenant_of

    found: set[str] = set()
    for document in documents:
        found.update(document.value["metadata"].get("tenants", {}))  # type: ignore[arg-type,union-attr]
        found.add(tenant_of(str(document.value["name"]))[1])
    return len(found - {""})


def _merged_problems(
    documents: Iterable[Document], environments: Iterable[str | None], whole: bool
) -> Iterator[Wrong]:
    from control_plane.configs.references import Configuration
    from control_plane.manifests.configs import problems
    from control_plane.publish.preflight import spaces

    files = {document.reference: document for document in documents}
    side = spaces(document.value for document in files.values())
    for environment in environments:
        configuration = Configuration(environment, _reader(side, whole), complete=whole)
        for name in sorted(side):
            # A namespace whose base is elsewhere is judged where that is.
            if side[name][0] is None and not whole:
                continue
            try:
                for problem in problems(configuration, name, side[name]):
                    yield _wrong(files, problem.document, problem.path, problem.line())
            except ManifestInvalid as error:
                what = error.document or f"config/{name}"
                line = str(error) if str(error).startswith("config/") else f"{what}: {error}"
                yield _wrong(files, what, error.path, line)


def _reader(side: Spaces, whole: bool) -> Any:
    return (lambda name: side.get(name, (None, []))) if whole else side.get


def _wrong(
    files: Mapping[str, Document], what: str, path: tuple[str | int, ...], line: str
) -> Wrong:
    document = files.get(what)
    if document is None:
        return Wrong(line, "", what, path)
    place = document.place(path)
    return Wrong(f"{place}: {line}", place, what, path)
