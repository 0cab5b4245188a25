"""The daemon's process: several environments side by side, each with its own log and replica.

An environment that cannot be opened at the start ends the daemon with one line, before anything is
followed: whoever started it is there to read it. Later no environment's trouble reaches another.
SIGTERM and SIGINT end it after the commit that is going on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.telemetry.service_manager import ServiceManager
from control_plane.trust.enrolment import Enrolment
from control_plane_daemon.enrol import enrolled
from control_plane_daemon.events import Events
from control_plane_daemon.loop import EnvironmentLoop
from control_plane_daemon.metrics import observed
from control_plane_daemon.static_source import StoreOrFiles

logger = logging.getLogger("control_plane_daemon")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a daemon follows, and where it writes.

    ``store`` is a URL or ``unix:PATH``, ``root`` the folder that holds an environment each.
    ``usage`` is the folder of usage files, ``metrics`` where scrapes are answered; None: nowhere.
    """

    store: str
    token: str | None
    enrolment: Enrolment
    root: Path
    environments: Sequence[str]
    development: bool = False
    usage: str | None = None
    metrics: str | None = None


async def run(
    settings: Settings,
    ready: Callable[[str, int], None],
    stop: asyncio.Event,
    beside: Sequence[asyncio.Task[None]] = (),
    manager: ServiceManager | None = None,
) -> None:
    """Follow every environment until ``stop`` is set.

    ``ready`` is called once for each, with its name and generation, after the first catch-up.
    A task ``beside`` that ends by an error ends the daemon with it. The service ``manager`` is told
    that the daemon is ready once each replica is open: what it holds is served from then on, and
    no store has to be up for that.

    Raises:
        ControlPlaneError: an environment cannot be enrolled or its replica not written.
    """
    manager = manager or ServiceManager(None)

    def told(environment: str, generation: int) -> None:
        manager.status(f"{environment} at generation {generation}")
        ready(environment, generation)

    async with AsyncExitStack() as stack:
        loops = []
        for environment in settings.environments:
            source = await stack.enter_async_context(
                StoreOrFiles(settings.store, environment, settings.token)
            )
            loop = EnvironmentLoop(
                enrolled(settings.enrolment, environment),
                str(settings.root / environment),
                source,
                ready=told,
                development=settings.development,
            )
            stack.push_async_callback(loop.close)
            loops.append(loop)
        for loop in loops:
            await loop.open()

        def events() -> dict[str, Events]:
            return {each.environment: each.events for each in loops if each.events is not None}

        await stack.enter_async_context(
            observed(str(settings.root), settings.usage, settings.metrics, events)
        )
        tasks = [asyncio.create_task(loop.run(), name=loop.environment) for loop in loops]
        stack.push_async_callback(end, tasks)
        stack.callback(manager.stopping)
        await stack.enter_async_context(manager.attended())
        manager.ready()
        await first_of(stop.wait(), [*tasks, *beside])


async def first_of(
    awaited: Coroutine[Any, Any, object], tasks: Sequence[asyncio.Task[None]]
) -> None:
    """Wait for ``awaited``; an error that ends one of the tasks before is raised here."""
    waiting = asyncio.create_task(awaited)
    running = {task for task in tasks if not task.done()}
    try:
        while not waiting.done():
            done, _ = await asyncio.wait([waiting, *running], return_when=asyncio.FIRST_COMPLETED)
            running -= done
            for task in done - {waiting}:
                task.result()
    finally:
        await end([waiting])


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def stop_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
