"""An installation, the processes that are killed in it, and what must hold when they are back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ControlPlaneError, StoreUnreachable, ThresholdNotReached
from control_plane.log.envelope import PAYLOAD_TYPE
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import Frontier, leaf_hash
from control_plane.log.statements import Key, parse_statement
from control_plane.publish.changefile import SignedChange
from control_plane.publish.keyfiles import NEVER, create_trust, load_public, load_signer
from control_plane.publish.publisher import Publisher
from control_plane.replica.format import parse_head_key
from control_plane.replica.header import GENERATION, TOMBSTONE, map_header
from control_plane.replica.reader import open_replica
from control_plane.replica.source import current_folder
from control_plane.replica.verify import verify
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane_store.database import Database

HERE = Path(__file__).parent
ENVIRONMENT = "production"
AUTHORS = ("alice", "bob")
SECONDS = 20.0
# A restart waits for readers of its predecessor, an attempt for its turn: nothing reads here.
QUICK = {
    "control_plane.replica.writer.SETTLE_SECONDS": 0.0,
    "control_plane.replica.writer.MINIMUM_SECONDS": 0.0,
    "control_plane_daemon.loop.HEARTBEAT_SECONDS": 0.05,
    "control_plane_daemon.loop.FIRST_HEAL_SECONDS": 0.05,
}
# Sets of a few changes fill a transaction and a shelf, so that their parts are seen too.
SMALL = {
    "control_plane.replica.plan.STAGED_RECORDS": 12,
    "control_plane_daemon.commits.MAX_RECORDS": 12,
    "control_plane_daemon.shelf.MAX_MEMORY_BYTES": 1_500,
}

Effect = tuple[str, int]


class Process:
    """A run of the command."""

    def __init__(self, launcher: Launcher, pid: int, place: Path) -> None:
        self._launcher = launcher
        self.pid = pid
        self.place = place
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code once it has ended; a signal's number below zero."""
        if self.code is None:
            asked = {"pid": self.pid, "options": os.WNOHANG}
            self.code = self._launcher.ask(asked)["code"]
        return self.code

    def said(self) -> str:
        """What it printed."""
        return self._read("out")

    def complained(self) -> str:
        """What it logged."""
        return self._read("err")

    def effects(self) -> list[str]:
        """The names of the effects it reached, in order."""
        return self._read("trace").splitlines()

    def _read(self, name: str) -> str:
        file = self.place / name
        return file.read_text() if file.exists() else ""

    def wait_until(
        self, condition: Callable[[], object], meanwhile: Callable[[], object] = lambda: None
    ) -> bool:
        """Whether the condition came true before the process ended."""
        deadline = time.monotonic() + SECONDS
        while True:
            meanwhile()
            ended = self.poll() is not None
            if condition():
                return True
            if ended:
                return False
            assert time.monotonic() < deadline, self.complained()
            time.sleep(0.005)

    def ready(self, meanwhile: Callable[[], object] = lambda: None) -> bool:
        """Whether it said that it is ready, before it ended."""
        return self.wait_until(lambda: " ready" in self.said(), meanwhile)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal and wait; its exit code."""
        if self.poll() is None:
            os.kill(self.pid, number)
        assert self.wait_until(lambda: self.poll() is not None)
        assert self.code is not None
        return self.code


class Launcher:
    """Starts the command in processes that can be killed at a named effect."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._numbers = count()
        self._started: list[Process] = []
        self._process = subprocess.Popen(
            [sys.executable, HERE / "launcher.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # What is told of usage is no durable effect.
            env={**os.environ, "CONTROL_PLANE_USAGE": "0"},
        )  # fmt: skip

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """One question to the process that forks."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def start(
        self,
        root: Path,
        *arguments: object,
        at: Effect | None = None,
        when: str = "before",
        tuned: Mapping[str, object] = QUICK,
        grace_seconds: float = 300.0,
        # What is made for everybody must be readable all the same.
        umask: int = 0o077,
    ) -> Process:
        """Run the command; it kills itself before or after the effect ``at``."""
        place = self.place / str(next(self._numbers))
        place.mkdir()
        answer = self.ask(
            {
                "arguments": [str(argument) for argument in arguments], "root": str(root),
                "out": str(place / "out"), "err": str(place / "err"),
                "trace": str(place / "trace"), "at": at, "when": when, "tuned": dict(tuned),
                "grace_seconds": grace_seconds, "umask": umask,
            }
        )  # fmt: skip
        self._started.append(Process(self, answer["pid"], place))
        return self._started[-1]

    def run(self, root: Path, *arguments: object, **named: Any) -> Process:
        """Run the command to its end."""
        process = self.start(root, *arguments, **named)
        process.wait_until(lambda: process.poll() is not None)
        return process

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.end(signal.SIGKILL)
        self._process.communicate()


@dataclass
class Author:
    """Publishes a history over a store that dies, and remembers what it was promised.

    Each set is signed once and sent again, as it is, until it is answered.
    """

    installation: Installation
    restart: Callable[[], object] = lambda: None
    receipts: dict[str, int] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    sizes: list[int] = field(default_factory=list)
    deaths: int = 0

    def _publisher(self, holders: Sequence[str]) -> Publisher:
        place = self.installation.place
        token = (place / "tokens" / "submit.token").read_text().strip()
        keys = [str(self.installation.keys / f"{name}.pem") for name in holders]
        return Publisher(self.installation.url, *keys, token=token)

    def _persist(self, act: Callable[[Publisher], Any], holders: Sequence[str]) -> Any:
        for _ in range(4):
            try:
                with self._publisher(holders) as publisher:
                    return act(publisher)
            except StoreUnreachable:
                self.deaths += 1
                self.restart()
        raise AssertionError("expected an answer, found a store that keeps dying")

    def publish(
        self, fill: Callable[[Any], object], *holders: str, verb: str = "apply"
    ) -> SignedChange:
        """Sign what ``fill`` proposes and send it until it is answered."""
        change = self.sign(fill, *holders, verb=verb)
        self.send(change)
        return change

    def sign(
        self, fill: Callable[[Any], object], *holders: str, verb: str = "apply"
    ) -> SignedChange:
        """Sign what ``fill`` proposes, for later."""

        def sign(publisher: Publisher) -> SignedChange:
            proposal = publisher.change(ENVIRONMENT, "a history", verb=verb)
            fill(proposal)
            return publisher.sign(proposal)

        change: SignedChange = self._persist(sign, holders or AUTHORS)
        return change

    def approve(self, change: SignedChange, *holders: str) -> SignedChange:
        """Send more signatures over the same set."""
        approved: SignedChange = self._persist(lambda publisher: publisher.approve(change), holders)
        self.send(approved)
        return approved

    def send(self, change: SignedChange) -> None:
        """Send a signed set until it is answered."""
        self.signed.add(change.identity)
        try:
            submission = self._persist(lambda publisher: publisher.send(change), AUTHORS)
        except ThresholdNotReached:
            return
        except ControlPlaneError:
            self.refused.add(change.identity)
            return
        before = self.receipts.setdefault(change.identity, submission.generation)
        assert submission.generation == before
        self.look()

    def look(self) -> None:
        """Note the size of the newest checkpoint, as a follower would."""
        position = self._persist(lambda publisher: publisher.store.position(ENVIRONMENT), AUTHORS)
        self.sizes.append(int(position["size"]))


class Installation:
    """Keys, trust and a store of one environment, whose changes need two signatures."""

    def __init__(self, launcher: Launcher, place: Path) -> None:
        self.launcher = launcher
        self.place = place
        self.store: Process | None = None
        self.options: tuple[object, ...] = ()

    @property
    def database(self) -> Path:
        return self.place / "store.sqlite3"

    @property
    def keys(self) -> Path:
        return self.place / "keys"

    @property
    def url(self) -> str:
        return f"unix:{self.place}/s"

    def init_arguments(self) -> list[object]:
        return [
            "store", "init", "--database", self.database, "--trust", self.place / "trust",
            "--keys", self.keys, "--enrolment", self.place / "trust.json",
            "--tokens", self.place / "tokens",
        ]  # fmt: skip

    def renew_targets(self) -> None:
        """Put newer targets into the trust folder, for the store's next start."""
        author = [load_public(self.keys / f"{name}.pem").public for name in AUTHORS]
        delegations = authoring.first_delegations([ENVIRONMENT], author, 2)
        targets = authoring.new_targets(version=2, expires=NEVER, delegations=delegations)
        data = authoring.signed(targets, [load_signer(self.keys / "targets.pem")])
        (self.place / "trust" / "targets.json").write_bytes(data)
        self.options = ("--trust", self.place / "trust")

    def leave_a_socket(self) -> None:
        """Leave what a killed store leaves where it listened."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(f"{self.place}/s")

    def copy(self, place: Path) -> Installation:
        """The same installation in another folder, its store stopped."""
        assert self.store is None
        shutil.copytree(self.place, place, ignore=shutil.ignore_patterns("s"))
        return Installation(self.launcher, place)

    def start_store(self, **named: Any) -> Process:
        """Start the store; it is ready, or it died on the way."""
        arguments = ["--database", self.database, "--keys", self.keys, "--listen", self.url]
        self.store = self.launcher.start(self.place, "store", *arguments, *self.options, **named)
        self.store.ready()
        return self.store

    def stop_store(self) -> None:
        if self.store is not None:
            self.store.end()
            self.store = None

    def daemon(self, root: Path, **named: Any) -> Process:
        """Start a daemon for a replica root; effects are named below that root."""
        arguments = [
            "--store", self.url, "--trust", self.place / "trust.json", "--replica", root,
            "--token-file", self.place / "tokens" / "follow.token", "-e", ENVIRONMENT,
        ]  # fmt: skip
        return self.launcher.start(root, "daemon", *arguments, **named)

    # What the store holds

    def leaves(self) -> list[Leaf]:
        """The log's entries."""
        database = Database.open(self.database)
        try:
            with database.read() as snapshot:
                log = snapshot.log(ENVIRONMENT)
                assert log is not None
                data = list(snapshot.leaves(log, 0, log.frontier.size))
                assert log.frontier == Frontier().extended(map(leaf_hash, data))
                assert log.note_size == log.frontier.size
                return [Leaf.decode(each) for each in data]
        finally:
            database.close()

    def heads(self) -> dict[Key, bytes]:
        """Every head the store keeps."""
        database = Database.open(self.database)
        try:
            with database.read() as snapshot:
                log = snapshot.log(ENVIRONMENT)
                assert log is not None
                rows = snapshot.heads_from(log, b"", b"", 1 << 30)
                return {row.key: row.head.encode() for row in rows}
        finally:
            database.close()

    def enrolment(self) -> Enrolment:
        return Enrolment.decode((self.place / "trust.json").read_bytes())


class Node:
    """A replica root, and what a reader of it has seen."""

    def __init__(self, installation: Installation, root: Path) -> None:
        self.installation = installation
        self.root = root
        self.folder = str(root / ENVIRONMENT)
        self.seen = 0

    def look(self) -> None:
        """Read the generation as a client does: it never falls."""
        with suppress(ControlPlaneError, FileNotFoundError):
            words = map_header(f"{current_folder(self.folder)}/header")
            found = int(words[8 * GENERATION])
            assert found >= self.seen
            self.seen = found

    def generation(self) -> int:
        self.look()
        return self.seen

    def table(self, name: str, parse: Callable[[bytes], Any] = bytes) -> dict[Any, bytes]:
        """A sub-database of the newest snapshot."""
        return self.snapshot(name, parse)[1]

    def modes(self) -> list[int]:
        """Who may read the folders, the data, the header and the lock."""
        current = Path(current_folder(self.folder))
        files = [current / name for name in ("data.mdb", "header", "lock.mdb")]
        places = [Path(self.folder), current.parent, current, *files]
        return [place.stat().st_mode & 0o777 for place in places]

    def untold(self) -> list[Path]:
        """Folders whose readers are not sent on to the one in use."""
        current = Path(current_folder(self.folder))
        headers = [path for path in current.parent.glob("*/header") if path.parent.name.isdigit()]
        return [
            path
            for path in headers
            if path.parent != current and not map_header(str(path))[8 * TOMBSTONE]
        ]

    def settled(self) -> bool:
        """Whether nothing is held and nothing staged."""
        return not self.table("held") and not self.table("staging")

    def snapshot(self, name: str, parse: Callable[[bytes], Any] = bytes) -> tuple[int, Any]:
        """The newest snapshot's generation, and a sub-database of it."""
        replica = open_replica(current_folder(self.folder))
        try:
            handle = replica.database(name)
            with replica.view() as view:
                found = view.scan(b"", limit=1 << 62, database=handle)
                return view.generation, {parse(bytes(key)): bytes(data) for key, data in found}
        finally:
            replica.close()

    def check_dead(self, heads_at: Mapping[int, Mapping[Key, bytes]]) -> None:
        """What a dead daemon leaves to readers is a whole generation, none that was there lost."""
        if self.seen or os.path.lexists(f"{self.folder}/v1/current"):
            generation, heads = self.snapshot("heads", parse_head_key)
            assert generation >= self.seen
            assert heads == heads_at[generation]

    def catch_up(
        self, generation: int, until: Callable[[], object] = lambda: True, **named: Any
    ) -> Process:
        """Run a daemon until readers see that generation, then end it."""
        daemon = self.installation.daemon(self.root, **named)
        assert daemon.wait_until(lambda: self.generation() >= generation, self.look), (
            daemon.complained()
        )
        assert daemon.ready(self.look)
        assert daemon.wait_until(until)
        assert daemon.end() == 0
        return daemon


@dataclass
class World:
    """Makes installations and nodes, and knows what must hold at the end."""

    launcher: Launcher
    place: Path
    numbers: Iterator[int] = field(default_factory=count)

    def installation(self, *, store: bool = True) -> Installation:
        """A new installation, its store made and not started."""
        made = Installation(self.launcher, self.new())
        create_trust(
            made.place, installation="a", environments=[ENVIRONMENT], authors=AUTHORS, threshold=2
        )
        if not store:
            return made
        done = self.launcher.run(made.place, *made.init_arguments())
        assert done.code == 0, done.complained()
        return made

    def copy(self, installation: Installation) -> Installation:
        place = self.new()
        place.rmdir()
        return installation.copy(place)

    def node(self, installation: Installation, of: Node | None = None) -> Node:
        """A new node, or one that begins with a copy of another's replica."""
        root = self.new()
        if of is not None:
            shutil.copytree(of.root, root, symlinks=True, dirs_exist_ok=True)
        return Node(installation, root)

    def new(self) -> Path:
        """A new folder."""
        place = self.place / str(next(self.numbers))
        place.mkdir(mode=0o700)
        return place

    def statement(self, leaf: Leaf) -> Any:
        """What an entry says."""
        return parse_statement(leaf.envelope)

    def author(self, installation: Installation) -> Author:
        return Author(installation, restart=lambda: self._restart(installation))

    def _restart(self, installation: Installation) -> None:
        assert installation.store is not None
        assert installation.store.end() == -signal.SIGKILL, installation.store.complained()
        assert installation.start_store().code is None, installation.store.complained()

    def check(self, installation: Installation, *nodes: Node, author: Author | None = None) -> None:
        """Store and nodes agree; nothing promised is lost, nothing unsigned there.

        The store runs, and goes on running.
        """
        if author is not None:
            author.look()
            assert author.sizes == sorted(author.sizes)
        leaves = installation.leaves()
        daemons = [node.catch_up(len(leaves), node.settled) for node in nodes]
        for daemon in daemons:
            assert "rejected" not in daemon.complained()
            assert "refused" not in daemon.complained()
        if author is not None:
            _check_promises(installation, leaves, author)
        heads = installation.heads()
        for node in nodes:
            assert node.table("heads", parse_head_key) == heads
            assert node.settled()
            assert node.generation() == len(leaves)
            assert verify(node.folder).problems == ()
            assert node.untold() == []
            assert node.modes() == [0o755, 0o755, 0o755, 0o644, 0o644, 0o600]


def _check_promises(installation: Installation, leaves: list[Leaf], author: Author) -> None:
    changes = [
        (index + 1, leaf.envelope.identity)
        for index, leaf in enumerate(leaves)
        if leaf.envelope.payload_type != PAYLOAD_TYPE["trust"]
    ]
    identities = [identity for _, identity in changes]
    assert set(identities) <= author.signed - author.refused
    assert len(identities) == len(set(identities))
    placed = {identity: generation for generation, identity in changes}
    for identity, generation in author.receipts.items():
        assert placed[identity] == generation
    audit = installation.place / "audit.jsonl"
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert author.refused <= {line.get("statement") for line in lines}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    # Not in pytest's folder: a unix socket's path is short, and hundreds of replicas stay.
    place = Path(tempfile.mkdtemp(prefix="crash"))
    (place / "runs").mkdir()
    launcher = Launcher(place / "runs")
    yield World(launcher, place)
    launcher.close()
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def numbered() -> Callable[[Sequence[str]], list[Effect]]:
    """Each effect of a run with its number among those of its name."""

    def numbered(names: Sequence[str]) -> list[Effect]:
        seen: Counter[str] = Counter()
        effects = []
        for name in names:
            seen[name] += 1
            effects.append((name, seen[name]))
        return effects

    return numbered


@pytest.fixture(scope="session")
def quick() -> Mapping[str, object]:
    """Pauses made short."""
    return QUICK


@pytest.fixture(scope="session")
def small() -> Mapping[str, object]:
    """Pauses made short, and bounds that sets of a few changes pass."""
    return QUICK | SMALL


@pytest.fixture(scope="session")
def one_a_row() -> Callable[..., list[Effect]]:
    """Of each row of a table the first effect of a run, to be killed before, or the last, after."""

    def one_a_row(table: Sequence[Sequence[str]], names: Sequence[str], when: str) -> list[Effect]:
        found: dict[str, Effect] = {}
        seen: Counter[str] = Counter()
        for name in names:
            seen[name] += 1
            row = next(pattern for pattern, *_ in table if fnmatch(name, pattern))
            if when == "after" or row not in found:
                found[row] = (name, seen[name])
        return list(found.values())

    return one_a_row
