"""``up``: the whole on one machine, until Ctrl-C.

Store and daemon run as child processes of their own; this process publishes ``manifests/`` and
publishes again whenever a file there changes. A folder that cannot be read or published changes
nothing: the last good state stays and the reason is printed. A flag that an operator switched by
command is left as it is until ``pull`` brings that into the files, or ``--take-over`` says no.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.settings import (
    NO_PROJECT,
    RUNNING,
    Project,
    Settings,
    find_project,
    read_project,
    settings,
)
from control_plane.errors import ControlPlaneError, NotFound, Unavailable
from control_plane.shown import shown

if TYPE_CHECKING:
    from control_plane.cli.children import Child


READY_SECONDS = 30.0


@click.command()
@click.option("--project", "folder", metavar="DIR", help="The project; default the one around.")
@click.option("--listen", metavar="HOST:PORT", help="Where the store listens; default as made.")
@click.option("--replica", metavar="DIR", help="The replica root to write.")
@click.option("--take-over", is_flag=True, help="Write over changes that were not made by apply.")
def up(folder: str | None, listen: str | None, replica: str | None, take_over: bool) -> None:
    """Run store and daemon here and publish manifests/ as it changes, until Ctrl-C."""
    from control_plane.cli import services
    from control_plane.defaults import writer_root

    project = _project(folder)
    address = services.checked_listen(listen or services.listen_address(project.store))
    services.require_free(address)
    root = Path(writer_root(replica or settings().replica() or project.replica))
    with ExitStack() as stack, _stop_signals() as stop:
        store, url = services.start_store(project, address, say=_say("store"))
        stack.callback(store.stop)
        stack.enter_context(_announced(project, url))
        click.echo(f"store    {url}")
        daemon = services.start_daemon(project, url, root, project.environments, say=_say("daemon"))
        stack.callback(daemon.stop)
        click.echo(f"replica  {root}")
        _publish(project, url, take_over)
        _await_replicas(project, url, root)
        click.echo(f"ready; watching {project.manifests}, Ctrl-C ends")
        _follow(project, url, take_over, stop, (store, daemon))
        click.echo("ending")


def _project(folder: str | None) -> Project:
    found = find_project(Path.cwd()) if folder is None else read_project(Path(folder))
    if found is None:
        raise NotFound(f"expected a project here or above, found none; {NO_PROJECT}")
    return found


def _publish(project: Project, url: str, take_over: bool) -> None:
    """Publish every environment; what is refused is printed and changes nothing."""
    for environment in project.environments:
        try:
            click.echo(publish_folder(project, url, environment, take_over=take_over))
        except ControlPlaneError as error:
            click.echo(f"{environment}: not published: {shown(error)}", err=True)


def _await_replicas(project: Project, url: str, root: Path) -> None:
    """Until applications see what the store holds, so that "ready" is true for them too."""
    from control_plane.cli.settings import read_token
    from control_plane.client import ControlPlaneClient
    from control_plane.publish.client import StoreClient

    token = read_token(project.private / "tokens" / "follow.token")
    with StoreClient(url, token) as store:
        for environment in project.environments:
            generation = int(store.position(environment)["generation"])
            with ControlPlaneClient(str(root), environment) as client:
                client.wait_for(generation, timeout_seconds=READY_SECONDS)


def publish_folder(project: Project, url: str, environment: str, *, take_over: bool = False) -> str:
    """Apply the project's manifests to one environment; one line about what changed.

    Raises:
        ControlPlaneError: nothing was published, for the reason it says.
    """
    from control_plane.cli.applying import propose
    from control_plane.cli.files import read_documents
    from control_plane.cli.settings import publisher

    private = project.private
    found = Settings(
        {},
        project.folder,
        {
            "store": url,
            "token_file": str(private / "tokens" / "submit.token"),
            "key": (str(private / "keys" / "author.pem"),),
            "trust": str(private / "trust.json"),
        },
    )
    documents = read_documents([project.manifests])
    with publisher(found) as author:
        proposal = propose(author, documents, environment, "manifests changed", "stable")
        comparison = author.compare(proposal)
        kept: list[str] = []
        if not take_over:
            comparison, kept = _without_switched(found, environment, documents, comparison)
        submissions = author.submit(proposal, comparison)
    for sentence in kept:
        click.echo(f"kept: {sentence}", err=True)
    generation = f"; generation {submissions[-1].generation}" if submissions else ""
    return f"{environment}: {len(comparison.changes)} of {len(proposal)} changed{generation}"


def _without_switched(
    found: Settings, environment: str, documents: Any, comparison: Any
) -> tuple[Any, list[str]]:
    """The comparison without records an operator changed, and a sentence for each of those."""
    from dataclasses import replace

    from control_plane.cli.applying import taken_over

    refused = taken_over(found, environment, documents, comparison)
    changes = tuple(
        change
        for change in comparison.changes
        # A segment's shards stay as they are when it does.
        if not refused.keys() & {change.key, change.key._replace(part="")}
    )
    return replace(comparison, changes=changes), list(refused.values())


def _follow(
    project: Project, url: str, take_over: bool, stop: threading.Event, children: tuple[Child, ...]
) -> None:
    from watchfiles import watch

    for changes in watch(
        project.manifests,
        stop_event=stop,
        debounce=200,
        rust_timeout=500,
        yield_on_timeout=True,
        raise_interrupt=False,
    ):
        for child in children:
            if child.exit_code is not None and not stop.is_set():
                raise Unavailable(
                    f"{child.name}: expected it to run, found it ended with {child.exit_code}"
                )
        if changes:
            _publish(project, url, take_over)


def _say(name: str) -> Callable[[str], None]:
    """Pass a child's lines on, but for "ready": that word is ours, once everything is."""

    def say(line: str) -> None:
        if not line.startswith(f"{name} ready"):
            click.echo(f"{name}: {line}")

    return say


@contextmanager
def _announced(project: Project, url: str) -> Iterator[None]:
    """Tell the project's other commands where the store is, for as long as it is there."""
    from control_plane.publish.durable import write_over

    path = project.private / RUNNING
    # Whole at any moment: a command that finds half an address would ask somebody else.
    write_over(path, f"{url}\n".encode(), 0o644)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that children end in order."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
