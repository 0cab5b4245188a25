"""Wall clocks that are set forward or back by a day, under a store, a daemon and its clients.

| whose clock                   | what must hold while it is wrong, and when it is right again     |
|-------------------------------|------------------------------------------------------------------|
| the store's, 23 hours ahead   | changes flow, health says clock (also afterwards, until that     |
|                               | time is reached: the newest cosignature counts); changes flow    |
| the store's, a day ahead      | an author's set of 24 hours is late and refused; it flows        |
| the store's, a day behind     | changes flow; changes flow                                       |
| the daemon's, a day ahead     | changes flow, health says stale; changes flow, nothing is left   |
| the daemon's, a day behind    | changes flow, health says clock; changes flow, nothing is left   |

A change flows when a client's next call after the daemon's commit shows it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.errors import Late

HOUR, DAY = 3_600, 86_400
PATIENCE_SECONDS = 30.0


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="root"))
    yield path
    shutil.rmtree(path)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def says(client: ControlPlaneClient, word: str) -> bool:
    return any(reason.startswith(f"{word}: ") for reason in client.health().reasons)


@pytest.fixture
def start(root: Path, install: Any) -> Iterator[Callable[[str], tuple[Any, ControlPlaneClient]]]:
    """Start an installation with one clock to set, and a client that shows its first change."""
    opened: list[ControlPlaneClient] = []

    def begin(skewed: str) -> tuple[Any, ControlPlaneClient]:
        installation = install(root, skewed=skewed)
        installation.start_daemon()
        client = ControlPlaneClient(str(root), "production")
        opened.append(client)
        flows(installation, client, 1)
        return installation, client

    yield begin
    for client in opened:
        client.close()


def flows(installation: Any, client: ControlPlaneClient, number: int) -> None:
    installation.publish(number)
    until(lambda: client.value("first", -1) == number)


@pytest.mark.parametrize(
    ("skewed", "seconds", "word"),
    [("store", DAY - HOUR, "clock"), ("daemon", DAY, "stale"), ("daemon", -DAY, "clock")],
)
def test_a_clock_that_is_a_day_off_stops_no_change_and_is_told(
    start: Any, skewed: str, seconds: int, word: str
) -> None:
    installation, client = start(skewed)
    installation.skew(seconds)
    flows(installation, client, 2)
    until(lambda: says(client, word))
    installation.skew(0)
    flows(installation, client, 3)
    if skewed == "daemon":
        until(lambda: not client.health().reasons)


def test_a_store_that_is_a_day_behind_takes_changes(start: Any) -> None:
    installation, client = start("store")
    installation.skew(-DAY)
    flows(installation, client, 2)
    installation.skew(0)
    flows(installation, client, 3)
    assert not client.health().reasons


def test_a_store_that_is_a_day_ahead_refuses_what_is_late_for_it(start: Any) -> None:
    installation, client = start("store")
    installation.skew(DAY)
    with pytest.raises(Late, match=r"expected to be sequenced by \d+ ms, found \d+ ms"):
        installation.publish(2)
    assert client.value("first", -1) == 1
    installation.skew(0)
    flows(installation, client, 3)
