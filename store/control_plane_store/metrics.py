"""The store's metrics: answered requests, and how long each log is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.metrics.serving import serving
from control_plane_store.service import Store


class StoreCollector(Collector):
    """What one store has answered and holds."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Routes are templates, so names in paths make no series."""
        requests = CounterMetricFamily(
            "control_plane_store_requests",
            "Requests answered, by route and status.",
            labels=["route", "status"],
        )
        for (route, status), count in self._store.requests.counts.copy().items():
            requests.add_metric([route, str(status)], count)
        entries = GaugeMetricFamily(
            "control_plane_store_log_entries", "Entries of the log.", labels=["environment"]
        )
        for environment, size in self._store.sizes.items():
            entries.add_metric([environment], size)
        yield from (requests, entries)


@asynccontextmanager
async def observed(store: Store, address: str | None) -> AsyncIterator[None]:
    """Answer scrapes while the block runs; without an address nothing listens."""
    if address is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(StoreCollector(store))
    async with serving(address, registry):
        yield
