"""How the log, the store, the daemon and readers bear load, each limit beside what was measured.

The sizes here are small enough for two minutes; ``--full`` has those the limits are for. A time
that grows with the number of records is scaled to that number and says so: "at 20,000; scaled".
How each is measured, and what the bare work beside it is, stands in the modules:
`catching_up` (a new node takes a recorded log), `service_load` (store, daemon, apply, kills, long
polls), `reader_load` (evaluations beside commits, memory, durable commits) and `growth` (memory
over submissions, a replica's file over an hour).

    python -m benchmarks.load [--full] [--only node,large,writer,…] [--records N] …
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import growth, reader_load, service_load
from benchmarks.harness import circumstances, percentile, printed, program
from benchmarks.recorded import RecordedLog, flag, platform

HEAD = ("what", "measured", "limit", "bare", "note")
PARTS = "node,large,writer,reader,service,growth"
FULL = {
    "records": 100_000, "large": 1_000_000, "manifests": 10_000, "flags": 100_000,
    "submissions": 100_000, "seconds": 3_600,
}  # fmt: skip
SIZES = {
    "records": 20_000, "large": 100_000, "manifests": 2_000, "flags": 100_000,
    "submissions": 5_000, "seconds": 900,
}  # fmt: skip
MEMORY_GROWTH_KIB = 4 << 10

Row = tuple[str, ...]


def main(arguments: Sequence[str] = ()) -> int:
    """Run the parts asked for and print one table."""
    options = _options(arguments)
    parts: dict[str, Callable[[argparse.Namespace, Path], Iterator[Row]]] = {
        "node": _node, "large": _large, "writer": _writer, "reader": _reader,
        "service": _service, "growth": _growth,
    }  # fmt: skip
    table: list[Row] = []
    # Other work on the machine takes its share of every time below.
    load = os.getloadavg()[0]
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory(prefix="load-") as folder:
            table += parts[name](options, Path(folder))
    print(circumstances("benchmarks.load") + "".join(f" {word}" for word in arguments))
    print(f"load average before the run {load:.1f}")
    printed("Load", HEAD, table)
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("--full", action="store_true", help="the sizes the limits are for")
    parser.add_argument("--only", default=PARTS, help="parts, by comma")
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, metavar="N")
    parser.add_argument("--polls", type=int, default=1_000, metavar="N")
    options = parser.parse_args(arguments)
    for name, size in (FULL if options.full else SIZES).items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    return options


def _node(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A new node takes everything."""
    records = options.records
    logs = {"sets of 100": (platform(records), 100), "one-change entries": (_flags(records), 1)}
    limits = {"sets of 100": 15, "one-change entries": 30}
    for name, (documents, a_set) in logs.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        log = RecordedLog(place)
        log.publish(documents, a_set)
        log.end()
        taken = program("catching_up", "follow", str(place), str(place / "node"))
        bare = program("catching_up", "bare", str(place), str(place / "bare"))
        if taken["held"]:
            raise RuntimeError(f"expected nothing held, found {taken['held']} entries")
        scaled, note = _scaled(taken["seconds"], records, FULL["records"])
        bare_scaled, _ = _scaled(bare["seconds"], records, FULL["records"])
        cpu, _ = _scaled(taken["cpu_seconds"], records, FULL["records"])
        yield (
            f"new node, 100,000 records, {name}", _seconds(scaled), f"<= {limits[name]} s",
            _seconds(bare_scaled), f"{note}; CPU {cpu:.1f} s",
        )  # fmt: skip
        yield (
            "  most memory less the mapped file", f"{taken['peak_kib'] / 1024:.0f} MiB",
            "<= 150 MiB", "", f"at {records:,}",
        )  # fmt: skip


def _large(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A new node takes very many records, starts again over them, and is read."""
    records = options.large
    log = RecordedLog(folder)
    log.publish(platform(records))
    log.end()
    taken = program("catching_up", "follow", str(folder), str(folder / "node"))
    if taken["held"]:
        raise RuntimeError(f"expected nothing held, found {taken['held']} entries")
    again = program("catching_up", "again", str(folder), str(folder / "node"))
    name = f"new node, {records:,} records, sets of 100"
    yield name, _seconds(taken["seconds"]), "", "", f"CPU {taken['cpu_seconds']:.1f} s"
    yield "  most memory less the mapped file", f"{taken['peak_kib'] / 1024:.0f} MiB", "", "", ""
    yield (
        "  start over them, to its first commit", _seconds(again["seconds"]), "", "2.00 s",
        f"CPU {again['cpu_seconds']:.1f} s; bare: an old reader's call",
    )  # fmt: skip
    yield (
        "  first evaluation, and one of 100 flags after", f"{again['first_ms']:.1f} ms", "",
        "", f"{again['evaluation_ns']:.0f} ns",
    )  # fmt: skip


def _flags(count: int) -> Iterator[dict[str, object]]:
    return map(flag, range(count))


def _writer(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A durable commit of one record."""
    found = reader_load.commits(folder, 1_000, options.large, 300)
    small, large, bare = (statistics.median(found[name]) for name in ("small", "large", "bare"))
    yield (
        "durable commit of one record: 1,000 records", f"{small:.2f} ms", "",
        f"{bare:.2f} ms", "bare: 2 synced 4 KiB writes",
    )  # fmt: skip
    yield (
        f"  {options.large:,} records", f"{large:.2f} ms = {large / small:.2f}x", "<= 1.5x", "",
        f"at {options.large:,}, not scaled",
    )  # fmt: skip


def _reader(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Evaluations beside commits, and a reader's own memory."""
    reader_load.write_flags(folder / reader_load.ENVIRONMENT, options.flags)
    for name, (quiet, busy) in reader_load.evaluations(folder, 8).items():
        yield (
            f"{name} at 10 commits/s, median", f"{busy:.0f} ns = {busy / quiet:.2f}x", "<= 1.15x",
            f"{quiet:.0f} ns", "bare: no commits",
        )  # fmt: skip
    memory = reader_load.memory(folder)
    yield (
        f"private memory, 100 of {options.flags:,} flags", f"{memory['over'] / 1024:.1f} MiB",
        "<= 2 MiB", f"{memory['before'] / 1024:.1f} MiB", "bare: after the imports",
    )  # fmt: skip


def _service(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Store, daemon and clients."""
    found = service_load.measure(folder, options.manifests, 3, options.polls, 5)
    scaled, note = _scaled(found.apply, options.manifests, FULL["manifests"])
    bare, _ = _scaled(found.apply_bare, options.manifests, FULL["manifests"])
    yield "apply of 10,000 manifests", _seconds(scaled), "<= 15 s", _seconds(bare), note
    yield (
        f"kill while they are applied, worst of {len(found.kills)}",
        f"{1000 * max(found.kills):.0f} ms", "<= 1000 ms", "",
        f"median {1000 * statistics.median(found.kills):.0f} ms",
    )  # fmt: skip
    node, note = _scaled(found.new_node, options.manifests, FULL["manifests"])
    yield "new daemon on that store, to ready", _seconds(node), "", "", note
    yield (
        "daemon restart to first visible change", _seconds(max(found.restarts)), "<= 3 s",
        "2.00 s", "worst of 3; bare: an old reader's call",
    )  # fmt: skip
    yield (
        f"{options.polls:,} long polls, one core, p99",
        f"{1000 * percentile(found.polls, 0.99):.0f} ms", "<= 150 ms",
        f"{1000 * percentile(found.polls_bare, 0.99):.0f} ms",
        f"median {1000 * statistics.median(found.polls):.0f} ms",
    )  # fmt: skip


def _growth(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """What must not grow."""
    (folder / "services").mkdir()
    memory = growth.submissions(folder / "services", options.submissions)
    note = f"{options.submissions / memory.seconds:.0f} a second"
    for name, found in {"store": memory.store, "node": memory.node}.items():
        fifths = ", ".join(f"{each / 1024:.1f}" for each in found)
        yield (
            f"{name}'s memory over {options.submissions:,} submissions",
            f"{(found[-1] - found[0]) / 1024:+.1f} MiB", f"<= +{MEMORY_GROWTH_KIB >> 10} MiB",
            "", f"MiB after each fifth: {fifths}; {note}",
        )  # fmt: skip
    grown = growth.hour(folder / "hour", options.flags, options.seconds)
    yield (
        f"file, {options.flags:,} flags, {options.seconds:,} s of 100 commits a second",
        f"{grown.file_bytes >> 20} MiB", f"<= {grown.limit_bytes >> 20} MiB",
        f"{grown.data_bytes >> 20} MiB", "2x data + pin budget; bare: the data",
    )  # fmt: skip


def _scaled(seconds: float, size: int, full: int) -> tuple[float, str]:
    if size == full:
        return seconds, f"at {size:,}"
    return seconds * full / size, f"at {size:,}; scaled"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
