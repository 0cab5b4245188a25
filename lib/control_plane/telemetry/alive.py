"""``python -m control_plane.telemetry.alive``: does the daemon of this node give signs of life?

For probes in containers. It asks nobody: the daemon writes its heartbeat into the header of each
replica once a second, whether or not the store can be reached. Exit code 0 when every replica
under the root has one that is young enough, 1 with a line for each that has not, and where there
is none yet. Being behind is no fault of the process, so it is none here; ``control-plane status``
tells of that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from control_plane.client import ControlPlaneClient
from control_plane.defaults import environments, replica_root

WITHIN_SECONDS = 30.0
"""Thirty heartbeats may be missed: a large commit on a slow disk takes seconds."""


def silent(root: str, expected: Sequence[str], within_seconds: float) -> list[str]:
    """A sentence for each environment whose daemon gave no sign in time; all there are by default.

    None of them at all is a sentence, too.
    """
    names = expected or environments(root)
    if not names:
        return [f"{root}: expected a replica, found none"]
    found = []
    for environment in names:
        with ControlPlaneClient(root, environment) as client:
            age = client.health().heartbeat_age_seconds
        if age is None or age > within_seconds:
            sign = "none" if age is None else f"one of {age:.0f} s ago"
            found.append(
                f"{environment}: expected a sign of the daemon within {within_seconds:.0f} s,"
                f" found {sign}"
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is silent; 1 when something is. By default argv is read."""
    parser = argparse.ArgumentParser(prog="python -m control_plane.telemetry.alive")
    parser.add_argument("--replica", metavar="ROOT", help="Folder that holds the replicas.")
    parser.add_argument(
        "-e", "--environment", action="append", default=[], metavar="NAME",
        help="May be repeated; all under the root by default.",
    )  # fmt: skip
    parser.add_argument("--within", type=float, default=WITHIN_SECONDS, metavar="SECONDS")
    options = parser.parse_args(arguments)
    sentences = silent(replica_root(options.replica), options.environment, options.within)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
