"""The daemon as a process, following the real store, beside a reader in this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.cli.children import Child
from control_plane.publish.keyfiles import create_trust
from control_plane.publish.publisher import Publisher
from control_plane.replica.writer import ReplicaWriter

COMMAND = ("-m", "control_plane")


@dataclass
class Installation:
    """A store process with its files, and daemons started against it."""

    folder: Path
    store: Child
    url: str

    def publisher(self) -> Publisher:
        token = (self.folder / "tokens" / "submit.token").read_text().strip()
        return Publisher(self.url, str(self.folder / "keys" / "author.pem"), token=token)

    def arguments(self, root: Path, *environments: str) -> list[str]:
        named = [part for environment in environments for part in ("-e", environment)]
        return [
            *COMMAND, "daemon", "--store", self.url, "--trust", str(self.folder / "trust.json"),
            "--token-file", str(self.folder / "tokens" / "follow.token"),
            "--replica", str(root), *named,
        ]  # fmt: skip

    def start_store(self) -> None:
        """Start the store again at its address."""
        self.store = _store(self.folder, self.url)


def _store(folder: Path, listen: str) -> Child:
    store = Child(
        "store",
        [
            *COMMAND, "store", "--database", str(folder / "store.sqlite3"),
            "--keys", str(folder / "keys"), "--listen", listen,
        ],
    )  # fmt: skip
    store.line("store ready at ")
    return store


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("i")
    create_trust(folder, installation="a", environments=["production", "staging"])
    subprocess.run(
        [
            sys.executable, *COMMAND, "store", "init", "--database", folder / "store.sqlite3",
            "--trust", folder / "trust", "--keys", folder / "keys",
            "--enrolment", folder / "trust.json", "--tokens", folder / "tokens",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    url = f"unix:{folder / 's'}"
    made = Installation(folder, _store(folder, url), url)
    yield made
    made.store.stop()


def publish(installation: Installation, document: Any, environment: str = "production") -> int:
    with installation.publisher() as publisher:
        change = publisher.change(environment, "a test")
        change.put(document)
        generation = publisher.submit(change)[-1].generation
    assert generation is not None
    return generation


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_environments_in_one_process_each_serve_their_own_log(
    installation: Installation, tmp_path: Path, flag: Any
) -> None:
    publish(installation, flag("both"), "production")
    publish(installation, flag("both", default="on"), "staging")
    with Child("daemon", installation.arguments(tmp_path, "production", "staging")) as daemon:
        ready = {daemon.line("daemon ready: ").split()[2] for _ in range(2)}
        assert ready == {"production", "staging"}
        production = ControlPlaneClient(str(tmp_path), "production")
        staging = ControlPlaneClient(str(tmp_path), "staging")
        with production, staging:
            assert not production.is_enabled("both")
            assert staging.is_enabled("both")
            generation = publish(installation, flag("both", default="on"))
            production.wait_for(generation, timeout_seconds=10)
            assert production.is_enabled("both")
        daemon.stop()
        assert daemon.exit_code == 0


def test_reads_go_on_without_store_or_daemon_and_a_killed_daemon_resumes(
    installation: Installation, tmp_path: Path, flag: Any
) -> None:
    publish(installation, flag("lasting", default="on"))
    arguments = installation.arguments(tmp_path, "production")
    with Child("daemon", arguments) as daemon:
        daemon.line("daemon ready: ")
        with ControlPlaneClient(str(tmp_path), "production") as client:
            assert client.is_enabled("lasting")
            installation.store.stop()
            daemon.kill()
            assert client.is_enabled("lasting")
            installation.start_store()
            generation = publish(installation, flag("lasting"))
            with Child("daemon", arguments) as again:
                line = again.line("daemon ready: ")
                assert line == f"daemon ready: production at generation {generation}"
                assert not client.is_enabled("lasting")


def test_a_daemon_outlives_its_store_and_follows_it_again(
    installation: Installation, tmp_path: Path, flag: Any
) -> None:
    with Child("daemon", installation.arguments(tmp_path, "production")) as daemon:
        daemon.line("daemon ready: ")
        installation.store.kill()
        installation.store.stop()
        installation.start_store()
        generation = publish(installation, flag("after", default="on"))
        with ControlPlaneClient(str(tmp_path), "production") as client:
            client.wait_for(generation, timeout_seconds=20)
            assert client.is_enabled("after")


def refused(arguments: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stderr


def test_a_second_daemon_on_one_folder_is_refused(
    installation: Installation, tmp_path: Path
) -> None:
    arguments = installation.arguments(tmp_path, "production")
    with Child("daemon", arguments) as daemon:
        daemon.line("daemon ready: ")
        code, said = refused(arguments)
        assert code == 1
        assert str(daemon.pid) in said
        assert daemon.exit_code is None


def test_a_replica_of_another_installation_is_refused_and_left_alone(
    installation: Installation, make_node: Any, log: Any, flag: Any
) -> None:
    node = make_node("foreign")
    log.put(flag())
    node.follow()
    # The log of these tests is called as the store's is; another name makes it foreign.
    with node.writer.write() as transaction:
        transaction.log.put(b"origin", b"b/production/1")
    before = node.records()
    node.close()
    code, said = refused(installation.arguments(node.folder.parent, "production"))
    assert code == 1
    assert "expected origin a/production/1, found b/production/1" in said
    with ReplicaWriter.open(str(node.folder), sleep=lambda seconds: None) as node.writer:
        assert node.records() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "expected --store or --from, found neither"),
        (["--store", "http://127.0.0.1:1", "--trust", "none.json"], 1, "none.json: expected a"),
        (["--from", "no-such-folder"], 1, "no-such-folder: expected a folder of manifests"),
        (["--from", ".", "-e", "Production"], 1, "environment: expected a name like"),
    ],
)
def test_wrong_arguments_end_with_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    found, said = refused([*COMMAND, "daemon", "--replica", str(tmp_path), *arguments])
    assert found == code
    assert message in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_published_followed_and_mended(tmp_path: Path) -> None:
    manifests, root = tmp_path / "manifests", tmp_path / "r"
    manifests.mkdir()
    file = manifests / "pilot.yaml"
    text = (
        'kind: flag\nname: pilot\nmetadata: {variants: {"on": true, "off": false}, default: "%s"}\n'
    )
    file.write_text(text % "off")
    (manifests / "other.yaml").write_text(text.replace("pilot", "other") % "on")
    arguments = [
        *COMMAND, "daemon", "--from", str(manifests), "--replica", str(root),
        "--state", str(tmp_path / "state"),
    ]  # fmt: skip
    errors = tmp_path / "errors"
    with errors.open("wb") as stderr, Child("daemon", arguments, stderr=stderr) as daemon:
        assert daemon.line("daemon ready: ").startswith("daemon ready: development at generation")
        with ControlPlaneClient(str(root), "development") as client:
            assert client.is_enabled("other")
            assert client.health().development
            with pytest.raises(Exception, match="development"):
                ControlPlaneClient(str(root), "development", require_trusted=True).config.get("x")
            file.write_text(text % "on")
            wait_until(lambda: client.is_enabled("pilot"))
            file.write_text("kind: [")
            (manifests / "other.yaml").write_text(text.replace("pilot", "other") % "off")
            wait_until(lambda: not client.is_enabled("other"))
            assert client.is_enabled("pilot")
            (manifests / "other.yaml").unlink()
            file.write_text(text % "on")
            wait_until(lambda: client.flags.evaluate("other", False).error_code is not None)
        store = children(daemon.pid)
        daemon.stop()
        assert daemon.exit_code == 0
        wait_until(lambda: not any(alive(pid) for pid in store))
    assert errors.read_text().count(f"{file}: expected") == 1
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.glob("state.new"))


def test_the_embedded_store_ends_with_a_killed_daemon(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    arguments = [
        *COMMAND, "daemon", "--from", str(manifests), "--replica", str(tmp_path / "r"),
        "--state", str(tmp_path / "state"),
    ]  # fmt: skip
    with Child("daemon", arguments) as daemon:
        daemon.line("daemon ready: ")
        store = children(daemon.pid)
        assert len(store) == 1
        daemon.kill()
        wait_until(lambda: not alive(store[0]))


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
