"""Configuration, agents and tools over HTTP."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from control_plane.testing import ReplicaKit


async def test_a_configuration_value_is_read_by_its_key(http: aiohttp.ClientSession) -> None:
    leaf = await (await http.get("/v1/config/ai.model")).json()
    dotted = await (await http.get("/v1/config/ai.limits", params={"part": "gpt-4.1"})).json()
    assert leaf == {"format": 1, "key": "ai.model", "value": "m1"}
    assert (dotted["key"], dotted["value"]) == (["ai", "limits", "gpt-4.1"], 5)


async def test_an_agent_is_read_with_its_tools(http: aiohttp.ClientSession) -> None:
    found = await (await http.get("/v1/agents/helper")).json()
    assert (found["reference"], found["status"]) == ("agent/helper@1.0.0", "active")
    assert found["document"]["metadata"]["system_prompt"] == "help"
    assert found["tools"]["crm_tool"]["version"] == "1.2.0"


async def test_a_tool_is_read_by_version_and_listed(http: aiohttp.ClientSession) -> None:
    found = await (await http.get("/v1/tools/crm_tool?version=1.2.0")).json()
    listed = await (await http.get("/v1/tools")).json()
    assert found["document"]["version"] == "1.2.0"
    assert [each["name"] for each in listed["found"]] == ["crm_tool"]


@pytest.mark.parametrize(
    "path", ["/v1/config/nothing", "/v1/agents/nobody", "/v1/tools/crm_tool?version=9.9.9", "/no"]
)
async def test_what_there_is_not_is_404(http: aiohttp.ClientSession, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status, (await answer.json())["format"]) == (404, 1)


async def test_a_long_poll_ends_with_the_change_and_not_with_another(
    kit: ReplicaKit, http: aiohttp.ClientSession
) -> None:
    path = "/v1/config/ai.model"
    given = {"If-None-Match": (await http.get(path)).headers["ETag"]}
    assert (await http.get(path, headers=given)).status == 304
    poll = asyncio.create_task(http.get(f"{path}?wait=20", headers=given))
    await asyncio.sleep(0.05)
    kit.set_flag("plain", False)
    await asyncio.sleep(0.1)
    assert not poll.done()
    kit.set_config("ai", {"model": "m2"})
    answer = await asyncio.wait_for(poll, 10)
    assert (answer.status, (await answer.json())["value"]) == (200, "m2")


async def test_a_wait_that_is_no_number_is_refused(http: aiohttp.ClientSession) -> None:
    assert (await http.get("/v1/config/ai?wait=long")).status == 400


async def test_another_method_is_told_which_there_are(http: aiohttp.ClientSession) -> None:
    answer = await http.delete("/v1/agents")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
