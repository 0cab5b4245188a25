"""A sidecar on a real socket, over a replica the test changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control_plane.client import ControlPlaneClient
from control_plane.testing import ReplicaKit, replica
from control_plane_sidecar.listening import listen, place_of
from control_plane_sidecar.service import Sidecar, new_runner

TOKEN = "a-token-of-this-very-test"
RULED = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "rules": [{"name": "enterprise", "when": {"plan": "enterprise"}, "serve": "on"}],
}
TOOL = {
    "kind": "tool", "name": "crm_tool", "version": "1.2.0", "owner": "team",
    "metadata": {"description": "looks up", "category": "crm", "inputs_schema": {"type": "object"}},
}  # fmt: skip
AGENT = {
    "kind": "agent", "name": "helper", "version": "1.0.0", "owner": "team",
    "metadata": {"description": "helps", "system_prompt": "help", "tools": ["crm_tool"]},
}  # fmt: skip


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    flags: dict[str, Any] = {"plain": True, "ruled": RULED}
    config = {"ai": {"model": "m1", "limits": {"gpt-4.1": 5}}}
    with replica(flags=flags, config=config, agents=[AGENT], tools=[TOOL]) as client:
        yield client


@asynccontextmanager
async def serving(
    client: ControlPlaneClient, place: str = "127.0.0.1:0", **options: Any
) -> AsyncIterator[tuple[Sidecar, str]]:
    """A running sidecar and where it listens."""
    sidecar = Sidecar(client, **options)
    runner = new_runner(sidecar)
    await runner.setup()
    try:
        yield sidecar, await listen(runner, place_of(place))
    finally:
        await sidecar.stop()
        await runner.cleanup()


@pytest.fixture
async def http(kit: ReplicaKit) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with a sidecar of the kit."""
    async with serving(kit) as (_, url), aiohttp.ClientSession(url) as session:
        yield session


@contextmanager
def in_thread(client: ControlPlaneClient, **options: Any) -> Iterator[str]:
    """A sidecar in a thread of its own, for clients that block; its URL."""
    loop, up, urls = asyncio.new_event_loop(), threading.Event(), []
    over = asyncio.Event()

    async def serve() -> None:
        async with serving(client, **options) as (_, url):
            urls.append(url)
            up.set()
            await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert up.wait(10)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# of the test\n{TOKEN}\n")
    return path


@pytest.fixture
def start() -> Callable[..., Any]:
    """`in_thread`, for tests that need no event loop."""
    return in_thread


@pytest.fixture
def serve() -> Callable[..., Any]:
    """`serving`."""
    return serving
