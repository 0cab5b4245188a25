"""How many requests the store answered, by route and status: both are few, whatever is asked."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

UNKNOWN = "unknown"


class Requests:
    """Counts of answered requests since the start."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, int], int] = {}

    @property
    def count(self) -> Middleware:
        """The middleware that counts, to stand before all others."""

        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            status = 500
            try:
                answer = await handler(request)
                status = answer.status
                return answer
            except web.HTTPException as error:
                status = error.status
                raise
            finally:
                resource = request.match_info.route.resource
                route = UNKNOWN if resource is None else resource.canonical
                key = route, status
                self.counts[key] = self.counts.get(key, 0) + 1

        return count
