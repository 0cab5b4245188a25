"""``--preflight`` of every verb that changes configuration: which merged values move, for whom.

It looks before anything is signed: at the environment that is written to, and at those named with
``--also``, where the same documents are to go later. All are shown before one of them is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from control_plane.cli.output import print_json, progress
from control_plane.errors import Refused

if TYPE_CHECKING:
    from control_plane.publish.publisher import Publisher

Function = TypeVar("Function", bound=Callable[..., Any])
FIELD: Final = "preflight"
ALSO: Final = "preflight_also"


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was asked for: nothing, or a look with a bound, and at other environments too."""

    wanted: bool
    confirmed: int | None = None
    also: tuple[str, ...] = ()

    def look(
        self,
        author: Publisher,
        environment: str,
        documents: Sequence[Mapping[str, Any]],
        as_json: bool,
    ) -> dict[str, Any]:
        """Show what these manifests move, and give it as fields of an answer; empty if not asked.

        Raises:
            Refused: for more tenants than 50, or than were confirmed; shown all the same.
        """
        if not self.wanted:
            return {}
        from control_plane.cli.configuring_report import impact_json, impact_lines
        from control_plane.publish.preflight import MAX_TENANTS, impact, spaces

        given = [each for each in documents if each["kind"] == "config"]
        found = []
        for each in dict.fromkeys((environment, *self.also)):
            standing = _standing(author, each, given)
            found.append(impact(spaces(standing), spaces([*standing, *given]), each))
            if not as_json:
                for line in impact_lines(found[-1]):
                    click.echo(line)
        told: dict[str, Any] = {FIELD: impact_json(found[0])}
        if self.also:
            told[ALSO] = [impact_json(each) for each in found[1:]]
        try:
            for moved in found:
                moved.require_at_most(MAX_TENANTS if self.confirmed is None else self.confirmed)
        except Refused:
            if as_json:
                print_json({"environment": environment, "refused": True, **told})
            raise
        return told


def preflight_options(function: Function) -> Function:
    """``--preflight``, ``--yes-change`` and ``--also``, as one argument ``preflight``."""
    from functools import wraps

    @wraps(function)
    def run(
        *arguments: Any, preflight: bool, confirmed: int | None, also: tuple[str, ...], **given: Any
    ) -> Any:
        for given_with, option in ((confirmed is not None, "--yes-change"), (also, "--also")):
            if given_with and not preflight:
                raise click.UsageError(f"expected --preflight with {option}, found none")
        asked = Preflight(preflight, confirmed, also)
        return function(*arguments, preflight=asked, **given)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run  # type: ignore[return-value]  # wraps: the options are taken here


def _checked(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    from control_plane.cli.arguments import checked_environment

    for each in value:
        checked_environment(context, parameter, each)
    return value


_OPTIONS: Final = (
    click.option(
        "--preflight", is_flag=True,
        help="Show which merged configuration changes, for whom; refuse above 50 tenants.",
    ),
    click.option(
        "--yes-change", "confirmed", type=click.IntRange(0), metavar="N",
        help="With --preflight: so many tenants at most are meant to change.",
    ),
    click.option(
        "--also", multiple=True, metavar="ENV", callback=_checked,
        help="With --preflight: look at this environment, too; may be repeated.",
    ),
)  # fmt: skip


def _standing(
    author: Publisher, environment: str, given: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    from control_plane.cli.configuring_sources import live_configs

    with progress(f"{environment}: configuration") as moved:
        return live_configs(author, environment, given, moved)
