"""``flag on|off|rollout``, ``kill`` and ``unkill``: what operators do to a flag without its file.

The verb of the change is ``flag-on``, ``flag-off`` or ``flag-rollout``, so that ``apply`` can tell
what it would undo. A kill is a key of its own: it needs no edit of the flag and no deployment
lifts it.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import click

from control_plane.cli.arguments import name_argument, reason_option
from control_plane.cli.changing import report_changes
from control_plane.cli.rebucketing import rebucket_report
from control_plane.cli.settings import (
    environment_option,
    key_options,
    publisher,
    settings,
    store_options,
)
from control_plane.cli.standing import Standing
from control_plane.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


PERCENTAGE: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")


@click.group()
def flag() -> None:
    """Switch a flag on or off in one environment, or roll it out."""


flag.add_command(rebucket_report)


@flag.command("on")
@name_argument("flag")
@environment_option
@reason_option
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
@name_argument("flag")
@environment_option
@reason_option
@key_options
@store_options
def switch_off(name: str, environment: str, reason: str, as_json: bool, **given: Any) -> None:
    """Set enabled: false, so that everybody gets the variant that disabled names."""
    from control_plane.publish.flag_edits import with_enabled

    _edit(
        name, environment, reason, "flag-off", as_json, given,
        lambda document: with_enabled(document, environment, False),
    )  # fmt: skip


def _share(context: click.Context, parameter: click.Parameter, value: str) -> Fraction:
    """``25``, ``12.5`` or ``25%`` of the units, in thousandths of a percent at the finest."""
    number = value.removesuffix("%")
    if not PERCENTAGE.fullmatch(number) or Fraction(number) > 100:
        raise click.UsageError(
            f"expected a percentage from 0 to 100 like 25 or 12.5, found {value!r}", context
        )
    return Fraction(number)


@flag.command()
@name_argument("flag")
@click.argument("percent", callback=_share)
@environment_option
@click.option("--variant", metavar="NAME", help="Variant to roll out; default the true one.")
@click.option("--by", metavar="ATTRIBUTE", help="What is counted, such as tenant_id.")
@reason_option
@key_options
@store_options
def rollout(
    name: str,
    percent: Fraction,
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

    _edit(
        name, environment, reason or f"rollout {float(percent):g} %", "flag-rollout", as_json,
        given,
        lambda document: with_rollout(document, environment, percent, variant=variant, by=by),
    )  # fmt: skip


@click.command()
@name_argument("flag")
@environment_option
@click.option("--variant", metavar="NAME", help="Serve this variant instead of the disabled one.")
@reason_option
@key_options
@store_options
def kill(
    name: str, environment: str, variant: str | None, reason: str, as_json: bool, **given: Any
) -> None:
    """Kill a flag: everybody gets its disabled variant, until 'unkill'.

    Works whatever the flag's file says, overtakes waiting deployments, and no deployment lifts it.
    """
    from control_plane.log.statements import Key

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
@name_argument("flag")
@environment_option
@reason_option
@key_options
@store_options
def unkill(name: str, environment: str, reason: str, as_json: bool, **given: Any) -> None:
    """End a kill: the flag's own rules decide again."""
    from control_plane.log.statements import Key

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
    found = settings(**given)
    with publisher(found) as author:
        standing = Standing.read(found, author, environment, "flag")
        document = standing.document("flag", name)
        proposal = author.change(
            environment, reason or f"{verb.replace('-', ' ')} {name}", verb=verb
        )
        proposal.put(edit(document))
        comparison = author.compare(proposal)
        standing.require(comparison.changes)
        submissions = author.submit(proposal, comparison)
    report_changes(environment, list(proposal.changes), submissions, False, as_json)
