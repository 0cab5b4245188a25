"""After a test nothing of its kit is left: no folder, no thread, no descriptor, no open replica."""

from __future__ import annotations

import gc
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from control_plane import ConfigManager, FeatureFlagManager
from control_plane.errors import ManifestInvalid
from control_plane.replica.reader import OPEN
from control_plane.testing import replica

SCHEDULED = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "rules": [{"name": "r", "until": "2026-03-01T00:00:00Z", "serve": "on"}],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kits are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def held() -> tuple[int, list[str], int]:
    """Open descriptors, the names of threads, and open replicas of this process."""
    gc.collect()
    threads = sorted(thread.name for thread in threading.enumerate())
    return len(list(Path("/proc/self/fd").iterdir())), threads, len(OPEN._replicas)


def use(**options: Any) -> None:
    heard: list[Any] = []
    with replica(
        flags={"x": True, "y": SCHEDULED}, config={"n": {"v": 1}}, now=0, **options
    ) as kit:
        own = FeatureFlagManager(kit), ConfigManager(kit)
        for each in (kit.config, own[1]):
            each.watch("n", heard.append)
        with kit.recording(), kit.pinned() as view:
            for number in range(4):
                kit.set_config("n", {"v": number})
                kit.unit_for("y", "on")
                assert view.is_enabled("x")
                assert own[0].is_enabled("y")
        if not options.get("watch_thread", True):
            assert len(kit.deliver()) == 8
        kit.pinned()


@pytest.mark.parametrize("options", [{}, {"watch_thread": False}, {"environment": "staging"}])
def test_a_kit_leaves_nothing_behind(folder: Path, options: dict[str, Any]) -> None:
    use(**options)
    before = held()
    for _ in range(3):
        use(**options)
    assert (held(), list(folder.iterdir())) == (before, [])


def fail() -> None:
    with replica(flags={"x": True}) as kit:
        kit.config.watch("n", print)
        raise ZeroDivisionError


def test_neither_does_one_that_could_not_be_made_or_whose_test_failed(folder: Path) -> None:
    use()
    before = held()
    with pytest.raises(ManifestInvalid), replica(flags={"x": {}}):
        pass
    with pytest.raises(ZeroDivisionError):
        fail()
    assert (held(), list(folder.iterdir())) == (before, [])


def test_a_kit_that_is_over_gives_defaults_and_publishes_nothing(folder: Path) -> None:
    with replica(flags={"x": True}) as kit:
        handle = kit.flags.flag("x")
        assert handle()
    assert (kit.is_enabled("x"), handle()) == (False, False)
    with pytest.raises(RuntimeError, match="expected a kit in its with block, found it over"):
        kit.set_flag("x", True)
    assert list(folder.iterdir()) == []
