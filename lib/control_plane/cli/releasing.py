"""``activate``, ``deprecate`` and ``yank``: which version is used, and which no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from control_plane.cli.arguments import checked_channel, checked_references, reason_option
from control_plane.cli.settings import (
    environment_option,
    key_options,
    publisher,
    settings,
    store_options,
)

if TYPE_CHECKING:
    from control_plane.publish.releasing import Release

Function = TypeVar("Function", bound=Callable[..., Any])


def _targets(function: Function) -> Function:
    """The references and options that all three have."""
    for option in (
        store_options,
        key_options,
        click.option("--dry-run", is_flag=True, help="Let the store judge it and write nothing."),
        reason_option,
        environment_option,
        click.argument(
            "targets", nargs=-1, required=True, metavar="REFERENCE…", callback=checked_references
        ),
    ):
        function = option(function)
    return function


@click.command()
@_targets
@click.option(
    "--channel", default="stable", show_default=True, callback=checked_channel,
    help="The channel to move.",
)  # fmt: skip
def activate(channel: str, **given: Any) -> None:
    """Point a channel to versions, like agent/support@1.2.0.

    All in one change set: either every channel moves or none.
    """
    _release("activate", lambda release, target, _: release.activate(target, channel), **given)


@click.command()
@_targets
@click.option("--successor", metavar="REFERENCE", help="What to use instead.")
@click.option("--undo", is_flag=True, help="Take it back.")
def deprecate(successor: str | None, undo: bool, **given: Any) -> None:
    """Say that versions should not be used any more, and why; they go on being served.

    A process that takes one is warned once.
    """

    def marked(release: Release, target: str, reason: str) -> None:
        if undo:
            release.reinstate(target, reason)
        else:
            release.deprecate(target, reason, successor)

    _release("deprecate", marked, **given)


@click.command()
@_targets
@click.option("--successor", metavar="REFERENCE", help="What to use instead.")
@click.option("--undo", is_flag=True, help="Take it back.")
def yank(successor: str | None, undo: bool, **given: Any) -> None:
    """Say that versions must not be chosen any more, and why.

    No channel may point to one, so activate another first. Who names a yanked version exactly
    still gets it, and is warned.
    """

    def marked(release: Release, target: str, reason: str) -> None:
        if undo:
            release.reinstate(target, reason)
        else:
            release.yank(target, reason, successor)

    _release("yank", marked, **given)


def _release(
    verb: str,
    ask: Callable[[Release, str, str], None],
    *,
    targets: tuple[str, ...],
    environment: str,
    reason: str,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    from control_plane.cli.applying import report
    from control_plane.publish.releasing import Release

    with publisher(settings(**given)) as author:
        release = Release(author, environment, reason or f"{verb} {' '.join(targets)}", verb=verb)
        for target in targets:
            ask(release, target, reason)
        proposal, comparison = release.compared()
        submissions = author.submit(proposal, comparison, atomic=True, dry_run=dry_run)
    report(environment, comparison, submissions, dry_run, as_json)
