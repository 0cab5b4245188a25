"""One generation and one caller per request, for any ASGI application.

    app = ControlPlaneMiddleware(app, bind=lambda scope: {"tenant_id": …})

- Each ``http`` and ``websocket`` scope is a request, from its first message to the return, error
  or cancellation of the application. Every message a WebSocket receives begins anew: the next
  question is answered from the newest generation. (What holds for a long response: see
  `request_view`.) Other scopes pass untouched.
- It is a plain function around a plain function: it does not look at responses, buffers nothing,
  makes no task, and costs a request that asks no flag about a microsecond.
- ``bind(scope)`` is called with the first question of a request, and once. The order of
  middleware therefore does not matter. What it raises, the question raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

from control_plane.integrations import current
from control_plane.integrations.request_view import RequestView

__all__ = [
    "ControlPlaneMiddleware",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Bind = Callable[[Scope], Mapping[str, Any] | None]


class ControlPlaneMiddleware:
    """Gives each request of an ASGI application a view, found through `current`."""

    __slots__ = ("_app", "_bind")

    def __init__(self, app: Application, bind: Bind | None = None) -> None:
        """``bind`` gives the caller of a scope: ``user_id``, ``tenant_id``, other attributes."""
        self._app = app
        self._bind = bind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one scope."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        bind = None if self._bind is None else partial(self._bind, scope)
        view = RequestView(current.snapshots(), bind)
        if scope["type"] == "websocket":
            receive = _renewing(view, receive)
        token = current.VIEW.set(view)
        try:
            await self._app(scope, receive, send)
        finally:
            current.VIEW.reset(token)
            view.close()


def _renewing(view: RequestView, receive: Receive) -> Receive:
    """``receive`` after which the next question is answered from the newest generation."""

    async def received() -> Message:
        message = await receive()
        view.renew()
        return message

    return received
