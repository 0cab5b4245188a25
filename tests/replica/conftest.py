"""Real replicas in temporary folders, and real processes that read them."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.replica import format
from control_plane.replica.source import ReplicaSource
from control_plane.replica.writer import ReplicaWriter

HERE = Path(__file__).parent


class Clock:
    """A monotonic clock that moves when told, and the sleeps it was asked for."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


class RemoteError(Exception):
    """What a reading process raised; ``name`` is the class there."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


class ReadingProcess:
    """A reader elsewhere: ``ask`` evaluates an expression there (see reading_process.py)."""

    def __init__(self, folder: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "reading_process.py"), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, expression: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        outcome, value = ast.literal_eval(self.process.stdout.readline())
        if outcome == "error":
            raise RemoteError(*value)
        return value

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "production")


@pytest.fixture
def open_writer(folder: str, clock: Clock) -> Iterator[Callable[..., ReplicaWriter]]:
    """Open writers of ``folder`` on the test's clock; whatever is still open is closed."""
    opened: list[ReplicaWriter] = []

    def open_one(**options: Any) -> ReplicaWriter:
        options = {"sync": False, "monotonic": clock, "sleep": clock.sleep} | options
        opened.append(ReplicaWriter.open(folder, **options))
        return opened[-1]

    yield open_one
    for writer in opened:
        writer.close()


@pytest.fixture
def put_flag() -> Callable[..., None]:
    """Commit one flag record; the generation rises by one."""

    def put(writer: ReplicaWriter, name: str, body: bytes = b"value") -> None:
        with writer.write() as change:
            change.generation += 1
            change.put_record(
                format.record_key(format.FLAG, name),
                format.FLAG,
                body,
                head_generation=change.generation,
                served_generation=change.generation,
            )

    return put


@pytest.fixture
def open_source(folder: str) -> Iterator[Callable[..., ReplicaSource]]:
    """Make sources of ``folder`` in this process; they are closed at the end."""
    opened: list[ReplicaSource] = []

    def open_one(**options: Any) -> ReplicaSource:
        opened.append(ReplicaSource(folder, **options))
        return opened[-1]

    yield open_one
    for source in opened:
        source.close()


@pytest.fixture
def start_reader(folder: str) -> Iterator[Callable[[], ReadingProcess]]:
    """Start reading processes of ``folder``; they are killed at the end."""
    started: list[ReadingProcess] = []

    def start() -> ReadingProcess:
        started.append(ReadingProcess(folder))
        return started[-1]

    yield start
    for reader in started:
        reader.close()


@pytest.fixture
def run_script(folder: str) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own; ``FOLDER`` is the replica's folder there."""

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", f"FOLDER = {folder!r}\n{script}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def remote_error() -> type[RemoteError]:
    return RemoteError
