"""What was refused, and who got or lost a token: a JSON line each, synced before the answer.

The log itself records what was accepted. This file lies beside the database, is only ever
appended to, and nothing is decided by reading it. Several processes may append: what one call
writes is one write to a file opened for appending, so lines never mix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


class Audit:
    """The audit file beside a database."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name("audit.jsonl")

    def append(self, events: Iterable[Mapping[str, object]]) -> None:
        """Write the events and sync them; without events the file is not touched.

        Raises:
            OSError: they are not all on disk.
        """
        lines = b"".join(
            json.dumps(dict(event), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            for event in events
        )
        if not lines:
            return
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        try:
            # A crash or a full disk can leave a last line without its end; ours starts anew.
            if _is_torn(descriptor):
                lines = b"\n" + lines
            written = os.write(descriptor, lines)
            if written != len(lines):
                raise OSError(f"{self.path}: expected to write {len(lines)} bytes, wrote {written}")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
