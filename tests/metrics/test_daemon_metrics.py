"""What a running node tells when it is scraped."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from control_plane.errors import InputInvalid
from control_plane.metrics.collecting import MAX_TENANTS, NodeCollector, bounded, by_tenant
from control_plane.metrics.serving import serving
from control_plane.testing import replica
from control_plane.usage.tally import OTHER
from control_plane_daemon.events import Events
from control_plane_daemon.metrics import observed


async def test_a_scrape_tells_the_replica_and_what_happened(tmp_path: Path) -> None:
    events = Events()
    events.failed("rejected", "signature_invalid")
    place, usage = tmp_path / "metrics.sock", tmp_path / "usage"
    with replica(flags={"x": True}) as client:
        root = client.replica
        async with observed(root, str(usage), f"unix:{place}", lambda: {"production": events}):
            connector = aiohttp.UnixConnector(path=str(place))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get("http://node/metrics") as answer,
            ):
                text = await answer.text()
        environment, generation = client.environment, client.health().generation
    assert answer.status == 200
    assert f'control_plane_generation{{environment="{environment}"}} {generation:.1f}' in text
    assert re.search(r'control_plane_state\{condition="development".*\} 1.0', text)
    assert 'outcome="rejected"} 1.0' in text
    assert 'control_plane_signature_mismatches_total{environment="production"} 1.0' in text
    assert usage.stat().st_mode & 0o7777 == 0o1777
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_without_an_address_nothing_listens_and_usage_is_summed(tmp_path: Path) -> None:
    async with observed(str(tmp_path), str(tmp_path / "usage"), None, dict):
        pass
    assert (tmp_path / "usage").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", ":9", "127.0.0.1:99999"])
async def test_an_address_of_another_form_is_refused(address: str) -> None:
    from prometheus_client import CollectorRegistry

    with pytest.raises(InputInvalid, match="expected HOST:PORT or unix:PATH"):
        async with serving(address, CollectorRegistry()):
            pass


def test_a_clock_that_was_set_back_gives_no_negative_age() -> None:
    with replica(flags={"x": True}) as client:
        families = NodeCollector(str(client.replica), now_ns=lambda: 1).collect()
        ages = [s.value for f in families if "age" in f.name for s in f.samples]
    assert ages == [0.0, 0.0]


def test_names_beyond_the_bound_are_summed_under_other() -> None:
    counts = {("production", f"f{n}", "on"): 10 + n for n in range(10)}
    found = {tuple(labels): count for labels, count in bounded(counts, 4)}
    assert len(found) == 5
    assert found["production", OTHER, OTHER] == sum(10 + n for n in range(6))
    assert sum(found.values()) == sum(counts.values())


def test_a_hundred_tenants_are_told_apart_and_the_others_together() -> None:
    counts = {("production", "agent/a@1.0.0", f"t{n}"): n + 1 for n in range(300)}
    found = {labels[2]: count for labels, count in by_tenant(counts)}
    assert len(found) == MAX_TENANTS + 1
    assert found[OTHER] == sum(n + 1 for n in range(200))
