"""Blobs waiting for the entries that name them, within a memory bound.

Up to 16 MiB are held in memory; what comes beyond goes into the replica's ``staging`` sub-database,
where no reader looks, so that a change set of 100,000 manifests needs no more memory than one of a
hundred. A crash leaves staged blobs behind; they are cleared at the next start and fetched again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from control_plane.log.canonical import sha256_hex
from control_plane_daemon.commits import Commits

MAX_MEMORY_BYTES: Final = 16 << 20
_PREFIX: Final = b"x"


class Shelf:
    """Blobs by digest; every one has the bytes its digest promises."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._memory: dict[str, bytes] = {}
        self._memory_bytes = 0
        self._staged: set[str] = set()

    def put(self, blobs: Mapping[str, bytes]) -> None:
        """Add blobs; bytes without their digest are dropped, as if they had not come."""
        overflow: dict[str, bytes] = {}
        for digest, data in blobs.items():
            # (8) the bytes have the digest: nothing past this line asks again.
            if digest in self or sha256_hex(data) != digest:
                continue
            if self._memory_bytes + len(data) <= MAX_MEMORY_BYTES:
                self._memory[digest] = data
                self._memory_bytes += len(data)
            else:
                overflow[digest] = data
        if overflow:
            self._stage(overflow)

    def get(self, digest: str) -> bytes | None:
        """The blob, if it is here."""
        if digest in self._staged:
            return self._commits.transaction().staging.get(_staged_key(digest))
        return self._memory.get(digest)

    def __contains__(self, digest: str) -> bool:
        return digest in self._memory or digest in self._staged

    def clear(self) -> None:
        """Forget everything, also what a crash left staged."""
        self._memory.clear()
        self._memory_bytes = 0
        if self._staged:
            self._staged.clear()
            self._commits.clear_staging(_PREFIX)

    def _stage(self, blobs: Mapping[str, bytes]) -> None:
        staging = self._commits.writing().staging
        for digest, data in blobs.items():
            staging.put(_staged_key(digest), data)
        self._commits.commit()
        self._staged.update(blobs)


def _staged_key(digest: str) -> bytes:
    return _PREFIX + bytes.fromhex(digest)
