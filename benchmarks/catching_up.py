"""A process of one core that takes a recorded log: the daemon's follower, or the bare work.

The follower is the daemon's own, with a durable replica, driven as the daemon drives it: each
answer is unpacked and its blobs hashed, steps 1 to 4, then commits of 5 to 9 with the daemon's
pause between them. The bare work is what cannot be left out: the same answers unpacked, every
entry's JSON read and its Ed25519 signature verified, the manifests' signatures too, every blob
hashed and read as JSON, and every blob put into an LMDB in synced transactions of 4,096.

A start over what was taken: the replica is checked and opened, and its position read, as a daemon
does; 2 s of it leave the readers of a daemon before alone. Then 100 flags are evaluated.

Prints one line of JSON. Arguments: ``follow``, ``again`` or ``bare``, the folder of the log, one
for the replica.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from benchmarks.memory import rss_without_kib
from benchmarks.recorded import ENVIRONMENT
from control_plane.log.envelope import pae
from control_plane.trust.enrolment import Enrolment
from control_plane_daemon.enrol import enrolled, open_replica
from control_plane_daemon.follower import Follower
from control_plane_daemon.source import _followed

COMMIT_RECORDS = 4_096
LOOK_SECONDS = 0.25


def follow(log: Path, folder: Path) -> dict[str, Any]:
    """Take the whole log; seconds, entries and the most memory beside the mapped file."""
    known = enrolled(Enrolment.decode((log / "trust.json").read_bytes()), ENVIRONMENT)
    began, cpu_began = time.monotonic(), time.process_time()
    opened = open_replica(str(folder / ENVIRONMENT), known.log.origin)
    follower = Follower(
        ENVIRONMENT,
        opened.writer,
        known,
        now_ms=lambda: time.time_ns() // 1_000_000,
        monotonic=time.monotonic,
    )
    memory = _Memory()
    for body in _answers(log):
        verified = follower.check(_followed(body, "recorded", 1))
        done = False
        while not done:
            time.sleep(follower.pause_seconds)
            progress = follower.take(verified)
            memory.look()
            opened.writer.tend()
            if progress.wanted or progress.required:
                raise RuntimeError("expected every blob in the answer, found some missing")
            done = progress.done
    opened.show_when_ready(follower)
    seconds = time.monotonic() - began - memory.spent_seconds
    answer = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu_began - memory.spent_seconds,
        "peak_kib": memory.peak_kib,
        "entries": follower.position.size,
        "commits": follower.commit_count,
        "held": len(follower.held),
        "state": follower.state_bits(),
    }
    follower.close()
    opened.writer.close()
    return answer


def again(log: Path, folder: Path) -> dict[str, Any]:
    """Start over the replica that ``follow`` made, and read it; seconds, ms and ns."""
    # Not part of a daemon, whose memory `follow` tells.
    from benchmarks.harness import calls
    from benchmarks.reading import walked
    from control_plane.feature_flags.flag_manager import FeatureFlagManager

    known = enrolled(Enrolment.decode((log / "trust.json").read_bytes()), ENVIRONMENT)
    began, cpu_began = time.monotonic(), time.process_time()
    opened = open_replica(str(folder / ENVIRONMENT), known.log.origin)
    follower = Follower(
        ENVIRONMENT,
        opened.writer,
        known,
        now_ms=lambda: time.time_ns() // 1_000_000,
        monotonic=time.monotonic,
    )
    answer = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "entries": follower.position.size,
    }
    follower.close()
    opened.writer.close()
    began = time.monotonic()
    with FeatureFlagManager(replica=str(folder), environment=ENVIRONMENT) as flags:
        flags.is_enabled("flag-000000", tenant_id="tenant-0")
        answer["first_ms"] = 1000 * (time.monotonic() - began)
        known_names = {"flags": flags, "names": walked([f"flag-{n:06}" for n in range(100)])}
        run = calls("W", "flags.is_enabled(names[i], tenant_id='tenant-5')", known_names).run
        run(1_000)
        answer["evaluation_ns"] = statistics.median(run(1_000) / 1_000 for _ in range(50))
    return answer


class _Memory:
    """The most memory seen, four times a second; the time it takes to look is not the node's."""

    def __init__(self) -> None:
        self.peak_kib = 0
        self.spent_seconds = 0.0
        self._looked = 0.0

    def look(self) -> None:
        """Look, unless that was done a moment ago."""
        began = time.monotonic()
        if began - self._looked < LOOK_SECONDS:
            return
        self.peak_kib = max(self.peak_kib, rss_without_kib("data.mdb"))
        self._looked = time.monotonic()
        self.spent_seconds += self._looked - began


def bare(log: Path, folder: Path) -> dict[str, Any]:
    """The same bytes through json, hashlib, cryptography and lmdb alone."""
    enrolment = Enrolment.decode((log / "trust.json").read_bytes())
    policy = enrolment.policy()
    keys = dict(policy.keys())
    folder.mkdir(parents=True)
    environment = lmdb.open(str(folder), map_size=64 << 30)
    began = time.monotonic()
    waiting: list[tuple[bytes, bytes]] = []
    for body in _answers(log):
        answer = msgpack.unpackb(body)
        for entry in answer["entries"]:
            _verify_entry(entry, keys)
        for digest, data in answer["blobs"].items():
            if hashlib.sha256(data).hexdigest() != digest:
                raise RuntimeError(f"expected blob {digest}, found another")
            _verify_blob(data, keys)
            waiting.append((bytes.fromhex(digest), data))
            if len(waiting) >= COMMIT_RECORDS:
                _put(environment, waiting)
    _put(environment, waiting)
    seconds = time.monotonic() - began
    environment.close()
    return {"seconds": seconds}


def _answers(log: Path) -> Iterator[bytes]:
    for path in sorted(log.glob("*.answer")):
        yield path.read_bytes()


def _verify_entry(entry: bytes, keys: dict[str, Ed25519PublicKey]) -> None:
    hashlib.sha256(entry).digest()
    envelope = json.loads(entry)["envelope"]
    payload = base64.b64decode(envelope["payload"])
    for signature in envelope["signatures"]:
        if signature["keyid"] in keys:
            value = base64.b64decode(signature["sig"])
            keys[signature["keyid"]].verify(value, pae(envelope["payloadType"], payload))
    json.loads(payload)


def _verify_blob(data: bytes, keys: dict[str, Ed25519PublicKey]) -> None:
    if data.startswith(b'{"action"'):
        for line in data.splitlines():
            json.loads(line)
        return
    document = json.loads(data)
    if "signature" in document:
        _, key_id, value = document["signature"].split(":")
        content = {k: v for k, v in document.items() if k not in ("checksum_sha256", "signature")}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        kind = "application/vnd.control-plane.manifest.v1+json"
        keys[key_id].verify(base64.b64decode(value), pae(kind, text.encode()))


def _put(environment: Any, waiting: list[tuple[bytes, bytes]]) -> None:
    with environment.begin(write=True) as transaction:
        for key, data in waiting:
            transaction.put(key, data)
    waiting.clear()


if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    work = {"follow": follow, "again": again, "bare": bare}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), Path(sys.argv[3]))))
