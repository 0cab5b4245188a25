"""``config diff``: where merged configuration differs.

The left side is what would be written to, as in ``diff``: an environment as it stands, its past, a
tenant's base. Where files were pulled and the store has moved on since, they are three: what was
pulled, the files, and what stands now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.configuring_report import (
    impact_json,
    impact_lines,
    key_text,
    leaf_lines,
    value_text,
)
from control_plane.cli.output import print_json, progress
from control_plane.cli.settings import publisher, settings, store_options
from control_plane.configs.layers import same
from control_plane.configs.merged import ABSENT
from control_plane.errors import NotFound

if TYPE_CHECKING:
    from control_plane.cli.files import DocumentFile
    from control_plane.cli.settings import Settings
    from control_plane.publish.preflight import Impact
    from control_plane.publish.publisher import Publisher


@dataclass(frozen=True, slots=True)
class Three:
    """A merged value that files and the store changed since they were one, or one of them did."""

    path: str
    pulled: Any
    files: Any
    live: Any

    @property
    def alike(self) -> bool:
        """Whether it is one value on all three sides."""
        return same(self.pulled, self.files) and same(self.files, self.live)

    def says(self, other: Three) -> bool:
        """Whether another says the very same."""
        return (
            same(self.pulled, other.pulled)
            and same(self.files, other.files)
            and same(self.live, other.live)
        )

    @property
    def verdict(self) -> str:
        """Who changed it."""
        if same(self.files, self.live):
            return "both, alike"
        if same(self.pulled, self.live):
            return "files"
        return "live" if same(self.pulled, self.files) else "conflict"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="The environment to compare with, or in.",
)  # fmt: skip
@click.option(
    "-f", "--file", "files", multiple=True, metavar="PATH", help="Files beside the store."
)
@click.option(
    "--from", "source", metavar="ENV", callback=checked_environment,
    help="The environment that --to would be made like.",
)  # fmt: skip
@click.option("--to", "target", metavar="ENV", callback=checked_environment, help="With --from.")
@click.option(
    "--tenant", "tenants", multiple=True, metavar="ID", help="One beside the base, or two."
)
@click.option(
    "--at", "generations", multiple=True, type=int, metavar="GENERATION",
    help="Then beside now, or two generations.",
)  # fmt: skip
@click.option("--trust", metavar="FILE", help="trust.json to verify the log with.")
@store_options
def diff(
    names: tuple[str, ...],
    environment: str | None,
    files: tuple[str, ...],
    source: str | None,
    target: str | None,
    tenants: tuple[str, ...],
    generations: tuple[int, ...],
    as_json: bool,
    **given: Any,
) -> int:
    """Show which merged values differ, for the base and every tenant; all or those of NAMEs.

    -f PATH -e ENV: what publishing the files would change; three ways when the store moved on since
    'pull'. --from A --to B: two environments. -e ENV --tenant ID: a tenant and the base, or two
    tenants. -e ENV --at G: what changed since a generation, or between two. Exit code 1 when
    anything differs.
    """
    modes = [bool(files), bool(source and target), bool(tenants), bool(generations)]
    if (
        sum(modes) != 1
        or bool(source) != bool(target)
        or bool(environment) == bool(source)
        or len(tenants) > 2
        or len(generations) > 2
    ):
        raise click.UsageError(
            "expected -e ENV with -f PATH, with --tenant (one or two) or with --at (one or two), or"
            " --from ENV with --to ENV"
        )
    from control_plane.publish.preflight import impact, spaces

    found = settings(**given)
    with publisher(found, sign=False, waiting=False) as reader, progress("configuration"):
        if tenants and environment:
            return _of_tenants(reader, environment, tenants, names, as_json)
        if files and environment:
            return _of_files(found, reader, environment, files, names, as_json)
        if source and target:
            before, after = (spaces(_live(reader, each)) for each in (target, source))
            _require(names, before, after)
            told = impact(before, after, target, source)
        else:
            told = _of_generations(found, reader, str(environment), generations, names)
    return _shown(told, as_json, names)


def _live(reader: Publisher, environment: str) -> list[Mapping[str, Any]]:
    from control_plane.cli.configuring_sources import live_configs

    return live_configs(reader, environment)


def _of_generations(
    found: Settings,
    reader: Publisher,
    environment: str,
    generations: tuple[int, ...],
    names: tuple[str, ...],
) -> Impact:
    from control_plane.cli.configuring_sources import configs_at, verified_history
    from control_plane.publish.preflight import impact, spaces

    history = verified_history(reader, found, environment)
    first, *later = sorted(generations)
    last = later[0] if later else history.position.generation
    sides = [spaces(configs_at(reader, history, each)) for each in (first, last)]
    _require(names, *sides)
    return impact(sides[0], sides[1], environment)


def _of_tenants(
    reader: Publisher,
    environment: str,
    tenants: tuple[str, ...],
    names: tuple[str, ...],
    as_json: bool,
) -> int:
    from control_plane.publish.preflight import between, spaces

    one, other = tenants if len(tenants) == 2 else ("", tenants[0])
    side = spaces(_live(reader, environment))
    _require(names, side)
    changes = [
        change for change in between(side, environment, one, other) if _wanted(change.path, names)
    ]
    left, right = one or "the base", other
    if as_json:
        told = [change.to_json() for change in changes]
        print_json({"environment": environment, "left": one, "right": other, "changed": told})
    elif changes:
        click.echo(f"{environment}: {len(changes):,} merged values differ, {left} -> {right}")
        for line in leaf_lines(changes):
            click.echo(line)
    else:
        click.echo(f"{environment}: {left} and {right} have the same values")
    return 1 if changes else 0


def _of_files(
    found: Settings,
    reader: Publisher,
    environment: str,
    files: tuple[str, ...],
    names: tuple[str, ...],
    as_json: bool,
) -> int:
    from control_plane.cli.configuring_sources import configs_of, live_configs
    from control_plane.cli.files import read_documents
    from control_plane.publish.preflight import impact, spaces

    read = read_documents(files)
    given = configs_of(read)
    live = live_configs(reader, environment, given)
    _require(names, spaces(live), spaces(given))
    moved = list(_pulled_past(found, reader, environment, read))
    if moved:
        pulled = spaces([*live, *moved])
        three = [
            each
            for each in _three(pulled, spaces([*live, *given]), spaces(live), environment)
            if _wanted(each[1].path, names)
        ]
        return _shown_three(three, environment, as_json)
    return _shown(impact(spaces(live), spaces([*live, *given]), environment), as_json, names)


def _pulled_past(
    found: Settings, reader: Publisher, environment: str, files: Iterable[DocumentFile]
) -> Iterator[Mapping[str, Any]]:
    """The documents as they were pulled, of those that the store has changed since."""
    from control_plane.cli.configuring_sources import verified_history
    from control_plane.cli.pulled import read_pulled
    from control_plane.log.statements import Key

    heads = reader.heads(environment, kind="config")
    past: dict[Key, int] = {}
    records: dict[Path, dict[str, int]] = {}
    for item in files:
        if item.document["kind"] != "config":
            continue
        folder = item.path.resolve().parent
        if folder not in records:
            records[folder] = read_pulled(folder, environment)
        generation = records[folder].get(item.reference)
        key = Key("config", item.document["name"])
        head = heads.get(key)
        if (
            generation is not None
            and head is not None
            and head.live
            and head.generation != generation
        ):
            past[key] = generation
    if not past:
        return
    history = verified_history(reader, found, environment)
    for key, generation in past.items():
        change = history.changes_at(generation).get(key)
        if change is not None and change.digest is not None:
            yield reader.document_at(environment, change.digest)


def _three(pulled: Any, files: Any, live: Any, environment: str) -> Iterator[tuple[str, Three]]:
    """Every value of the base that is not one on all three sides, then each tenant's own."""
    from control_plane.publish.preflight import own_leaves

    sides = [own_leaves(side, environment) for side in (pulled, files, live)]

    def three(path: str, tenant: str) -> Three:
        values = (side.get(tenant, {}).get(path, side[""].get(path, ABSENT)) for side in sides)
        return Three(path, *values)

    for tenant in sorted({each for side in sides for each in side}):
        for path in sorted({path for side in sides for path in side.get(tenant, ())}):
            found = three(path, tenant)
            if found.alike or (tenant and found.says(three(path, ""))):
                continue
            yield tenant, found


def _require(names: tuple[str, ...], *sides: Mapping[str, Any]) -> None:
    """A NAME that no side has is a mistake, not something without a difference."""
    for name in names:
        if not any(name.removeprefix("config/") in side for side in sides):
            raise NotFound(f"config/{name.removeprefix('config/')}: expected it, found none")


def _wanted(path: str, names: tuple[str, ...]) -> bool:
    return not names or path.partition(".")[0] in {each.removeprefix("config/") for each in names}


def _shown_three(three: list[tuple[str, Three]], environment: str, as_json: bool) -> int:
    if as_json:
        print_json({"environment": environment, "three": [_told(*each) for each in three]})
        return 1 if three else 0
    clashes = sum(each.verdict == "conflict" for _, each in three)
    click.echo(
        f"{environment}: changed since it was pulled; {len(three):,} merged values differ,"
        f" {clashes:,} of them conflict"
    )
    for tenant, each in three:
        whose = f" for tenant {tenant}" if tenant else ""
        click.echo(f"  {key_text(each.path)}{whose} ({each.verdict})")
        for name in ("pulled", "files", "live"):
            click.echo(f"    {name:<8}{value_text(getattr(each, name))}")
    return 1 if three else 0


def _told(tenant: str, each: Three) -> dict[str, Any]:
    sides = {name: getattr(each, name) for name in ("pulled", "files", "live")}
    told = {"key": each.path, "tenant": tenant or None, "verdict": each.verdict}
    return told | {name: value for name, value in sides.items() if value is not ABSENT}


def _shown(impact: Impact, as_json: bool, names: tuple[str, ...] = ()) -> int:
    found = impact.narrowed(lambda path: _wanted(path, names))
    if as_json:
        print_json(impact_json(found))
    else:
        for line in impact_lines(found):
            click.echo(line)
    return 0 if found.empty else 1
