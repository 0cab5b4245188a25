"""Dependencies for FastAPI: the request's flags, configuration and registry, typed.

    app = FastAPI()
    app.add_middleware(ControlPlaneMiddleware, bind=…)

    @app.get("/")
    def home(flags: Flags) -> dict[str, bool]:
        return {"new": flags.is_enabled("new_home")}

- Coroutines and plain functions alike. The dependencies are coroutines themselves, which spares
  each request the way through the thread pool.
- They want the middleware: without it a flag would quietly be asked for no tenant.
- In a test: ``app.dependency_overrides[request_flags] = lambda: …``, or the whole client by
  ``with current.using(client)``.
"""

from __future__ import annotations

from typing import Annotated

from control_plane.errors import MissingExtra

try:
    from fastapi import Depends
except ModuleNotFoundError as error:
    raise MissingExtra.of(error.name, "fastapi") from error

from control_plane.feature_flags.evaluator import BoundFlags
from control_plane.integrations import current
from control_plane.integrations.asgi import ControlPlaneMiddleware
from control_plane.integrations.request_view import RequestConfig, RequestRegistry, RequestView

__all__ = [
    "Config",
    "ControlPlaneMiddleware",
    "Flags",
    "Registry",
    "request_config",
    "request_flags",
    "request_registry",
]


async def request_flags() -> BoundFlags:
    """The flags, for the request's caller."""
    return _view().flags


async def request_config() -> RequestConfig:
    """The configuration, for the request's tenant."""
    return _view().config


async def request_registry() -> RequestRegistry:
    """The agents and tools, of the request's generation."""
    return _view().registry


Flags = Annotated[BoundFlags, Depends(request_flags)]
Config = Annotated[RequestConfig, Depends(request_config)]
Registry = Annotated[RequestRegistry, Depends(request_registry)]


def _view() -> RequestView:
    view = current.VIEW.get()
    if view is None:
        raise RuntimeError(
            "expected ControlPlaneMiddleware around the application, found none; "
            "app.add_middleware(ControlPlaneMiddleware, bind=...)"
        )
    return view
