"""What was evaluated in a block, and assertions that say what was found instead."""

from __future__ import annotations

import threading

import pytest

from control_plane import FeatureFlagManager
from control_plane.testing import replica

STYLES = {"variants": {"short": "s", "long": "l"}, "default": "short", "disabled": "short"}


def test_every_way_to_ask_is_recorded() -> None:
    with replica(flags={"x": True}) as kit:
        handle, own, bound = kit.flags.flag("x"), FeatureFlagManager(kit), kit.flags.bind(plan="p")
        handle()
        with kit.recording() as evaluations:
            kit.is_enabled("x")
            kit.variant("x")
            kit.value("x", default=False)
            kit.evaluate("x", default=False)
            kit.is_enabled("x", "u", rollout_percentage=100)
            own.is_enabled("x")
            bound.is_enabled("x")
            handle()
            with kit.pinned() as view:
                view.is_enabled("x")
            FeatureFlagManager(kit).is_enabled("x")
            evaluations.assert_evaluated("x", variant="on", times=10)
        kit.is_enabled("x")
        assert evaluations.counts == {("x", "on"): 10}


def test_recordings_may_overlap_and_each_counts_from_its_begin_to_its_end() -> None:
    with replica(flags={"x": True, "style": STYLES}) as kit, kit.recording() as outer:
        kit.is_enabled("x")
        with kit.recording() as inner:
            kit.variant("style")
        kit.set_flag("x", False)
        kit.is_enabled("x")
        assert inner.counts == {("style", "short"): 1}
        assert outer.counts == {("x", "on"): 1, ("x", "off"): 1, ("style", "short"): 1}


@pytest.mark.parametrize(
    ("asserted", "told"),
    [
        (("style", "long", 1), "flag style: expected 'long' once, found 'short' 2 times"),
        (("style", None, 3), "flag style: expected an evaluation 3 times, found 'short' 2 times"),
        (("style", "long"), "flag style: expected 'long', found 'short' 2 times"),
        (("y",), "flag y: expected an evaluation, found none; evaluated were style, x"),
        (("x", "on", 2), "flag x: expected 'on' 2 times, found 'on' once"),
    ],
)
def test_a_failure_says_what_was_expected_and_found(asserted: tuple[str], told: str) -> None:
    with replica(flags={"x": True, "style": STYLES}) as kit, kit.recording() as evaluations:
        kit.is_enabled("x")
        kit.variant("style")
        kit.variant("style")
    with pytest.raises(AssertionError) as failed:
        evaluations.assert_evaluated(*asserted)
    assert str(failed.value) == told


def test_none_is_asserted_by_its_own_call() -> None:
    with replica(flags={"x": True}) as kit, kit.recording() as evaluations:
        evaluations.assert_not_evaluated("x")
        kit.is_enabled("x")
        evaluations.assert_not_evaluated("x", "off")
        evaluations.assert_evaluated("x")
        with pytest.raises(AssertionError, match=r"^flag x: expected no 'on', found 'on' once$"):
            evaluations.assert_not_evaluated("x", "on")
        with pytest.raises(ValueError, match=r"use assert_not_evaluated$"):
            evaluations.assert_evaluated("x", times=0)


def test_defaults_overrides_and_prerequisites_are_no_evaluations() -> None:
    asking = {
        "variants": {"on": True, "off": False},
        "default": "off",
        "rules": [{"name": "r", "when": {"$flag": {"x": "on"}}, "serve": "on"}],
    }
    with (
        replica(flags={"x": True, "asking": asking}) as kit,
        kit.recording() as evaluations,
        kit.flags.override({"y": True}),
    ):
        assert kit.is_enabled("y")
        assert not kit.is_enabled("missing")
        assert kit.is_enabled("asking")
        assert evaluations.counts == {("asking", "on"): 1}


def test_no_count_of_a_thread_is_lost() -> None:
    with replica(flags={"x": True}) as kit, kit.recording() as evaluations:

        def ask() -> None:
            for _ in range(500):
                kit.is_enabled("x")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    evaluations.assert_evaluated("x", "on", times=2_000)


def test_a_process_that_counts_no_usage_records_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_USAGE", "0")
    with replica(flags={"x": True}) as kit, kit.recording() as evaluations:
        kit.is_enabled("x")
    evaluations.assert_evaluated("x", "on", times=1)
