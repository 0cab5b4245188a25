"""What is served is counted, per flag and variant."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from control_plane import FeatureFlagManager
from control_plane.feature_flags.counting import KEPT
from control_plane.testing import replica

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}
SPLIT = [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}]


def test_every_way_of_asking_counts_what_was_served() -> None:
    flags = {"plain": True, "ruled": {**ON_OFF, "rules": [{"name": "r", "serve": SPLIT}]}}
    with replica(flags=flags) as client:
        for ask in (client.is_enabled, client.variant, client.flags.flag("plain")):
            ask("plain") if ask != client.flags.flag else None  # type: ignore[operator]
        handle = client.flags.flag("ruled")
        on = [client.is_enabled("ruled", f"u{n}") for n in range(50)]
        on += [handle(f"u{n}") for n in range(50)]
        on += [client.value("ruled", False, f"u{n}") for n in range(50)]
        on += [client.evaluate("ruled", False, f"u{n}").value for n in range(50)]
        on += [client.flags.bind(user_id=f"u{n}").is_enabled("ruled") for n in range(50)]
        with client.flags.pinned() as view:
            on += [view.is_enabled("ruled", f"u{n}") for n in range(50)]
        counts = client.flags.counts()
        assert counts["ruled", "on"] == on.count(True)
        assert counts["ruled", "off"] == on.count(False)


def test_defaults_of_callers_explanations_and_looks_at_all_are_not_counted() -> None:
    with replica(flags={"x": True, "s": {**ON_OFF, "variants": {"on": "a", "off": "b"},
                                         "disabled": "off"}}) as client:  # fmt: skip
        client.is_enabled("missing")
        client.is_enabled("s")
        client.flags.all_flags()
        client.flags.explain("x")
        assert client.flags.counts() == {}


PRO: dict[str, Any] = {
    "ruled": {"rules": [{"name": "r", "when": {"plan": "pro"}, "serve": "on"}]},
    "targeted": {"targeting": {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", None]}},
}


@pytest.mark.parametrize("kind", PRO)
def test_a_flag_without_a_default_that_counts_says_nothing_of_errors(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{kind}-without-default"
    with replica(flags={name: {**ON_OFF, **PRO[kind], "default": None}}) as client:
        assert client.is_enabled(name, default=True)
        assert client.flags.variant(name, default="mine") == "mine"
        assert client.value(name, 7) == 7
        assert client.flags.flag(name)(default=True)
        assert client.flags.counts() == {}
        assert not caplog.records
        assert client.is_enabled(name, context={"plan": "pro"})
        assert client.flags.counts() == {(name, "on"): 1}


def test_a_flag_that_another_asks_for_is_not_counted() -> None:
    rule = {"name": "r", "when": {"$flag": {"base": "on"}}, "serve": "on"}
    with replica(flags={"base": True, "new": {**ON_OFF, "rules": [rule]}}) as client:
        assert client.is_enabled("new")
        assert client.flags.counts() == {("new", "on"): 1}


def test_what_an_override_answers_is_not_counted() -> None:
    with replica(flags={"x": False}) as client:
        with client.flags.override({"x": True}):
            assert client.is_enabled("x")
            assert client.is_enabled("x", "u", rollout_percentage=100)
            assert client.evaluate("x", False).value is True
        assert client.flags.counts() == {}


def test_what_was_counted_can_be_read_after_the_manager_was_closed() -> None:
    with replica(flags={"x": True}) as client:
        client.is_enabled("x")
        client.flags.close()
        assert not client.is_enabled("x")
        assert client.evaluate("x", False).variant is None
        assert client.flags.counts() == {("x", "on"): 1}


def test_counts_go_on_over_changes_of_a_flag() -> None:
    with replica(flags={"x": True}) as client:
        for number in range(3 * KEPT):
            value = f"v{number}"
            client.set_flag("x", {"variants": {"a": value, "b": "-"}, "default": "a",
                                  "disabled": "b"})  # fmt: skip
            assert client.value("x", "") == value
            assert client.variant("x") == "a"
        assert client.flags.counts() == {("x", "a"): 6 * KEPT}


def test_threads_lose_no_count() -> None:
    rule = {"name": "r", "when": {"tenant_id": "acme"}, "serve": "on"}
    flags = {"plain": True, "ruled": {**ON_OFF, "rules": [rule]}}
    interval = sys.getswitchinterval()
    with replica(flags=flags) as client:

        def ask() -> None:
            for _ in range(5_000):
                client.is_enabled("plain")
                client.is_enabled("ruled", tenant_id="acme")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert client.flags.counts() == {("plain", "on"): 20_000, ("ruled", "on"): 20_000}


@pytest.mark.parametrize("word", ["0", "off", "False", "no"])
def test_a_process_can_say_that_nothing_is_counted(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_USAGE", word)
    with replica(flags={"x": True}) as client, FeatureFlagManager(client) as flags:
        assert flags.is_enabled("x")
        assert flags.counts() == {}
        counted = FeatureFlagManager(client, counting=True)
        assert counted.is_enabled("x")
        assert counted.counts() == {("x", "on"): 1}
