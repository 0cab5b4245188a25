"""``delete`` and ``revert``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_references, reason_option
from control_plane.cli.output import print_json, progress
from control_plane.cli.settings import (
    environment_option,
    key_options,
    publisher,
    settings,
    store_options,
)
from control_plane.errors import NotFound
from control_plane.names import VERSIONED_KINDS

if TYPE_CHECKING:
    from control_plane.log.statements import Change, Key
    from control_plane.publish.client import Submission
    from control_plane.publish.proposal import Proposal
    from control_plane.publish.publisher import StoredHead


@click.command()
@click.argument(
    "targets", nargs=-1, required=True, metavar="REFERENCE…", callback=checked_references
)
@environment_option
@reason_option
@click.option("--dry-run", is_flag=True, help="Let the store judge it and write nothing.")
@key_options
@store_options
def delete(
    targets: tuple[str, ...],
    environment: str,
    reason: str,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Delete documents, like flag/x or tool/crm_tool@1.2.0, from an environment.

    Deleting a version of an agent or tool also deletes the channels that point to it, and a segment
    goes with its shards. The log keeps the history; 'revert' brings documents back.
    """
    with publisher(settings(**given)) as author:
        proposal = author.change(
            environment, reason or f"delete {' '.join(targets)}", verb="delete"
        )
        heads = author.heads(environment)
        for target in targets:
            _delete(proposal, heads, target, environment)
        submissions = author.submit(proposal, atomic=True, dry_run=dry_run)
    report_changes(environment, list(proposal.changes), submissions, dry_run, as_json)


@click.command()
@environment_option
@click.option("--to", "generation", type=int, required=True, help="The generation to go back to.")
@reason_option
@click.option("--kills", is_flag=True, help="Also bring back kills as they stood then.")
@click.option("--dry-run", is_flag=True, help="Let the store judge it and write nothing.")
@click.option("--trust", metavar="FILE", help="trust.json to verify the log with.")
@key_options
@store_options
def revert(
    environment: str,
    generation: int,
    reason: str,
    kills: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Put an environment back to what it held at a generation, as a new change.

    The log is verified from its first entry, so a store cannot make up the past. Kills stay as they
    are now unless --kills is given: going back must not switch a broken feature on again.
    """
    from control_plane.publish.replay import replay

    found = settings(**given)
    with publisher(found, waiting=False) as author:
        with progress(f"{environment}: entries") as moved:
            history = replay(author.store, environment, found.enrolment(), progress=moved)
        proposal = author.change(
            environment, reason or f"revert to generation {generation}", verb="revert"
        )
        _propose_inverse(proposal, history.changes_at(generation), history.changes, kills)
        if not len(proposal):
            click.echo(f"{environment}: all stands as at generation {generation}")
            return
        with progress(f"{environment}: changes") as moved:
            submissions = author.submit(proposal, atomic=True, dry_run=dry_run, progress=moved)
    report_changes(environment, list(proposal.changes), submissions, dry_run, as_json)


def report_changes(
    environment: str,
    keys: Sequence[Key],
    submissions: Sequence[Submission],
    dry_run: bool,
    as_json: bool,
    seen: Mapping[str, Any] | None = None,
) -> None:
    """Say which keys a change touched and the generation it became; ``seen`` by a preflight."""
    generation = submissions[-1].generation if submissions and not dry_run else None
    if as_json:
        print_json(
            {
                "environment": environment,
                "dry_run": dry_run,
                "changed": [str(key) for key in keys] if submissions else [],
                "generation": generation,
            }
            | dict(seen or {})
        )
    elif not submissions:
        click.echo(f"{environment}: nothing to change")
    else:
        names = ", ".join(map(str, keys))
        outcome = "dry run, nothing written" if dry_run else f"generation {generation}"
        click.echo(f"{environment}: {outcome}; {names}")


def _delete(
    proposal: Proposal, heads: Mapping[Key, StoredHead], target: str, environment: str
) -> None:
    from control_plane.manifests.documents import parse_reference

    kind, name, version = parse_reference(target)
    live = [head for key, head in heads.items() if key[:2] == (kind, name) and head.live]
    _require_live(target, kind, version, [head.key.part for head in live], environment)
    proposal.delete(target)
    for head in live:
        if head.key.part.startswith("c/") and head.change.version == version:
            channel = head.key.part[2:]
            proposal.delete(f"{kind}/{name}", channel=channel)
            click.echo(f"{target}: channel {channel} points to it and is deleted too", err=True)
        elif kind == "segment" and head.key.part:
            proposal.delete(target, shard=head.key.part[2:])


def _require_live(
    target: str, kind: str, version: str | None, parts: Sequence[str], environment: str
) -> None:
    """Refuse what is not there, and an agent or tool without its version."""
    if kind not in VERSIONED_KINDS:
        wanted = ""
    elif version is not None:
        wanted = f"v/{version}"
    else:
        there = [f"{target}@{part[2:]}" for part in parts if part.startswith("v/")]
        raise NotFound(
            f"{target}: expected a version, found none; there are"
            f" {', '.join(there) or 'no versions'}"
        )
    if wanted not in parts:
        raise NotFound(f"{target}: expected it in {environment}, found none")


def _propose_inverse(
    proposal: Proposal, then: Mapping[Key, Change], now: Mapping[Key, Change], kills: bool
) -> None:
    """Bring each key that differs back: the old change again, or a deletion."""
    from control_plane.log.fold import change_digest

    reshaped = {
        key.name
        for key in {*then, *now}
        if key.kind == "segment"
        and not key.part
        and not (key in then and key in now and then[key].digest == now[key].digest)
    }
    # Versions first and channels after them: a set is judged as a whole, people read it in order.
    for key in sorted({*then, *now}, key=lambda key: (key.part.startswith("c/"), key)):
        if key.kind == "kill" and not kills:
            continue
        old, new = then.get(key), now.get(key)
        if old is None and new is not None:
            _propose_absence(proposal, new, then)
        elif old is not None and (new is None or change_digest(old) != change_digest(new)):
            proposal.put_again(old)
        elif old is not None and key.kind == "segment" and key.name in reshaped:
            # The manifest may ask for another number of shards, and then all come along.
            proposal.put_again(old, rewrite=True)


def _propose_absence(proposal: Proposal, change: Change, then: Mapping[Key, Change]) -> None:
    from dataclasses import replace

    if change.action == "status":
        # A status is never deleted. That of a version which goes with it says nothing any more;
        # that of one which stays was "active" when nobody had said anything.
        if key_of_version(change) in then:
            proposal.put_again(replace(change, status="active", reason=None, successor=None))
        return
    kept = change.version if change.action == "put" and change.kind in VERSIONED_KINDS else None
    bare = replace(change, action="delete", digest=None, checksum=None, value=None, version=kept)
    proposal.put_again(bare)


def key_of_version(change: Change) -> Key:
    """The key of the version that a status or an activation is about."""
    from control_plane.log.statements import Key

    return Key(change.kind, change.name, f"v/{change.version}")
