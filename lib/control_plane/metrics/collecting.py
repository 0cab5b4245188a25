"""What a node's replicas and usage files tell, as Prometheus metrics.

Everything is read when it is asked for, from what lies on the node: the header of each replica
under the root and the sums of a `Tally`. So daemon and sidecar tell the same of the same node, and
nothing is kept that could go stale.

Labels are bounded whatever files say: ``MAX_SERIES`` flags and variants, versions or tenants by how
much they count, all others together under ``other``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import time_ns

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from control_plane.defaults import environments
from control_plane.errors import ControlPlaneError
from control_plane.replica import header
from control_plane.replica.source import current_folder
from control_plane.usage import slots
from control_plane.usage.tally import OTHER, Tally, top

MAX_SERIES = 2000
MAX_TENANTS = 100
STATES = {
    "development": header.DEVELOPMENT,
    "stale": header.STALE,
    "held": header.HELD,
    "rejected": header.REJECTED,
    "disk": header.DISK,
    "trust_expired": header.TRUST_EXPIRED,
    "clock": header.CLOCK,
}


class NodeCollector(Collector):
    """The replicas under ``root``; ``now_ns`` is the wall clock in ns since 1970."""

    def __init__(self, root: str, now_ns: Callable[[], int] = time_ns) -> None:
        self._root = root
        self._now_ns = now_ns

    def collect(self) -> Iterator[Metric]:
        """One sample of each metric for every environment that can be read now."""
        label = ["environment"]
        generation = GaugeMetricFamily(
            "control_plane_generation", "Generation that readers see.", labels=label
        )
        age = GaugeMetricFamily(
            "control_plane_age_seconds",
            "Since the store last confirmed that this generation is the newest.",
            labels=label,
        )
        heartbeat = GaugeMetricFamily(
            "control_plane_heartbeat_age_seconds", "Since the daemon's last sign.", labels=label
        )
        size = GaugeMetricFamily(
            "control_plane_replica_bytes", "Disk space of the replica's data.", labels=label
        )
        state = GaugeMetricFamily(
            "control_plane_state", "1 while the condition holds.", labels=[*label, "condition"]
        )
        for environment in environments(self._root):
            try:
                place = current_folder(os.path.join(self._root, environment))  # noqa: PTH118
                words = header.map_header(str(Path(place) / "header"))
                taken = (Path(place) / "data.mdb").stat().st_blocks * 512
            except (ControlPlaneError, OSError):
                # None yet, or being replaced: the next look finds it.
                continue
            confirmed = words[8 * header.CHECKPOINT_TIME_S] * 1_000_000_000
            since = confirmed or words[8 * header.COMMIT_TIME_NS]
            generation.add_metric([environment], words[8 * header.GENERATION])
            age.add_metric([environment], self._seconds_since(since))
            heartbeat.add_metric([environment], self._seconds_since(words[8 * header.HEARTBEAT_NS]))
            size.add_metric([environment], taken)
            for condition, bit in STATES.items():
                holds = bool(words[8 * header.STATE] & bit)
                state.add_metric([environment, condition], float(holds))
        yield from (generation, age, heartbeat, size, state)

    def _seconds_since(self, then_ns: int) -> float:
        # A clock that was set back shows no negative age.
        return max(0.0, (self._now_ns() - then_ns) / 1e9)


class UsageCollector(Collector):
    """The sums of the node's usage files."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        """Every count since the tally began; the tally is brought up to date by its owner."""
        by_word: dict[str, dict[tuple[str, str, str], int]] = {word: {} for word in slots.WORDS}
        for (environment, word, first, second), count in self._tally.totals.copy().items():
            by_word[word][environment, first, second] = count
        yield _counter(
            "control_plane_evaluations",
            "Evaluations that served a variant.",
            ["environment", "flag", "variant"],
            bounded(by_word[slots.EVALUATIONS], MAX_SERIES),
        )
        yield _counter(
            "control_plane_discouraged_lookups",
            "Lookups that were given a deprecated or yanked version.",
            ["environment", "version", "status"],
            bounded(by_word[slots.DISCOURAGED], MAX_SERIES),
        )
        yield _counter(
            "control_plane_registry_lookups",
            "Lookups of agents and tools, by whether they were answered from memory.",
            ["environment", "kind", "result"],
            bounded(by_word[slots.LOOKUPS], MAX_SERIES),
        )
        yield _counter(
            "control_plane_config_reads",
            "Reads of configuration values.",
            ["environment"],
            ([[key[0]], count] for key, count in by_word[slots.CONFIG_READS].items()),
        )
        yield _counter(
            "control_plane_version_lookups",
            "Lookups by version given and tenant; the 100 tenants with the most, others together.",
            ["environment", "version", "tenant"],
            by_tenant(by_word[slots.VERSIONS]),
        )
        yield _latencies(by_word[slots.LATENCY])
        files = GaugeMetricFamily("control_plane_usage_files", "Processes that tell their usage.")
        files.add_metric([], self._tally.alive)
        yield files
        yield _counter(
            "control_plane_usage_files_ignored",
            "Usage files that were refused as damaged or forged.",
            [],
            [([], self._tally.ignored)],
        )


def bounded(counts: dict[tuple[str, str, str], int], most: int) -> Iterator[tuple[list[str], int]]:
    """The series with the greatest counts; all others of an environment together."""
    kept = sorted(counts, key=lambda key: (-counts[key], key))[:most]
    rest: dict[str, int] = {}
    for key in counts.keys() - set(kept):
        rest[key[0]] = rest.get(key[0], 0) + counts[key]
    merged = {key: counts[key] for key in kept}
    for environment, count in rest.items():
        key = (environment, OTHER, OTHER)
        merged[key] = merged.get(key, 0) + count
    for key, count in merged.items():
        yield list(key), count


def by_tenant(counts: dict[tuple[str, str, str], int]) -> Iterator[tuple[list[str], int]]:
    """Lookups of each version by tenant: the 100 tenants with the most, others as ``other``."""
    tenants: dict[str, int] = {}
    for (_, _, tenant), count in counts.items():
        tenants[tenant] = tenants.get(tenant, 0) + count
    known = {tenant for tenant, _ in top(tenants, MAX_TENANTS)}
    merged: dict[tuple[str, str, str], int] = {}
    for (environment, version, tenant), count in counts.items():
        key = (environment, version, tenant if tenant in known else OTHER)
        merged[key] = merged.get(key, 0) + count
    yield from bounded(merged, MAX_SERIES)


def _counter(
    name: str, told: str, labels: list[str], samples: Iterable[tuple[list[str], int] | list[object]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, told, labels=labels)
    for values, count in samples:
        family.add_metric(values, count)  # type: ignore[arg-type]
    return family


def _latencies(counts: dict[tuple[str, str, str], int]) -> HistogramMetricFamily:
    """The sampled latencies: one evaluation in about 1,024."""
    family = HistogramMetricFamily(
        "control_plane_evaluation_seconds",
        "How long evaluations took; about one in 1,024 is looked at.",
        labels=["environment"],
    )
    names = [*map(str, slots.BUCKETS), "+Inf"]
    for environment in sorted({key[0] for key in counts}):
        below, estimate, buckets = 0, 0.0, []
        for name in names:
            count = counts.get((environment, "", name), 0)
            below += count
            bound = slots.BUCKETS[-1] if name == "+Inf" else int(name)
            # Only the bucket is known: its upper bound stands for each.
            estimate += count * bound / 1e9
            buckets.append((name if name == "+Inf" else str(bound / 1e9), float(below)))
        family.add_metric([environment], buckets, estimate)
    return family


def register_node(registry: CollectorRegistry, root: str, tally: Tally | None = None) -> None:
    """Add the metrics of the replicas under ``root``, and of usage where there is a tally."""
    registry.register(NodeCollector(root))
    if tally is not None:
        registry.register(UsageCollector(tally))
