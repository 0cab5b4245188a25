"""The ASGI middleware: one generation and one caller a request, whatever becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from control_plane import ControlPlaneClient
from control_plane.integrations import current
from control_plane.integrations.asgi import ControlPlaneMiddleware, Scope
from control_plane.integrations.request_view import RequestView
from control_plane.testing import ReplicaKit


def caller(scope: Scope) -> dict[str, Any]:
    """The tenant a request names in a header."""
    tenant = dict(scope["headers"]).get(b"x-tenant")
    return {} if tenant is None else {"tenant_id": tenant.decode()}


def served(*routes: Any) -> TestClient:
    """A Starlette application with the middleware."""
    middleware = [Middleware(ControlPlaneMiddleware, bind=caller)]  # type: ignore[arg-type]
    return TestClient(Starlette(routes=list(routes), middleware=middleware))


def answers() -> list[bool]:
    flags = current.flags()
    return [flags.is_enabled(name) for name in ("x", "y", "theirs")]


def test_a_request_is_answered_from_one_generation_for_its_caller(kit: ReplicaKit) -> None:
    async def home(request: Request) -> JSONResponse:
        before = current.flags().is_enabled("x")
        kit.set_flags({"x": False, "y": False})
        await asyncio.sleep(0)
        return JSONResponse([before, *answers()])

    client = served(Route("/", home))
    assert client.get("/", headers={"x-tenant": "acme"}).json() == [True, True, True, True]
    assert client.get("/").json() == [False, False, False, False]


def test_a_plain_function_in_a_thread_belongs_to_its_request(kit: ReplicaKit) -> None:
    client = served(Route("/", lambda request: JSONResponse(answers())))
    assert client.get("/", headers={"x-tenant": "acme"}).json() == [True, True, True]


def test_streams_and_background_tasks_belong_to_their_request(kit: ReplicaKit) -> None:
    found: list[list[bool]] = []

    async def stream(request: Request) -> StreamingResponse:
        async def parts() -> Any:
            for _ in range(2):
                yield str(answers())
                kit.set_flags({"x": False, "y": False})

        background = BackgroundTask(lambda: found.append(answers()))
        return StreamingResponse(parts(), background=background)

    client = served(Route("/", stream))
    assert client.get("/", headers={"x-tenant": "acme"}).text == "[True, True, True]" * 2
    assert found == [[True, True, True]]


def test_each_message_of_a_websocket_is_answered_from_the_newest(kit: ReplicaKit) -> None:
    async def chat(socket: WebSocket) -> None:
        flags = current.flags()
        await socket.accept()
        async for _ in socket.iter_text():
            before = flags.is_enabled("x")
            kit.set_flags({"x": False, "y": False})
            await socket.send_json([before, flags.is_enabled("y"), flags.is_enabled("theirs")])

    client = served(WebSocketRoute("/", chat))
    with client.websocket_connect("/", headers={"x-tenant": "acme"}) as socket:
        socket.send_text("one")
        assert socket.receive_json() == [True, True, True]
        socket.send_text("two")
        assert socket.receive_json() == [False, False, True]


class Ended(Exception):
    pass


@pytest.mark.parametrize("how", ["returned", "raised", "cancelled", "disconnected"])
async def test_a_request_is_let_go_of_however_it_ends(how: str, kit: ReplicaKit) -> None:
    views: list[RequestView] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        views.append(current.view())
        assert current.flags().is_enabled("x")
        if how == "raised":
            raise Ended
        if how == "cancelled":
            await asyncio.Event().wait()
        if how == "disconnected":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        raise OSError("gone")

    running = asyncio.create_task(run(ControlPlaneMiddleware(app), send))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert current.VIEW.get() is None
    # Whoever still has it reads on, but not an old generation.
    kit.set_flag("x", False)
    assert not views[0].flags.is_enabled("x")


async def test_a_thousand_requests_at_once_share_one_snapshot(kit: ReplicaKit) -> None:
    waiting = asyncio.Event()
    middleware: ControlPlaneMiddleware

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current.flags().is_enabled("x")
        await waiting.wait()
        assert current.flags().is_enabled("y")

    middleware = ControlPlaneMiddleware(app)
    running = [asyncio.create_task(run(middleware)) for _ in range(1000)]
    await asyncio.sleep(0)
    opened = current.snapshots().open_count
    kit.set_flag("y", False)
    waiting.set()
    await asyncio.gather(*running)
    assert opened == 1


def test_other_scopes_pass_untouched(kit: ReplicaKit) -> None:
    seen: list[RequestView | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current.VIEW.get())

    asyncio.run(ControlPlaneMiddleware(app)({"type": "lifespan"}, nothing, nothing))
    assert seen == [None]


def test_without_a_replica_requests_go_on_with_defaults(tmp_path: Any) -> None:
    home = Route("/", lambda request: JSONResponse(answers()))
    with ControlPlaneClient(tmp_path, "test") as nowhere, current.using(nowhere):
        assert served(home).get("/").json() == [False, False, False]


def test_inner_middleware_may_say_who_the_caller_is(kit: ReplicaKit) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["user"] = "acme"
        assert current.flags().is_enabled("theirs")

    outer = ControlPlaneMiddleware(app, bind=lambda scope: {"tenant_id": scope["user"]})
    asyncio.run(run(outer))


def test_what_bind_raises_is_raised_by_the_first_question(kit: ReplicaKit) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(Ended):
            current.flags().is_enabled("x")

    def bind(scope: Any) -> dict[str, Any]:
        raise Ended

    asyncio.run(run(ControlPlaneMiddleware(app, bind=bind)))


async def nothing(*_: Any) -> Any:
    """Neither sends nor receives."""


async def run(app: ControlPlaneMiddleware, send: Any = nothing) -> None:
    """One request."""
    await app({"type": "http", "headers": []}, nothing, send)
