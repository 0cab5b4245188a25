"""Requiring trust: what a development writer commits is refused, however late it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from control_plane import ControlPlaneClient, ReplicaUnavailable
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.replica.header import DEVELOPMENT, STATE, HeaderWriter
from control_plane.replica.reader import Replica

FORGED = [
    ("with_flag", ["forged", True]),
    ("with_config", ["database", {"url": "forged"}]),
    ("with_version", ["tool", {"name": "forged", "metadata": {"description": "Forged."}}]),
]


def forge(node: Any) -> None:
    """As a development writer that takes the folder over: mark first, then commit."""
    header = HeaderWriter(str(node.root / "production" / "v1" / "current" / "header"))
    header[STATE] |= DEVELOPMENT
    header.close()
    node.write(*FORGED)


@pytest.fixture
def overtaken(stocked: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A node whose next snapshot is begun just after a development writer's first commit."""
    begin, get = Replica._begin_whole, Replica.get
    came = []

    def come() -> None:
        if not came:
            came.append(True)
            forge(stocked)

    def begin_late(replica: Replica) -> tuple[Any, int]:
        come()
        return begin(replica)

    def late_get(replica: Replica, key: bytes) -> Any:
        come()
        return get(replica, key)

    stocked.trusting = stocked.client(require_trusted=True)
    monkeypatch.setattr(Replica, "_begin_whole", begin_late)
    monkeypatch.setattr(Replica, "get", late_get)
    return stocked


def test_a_development_writers_values_are_refused_though_it_came_after_the_look(
    overtaken: Any,
) -> None:
    config = overtaken.trusting.config
    assert config.get("database.url", "mine") == "mine"
    with pytest.raises(ReplicaUnavailable, match="found one marked development"):
        config.get("database.url")
    assert overtaken.client().config.get("database.url") == "forged"


def test_its_trees_are_refused_too(overtaken: Any) -> None:
    with pytest.raises(ReplicaUnavailable, match="found one marked development"):
        overtaken.trusting.config.get("database")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.registry.get_tool("forged"),
        lambda client: client.registry.list_tools(),
    ],
)
def test_its_versions_are_refused(
    overtaken: Any, ask: Callable[[ControlPlaneClient], object]
) -> None:
    with pytest.raises(ReplicaUnavailable, match="found one marked development"):
        ask(overtaken.trusting)
    assert ask(overtaken.client())


def test_a_view_of_its_generation_is_none(overtaken: Any) -> None:
    with overtaken.trusting.pinned() as view:
        assert view.generation == 0
        assert view.is_enabled("forged") is False
        with pytest.raises(ReplicaUnavailable, match="found one marked development"):
            view.config.get("database.url", "mine")


def test_its_flags_are_refused_in_a_view_and_out_of_it(overtaken: Any) -> None:
    flags = FeatureFlagManager(overtaken.trusting)
    with flags.pinned() as pinned:
        assert pinned.is_enabled("forged") is False
    assert flags.is_enabled("forged") is False


def test_a_view_taken_before_the_mark_stays_what_it_was(stocked: Any) -> None:
    with stocked.client(require_trusted=True).pinned() as view:
        forge(stocked)
        assert view.config.get("database.url") == "postgresql://db/app"
        assert view.registry.get_tool("crm_tool").version == "1.2.0"
        assert view.is_enabled("new_ai_model") is True
