"""What a service manager is told, over real datagram sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.telemetry.service_manager import ServiceManager


class Listening:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(10)

    def told(self) -> str:
        return self.socket.recv(4096).decode()

    def silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def environ(listening: Listening, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": listening.socket.getsockname(), **more}


def test_ready_status_and_stopping_are_told_in_order(listening: Listening) -> None:
    manager = ServiceManager.take_from(environ(listening))
    manager.ready()
    manager.status("production at\ngeneration 7")
    manager.stopping()
    told = [listening.told() for _ in range(3)]
    assert told == ["READY=1", "STATUS=production at generation 7", "STOPPING=1"]


def test_no_child_process_can_speak_for_the_one_that_was_asked(listening: Listening) -> None:
    asked = environ(listening, WATCHDOG_USEC="20000", WATCHDOG_PID="1", PATH="/bin")
    ServiceManager.take_from(asked)
    assert asked == {"PATH": "/bin"}


def test_a_name_that_begins_with_at_is_an_abstract_one(tmp_path: Path) -> None:
    name = f"control-plane-{tmp_path.name}"
    made = Listening(f"\0{name}")
    try:
        ServiceManager.take_from({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert made.told() == "READY=1"
    finally:
        made.socket.close()


async def test_signs_of_life_come_for_as_long_as_the_block_runs(listening: Listening) -> None:
    manager = ServiceManager.take_from(environ(listening, WATCHDOG_USEC="20000"))
    async with manager.attended():
        told = [await asyncio.to_thread(listening.told) for _ in range(3)]
    assert told == ["WATCHDOG=1"] * 3
    while not listening.silent():
        pass
    await asyncio.sleep(0.05)
    assert listening.silent()


async def test_a_watchdog_meant_for_another_process_gets_no_signs(listening: Listening) -> None:
    manager = ServiceManager.take_from(
        environ(listening, WATCHDOG_USEC="1000", WATCHDOG_PID="1"), pid=2
    )
    async with manager.attended():
        await asyncio.sleep(0.05)
    assert listening.silent()


@pytest.mark.parametrize("usec", ["", "soon", "-5", "0", "1.5"])
async def test_an_interval_out_of_form_is_no_watchdog(listening: Listening, usec: str) -> None:
    async with ServiceManager.take_from(environ(listening, WATCHDOG_USEC=usec)).attended():
        await asyncio.sleep(0.01)
    assert listening.silent()


def test_without_a_service_manager_nothing_is_sent_and_nothing_fails(tmp_path: Path) -> None:
    ServiceManager.take_from({}).ready()
    ServiceManager.take_from({"NOTIFY_SOCKET": str(tmp_path / "gone")}).stopping()


def test_a_service_manager_that_does_not_listen_holds_nobody_up(listening: Listening) -> None:
    manager = ServiceManager.take_from(environ(listening))
    for _ in range(5000):
        manager.alive()
    assert listening.told() == "WATCHDOG=1"
