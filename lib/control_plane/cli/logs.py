"""``log verify`` and ``log export``: a log replayed from its first entry, and as plain files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control_plane.cli.epochs import new_epoch
from control_plane.cli.evidence import prove_fork
from control_plane.cli.output import print_json, progress, when
from control_plane.cli.settings import (
    Settings,
    environment_option,
    settings,
    store_client,
    store_options,
)

if TYPE_CHECKING:
    from control_plane.publish.replay import History
    from control_plane.publish.static_log import StaticLog


@click.group()
def log() -> None:
    """Verify an environment's log, write it as plain files, or begin its next epoch."""


log.add_command(new_epoch)
log.add_command(prove_fork)


@log.command()
@click.argument("source", required=False, metavar="[DIR|URL]")
@environment_option
@click.option("--trust", metavar="FILE", help="trust.json to verify with.")
@store_options
def verify(source: str | None, environment: str, as_json: bool, **given: Any) -> None:
    """Replay the whole log and check every signature, hash and change, as a node does.

    With DIR or URL the log is read as plain files, from an export or any file server, and every
    hash tile and the blob of every live key is checked too.

    Prints size, root, policy and number of heads; any two nodes and the store must agree on them.
    Exit code 6 when the log is not what it claims to be.
    """
    from control_plane.publish.replay import replay

    if source is None:
        found = settings(**given)
        enrolment = found.enrolment()
        with (
            store_client(found, "follow", waiting=False) as client,
            progress(f"{environment}: entries") as moved,
        ):
            history = replay(client, environment, enrolment, progress=moved)
        files: dict[str, Any] = {}
    else:
        history, files = _verify_files(source, environment, given)
    result = told(history) | files
    if as_json:
        print_json(result)
        return
    click.echo(f"{result['origin']}: verified {_entries(history)}")
    for name in ("generation", "root", "policy", "heads", "live", "heads_root", "rejected"):
        click.echo(f"  {name.replace('_', ' '):<11} {result[name]}")
    if files:
        click.echo(f"  {'files':<11} {files['tiles']} hash tiles, {files['blobs']} live blobs")
    if result["cosigned_at"] is not None:
        click.echo(f"  cosigned at {when(result['cosigned_at'] * 1000)}")


@log.command()
@click.argument("folder", metavar="DIR")
@environment_option
@click.option("--trust", metavar="FILE", help="trust.json to verify with.")
@store_options
def export(folder: str, environment: str, as_json: bool, **given: Any) -> None:
    """Write a verified log to DIR as the static files that a store serves.

    Checkpoint, tiles, entries and blobs of every epoch lie below DIR/ENV/EPOCH, so that any file
    server can carry them; several environments may share DIR. An older export there is added to,
    and refused when it is of another log. Exit code 6 when the log is not what it claims to be;
    then nothing is written.
    """
    from control_plane.publish import static_log

    found = settings(**given)
    enrolment = found.enrolment()
    with (
        store_client(found, "follow", waiting=False) as client,
        progress(f"{environment}: entries") as moved,
    ):
        done = static_log.export(client, environment, enrolment, Path(folder), progress=moved)
    if as_json:
        counted = {"files": done.files, "blobs": done.blobs, "gone": done.gone}
        print_json(told(done.history) | {"folder": str(done.folder)} | counted)
        return
    gone = f", {done.gone} superseded blobs were deleted before" if done.gone else ""
    click.echo(
        f"{done.history.position.origin}: {_entries(done.history)} verified and"
        f" written to {done.folder}; {done.blobs} blobs{gone}"
    )


def _verify_files(
    source: str, environment: str, given: dict[str, Any]
) -> tuple[History, dict[str, Any]]:
    from control_plane.publish.replay import replay
    from control_plane.publish.static_log import check_live_blobs

    with static_source(source, **given) as (found, static):
        enrolment = found.enrolment()
        with progress(f"{environment}: entries") as moved:
            history = replay(static, environment, enrolment, progress=moved)
        tiles = static.check_tiles()
        with progress(f"{environment}: blobs") as moved:
            blobs = check_live_blobs(static, history, moved)
    return history, {"source": source, "tiles": tiles, "blobs": blobs}


@contextmanager
def static_source(source: str, **given: Any) -> Iterator[tuple[Settings, StaticLog]]:
    """A log's files in a folder or below a URL, and the settings for them.

    A token is sent only to the address it is for, so the URL stands where a store would.
    """
    from control_plane.publish.static_log import FolderFiles, ServedFiles, StaticLog

    if "://" in source or source.startswith("unix:"):
        found = settings(**{**given, "store": source})
        with store_client(found, "follow", waiting=False) as client:
            yield found, StaticLog(ServedFiles(client))
    else:
        yield settings(**given), StaticLog(FolderFiles(Path(source)))


def _entries(history: History) -> str:
    """How many entries were verified, and how many of them in each earlier epoch."""
    count = sum(epoch.position.size for epoch in history.epochs)
    earlier = [f"{each.position.size} of epoch {each.log.epoch}" for each in history.epochs[:-1]]
    return f"{count} entries" + (f", {', '.join(earlier)}" if earlier else "")


def told(history: History) -> dict[str, Any]:
    """What a verified log comes to, for an object."""
    assert history.checkpoint is not None
    assert history.policy is not None
    count, state = history.state()
    return {
        "environment": history.environment,
        "origin": history.position.origin,
        "epoch": history.position.epoch,
        "epochs": [
            {
                "epoch": epoch.log.epoch,
                "size": epoch.position.size,
                "root": epoch.position.frontier.root().hex(),
            }
            for epoch in history.epochs
        ],
        "size": history.position.size,
        "generation": history.position.generation,
        "root": history.position.frontier.root().hex(),
        "policy": history.policy.digest,
        "heads": count,
        "live": sum(head.live for head in history.heads.values()),
        "heads_root": state,
        "accepted": len(history.accepted),
        "rejected": len(history.rejected),
        "cosigned_at": history.checkpoint.cosigned_at,
    }
