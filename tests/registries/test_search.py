"""Finding versions by what they say, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from control_plane.testing import ReplicaKit, replica


def tool(name: str, version: str = "1.0.0", owner: str = "platform", **metadata: Any) -> Any:
    described = {"description": f"{name} does it", **metadata}
    return {"name": name, "version": version, "owner": owner, "metadata": described}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    tools = [
        tool("crm_tool", "1.9.0", category="crm", tags=["customer"], capabilities=["lookup"]),
        tool("crm_tool", "1.10.0", category="crm", tags=["customer", "notes"]),
        tool("order_tool", owner="sales", category="orders", description="Finds Orders fast"),
        tool("crm", owner='the "A" team', tags=["Größe"]),
    ]
    with replica(tools=tools, agents=[{"name": "a", "metadata": {"description": "d"}}]) as client:
        yield client


def found(kit: ReplicaKit, **asked: Any) -> list[str]:
    return [each.reference for each in kit.registry.search("tool", **asked).found]


def test_everything_is_listed_by_name_and_then_by_version(kit: ReplicaKit) -> None:
    assert found(kit) == [
        "tool/crm@1.0.0", "tool/crm_tool@1.9.0", "tool/crm_tool@1.10.0", "tool/order_tool@1.0.0",
    ]  # fmt: skip
    assert [each.name for each in kit.registry.search("agent").found] == ["a"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"name": "ORDER"}, ["order_tool"]),
        ({"owner": "sales"}, ["order_tool"]),
        ({"owner": 'the "A" team'}, ["crm"]),
        ({"owner": "customer"}, []),
        ({"category": "crm"}, ["crm_tool", "crm_tool"]),
        ({"capability": "lookup"}, ["crm_tool"]),
        ({"tag": "notes"}, ["crm_tool"]),
        ({"tag": "Größe"}, ["crm"]),
        ({"text": "ORDERS finds"}, ["order_tool"]),
        ({"text": "größe"}, ["crm"]),
        ({"text": "order_tool"}, ["order_tool"]),
        ({"text": 'does "it'}, []),
        ({"text": "platform"}, []),
        ({"channel": "stable", "name": "crm_tool"}, ["crm_tool"]),
        ({"category": "crm", "tag": "customer", "text": "notes"}, ["crm_tool"]),
    ],
)
def test_what_is_asked_for_is_found(
    kit: ReplicaKit, asked: dict[str, str], expected: list[str]
) -> None:
    assert [each.name for each in kit.registry.search("tool", **asked).found] == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_are_all_there_is_once(kit: ReplicaKit, limit: int) -> None:
    for number in range(100):
        kit.put_tool(tool("many", f"0.{number}.0"))
    everything, cursor = [], None
    with kit.pinned() as view:
        kit.put_tool(tool("aaa_later"))
        while True:
            page = view.registry.search("tool", limit=limit, cursor=cursor)
            assert page.generation == view.generation
            everything += page.found
            cursor = page.cursor
            if cursor is None:
                break
    assert [each.version for each in everything if each.name == "many"] == [
        f"0.{number}.0" for number in range(100)
    ]
    assert len(everything) == 104


def test_a_cursor_goes_on_behind_its_version_when_more_was_published(kit: ReplicaKit) -> None:
    page = kit.registry.search("tool", limit=2)
    kit.put_tool(tool("aaa_later"))
    kit.put_tool(tool("crm_tool", "1.11.0"))
    following = kit.registry.search("tool", limit=10, cursor=page.cursor)
    assert [each.reference for each in following.found] == [
        "tool/crm_tool@1.10.0", "tool/crm_tool@1.11.0", "tool/order_tool@1.0.0",
    ]  # fmt: skip
    assert following.generation > page.generation


def test_what_is_found_says_channels_and_status(kit: ReplicaKit) -> None:
    kit.set_status("tool", "crm_tool", "1.9.0", "yanked", "leaks")
    old, new = kit.registry.search("tool", name="crm_tool").found
    assert (old.status, old.channels) == ("yanked", ())
    assert (new.status, new.channels, new.tags) == ("active", ("stable",), ("customer", "notes"))


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"kind": "flag"}, "expected agent or tool, found 'flag'"),
        ({"limit": 0}, "expected a limit from 1 to 1000, found 0"),
        ({"limit": 1001}, "found 1001"),
        ({"cursor": "agent/a@1.0.0"}, "expected the cursor of a page of tools"),
        ({"cursor": "tool/a"}, "expected the cursor of a page of tools"),
        ({"cursor": "tool/\ud800@1"}, "expected the cursor of a page of tools"),
    ],
)
def test_what_cannot_be_asked_is_misuse(
    kit: ReplicaKit, asked: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        kit.registry.search(**{"kind": "tool", **asked})
