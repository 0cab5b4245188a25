"""Flags with ``targeting`` through the calls applications make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.testing import replica

ON_OFF = {"on": True, "off": False}
MINE = {"==": [{"var": "plan"}, "pro"]}

Flags = Callable[..., FeatureFlagManager]


@pytest.fixture
def flags() -> Iterator[Flags]:
    """A manager of one flag ``f`` with these fields."""
    held = []

    def made(targeting: Any, **metadata: Any) -> FeatureFlagManager:
        whole = {"variants": ON_OFF, "default": "off", "targeting": targeting, **metadata}
        kit = replica(flags={"f": whole}, now=lambda: 1_700_000_000.9)
        held.append(kit)
        return kit.__enter__().flags

    yield made
    for kit in held:
        kit.__exit__(None, None, None)


@pytest.mark.parametrize("counting", [True, False])
def test_every_call_serves_the_callers_default_where_targeting_decides_nothing(
    counting: bool,
) -> None:
    metadata = {"variants": ON_OFF, "targeting": {"if": [MINE, "off", None]}}
    with (
        replica(flags={"f": metadata}) as kit,
        FeatureFlagManager(kit, counting=counting) as manager,
    ):
        handle = manager.flag("f")
        for default in (True, False):
            assert manager.is_enabled("f", default=default) is default
            assert handle(default=default) is default
            assert manager.value("f", default) is default
            assert manager.bind(plan="free").is_enabled("f", default=default) is default
            with manager.pinned() as view:
                assert view.is_enabled("f", default=default) is default
        assert manager.variant("f", default="mine") == "mine"
        assert manager.variant("f", context={"plan": "pro"}, default="mine") == "off"
        assert manager.is_enabled("f", context={"plan": "pro"}, default=True) is False
        assert manager.evaluate("f", True).reason == "DEFAULT"
