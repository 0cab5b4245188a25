"""The systemd units, as systemd itself reads them, and the services under a service manager."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from control_plane.cli.root import root as command_line

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = ["control-plane-daemon.service", "control-plane-store.service"]
ANALYZE = shutil.which("systemd-analyze")
MAX_EXPOSURE = 1.5
"""Of 10: what is left is the network and unix sockets, without which there is no service."""


class Unit(configparser.RawConfigParser):
    """One unit's settings; of a setting given twice the last one counts here."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False, delimiters="=", comment_prefixes=("#",))
        self.read(FOLDER / name)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a command that exists here in place of the one they name."""
    for name in UNITS:
        text = (FOLDER / name).read_text()
        (tmp_path / name).write_text(
            text.replace("/opt/control-plane/bin/control-plane", "/bin/true")
        )
    return tmp_path


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_in_a_unit(installed: Path) -> None:
    files = [str(installed / name) for name in UNITS]
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    told = [line for line in done.stderr.splitlines() if "control-plane" in line]
    assert (done.returncode, told) == (0, [])


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_as_closed_as_a_service_with_a_network_can_be(installed: Path, name: str) -> None:
    limit = f"--threshold={int(MAX_EXPOSURE * 10)}"
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", limit, str(installed / name)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert (done.returncode, float(found[1]) <= MAX_EXPOSURE) == (0, True), done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_notified_and_watched_and_comes_back(name: str) -> None:
    service = Unit(name)["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert int(service["WatchdogSec"]) >= 10
    assert service["Restart"] == "always"
    assert Unit(name)["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_a_command_there_is(name: str) -> None:
    program, verb, *options = shlex.split(Unit(name)["Service"]["ExecStart"])
    assert Path(program).name == "control-plane"
    with click.Context(command_line) as context:
        command = command_line.get_command(context, verb)
        assert command is not None
        known = {option for each in command.params for option in each.opts}
    assert {option for option in options if option.startswith("--")} <= known


def test_other_users_may_read_a_replica_and_nobody_the_store() -> None:
    daemon, store = (Unit(name)["Service"] for name in UNITS)
    assert (daemon["UMask"], daemon["StateDirectoryMode"]) == ("0022", "0755")
    assert (store["UMask"], store["StateDirectoryMode"]) == ("0077", "0700")
    users = (FOLDER / "control-plane.sysusers").read_text()
    for service in (daemon, store):
        assert f"u {service['User']} - " in users
        assert service["User"] != "root"
    # Where the boot id cannot be read, each start waits as if readers of before lived on.
    assert "ProcSubset" not in daemon


def test_a_daemon_tells_its_service_manager_that_it_is_ready_alive_and_stopping(
    tmp_path: Path,
) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        arguments = [
            "daemon", "--from", manifests, "--state", tmp_path / "state",
            "--replica", tmp_path / "replica",
        ]  # fmt: skip
        environment = os.environ | {
            "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000",
        }  # fmt: skip
        environment.pop("WATCHDOG_PID", None)
        with (tmp_path / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "control_plane", *map(str, arguments)],
                env=environment, stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
        try:
            told: list[str] = []
            while not {"READY=1", "STATUS=development at generation 1", "WATCHDOG=1"} <= {*told}:
                told.append(manager.recv(4096).decode())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, (tmp_path / "errors").read_text()
            while told[-1] != "STOPPING=1":
                told.append(manager.recv(4096).decode())
        finally:
            process.kill()
            process.wait()
    assert told.count("READY=1") == 1, "the store it started spoke for it"
    lines = [json.loads(line) for line in (tmp_path / "errors").read_text().splitlines()]
    assert [line["generation"] for line in lines] == [1]
