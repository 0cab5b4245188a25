"""``control-plane sidecar``: serve this node's replica to the other processes of a pod.

On stdout stands one line, ``sidecar ready at PLACE``, once it answers; everything else goes to
stderr. A replica that is missing is waited for: until it is there ``/readyz`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
from pathlib import Path

import click

from control_plane.client import ControlPlaneClient
from control_plane.errors import InputInvalid
from control_plane.names import ENVIRONMENT
from control_plane.telemetry.logs import set_up_logging
from control_plane_sidecar.limits import Limits
from control_plane_sidecar.listening import DEFAULT, Place, listen, mode_of, place_of
from control_plane_sidecar.service import CONCURRENT, RATE, Sidecar, new_runner
from control_plane_sidecar.tokens import Tokens

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--listen", "place", default=DEFAULT, show_default=True,
    help="host:port on loopback, or unix:PATH.",
)  # fmt: skip
@click.option(
    "--socket-mode", default="0660", show_default=True, help="Who may connect to a unix socket."
)
@click.option(
    "--token-file", type=FILE, envvar="CONTROL_PLANE_TOKEN_FILE",
    help="File with a token a line, read again when it changes; required for TCP.",
)  # fmt: skip
@click.option("--replica", metavar="ROOT", help="Folder that holds the replicas.")
@click.option("-e", "--environment", metavar="NAME", help="Environment to serve.")
@click.option("--require-trusted", is_flag=True, help="Refuse a replica marked development.")
@click.option(
    "--rate", type=click.IntRange(1), default=RATE, show_default=True,
    help="Requests a second for each client.",
)  # fmt: skip
@click.option(
    "--concurrent", type=click.IntRange(1), default=CONCURRENT, show_default=True,
    help="Requests at once for each client, long polls and event streams included.",
)  # fmt: skip
def sidecar(
    place: str,
    socket_mode: str,
    token_file: Path | None,
    replica: str | None,
    environment: str | None,
    require_trusted: bool,
    rate: int,
    concurrent: int,
) -> None:
    """Serve flags (OFREP), configuration, agents and tools over HTTP."""
    try:
        where, mode = place_of(place), mode_of(socket_mode)
    except InputInvalid as error:
        raise click.UsageError(str(error)) from error
    if environment is not None and not ENVIRONMENT.fullmatch(environment):
        raise click.UsageError(
            f"expected an environment like {ENVIRONMENT.pattern}, found {environment!r}"
        )
    if not where.path and token_file is None:
        raise click.UsageError(
            "expected --token-file with TCP, found none; or pass --listen unix:PATH"
        )
    set_up_logging()
    _raise_descriptors()
    tokens = None if token_file is None else Tokens(token_file)
    with ControlPlaneClient(replica, environment, require_trusted) as client:
        asyncio.run(_serve(client, tokens, Limits(rate, concurrent), where, mode))


async def _serve(
    client: ControlPlaneClient, tokens: Tokens | None, limits: Limits, place: Place, mode: int
) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    service = Sidecar(client, tokens=tokens, limits=limits)
    runner = new_runner(service)
    await runner.setup()
    try:
        # What is there now stays: looking through it again and again would hold requests up.
        gc.freeze()
        click.echo(f"sidecar ready at {await listen(runner, place, mode)}")
        await stopped.wait()
        await service.stop()
    finally:
        await runner.cleanup()
        if place.path:
            with contextlib.suppress(OSError):
                os.unlink(place.path)  # noqa: PTH108


def _raise_descriptors() -> None:
    """Let this process open what the system allows: every event stream holds a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
