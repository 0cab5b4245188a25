"""A lock pins an agent with all it uses; what was changed since, by anybody, is not loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.errors import ChecksumMismatch, ControlPlaneError, NotDelegated
from control_plane.publish.keyfiles import NEVER, sign_envelope
from control_plane.registries.locking import differences, lock_of, open_lock, unsigned
from control_plane.trust import authoring
from control_plane.trust.state import restore

FLAG: dict[str, Any] = {
    "kind": "flag",
    "name": "warmth",
    "metadata": {"variants": {"low": 0.1, "high": 0.9}, "default": "low", "disabled": "low"},
}
TOOL = {"description": "d", "inputs_schema": {"type": "string"}}


@contextmanager
def client_of(node: Any) -> Iterator[ControlPlaneClient]:
    """A reader of what the node wrote; the writer's process may not read, so it ends first."""
    node.close()
    with ControlPlaneClient(str(node.folder.parent), "production") as client:
        yield client


@pytest.fixture
def published(log: Any, tool: Any, agent: Any) -> Any:
    document = agent(name="helper")
    document["metadata"] |= {
        "tools": ["crm>=1", {"name": "absent", "optional": True}],
        "temperature": 0.5,
        "system_prompt": "Be kind.",
        "overridable": {"temperature": {"flag": "warmth"}},
    }
    crm = tool("1.0.0", "crm")
    crm["metadata"] = TOOL
    log.put(FLAG, crm, document)
    log.activate("agent", "helper", document["version"])
    return log


def signed_lock(client: ControlPlaneClient, log: Any, signer: str = "author") -> bytes:
    with client.pinned() as view:
        found = lock_of(view.registry, view.registry.get_agent(name="helper"), "a", "production")
    return sign_envelope(unsigned(found), log.trust.signers[signer]).encode()


def test_a_locked_agent_has_the_tools_of_its_lock(
    published: Any, make_node: Any, tmp_path: Path, tool: Any
) -> None:
    path = tmp_path / "lock.json"
    node = make_node()
    node.follow()
    with client_of(node) as client:
        path.write_bytes(signed_lock(client, published) + b"\n")
        assert client.registry.load_lock(path).tools["crm"].version == "1.0.0"
    newer = tool("1.1.0", "crm")
    newer["metadata"] = TOOL
    published.put(newer)
    published.activate("tool", "crm", "1.1.0")
    node = make_node()
    node.follow()
    with client_of(node) as client:
        assert client.registry.get_agent(name="helper").tools["crm"].version == "1.1.0"
        locked = client.registry.load_lock(path)
        assert locked.tools["crm"].resolve().version == "1.0.0"
        assert locked.tools["absent"].version is None


def test_a_flag_that_changed_since_is_told(published: Any, make_node: Any, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    node = make_node()
    node.follow()
    with client_of(node) as client:
        path.write_bytes(signed_lock(client, published))
    published.put({**FLAG, "metadata": {**FLAG["metadata"], "default": "high"}})
    node = make_node()
    node.follow()
    with client_of(node) as client, pytest.raises(ChecksumMismatch, match="flag/warmth: expected"):
        client.registry.load_lock(path)


def test_no_byte_changes_unseen(published: Any, make_node: Any) -> None:
    node = make_node()
    node.follow()
    with client_of(node) as client:
        data = signed_lock(client, published)
    policy = published.trust.policy
    assert open_lock(data, policy, "production")["agent"]["name"] == "helper"
    for at in range(len(data)):
        for changed in (data[at] ^ 1, data[at] ^ 0x20):
            other = data[:at] + bytes([changed]) + data[at + 1 :]
            with pytest.raises(ControlPlaneError) as refused:
                open_lock(other, policy, "production")
            assert "\n" not in str(refused.value)


def test_a_revoked_key_a_strangers_and_another_environment_are_refused(
    published: Any, make_node: Any, foreign_trust: Any
) -> None:
    node = make_node()
    node.follow()
    with client_of(node) as client:
        data = signed_lock(client, published)
    trust = published.trust
    targets = authoring.new_targets(
        version=2, expires=NEVER,
        delegations=authoring.first_delegations(
            ["production", "staging"], [trust.keys["second"].public], 1
        ),
    )  # fmt: skip
    revoked = restore(trust.root, authoring.signed(targets, [trust.signers["targets"]]))
    with pytest.raises(NotDelegated, match="lock again with a key in force"):
        open_lock(data, revoked, "production")
    with pytest.raises(NotDelegated, match="found one by"):
        open_lock(data, foreign_trust.policy, "production")
    with pytest.raises(NotDelegated, match="expected the environment staging, found production"):
        open_lock(data, trust.policy, "staging")


def test_two_locks_differ_by_paths() -> None:
    one = {"agent": {"version": "1"}, "tools": {"a": {"version": "1"}}}
    other = {"agent": {"version": "2"}, "tools": {}}
    assert differences(one, other) == [
        {"path": "agent.version", "old": "1", "new": "2"},
        {"path": "tools", "old": None, "new": {}},
        {"path": "tools.a.version", "old": "1", "new": None},
    ]
