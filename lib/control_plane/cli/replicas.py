"""``replica verify``: whether a node's replica is what its bytes, and the log, say it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.accepting import accept_epoch
from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json, progress
from control_plane.cli.settings import settings
from control_plane.errors import NotFound

if TYPE_CHECKING:
    from control_plane.publish.replay import History
    from control_plane.replica.verify import Report


@click.group()
def replica() -> None:
    """Verify this node's replicas, or let one follow an epoch that leaves what it holds."""


replica.add_command(accept_epoch)


@replica.command()
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="Only this environment.",
)  # fmt: skip
@click.option("--replica", metavar="DIR", help="The replica root.")
@click.option(
    "--against", metavar="URL|DIR", help="Compare with the log there: a store, or an export."
)
@click.option("--trust", metavar="FILE", help="With --against: trust.json to verify the log with.")
@click.option("--token-file", metavar="FILE", help="File with the store's token (0600).")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def verify(environment: str | None, against: str | None, as_json: bool, **given: Any) -> int:
    """Check every page, record and head of the replicas on this node, beside a running daemon.

    With --against the log there is verified from its first entry, and the replica's heads must be
    those it leads to at the replica's generation. Exit code 1 when anything is wrong.
    """
    from control_plane.defaults import environments, replica_root

    root = replica_root(settings(**given).replica())
    names = [environment] if environment else list(environments(root))
    if not names:
        raise NotFound(
            f"{root}: expected a replica, found none; start 'control-plane daemon' or 'up'"
        )
    rows = [_verified(root, name, against, given) for name in names]
    sound = not any(row["problems"] for row in rows)
    if as_json:
        print_json({"replica": root, "ok": sound, "environments": rows})
    else:
        for row in rows:
            _print(row)
    return 0 if sound else 1


def _verified(
    root: str, environment: str, against: str | None, given: dict[str, Any]
) -> dict[str, Any]:
    from control_plane.replica.verify import verify as verify_replica

    with progress(f"{environment}: records"):
        report = verify_replica(str(Path(root) / environment))
    row: dict[str, Any] = {
        "environment": environment,
        "directory": report.directory,
        "generation": report.generation,
        "records": dict(report.records),
        "heads": report.heads,
        "heads_root": report.root,
        "log_generation": None,
        "problems": list(report.problems),
    }
    if against is not None and report.root:
        history = _history(against, environment, given)
        row["log_generation"] = history.position.generation
        row["problems"] += _disagreements(report, history)
    return row


def _history(against: str, environment: str, given: dict[str, Any]) -> History:
    from control_plane.cli.logs import static_source
    from control_plane.publish.replay import replay

    with (
        static_source(against, **given) as (found, log),
        progress(f"{environment}: entries") as moved,
    ):
        return replay(log, environment, found.enrolment(), progress=moved)


def _disagreements(report: Report, history: History) -> Sequence[str]:
    """How the replica's heads differ from those the log leads to at the same generation."""
    origin, generation = history.position.origin, history.position.generation
    if report.generation > generation:
        return [
            f"{origin}: expected a log of at least generation {report.generation}, found"
            f" {generation}; the store is behind or was restored from an older backup"
        ]
    if report.generation and not history.holds(report.generation):
        # What it holds came after the end that a later epoch continues.
        return [
            f"{origin}: expected a replica of this log's history, found generation"
            f" {report.generation}, which a new epoch left behind; see 'control-plane replica"
            " accept-epoch'"
        ]
    count, root = history.state_at(report.generation)
    if (count, root) == (report.heads, report.root):
        return []
    return [
        f"{origin}: expected {count} heads with root {root} at generation {report.generation},"
        f" found {report.heads} with {report.root}; move the replica away and start the daemon"
    ]


def _print(row: dict[str, Any]) -> None:
    name, counts = row["environment"], row["records"]
    for problem in row["problems"]:
        click.echo(f"{name}: {problem}")
    if row["problems"]:
        click.echo(f"{name}: not sound, in {row['directory']}")
        return
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "no records"
    click.echo(f"{name}: sound at generation {row['generation']}; {listed}; {row['heads']} heads")
    click.echo(f"  heads root  {row['heads_root']}")
    if row["log_generation"] is not None:
        click.echo(f"  the log agrees; it stands at generation {row['log_generation']}")
