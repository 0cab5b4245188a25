"""A project's store and daemon as child processes; ``up`` and ``demo`` start them alike."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import click

from control_plane.cli.children import Child
from control_plane.cli.settings import Project
from control_plane.errors import ControlPlaneError, Refused

COMMAND = ("-m", "control_plane")
Say = Callable[[str], None]


def init_store(project: Project) -> None:
    """Make the project's database, enrolment and first tokens, in a process of their own.

    Raises:
        Refused: the store refused; its own words are in the message.
    """
    private = project.private
    arguments = [
        "store", "init",
        "--database", str(private / "store.sqlite3"),
        "--trust", str(private / "trust"),
        "--keys", str(private / "keys"),
        "--enrolment", str(private / "trust.json"),
        "--tokens", str(private / "tokens"),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, *COMMAND, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise Refused(said.removeprefix("control-plane: "))


def start_store(
    project: Project, listen: str, *, say: Say, stderr: IO[bytes] | None = None
) -> tuple[Child, str]:
    """Start the store and wait until it listens; the child and its URL.

    Raises:
        Unavailable: it did not become ready.
    """
    arguments = [
        *COMMAND, "store",
        "--database", str(project.private / "store.sqlite3"),
        "--keys", str(project.private / "keys"),
        "--listen", listen,
    ]  # fmt: skip
    child = Child("store", arguments, say=say, stderr=stderr)
    try:
        return child, child.line("store ready at ").removeprefix("store ready at ").split()[0]
    except ControlPlaneError:
        child.stop()
        raise


def start_daemon(
    project: Project,
    url: str,
    replica: Path,
    environments: Sequence[str],
    *,
    say: Say,
    stderr: IO[bytes] | None = None,
) -> Child:
    """Start the daemon and wait until every environment's replica serves.

    Raises:
        Unavailable: it did not become ready.
    """
    arguments = [
        *COMMAND, "daemon",
        "--store", url,
        "--token-file", str(project.private / "tokens" / "follow.token"),
        "--trust", str(project.private / "trust.json"),
        "--replica", str(replica),
    ]  # fmt: skip
    for environment in environments:
        arguments += ["-e", environment]
    child = Child("daemon", arguments, say=say, stderr=stderr)
    try:
        for _ in environments:
            child.line("daemon ready: ")
    except ControlPlaneError:
        child.stop()
        raise
    return child


def listen_address(url: str) -> str:
    """What the store is told to listen on so that ``url`` reaches it."""
    if url.startswith("unix:"):
        return url
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 7840}"


def checked_listen(listen: str) -> str:
    """An address the store can be told to listen on, ``host:port`` or ``unix:PATH``.

    Raises:
        click.UsageError: it has another form.
    """
    host, _, port = listen.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16
    if (listen.startswith("unix:") and len(listen) > 5) or (host and is_port):
        return listen
    raise click.UsageError(f"expected --listen host:port or unix:PATH, found {listen!r}")


def require_free(listen: str) -> None:
    """Say which address is in use before anything is started.

    Raises:
        Refused: something listens there.
    """
    if listen.startswith("unix:"):
        return
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise Refused(
                f"{listen}: expected a free port, found {str(error.strerror).lower()};"
                f" end what listens there, or pass --listen {host}:{int(port) + 1}"
            ) from error
