"""The time of the newest cosignature, when a clock was wrong for a while: the store's or ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from control_plane.replica.header import CLOCK, STALE

HOUR = 3600


def follow_at(node: Any, log: Any, clock: Any, ahead: int) -> None:
    """Follow the log whose newest checkpoint was cosigned so many seconds from now."""
    followed = log.followed(node.follower.position.size)
    checkpoint = log.checkpoint(time_s=clock.ms // 1000 + ahead)
    node.take(replace(followed, batch=replace(followed.batch, checkpoint=checkpoint)))


def test_a_store_whose_clock_was_set_right_is_fresh_at_its_next_checkpoint(
    node: Any, log: Any, clock: Any
) -> None:
    follow_at(node, log, clock, HOUR)
    assert node.state & (CLOCK | STALE) == CLOCK
    clock.ms += 10_000
    follow_at(node, log, clock, 0)
    assert node.state & (CLOCK | STALE) == 0
    assert node.follower.cosigned_at == clock.ms // 1000


def test_a_checkpoint_from_before_does_not_make_a_fresh_one_old(
    node: Any, log: Any, clock: Any
) -> None:
    follow_at(node, log, clock, 0)
    at = clock.ms // 1000
    clock.ms += 30_000
    follow_at(node, log, clock, -50)
    assert node.follower.cosigned_at == at
    assert node.state & (CLOCK | STALE) == 0


def test_a_time_in_the_future_that_nothing_corrects_stays_told(
    node: Any, log: Any, clock: Any
) -> None:
    follow_at(node, log, clock, HOUR)
    follow_at(node, log, clock, HOUR)
    assert node.state & CLOCK
    clock.ms += HOUR * 1000
    assert node.state & (CLOCK | STALE) == 0  # it was this host's clock that was behind


def test_an_old_checkpoint_after_one_of_the_future_is_stale_and_no_longer_a_clock(
    node: Any, log: Any, clock: Any
) -> None:
    follow_at(node, log, clock, HOUR)
    follow_at(node, log, clock, -HOUR)
    assert node.state & (CLOCK | STALE) == STALE
