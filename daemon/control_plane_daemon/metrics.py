"""The daemon's metrics: its node's replicas and usage, and what happened while it followed logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from control_plane.metrics.collecting import register_node
from control_plane.metrics.serving import serving
from control_plane.usage.tally import Tally, make_folder
from control_plane_daemon.events import VISIBLE_SECONDS, Events

COLLECT_SECONDS: Final = 10.0

logger = logging.getLogger("control_plane_daemon")


class EventCollector(Collector):
    """What ``events`` gives for each environment when it is asked."""

    def __init__(self, events: Callable[[], Mapping[str, Events]]) -> None:
        self._events = events

    def collect(self) -> Iterator[Metric]:
        """Counters of each environment that is open."""
        reloads = CounterMetricFamily(
            "control_plane_reloads",
            "Commits that changed what readers see, by how they ended.",
            labels=["environment", "result"],
        )
        failures = CounterMetricFamily(
            "control_plane_verification_failures",
            "Batches refused, entries rejected and entries held.",
            labels=["environment", "outcome"],
        )
        mismatches = CounterMetricFamily(
            "control_plane_signature_mismatches",
            "Signatures, thresholds or checksums that did not hold.",
            labels=["environment"],
        )
        visible = HistogramMetricFamily(
            "control_plane_publish_to_visible_seconds",
            "From the store's time of an entry to its commit here.",
            labels=["environment"],
        )
        for environment, events in self._events().items():
            reloads.add_metric([environment, "success"], events.commits)
            reloads.add_metric([environment, "failure"], events.commits_failed)
            mismatches.add_metric([environment], events.mismatches)
            for outcome, count in events.failures.items():
                failures.add_metric([environment, outcome], count)
            bounds = [*map(str, VISIBLE_SECONDS), "+Inf"]
            buckets = list(zip(bounds, map(float, accumulate(events.visible)), strict=True))
            visible.add_metric([environment], buckets, events.visible_sum)
        yield from (reloads, failures, mismatches, visible)


async def sum_usage(tally: Tally) -> None:
    """Bring the sums up to date every ten seconds, for as long as the daemon runs."""
    while True:
        try:
            await asyncio.to_thread(tally.collect)
        except Exception:
            logger.exception("usage: unexpected; looking again in %d s", COLLECT_SECONDS)
        await asyncio.sleep(COLLECT_SECONDS)


@asynccontextmanager
async def observed(
    root: str,
    usage: str | None,
    address: str | None,
    events: Callable[[], Mapping[str, Events]],
) -> AsyncIterator[None]:
    """Sum the usage folder and answer scrapes while the block runs.

    Without a folder that can be made, and without an address, that part is left out.
    """
    tally = None
    if usage is not None and await asyncio.to_thread(make_folder, usage):
        tally = Tally(usage, logger.warning)
    summing = None if tally is None else asyncio.create_task(sum_usage(tally))
    try:
        if address is None:
            yield
            return
        registry = CollectorRegistry()
        register_node(registry, root, tally)
        registry.register(EventCollector(events))
        async with serving(address, registry):
            yield
    finally:
        if summing is not None:
            summing.cancel()
            await asyncio.gather(summing, return_exceptions=True)
