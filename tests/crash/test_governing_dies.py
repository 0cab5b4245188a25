"""The commands that change who may sign, killed at each of their effects.

After each kill: metadata and keys that have their final names are whole, no private key can be read
by others, and ``trust.json`` verifies the log as it is. The same command is run again and succeeds;
then log, trust folder and ``trust.json`` have the same metadata, and authors go on.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import pytest

from control_plane.log.canonical import sha256_hex
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import load_public, load_signer
from control_plane.publish.replay import History, replay
from control_plane.publish.trustfolder import TrustFolder
from control_plane.trust.enrolment import Enrolment

Table = Sequence[tuple[str, str, str]]
"""(effect, what a crash right before or after it leaves, who picks it up)"""

KEY: Table = (
    ("* keys/.*.TEMPORARY", "a key of mode 0600 or less by no name", "nobody: nothing reads it"),
    ("link keys/*.pem", "no key, or one in no metadata without its .pub", "the next run uses it"),
    ("replace keys/*.pem.pub", "a key in no metadata", "the next run uses it"),
    ("fsync keys", "a key in no metadata", "the next run uses it"),
)
FOLDER: Table = (
    ("* trust/.*.TEMPORARY", "a log with metadata that the folder lacks", "Levelling.level"),
    ("* trust/*", "a log with metadata that the folder lacks, or has", "Levelling.level"),
    ("fsync trust", "a log with metadata that the folder has", "the next run"),
    ("* .trust.json.TEMPORARY", "an older trust.json", "the next run"),
    ("replace trust.json", "an older trust.json, or the new one", "the next run"),
    ("fsync .", "the new trust.json", "nobody need"),
)
ROWS: Table = (*KEY, *FOLDER)
COMMANDS: dict[str, tuple[list[str], Table]] = {
    "rotate-root": (["keys", "rotate-root"], ROWS),
    "revoke": (["keys", "revoke", "bob", "--reapprove", "--replace-with", "next"], ROWS),
    "new-epoch": (["log", "new-epoch", "-e", "production", "--new-log-key"], ROWS),
}


def flag(name: str) -> dict[str, Any]:
    metadata = {"variants": {"on": True, "off": False}, "default": "off"}
    return {"kind": "flag", "name": name, "metadata": metadata}


def history_of(installation: Any) -> History:
    """The log, verified from its first entry with the installation's ``trust.json``."""
    enrolment = Enrolment.decode((installation.place / "trust.json").read_bytes())
    token = (installation.place / "tokens" / "follow.token").read_text().strip()
    with StoreClient(installation.url, token) as client:
        return replay(client, "production", enrolment)


@dataclass
class Governing:
    """An installation with a history, copied for each run."""

    world: Any
    stopped: Any
    traces: dict[str, list[str]] = field(default_factory=dict)

    def kill(self, name: str, at: tuple[str, int] | None, when: str) -> list[str]:
        """Run a command to its death at an effect, or to its end; what it reached."""
        installation = self.world.copy(self.stopped)
        installation.start_store()
        token = installation.place / "tokens" / "submit.token"
        command = [
            *COMMANDS[name][0], "--directory", installation.place, "--store", installation.url,
            "--token-file", token, "--key", installation.keys / "alice.pem",
        ]  # fmt: skip
        if name != "revoke":
            command = command[:-2]
        run = self.world.launcher.run
        died = run(installation.place, *command, at=at, when=when, umask=0)
        assert died.code == (0 if at is None else -signal.SIGKILL), died.complained()
        self.check_whole(installation)
        again = run(installation.place, *command)
        assert again.code == 0, again.complained()
        self.check_done(installation)
        installation.stop_store()
        shutil.rmtree(installation.place)
        return list(died.effects())

    def check_whole(self, installation: Any) -> None:
        """What holds at any moment."""
        for path in installation.keys.iterdir():
            if ".pub" not in path.name:
                assert path.stat().st_mode & 0o077 == 0
        for path in installation.keys.glob("*.pem"):
            assert load_signer(path).public_key.keyid
        TrustFolder.read(installation.place / "trust")
        assert history_of(installation).position.size >= len(self.stopped_leaves)

    @property
    def stopped_leaves(self) -> list[Any]:
        """The entries before any run, less those of an epoch that a run leaves."""
        return self.stopped.leaves()[:1]

    def check_done(self, installation: Any) -> None:
        """What holds once the command was run to its end."""
        history, folder = history_of(installation), TrustFolder.read(installation.place / "trust")
        enrolment = Enrolment.decode((installation.place / "trust.json").read_bytes())
        assert history.policy is not None
        assert history.policy.root_digest == sha256_hex(enrolment.root)
        assert (folder.roots[-1], folder.targets) == (enrolment.root, enrolment.targets)
        assert history.policy.targets_digest == sha256_hex(enrolment.targets)
        assert {str(key) for key in history.changes} == {"flag/a", "flag/b"}
        for key in installation.keys.glob("*.pem"):
            assert load_public(key).key_id == load_signer(key).public_key.keyid

    def trace(self, name: str) -> list[str]:
        """The effects of a run to its end."""
        if name not in self.traces:
            self.traces[name] = self.kill(name, None, "before")
        return self.traces[name]


def rows_without(table: Table, trace: list[str]) -> tuple[list[str], list[str]]:
    """Effects without a row, and rows without an effect."""
    alone = [e for e in dict.fromkeys(trace) if not any(fnmatch(e, row[0]) for row in table)]
    firsts = {next((row[0] for row in table if fnmatch(e, row[0])), "") for e in trace}
    return alone, [row[0] for row in table if row[0] not in firsts]


@pytest.fixture(scope="module")
def governing(world: Any) -> Governing:
    stopped = world.installation()
    stopped.start_store()
    author = world.author(stopped)
    author.publish(lambda change: change.put(flag("a")))
    author.publish(lambda change: change.put(flag("b")))
    stopped.stop_store()
    return Governing(world, stopped)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_that_changes_trust_is_ended_by_running_it_again(
    governing: Governing, one_a_row: Any, name: str
) -> None:
    table, trace = COMMANDS[name][1], governing.trace(name)
    assert rows_without(table, trace) == ([], [])
    for when in ("before", "after"):
        for effect in one_a_row(table, trace, when):
            governing.kill(name, effect, when)


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_changes_trust_killed_anywhere_is_ended_by_running_it_again(
    governing: Governing, numbered: Any, name: str, when: str
) -> None:
    for effect in numbered(governing.trace(name)):
        governing.kill(name, effect, when)
