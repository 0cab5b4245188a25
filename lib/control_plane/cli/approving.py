"""``approve``, ``submit`` and ``pending``: change sets that need more than one signature.

An approval is a signature over the very statement, so what is printed is read from the bytes that
are signed: every change with the digest of its document. A set lies in a file people pass on, with
its documents inside, or waits in the store until its last signature makes it an entry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json, print_table, short, when
from control_plane.cli.settings import (
    Settings,
    environment_option,
    key_options,
    publisher,
    settings,
    store_client,
    store_options,
)
from control_plane.errors import InputInvalid, NotFound

if TYPE_CHECKING:
    from control_plane.publish.changefile import SignedChange
    from control_plane.publish.client import StoreClient


@click.command()
@click.argument("change", metavar="CHANGE")
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="Take CHANGE from those that wait in the store for this environment.",
)  # fmt: skip
@key_options
@store_options
def approve(change: str, environment: str | None, as_json: bool, **given: Any) -> None:
    """Add a signature to a change set.

    CHANGE is a file written by 'apply --out', which is signed in place; with -e it is the
    beginning of a statement that 'pending' lists, and the signature goes to the store.
    """
    found = settings(**given)
    if environment is not None:
        _approve_pending(found, environment, change, as_json)
        return
    path = Path(change)
    signed = _approved(found, read_change(path))
    write_change(path, signed)
    _print_approved(signed, as_json, f"signed; next: control-plane submit {path}")


@click.command()
@click.argument("change", metavar="CHANGE.json")
@click.option("--dry-run", is_flag=True, help="Let the store judge it and write nothing.")
@store_options
def submit(change: str, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Submit a signed change set from a file.

    It may be sent again without harm: a set that is in the log already stays where it is.
    """
    found = settings(**given)
    signed = read_change(Path(change))
    with publisher(found, sign=False) as sender:
        submission = sender.send(signed, dry_run=dry_run)
    if as_json:
        print_json(
            {
                "environment": signed.environment,
                "statement": signed.identity,
                "dry_run": dry_run,
                "generation": submission.generation,
                "repeated": submission.repeated,
            }
        )
    elif dry_run:
        verdict = (
            f"it would wait with {submission.found} of {submission.threshold} signatures"
            if submission.pending
            else "the store would accept it"
        )
        click.echo(f"{signed.environment}: dry run, nothing written; {verdict}")
    else:
        again = ", as before" if submission.repeated else ""
        click.echo(f"{signed.environment}: generation {submission.generation}{again}")


@click.command()
@environment_option
@store_options
def pending(environment: str, as_json: bool, **given: Any) -> None:
    """List change sets that wait for signatures."""
    with store_client(settings(**given)) as client:
        waiting = client.pending(environment)["pending"]
    if as_json:
        print_json({"environment": environment, "pending": waiting})
        return
    if not waiting:
        click.echo(f"{environment}: no change set waits for signatures")
        return
    print_table(
        ("statement", "signatures", "not after", "verb", "reason"),
        [_row(item) for item in waiting],
    )


def _row(item: Mapping[str, Any]) -> tuple[object, ...]:
    from control_plane.log.envelope import Envelope
    from control_plane.log.statements import ChangeSet

    envelope = Envelope.from_json(item["envelope"])
    statement = ChangeSet.from_payload(envelope.payload)
    return (
        envelope.identity[:16],
        f"{item['found']} of {item['threshold']}",
        when(statement.not_after),
        statement.verb,
        statement.reason,
    )


def read_change(path: Path) -> SignedChange:
    """A change file.

    Raises:
        NotFound: there is none.
        SyntaxInvalid, StatementInvalid, ChecksumMismatch: as ``SignedChange.decode``.
    """
    from control_plane.publish.changefile import SignedChange

    if not path.is_file():
        raise NotFound(f"{path}: expected a file written by 'apply --out', found none")
    return SignedChange.decode(path.read_bytes(), what=str(path))


def write_change(path: Path, change: SignedChange) -> None:
    """Write a change file beside and rename it, so that a crash never leaves half of one."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as stream:
        json.dump(change.to_json(), stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def _approve_pending(found: Settings, environment: str, prefix: str, as_json: bool) -> None:
    with publisher(found) as approver:
        waiting = _waiting(approver.store, environment, prefix)
        # Ours alone: the store has the others, and drops those of keys that were revoked since,
        # for which it would refuse the whole set if it came from here.
        bare = replace(waiting, envelope=replace(waiting.envelope, signatures=()))
        signed = _approved(found, bare)
        submission = approver.send(signed)
    _print_approved(signed, as_json, f"generation {submission.generation}", submission.generation)


def _waiting(client: StoreClient, environment: str, prefix: str) -> SignedChange:
    """The one waiting set whose statement begins so, with the blobs that its signer must see."""
    from control_plane.log.envelope import Envelope
    from control_plane.publish.changefile import SignedChange

    listed = [
        Envelope.from_json(item["envelope"]) for item in client.pending(environment)["pending"]
    ]
    matches = [envelope for envelope in listed if envelope.identity.startswith(prefix)]
    if len(matches) != 1:
        raise NotFound(
            f"{environment}: expected one waiting change set {prefix}…, found {len(matches)};"
            f" 'control-plane pending -e {environment}' lists them"
        )
    bare = SignedChange(environment, matches[0], {})
    blob = bare.statement().changes_blob
    blobs = {} if blob is None else {blob.digest: client.blob(environment, blob.digest)}
    return SignedChange(environment, matches[0], blobs)


def _approved(found: Settings, change: SignedChange) -> SignedChange:
    from control_plane.publish.keyfiles import sign_envelope

    for item in change.changes():  # reads the list before anything is signed
        if not item.known:
            raise InputInvalid(
                f"{item.key}: expected a change this version understands, found {item.action}"
            )
    envelope = change.envelope
    for signer in found.signers():
        envelope = sign_envelope(envelope, signer)
    return replace(change, envelope=envelope)


def _print_approved(
    change: SignedChange, as_json: bool, outcome: str, generation: int | None = None
) -> None:
    statement = change.statement()
    if as_json:
        print_json(
            {
                "environment": change.environment,
                "statement": change.identity,
                "reason": statement.reason,
                "verb": statement.verb,
                "changes": [f"{item.action} {item.key}" for item in change.changes()],
                "signatures": [signature.key_id for signature in change.envelope.signatures],
                "generation": generation,
            }
        )
        return
    click.echo(f"{change.environment}: {statement.verb}, {statement.reason!r}")
    for item in change.changes():
        digest = f" sha256 {short(item.digest)}" if item.digest else ""
        click.echo(f"  {item.action} {item.key}{digest}")
    ids = ", ".join(short(signature.key_id) for signature in change.envelope.signatures)
    click.echo(f"statement {change.identity[:16]}, signatures {ids}: {outcome}")
