"""``pull``: write an environment's documents back to the files.

A file whose document is what the environment holds is not touched. In another the pieces that
differ are replaced, and comments, order and the author's way of writing stay; a text that cannot be
cut like that is written anew, with its first comment lines and the order of its keys, and named.
Documents without a file get one. A file whose document is not in the environment stays and is
named, because it may be new. The generations seen are recorded, so that ``apply`` knows they were
looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.output import print_json, progress
from control_plane.cli.settings import environment_option, publisher, settings, store_options
from control_plane.names import MANIFEST_KINDS, VERSIONED_KINDS

if TYPE_CHECKING:
    from control_plane.cli.files import DocumentFile
    from control_plane.publish.publisher import StoredHead

SEALS = ("checksum_sha256", "signature")


@click.command()
@click.argument("folder", required=False, default="manifests", metavar="[DIR]")
@environment_option
@click.option("--dry-run", is_flag=True, help="Say what would be written and write nothing.")
@store_options
def pull(folder: str, environment: str, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Write an environment's documents to the files in DIR (manifests/) where they differ.

    Then 'apply' accepts them as looked at, also those changed by 'flag off' or 'revert'.
    """
    from control_plane.cli.pulled import write_pulled

    root = Path(folder)
    with (
        publisher(settings(**given), sign=False, waiting=False) as reader,
        progress(f"{environment}: documents") as moved,
    ):
        heads = {
            _reference(head): head
            for head in reader.heads(environment).values()
            if _is_document(head)
        }
        documents = {}
        for done, (name, head) in enumerate(heads.items()):
            documents[name] = reader.document_at(environment, head.digest)
            moved(done + 1, len(heads))
    files = _files(root)
    written, anew = _texts(root, files, documents)
    absent = sorted(set(files) - set(documents))
    if not dry_run:
        for path, text in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text)
        root.mkdir(parents=True, exist_ok=True)
        generations = {name: head.generation for name, head in heads.items()}
        write_pulled(root, environment, generations)
    for path in anew:
        click.echo(f"{path}: written anew; only its first comments are kept", err=True)
    _report(environment, written, len(documents) - len(written), absent, dry_run, as_json)


def _texts(
    root: Path, files: Mapping[str, DocumentFile], documents: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[Path, str], list[Path]]:
    """New text of every file whose document is not the environment's; those written anew."""
    from control_plane.cli.edited import edited
    from control_plane.cli.matching import same
    from control_plane.cli.written import dump, leading_comments

    texts = {}
    anew = []
    for name, remote in documents.items():
        held = files.get(name)
        if held is None:
            texts[_new_path(root, remote)] = dump(_bare(remote))
            continue
        # A file without seals stays so: they are the publisher's, not the author's text.
        sealed = any(seal in held.document for seal in SEALS)
        wanted = dict(remote) if sealed else _bare(remote)
        if same(wanted, held.document):
            continue
        if held.path.suffix == ".json":
            texts[held.path] = dump(wanted, json=True, like=held.document)
            continue
        # Not read_text: it would turn the author's line breaks into ours.
        text = held.path.read_bytes().decode("utf-8")
        made = edited(text, wanted)
        if made is None:
            made = leading_comments(text) + dump(wanted, like=held.document)
            anew.append(held.path)
        texts[held.path] = made
    return texts, anew


def _files(root: Path) -> dict[str, DocumentFile]:
    from control_plane.cli.files import read_documents
    from control_plane.errors import NotFound

    try:
        return {item.reference: item for item in read_documents([root])}
    except NotFound:
        return {}  # a folder that is yet to be filled


def _new_path(root: Path, document: Mapping[str, Any]) -> Path:
    kind = document["kind"]
    version = f"-{document['version']}" if kind in VERSIONED_KINDS else ""
    return root / f"{kind}s" / f"{document['name']}{version}.yaml"


def _bare(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in SEALS}


def _is_document(head: StoredHead) -> bool:
    part = head.key.part
    return head.live and head.key.kind in MANIFEST_KINDS and (not part or part.startswith("v/"))


def _reference(head: StoredHead) -> str:
    version = f"@{head.key.part[2:]}" if head.key.part else ""
    return f"{head.key.kind}/{head.key.name}{version}"


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(text.encode("utf-8"))
    beside.replace(path)


def _report(
    environment: str,
    written: Mapping[Path, str],
    unchanged: int,
    absent: list[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    if as_json:
        print_json(
            {
                "environment": environment,
                "dry_run": dry_run,
                "written": [str(path) for path in written],
                "unchanged": unchanged,
                "not_in_environment": absent,
            }
        )
        return
    for path in written:
        click.echo(f"{'would write' if dry_run else 'wrote'} {path}")
    for name in absent:
        click.echo(f"{name} is not in {environment}; its file stays", err=True)
    click.echo(f"{environment}: {len(written)} written, {unchanged} unchanged")
