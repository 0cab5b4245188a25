"""A Celery application whose broker and results are folders, for a worker of its own process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery

from control_plane import ControlPlaneClient
from control_plane.integrations import current
from control_plane.integrations.celery import connect


def made(folder: Path) -> Celery:
    """The application: sender and worker make it alike."""
    for name in ("queue", "processed", "results", "control"):
        (folder / name).mkdir(exist_ok=True)
    app = Celery("application", broker="filesystem://", backend=f"file://{folder}/results")
    app.conf.update(
        broker_transport_options={
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "processed_folder": str(folder / "processed"),
            "control_folder": str(folder / "control"),
            "polling_interval": 0.05,
        },
        broker_connection_retry_on_startup=True,
    )

    @app.task(shared=False, name="answers")  # type: ignore[untyped-decorator]
    def answers() -> dict[str, Any]:
        flags = current.flags()
        return {
            "process": os.getpid(),
            "x": flags.is_enabled("x"),
            "theirs": flags.is_enabled("theirs"),
            "generation": current.generation(),
            "context": dict(current.view().context),
        }

    return app


if __name__ == "__main__":
    _, place, replica = sys.argv
    # Opened before the pool forks: its children have to go on with it.
    client = ControlPlaneClient(replica, "test")
    client.is_enabled("x")
    current.provide(lambda: client)
    current.flags().is_enabled("x")
    connect(wait_seconds=0.2)
    options = ["--pool", "prefork", "--concurrency", "2", "--loglevel", "WARNING"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    made(Path(place)).worker_main(["worker", *options, *quiet])
