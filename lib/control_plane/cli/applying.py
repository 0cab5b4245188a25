"""``apply``: publish documents to an environment.

Documents that stand already are left alone; agents and tools are published and activated together.
Agents and tools without signature are signed in memory with the key at hand, because a node
accepts none without its author; the files are not touched. A wrong checksum is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_channel, reason_option
from control_plane.cli.output import print_json, progress
from control_plane.cli.preflight import Preflight, preflight_options
from control_plane.cli.settings import (
    Settings,
    environment_option,
    key_options,
    publisher,
    settings,
    store_options,
)
from control_plane.errors import Refused

if TYPE_CHECKING:
    from control_plane.cli.files import DocumentFile
    from control_plane.log.statements import Key
    from control_plane.publish.client import Submission
    from control_plane.publish.proposal import Proposal
    from control_plane.publish.publisher import Comparison, Publisher


@click.command()
@click.option(
    "-f", "--file", "files", multiple=True, required=True, metavar="PATH",
    help="File or folder; may be repeated.",
)  # fmt: skip
@environment_option
@reason_option
@click.option("--dry-run", is_flag=True, help="Let the store judge it and write nothing.")
@click.option("--atomic", is_flag=True, help="One change set instead of several of 250.")
@click.option("--no-activate", is_flag=True, help="Publish versions; leave channels alone.")
@click.option(
    "--channel", default="stable", show_default=True, callback=checked_channel,
    help="The channel to activate.",
)  # fmt: skip
@click.option("--take-over", is_flag=True, help="Write over changes that were not made by apply.")
@preflight_options
@click.option("--out", metavar="FILE", help="Write the signed change set here; do not submit it.")
@key_options
@store_options
def apply(
    files: tuple[str, ...],
    environment: str,
    reason: str,
    dry_run: bool,
    atomic: bool,
    no_activate: bool,
    channel: str,
    take_over: bool,
    preflight: Preflight,
    out: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Publish documents to an environment; agents and tools are activated too.

    Agents and tools without their author's signature are signed with --key on the way; their files
    stay as they are. Documents that stand already are left alone.

    Large sets go in steps of 250 changes; --atomic makes one. A record last changed by another
    verb, such as 'flag off', is not written over unless 'pull' has seen it or --take-over is given.
    What is allowed and probably not meant is said on stderr, as 'lint' does, and published.

    --preflight shows which merged configuration values change, for the base and each tenant, before
    anything is signed; with --dry-run nothing follows. More than 50 tenants, or more than
    --yes-change says, are refused. --also shows and bounds what the same documents would change in
    another environment, where nothing is written.
    """
    from control_plane.cli.files import read_documents
    from control_plane.cli.linting import advise

    found = settings(**given)
    documents = read_documents(files)
    with (
        publisher(found, waiting=False) as author,
        progress(f"{environment}: changes") as moved,
    ):
        proposal = propose(author, documents, environment, reason, None if no_activate else channel)
        comparison = author.compare(proposal)
        changed = {_reference(change.key) for change in comparison.changes}
        for each in advise(
            author, environment, [item for item in documents if item.reference in changed], files
        ):
            click.echo(f"advice: {each}", err=True)
        if not take_over:
            for sentence in taken_over(found, environment, documents, comparison).values():
                raise Refused(sentence)
        seen = preflight.look(author, environment, [each.document for each in documents], as_json)
        if out is not None:
            write_signed(out, author, proposal, comparison, as_json, seen)
            return
        submissions = author.submit(
            proposal, comparison, atomic=atomic, dry_run=dry_run, progress=moved
        )
    report(environment, comparison, submissions, dry_run, as_json, seen)


def propose(
    author: Publisher,
    documents: Sequence[DocumentFile],
    environment: str,
    reason: str,
    channel: str | None,
) -> Proposal:
    """A proposal of all these documents, with activation of agents and tools in ``channel``."""
    from control_plane.names import VERSIONED_KINDS

    proposal = author.change(environment, reason or "apply", verb="apply")
    newest: dict[tuple[str, str], str] = {}
    for item in documents:
        # Reading it has validated it, with its file and line.
        proposal.put(item.document, validated=True)
        if item.document["kind"] in VERSIONED_KINDS:
            _keep_newest(newest, item.document)
    if channel is not None:
        for (kind, name), version in newest.items():
            proposal.activate(f"{kind}/{name}@{version}", channel)
    return proposal


def _keep_newest(newest: dict[tuple[str, str], str], document: Mapping[str, Any]) -> None:
    """Of several versions given at once, the highest is the one to activate."""
    from packaging.version import Version

    key, version = (document["kind"], document["name"]), document["version"]
    if key not in newest or Version(version) > Version(newest[key]):
        newest[key] = version


def taken_over(
    found: Settings,
    environment: str,
    documents: Sequence[DocumentFile],
    comparison: Comparison,
) -> dict[Key, str]:
    """The records this would write over though others changed them last, and a sentence each."""
    from control_plane.cli.holders import holder_names
    from control_plane.cli.pulled import read_pulled, switched

    folders = {item.reference: item.path.resolve().parent for item in documents}
    records = {folder: read_pulled(folder, environment) for folder in set(folders.values())}
    seen = {reference: records[folder].get(reference) for reference, folder in folders.items()}
    return switched(
        environment,
        # A channel is moved by activate alone; what it pointed to is the author's to say. Shards
        # come along with their segment and keep its members.
        [
            comparison.heads[change.key]
            for change in comparison.changes
            if change.key in comparison.heads and change.action == "put" and change.shard is None
        ],
        lambda key: seen.get(_reference(key)),
        holder_names(found),
    )


def _reference(key: Key) -> str:
    version = f"@{key.part[2:]}" if key.part.startswith("v/") else ""
    return f"{key.kind}/{key.name}{version}"


def write_signed(
    out: str,
    author: Publisher,
    proposal: Proposal,
    comparison: Comparison,
    as_json: bool,
    seen: Mapping[str, Any] | None = None,
) -> None:
    """Sign what would change and write it to a file; ``seen`` are fields of a preflight."""
    from control_plane.cli.approving import write_change

    change = author.sign(proposal, comparison)
    write_change(Path(out), change)
    if as_json:
        told = {"file": out, "statement": change.identity, "changes": len(comparison.changes)}
        print_json(told | dict(seen or {}))
    else:
        click.echo(
            f"signed {len(comparison.changes)} changes of {proposal.environment} in {out};"
            f" next: control-plane approve {out}, then control-plane submit {out}"
        )


def report(
    environment: str,
    comparison: Comparison,
    submissions: Sequence[Submission],
    dry_run: bool,
    as_json: bool,
    seen: Mapping[str, Any] | None = None,
) -> None:
    """Say what changed, what stood already, and the generations it became."""
    if as_json:
        print_json(
            dict(seen or {})
            | {
                "environment": environment,
                "dry_run": dry_run,
                "changed": [str(change.key) for change in comparison.changes],
                "unchanged": [str(key) for key in comparison.unchanged],
                "generations": (
                    []
                    if dry_run
                    else [s.generation for s in submissions if s.generation is not None]
                ),
            }
        )
        return
    for key in comparison.unchanged:
        click.echo(f"unchanged {key}")
    word = "would change" if dry_run else "changed"
    for change in comparison.changes:
        if change.shard is None:
            click.echo(f"{word} {change.key}")
    for name, count in _shards(comparison).items():
        click.echo(f"{word} {count} shards of segment/{name}")
    click.echo(_sum(environment, comparison, submissions, dry_run))


def _shards(comparison: Comparison) -> Counter[str]:
    """How many shards of each segment change; a line for each would be a thousand."""
    return Counter(change.name for change in comparison.changes if change.shard is not None)


def _sum(
    environment: str, comparison: Comparison, submissions: Sequence[Submission], dry_run: bool
) -> str:
    counted = f"{len(comparison.changes)} changed, {len(comparison.unchanged)} unchanged"
    if dry_run:
        return f"{environment}: dry run, nothing written; {counted}"
    if not submissions:
        return f"{environment}: {counted}"
    return f"{environment}: {counted}; generation {submissions[-1].generation}"
