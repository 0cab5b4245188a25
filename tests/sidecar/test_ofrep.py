"""Flags by OFREP over a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import aiohttp
import pytest

from control_plane.errors import ViewExpired
from control_plane.testing import ReplicaKit, replica
from control_plane_sidecar.generations import Generation, Generations

SINGLE = "/ofrep/v1/evaluate/flags/"
BULK = "/ofrep/v1/evaluate/flags"
USER = {"context": {"targetingKey": "u1"}}


async def test_a_flag_is_answered_with_value_variant_and_reason(
    http: aiohttp.ClientSession,
) -> None:
    body = {"context": {"targetingKey": "u1", "plan": "enterprise"}}
    answer = await http.post(f"{SINGLE}ruled", json=body)
    assert (answer.status, answer.headers["Control-Plane-Generation"]) == (200, "1")
    assert await answer.json() == {
        "key": "ruled", "value": True, "variant": "on", "reason": "TARGETING_MATCH",
    }  # fmt: skip


async def test_a_default_is_unknown_to_the_protocol_and_named_in_the_metadata(
    http: aiohttp.ClientSession,
) -> None:
    found = await (await http.post(f"{SINGLE}ruled", json=USER)).json()
    assert (found["reason"], found["metadata"]) == ("UNKNOWN", {"reason": "DEFAULT"})


async def test_an_unknown_flag_is_not_found(http: aiohttp.ClientSession) -> None:
    answer = await http.post(f"{SINGLE}no%2Fsuch", json=USER)
    found = await answer.json()
    assert (answer.status, found["key"], found["errorCode"]) == (404, "no/such", "FLAG_NOT_FOUND")


@pytest.mark.parametrize("path", [BULK, f"{SINGLE}plain"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "PARSE_ERROR"),
        (b"{", "PARSE_ERROR"),
        (b"\xff", "PARSE_ERROR"),
        (b'{"context":{"targetingKey":"u","n":NaN}}', "PARSE_ERROR"),
        (b"[" * 100_000, "PARSE_ERROR"),
        (b"[]", "INVALID_CONTEXT"),
        (b'{"context":[]}', "INVALID_CONTEXT"),
        (b'{"context":{"targetingKey":1}}', "INVALID_CONTEXT"),
        (b'{"context":{}}', "TARGETING_KEY_MISSING"),
    ],
)
async def test_a_body_without_a_context_is_refused(
    http: aiohttp.ClientSession, path: str, body: bytes, code: str
) -> None:
    answer = await http.post(path, data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, (await answer.json())["errorCode"]) == (400, code)


async def test_an_oversized_body_is_refused(http: aiohttp.ClientSession) -> None:
    answer = await http.post(f"{SINGLE}plain", data=b" " * (257 << 10))
    assert (answer.status, (await answer.json())["errorCode"]) == (413, "GENERAL")
    assert (await http.post(f"{SINGLE}plain", json=USER)).status == 200


async def test_a_tenant_stands_in_for_the_targeting_key(http: aiohttp.ClientSession) -> None:
    answer = await http.post(f"{SINGLE}plain", json={"context": {"tenant_id": "acme"}})
    assert (await answer.json())["value"] is True


async def test_the_very_next_answer_is_of_the_change(
    kit: ReplicaKit, http: aiohttp.ClientSession
) -> None:
    for value in (False, True, False):
        kit.set_flag("plain", value)
        answer = await http.post(f"{SINGLE}plain", json=USER)
        assert (await answer.json())["value"] is value


async def test_what_is_served_is_counted_and_bulk_is_not(
    kit: ReplicaKit, http: aiohttp.ClientSession
) -> None:
    for path in (f"{SINGLE}plain", f"{SINGLE}plain", BULK):
        await http.post(path, json=USER)
    assert kit.flags.counts() == {("plain", "on"): 2}


async def test_bulk_is_all_flags_with_an_event_stream(http: aiohttp.ClientSession) -> None:
    found = await (await http.post(BULK, json=USER)).json()
    assert [(each["key"], each["value"]) for each in found["flags"]] == [
        ("plain", True),
        ("ruled", False),
    ]
    [stream] = found["eventStreams"]
    assert (stream["type"], stream["endpoint"]) == ("sse", {"requestUri": "/ofrep/v1/events"})


async def test_bulk_is_not_repeated_to_who_has_it(
    kit: ReplicaKit, http: aiohttp.ClientSession
) -> None:
    tag = (await http.post(BULK, json=USER)).headers["ETag"]
    given = {"If-None-Match": tag}
    repeated = await http.post(BULK, json=USER, headers=given)
    assert (repeated.status, await repeated.read(), repeated.headers["ETag"]) == (304, b"", tag)
    other = await http.post(BULK, json={"context": {"targetingKey": "u2"}}, headers=given)
    kit.set_flag("plain", False)
    changed = await http.post(BULK, json=USER, headers=given)
    assert (other.status, changed.status) == (200, 200)
    assert (await changed.json())["flags"][0]["value"] is False


async def test_a_rule_that_begins_is_no_304(serve: Any) -> None:
    rule = {
        "name": "later",
        "from": "2026-03-01T00:00:00Z",
        "when": {"targetingKey": "u1"},
        "serve": "on",
    }
    flag = {"variants": {"on": True, "off": False}, "default": "off", "rules": [rule]}
    with replica(flags={"timed": flag}, now="2026-02-01T00:00:00Z") as kit:
        async with serve(kit) as (_, url), aiohttp.ClientSession(url) as http:
            given = {"If-None-Match": (await http.post(BULK, json=USER)).headers["ETag"]}
            assert (await http.post(BULK, json=USER, headers=given)).status == 304
            kit.clock.set("2026-03-01T00:00:01Z")
            begun = await http.post(BULK, json=USER, headers=given)
            assert (begun.status, (await begun.json())["flags"][0]["value"]) == (200, True)


async def test_a_moment_that_is_none_is_refused(http: aiohttp.ClientSession) -> None:
    for text, status in (("1771622898", 200), ("2026-02-20T21:28:18Z", 200), ("soon", 400)):
        answer = await http.post(BULK, params={"flagConfigLastModified": text}, json=USER)
        assert answer.status == status


async def event(stream: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    """The next event's id and data."""
    while True:
        block = (await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 10)).decode()
        fields = dict(line.split(": ", 1) for line in block.strip().split("\n") if ": " in line)
        if "data" in fields:
            return fields["id"], json.loads(fields["data"])


async def test_a_change_of_flags_is_an_event_and_one_of_configuration_is_none(
    kit: ReplicaKit, http: aiohttp.ClientSession
) -> None:
    async with http.get("/ofrep/v1/events") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        number, data = await event(stream)
        assert (number, data["type"], data["etag"]) == ("1", "refetchEvaluation", "1")
        kit.set_flag("plain", False)
        assert (await event(stream))[0] == "2"


async def test_who_comes_back_is_told_only_of_what_is_new(
    kit: ReplicaKit, http: aiohttp.ClientSession
) -> None:
    async with http.get("/ofrep/v1/events", headers={"Last-Event-ID": "1"}) as stream:
        kit.set_flag("plain", False)
        assert (await event(stream))[0] == "2"


async def test_a_thousand_streams_are_told(kit: ReplicaKit, serve: Any) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        serve(kit) as (_, url),
        aiohttp.ClientSession(url, connector=connector) as http,
    ):
        streams = await asyncio.gather(*(http.get("/ofrep/v1/events") for _ in range(1_000)))
        await asyncio.gather(*map(event, streams))
        kit.set_flag("plain", False)
        told = await asyncio.gather(*map(event, streams))
        single = await http.post(f"{SINGLE}plain", json=USER)
        for stream in streams:
            stream.close()
    assert {number for number, _ in told} == {"2"}
    assert single.status == 200


async def test_who_hangs_up_while_flags_are_loaded_leaves_nothing_open(
    kit: ReplicaKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations = Generations(kit)
    loaded: list[Generation] = []
    load, begun, go_on = generations._load, threading.Event(), threading.Event()

    def slowly() -> Generation:
        begun.set()
        go_on.wait(10)
        loaded.append(load())
        return loaded[0]

    monkeypatch.setattr(generations, "_load", slowly)
    asking = asyncio.create_task(generations._newest())
    await asyncio.to_thread(begun.wait, 10)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    go_on.set()
    while not (loaded and loaded[0].retired):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with pytest.raises(ViewExpired):
        loaded[0]._view.read(b"x")
