"""Replicas that are missing, come, and grow old; limits, tokens and the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control_plane.client import ControlPlaneClient
from control_plane.errors import InputInvalid, NotFound
from control_plane.testing import ReplicaKit, replica
from control_plane_sidecar.limits import Limits, TooMany
from control_plane_sidecar.listening import place_of
from control_plane_sidecar.tokens import Tokens

SINGLE = "/ofrep/v1/evaluate/flags/plain"
BULK = "/ofrep/v1/evaluate/flags"
USER = {"context": {"targetingKey": "u1"}}


async def test_a_replica_that_comes_later_is_served_without_a_restart(
    kit: ReplicaKit, serve: Any, tmp_path: Path
) -> None:
    source = Path(kit.variables["CONTROL_PLANE_REPLICA"])
    with ControlPlaneClient(tmp_path, "test") as client:
        async with serve(client) as (_, url), aiohttp.ClientSession(url) as http:
            missing = await http.post(SINGLE, json=USER)
            bulk = await http.post(BULK, json=USER)
            ready, config = await http.get("/readyz"), await http.get("/v1/config/ai.model")
            assert [each.status for each in (missing, bulk, ready, config)] == [500, 500, 503, 503]
            assert (await missing.json())["errorCode"] == "PROVIDER_NOT_READY"
            assert (await http.get("/healthz")).status == 200
            shutil.copytree(source / "test", tmp_path / "test", symlinks=True)
            deadline = time.monotonic() + 10
            while (await http.get("/readyz")).status != 200:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert (await http.post(SINGLE, json=USER)).status == 200


async def test_a_stale_replica_is_served_and_said_to_be_stale(serve: Any) -> None:
    with replica(flags={"plain": True}, now="2026-02-01T00:00:00Z") as kit:
        async with serve(kit) as (sidecar, url), aiohttp.ClientSession(url) as http:
            fresh = await http.post(SINGLE, json=USER)
            kit.clock.advance(3600)
            sidecar.changes.look()
            answer, ready = await http.post(SINGLE, json=USER), await http.get("/readyz")
    assert "Control-Plane-Stale" not in fresh.headers
    assert (answer.status, answer.headers["Control-Plane-Stale"]) == (200, "true")
    assert (ready.status, (await ready.json())["stale"]) == (200, True)


async def test_a_swap_under_load_gives_no_error(
    kit: ReplicaKit, http: aiohttp.ClientSession
) -> None:
    over = asyncio.Event()

    async def ask(path: str) -> set[int]:
        found = set()
        while not over.is_set():
            found.add((await http.post(path, json=USER)).status)
        return found

    asking = [asyncio.create_task(ask(path)) for path in (SINGLE, SINGLE, BULK)]
    for number in range(20):
        # Every change of the kit is a swap.
        await asyncio.to_thread(kit.set_flag, "plain", number % 2 == 0)
    over.set()
    assert [await task for task in asking] == [{200}] * 3


async def test_tokens_are_wanted_and_rotate_without_a_restart(
    kit: ReplicaKit, serve: Any, token_file: Path
) -> None:
    old = token_file.read_text().split("\n")[1]  # noqa: ASYNC240
    async with (
        serve(kit, tokens=Tokens(token_file)) as (sidecar, url),
        aiohttp.ClientSession(url) as http,
    ):

        async def status(path: str, token: str | None, name: str = "Authorization") -> int:
            value = f"Bearer {token}" if name == "Authorization" else str(token)
            given = {} if token is None else {name: value}
            return (await http.get(path, headers=given)).status

        assert [await status("/v1/agents", each) for each in (None, "x", old)] == [401, 401, 200]
        assert await status("/v1/agents", old, "X-API-Key") == 200
        assert [await status(path, None) for path in ("/healthz", "/readyz", "/x")] == [
            200,
            200,
            401,
        ]
        token_file.write_text("another-token-of-this-test\n")  # noqa: ASYNC240
        sidecar.changes.look()
        assert await status("/v1/agents", old) == 401
        token_file.write_text("")  # noqa: ASYNC240
        sidecar.changes.look()
        assert await status("/v1/agents", "another-token-of-this-test") == 200


async def test_a_client_past_its_rate_is_told_when_to_come_back(
    kit: ReplicaKit, serve: Any
) -> None:
    limits = Limits(2, 10, clock=lambda: 0.0)
    async with serve(kit, limits=limits) as (_, url), aiohttp.ClientSession(url) as http:
        found = [await http.post(SINGLE, json=USER) for _ in range(3)]
    assert [each.status for each in found] == [200, 200, 429]
    assert found[2].headers["Retry-After"] == "1"


def test_limits_remember_a_bounded_number_of_clients() -> None:
    now = [0.0]
    limits = Limits(1, 1, max_clients=2, clock=lambda: now[0])
    limits.enter("a")
    limits.enter("b")
    with pytest.raises(TooMany):
        limits.enter("c")
    limits.leave("a")
    limits.enter("c")
    assert len(limits) == 2
    now[0] = -100.0
    with pytest.raises(TooMany):
        limits.enter("b")


async def test_a_unix_socket_is_open_to_its_mode_only(
    kit: ReplicaKit, serve: Any, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    async with serve(kit, f"unix:{path}") as (_, place):
        assert (place, stat.S_IMODE(os.stat(path).st_mode)) == (f"unix:{path}", 0o660)  # noqa: PTH116
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession("http://pod", connector=connector) as http:
            assert (await http.post(SINGLE, json=USER)).status == 200


def test_beyond_loopback_nothing_is_listened_at() -> None:
    for text in ("0.0.0.0:7841", "example.com:1", "127.0.0.1", "127.0.0.1:99999"):
        with pytest.raises(InputInvalid):
            place_of(text)
    assert place_of("[::1]:7841")[:2] == ("::1", 7841)


def test_a_token_file_without_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Tokens(tmp_path / "none")
    for text in ("", "# only\n", "short\n"):
        (tmp_path / "tokens").write_text(text)
        with pytest.raises(InputInvalid) as refused:
            Tokens(tmp_path / "tokens")
        assert "short" not in str(refused.value)


async def test_the_end_answers_who_waits(kit: ReplicaKit, serve: Any) -> None:
    async with serve(kit) as (sidecar, url), aiohttp.ClientSession(url) as http:
        stream = await http.get("/ofrep/v1/events")
        tag = (await http.get("/v1/agents")).headers["ETag"]
        given = {"If-None-Match": tag}
        poll = asyncio.create_task(http.get("/v1/agents?wait=30", headers=given))
        await asyncio.sleep(0.1)
        await sidecar.stop()
        assert (await asyncio.wait_for(poll, 5)).status == 304
        await asyncio.wait_for(stream.read(), 5)
        assert (await http.get("/readyz")).status == 503


async def test_a_connection_that_says_nothing_is_closed(kit: ReplicaKit, serve: Any) -> None:
    async with serve(kit) as (sidecar, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /ofrep")
        await asyncio.sleep(0.1)
        now = [0.0]
        sidecar.connections._clock = lambda: now[0]
        sidecar.connections._since.clear()
        sidecar.connections.look()
        now[0] = 61.0
        sidecar.connections.look()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
