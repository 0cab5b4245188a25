"""Flags that ask for others: no ring gets into a log, whichever way it would be closed."""

from __future__ import annotations

from typing import Any


def asking(name: str) -> list[dict[str, Any]]:
    return [{"name": "r", "when": {"$not": {"$flag": {name: "on"}}}, "serve": "on"}]


async def put(client: Any, *blobs: bytes, replaces: int | None = None) -> Any:
    for data in blobs:
        await client.put_blob(data)
    kit = client.installation
    return await client.submit(kit.envelope(*(kit.put(data, replaces) for data in blobs)))


async def refused(client: Any, *blobs: bytes, ring: str, replaces: int | None = None) -> None:
    before = await client.standing()
    answer = await put(client, *blobs, replaces=replaces)
    assert (answer.status, answer.body["code"]) == (400, "manifest_invalid")
    assert f"found {ring};" in answer.body["message"]
    assert await client.standing() == before


async def test_a_ring_within_one_set_is_refused(served: Any) -> None:
    kit = served.installation
    three = [kit.flag(a, rules=asking(b)) for a, b in (("fa", "fb"), ("fb", "fc"), ("fc", "fa"))]
    await refused(served, *three, ring="fa > fb > fc > fa")
    await refused(served, kit.flag("me", rules=asking("me")), ring="me > me")


async def test_a_ring_closed_by_a_later_set_is_refused(served: Any) -> None:
    kit = served.installation
    assert (await put(served, kit.flag("fa", rules=asking("fb")))).status == 201
    assert (await put(served, kit.flag("fb", rules=asking("fc")))).status == 201
    await refused(served, kit.flag("fc", rules=asking("fa")), ring="fc > fa > fb > fc")
    assert (await put(served, kit.flag("fc", rules=asking("other")))).status == 201


async def test_only_what_the_environment_sees_makes_a_ring(served: Any) -> None:
    kit = served.installation
    there = {"staging": {"rules": asking("fb")}}
    first = await put(served, kit.flag("fa", environments=there))
    assert first.status == 201
    assert (await put(served, kit.flag("fb", rules=asking("fa")))).status == 201
    here = kit.flag("fa", environments={"production": {"rules": asking("fb")}})
    generation = int(first.body["generation"])
    await refused(served, here, ring="fa > fb > fa", replaces=generation)


async def test_a_ring_that_its_own_set_opens_is_let_in(served: Any) -> None:
    kit = served.installation
    first = await put(served, kit.flag("fa", rules=asking("fb")))
    generation = int(first.body["generation"])
    again, other = kit.flag("fa"), kit.flag("fb", rules=asking("fa"))
    for data in (again, other):
        await served.put_blob(data)
    envelope = kit.envelope(kit.put(again, generation), kit.put(other))
    assert (await served.submit(envelope)).status == 201
