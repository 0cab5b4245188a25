"""Usage leaves a process through a file of its own, and is summed once by whoever reads it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from control_plane.feature_flags.counting import STRETCH
from control_plane.testing import replica
from control_plane.usage import slots
from control_plane.usage.file import UsageFile
from control_plane.usage.tally import Tally, make_folder

RULE = {"name": "r", "when": {"tenant_id": "acme"}, "serve": "on"}
RULED: dict[str, Any] = {
    "variants": {"on": True, "off": False}, "default": "off", "rules": [RULE],
}  # fmt: skip
TARGETED: dict[str, Any] = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "targeting": {"if": [{"==": [{"var": "tenant_id"}, "acme"]}, "on", "off"]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A usage folder that this test's clients write to."""
    made = tmp_path / "usage"
    assert make_folder(str(made))
    monkeypatch.setenv("CONTROL_PLANE_USAGE", str(made))
    return made


@pytest.fixture
def tally(folder: Path) -> Tally:
    """A daemon's sums that began before anything was counted."""
    found = Tally(str(folder))
    found.collect()
    return found


def served(tally: Tally) -> dict[tuple[str, str], int]:
    tally.collect()
    return {key[2:]: n for key, n in tally.totals.items() if key[1] == slots.EVALUATIONS}


def test_what_was_served_is_summed_when_a_client_closes(tally: Tally, folder: Path) -> None:
    with replica(flags={"plain": True, "ruled": RULED}) as client:
        for number in range(10):
            client.is_enabled("plain")
            client.is_enabled("ruled", tenant_id="acme" if number < 3 else "other")
        assert served(tally) == {}
    assert served(tally) == {("plain", "on"): 10, ("ruled", "on"): 3, ("ruled", "off"): 7}
    assert list(folder.iterdir()) == []
    assert served(tally)["plain", "on"] == 10


@pytest.mark.parametrize("ask", ["is_enabled", "variant", "value", "evaluate", "handle", "view"])
@pytest.mark.parametrize("flag", [True, RULED, TARGETED], ids=["plain", "ruled", "targeted"])
def test_every_stretch_is_told_while_the_process_runs(tally: Tally, flag: Any, ask: str) -> None:
    with replica(flags={"x": flag}) as client, client.flags.pinned() as view:
        handle = client.flags.flag("x")
        calls = {
            "is_enabled": lambda: client.is_enabled("x", tenant_id="acme"),
            "variant": lambda: client.variant("x", tenant_id="acme") == "on",
            "value": lambda: client.value("x", False, tenant_id="acme"),
            "evaluate": lambda: client.evaluate("x", False, tenant_id="acme").value,
            "handle": lambda: handle(tenant_id="acme"),
            "view": lambda: view.is_enabled("x", tenant_id="acme"),
        }
        for _ in range(3 * STRETCH + 1):
            assert calls[ask]() is True
        assert client.flags.counts() == {("x", "on"): 3 * STRETCH + 1}
        told = served(tally)["x", "on"]
        assert 3 * STRETCH <= told <= 3 * STRETCH + 1


def test_a_context_that_raises_stop_iteration_gives_the_default_and_not_another_stretch() -> None:
    class Odd(dict[str, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            raise StopIteration

    flag = {**RULED, "rules": [{**RULE, "when": {"plan": "pro"}}]}
    with replica(flags={"odd": flag}) as client:
        assert client.is_enabled("odd", context=Odd(plan="pro")) is True
        assert client.flags.counts() == {("odd", "on"): 1}


def test_threads_lose_and_double_nothing_where_stretches_end(tally: Tally) -> None:
    with replica(flags={"plain": True, "ruled": RULED}) as client:

        def ask() -> None:
            for _ in range(6000):
                assert client.is_enabled("plain")
                assert client.is_enabled("ruled", tenant_id="acme")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flags.counts() == {("plain", "on"): 24_000, ("ruled", "on"): 24_000}
    assert served(tally) == {("plain", "on"): 24_000, ("ruled", "on"): 24_000}


def test_a_moved_revision_tells_of_what_was_served_before(tally: Tally) -> None:
    with replica(flags={"x": True}) as client:
        client.is_enabled("x")
        client.source.usage._told_at = None
        client.set_flag("y", True)
        client.is_enabled("x")
        assert served(tally) == {("x", "on"): 1}


def test_a_forked_child_tells_of_its_own_and_its_parent_of_its_own(tally: Tally) -> None:
    with replica(flags={"x": True}) as client:
        for _ in range(STRETCH + 5):
            client.is_enabled("x")
        pid = os.fork()
        if pid == 0:
            for _ in range(7):
                client.is_enabled("x")
            client.source.usage.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert served(tally)["x", "on"] in (STRETCH + 7, STRETCH + 8)
        client.is_enabled("x")
    assert served(tally) == {("x", "on"): STRETCH + 5 + 7 + 1}


def test_a_killed_process_loses_its_last_stretch_only_and_its_file_is_removed(
    tally: Tally, folder: Path
) -> None:
    with replica(flags={"x": True}) as client:
        pid = os.fork()
        if pid == 0:
            for _ in range(2 * STRETCH + 9):
                client.is_enabled("x")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        assert len(list(folder.iterdir())) == 1
        assert served(tally)["x", "on"] in range(2 * STRETCH, 2 * STRETCH + 10)
        assert list(folder.iterdir()) == []


def test_a_manager_that_is_dropped_is_told_of_by_the_next_turn(tally: Tally) -> None:
    from control_plane import FeatureFlagManager

    with replica(flags={"x": True}) as client:
        for _ in range(40):
            FeatureFlagManager(client).is_enabled("x")
        assert len(client.source.usage._sources) < 60
    assert served(tally) == {("x", "on"): 40}


def test_without_a_folder_everything_else_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_USAGE", str(tmp_path / "none"))
    with replica(flags={"x": True}) as client:
        for _ in range(3 * STRETCH):
            assert client.is_enabled("x")
        assert client.flags.counts() == {("x", "on"): 3 * STRETCH}
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_telling_and_nothing_else(
    tally: Tally, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with replica(flags={"x": True}) as client:
        for _ in range(3 * STRETCH):
            assert client.is_enabled("x")
    assert list(folder.iterdir()) == []
    assert served(tally) == {}


def test_a_file_cut_short_under_its_process_is_left_alone_by_both(
    tally: Tally, folder: Path
) -> None:
    with replica(flags={"x": True}) as client:
        for _ in range(STRETCH + 1):
            client.is_enabled("x")
        [file] = folder.iterdir()
        os.truncate(file, 100)
        for _ in range(2 * STRETCH):
            assert client.is_enabled("x")
        assert served(tally).get(("x", "on"), 0) <= 3 * STRETCH + 1
        assert tally.ignored == 1


def test_what_lies_there_at_the_first_look_is_where_counting_begins(folder: Path) -> None:
    file = UsageFile(str(folder), "production")
    file.add(slots.slot_name(slots.EVALUATIONS, "x", "on") or b"", 10)
    tally = Tally(str(folder))
    assert served(tally) == {}
    file.add(slots.slot_name(slots.EVALUATIONS, "x", "on") or b"", 5)
    file.add(slots.slot_name(slots.EVALUATIONS, "y", "on") or b"", 2)
    assert served(tally) == {("x", "on"): 5, ("y", "on"): 2}
    assert tally.alive == 1
    file.close()
    assert served(tally) == {("x", "on"): 5, ("y", "on"): 2}
    assert list(folder.iterdir()) == []


def _poke(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


FORGERIES = {
    "another magic": lambda path: _poke(path, 0, b"NOTUSAGE"),
    "too many slots": lambda path: _poke(path, 8, (1 << 60).to_bytes(8, "little")),
    "too many names": lambda path: _poke(path, 16, (1 << 60).to_bytes(8, "little")),
    "a count that fell": lambda path: _poke(path, slots.VALUES_AT, bytes(8)),
    "a count beyond belief": lambda path: _poke(path, slots.VALUES_AT, b"\xff" * 8),
    "cut short": lambda path: os.truncate(path, 5000),
    "grown": lambda path: os.truncate(path, 1 << 30),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_file_is_ignored_and_others_are_not(
    forgery: str, tally: Tally, folder: Path
) -> None:
    name = slots.slot_name(slots.EVALUATIONS, "x", "on") or b""
    forged, good = (UsageFile(str(folder), "production") for _ in range(2))
    forged.add(name, 3)
    good.add(name, 4)
    assert served(tally) == {("x", "on"): 7}
    FORGERIES[forgery](Path(forged.path))
    good.add(name, 1)
    assert served(tally) == {("x", "on"): 8}
    assert tally.ignored == 1
    for file in (forged, good):
        file.close()
    assert served(tally) == {("x", "on"): 8}
    assert list(folder.iterdir()) == []


def test_pipes_links_and_folders_are_stepped_over(tally: Tally, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "inner").mkdir()
    began = time.monotonic()
    assert served(tally) == {}
    assert time.monotonic() - began < 5
    assert Path("/etc/passwd").exists()
