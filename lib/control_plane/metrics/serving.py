"""``/metrics`` on a listener of its own: ``HOST:PORT`` or ``unix:PATH``.

It is apart from what a service answers to others: whoever may scrape needs no token of an
environment, and no token lets anybody scrape. Beyond loopback it wants a network that is closed to
others; names of flags, versions and tenants are in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from control_plane.errors import InputInvalid


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not int(port) < 65536:
        raise InputInvalid(f"metrics: expected HOST:PORT or unix:PATH, found {address!r}")
    return host.strip("[]"), int(port)


@asynccontextmanager
async def serving(address: str, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Answer ``GET /metrics`` while the block runs; gives the port, 0 of a Unix socket.

    Raises:
        InputInvalid: the address is of neither form.
        OSError: it cannot be listened on.
    """

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    application = web.Application(client_max_size=0)
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site: web.BaseSite
        if address.startswith("unix:"):
            site = web.UnixSite(runner, address.removeprefix("unix:"))
        else:
            site = web.TCPSite(runner, *_parsed(address))
        await site.start()
        yield 0 if address.startswith("unix:") else int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
