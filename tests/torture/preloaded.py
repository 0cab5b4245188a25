"""A client opened and used when this module is imported: before a server forks its workers.

``TORTURE_ROOT`` and ``TORTURE_PUBLISHED`` say what it reads.
"""

from __future__ import annotations

import os

from reading import Reading

READING = Reading.open(os.environ["TORTURE_ROOT"], os.environ["TORTURE_PUBLISHED"]).go(2_000)


def read_on(reads: int) -> dict[str, int]:
    """Read through the inherited client; the counts, and the process that read."""
    return {**READING.beside().go(reads).counts, "pid": os.getpid()}
