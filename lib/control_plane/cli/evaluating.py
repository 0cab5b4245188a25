"""``eval`` and ``status``: what applications on this node are told, through the same library."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.arguments import checked_environment, name_argument, nearest
from control_plane.cli.output import print_json, print_table
from control_plane.cli.settings import Settings, settings
from control_plane.errors import (
    ControlPlaneError,
    NotFound,
    ReplicaUnavailable,
    StoreUnreachable,
    SyntaxInvalid,
)

if TYPE_CHECKING:
    from control_plane.client import ControlPlaneClient, Health
    from control_plane.feature_flags.evaluation import Evaluation


@click.command("eval")
@name_argument("flag")
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="The environment.",
)  # fmt: skip
@click.option("--user-id", metavar="ID", help="The user asked for.")
@click.option("--tenant-id", metavar="ID", help="The tenant asked for.")
@click.option("--context", metavar="JSON", help="Further attributes, as one JSON object.")
@click.option("--explain", is_flag=True, help="Also say why, step by step.")
@click.option("--replica", metavar="DIR", help="The replica root.")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def evaluate(
    name: str,
    environment: str | None,
    user_id: str | None,
    tenant_id: str | None,
    context: str | None,
    explain: bool,
    replica: str | None,
    as_json: bool,
) -> None:
    """Evaluate a flag from this node's replica, as an application would. Needs no store."""
    from control_plane.client import ControlPlaneClient

    # The library logs what it answers with a default; here that is the answer, said once.
    logging.getLogger("control_plane").addHandler(logging.NullHandler())
    given = attributes(context)
    with ControlPlaneClient(settings(replica=replica).replica(), environment) as client:
        result = client.flags.evaluate(
            name, None,
            user_id=user_id, tenant_id=tenant_id, context=given,
        )  # fmt: skip
        told = _answered(name, client, result)
        steps = client.flags.explain(name, user_id, tenant_id, given).steps if explain else ()
    if as_json:
        print_json(told | ({"steps": list(steps)} if explain else {}))
        return
    click.echo(json.dumps(result.value, ensure_ascii=False))
    if explain:
        for step in steps:
            click.echo(f"  {step}")
        for field in ("variant", "reason", "rule", "error_code", "environment", "generation"):
            if told[field] is not None:
                click.echo(f"  {field.replace('_', ' '):<12}{told[field]}")


def _answered(name: str, client: ControlPlaneClient, result: Evaluation) -> dict[str, Any]:
    """The evaluation as it is printed.

    Raises:
        ReplicaUnavailable: there is no replica to ask, or nobody said which.
        NotFound: the replica has no such flag.
    """
    if result.error_code == "PROVIDER_NOT_READY":
        absence = client.source.error or f"{client.replica}: expected a replica, found none"
        raise ReplicaUnavailable(str(absence))
    environment = client.health().environment
    if result.error_code == "FLAG_NOT_FOUND":
        hint = nearest(name, _flag_names(client))
        raise NotFound(f"flag/{name}: expected it in {environment}, found none{hint}")
    return {
        "name": name,
        "environment": environment,
        "value": result.value,
        "variant": result.variant,
        "reason": result.reason,
        "rule": result.rule,
        "error_code": result.error_code,
        "generation": result.generation,
    }


def _flag_names(client: ControlPlaneClient) -> list[str]:
    from control_plane.replica.format import FLAG

    replica = client.source.open()
    if replica is None:
        return []
    with replica.view() as view:
        return [key[1:].decode("utf-8", "replace") for key, _ in view.scan(bytes((FLAG,)))]


@click.command()
@click.option(
    "-e", "--environment", "--env", metavar="ENV", callback=checked_environment,
    help="Only this environment.",
)  # fmt: skip
@click.option("--replica", metavar="DIR", help="The replica root.")
@click.option("--store", metavar="URL", help="http(s)://host:port or unix:/path of the store.")
@click.option("--token-file", metavar="FILE", help="File with the store's token (0600).")
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def status(environment: str | None, as_json: bool, **given: Any) -> int:
    """Show the replicas of this node and, when it answers, the store beside them.

    Exit code 1 when a replica is missing or its data is not fresh; an absent store alone is no
    failure, because nothing on the read path needs it.
    """
    from control_plane.defaults import environments, replica_root

    found = settings(**given)
    root = replica_root(found.replica())
    names = [environment] if environment else list(environments(root))
    if not names:
        raise NotFound(
            f"{root}: expected a replica, found none; start 'control-plane daemon' or 'up'"
        )
    rows = [_row(found, root, name) for name in names]
    healthy = all(row["ready"] and not row["stale"] for row in rows)
    if as_json:
        print_json({"replica": root, "store": found.store, "ok": healthy, "environments": rows})
    else:
        click.echo(f"replicas under {root}; store {found.store}")
        print_table(
            ("environment", "generation", "store at", "age", "state"),
            [
                (
                    row["environment"],
                    row["generation"],
                    row["store_generation"] if row["store_generation"] is not None else "-",
                    "-" if row["age_seconds"] is None else f"{row['age_seconds']:.0f} s",
                    _state(row),
                )
                for row in rows
            ],
        )
        for row in rows:
            for sentence in row["reasons"]:
                click.echo(f"{row['environment']}: {sentence}")
        sentences = [sentence for row in rows for sentence in row["reasons"]]
        if not all(sentence.startswith("development:") for sentence in sentences):
            click.echo("next: 'control-plane doctor' says what cures this")
        if all(row["store_generation"] is None for row in rows):
            click.echo(f"store: {rows[0]['store_problem']}")
    return 0 if healthy else 1


def _row(found: Settings, root: str, name: str) -> dict[str, Any]:
    from control_plane.cli.offered import with_offer
    from control_plane.client import ControlPlaneClient

    with ControlPlaneClient(root, name) as client:
        health = client.health()
    generation, problem = _store_generation(found, name)
    return _told(name, health) | {
        "reasons": with_offer(f"{root}/{name}", name, health.reasons),
        "store_generation": generation,
        "store_problem": problem,
    }


def _told(name: str, health: Health) -> dict[str, Any]:
    return {
        "environment": name,
        "ready": health.ready,
        "generation": health.generation,
        "age_seconds": health.age_seconds,
        "heartbeat_age_seconds": health.heartbeat_age_seconds,
        "stale": health.stale,
        "held": health.held,
        "rejected": health.rejected,
        "development": health.development,
        "reasons": list(health.reasons),
    }


def _state(row: dict[str, Any]) -> str:
    if not row["ready"]:
        return "missing"
    words = [word for word in ("stale", "held", "rejected", "development") if row[word]]
    return ", ".join(words) or "fresh"


def _store_generation(found: Settings, name: str) -> tuple[int | None, str | None]:
    """The store's generation of an environment; None and why where it cannot be asked."""
    from control_plane.publish.client import StoreClient

    try:
        with StoreClient(found.store, found.token("follow"), timeout_seconds=2.0) as client:
            return int(client.position(name)["generation"]), None
    except (StoreUnreachable, ControlPlaneError, ValueError) as error:
        return None, str(error)


def attributes(text: str | None) -> dict[str, Any] | None:
    """What ``--context`` holds; None without it.

    Raises:
        UsageError: it is no JSON object.
    """
    from control_plane.log.canonical import parse

    if text is None:
        return None
    try:
        value = parse(text.encode("utf-8", "surrogateescape"), what="--context")
    except SyntaxInvalid as error:
        raise click.UsageError(str(error)) from error
    if not isinstance(value, dict):
        raise click.UsageError("expected --context as a JSON object, found another value")
    return value
