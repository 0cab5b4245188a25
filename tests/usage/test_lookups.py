"""Reads of configuration and lookups of the registry are told of like evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from control_plane.feature_flags.counting import STRETCH
from control_plane.registries.lookups import MAX_PAIRS, Lookups
from control_plane.testing import replica
from control_plane.usage import slots
from control_plane.usage.tally import Tally, make_folder


@pytest.fixture
def tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tally:
    """A daemon's sums that began before anything was counted."""
    folder = tmp_path / "usage"
    assert make_folder(str(folder))
    monkeypatch.setenv("CONTROL_PLANE_USAGE", str(folder))
    found = Tally(str(folder))
    found.collect()
    return found


def told(tally: Tally, word: str) -> dict[tuple[str, str], int]:
    tally.collect()
    return {key[2:]: count for key, count in tally.totals.items() if key[1] == word}


def test_reads_of_configuration_are_counted(tally: Tally) -> None:
    config: dict[str, Any] = {"database": {"url": "x"}}
    with replica(config=config) as client:
        for _ in range(2 * STRETCH + 3):
            assert client.config.get("database.url") == "x"
        assert 2 * STRETCH <= told(tally, slots.CONFIG_READS)["", ""] <= 2 * STRETCH + 3
    assert told(tally, slots.CONFIG_READS) == {("", ""): 2 * STRETCH + 3}


def test_lookups_are_counted_by_result_and_by_version_and_tenant() -> None:
    lookups = Lookups()
    for number in range(STRETCH + 2):
        lookups.count("agent", "agent/a@1.0.0", number > 0, "acme")
    lookups.count("tool", "tool/t@2.0.0", False, None)
    found = {word: counts.read() for word, counts in lookups.told}
    assert found[slots.LOOKUPS] == {
        ("agent", "hit"): STRETCH + 1, ("agent", "miss"): 1, ("tool", "miss"): 1,
    }  # fmt: skip
    assert found[slots.VERSIONS] == {
        ("agent/a@1.0.0", "acme"): STRETCH + 2, ("tool/t@2.0.0", ""): 1,
    }  # fmt: skip


def test_tenants_from_requests_do_not_fill_the_memory() -> None:
    lookups = Lookups()
    for number in range(3 * MAX_PAIRS):
        lookups.count("agent", "agent/a@1.0.0", True, f"t{number}")
    versions = dict(lookups.told)[slots.VERSIONS].read()
    assert len(versions) <= MAX_PAIRS + 1
    assert sum(versions.values()) == 3 * MAX_PAIRS
