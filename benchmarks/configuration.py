"""Reading, binding and watching configuration, beside other libraries in the same run.

One replica: a namespace of 100,000 leaves, one of 50 with 1,000 tenants that each change one leaf,
and 200 of 50 leaves. A process of its own writes it; keys and tenants are prepared and walked.

* F: a method called as ``o.kw(name, tenant_id=t)`` that returns ``self.table[name]``.
* get, get with tenant: a scalar by its dotted path, warm, from 100 keys and 1,000 tenants.
* plain dict: the same values as nested dicts, two lookups. dynaconf: ``settings.get`` by dotted
  path, warm. pydantic-settings: an attribute of a settings instance. A binding: ``binding.value``
  and an attribute. Libraries that are not installed are left out, and that is said.
* first read: of each of 1,000 keys of the large namespace, asked of a new manager.
* bind refresh: reading and making one instance of a model of 50 fields, after a commit that changed
  one of them (simulated by forgetting which generation it was made of, and its values). For
  pydantic-settings: making an instance from 50 environment variables.
* commit to callback: the writing process commits every 30 ms, an idle process has one watch; from
  the beginning of the commit to the callback, CLOCK_MONOTONIC. Beside it two threads of the same
  process that wait for the same header with watchfiles, with its default timing and with the
  shortest it takes.
* 10,000 watched prefixes: one leaf each, one commit that changes one of them, 50 times; CPU time of
  the watching thread, and of the writer for merging, committing and publishing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import make_dataclass
from pathlib import Path
from queue import Queue
from time import perf_counter_ns
from typing import Any

from benchmarks.configuration_writer import ENVIRONMENT, FIELDS, PER_SPACE, TENANTS, names
from benchmarks.harness import Variant, calls, circumstances, measure, percentile, printed, rows
from benchmarks.reading import WALK, Lookup, walked
from control_plane.configs.settings import ConfigManager

LEAVES = 100_000
FIRST_READS = 1_000
REFRESHES = 20
COMMITS = 200
COMMIT_EVERY_SECONDS = 0.03
STORMS = 50
QUIET_SECONDS = 0.2

Order = Callable[[str, int], tuple[int, int]]


@contextmanager
def writing(root: Path, leaves: int) -> Iterator[Order]:
    """The writing process; give it a namespace and a value, take when it began and what it cost."""
    folder = str(root / ENVIRONMENT)
    command = [sys.executable, "-m", "benchmarks.configuration_writer", folder, str(leaves)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        given, answers = process.stdin, process.stdout

        def order(name: str, value: int) -> tuple[int, int]:
            given.write(f"{name} {value}\n")
            given.flush()
            began, cpu = json.loads(answers.readline())
            return began, cpu

        assert answers.readline() == "ready\n"
        yield order
        given.close()


def reading(config: ConfigManager) -> list[Variant]:
    """The empty loop, F, and every call that is compared."""
    order = random.Random(7)
    fields = [f"f{number:02}" for number in range(FIELDS)]
    paths = [f"service.{field}" for field in fields] + [f"space000.{field}" for field in fields]
    tenants = [f"tenant-{number}" for number in range(TENANTS)]
    model = make_dataclass("Service", [(field, int) for field in fields], frozen=True)
    known: dict[str, Any] = {
        "config": config,
        "keys": walked(paths),
        "tenants": walked(order.sample(tenants, len(tenants))),
        "o": Lookup(dict.fromkeys(paths, 1)),
        "binding": config.bind(model, "service"),
        "fields": walked(fields),
        "nested": {"service": dict.fromkeys(fields, 1)},
        "service": "service",
    }
    found = [
        calls("empty loop", "pass", known),
        calls("F  o.kw(name, tenant_id=t)", "o.kw(keys[i], tenant_id=tenants[i])", known),
        calls("get", "config.get(keys[i])", known, 5),
        calls("get with tenant", "config.get('service.f01', tenant_id=tenants[i])", known, 7),
        calls("binding.value.f07", "binding.value.f07", known),
        calls("plain dict, two lookups", "nested[service][fields[i]]", known),
        *_first_reads(config),
        *_refreshes(config, fields),
    ]
    with _variables({f"BENCH_{field.upper()}": str(n) for n, field in enumerate(fields)}):
        found += _dynaconf(known) + _pydantic_settings(known, fields)
        measure(found, WALK)
    return found


def _first_reads(config: ConfigManager) -> list[Variant]:
    class Client:
        source = config._source
        environment = ENVIRONMENT
        replica = None

        def adopt(self, manager: ConfigManager) -> None:
            """It is never closed, so it needs to know none."""

    keys = [f"large.g{number:04}.k07" for number in range(FIRST_READS)]

    def first(times: int) -> int:
        manager = ConfigManager(Client())  # type: ignore[arg-type]
        start = perf_counter_ns()
        for key in keys:
            manager.get(key)
        return perf_counter_ns() - start

    label = f"first read of a key among {LEAVES:,}"
    return [Variant(label, first, len(keys), limit_ns=60_000, plain=True)]


def _refreshes(config: ConfigManager, fields: list[str]) -> list[Variant]:
    models = [("dataclass", make_dataclass("Service", [(field, int) for field in fields]))]
    if importlib.util.find_spec("pydantic"):
        import pydantic

        kinds: dict[str, Any] = dict.fromkeys(fields, (int, ...))
        models.append(("pydantic", pydantic.create_model("Service", **kinds)))
    found = []
    for label, model in models:
        for tenant in (None, "tenant-7"):
            found.append(_refresh(config, f"bind refresh, {label}", model, tenant))
    return found


def _refresh(config: ConfigManager, label: str, model: type, tenant: str | None) -> Variant:
    binding = config.bind(model, "service", tenant)

    def run(times: int) -> int:
        start = perf_counter_ns()
        for _ in range(times):
            # As after a commit: another revision, and one other value.
            state = binding._state
            state.revision = -1
            state.tree["f00"] = -1
            assert binding.value is not state.value
        return perf_counter_ns() - start

    suffix = ", tenant" if tenant else ""
    return Variant(label + suffix, run, REFRESHES, limit_ns=300_000, plain=True)


@contextmanager
def _variables(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def _dynaconf(known: dict[str, Any]) -> list[Variant]:
    if not importlib.util.find_spec("dynaconf"):
        print("dynaconf is not installed and left out")
        return []
    from dynaconf import Dynaconf

    settings = Dynaconf(SERVICE=dict(known["nested"]["service"]), environments=False)
    dotted = walked([f"service.{field}" for field in known["nested"]["service"]])
    names = {**known, "settings": settings, "dotted": dotted}
    return [
        calls("dynaconf settings.get('service.f07')", "settings.get(dotted[i])", names),
        calls("dynaconf settings.SERVICE.f07", "settings.SERVICE.f07", names),
    ]


def _pydantic_settings(known: dict[str, Any], fields: list[str]) -> list[Variant]:
    if not importlib.util.find_spec("pydantic_settings"):
        print("pydantic-settings is not installed and left out")
        return []
    from pydantic import create_model
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Prefixed(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="BENCH_")

    kinds: dict[str, Any] = dict.fromkeys(fields, (int, ...))
    model = create_model("Service", __base__=Prefixed, **kinds)

    def made(times: int) -> int:
        start = perf_counter_ns()
        for _ in range(times):
            model()
        return perf_counter_ns() - start

    return [
        calls("pydantic-settings settings.f07", "settings.f07", {**known, "settings": model()}),
        Variant("pydantic-settings, 50 variables", made, 2, plain=True),
    ]


def commit_to_callback(config: ConfigManager, order: Order, header: Path) -> list[tuple[str, ...]]:
    """Milliseconds from the beginning of a commit to whoever is told of it."""
    heard: dict[str, Queue[int]] = {"watch": Queue()}
    watch = config.watch("service.f00", lambda _: heard["watch"].put(time.monotonic_ns()))
    ended = threading.Event()
    threads = []
    if importlib.util.find_spec("watchfiles"):
        for label, timing in WATCHFILES.items():
            heard[label] = Queue()
            arguments = (header, timing, heard[label], ended)
            threads.append(threading.Thread(target=_by_watchfiles, args=arguments))
            threads[-1].start()
    else:
        print("watchfiles is not installed and left out")
    time.sleep(1.0)
    taken: dict[str, list[float]] = {label: [] for label in heard}
    for number in range(1, COMMITS + 1):
        for queue in heard.values():
            while not queue.empty():
                queue.get()
        began, _ = order("service", number)
        for label, queue in heard.items():
            taken[label].append((queue.get(timeout=10) - began) / 1e6)
        time.sleep(COMMIT_EVERY_SECONDS + QUIET_SECONDS * bool(threads))
    ended.set()
    watch.close()
    order("service", 0)
    for thread in threads:
        thread.join()
    limits = {"watch": "<= 5 (median)"}
    return [
        (label, f"{statistics.median(each):.2f}", f"{percentile(each, 0.99):.2f}",
         limits.get(label, ""))
        for label, each in taken.items()
    ]  # fmt: skip


WATCHFILES: dict[str, dict[str, int]] = {
    "watchfiles, its default timing": {},
    "watchfiles, step 1 ms": {"step": 1},
}


def _by_watchfiles(
    header: Path, timing: dict[str, int], heard: Queue[int], ended: threading.Event
) -> None:
    import watchfiles

    for _ in watchfiles.watch(header, stop_event=ended, **timing):
        heard.put(time.monotonic_ns())


def many_prefixes(config: ConfigManager, order: Order) -> list[tuple[str, ...]]:
    """CPU milliseconds of one change among 10,000 watched prefixes."""
    heard: Queue[str] = Queue()
    start = time.perf_counter()
    for name in names():
        for number in range(PER_SPACE):
            config.watch(f"{name}.f{number:02}", lambda change: heard.put(change.key))
    registered = time.perf_counter() - start
    [thread] = [each for each in threading.enumerate() if each.name == "control-plane-watch"]
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    time.sleep(2.0)
    watching, writing = [], []
    for number in range(1, STORMS + 1):
        before = time.clock_gettime_ns(clock)
        _, cpu = order("space100", number)
        assert heard.get(timeout=10) == "space100.f00"
        time.sleep(0.01)
        watching.append((time.clock_gettime_ns(clock) - before) / 1e6)
        writing.append(cpu / 1e6)
    assert heard.empty()
    both = [one + other for one, other in zip(watching, writing, strict=True)]
    table = [("watching thread", watching, ""), ("writer", writing, ""), ("both", both, "<= 5")]
    return [
        (label, f"{statistics.median(each):.2f}", f"{percentile(each, 0.99):.2f}", limit)
        for label, each, limit in table
    ] + [("10,000 registrations, wall", f"{registered * 1e3:,.0f}", "", "")]


def main() -> None:
    """Write the replica, measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        with writing(root, LEAVES) as order:
            with ConfigManager(replica=root, environment=ENVIRONMENT) as config:
                found = reading(config)
            header = (root / ENVIRONMENT / "v1" / "current").resolve() / "header"
            with ConfigManager(replica=root, environment=ENVIRONMENT) as config:
                told = commit_to_callback(config, order, header)
            with ConfigManager(replica=root, environment=ENVIRONMENT) as config:
                storm = many_prefixes(config, order)
    print(circumstances(__name__))
    title = f"Configuration, {LEAVES:,} leaves and more in the replica; ns per call"
    head = ("call", "median", "p99", "x F", "limit")
    printed(title, head, rows(found[1:], found[0], found[1]))
    head = ("what", "median", "p99", "limit")
    printed(f"Commit to callback, {COMMITS} commits, ms", head, told)
    printed(f"One change among 10,000 watched prefixes, {STORMS} commits, CPU ms", head, storm)


if __name__ == "__main__":
    main()
