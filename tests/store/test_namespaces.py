"""Configuration is let into a log only if nodes can merge it: with others, for every tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from control_plane.log.canonical import canonical
from control_plane.log.statements import Change

Send = Callable[..., Awaitable[Any]]


def config(name: str, **metadata: Any) -> bytes:
    return canonical({"kind": "config", "name": name, "metadata": metadata})


@pytest.fixture
def send(served: Any) -> Send:
    """Submit documents, and deletions as names, in one set to staging."""
    kit = served.installation

    async def sent(*things: bytes | str, replaces: dict[str, int] | None = None) -> Any:
        known = replaces or {}
        changes = []
        for thing in things:
            if isinstance(thing, str):
                gone = Change(action="delete", kind="config", name=thing, replaces=known[thing])
                changes.append(gone)
                continue
            await served.put_blob(thing, "staging")
            put = kit.put(thing, None)
            changes.append(kit.put(thing, known.get(put.name)))
        return await served.submit(kit.envelope(*changes, environment="staging"), "staging")

    return sent


async def refused(served: Any, answer: Awaitable[Any]) -> str:
    before = await served.standing("staging")
    found = await answer
    assert (found.status, found.body["code"]) == (400, "manifest_invalid")
    assert await served.standing("staging") == before
    return str(found.body["message"])


async def test_a_reference_into_nothing_is_refused(served: Any, send: Send) -> None:
    app = config("app", values={"url": "pg://${hosts.db}"})
    message = await refused(served, send(app))
    assert message == (
        "config/app: for staging: expected a value at hosts.db to refer to, found none"
        " at metadata.values.url"
    )
    assert (await send(app, config("hosts", values={"db": "x"}))).status == 201


async def test_what_others_refer_to_can_be_taken_away_only_together_with_them(
    served: Any, send: Send
) -> None:
    app, hosts = config("app", values={"url": "${hosts.db}"}), config("hosts", values={"db": "x"})
    front = config("front", values={"at": "${app.url}"})
    assert (await send(app, hosts, front)).status == 201
    message = await refused(served, send("hosts", replaces={"hosts": 2}))
    assert message.startswith("config/app: for staging: expected a value at hosts.db to refer to")
    assert "and 1 more | config/front: for staging: " in message
    await refused(served, send(config("hosts", values={"main": "y"}), replaces={"hosts": 2}))
    free = config("app", values={"url": "y"})
    assert (await send("hosts", free, replaces={"hosts": 2, "app": 2})).status == 201


async def test_a_value_is_judged_by_the_schema_of_who_refers_to_it(served: Any, send: Send) -> None:
    schema = {"properties": {"size": {"maximum": 9}}}
    app = config("app", schema=schema, values={"size": "${limits.size}"})
    assert (await send(app, config("limits", values={"size": 5}))).status == 201
    message = await refused(
        served, send(config("limits", values={"size": 50}), replaces={"limits": 2})
    )
    assert (
        "config/app: for staging: expected at most 9, found 50 at metadata.values.size" in message
    )
    message = await refused(served, send(config("limits@acme", values={"size": 10})))
    assert "for tenant acme: expected at most 9, found 10" in message
    assert (await send(config("limits@acme", values={"size": 9}))).status == 201


async def test_a_ring_that_two_sets_would_close_is_refused(served: Any, send: Send) -> None:
    assert (
        await send(config("a", values={"x": "${b.x}"}), config("b", values={"x": 1}))
    ).status == 201
    message = await refused(served, send(config("b", values={"x": "${a.x}"}), replaces={"b": 2}))
    assert "expected references that end, found " in message


async def test_a_schema_that_stored_values_break_is_refused_with_the_list_of_them(
    served: Any, send: Send
) -> None:
    assert (await send(config("db", values={"size": 1}, tenants={"a": {"size": 70}}))).status == 201
    own = [config(f"db@t{number:02}", values={"size": 60 + number}) for number in range(30)]
    assert (await send(*own)).status == 201
    small = {"properties": {"size": {"maximum": 50}}}
    changed = config("db", schema=small, values={"size": 1}, tenants={"a": {"size": 7}})
    message = await refused(served, send(changed, replaces={"db": 2}))
    first, *listed = message.split(" | ")
    assert first == (
        "config/db@t00: for staging: for tenant t00: expected at most 50, found 60"
        " at metadata.values.size; and 29 more"
    )
    assert len(listed) == 9
    assert listed[0].startswith("config/db@t01: for staging: for tenant t01: expected at most 50")


async def test_a_tenant_is_judged_for_itself(served: Any, send: Send) -> None:
    app = config("app", values={"url": "${hosts.db}"}, tenants={"b": {"url": "${hosts.own}"}})
    both = config("hosts", values={"db": "x"}), config("hosts@b", values={"own": "y"})
    assert (await send(app, *both)).status == 201
    assert (await send(config("app@a", values={"copy": "${app.url}"}))).status == 201
    message = await refused(
        served, send(config("app@a", values={"copy": "${hosts.own}"}), replaces={"app@a": 3})
    )
    assert "config/app@a: for staging: for tenant a: expected a value at hosts.own" in message
    await refused(served, send("hosts@b", replaces={"hosts@b": 2}))
