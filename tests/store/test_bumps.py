"""The store lets in no version of a tool whose number hides a breaking change."""

from __future__ import annotations

from typing import Any

from control_plane.log.envelope import MANIFEST_PAYLOAD_TYPE, pae
from control_plane.log.statements import Change
from control_plane.manifests.documents import blob, content, sealed

WIDE, NARROW = {"type": ["string", "null"]}, {"type": "string"}


def tool(kit: Any, version: str, inputs: Any) -> bytes:
    document = {
        "kind": "tool", "name": "crm_tool", "version": version,
        "metadata": {"description": "d", "inputs_schema": inputs},
    }  # fmt: skip
    signature = kit.author.private.sign(pae(MANIFEST_PAYLOAD_TYPE, content(document)))
    return blob(sealed(document, kit.author.key_id, signature))


async def put(client: Any, *blobs: bytes, more: tuple[Change, ...] = ()) -> Any:
    for data in blobs:
        await client.put_blob(data)
    kit = client.installation
    return await client.submit(kit.envelope(*map(kit.put, blobs), *more))


async def test_a_breaking_change_needs_its_step(served: Any) -> None:
    kit = served.installation
    assert (await put(served, tool(kit, "1.9.0", WIDE))).status == 201
    before = await served.standing()
    answer = await put(served, tool(kit, "1.10.0", NARROW))
    assert (answer.status, answer.body["code"]) == (400, "manifest_invalid")
    assert "expected a major step" in answer.body["message"]
    assert answer.body["message"].endswith("publish it as 2.0.0")
    assert await served.standing() == before
    assert (await put(served, tool(kit, "2.0.0", NARROW))).status == 201


async def test_two_versions_of_one_set_are_held_to_each_other(served: Any) -> None:
    kit = served.installation
    answer = await put(served, tool(kit, "1.0.0", WIDE), tool(kit, "1.0.1", NARROW))
    assert answer.status == 400


async def test_a_yanked_version_is_compared_with_nothing(served: Any) -> None:
    kit = served.installation
    yank = Change(
        action="status", kind="tool", name="crm_tool", replaces=None, version="1.0.0",
        status="yanked", reason="wrong", successor=None,
    )  # fmt: skip
    assert (await put(served, tool(kit, "1.0.0", WIDE), more=(yank,))).status == 201
    assert (await put(served, tool(kit, "1.0.1", NARROW))).status == 201
