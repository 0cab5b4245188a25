"""What a start of the store does with keys and newer trust metadata: real files, real processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.errors import Refused
from control_plane.log.checkpoint import LogSigner, open_checkpoint
from control_plane.log.envelope import Envelope
from control_plane.log.statements import Change, change_set
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import NEVER, Trust, create_trust, new_key, sign_envelope
from control_plane.trust import authoring
from control_plane_store.command import store as command
from control_plane_store.database import Database
from control_plane_store.transactions import Log

GAP = 1 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trust, Path]:
    """An installation and its new store, which tests copy."""
    place = tmp_path_factory.mktemp("made")
    trust = create_trust(place, environments=("production", "staging"))
    arguments = [
        "init", "--database", place / "store.sqlite3", "--trust", trust.trust_directory,
        "--keys", trust.keys_directory, "--tokens", place / "tokens",
    ]  # fmt: skip
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    assert result.exception is None, result.output
    return trust, place


class Place:
    """A copy of the installation's files, and what its root holder signs."""

    def __init__(self, made: tuple[Trust, Path], folder: Path) -> None:
        self.trust, origin = made
        shutil.copytree(origin, folder, dirs_exist_ok=True)
        self.folder, self.keys = folder, folder / "keys"
        self.roots = 1

    def log(self, environment: str = "production", epoch: int | None = None) -> Log:
        opened = Database.open(self.folder / "store.sqlite3")
        try:
            with opened.read() as snapshot:
                log = snapshot.log(environment, epoch)
        finally:
            opened.close()
        assert log is not None
        return log

    def sign_root(self, *environments: str, key: bytes | None = None, **continues: Any) -> None:
        """The next root: the environments named, ``production`` in a new epoch if it says so."""
        trust, log = self.trust, self.log()
        logs = []
        for each in environments:
            public = trust.keys[f"log-{each}"].public
            if each == "production" and continues:
                named = {
                    "epoch": log.epoch, "size": log.frontier.size,
                    "root": log.frontier.root().hex(), "generation": log.generation + GAP,
                }  # fmt: skip
                epoch = log.epoch + 1
                logs.append(
                    authoring.new_log(
                        trust.installation, each, key or public, epoch=epoch,
                        continues=named | continues,
                    )
                )  # fmt: skip
            else:
                logs.append(authoring.new_log(trust.installation, each, public))
        self.roots += 1
        root = authoring.new_root(
            version=self.roots, expires=NEVER, logs=logs,
            root_keys=[trust.keys["root"].public], targets_keys=[trust.keys["targets"].public],
        )  # fmt: skip
        data = authoring.signed(root, [trust.signers["root"]])
        (self.folder / "trust" / f"{self.roots}.root.json").write_bytes(data)

    def kill(self, epoch: int = 1) -> Envelope:
        """A signed set for ``production``."""
        change = Change(
            action="put", kind="kill", name="pilot", replaces=None, value={"variant": None}
        )
        now_ms = time.time_ns() // 1_000_000
        statement, _ = change_set(
            f"hello/production/{epoch}", [change],
            created_at=now_ms, not_after=now_ms + 60_000, reason="", verb="kill",
        )  # fmt: skip
        return sign_envelope(statement.envelope(), self.trust.signers["author"])

    def arguments(self, *options: str | Path) -> list[str]:
        arguments = [
            sys.executable, "-m", "control_plane", "store",
            "--database", self.folder / "store.sqlite3", "--keys", self.keys,
            "--listen", "127.0.0.1:0", *options,
        ]  # fmt: skip
        return [str(each) for each in arguments]

    def with_trust(self) -> list[str]:
        return self.arguments("--trust", self.folder / "trust")

    def refused(self, arguments: list[str]) -> str:
        """What a store says that does not start."""
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode != 0, done.stdout) == (True, "")
        return done.stderr

    @contextmanager
    def running(self, arguments: list[str]) -> Iterator[StoreClient]:
        """A store, and its author."""
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line.startswith("store ready at "), process.stderr.read()
            token = (self.folder / "tokens" / "submit.token").read_text().strip()
            with StoreClient(line.removeprefix("store ready at ").strip(), token) as client:
                yield client
        finally:
            process.terminate()
            self.said = process.communicate()[1]


@pytest.fixture
def place(made: tuple[Trust, Path], tmp_path: Path) -> Place:
    return Place(made, tmp_path / "place")


def test_a_root_in_the_trust_folder_begins_an_epoch_at_start(place: Place) -> None:
    place.sign_root("production", "staging", generation=GAP)
    for _ in range(2):  # and once
        with place.running(place.with_trust()) as client:
            position = client.position("production")
        assert (position["epoch"], position["generation"]) == (2, GAP + 2)
    assert place.log(epoch=1).frontier.size == 1
    assert place.log("staging").frontier.size == 2


def test_an_epoch_may_have_a_key_of_its_own_beside_the_old_one(place: Place) -> None:
    key = new_key(place.keys / "log-production.2.pem", "log-production.2")
    place.sign_root("production", "staging", key=key.public, generation=GAP)
    with place.running(place.with_trust()) as client:
        note = client.checkpoint("production", 2)
    vkeys = authoring.new_log(place.trust.installation, "production", key.public, epoch=2).vkeys
    assert open_checkpoint(note, vkeys).checkpoint.size == 2
    # The old key is no longer asked for.
    (place.keys / "log-production.pem").unlink()
    with place.running(place.arguments()) as client:
        assert client.position("production")["epoch"] == 2


def test_a_lost_log_key_is_mended_by_an_epoch_with_another(place: Place) -> None:
    (place.keys / "log-production.pem").unlink()
    said = place.refused(place.arguments())
    assert "expected the log key of hello/production/1, found none" in said
    assert "--without-key production" in said
    key = new_key(place.keys / "log-production.2.pem", "log-production.2")
    place.sign_root("production", "staging", key=key.public, generation=GAP)
    with place.running(place.with_trust()) as client:
        assert client.position("production")["epoch"] == 2


def test_a_store_without_a_logs_key_lets_it_rest_until_an_epoch_names_another(
    place: Place,
) -> None:
    lost = place.log().note
    (place.keys / "log-production.pem").unlink()
    with place.running(place.arguments("--without-key", "production")) as client:
        assert client.checkpoint("production", 1) == lost
        with pytest.raises(Refused, match="which is said to be lost; its log is served"):
            client.submit("production", place.kill())
        # The operator's one command: a key that the store finds, and the root that names it.
        key = new_key(place.keys / "log-production.2.pem", "log-production.2")
        place.sign_root("production", "staging", key=key.public, generation=GAP)
        root = (place.folder / "trust" / "2.root.json").read_bytes()
        begun = client.post_trust("production", [root], place.trust.targets)
        assert begun.generation == GAP + 1
        assert client.submit("production", place.kill(epoch=2)).generation == GAP + 3
        assert client.checkpoint("production", 2).startswith(b"hello/production/2\n3\n")
    assert "production: expected the log's key, which is said to be lost" in place.said
    assert place.log(epoch=1).note == lost


def test_an_environment_that_is_not_here_cannot_be_without_its_key(place: Place) -> None:
    said = place.refused(place.arguments("--without-key", "other"))
    assert "expected one of the environments production, staging, found 'other'" in said


def test_a_store_with_another_logs_key_does_not_start(place: Place) -> None:
    note = place.log().note
    shutil.copy(place.keys / "log-staging.pem", place.keys / "log-production.pem")
    said = place.refused(place.arguments())
    assert "log-production.pem: expected the log key of hello/production/1" in said
    assert len(said.splitlines()) == 1
    assert place.log().note == note


def test_an_epoch_whose_key_is_another_does_not_begin(place: Place) -> None:
    before = place.log()
    new_key(place.keys / "log-production.2.pem", "log-production.2")
    place.sign_root("production", "staging", generation=GAP)
    said = place.refused(place.with_trust())
    assert "log-production.2.pem: expected the log key of hello/production/2" in said
    assert place.log() == before


def test_a_root_that_does_not_continue_the_end_begins_nothing(place: Place) -> None:
    before = place.log()
    place.sign_root("production", "staging", generation=GAP, size=7)
    with place.running(place.with_trust()) as client:
        assert client.position("production")["epoch"] == 1
        assert client.position("staging")["size"] == 2
    assert place.log().frontier == before.frontier
    assert len(place.said.splitlines()) == 1
    assert "expected to continue epoch 1 at size 1" in place.said
    assert "'control-plane log new-epoch -e production --restored'" in place.said


def test_a_store_whose_root_drops_an_environment_serves_it_and_says_so(place: Place) -> None:
    place.sign_root("production")
    (place.keys / "log-staging.pem").unlink()
    for arguments in (place.with_trust(), place.arguments()):
        with place.running(arguments) as client:
            assert client.position("production")["size"] == 2
            assert client.follow("staging", epoch=1, size=0)["first"] == 0
        lines = [line for line in place.said.splitlines() if "staging" in line]
        assert len(lines) == 1
        assert "its log is served as it stands" in lines[0]


@pytest.mark.parametrize("expires", [datetime(2020, 1, 1, tzinfo=UTC), NEVER])
def test_a_log_begins_with_its_first_entry_or_not_at_all(
    sequencer: Any, installation: Any, database: Any, expires: datetime
) -> None:
    key = Ed25519PrivateKey.generate()
    installation.held_keys.append(key)
    installation.signers["added"] = LogSigner("test/added/1", key)
    installation.new_root()
    installation.new_targets(expires=expires)
    added = [each for each in installation.identities() if each.environment == "added"]
    writer = sequencer()
    begun = writer.begin_logs(added, installation.roots, installation.targets)
    writer.work()
    with database.read() as snapshot:
        sizes = {log.environment: log.frontier.size for log in snapshot.logs()}
    if expires == NEVER:
        begun.result()
        assert sizes == {"added": 1, "production": 1, "staging": 1}
    else:
        assert begun.exception().code == "trust_expired"
        assert sizes == {"production": 1, "staging": 1}
