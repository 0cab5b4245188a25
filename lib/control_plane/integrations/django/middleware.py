"""One generation and one caller per request; ``request.flags`` and ``request.config``.

- Works in both kinds of handler: it is a coroutine exactly where what it wraps is one.
- A request lasts until its response is made; with a streaming response until the stream ends, and
  `current` answers inside the stream's generator, too. A file is sent by the server: no flag is
  asked in it, and wrapping it would cost the server its short cut.
- Where it stands among the middleware does not matter: ``BIND`` is called with the first question.
  In asynchronous code it is called there; one that asks the database belongs in
  ``await sync_to_async(...)`` in a middleware of its own, which calls ``current.bind``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from control_plane.integrations import current
from control_plane.integrations.request_view import RequestView


class ControlPlaneMiddleware:
    """Gives each request a view, found as ``request.flags`` and through `current`."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        try:
            self._caller = apps.get_app_config("control_plane").caller
        except LookupError as error:
            raise ImproperlyConfigured(
                "expected 'control_plane.integrations.django' in INSTALLED_APPS, found it missing"
            ) from error

    def __call__(self, request: Any) -> Any:
        """The response, or a coroutine that gives it."""
        if self._is_async:
            return self._awaited(request)
        view = self._begun(request)
        token = current.VIEW.set(view)
        try:
            response = self._get_response(request)
        except BaseException:
            view.close()
            raise
        finally:
            current.VIEW.reset(token)
        return _until_sent(view, response)

    async def _awaited(self, request: Any) -> Any:
        view = self._begun(request)
        token = current.VIEW.set(view)
        try:
            response = await self._get_response(request)
        except BaseException:
            view.close()
            raise
        finally:
            current.VIEW.reset(token)
        return _until_sent(view, response)

    def _begun(self, request: Any) -> RequestView:
        view = RequestView(current.snapshots(), partial(self._caller, request))
        request.flags, request.config = view.flags, view.config
        return view


def _until_sent(view: RequestView, response: Any) -> Any:
    """The response, at whose end the view is closed."""
    if not response.streaming or getattr(response, "file_to_stream", None) is not None:
        view.close()
    elif response.is_async:
        response.streaming_content = _each_awaited(view, response.streaming_content)
    else:
        response.streaming_content = _each(view, response.streaming_content)
    return response


def _each(view: RequestView, parts: Any) -> Iterator[Any]:
    """The parts, each made as a part of its request."""
    iterator = iter(parts)
    try:
        while True:
            # Only while a part is made: between two the server does something else.
            token = current.VIEW.set(view)
            try:
                part = next(iterator)
            except StopIteration:
                return
            finally:
                current.VIEW.reset(token)
            yield part
    finally:
        view.close()


async def _each_awaited(view: RequestView, parts: Any) -> AsyncIterator[Any]:
    iterator = aiter(parts)
    try:
        while True:
            token = current.VIEW.set(view)
            try:
                part = await anext(iterator)
            except StopAsyncIteration:
                return
            finally:
                current.VIEW.reset(token)
            yield part
    finally:
        view.close()
