"""``flag on|off|rollout``, ``kill`` and ``unkill``: what operators do to a flag without its file.

The verb of the change is ``flag-on``, ``flag-off`` or ``flag-rollout``, so that ``apply`` can tell
what it would undo. A kill is a key of its own: it needs no edit of the flag and no deployment
lifts it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.changing import report_changes
from control_plane.cli.settings import (
    environment_option,
    key_options,
    publisher,
    settings,
    store_options,
)
from control_plane.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REASON = click.option("--reason", default="", metavar="TEXT", help="Why; stands in the log.")


@click.group()
def flag() -> None:
    """Switch a flag on or off in one environment, or roll it out."""


@flag.command("on")
@click.argument("name")
@environment_option
@REASON
@key_options
@store_options
def switch_on(name: str, environment: str, reason: str, as_json: bool, **given: Any) -> None:
    """Set enabled: true, so that the flag's rules decide again. A kill stays."""
    from control_plane.publish.flag_edits import with_enabled

    _edit(
        name, environment, reason, "flag-on", as_json, given,
        lambda document: with_enabled(document, environment, True),
    )  # fmt: skip


@flag.command("off")
@click.argument("name")
@environment_option
@REASON
@key_options
@store_options
def switch_off(name: str, environment: str, reason: str, as_json: bool, **given: Any) -> None:
    """Set enabled: false, so that everybody gets the variant that disabled names."""
    from control_plane.publish.flag_edits import with_enabled

    _edit(
        name, environment, reason, "flag-off", as_json, given,
        lambda document: with_enabled(document, environment, False),
    )  # fmt: skip


@flag.command()
@click.argument("name")
@click.argument("percent")
@environment_option
@click.option("--variant", metavar="NAME", help="Variant to roll out; default the true one.")
@click.option("--by", metavar="ATTRIBUTE", help="What is counted, such as tenant_id.")
@REASON
@key_options
@store_options
def rollout(
    name: str,
    percent: str,
    environment: str,
    variant: str | None,
    by: str | None,
    reason: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Serve a variant to PERCENT of users, tenants or whatever --by names.

    Sets the rule named rollout; raising the percentage takes the variant from nobody.
    """
    from control_plane.publish.flag_edits import with_rollout

    try:
        share = Fraction(percent.removesuffix("%"))
    except (ValueError, ZeroDivisionError) as error:
        raise click.UsageError(f"expected a percentage like 25, found {percent!r}") from error
    _edit(
        name, environment, reason or f"rollout {percent}", "flag-rollout", as_json, given,
        lambda document: with_rollout(document, environment, share, variant=variant, by=by),
    )  # fmt: skip


@click.command()
@click.argument("name")
@environment_option
@click.option("--variant", metavar="NAME", help="Serve this variant instead of the disabled one.")
@REASON
@key_options
@store_options
def kill(
    name: str, environment: str, variant: str | None, reason: str, as_json: bool, **given: Any
) -> None:
    """Kill a flag: everybody gets its disabled variant, until 'unkill'.

    Works whatever the flag's file says, overtakes waiting deployments, and no deployment lifts it.
    """
    from control_plane.log.statements import Key

    name = name.removeprefix("flag/")
    with publisher(settings(**given)) as author:
        proposal = author.change(environment, reason or f"kill {name}", verb="kill")
        proposal.kill(name, variant)
        submissions = author.submit(proposal)
        # Asked afterwards: an incident waits for nothing, and a kill may come before its flag.
        flag_head = author.heads(environment, [Key("flag", name)]).get(Key("flag", name))
        if flag_head is None or not flag_head.live:
            click.echo(
                f"flag/{name} is not in {environment}; the kill stands and will hold for it",
                err=True,
            )
    report_changes(environment, list(proposal.changes), submissions, False, as_json)


@click.command()
@click.argument("name")
@environment_option
@REASON
@key_options
@store_options
def unkill(name: str, environment: str, reason: str, as_json: bool, **given: Any) -> None:
    """End a kill: the flag's own rules decide again."""
    from control_plane.log.statements import Key

    name = name.removeprefix("flag/")
    with publisher(settings(**given)) as author:
        head = author.heads(environment, [Key("kill", name)]).get(Key("kill", name))
        if head is None or not head.live:
            raise NotFound(f"flag/{name}: expected a kill in {environment}, found none")
        proposal = author.change(environment, reason or f"unkill {name}", verb="unkill")
        proposal.unkill(name)
        submissions = author.submit(proposal)
    report_changes(environment, list(proposal.changes), submissions, False, as_json)


def _edit(
    name: str,
    environment: str,
    reason: str,
    verb: str,
    as_json: bool,
    given: Mapping[str, Any],
    edit: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> None:
    name = name.removeprefix("flag/")
    with publisher(settings(**given)) as author:
        document = author.document(environment, f"flag/{name}")
        proposal = author.change(
            environment, reason or f"{verb.replace('-', ' ')} {name}", verb=verb
        )
        proposal.put(edit(document))
        submissions = author.submit(proposal)
    report_changes(environment, list(proposal.changes), submissions, False, as_json)
