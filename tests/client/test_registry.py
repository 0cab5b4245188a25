"""Agents and tools: versions, copies, requirements, and what is said when there is none."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control_plane import NotFound, ReplicaUnavailable
from control_plane.errors import ReplicaCorrupt
from control_plane.registries.registry_manager import RegistryManager, _parsed, order
from control_plane.replica.format import TOOL, record_key

ORDER_TOOL = {"name": "order_tool", "version": "1.0.0", "metadata": {"description": "Orders."}}


def crm(version: str) -> dict[str, Any]:
    return {"name": "crm_tool", "version": version, "metadata": {"description": version}}


def test_a_name_alone_gives_the_stable_version(stocked: Any) -> None:
    registry = stocked.client().registry
    assert registry.get_tool("crm_tool").version == "1.2.0"
    stocked.version("tool", crm("1.3.0"), None)
    assert registry.get_tool("crm_tool").version == "1.2.0"
    stocked.version("tool", crm("1.4.0"))
    assert registry.get_tool("crm_tool").version == "1.4.0"
    assert registry.get_tool("crm_tool", version="1.3.0").description == "1.3.0"


def test_attributes_are_the_envelopes_then_the_metadatas(stocked: Any) -> None:
    agent = stocked.client().registry.get_agent("customer_support_agent", tenant_id="acme")
    assert (agent.name, agent.version, agent.owner) == (
        "customer_support_agent",
        "1.0.0",
        "platform-team",
    )
    assert (agent.description, agent.temperature) == ("Answers customers.", 0.7)
    assert {"owner", "temperature", "tools"} <= set(dir(agent))
    with pytest.raises(AttributeError, match=r"expected one of capabilities, .* found temprature"):
        _ = agent.temprature


def test_what_a_caller_writes_is_on_its_own_copy(stocked: Any) -> None:
    registry = stocked.client().registry
    mine, yours = (registry.get_agent("customer_support_agent") for _ in range(2))
    mine.temperature = 0.3
    mine.capabilities.append("refunds")
    mine.metadata["description"] = "changed"
    assert (mine.temperature, mine.capabilities) == (0.3, ["chat", "refunds"])
    for other in (yours, registry.get_agent("customer_support_agent")):
        assert (other.temperature, other.capabilities) == (0.7, ["chat"])
        assert other.metadata["description"] == "Answers customers."
    assert mine.to_dict()["metadata"]["temperature"] == 0.3
    assert json.loads(mine.blob)["metadata"]["temperature"] == 0.7


def test_a_copied_agent_shares_nothing_with_its_original(stocked: Any) -> None:
    agent = stocked.client().registry.get_agent("customer_support_agent")
    agent.capabilities.append("refunds")
    for twin in (copy.copy(agent), copy.deepcopy(agent)):
        twin.capabilities.append("more")
        assert twin.tools["crm_tool"].version == "1.2.0"
    assert agent.capabilities == ["chat", "refunds"]


@pytest.mark.parametrize("name", ["tools", "digest", "status", "blob", "to_dict", "_own"])
def test_what_the_node_says_cannot_be_assigned(stocked: Any, name: str) -> None:
    agent = stocked.client().registry.get_agent("customer_support_agent")
    with pytest.raises(AttributeError, match="expected a field to assign"):
        setattr(agent, name, "x")


def test_the_exact_bytes_and_their_digest_can_be_checked_again(stocked: Any) -> None:
    tool = stocked.client().registry.get_tool("crm_tool")
    assert tool.digest == hashlib.sha256(tool.blob).hexdigest()
    assert json.loads(tool.blob) == {"kind": "tool", **crm("1.2.0"), "metadata": tool.metadata}


def test_tools_are_a_read_only_mapping_in_manifest_order(stocked: Any) -> None:
    tools = stocked.client().registry.get_agent("customer_support_agent").tools
    assert list(tools) == ["crm_tool", "order_tool"]
    assert "crm_tool" in tools
    requirement = tools["crm_tool"]
    assert set(requirement.specifier.split(",")) == {">=1.2", "<2"}
    assert (requirement.optional, requirement.problem) == (False, None)
    assert requirement.resolve().version == "1.2.0"
    assert requirement.digest == requirement.resolve().digest
    with pytest.raises(TypeError):
        tools["crm_tool"] = requirement


def test_a_requirement_nothing_meets_says_why(stocked: Any) -> None:
    requirement = stocked.client().registry.get_agent("customer_support_agent").tools["order_tool"]
    assert requirement.optional
    assert requirement.problem == "expected tool/order_tool>=1, found no version of it"
    with pytest.raises(NotFound, match="found no version of it"):
        requirement.resolve()


def test_compatibility_is_the_nodes_newest_resolution(stocked: Any) -> None:
    registry = stocked.client().registry
    tools = registry.get_agent("customer_support_agent").tools
    report = registry.validate_tool_compatibility("crm_tool", tools)
    assert report
    assert (report.version, report.problems) == ("1.2.0", ())
    assert not registry.validate_tool_compatibility("order_tool", tools)
    stocked.version("tool", ORDER_TOOL)
    assert registry.validate_tool_compatibility("order_tool", tools)
    stocked.status("tool", "crm_tool", "1.2.0", status="yanked", reason="leaks", successor=None)
    report = registry.validate_tool_compatibility("crm_tool", tools)
    assert not report
    assert report.problems[0].endswith("found 1.2.0 (yanked)")


def test_a_tool_the_agent_does_not_ask_for_is_not_compatible(stocked: Any) -> None:
    registry = stocked.client().registry
    tools = registry.get_agent("customer_support_agent").tools
    report = registry.validate_tool_compatibility("search_tool", tools)
    assert report.problems == (
        "tool/search_tool: expected agent/customer_support_agent@1.0.0 to ask for it, "
        "found crm_tool, order_tool",
    )


def test_a_list_of_references_is_resolved_here(stocked: Any) -> None:
    registry = stocked.client().registry
    assert registry.validate_tool_compatibility("crm_tool", ["crm_tool", "order_tool"])
    assert registry.validate_tool_compatibility("crm_tool", ["crm_tool>=1.2,<2"]).version == "1.2.0"
    report = registry.validate_tool_compatibility("crm_tool", ["crm_tool>=2"])
    assert report.problems == ("expected tool/crm_tool>=2, found 1.2.0",)
    assert not registry.validate_tool_compatibility("crm_tool", ["order_tool"])
    tool = registry.get_tool("crm_tool")
    assert registry.validate_tool_compatibility(tool, ["crm_tool"])
    with pytest.raises(TypeError, match=r"expected agent.tools or a list"):
        registry.validate_tool_compatibility("crm_tool", "crm_tool")


def test_a_list_of_references_needs_packaging_and_says_so(stocked: Any) -> None:
    script = (
        "import sys; sys.modules['packaging.specifiers'] = None\n"
        "from control_plane import MissingExtra, RegistryManager\n"
        f"registry = RegistryManager(replica={str(stocked.root)!r}, environment='production')\n"
        "tools = registry.get_agent('customer_support_agent').tools\n"
        "assert registry.validate_tool_compatibility('crm_tool', tools)\n"
        "try: registry.validate_tool_compatibility('crm_tool', ['crm_tool>=1'])\n"
        "except MissingExtra as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "expected the package packaging, found none; pip install 'control-plane[publish]'\n"
    )


def test_a_status_shows_on_the_version_and_its_bytes_stay(stocked: Any) -> None:
    registry = stocked.client().registry
    before = registry.get_tool("crm_tool")
    assert (before.status, before.status_reason, before.successor) == ("active", None, None)
    stocked.status(
        "tool", "crm_tool", "1.2.0", status="deprecated", reason="old", successor="crm2_tool"
    )
    with pytest.warns(DeprecationWarning, match="deprecated: old; use crm2_tool"):
        after = registry.get_tool("crm_tool")
    assert (after.status, after.status_reason, after.successor) == (
        "deprecated",
        "old",
        "crm2_tool",
    )
    assert after.digest == before.digest


def test_an_unknown_name_suggests_the_nearest(stocked: Any) -> None:
    with pytest.raises(NotFound) as caught:
        stocked.client().registry.get_agent("custmer_support_agent")
    assert str(caught.value) == (
        "agent/custmer_support_agent: expected a published agent, found none; "
        "nearest: customer_support_agent"
    )


def test_an_unknown_version_lists_those_there_are(stocked: Any) -> None:
    stocked.version("tool", crm("1.10.0"))
    with pytest.raises(NotFound) as caught:
        stocked.client().registry.get_tool("crm_tool", "9.9.9")
    assert str(caught.value) == (
        "tool/crm_tool: expected one of versions 1.2.0, 1.10.0, found 9.9.9"
    )


def test_a_name_that_was_never_activated_says_so(stocked: Any) -> None:
    stocked.version("tool", ORDER_TOOL, None)
    with pytest.raises(NotFound, match="expected a version on channel stable, found none"):
        stocked.client().registry.get_tool("order_tool")


def test_listing_gives_every_name_with_versions_and_channels(stocked: Any) -> None:
    stocked.version("tool", crm("1.10.0"), "canary")
    stocked.version("tool", ORDER_TOOL, None)
    registry = stocked.client().registry
    tools = [(t.name, t.versions, t.stable, t.channels) for t in registry.list_tools()]
    assert tools == [
        ("crm_tool", ("1.2.0", "1.10.0"), "1.2.0", {"canary": "1.10.0", "stable": "1.2.0"}),
        ("order_tool", ("1.0.0",), None, {}),
    ]
    assert [agent.name for agent in registry.list_agents()] == ["customer_support_agent"]


def test_a_document_is_parsed_again_only_when_its_record_changed(stocked: Any) -> None:
    registry = stocked.client().registry
    before = registry._load("agent", "customer_support_agent", None)
    stocked.version("tool", ORDER_TOOL)
    after = registry._load("agent", "customer_support_agent", None)
    assert after is not before
    assert after.document is before.document
    assert after.resolution["order_tool"]["version"] == "1.0.0"


def test_without_a_replica_the_error_says_what_to_start(tmp_path: Path) -> None:
    with (
        RegistryManager(replica=str(tmp_path), environment="production") as registry,
        pytest.raises(ReplicaUnavailable, match="start the daemon"),
    ):
        registry.get_agent("customer_support_agent")


def test_a_name_that_is_no_str_is_misuse(stocked: Any) -> None:
    with pytest.raises(TypeError, match="expected name and version as str"):
        stocked.client().registry.get_tool(3)


def test_versions_are_listed_by_number_and_pre_releases_first() -> None:
    shown = ["1.0.0", "1.10.0", "1.9.0", "1.10.0rc1", "1.10.0.dev1", "1.10.0.post1"]
    assert sorted(shown, key=order) == [
        "1.0.0",
        "1.9.0",
        "1.10.0.dev1",
        "1.10.0rc1",
        "1.10.0",
        "1.10.0.post1",
    ]


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_replica_can_hold_is_not_found(stocked: Any, name: str) -> None:
    registry = stocked.client().registry
    with pytest.raises(NotFound, match="expected a published agent, found none"):
        registry.get_agent(name)
    with pytest.raises(NotFound, match="expected a published tool, found none"):
        registry.get_tool("crm_tool", name)


def test_a_damaged_record_leaves_its_last_good_version_however_often_others_change(
    stocked: Any, damage: Any
) -> None:
    registry = stocked.client().registry
    agent = registry.get_agent("customer_support_agent")
    damage(b"customer_support_agent\x001.0.0")
    for version in ("1.3.0", "1.4.0"):
        stocked.version("tool", crm(version))
        assert registry.get_tool("crm_tool").version == version
        assert registry.get_agent("customer_support_agent").blob == agent.blob


@pytest.mark.parametrize("blob", [b"", b"{", b"[]", b'{"metadata": 3}'])
def test_a_record_that_is_no_document_is_corrupt(blob: bytes) -> None:
    with pytest.raises(ReplicaCorrupt, match="tool/crm_tool/1: expected a document"):
        _parsed(record_key(TOOL, "crm_tool", "1"), blob)
