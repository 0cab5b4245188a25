"""Locks on disk: read and verified against the trust a node follows."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from control_plane.errors import MissingExtra, NotFound
from control_plane.registries.locking import MAX_LOCK_BYTES, Pinned, open_lock


def read_lock(path: str | PathLike[str], trust: tuple[str, bytes, bytes]) -> Pinned:
    """What a lock file pins; ``trust`` is the log's origin and the metadata in force.

    Raises:
        NotFound: there is no such file.
        TrustError, Refused, InputInvalid: as `open_lock`.
        MissingExtra: verifying needs the extra ``publish``.
    """
    try:
        from control_plane.trust.state import restore
    except ModuleNotFoundError as error:
        raise MissingExtra.of(error.name, "publish") from error

    origin, root, targets = trust
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_LOCK_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: expected a lock, found none") from error
    return open_lock(data, restore(root, targets), origin.split("/")[1])
