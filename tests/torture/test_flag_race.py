"""A flag and what it asks for, flipped together under threads: never seen apart, never old.

The writer (``flipping_process``) commits as fast as it can, in place, at once or in bursts; threads
of another process ask meanwhile and judge every answer (``asking_process`` says what is mixed and
what is stale). While commits never cease an answer takes a tenth of a millisecond, as nearly every
one is of a table that was superseded meanwhile; between bursts it takes what it does otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Counts = dict[str, int]

THREADS = 3
REST_SECONDS = 0.025


@pytest.fixture
def flip(race: Any) -> Callable[..., Counts]:
    """Let threads ask so often between them while the writer flips; what they counted."""

    def run(asked: int, rest: float = 0) -> Counts:
        writer = race.start("flipping_process.py", race.folder, race.published, 10, rest)
        assert writer.line() == "ready"
        asking = race.start("asking_process.py", race.root, race.published, asked, THREADS)
        counts: Counts = asking.counts() | race.stop(writer)
        print(counts)
        assert counts["asked"] >= asked
        assert (counts["mixed"], counts["stale"], counts["failed"]) == (0, 0, 0)
        return counts

    return run


def test_flags_and_what_they_ask_for_are_never_seen_apart(flip: Any) -> None:
    counts = flip(60_000)
    assert counts["commits"] > 100
    assert counts["views"] > 0


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_ten_million_answers_are_never_mixed_nor_stale(flip: Any) -> None:
    assert flip(10_000_000, REST_SECONDS)["commits"] > 10_000
