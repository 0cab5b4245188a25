"""``sign``, ``verify`` and ``schema``: documents on the author's side, without a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from control_plane.cli.output import print_json, short
from control_plane.cli.settings import key_options, settings
from control_plane.errors import ControlPlaneError, InputInvalid, NotFound
from control_plane.shown import shown


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--out", metavar="DIR", help="Write signed copies here, under the same names.")
@click.option("--in-place", is_flag=True, help="Change the two lines in the files themselves.")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
@key_options
def sign(
    files: tuple[str, ...], out: str | None, in_place: bool, as_json: bool, **given: Any
) -> None:
    """Sign agents and tools as their author: checksum_sha256 and signature.

    Folders stand for all agents and tools in them; other kinds need no author's signature. With
    --in-place only those two lines change, so comments and order stay.
    """
    from control_plane.cli.files import read_documents
    from control_plane.names import VERSIONED_KINDS
    from control_plane.publish.sign import signed

    if bool(out) == in_place:
        raise click.UsageError("expected one of --out DIR and --in-place, found both or none")
    signer = settings(**given).signers()[0]
    found = read_documents(files)
    ours = [item for item in found if item.document["kind"] in VERSIONED_KINDS]
    if not ours:
        raise NotFound(f"{', '.join(files)}: expected an agent or tool to sign, found none")
    # Every text is made before the first file is written, so a refused one leaves all as they were.
    texts = []
    for item in ours:
        document = signed(item.document, signer)
        target = item.path if in_place else _copy_path(item.path, files, Path(str(out)))
        texts.append((target, _text(item.path, document, in_place), item.reference, document))
    for target, text, _, _ in texts:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, text)
    if as_json:
        print_json(
            {
                "signed": [
                    {
                        "reference": name,
                        "file": str(target),
                        "checksum_sha256": d["checksum_sha256"],
                    }
                    for target, _, name, d in texts
                ]
            }
        )
        return
    for target, _, name, document in texts:
        click.echo(f"signed {name} sha256 {short(document['checksum_sha256'])} in {target}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--trust", metavar="FILE", help="trust.json that says which keys are whose.")
@click.option("--signed", "must_be_signed", is_flag=True, help="Refuse unsigned agents and tools.")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def verify(files: tuple[str, ...], trust: str | None, must_be_signed: bool, as_json: bool) -> int:
    """Check documents: form, schema, checksum, and the author's signature where there is one.

    Every document is checked; the exit code is 1 when any fails, 6 when it is a trust failure.
    """
    from control_plane.cli.failures import exit_code
    from control_plane.cli.files import find_files

    policy = _policy(trust)
    results: list[dict[str, Any]] = []
    code = 0
    for path in find_files(files):
        try:
            results.append(_verified(path, policy, must_be_signed))
        except ControlPlaneError as error:
            message = str(error)
            results.append({"file": str(path), "ok": False, "problem": message, "code": error.code})
            code = max(code, exit_code(error))
    if not results:
        raise NotFound(f"{', '.join(files)}: expected documents, found none")
    if as_json:
        print_json({"ok": code == 0, "documents": results})
        return code
    for result in results:
        if result["ok"]:
            click.echo(f"ok {result['reference']} ({result['signature']})")
        else:
            click.echo(f"control-plane: {shown(result['problem'])}", err=True)
    return code


@click.command()
@click.argument("kind", metavar="KIND")
def schema(kind: str) -> None:
    """Print the JSON Schema of KIND: flag, segment, config, agent or tool."""
    from control_plane.schemas import schema_text

    try:
        text = schema_text(kind)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(text.decode().rstrip("\n"))


def _policy(trust: str | None) -> Any:
    from control_plane.cli.settings import enrolled_policy

    found = settings(trust=trust)
    return None if found.enrolment_file() is None else enrolled_policy(found.enrolment())


def _verified(path: Path, policy: Any, must_be_signed: bool) -> dict[str, Any]:
    from control_plane.cli.files import read_document
    from control_plane.errors import SignatureInvalid
    from control_plane.manifests.documents import content
    from control_plane.manifests.validation import signature_of
    from control_plane.names import VERSIONED_KINDS
    from control_plane.publish.sign import check_checksum

    item = read_document(path)
    check_checksum(item.document)
    kind, name = item.document["kind"], item.document["name"]
    found = signature_of(item.document) if kind in VERSIONED_KINDS else None
    said = "no signature needed" if kind not in VERSIONED_KINDS else "unsigned"
    if found is not None:
        said = f"signed by {short(found[0])}, not checked: no trust.json"
        if policy is not None:
            policy.author(kind, name, *found, content(item.document))
            said = f"signed by {short(found[0])}"
    elif must_be_signed and kind in VERSIONED_KINDS:
        raise SignatureInvalid(f"{item.reference}: expected its author's signature, found none")
    return {"file": str(path), "ok": True, "reference": item.reference, "signature": said}


def _copy_path(path: Path, given: tuple[str, ...], out: Path) -> Path:
    """A file of a named folder keeps its place below it; a file named itself goes to ``out``."""
    for name in given:
        if Path(name).is_dir() and path.is_relative_to(name):
            return out / path.relative_to(name)
    return out / path.name


def _text(path: Path, document: dict[str, Any], in_place: bool) -> str:
    from control_plane.cli.written import dump
    from control_plane.publish.sign import signed_text

    # Not read_text: it would turn the author's line breaks into ours.
    text = path.read_bytes().decode("utf-8")
    breaks = "\r\n" if 0 < text.count("\r\n") == text.count("\n") else "\n"
    text = text.replace(breaks, "\n")
    is_json = path.suffix == ".json"
    try:
        made = signed_text(text, document, json=is_json, what=str(path))
        return made.replace("\n", breaks)
    except InputInvalid:
        if in_place:
            raise
        return dump(document, json=is_json)


def _replace(target: Path, text: str) -> None:
    """Write beside and rename, so that a crash leaves the old file or the new one."""
    beside = target.with_name(f".{target.name}.new")
    beside.write_bytes(text.encode("utf-8"))
    beside.replace(target)
