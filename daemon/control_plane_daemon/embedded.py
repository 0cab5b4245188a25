"""The store that ``daemon --from`` runs for itself, in a process of its own.

What this module decides:

- State is made on first use and kept: keys, trust, tokens and the log, in one folder of mode 0700.
  It is filled beside and renamed, so a crash leaves nothing that looks finished. It belongs to
  the environments it was made for.
- The store is started like any store, from the installed command, and reached like any store.
  Nothing of it is imported, and the daemon verifies what it says like anybody's.
- It ends with the daemon: on a signal, because the daemon ends it; on a kill, because the kernel
  tells it that its parent is gone. While the daemon runs, a store that ended is started again at
  the same address.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.errors import Refused, Unavailable
from control_plane.publish.keyfiles import create_trust
from control_plane.trust.enrolment import Enrolment

READY: Final = "store ready at "
READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
RESTART_SECONDS: Final = 1.0
# Linux bounds the path of a unix socket at 108 bytes.
MAX_SOCKET_PATH: Final = 100
_PR_SET_PDEATHSIG: Final = 1

logger = logging.getLogger("control_plane_daemon")


@dataclass(frozen=True, slots=True)
class State:
    """The folder a development store lives in."""

    folder: Path

    @property
    def database(self) -> Path:
        """The store's database."""
        return self.folder / "store.sqlite3"

    @property
    def keys(self) -> Path:
        """The folder of key files, the development key ``author.pem`` among them."""
        return self.folder / "keys"

    def token(self, may: str) -> str:
        """The token that may ``follow`` or ``submit``."""
        return (self.folder / "tokens" / f"{may}.token").read_text().strip()

    def enrolment(self) -> Enrolment:
        """What a daemon is enrolled with."""
        return Enrolment.decode((self.folder / "trust.json").read_bytes())


def default_state(manifests: Path) -> Path:
    """Where a folder of manifests has its state: one place for each real path."""
    name = hashlib.sha256(os.fsencode(manifests.resolve())).hexdigest()[:16]
    return Path.home() / ".local" / "state" / "control-plane" / name


def prepare(folder: Path, environments: Sequence[str]) -> State:
    """The state in ``folder``, made if it is not there.

    Raises:
        Refused: it was made for other environments, or the store refused to begin.
    """
    state = State(folder)
    if not folder.exists():
        _make(folder, environments)
    known = sorted(state.enrolment().checkpoints)
    if missing := sorted(set(environments) - set(known)):
        raise Refused(
            f"{folder}: expected a state for {', '.join(missing)}, found one for"
            f" {', '.join(known)}; name another with --state"
        )
    return state


def _make(folder: Path, environments: Sequence[str]) -> None:
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700, parents=True)
    create_trust(beside, installation="development", environments=tuple(environments))
    made = State(beside)
    command = _command(
        "store", "init", "--database", made.database, "--trust", beside / "trust",
        "--keys", made.keys, "--enrolment", beside / "trust.json", "--tokens", beside / "tokens",
    )  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Refused((lines or ["no word"])[-1].removeprefix("control-plane: "))
    # A crash before this leaves a folder beside that the next start removes.
    beside.rename(folder)


class EmbeddedStore:
    """The store as a child process; `start` it, `watch` over it, `stop` it."""

    def __init__(self, state: State) -> None:
        self._state = state
        socket = state.folder / "store.sock"
        short = len(os.fsencode(socket)) <= MAX_SOCKET_PATH
        self._listen = f"unix:{socket}" if short else "127.0.0.1:0"
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    @property
    def pid(self) -> int | None:
        """The child's process id, while it runs."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the store and wait until it answers.

        Raises:
            Unavailable: it ended, or did not say that it is ready in time.
        """
        self._process = process = await asyncio.create_subprocess_exec(
            *_command(
                "store", "--database", self._state.database, "--keys", self._state.keys,
                "--listen", self._listen,
            ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=_end_with_parent,
            # Ctrl-C reaches a whole group at once; the daemon ends its child in order.
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_SECONDS):
                line = (await process.stdout.readline()).decode("utf-8", "replace").strip()
        except TimeoutError as error:
            raise Unavailable(
                f"store: expected it to be ready within {READY_SECONDS:.0f} s, found it is not"
            ) from error
        if not line.startswith(READY):
            code = await process.wait()
            raise Unavailable(f"store: expected it to run, found it ended with {code}")
        self.url = line.removeprefix(READY).split()[0]
        if not self._listen.startswith("unix:"):
            self._listen = self.url.removeprefix("http://")

    async def watch(self) -> None:
        """Start the store again whenever it ends; reads do not need it, changes do."""
        while self._process is not None:
            code = await self._process.wait()
            logger.error("store: expected it to run, found it ended with %d; starting it", code)
            await asyncio.sleep(RESTART_SECONDS)
            try:
                await self.start()
            except Unavailable as error:
                logger.error("%s", error)

    async def stop(self) -> None:
        """End the store and wait for it."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "control_plane", *map(str, arguments)]


def _end_with_parent() -> None:
    """Runs in the child before it becomes the store: SIGTERM when the parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
