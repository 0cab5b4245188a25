"""`current`: the request that runs, or the process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from control_plane import ControlPlaneClient
from control_plane.integrations import current
from control_plane.replica.reader import OPEN, Replica
from control_plane.testing import ReplicaKit, replica


def test_outside_of_requests_the_newest_is_read_for_nobody(kit: ReplicaKit) -> None:
    flags = current.flags()
    assert (flags.is_enabled("x"), flags.is_enabled("theirs")) == (True, False)
    kit.set_flag("x", False)
    assert not flags.is_enabled("x")
    assert current.config().get("db.url") == "base"
    assert current.generation() == 2
    with pytest.raises(RuntimeError, match="expected a request to bind to, found none"):
        current.bind(tenant_id="acme")


def test_a_block_is_a_request_and_blocks_may_be_nested(kit: ReplicaKit) -> None:
    with current.request(tenant_id="acme"):
        kit.set_flag("x", False)
        with current.request(tenant_id="other"):
            assert not current.flags().is_enabled("theirs")
        assert current.flags().is_enabled("theirs")
        assert current.config().get("db.url") == "theirs"
    assert not current.flags().is_enabled("theirs")


def test_origin_is_of_the_requests_generation_and_tenant(kit: ReplicaKit) -> None:
    with current.request(tenant_id="acme"):
        first = current.config().origin("db.url")
        kit.set_config("db", {"url": "new"})
        held = current.config().origin("db.url")
        base = current.config().origin("db.url", tenant_id="other")
    assert (first.layer, held.layer, base.layer) == ("tenants.acme", "tenants.acme", "values")
    assert (held.generation, base.generation) == (first.generation, first.generation)
    assert current.config().origin("db.url").generation == first.generation + 1


def test_a_block_ends_by_an_exception_too(kit: ReplicaKit) -> None:
    with pytest.raises(KeyError), current.request(tenant_id="acme") as view:
        raise KeyError
    assert current.VIEW.get() is None
    kit.set_flag("x", False)
    assert not view.flags.is_enabled("x")


async def test_tasks_and_threads_of_a_request_belong_to_it(kit: ReplicaKit) -> None:
    def asked() -> tuple[bool, int]:
        return current.flags().is_enabled("theirs"), current.generation()

    async def task() -> tuple[bool, int]:
        return asked()

    with current.request(tenant_id="acme"):
        before = asked()
        kit.set_flag("x", False)
        found = [await asyncio.to_thread(asked), await asyncio.create_task(task())]
    assert found == [before, before] == [(True, 1), (True, 1)]


def test_a_thread_started_by_hand_belongs_to_nobody(kit: ReplicaKit) -> None:
    found: list[bool] = []
    with current.request(tenant_id="acme"):
        thread = threading.Thread(
            target=lambda: found.append(current.flags().is_enabled("theirs")),
            **no_context(),
        )
        thread.start()
        thread.join()
    assert found == [False]


def test_the_registry_is_of_the_requests_generation(kit: ReplicaKit) -> None:
    tool = {"name": "crm", "version": "1.0.0", "metadata": {"description": "One."}}
    kit.put_tool(tool)
    with current.request():
        registry = current.registry()
        assert registry.get_tool("crm").version == "1.0.0"
        kit.put_tool({**tool, "version": "1.1.0"})
        assert registry.get_tool("crm").version == "1.0.0"
        assert [each.versions for each in registry.list_tools()] == [("1.0.0",)]
    assert current.registry().get_tool("crm").version == "1.1.0"
    assert registry.get_tool("crm").version == "1.1.0"


def test_the_processs_client_is_made_when_needed_and_replaced_by_another_way(
    tmp_path: Path,
) -> None:
    made: list[ControlPlaneClient] = []

    def make() -> ControlPlaneClient:
        made.append(ControlPlaneClient(tmp_path, "test"))
        return made[-1]

    current.provide(make)
    try:
        assert made == []
        assert current.client() is current.client() is made[0]
    finally:
        current.provide(ControlPlaneClient)
    assert "found it closed" in str(made[0].source.error)


def test_a_block_of_another_client_leaves_nothing_of_it_behind(kit: ReplicaKit) -> None:
    with replica(flags={"other": True}) as other:
        with current.using(other), current.request():
            assert current.flags().is_enabled("other")
            assert not current.flags().is_enabled("x")
            [opened] = of(other)
            assert opened._holders == 2
        assert current.flags().is_enabled("x")
        assert opened._holders == 1
    assert of(other) == []


def of(kit: ReplicaKit) -> list[Replica]:
    """The replicas of a kit that this process has open."""
    return [each for each in OPEN._replicas.values() if each.directory.startswith(kit.replica)]


def no_context() -> dict[str, object]:
    """The arguments with which a thread starts in a context of its own, as it did before 3.14."""
    import contextvars
    import sys

    return {"context": contextvars.Context()} if sys.version_info >= (3, 14) else {}
