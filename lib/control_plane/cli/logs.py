"""``log verify``."""

from __future__ import annotations

from typing import Any

import click

from control_plane.cli.output import print_json, progress, when
from control_plane.cli.settings import environment_option, settings, store_client, store_options


@click.group()
def log() -> None:
    """Verify an environment's log."""


@log.command()
@environment_option
@click.option("--trust", metavar="FILE", help="trust.json to verify with.")
@store_options
def verify(environment: str, as_json: bool, **given: Any) -> None:
    """Replay the whole log and check every signature, hash and change, as a node does.

    Prints size, root, policy and number of heads; any two nodes and the store must agree on them.
    Exit code 6 when the log is not what it claims to be.
    """
    from control_plane.publish.replay import replay

    found = settings(**given)
    enrolment = found.enrolment()
    with (
        store_client(found, "follow", waiting=False) as client,
        progress(f"{environment}: entries") as moved,
    ):
        history = replay(client, environment, enrolment, progress=moved)
    assert history.checkpoint is not None
    assert history.policy is not None
    position, checkpoint = history.position, history.checkpoint
    count, state = history.state()
    result = {
        "environment": environment,
        "origin": position.origin,
        "size": position.size,
        "generation": position.generation,
        "root": position.frontier.root().hex(),
        "policy": history.policy.digest,
        "heads": count,
        "live": sum(head.live for head in history.heads.values()),
        "heads_root": state,
        "accepted": len(history.accepted),
        "rejected": len(history.rejected),
        "cosigned_at": checkpoint.cosigned_at,
    }
    if as_json:
        print_json(result)
        return
    click.echo(f"{position.origin}: verified {position.size} entries")
    for name in ("generation", "root", "policy", "heads", "live", "heads_root", "rejected"):
        click.echo(f"  {name.replace('_', ' '):<11} {result[name]}")
    if checkpoint.cosigned_at is not None:
        click.echo(f"  cosigned at {when(checkpoint.cosigned_at * 1000)}")
