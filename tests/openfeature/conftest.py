"""The OpenFeature SDK as an application uses it, with our provider in it."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("openfeature.api")

from openfeature.event import EventDetails, ProviderEvent

from openfeature import api

WAIT_SECONDS = 10


@pytest.fixture(autouse=True)
def sdk() -> Iterator[None]:
    """Each test leaves the SDK as it found it: no provider, hook, handler or context."""
    yield
    api.shutdown()


class Heard:
    """A handler of every event, which keeps what it was told."""

    def __init__(self, *sources: Any) -> None:
        self._events: queue.Queue[tuple[str, EventDetails]] = queue.Queue()
        for source in sources or (api,):
            for event in ProviderEvent:
                source.add_handler(event, self._handler(event))

    def _handler(self, event: ProviderEvent) -> Callable[[EventDetails], None]:
        name = event.name.removeprefix("PROVIDER_")
        return lambda details: self._events.put((name, details))

    def next(self, *names: str) -> EventDetails:
        """The next event of one of these names; others before it are passed over."""
        while True:
            name, details = self._events.get(timeout=WAIT_SECONDS)
            if name in names:
                return details

    def changed(self) -> list[str]:
        """The flags that the next change names."""
        found = self.next("CONFIGURATION_CHANGED").flags_changed
        assert found is not None
        return found

    def nothing(self, name: str) -> bool:
        """Whether no event of that name has been told so far."""
        return name not in [told for told, _ in list(self._events.queue)]


@pytest.fixture
def in_child() -> Callable[..., str]:
    """Run a function in a forked child, another meanwhile here; return what the child's did."""

    def run(function: Callable[[], object], meanwhile: Callable[[], object] = int) -> str:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, str(function()).encode())
            except BaseException as error:
                os.write(write_end, repr(error).encode())
            finally:
                os._exit(0)
        os.close(write_end)
        meanwhile()
        os.waitpid(child, 0)
        with os.fdopen(read_end) as answer:
            return answer.read()

    return run
