"""Whatever arrives is read or refused: one family of errors, for every reader of outside bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

EXAMPLES = 200


def test_every_target_is_tested(targets: dict[str, Any], target_names: Sequence[str]) -> None:
    assert sorted(target_names) == sorted(targets)


def test_the_seeds_are_read(targets: dict[str, Any], target_name: str) -> None:
    for seed in targets[target_name].seeds:
        targets[target_name].read(seed)


def test_changed_bytes_are_read_or_refused_in_form(
    targets: dict[str, Any], changed: Callable[[Any], st.SearchStrategy[bytes]], target_name: str
) -> None:
    target = targets[target_name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(changed(target))
    def check(data: bytes) -> None:
        target.check(data)

    check()
