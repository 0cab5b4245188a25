"""Channels: what a name alone means, for whom, and what a yank does to it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane.errors import NotFound
from control_plane.registries.overrides import Applied
from control_plane.replica.reader import OPEN
from control_plane.testing import ReplicaKit, replica

RING = {
    "variants": {"steady": "stable", "early": "canary", "odd": "nightly"},
    "default": "steady",
    "disabled": "steady",
    "overrides": {"tenant_id": {"acme": "early", "globex": "odd"}},
}


def agent(version: str, **metadata: Any) -> dict[str, Any]:
    return {"name": "support", "version": version, "metadata": {"description": version, **metadata}}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    OPEN.complained.clear()
    with replica(flags={"ring": RING}, agents=[agent("1.0.0", channel_flag="ring")]) as client:
        client.put_agent(agent("2.0.0"), "canary")
        yield client


def test_a_flag_chooses_the_channel_of_a_tenant(kit: ReplicaKit) -> None:
    early = kit.registry.get_agent("support", tenant_id="acme")
    assert early.version == "2.0.0"
    assert early.applied == (Applied("channel", "ring", "early", "stable", "canary"),)
    steady = kit.registry.get_agent("support", tenant_id="initech")
    assert (steady.version, steady.applied) == ("1.0.0", ())
    assert kit.flags.counts() == {("ring", "early"): 1, ("ring", "steady"): 1}


def test_who_names_a_version_gets_it_whatever_the_flag_says(kit: ReplicaKit) -> None:
    found = kit.registry.get_agent("support", "1.0.0", tenant_id="acme")
    assert (found.version, found.applied) == ("1.0.0", ())


def test_a_channel_that_is_not_there_gives_stable_with_one_line(
    kit: ReplicaKit, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "control_plane.registries"):
        for _ in range(2):
            assert kit.registry.get_agent("support", tenant_id="globex").version == "1.0.0"
    [line] = caplog.messages
    assert "expected a channel of stable, canary, found 'nightly'; stable is served" in line


def test_a_channel_moves_for_the_next_call(kit: ReplicaKit) -> None:
    assert kit.registry.get_agent("support", tenant_id="acme").version == "2.0.0"
    kit.put_agent(agent("3.0.0"), "canary")
    assert kit.registry.get_agent("support", tenant_id="acme").version == "3.0.0"


def test_a_yanked_version_is_not_chosen_by_a_flags_channel(kit: ReplicaKit) -> None:
    kit.set_status("agent", "support", "2.0.0", "yanked", "leaks")
    assert kit.registry.get_agent("support", tenant_id="acme").version == "1.0.0"


def test_a_stable_channel_on_a_yanked_version_says_what_to_do(kit: ReplicaKit) -> None:
    kit.set_status("agent", "support", "1.0.0", "yanked", "leaks", "agent/support@2.0.0")
    with pytest.raises(NotFound) as caught:
        kit.registry.get_agent("support")
    assert (
        str(caught.value)
        == "agent/support: expected a version on channel stable that is not yanked, found 1.0.0 "
        "(leaks); activate agent/support@2.0.0, or pass version="
    )
    with pytest.warns(DeprecationWarning, match="yanked: leaks"):
        assert kit.registry.get_agent("support", "1.0.0").status == "yanked"


def test_the_version_a_flag_chose_has_its_own_overridable_fields(kit: ReplicaKit) -> None:
    kit.set_flag("warmth", {"variants": {"a": 0.1, "b": 0.3}, "default": "b", "disabled": "a"})
    kit.put_agent(agent("4.0.0", overridable={"temperature": {"flag": "warmth"}}), "canary")
    found = kit.registry.get_agent("support", tenant_id="acme")
    assert (found.version, found.temperature) == ("4.0.0", 0.3)
    assert [each.field for each in found.applied] == ["channel", "temperature"]
    assert found.applied[1].old is None


def test_a_pinned_view_follows_the_flag_of_its_generation(kit: ReplicaKit) -> None:
    with kit.pinned() as view:
        kit.kill("ring")
        assert view.registry.get_agent("support", tenant_id="acme").version == "2.0.0"
        assert kit.registry.get_agent("support", tenant_id="acme").version == "1.0.0"


def test_a_tools_channel_can_be_chosen_alike(kit: ReplicaKit) -> None:
    kit.put_tool({"name": "t", "metadata": {"description": "d", "channel_flag": "ring"}})
    kit.put_tool({"name": "t", "version": "2.0.0", "metadata": {"description": "d"}}, "canary")
    assert kit.registry.get_tool("t", tenant_id="acme").version == "2.0.0"
    assert kit.registry.get_tool("t").version == "1.0.0"


def test_a_channel_whose_version_is_gone_leaves_stable_as_it_is(kit: ReplicaKit) -> None:
    kit._change(lambda documents: documents.with_channel("agent", "support", "9.9.9", "canary"))
    assert kit.registry.get_agent("support", tenant_id="acme").version == "1.0.0"
    assert kit.registry.get_agent("support").version == "1.0.0"
