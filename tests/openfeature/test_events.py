"""What is told of changes: which flags are named, when the replica is stale, what fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from openfeature.provider import ProviderStatus

import control_plane.openfeature.events
from control_plane.errors import ReplicaCorrupt
from control_plane.openfeature import ControlPlaneProvider
from control_plane.openfeature.events import Events
from control_plane.testing import ReplicaKit, replica
from openfeature import api

from .conftest import Heard

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


def asking(**when: Any) -> dict[str, Any]:
    rule = {"name": "asking", "when": {f"${k}": v for k, v in when.items()}, "serve": "on"}
    return {**ON_OFF, "rules": [rule]}


FLAGS = {
    "plain": True,
    "other": True,
    "base": ON_OFF,
    "above-base": asking(flag={"base": "on"}),
    "above-that": asking(flag={"above-base": "on"}),
    "for-members": asking(segment="testers"),
    "above-members": asking(flag={"for-members": "on"}),
    "for-many": asking(segment="crowd"),
    "talks-of-it": {**ON_OFF, "flag_metadata": {"note": "$flag $segment"}},
}
SEGMENTS = {"testers": ["ada"], "crowd": ["x"], "unused": ["b"]}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    with replica(flags=FLAGS, segments=SEGMENTS) as kit:
        yield kit


@pytest.fixture
def heard(kit: ReplicaKit) -> Heard:
    heard = Heard()
    api.set_provider_and_wait(ControlPlaneProvider(kit))
    return heard


def test_a_change_names_the_flag_and_nobody_else(kit: ReplicaKit, heard: Heard) -> None:
    generation = kit.set_flag("plain", False)
    details = heard.next("CONFIGURATION_CHANGED")
    assert details.flags_changed == ["plain"]
    assert details.metadata == {"generation": generation, "environment": "test"}
    assert (details.message, details.error_code) == (None, None)


def test_new_deleted_and_killed_flags_are_named(kit: ReplicaKit, heard: Heard) -> None:
    kit.set_flag("new", True)
    assert heard.changed() == ["new"]
    kit.set_flags({"new": None, "other": None})
    assert heard.changed() == ["new", "other"]
    kit.kill("plain")
    assert heard.changed() == ["plain"]
    kit.unkill("plain")
    assert heard.changed() == ["plain"]


def test_flags_that_ask_for_a_changed_flag_are_named_however_far(
    kit: ReplicaKit, heard: Heard
) -> None:
    kit.set_flag("base", {**ON_OFF, "default": "on"})
    assert heard.changed() == ["above-base", "above-that", "base"]
    kit.set_flag("above-base", ON_OFF)
    assert heard.changed() == ["above-base", "above-that"]
    # It asks no more, and is named no more.
    kit.set_flag("base", ON_OFF)
    assert heard.changed() == ["base"]


def test_flags_that_ask_for_a_changed_segment_are_named(kit: ReplicaKit, heard: Heard) -> None:
    kit.set_segment("testers", ["ada", "eve"])
    assert heard.changed() == ["above-members", "for-members"]
    kit.set_segment("unused", ["carol"])
    kit.set_segment("crowd", ["x", "y"])
    assert heard.changed() == ["for-many"]


def test_what_changed_between_set_provider_and_the_first_look_is_told(kit: ReplicaKit) -> None:
    provider = ControlPlaneProvider(kit)
    heard = Heard()
    attach = provider.attach

    def attach_and_change(on_emit: Any) -> None:
        attach(on_emit)
        kit.set_flag("plain", False)

    provider.attach = attach_and_change  # type: ignore[method-assign]
    api.set_provider(provider)
    assert heard.changed() == ["plain"]


def test_configuration_and_unchanged_flags_are_no_change(kit: ReplicaKit, heard: Heard) -> None:
    kit.set_config("database", {"url": "u"})
    kit.set_flag("plain", True)
    kit.set_flag("other", False)
    assert heard.changed() == ["other"]


def test_changes_that_come_together_are_all_named(kit: ReplicaKit, heard: Heard) -> None:
    names = {f"flag-{number:02}" for number in range(20)}
    for name in sorted(names):
        kit.set_flag(name, True)
    told: set[str] = set()
    while told != names:
        told.update(heard.changed())
        assert told <= names


def test_a_silent_daemon_is_stale_until_it_is_heard_again() -> None:
    now = [time.time()]
    with replica(flags={"f": True}, now=lambda: now[0]) as kit:
        heard = Heard()
        api.set_provider_and_wait(ControlPlaneProvider(kit))
        client = api.get_client()
        heard.next("READY")
        now[0] += 61
        stale = heard.next("STALE")
        assert "silent: the daemon's last sign is 61 s old" in str(stale.message)
        assert client.get_provider_status() is ProviderStatus.STALE
        assert client.get_boolean_details("f", False).value is True
        kit.set_flag("f", False)
        recovered = heard.next("READY")
        assert recovered.metadata["generation"] == 2
        assert client.get_provider_status() is ProviderStatus.READY
        api.shutdown()


def test_a_client_that_is_closed_under_the_provider_is_an_error(
    kit: ReplicaKit, heard: Heard
) -> None:
    heard.next("READY")
    kit.close()
    error = heard.next("ERROR")
    assert error.error_code == "PROVIDER_NOT_READY"
    assert "expected an open source, found it closed" in str(error.message)


def test_a_look_that_fails_is_logged_once_and_the_next_tells_all(
    kit: ReplicaKit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from control_plane.openfeature import events

    looks = []

    class Failing(events.FlagRecords):
        @classmethod
        def of(cls, *arguments: Any) -> Any:
            looks.append(arguments)
            if len(looks) in (2, 3):
                raise ReplicaCorrupt("expected sound pages, found others")
            return super().of(*arguments)

    monkeypatch.setattr(events, "FlagRecords", Failing)
    heard = Heard()
    api.set_provider_and_wait(ControlPlaneProvider(kit))
    while not looks:
        time.sleep(0.01)
    kit.set_flag("plain", False)
    assert heard.changed() == ["plain"]
    said = [line for line in caplog.messages if "a look failed" in line]
    assert said == [
        "telling OpenFeature of changes goes on, a look failed: expected sound pages, found others"
    ]


DESCRIPTORS = Path("/proc/self/fd")


def descriptors() -> list[str]:
    """What this process has open to wait with."""
    found = []
    for each in DESCRIPTORS.iterdir():
        # One of them was of the listing itself.
        with suppress(FileNotFoundError):
            found.append(str(each.readlink()))
    return sorted(each for each in found if "inotify" in each or each.startswith("pipe:"))


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="counts descriptors in /proc")
def test_a_thread_that_is_slow_to_end_gives_its_descriptors_back(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_plane.openfeature.events, "STOP_SECONDS", 0.0)
    told, go_on = threading.Event(), threading.Event()

    def tell(event: Any, details: Any) -> None:
        told.set()
        go_on.wait(10)

    before = descriptors()
    events = Events(kit, tell)
    events.mark()
    events.start(ready=True)
    running = events._running
    assert running is not None
    kit.set_flag("plain", False)
    assert told.wait(10)
    events.stop()
    assert running.thread.is_alive()
    go_on.set()
    running.thread.join(10)
    assert descriptors() == before


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="counts descriptors in /proc")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_gives_back_what_a_slow_thread_of_its_parent_waited_with(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch, in_child: Callable[..., str]
) -> None:
    monkeypatch.setattr(control_plane.openfeature.events, "STOP_SECONDS", 0.0)
    told, go_on = threading.Event(), threading.Event()

    class Slow(ControlPlaneProvider):
        def emit(self, event: Any, details: Any) -> None:
            if details.flags_changed is not None:
                told.set()
                go_on.wait(10)
            super().emit(event, details)

    provider = Slow(kit)
    api.set_provider_and_wait(provider)
    kit.set_flag("plain", False)
    assert told.wait(10)
    before = len([each for each in descriptors() if "inotify" in each])
    answer = in_child(lambda: len([each for each in descriptors() if "inotify" in each]))
    go_on.set()
    assert (before, answer) == (1, "1")
