"""Writers and readers as processes, small disks and read-only mounts, for the tables of faults."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli.children import Child
from control_plane.publish.keyfiles import create_trust
from control_plane.publish.publisher import Publisher

HERE = Path(__file__).parent
NOBODY = 65534

Counts = dict[str, int]


class Script:
    """A script beside this file, as a process that answers on stdout and waits for stdin."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / name), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        """Say a line; the line it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.line()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def counts(self) -> Counts:
        """What it prints at its end; the process has ended by itself and well."""
        said, _ = self.process.communicate()
        assert self.process.returncode == 0, f"ended with {self.process.returncode}"
        counts: Counts = json.loads(said.splitlines()[-1])
        return counts

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Race:
    """One replica under a writer at full speed, and the processes that read it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "production"
        self.published = root / "published"
        self.published.write_bytes(bytes(8))
        self.published.chmod(0o644)
        with self.published.open("r+b") as file:
            self._page = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
        self.started: list[Script] = []
        self.servers: list[subprocess.Popen[bytes]] = []

    def write(self, *, speed: float = 10, swap_seconds: float = 0) -> Script:
        """Start the writer; its first commit is there when this returns."""
        script = self.start("writing_process.py", self.folder, self.published, speed, swap_seconds)
        assert script.line() == "ready"
        return script

    def publish(self, number: int) -> None:
        """Say that ``number`` is published: from now on answers below it are stale."""
        self._page[0] = number

    def read(
        self, reads: int, *, root: Path | None = None, threads: int = 1, user: int = 0
    ) -> Script:
        """Start a reader; it has opened the replica and waits for `Script.begin`."""
        script = self.start(
            "reading_process.py", root or self.root, self.published, reads, threads, user
        )
        assert script.line() == "ready"
        return script

    def start(self, name: str, *arguments: object) -> Script:
        self.started.append(Script(name, *arguments))
        return self.started[-1]

    def run(self, name: str, *arguments: object) -> list[Counts]:
        """Run a script that imports `preloaded`; the counts it prints."""
        done = subprocess.run(
            [sys.executable, str(HERE / name), *map(str, arguments)],
            stdout=subprocess.PIPE,
            env=self._environment(),
            timeout=100,
            check=True,
        )
        counts: list[Counts] = json.loads(done.stdout.splitlines()[-1])
        return counts

    def serve(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a server that imports `preloaded`; it is killed with its children at the end."""
        server = subprocess.Popen(
            [sys.executable, *arguments], env=self._environment(), start_new_session=True
        )
        self.servers.append(server)
        return server

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TORTURE_ROOT": str(self.root),
            "TORTURE_PUBLISHED": str(self.published),
        }

    def stop(self, writer: Script) -> Counts:
        """End the writer; how much it wrote."""
        writer.signal(signal.SIGTERM)
        return writer.counts()

    def close(self) -> None:
        for script in self.started:
            script.kill()
        for server in self.servers:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.fixture
def race() -> Iterator[Race]:
    # Not in pytest's folder: another user has to reach it, and hundreds of megabytes of old pages
    # would be kept for three runs.
    root = Path(tempfile.mkdtemp(prefix="torture"))
    root.chmod(0o755)
    race = Race(root)
    yield race
    race.close()
    shutil.rmtree(root)


@pytest.fixture
def start_script() -> Iterator[Callable[..., Script]]:
    """Start scripts of this folder; they are killed at the end."""
    started: list[Script] = []

    def start(name: str, *arguments: object) -> Script:
        started.append(Script(name, *arguments))
        return started[-1]

    yield start
    for script in started:
        script.kill()


@pytest.fixture
def add() -> Callable[[Iterable[Counts]], Counts]:
    """Add counts up."""

    def summed_up(many: Iterable[Counts]) -> Counts:
        summed: Counts = {}
        for counts in many:
            for name, value in counts.items():
                summed[name] = summed.get(name, 0) + value
        return summed

    return summed_up


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a file system: ``mount("-t", "tmpfs", …)``; skips where that is not permitted."""
    mounted: list[Path] = []

    def make(*arguments: Any) -> Path:
        place = Path(tempfile.mkdtemp(prefix="mount"))
        place.chmod(0o755)
        done = subprocess.run(
            ["mount", *map(str, arguments), str(place)], capture_output=True, check=False
        )
        if done.returncode:
            place.rmdir()
            pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


@pytest.fixture
def nobody() -> int:
    """A user id that owns nothing."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    return NOBODY


class Installation:
    """A store process with its files, a daemon that can be started again, and an author.

    The clock of the process that is named by ``skewed`` is wrong by what `skew` says.
    """

    def __init__(self, folder: Path, root: Path, skewed: str = "") -> None:
        self.folder = folder
        self.root = root
        self.skewed = skewed
        self.skew(0)
        self.url = f"unix:{folder / 's'}"
        create_trust(folder, installation="a", environments=["production"])
        self._store("init", "--trust", folder / "trust", "--enrolment", folder / "trust.json",
                    "--tokens", folder / "tokens")  # fmt: skip
        self.store = Child("store", [*map(str, self.store_arguments("--listen", self.url))])
        self.store.line("store ready at ")
        token = (folder / "tokens" / "submit.token").read_text().strip()
        self.publisher = Publisher(self.url, str(folder / "keys" / "author.pem"), token=token)
        self.daemon: Child | None = None
        self.errors = folder / "errors"

    def store_arguments(self, *more: object, verb: str = "") -> list[object]:
        place = ["--database", self.folder / "store.sqlite3", "--keys", self.folder / "keys"]
        return [*self._command("store"), *([verb] if verb else []), *place, *more]

    def skew(self, seconds: int) -> None:
        """Set a process's clock wrong by so much; at once, and whole for whoever reads it."""
        (self.folder / "new").write_text(str(seconds))
        (self.folder / "new").rename(self.folder / "skew")

    def _command(self, name: str) -> list[str]:
        if name != self.skewed:
            return ["-m", "control_plane", name]
        return [str(HERE / "skewed_process.py"), str(self.folder / "skew"), name]

    def _store(self, verb: str, *more: object) -> None:
        arguments = self.store_arguments(*more, verb=verb)
        subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)

    def daemon_arguments(self) -> list[str]:
        return [
            *self._command("daemon"), "--store", self.url, "-e", "production",
            "--trust", str(self.folder / "trust.json"), "--replica", str(self.root),
            "--token-file", str(self.folder / "tokens" / "follow.token"),
        ]  # fmt: skip

    def start_daemon(self, *, ready: bool = True) -> Child:
        if self.daemon is not None:
            self.daemon.stop()
        with self.errors.open("ab") as stderr:
            self.daemon = Child("daemon", self.daemon_arguments(), stderr=stderr)
        if ready:
            self.daemon.line("daemon ready: ")
        return self.daemon

    def publish(self, number: int, padding: int = 0) -> int:
        """Publish ``number`` as every flag's value in one change set; its generation."""
        change = self.publisher.change("production", "a test")
        variants = {"n": number, "no": 0}
        for name in ("first", "second", "third", "fourth"):
            change.put({
                "kind": "flag", "name": name,
                "metadata": {"variants": variants, "default": "n", "disabled": "no"},
            })  # fmt: skip
        if padding:
            values = {f"k{part}": os.urandom(500).hex() for part in range(padding)}
            change.put({"kind": "config", "name": "padding", "metadata": {"values": values}})
        generation = self.publisher.submit(change)[-1].generation
        assert generation is not None
        return generation

    def close(self) -> None:
        self.publisher.close()
        if self.daemon is not None:
            self.daemon.stop()
        self.store.stop()


@pytest.fixture
def install() -> Iterator[Callable[..., Installation]]:
    """Make an installation whose daemon writes to a root."""
    made: list[Installation] = []
    folder = Path(tempfile.mkdtemp(prefix="i"))

    def make(root: Path, skewed: str = "") -> Installation:
        made.append(Installation(folder, root, skewed))
        return made[-1]

    yield make
    for installation in made:
        installation.close()
    shutil.rmtree(folder)
