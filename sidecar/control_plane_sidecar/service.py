"""The sidecar over HTTP: requests in, answers out; what is decided is decided elsewhere.

- Reads go through one `ControlPlaneClient`, as an application's would: without a replica there is
  no answer yet, with a stale one there is, and a header says so.
- Every path but ``/healthz`` and ``/readyz`` wants a token where there are tokens, and counts
  among what its client may ask (`limits`). A client is whoever presents the same token; on a unix
  socket without tokens, a process.
- Requests are bounded: ``MAX_BODY_BYTES`` of body, ``BODY_SECONDS`` to send it, taken as it is and
  never decompressed. `connections` bounds the rest.
- No answer and no line of the log has a token, a context or a value in it that was not asked for;
  there is no access log.
- When it stops, long polls are answered with what there is, event streams end, and requests under
  way are finished.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any, Final

from aiohttp import web

from control_plane.client import ControlPlaneClient
from control_plane.errors import ControlPlaneError, ReplicaUnavailable
from control_plane.feature_flags.evaluation import PARSE_ERROR, PROVIDER_NOT_READY
from control_plane_sidecar import ofrep, reads
from control_plane_sidecar.changes import Changes
from control_plane_sidecar.connections import IDLE_SECONDS, Connections
from control_plane_sidecar.generations import Generations
from control_plane_sidecar.limits import Limits, TooMany
from control_plane_sidecar.tokens import Tokens, presented_of

MAX_BODY_BYTES: Final = 256 << 10
BODY_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 10.0
BEAT_SECONDS: Final = 15.0
DRAIN_SECONDS: Final = 10.0
RATE: Final = 10_000
CONCURRENT: Final = 2_048

PROBES: Final = frozenset(("/healthz", "/readyz"))
_EVALUATE: Final = "/ofrep/v1/evaluate/"
_LATER: Final = {"Retry-After": "1"}
_CREDENTIALS: Final = struct.Struct("3i")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger("control_plane.sidecar")


class Sidecar:
    """One client's answers over HTTP.

    ``metrics`` gives the body of ``/metrics`` in Prometheus's text format; without it there is no
    such path.
    """

    def __init__(
        self,
        client: ControlPlaneClient,
        *,
        tokens: Tokens | None = None,
        limits: Limits | None = None,
        metrics: Callable[[], bytes] | None = None,
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._limits = Limits(RATE, CONCURRENT) if limits is None else limits
        self._bodies = ofrep.Bodies()
        self._generations = Generations(client)
        self.metrics = metrics
        self.connections = Connections()
        self.changes = Changes(client, _nothing if tokens is None else tokens.refresh)

    # OFREP

    async def evaluate(self, request: web.Request) -> web.Response:
        """``POST /ofrep/v1/evaluate/flags/{key}``."""
        key = request.match_info["key"]
        try:
            context = ofrep.context_of(await _body(request))
        except ofrep.RequestRefused as refused:
            return self._json(ofrep.failure(refused.code, refused.details, key), 400)
        flags = self._client.flags
        answer = self._bodies.answer(key, *flags.decided(key, None, None, context))
        if answer.variant is not None:
            flags.count(key, answer.variant)
        return self._bytes(answer.body, answer.status, _LATER if answer.status == 500 else None)

    async def evaluate_all(self, request: web.Request) -> web.Response:
        """``POST /ofrep/v1/evaluate/flags``: every flag of one generation."""
        try:
            context = ofrep.context_of(body := await _body(request))
            modified = request.query.get("flagConfigLastModified")
            if modified is not None and not ofrep.is_moment(modified):
                details = "expected flagConfigLastModified as seconds or RFC 3339, found another"
                raise ofrep.RequestRefused(PARSE_ERROR, details)
        except ofrep.RequestRefused as refused:
            return self._json(ofrep.failure(refused.code, refused.details), 400)
        try:
            return await self._evaluated_all(request, context, body)
        except ReplicaUnavailable:
            return self._json(ofrep.failure(PROVIDER_NOT_READY), 500, _LATER)

    async def _evaluated_all(
        self, request: web.Request, context: dict[str, Any], body: bytes
    ) -> web.Response:
        wanted = request.headers.get("If-None-Match")
        async with self._generations.current() as flags:
            answered = b""
            if flags.by_the_clock:
                answered = ofrep.bulk(await flags.answers(context), flags.number)
            tag = ofrep.tag_of(flags.environment, flags.number, flags.digest, body, answered)
            if ofrep.matches(wanted, tag):
                return self._bytes(None, 304, {"ETag": tag})
            data = answered or ofrep.bulk(await flags.answers(context), flags.number)
        return self._bytes(data, headers={"ETag": tag})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """``GET /ofrep/v1/events``: server-sent events, one when it begins and one a change.

        A client that comes back with ``Last-Event-ID`` is told at once only if something changed.
        """
        response = web.StreamResponse(
            headers={
                **self.changes.headers,
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
            }
        )
        seen = request.headers.get("Last-Event-ID")
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await response.prepare(request)
                await response.write(b"retry: 1000\n\n")
            while not self.changes.stopping:
                flags = self.changes.flags
                if flags.event and flags.identity != seen:
                    seen = flags.identity
                    async with asyncio.timeout(WRITE_SECONDS):
                        await response.write(flags.event)
                elif not await _set_within(flags.moved, BEAT_SECONDS):
                    async with asyncio.timeout(WRITE_SECONDS):
                        await response.write(b":\n\n")
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write_eof()
        except TimeoutError:
            # It does not take what it is told; it comes back with the last it took.
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass
        return response

    # Reads

    async def config(self, request: web.Request) -> web.Response:
        """``GET /v1/config/{key}?part=&tenant_id=&wait=``."""
        key = reads.key_of(request.match_info["key"], request.query.getall("part", ()))
        tenant = request.query.get("tenant_id")

        def read() -> bytes:
            value = self._client.config.get(key, tenant_id=tenant)
            return ofrep.dumped(reads.config_body(key, value))

        # In a thread: a key may stand for a tree of many thousand values.
        return await self._polled(request, lambda: asyncio.to_thread(read))

    async def agents(self, request: web.Request) -> web.Response:
        """``GET /v1/agents?wait=``."""
        return await self._listed(request, lambda: self._client.registry.list_agents())

    async def tools(self, request: web.Request) -> web.Response:
        """``GET /v1/tools?wait=``."""
        return await self._listed(request, lambda: self._client.registry.list_tools())

    async def agent(self, request: web.Request) -> web.Response:
        """``GET /v1/agents/{name}?version=&tenant_id=&wait=``."""
        return await self._version(request, self._client.registry.get_agent)

    async def tool(self, request: web.Request) -> web.Response:
        """``GET /v1/tools/{name}?version=&tenant_id=&wait=``."""
        return await self._version(request, self._client.registry.get_tool)

    async def _listed(self, request: web.Request, listed: Callable[[], Any]) -> web.Response:
        def read() -> bytes:
            return ofrep.dumped(reads.list_body(listed()))

        return await self._polled(request, lambda: asyncio.to_thread(read))

    async def _version(self, request: web.Request, get: Callable[..., Any]) -> web.Response:
        name, query = request.match_info["name"], request.query
        version, tenant = query.get("version"), query.get("tenant_id")

        async def read() -> bytes:
            return ofrep.dumped(reads.version_body(get(name, version, tenant)))

        return await self._polled(request, read)

    async def _polled(
        self, request: web.Request, read: Callable[[], Awaitable[bytes]]
    ) -> web.Response:
        """The answer, waited for while it is the one that the client has."""
        wanted = request.headers.get("If-None-Match")
        clock = asyncio.get_running_loop().time
        deadline = clock() + reads.wait_of(request.query.get("wait"))
        while True:
            # Taken before the read: a change that this one misses ends the wait.
            moved = self.changes.moved
            data = await read()
            headers = {"ETag": reads.tag_of(data), "Cache-Control": "private, no-cache"}
            if not ofrep.matches(wanted, headers["ETag"]):
                return self._bytes(data, headers=headers)
            left = deadline - clock()
            if left <= 0 or self.changes.stopping or not await _set_within(moved, left):
                return self._bytes(None, 304, headers)

    # The service itself

    async def healthz(self, request: web.Request) -> web.Response:
        """``GET /healthz``: 200 while the process answers."""
        return self._json({"format": reads.FORMAT, "status": "ok"})

    async def readyz(self, request: web.Request) -> web.Response:
        """``GET /readyz``: 200 once there is a replica to answer from, stale or not."""
        health = self.changes.health
        ready = health.ready and not self.changes.stopping
        status = "ready" if ready else "stopping" if self.changes.stopping else "not ready"
        body = {
            "format": reads.FORMAT,
            "status": status,
            "stale": health.stale,
            "development": health.development,
            "generation": health.generation,
            "age_seconds": health.age_seconds,
            "reasons": list(health.reasons),
        }
        return self._json(body, 200 if ready else 503)

    async def described(self, request: web.Request) -> web.Response:
        """``GET /openapi.json``: what is served beside OFREP."""
        return self._bytes(files(__package__).joinpath("openapi.json").read_bytes())

    async def measured(self, request: web.Request) -> web.Response:
        """``GET /metrics``."""
        assert self.metrics is not None
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=self.metrics(), headers={"Content-Type": content_type})

    async def run(self, application: web.Application) -> AsyncIterator[None]:
        """Let go of what is held when the application has ended."""
        yield
        self._generations.close()

    async def stop(self, application: web.Application | None = None) -> None:
        """Answer all who wait, with what there is."""
        self.changes.stop()

    # Around every request

    @web.middleware
    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check who asks and how much, and answer errors in the form of their path."""
        if request.path in PROBES:
            return await handler(request)
        connection, name = request.protocol, ""
        self.connections.begin(connection)
        try:
            holder = self._holder(request)
            if holder is None:
                headers = {"WWW-Authenticate": "Bearer"}
                return self._error(request, 401, "token_refused", _NO_TOKEN, headers)
            self._limits.enter(holder)
            name = holder
            return await handler(request)
        except TooMany as error:
            headers = {"Retry-After": str(error.retry_after_seconds)}
            return self._error(request, 429, "too_many", str(error), headers)
        except ControlPlaneError as error:
            return self._error(request, reads.status_of(error), error.code, str(error))
        except web.HTTPException as error:
            allow = error.headers.get("Allow")
            headers = {} if allow is None else {"Allow": allow}
            message = f"expected a path and method of the sidecar, found {error.reason.lower()}"
            code = _HTTP_CODES.get(error.status, "http")
            return self._error(request, error.status, code, message, headers)
        except asyncio.CancelledError:
            raise
        except Exception:
            # The outermost loop of a request: the connection goes on, the cause is in the log.
            _log.exception("%s: expected an answer, found an error", request.method)
            return self._error(request, 500, "internal", "expected an answer, found an error")
        finally:
            if name:
                self._limits.leave(name)
            self.connections.end(connection)

    def _holder(self, request: web.Request) -> str | None:
        """Who asks; None for somebody who may not."""
        if self._tokens is None:
            return _peer(request)
        headers = request.headers
        return self._tokens.holder(
            presented_of(headers.get("Authorization"), headers.get("X-API-Key"))
        )

    def _error(
        self,
        request: web.Request,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> web.Response:
        if request.path.startswith(_EVALUATE):
            return self._json(ofrep.failure(code, message), status, headers)
        return self._json(reads.error_body(code, message), status, headers)

    def _json(
        self, body: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        return self._bytes(ofrep.dumped(body), status, headers)

    def _bytes(
        self, data: bytes | None, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        # A copy, which aiohttp fills in: made of a dict it would take three times as long.
        said = self.changes.headers.copy()
        if headers is not None:
            said.update(headers)
        return web.Response(body=data, status=status, headers=said)


_NO_TOKEN: Final = "expected a token of this sidecar, found none or another"
_HTTP_CODES: Final = {
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
}


def create_app(sidecar: Sidecar) -> web.Application:
    """The application of a sidecar."""
    application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[sidecar.attend])
    application.cleanup_ctx.extend((sidecar.run, sidecar.changes.run, sidecar.connections.run))
    application.on_shutdown.append(sidecar.stop)
    flags = f"{_EVALUATE}flags"
    application.add_routes(
        [
            # In this order: they are tried one after the other.
            web.post(flags + "/{key:.*}", sidecar.evaluate),
            web.post(flags, sidecar.evaluate_all),
            web.get(ofrep.EVENTS_PATH, sidecar.events, allow_head=False),
            web.get("/v1/config/{key:.+}", sidecar.config),
            web.get("/v1/agents", sidecar.agents),
            web.get("/v1/agents/{name:.+}", sidecar.agent),
            web.get("/v1/tools", sidecar.tools),
            web.get("/v1/tools/{name:.+}", sidecar.tool),
            web.get("/healthz", sidecar.healthz),
            web.get("/readyz", sidecar.readyz),
            web.get("/openapi.json", sidecar.described),
        ]
    )
    if sidecar.metrics is not None:
        application.router.add_get("/metrics", sidecar.measured)
    return application


def new_runner(sidecar: Sidecar) -> web.AppRunner:
    """A runner with this service's limits; ``cleanup`` drains it."""
    runner = web.AppRunner(
        create_app(sidecar),
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=DRAIN_SECONDS,
    )
    sidecar.connections.runner = runner
    return runner


async def _body(request: web.Request) -> bytes:
    """The request's body.

    Raises:
        web.HTTPRequestEntityTooLarge: it is past the bound.
        web.HTTPRequestTimeout: it is not there in time.
    """
    if request.content.is_eof() and not request.content_length:
        return await request.read()
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length or 0)
    if request.content.is_eof():
        # All of it is here: no need of a clock.
        return await request.read()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set before so many seconds have passed."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _peer(request: web.Request) -> str:
    """The process at the other end of a unix socket; all alike on another."""
    end = None if request.transport is None else request.transport.get_extra_info("socket")
    if end is None or end.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return "anyone"
    raw = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    return f"{user}:{process}"


def _nothing() -> None:
    """Beside a look, where there are no tokens."""
