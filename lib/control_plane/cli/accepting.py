"""``replica accept-epoch``: a node leaves what it holds and follows an epoch that root signed.

What the node alone has is saved before anything else, so that nothing is lost by saying yes. Then
consent to the very epoch that was offered is written where the daemon looks for it; the daemon
reads the log again beside the replica and swaps. The command may be run again at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from control_plane.cli.arguments import checked_environment
from control_plane.cli.output import print_json, progress, when
from control_plane.cli.settings import settings
from control_plane.errors import InputInvalid, NotFound, WaitTimeout

if TYPE_CHECKING:
    from control_plane.replica.evidence import Offer, Standing

LOOK_SECONDS: Final = 0.05


@click.command(name="accept-epoch")
@click.option(
    "-e", "--environment", "--env", metavar="ENV", required=True, callback=checked_environment,
    help="The environment.",
)  # fmt: skip
@click.option("--replica", metavar="DIR", help="The replica root.")
@click.option(
    "--out", metavar="FILE", help="Where to save what is dropped; dropped-ENV-EPOCH.json if not."
)
@click.option(
    "--timeout", "timeout_seconds", type=click.FloatRange(0), default=30.0, metavar="SECONDS",
    help="How long to wait for the daemon; 30 if not given.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help='Print one object with "format": 1.')
def accept_epoch(
    environment: str,
    replica: str | None,
    out: str | None,
    timeout_seconds: float,
    as_json: bool,
) -> int:
    """Let this node follow a new epoch that leaves what it holds.

    The daemon offers one when root has the log go on from before the node's own end, after the
    store was restored from an older backup. What only this node has is saved to a file first; then
    the daemon reads the log again from its start and swaps. Until then the old data is served.
    """
    from control_plane.defaults import replica_root
    from control_plane.replica.evidence import (
        has_daemon,
        read_consent,
        read_standing,
        write_consent,
    )

    root = replica_root(settings(replica=replica).replica())
    folder = str(Path(root) / environment)
    standing = read_standing(folder, environment)
    offer = standing.offer
    if offer is None:
        raise NotFound(
            f"{environment}: expected an epoch that the daemon offers, found none; this node"
            f" follows {standing.origin or 'nothing yet'}"
        )
    given = read_consent(folder) == offer.origin
    saved = None if given else _save(environment, folder, standing, offer, out)
    if not given:
        write_consent(folder, offer.origin)
    moved = _wait(environment, folder, offer, timeout_seconds)
    running = moved or has_daemon(folder, time.time_ns())
    told = {
        "environment": environment,
        "left": offer.held_origin,
        "origin": offer.origin,
        "saved": None if saved is None else saved.path,
        "dropped": 0 if saved is None else saved.dropped,
        "unsure": 0 if saved is None else saved.unsure,
        "daemon": running,
        "moved": moved,
    }
    if as_json:
        print_json(told)
    else:
        _print(told)
    if running and not moved:
        raise WaitTimeout(
            f"{environment}: expected the daemon to follow {offer.origin} within"
            f" {timeout_seconds:.0f} s, found it still reading; its log says what it waits for"
        )
    return 0


class _Saved(NamedTuple):
    """The file that holds what is dropped, and how many keys it has of each sort."""

    path: str
    dropped: int
    unsure: int


def _save(
    environment: str, folder: str, standing: Standing, offer: Offer, out: str | None
) -> _Saved:
    """Write what is dropped, and what may be, to a new file.

    A run that ended before it consented has left the same file; then that is the one.
    """
    from dataclasses import asdict

    from control_plane.replica.dropped import read_dropped

    epoch = offer.origin.rpartition("/")[2]
    path = Path(out or f"dropped-{environment}-{epoch}.json")
    dropped = read_dropped(folder, offer.keeps)
    begins = standing.bases.get(offer.epoch, 0)
    unsure = read_dropped(folder, offer.keeps, begins) if begins < offer.keeps else []
    content = {
        "format": 1,
        "environment": environment,
        "saved_at": when(time.time_ns() // 1_000_000),
        "offer": asdict(offer),
        "dropped": dropped,
        "unsure": unsure,
    }
    data = json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
    if not _holds(path, content):
        save_new(path, data)
    return _Saved(str(path), len(dropped), len(unsure))


def _holds(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether the file is what an earlier run saved of the very same."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found | {"saved_at": content["saved_at"]} == content


def save_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file that was not there, durable and whole.

    Raises:
        InputInvalid: there is one of that name, or none can be written.
    """
    from control_plane.publish.durable import write_new

    try:
        write_new(path, data, mode)
    except FileExistsError as error:
        raise InputInvalid(
            f"{path}: expected no file of that name, found one; it was left as it is, name another"
            " with --out"
        ) from error
    except OSError as error:
        reason = (error.strerror or "nothing").lower()
        raise InputInvalid(f"{path}: expected to write it, found: {reason}") from error


def _wait(environment: str, folder: str, offer: Offer, timeout_seconds: float) -> bool:
    """Whether the replica readers are sent to came to the new epoch in time.

    A daemon that gives no sign of life is not waited for.
    """
    from control_plane.errors import ReplicaInvalid, Unavailable
    from control_plane.replica.evidence import has_daemon, read_standing

    deadline = time.monotonic() + timeout_seconds
    with progress(f"{environment}: waiting for {offer.origin}"):
        while True:
            try:
                if read_standing(folder, environment).origin != offer.held_origin:
                    return True
                if not has_daemon(folder, time.time_ns()):
                    return False
            except (Unavailable, ReplicaInvalid):
                pass  # it is being swapped
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_SECONDS)


def _print(told: Mapping[str, Any]) -> None:
    name = told["environment"]
    if told["saved"] is None:
        click.echo(f"{name}: {told['origin']} was accepted before; nothing more to save")
    else:
        click.echo(f"{name}: saved {told['dropped']} keys that are dropped to {told['saved']}")
        if told["unsure"]:
            click.echo(
                f'{name}: and {told["unsure"]} from before, as "unsure": they are dropped too'
                " where the store took other changes between its backup and the new epoch"
            )
    if told["moved"]:
        click.echo(f"{name}: follows {told['origin']} now, and no longer {told['left']}")
    elif not told["daemon"]:
        click.echo(f"{name}: accepted {told['origin']}; the daemon follows it once it runs")
