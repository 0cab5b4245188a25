"""``promote``: carry what one environment holds to another, as the same signed bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment, checked_references, reason_option
from control_plane.cli.output import progress
from control_plane.cli.preflight import Preflight, preflight_options
from control_plane.cli.settings import Settings, key_options, publisher, settings, store_options
from control_plane.errors import Refused

if TYPE_CHECKING:
    from control_plane.log.statements import Change, Key
    from control_plane.publish.publisher import Comparison

CURE = "name what to promote without it, or pass --take-over"


@click.command()
@click.argument("references", nargs=-1, callback=checked_references, metavar="[REFERENCE]…")
@click.option(
    "--from", "source", required=True, metavar="ENV", callback=checked_environment,
    help="The environment to carry from.",
)  # fmt: skip
@click.option(
    "--to", "target", required=True, metavar="ENV", callback=checked_environment,
    help="The environment to carry to.",
)  # fmt: skip
@reason_option
@click.option("--dry-run", is_flag=True, help="Let the store judge it and write nothing.")
@preflight_options
@click.option("--atomic", is_flag=True, help="One change set instead of several of 250.")
@click.option("--take-over", is_flag=True, help="Write over changes made by other verbs.")
@click.option("--out", metavar="FILE", help="Write the signed change set here; do not submit it.")
@click.option("--trust", metavar="FILE", help="trust.json to verify the log with.")
@key_options
@store_options
def promote(
    references: tuple[str, ...],
    source: str,
    target: str,
    reason: str,
    dry_run: bool,
    preflight: Preflight,
    atomic: bool,
    take_over: bool,
    out: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Carry documents from one environment to another: all of it, or REFERENCEs like flag/x.

    The same bytes with the same author's signatures, never edited on the way; the log they come
    from is verified first. Kills stay where they are and nothing is deleted. A record of the target
    last changed by another verb, such as 'flag off', is not written over without --take-over.
    """
    from control_plane.publish.promotion import selected

    _check(source, target, references)
    carry(
        lambda changes: selected(changes, references, source), source, target,
        reason=reason, dry_run=dry_run, atomic=atomic, take_over=take_over, out=out,
        as_json=as_json, given=given, preflight=preflight,
    )  # fmt: skip


def carry(
    choose: Callable[[Mapping[Key, Change]], list[Change]],
    source: str,
    target: str,
    *,
    reason: str,
    dry_run: bool,
    atomic: bool,
    take_over: bool,
    out: str | None,
    as_json: bool,
    given: Mapping[str, Any],
    preflight: Preflight,
) -> None:
    """Carry what ``choose`` picks of the source's live changes, and say what became of it."""
    from control_plane.cli.applying import report, write_signed
    from control_plane.publish.promotion import propose
    from control_plane.publish.replay import replay

    found = settings(**given)
    with publisher(found, waiting=False) as author:
        with progress(f"{source}: entries") as moved:
            history = replay(author.store, source, found.enrolment(), progress=moved)
        proposal = author.change(target, reason or f"promote from {source}", verb="promote")
        with progress(f"{target}: changes") as moved:
            chosen = choose(history.changes)
            propose(proposal, author, source, chosen)
            comparison = author.compare(proposal)
            if not take_over:
                _require_untouched(found, target, comparison)
            configs = [
                author.document_at(source, str(change.digest))
                for change in chosen
                if preflight.wanted and change.key.kind == "config"
            ]
            seen = preflight.look(author, target, configs, as_json)
            if out is not None:
                write_signed(out, author, proposal, comparison, as_json, seen)
                return
            submissions = author.submit(
                proposal, comparison, atomic=atomic, dry_run=dry_run, progress=moved
            )
    report(target, comparison, submissions, dry_run, as_json, seen)


def _check(source: str, target: str, references: tuple[str, ...]) -> None:
    if source == target:
        raise click.UsageError(f"expected two environments, found {source} twice")
    for reference in references:
        if reference.startswith("kill/"):
            raise click.UsageError(f"expected a document, found {reference}; kills stay")


def _require_untouched(found: Settings, target: str, comparison: Comparison) -> None:
    from control_plane.cli.holders import holder_names
    from control_plane.cli.pulled import switched

    heads: Mapping[Any, Any] = comparison.heads
    written = [heads[change.key] for change in comparison.changes if change.key in heads]
    live = [head for head in written if head.live and head.change.action == "put"]
    for sentence in switched(target, live, lambda _: None, holder_names(found), CURE).values():
        raise Refused(sentence)
