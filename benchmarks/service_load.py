"""A store, a daemon and their clients under load, each a process of its own on this host.

* apply: ``control-plane apply`` of a folder of YAML files (6 flags, 2 configs of 50 leaves, 1 tool
  and 1 agent of each ten) from the start of the process to its end. Bare: the same files read by
  PyYAML alone and each document written and synced to one file.
* kill: while that runs, a flag is killed and un-killed every 250 ms; from before the submit
  request to when a process that polls the flag has seen it.
* new node: a daemon without a replica on that store, from the start of its process to ready.
* restart: the daemon is killed (SIGKILL), a change is submitted, a daemon is started; from its
  start to when the polling process has seen the change. Bare: the 2 s for which a daemon that
  starts over a live replica leaves it alone.
* polls: 1,000 connections wait for a change on a store held to one core; from before the submit
  request to each one's whole answer. Bare: the same answers over the same kind of connection from
  a loop that only writes them.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.resources import as_file
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from benchmarks.recorded import ENVIRONMENT, agent, config, flag, tool
from control_plane.cli.children import Child
from control_plane.cli.project import create_project, templates
from control_plane.cli.services import start_daemon, start_store
from control_plane.cli.settings import Project, read_token
from control_plane.publish.client import StoreClient
from control_plane.publish.publisher import Publisher

WATCHED = "watched"
KILL_SECONDS = 0.25
PARKED_SECONDS = 1.0
MANY = 1_000_000


@dataclass(slots=True)
class Measured:
    """Seconds; one each where there is a list."""

    apply: float = 0.0
    apply_bare: float = 0.0
    kills: list[float] = field(default_factory=list)
    new_node: float = 0.0
    restarts: list[float] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    polls_bare: list[float] = field(default_factory=list)


class Host:
    """The processes of one run; they end with ``stack``."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._log = stack.enter_context((folder / "services.log").open("wb"))
        self.folder = folder
        self.project: Project = create_project(
            folder / "project", installation="bench", environments=[ENVIRONMENT]
        )
        self.store, self.url = start_store(
            self.project, "127.0.0.1:0", say=_nothing, stderr=self._log
        )
        stack.callback(self.store.stop)
        self.replica = folder / "replica"
        self.author = stack.enter_context(
            Publisher(
                StoreClient(self.url, self.token("submit")),
                str(self.project.private / "keys" / "author.pem"),
            )
        )
        self.switch(on=True)
        self.daemon = self.start_daemon(self.replica)
        self.watcher = self._watch()

    def token(self, name: str) -> str:
        """One of the project's tokens."""
        return read_token(self.project.private / "tokens" / f"{name}.token")

    def start_daemon(self, replica: Path) -> Child:
        """Start a daemon and wait until it is ready."""
        daemon = start_daemon(
            self.project, self.url, replica, [ENVIRONMENT], say=_nothing, stderr=self._log
        )
        self._stack.callback(daemon.stop)
        return daemon

    def switch(self, *, on: bool) -> float:
        """Publish the watched flag with that value; when its submit request began."""
        change = self.author.change(ENVIRONMENT, "benchmark")
        metadata = {"variants": {"on": True, "off": False}, "default": "on" if on else "off"}
        change.put({"kind": "flag", "name": WATCHED, "metadata": metadata})
        return self._submit(change)

    def kill(self, *, kill: bool) -> float:
        """Kill the watched flag or end the kill; when the submit request began."""
        change = self.author.change(ENVIRONMENT, "benchmark", verb="kill")
        if kill:
            change.kill(WATCHED, "off")
        else:
            change.unkill(WATCHED)
        return self._submit(change)

    def seen(self, value: bool, timeout_seconds: float = 20.0) -> float:
        """When the polling process saw that value."""
        return int(self.watcher.line(str(value), timeout_seconds).split()[1]) / 1e9

    def _submit(self, change: Any) -> float:
        signed = self.author.sign(change)
        for data in signed.blobs.values():
            self.author.store.put_blob(ENVIRONMENT, data)
        began = time.monotonic()
        self.author.store.submit(ENVIRONMENT, signed.envelope)
        return began

    def _watch(self) -> Child:
        programs = self._stack.enter_context(as_file(templates() / "demo"))
        variables = {
            "CONTROL_PLANE_REPLICA": str(self.replica),
            "CONTROL_PLANE_ENVIRONMENT": ENVIRONMENT,
        }
        arguments = [str(programs / "watcher.py"), WATCHED, str(MANY)]
        watcher = self._stack.enter_context(Child("watcher", arguments, variables=variables))
        watcher.line("ready")
        # Last in, first out: it would not end by itself, and waits for nothing.
        self._stack.callback(watcher.kill)
        return watcher


def measure(folder: Path, manifests: int, restarts: int, polls: int, changes: int) -> Measured:
    """Start the processes, load them, end them."""
    measured = Measured()
    with ExitStack() as stack:
        host = Host(stack, folder)
        _apply(host, manifests, measured)
        began = time.monotonic()
        second = host.start_daemon(folder / "second")
        measured.new_node = time.monotonic() - began
        second.stop()
        for number in range(restarts):
            measured.restarts.append(_restart(host, on=number % 2 == 1))
        host.daemon.stop()
        host.watcher.kill()
        _poll(host, polls, changes, measured)
    return measured


# apply, and kills meanwhile


def _apply(host: Host, manifests: int, measured: Measured) -> None:
    folder = host.project.folder / "many"
    folder.mkdir()
    for position, document in enumerate(_documents(manifests)):
        text = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False)
        (folder / f"{position:06}.yaml").write_text(text)
    measured.apply_bare = _bare_apply(folder)
    private = host.project.private
    command = [
        sys.executable, "-m", "control_plane", "apply", "-f", str(folder), "-e", ENVIRONMENT,
        "--store", host.url, "--key", str(private / "keys" / "author.pem"),
        "--token-file", str(private / "tokens" / "submit.token"),
    ]  # fmt: skip
    ended: list[float] = []
    began = time.monotonic()

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ended.append(time.monotonic())

    applying = threading.Thread(target=run)
    applying.start()
    kill = True
    while applying.is_alive():
        time.sleep(KILL_SECONDS)
        submitted = host.kill(kill=kill)
        measured.kills.append(host.seen(not kill) - submitted)
        kill = not kill
    applying.join()
    if not kill:
        host.kill(kill=False)
        host.seen(True)
    measured.apply = ended[0] - began


def _documents(count: int) -> Iterator[dict[str, Any]]:
    tenth = count // 10
    yield from map(flag, range(count - 4 * tenth))
    yield from map(config, range(2 * tenth))
    yield from map(tool, range(tenth))
    yield from (agent(number, tenth) for number in range(tenth))


def _bare_apply(folder: Path) -> float:
    began = time.monotonic()
    with (folder.parent / "bare").open("wb", buffering=0) as file:
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            yaml.load(data, Loader=yaml.CSafeLoader)
            file.write(data)
            os.fsync(file.fileno())
    return time.monotonic() - began


# restart


def _restart(host: Host, *, on: bool) -> float:
    host.daemon.kill()
    host.switch(on=on)
    began = time.monotonic()
    host.daemon = host.start_daemon(host.replica)
    return host.seen(on) - began


# many long polls


def _poll(host: Host, polls: int, changes: int, measured: Measured) -> None:
    ours, theirs = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    _pin(host.store.pid, theirs)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ours})
    place = urlsplit(host.url)
    address = (str(place.hostname), int(place.port or 0))
    try:
        size = _size(host)
        for number in range(changes):
            with ExitStack() as stack:
                # New ones each time: what is idle meanwhile, a store may close.
                sockets = [
                    stack.enter_context(_asking(address, host.token("follow"), size))
                    for _ in range(polls)
                ]
                time.sleep(PARKED_SECONDS)
                answers = _Answers(sockets)
                answers.start()
                submitted = host.kill(kill=number % 2 == 0)
                measured.polls += [at - submitted for at in answers.wait()]
            measured.polls_bare += _bare_polls(answers.body, polls, theirs)
            size += 1
    finally:
        os.sched_setaffinity(0, before)


def _size(host: Host) -> int:
    return int(host.author.store.checkpoint(ENVIRONMENT).split(b"\n")[1])


def _asking(address: tuple[str, int], token: str, size: int) -> socket.socket:
    """A connection that has asked for what comes after ``size`` entries."""
    request = (
        f"GET /v1/{ENVIRONMENT}/follow?epoch=1&size={size}&wait=20 HTTP/1.1\r\n"
        f"Host: store\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    connection = socket.create_connection(address)
    connection.sendall(request.encode())
    return connection


class _Answers(threading.Thread):
    """Notes when each socket has its whole answer; the first bytes it sees are not parsed twice."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        super().__init__()
        self._sockets = {each.fileno(): each for each in sockets}
        self._times: list[float] = []
        self.body = b""

    def run(self) -> None:
        poll = select.epoll()
        received = dict.fromkeys(self._sockets, b"")
        for number in self._sockets:
            poll.register(number, select.EPOLLIN)
        deadline = time.monotonic() + 30
        while received and time.monotonic() < deadline:
            for number, _ in poll.poll(1.0):
                data = _received(self._sockets[number])
                if data is None:
                    # Closed without an answer: `wait` tells how many were not answered.
                    received.pop(number)
                    poll.unregister(number)
                    continue
                received[number] += data
                if _whole(received[number]):
                    self._times.append(time.monotonic())
                    self.body = received.pop(number)
                    poll.unregister(number)
        poll.close()

    def wait(self) -> list[float]:
        """The times, once all are there."""
        self.join()
        if len(self._times) != len(self._sockets):
            raise RuntimeError(f"expected {len(self._sockets)} answers, found {len(self._times)}")
        return self._times


def _received(connection: socket.socket) -> bytes | None:
    try:
        return connection.recv(1 << 16) or None
    except ConnectionError:
        return None


def _whole(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def _bare_polls(body: bytes, polls: int, core: int) -> list[float]:
    """The same bytes written by a loop of a child of ours to as many connected sockets."""
    pairs = [socket.socketpair() for _ in range(polls)]
    answers = _Answers([ours for ours, _ in pairs])
    answers.start()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {core})
        for _, theirs in pairs:
            theirs.sendall(body)
        os._exit(0)
    times = answers.wait()
    os.waitpid(child, 0)
    for pair in pairs:
        for each in pair:
            each.close()
    return [at - began for at in times]


def _pin(process: int, core: int) -> None:
    for task in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def _nothing(line: str) -> None:
    """What services print is of no interest here."""
