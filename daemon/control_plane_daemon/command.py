"""``control-plane daemon``: follow a store, or a folder of manifests.

On stdout stands one line per environment, ``daemon ready: NAME at generation N``, once readers see
the log's end; everything else goes to stderr, one line for each
event: JSON, or for people where that is a terminal.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from control_plane.cli.settings import tell_of_clear_token
from control_plane.defaults import usage_folder, writer_root
from control_plane.errors import ManifestInvalid, NotFound
from control_plane.names import ENVIRONMENT
from control_plane.telemetry.logs import set_up_logging
from control_plane.telemetry.service_manager import ServiceManager
from control_plane.trust.enrolment import Enrolment
from control_plane_daemon.service import Settings, end, first_of, run, stop_on_signals

if TYPE_CHECKING:
    from control_plane_daemon.embedded import State

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
DEVELOPMENT = "development"


@click.command()
@click.option(
    "--store", metavar="URL", envvar="CONTROL_PLANE_STORE", help="The store: URL or unix:PATH."
)
@click.option(
    "--token-file", type=FILE, envvar="CONTROL_PLANE_TOKEN_FILE", help="File with a follow token."
)
@click.option("--trust", type=FILE, help="trust.json: the logs this node is enrolled in.")
@click.option("--replica", metavar="ROOT", help="Folder that gets a replica for each environment.")
@click.option(
    "-e", "--environment", "environments", multiple=True, metavar="NAME",
    envvar="CONTROL_PLANE_ENVIRONMENT", help="Environment to follow; may be repeated.",
)  # fmt: skip
@click.option(
    "--from", "manifests", type=FOLDER, metavar="DIR",
    help="Follow this folder of manifests instead of a store; for development.",
)  # fmt: skip
@click.option(
    "--state", type=FOLDER, metavar="DIR", help="With --from: where keys and log are kept."
)
@click.option(
    "--metrics",
    metavar="ADDRESS",
    help="Answer /metrics on HOST:PORT or unix:PATH; default: nowhere.",
)
def daemon(
    store: str | None,
    token_file: Path | None,
    trust: Path | None,
    replica: str | None,
    environments: tuple[str, ...],
    manifests: Path | None,
    state: Path | None,
    metrics: str | None,
) -> None:
    """Follow logs, verify every entry, and keep the replicas of this node."""
    set_up_logging()
    manager = ServiceManager.take_from(os.environ)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    root = Path(writer_root(replica))
    for environment in environments:
        _check_environment(environment)
    if manifests is not None:
        if not manifests.is_dir():
            raise NotFound(f"{manifests}: expected a folder of manifests, found none")
        _run_from(manifests, state, root, environments or (DEVELOPMENT,), manager, metrics)
        return
    if store is None or trust is None:
        missing = "--store" if store is None else "--trust"
        raise click.UsageError(f"expected {missing} or --from, found neither")
    if state is not None:
        raise click.UsageError("expected --state with --from only, found it with --store")
    if token_file is not None:
        tell_of_clear_token(store)
    enrolment = Enrolment.decode(_read(trust))
    settings = Settings(
        store=store,
        token=None if token_file is None else _read(token_file).decode("ascii", "replace").strip(),
        enrolment=enrolment,
        root=root,
        environments=environments or tuple(sorted(enrolment.checkpoints)),
        usage=usage_folder(),
        metrics=metrics,
    )
    asyncio.run(_run(settings, manager))


async def _run(settings: Settings, manager: ServiceManager) -> None:
    stop = stop_on_signals(asyncio.get_running_loop())
    await run(settings, _say_ready, stop, manager=manager)


def _run_from(
    manifests: Path,
    folder: Path | None,
    root: Path,
    environments: tuple[str, ...],
    manager: ServiceManager,
    metrics: str | None,
) -> None:
    from control_plane_daemon.embedded import default_state, prepare

    state = prepare(folder or default_state(manifests), environments)
    asyncio.run(_follow_folder(manifests, state, root, environments, manager, metrics))


async def _follow_folder(
    manifests: Path,
    state: State,
    root: Path,
    environments: tuple[str, ...],
    manager: ServiceManager,
    metrics: str | None,
) -> None:
    """Run the store, publish the folder into it, and follow it like any other."""
    from control_plane.publish.client import StoreClient
    from control_plane.publish.publisher import Publisher
    from control_plane_daemon.embedded import EmbeddedStore
    from control_plane_daemon.folder import follow_folder

    stop = stop_on_signals(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        store = EmbeddedStore(state)
        stack.push_async_callback(store.stop)
        await store.start()
        client = StoreClient(store.url, state.token("submit"))
        publisher = stack.enter_context(Publisher(client, str(state.keys / "author.pem")))
        published = asyncio.Event()
        beside = [
            asyncio.create_task(store.watch()),
            asyncio.create_task(
                follow_folder(publisher, manifests, environments, stop, published.set)
            ),
        ]
        stack.push_async_callback(end, beside)
        # Whoever waits for the ready line finds the folder's documents served.
        await first_of(published.wait(), beside)
        settings = Settings(
            store=store.url,
            token=state.token("follow"),
            enrolment=state.enrolment(),
            root=root,
            environments=environments,
            development=True,
            usage=usage_folder(),
            metrics=metrics,
        )
        await run(settings, _say_ready, stop, beside, manager)


def _say_ready(environment: str, generation: int) -> None:
    click.echo(f"daemon ready: {environment} at generation {generation}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "nothing").lower()
        raise NotFound(f"{path}: expected a readable file, found {reason}") from error


def _check_environment(environment: str) -> None:
    if not ENVIRONMENT.fullmatch(environment):
        raise ManifestInvalid(
            f"environment: expected a name like {ENVIRONMENT.pattern}, found {environment!r}"
        )
