"""Publishing and retiring versions from Python, against a store that runs as its own process."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import RegistryManager
from control_plane.cli import main
from control_plane.cli.project import create_project
from control_plane.cli.services import start_store
from control_plane.cli.settings import Project, settings
from control_plane.cli.settings import publisher as publisher_of
from control_plane.errors import (
    ChecksumMismatch,
    ControlPlaneError,
    InputInvalid,
    ManifestInvalid,
    NotFound,
)
from control_plane.log.canonical import canonical
from control_plane.log.statements import Key
from control_plane.publish import Publisher, Release
from control_plane.publish.releasing import promote
from control_plane.publish.sign import signed
from control_plane.trust.enrolment import Enrolment


def tool(name: str, version: str = "1.0.0") -> dict[str, Any]:
    return {"kind": "tool", "name": name, "version": version, "metadata": {"description": version}}


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    store = f"unix:{folder / 's'}"
    made = create_project(
        folder / "p", installation="acme", environments=["production", "staging"], store=store
    )
    with (folder / "log").open("wb") as log:
        process, _ = start_store(made, store, say=lambda line: None, stderr=log)
        with process:
            yield made
    shutil.rmtree(folder)


@pytest.fixture
def author(project: Project) -> Iterator[Publisher]:
    with contextlib.chdir(project.folder), publisher_of(settings()) as made:
        yield made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryManager]:
    with RegistryManager(replica=tmp_path, environment="production") as made:
        yield made


def puts(author: Publisher, environment: str = "production") -> Counter[str]:
    """How often each version was put, by the whole history."""
    counted: Counter[str] = Counter()
    before: dict[str, int] = {}
    while True:
        page = author.store.history(environment, kind="tool", limit=100, **before)["entries"]
        for entry in page:
            changes = entry.get("changes", ())
            counted.update(
                f"{change['name']}@{change['version']}"
                for change in changes
                if change["action"] == "put"
            )
        if len(page) < 100:
            return counted
        before = {"before": page[-1]["generation"]}


def channels(author: Publisher, name: str) -> dict[str, str | None]:
    heads = author.heads("production", kind="tool", name=name)
    return {
        key.part[2:]: head.change.version
        for key, head in heads.items()
        if key.part[:2] == "c/" and head.live
    }


def test_a_version_is_published_activated_and_then_left_alone(
    registry: RegistryManager, author: Publisher
) -> None:
    done = registry.publish(tool("t_one"), publisher=author, reason="first")
    assert done.changed == ("tool/t_one v/1.0.0", "tool/t_one c/stable")
    assert len(done.generations) == 1
    again = registry.publish(tool("t_one"), publisher=author)
    assert (again.changed, again.unchanged, again.generations) == ((), done.changed, ())


def test_a_channel_moves_alone(registry: RegistryManager, author: Publisher) -> None:
    registry.publish(tool("t_move"), publisher=author)
    registry.publish(tool("t_move", "1.1.0"), None, publisher=author)
    assert channels(author, "t_move") == {"stable": "1.0.0"}
    registry.activate("tool/t_move@1.1.0", "canary", publisher=author)
    assert channels(author, "t_move") == {"stable": "1.0.0", "canary": "1.1.0"}


def test_deprecating_says_why_and_what_instead(
    registry: RegistryManager, author: Publisher
) -> None:
    registry.publish(tool("t_old"), publisher=author)
    registry.deprecate("tool/t_old@1.0.0", "slow", "tool/t_new@1.0.0", publisher=author)
    head = author.heads("production", [Key("tool", "t_old", "s/1.0.0")])
    [change] = [each.change for each in head.values()]
    assert (change.status, change.reason, change.successor) == (
        "deprecated", "slow", "tool/t_new@1.0.0",
    )  # fmt: skip
    with pytest.raises(InputInvalid, match="expected a reason why it is deprecated"):
        registry.deprecate("tool/t_old@1.0.0", "", publisher=author)


def test_a_version_that_a_channel_points_to_is_not_yanked(
    registry: RegistryManager, author: Publisher
) -> None:
    registry.publish(tool("t_yank"), publisher=author)
    with pytest.raises(InputInvalid, match="expected no channel on a yanked version, found stable"):
        registry.yank("tool/t_yank@1.0.0", "leaks", publisher=author)
    batch = registry.batch(publisher=author, reason="leaks")
    batch.yank("tool/t_yank@1.0.0", "leaks")
    batch.publish(tool("t_yank", "1.0.1"))
    assert len(batch.submit().generations) == 1
    assert channels(author, "t_yank") == {"stable": "1.0.1"}
    with pytest.raises(InputInvalid, match="expected no channel on a yanked version"):
        registry.activate("tool/t_yank@1.0.0", publisher=author)


def test_deleting_a_version_deletes_the_channels_that_point_to_it(
    registry: RegistryManager, author: Publisher
) -> None:
    registry.publish(tool("t_gone"), publisher=author)
    registry.activate("tool/t_gone@1.0.0", "canary", publisher=author)
    done = registry.delete("tool/t_gone@1.0.0", publisher=author)
    assert set(done.changed) == {
        "tool/t_gone v/1.0.0", "tool/t_gone c/stable", "tool/t_gone c/canary",
    }  # fmt: skip
    assert channels(author, "t_gone") == {}
    assert registry.delete("tool/t_gone@1.0.0", publisher=author).changed == ()
    with pytest.raises(NotFound, match="expected it in production, found none"):
        registry.delete("tool/t_never@1.0.0", publisher=author)


def test_a_release_is_all_or_nothing(registry: RegistryManager, author: Publisher) -> None:
    batch = registry.batch(publisher=author)
    batch.publish(tool("t_whole"))
    batch.activate("tool/t_missing@1.0.0")
    with pytest.raises(ControlPlaneError):
        batch.submit()
    assert author.heads("production", kind="tool", name="t_whole") == {}


def test_a_batch_tells_its_progress(registry: RegistryManager, author: Publisher) -> None:
    batch = registry.batch(publisher=author)
    for number in range(300):
        batch.publish(tool(f"t_many_{number}"), None)
    told: list[tuple[int, int]] = []
    done = batch.submit(atomic=False, progress=lambda *moved: told.append(moved))
    assert (len(done.changed), len(done.generations)) == (300, 2)
    assert told == sorted(told)
    assert (told[-1], {total for _, total in told}) == ((300, 300), {300})


AUTHOR = """
import os, signal, sys
from control_plane.cli.settings import publisher, settings
from control_plane.publish import Release
with publisher(settings()) as author:
    release = Release(author, "production", "killed")
    for number in range(600):
        metadata = {"description": "d"}
        document = {"kind": "tool", "name": f"k_{number}", "version": "1.0.0", "metadata": metadata}
        release.publish(document)
    def moved(done, total):
        if done >= int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
    print(len(release.submit(atomic=False, progress=moved).changed))
"""


def test_a_batch_whose_author_is_killed_is_finished_by_running_it_again(
    project: Project, author: Publisher
) -> None:
    def run(deadly: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", AUTHOR, str(deadly)]
        return subprocess.run(
            command, cwd=project.folder, capture_output=True, text=True, check=False
        )

    for deadly in (100, 400):
        assert run(deadly).returncode == -signal.SIGKILL
    last = run(1 << 30)
    assert last.returncode == 0, last.stderr
    assert 0 < int(last.stdout) < 1200
    counted = {name: count for name, count in puts(author).items() if name.startswith("k_")}
    assert counted == {f"k_{number}@1.0.0": 1 for number in range(600)}
    assert run(1 << 30).stdout == "0\n"


def test_a_batch_goes_on_after_its_store_was_started_anew() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    store = f"unix:{folder / 's'}"
    made = create_project(
        folder / "p", installation="acme", environments=["production"], store=store
    )
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        log = stack.enter_context((folder / "log").open("ab"))
        process, _ = start_store(made, store, say=lambda line: None, stderr=log)
        stack.enter_context(contextlib.chdir(made.folder))
        author = stack.enter_context(publisher_of(settings()))

        def release() -> Release:
            batch = Release(author, "production", "interrupted")
            for number in range(300):
                batch.publish(tool(f"r_{number}"), None)
            return batch

        def killed(done: int, total: int) -> None:
            if done > 250:
                process.kill()

        with pytest.raises(ControlPlaneError):
            release().submit(atomic=False, progress=killed)
        process.stop()
        again, _ = start_store(made, store, say=lambda line: None, stderr=log)
        with again:
            assert len(release().submit(atomic=False).changed) == 50
            assert puts(author) == {f"r_{number}@1.0.0": 1 for number in range(300)}


def test_a_promotion_carries_the_same_signed_bytes(project: Project, author: Publisher) -> None:
    release = Release(author, "staging", "try")
    release.publish(tool("t_promoted"))
    release.submit()
    enrolment = Enrolment.decode((project.private / "trust.json").read_bytes())
    done = promote(author, "staging", "production", ("tool/t_promoted",), enrolment)
    assert done.changed == ("tool/t_promoted v/1.0.0", "tool/t_promoted c/stable")
    keys = [Key("tool", "t_promoted", "v/1.0.0")]
    digests = {
        head.digest
        for environment in ("staging", "production")
        for head in author.heads(environment, keys).values()
    }
    assert len(digests) == 1
    assert promote(author, "staging", "production", ("tool/t_promoted",), enrolment).changed == ()


def _compare(release: Release, document: dict[str, Any]) -> None:
    release.publish(document)
    release.compared()


def test_any_changed_byte_of_a_signed_manifest_is_refused(author: Publisher) -> None:
    data = canonical(dict(signed(tool("t_bytes"), author.signers[0])))
    end = data.index(b',"signature"')
    for at in range(0, end, 3):
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        try:
            document = json.loads(changed)
        except ValueError:
            continue
        release = Release(author, "production")
        with pytest.raises((ManifestInvalid, ChecksumMismatch)):
            _compare(release, document)


@pytest.mark.parametrize("kind", ["flag", "config"])
def test_only_agents_and_tools_are_released(author: Publisher, kind: str) -> None:
    metadata = {
        "flag": {"variants": {"on": True, "off": False}, "default": "on"},
        "config": {"values": {"a": 1}},
    }
    with pytest.raises(ManifestInvalid, match="expected an agent or tool"):
        Release(author, "production").publish(
            {"kind": kind, "name": "x", "metadata": metadata[kind]}
        )
    with pytest.raises(ManifestInvalid, match="expected an agent or tool with its version"):
        Release(author, "production").activate("tool/x")


@pytest.fixture
def command(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with contextlib.chdir(project.folder):
            code = main([*words, "-e", "production"])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_command_line_moves_channels_and_retires_versions(
    command: Callable[..., tuple[int, str, str]], registry: RegistryManager, author: Publisher
) -> None:
    registry.publish(tool("t_cli"), publisher=author)
    registry.publish(tool("t_cli", "2.0.0"), None, publisher=author)
    assert command("yank", "tool/t_cli@1.0.0", "--reason", "leaks")[0] == 1
    assert command("activate", "tool/t_cli@2.0.0")[0] == 0
    assert channels(author, "t_cli") == {"stable": "2.0.0"}
    code, out, _ = command(
        "yank", "tool/t_cli@1.0.0", "--reason", "leaks", "--successor", "tool/t_cli@2.0.0"
    )
    assert (code, "changed tool/t_cli s/1.0.0" in out) == (0, True)
    assert command("yank", "tool/t_cli@1.0.0", "--undo")[0] == 0
    assert command("deprecate", "tool/t_cli@1.0.0")[0] == 1
    assert command("activate", "tool/t_cli")[0] == 1
