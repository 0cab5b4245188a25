"""A kit's clock: it stands, steps and is set, and everything that asks the time follows at once."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane import FeatureFlagManager
from control_plane.testing import Clock, replica

MARCH = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "rules": [
        {
            "name": "march",
            "from": "2026-03-01T00:00:00Z",
            "until": "2026-04-01T00:00:00Z",
            "serve": "on",
        }
    ],
}
DAY = 86_400


def test_a_schedule_follows_the_clock_at_once_for_every_manager_view_and_handle() -> None:
    with replica(flags={"x": MARCH}, now="2026-02-28T23:59:59Z") as kit, kit.pinned() as view:
        handle, own = kit.flags.flag("x"), FeatureFlagManager(kit)

        def answers() -> list[bool]:
            asked = (kit.is_enabled, view.is_enabled, own.is_enabled)
            return [handle(), *(ask("x") for ask in asked)]

        assert answers() == [False] * 4
        kit.clock.advance(1)
        assert answers() == [True] * 4
        kit.clock.set("2026-04-01T00:00:00Z")
        assert answers() == [False] * 4
        kit.clock.set(datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC))
        assert answers() == [True] * 4


def test_a_manager_with_a_clock_of_its_own_keeps_it() -> None:
    with replica(flags={"x": MARCH}, now="2026-03-02T00:00:00Z") as kit:
        own = FeatureFlagManager(kit, now=lambda: 0.0)
        assert (kit.is_enabled("x"), own.is_enabled("x")) == (True, False)


def test_ages_follow_the_clock_and_a_change_renews_them() -> None:
    with replica(flags={"x": True}, now=1_000) as kit:
        kit.clock.advance(90)
        assert (kit.health().age_seconds, kit.health().stale) == (90.0, True)
        kit.set_flag("x", False)
        assert (kit.health().age_seconds, kit.health().stale) == (0.0, False)


def test_a_clock_made_from_a_function_goes_on_with_what_was_added() -> None:
    seconds = iter(range(100, 200, 10))
    clock = Clock(lambda: next(seconds))
    clock.advance(1.5)
    assert (clock(), clock()) == (101.5, 111.5)
    clock.set(7)
    assert (clock(), repr(clock)) == (7.0, "<Clock at 7.000>")


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", -5, 0, 1e30])
def test_any_moment_can_be_published_at(moment: Any) -> None:
    with replica(flags={"x": MARCH}, now=moment) as kit:
        kit.set_flag("y", True)
        assert (kit.is_enabled("x"), kit.is_enabled("y")) == (False, True)
        assert kit.health().ready


def test_without_now_time_is_real() -> None:
    with replica() as kit:
        before = time.time()
        assert before <= kit.clock() <= time.time()


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        ("yesterday", "expected a time like 2026-03-01T09:00:00Z, found 'yesterday'"),
        ("2026-03-01T09:00:00", "expected a time like"),
        (datetime(2026, 3, 1), "expected a datetime with a time zone, found 2026-03-01T00:00:00"),
        (float("nan"), "expected a time like"),
        (True, "expected seconds, RFC 3339 text or a datetime, found bool"),
        (None, "expected seconds, RFC 3339 text or a datetime, found NoneType"),
    ],
)
def test_what_is_no_moment_is_refused_and_the_clock_stays(moment: Any, error: str) -> None:
    clock = Clock(5)
    with pytest.raises((TypeError, ValueError), match=error):
        clock.set(moment)
    with pytest.raises((TypeError, ValueError), match=error):
        Clock(moment)
    assert clock() == 5


def test_time_does_not_pass_backwards() -> None:
    clock = Clock(5)
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected 0 seconds or more"):
            clock.advance(seconds)
    assert clock() == 5
