"""Flags, configuration and registry of the request that runs, for code that sees no request.

    from control_plane.integrations import current

    if current.flags().is_enabled("new_checkout"): …

- Inside a request, a task, or a ``with current.request(…)``: its generation and its caller.
  Threads and coroutines it starts belong to it as far as context variables reach: asyncio tasks,
  ``asyncio.to_thread`` and anyio's threads do, a thread started by hand does not.
- Elsewhere: the newest generation, for nobody in particular, through the process's client. That
  one is made when it is first needed, so before or after a fork, and stays until the end.

The process's client is the one thing of this package that belongs to nobody who could close it:
a function that is called without arguments from anywhere needs it, as it needs the context
variable. `provide` says how it is made; without it `control_plane.defaults` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from control_plane.client import ControlPlaneClient
from control_plane.integrations.request_view import RequestView
from control_plane.integrations.snapshots import Snapshots

if TYPE_CHECKING:
    from control_plane.feature_flags.evaluator import BoundFlags
    from control_plane.integrations.request_view import RequestConfig, RequestRegistry

__all__ = [
    "bind",
    "client",
    "config",
    "flags",
    "generation",
    "provide",
    "registry",
    "request",
    "snapshots",
    "using",
    "view",
]

VIEW: ContextVar[RequestView | None] = ContextVar("control_plane_view", default=None)
"""The request that runs; set by the integrations, for as long as it runs."""


def flags() -> BoundFlags:
    """The flags, for the caller of the request that runs."""
    return view().flags


def config() -> RequestConfig:
    """The configuration, for the tenant of the request that runs."""
    return view().config


def registry() -> RequestRegistry:
    """The agents and tools, of the generation of the request that runs."""
    return view().registry


def generation() -> int:
    """The generation of the next answer; 0 without a replica."""
    return view().generation


def bind(**context: Any) -> None:
    """Add to what is known of the caller: ``user_id``, ``tenant_id``, any other attributes.

    Raises:
        RuntimeError: no request runs; the process has no caller.
    """
    found = VIEW.get()
    if found is None:
        raise RuntimeError(
            "expected a request to bind to, found none; install the middleware, "
            "or use 'with current.request(...)'"
        )
    found.bind(**context)


def view() -> RequestView:
    """What the calls above ask: of the request that runs, else of the process."""
    return VIEW.get() or _PROCESS.view()


def client() -> ControlPlaneClient:
    """The process's client; made when it is first asked for."""
    return _PROCESS.snapshots().client


def snapshots() -> Snapshots:
    """The process's snapshots, for whoever makes a `RequestView`."""
    return _PROCESS.snapshots()


@contextmanager
def request(**context: Any) -> Iterator[RequestView]:
    """Run a block as one request, for a caller; for frameworks, consumers and scripts."""
    found = RequestView(snapshots(), lambda: context)
    token = VIEW.set(found)
    try:
        yield found
    finally:
        VIEW.reset(token)
        found.close()


def provide(make: Callable[[], ControlPlaneClient]) -> None:
    """Have the process's client made by ``make``; one that was made before is closed."""
    _PROCESS.provide(make)


@contextmanager
def using(client: ControlPlaneClient) -> Iterator[None]:
    """Let this be the process's client inside the block, in every thread; for tests."""
    mine = Snapshots(client)
    _PROCESS.given.append(mine)
    try:
        yield
    finally:
        _PROCESS.given.remove(mine)
        # The client goes on, and whoever still reads these snapshots reads through it.
        mine.close()


class _Process:
    """The process's client behind its snapshots, and how it is made."""

    __slots__ = ("_made", "_make", "given")

    def __init__(self) -> None:
        self._make: Callable[[], ControlPlaneClient] = ControlPlaneClient
        # At most one entry. A mapping, as its `setdefault` lets one of two threads win without a
        # lock, which a fork could leave locked.
        self._made: dict[str, Snapshots] = {}
        self.given: list[Snapshots] = []  # by `using`; the last one counts

    def snapshots(self) -> Snapshots:
        if self.given:
            return self.given[-1]
        found = self._made.get("made")
        if found is None:
            mine = Snapshots(self._make())
            found = self._made.setdefault("made", mine)
            if found is not mine:
                mine.client.close()
        return found

    def view(self) -> RequestView:
        """A view of no request: closed, so that it always reads the newest."""
        found = RequestView(self.snapshots())
        found.close()
        return found

    def provide(self, make: Callable[[], ControlPlaneClient]) -> None:
        self._make = make
        former = self._made.pop("made", None)
        if former is not None:
            former.client.close()


_PROCESS = _Process()
