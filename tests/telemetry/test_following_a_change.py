"""One change from its author to the readers of a node, followed by its trace through the logs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane import ControlPlaneClient
from control_plane.cli.project import Project, create_project
from control_plane.cli.services import start_daemon, start_store

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
VALUE = "hunter-2-in-a-document"


@dataclass
class Platform:
    """A store and a node that run, and their logs."""

    folder: Path
    project: Project
    client: ControlPlaneClient

    def run(self, *arguments: object, **environment: str) -> dict[str, Any]:
        """What a command answers as JSON."""
        command = [sys.executable, "-m", "control_plane", *map(str, arguments), "--json"]
        done = subprocess.run(
            command, cwd=self.project.folder, env=os.environ | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def apply(self, value: object, **environment: str) -> None:
        """Publish a configuration that holds ``value``, and wait until the node serves it."""
        path = self.folder / "app.yaml"
        path.write_text(yaml.safe_dump(
            {"kind": "config", "name": "app", "metadata": {"values": {"key": value}}}
        ))  # fmt: skip
        self.run("apply", "-f", path, "-e", "production", **environment)
        log = self.run("log", "verify", "-e", "production")
        self.client.wait_for(int(log["generation"]), timeout_seconds=20)
        assert self.client.config.get("app.key") == value

    def lines(self, service: str) -> list[dict[str, Any]]:
        """The log of one service, every line of which is JSON."""
        return [json.loads(line) for line in (self.folder / service).read_text().splitlines()]


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    # Short enough for a unix socket.
    folder = Path(tempfile.mkdtemp(prefix="cp"))
    socket = f"unix:{folder / 'store.sock'}"
    project = create_project(
        folder / "project", installation="acme", environments=["production"],
        store=socket, replica=str(folder / "replica"),
    )  # fmt: skip
    with (folder / "store").open("wb") as told, (folder / "daemon").open("wb") as shown:
        store, url = start_store(project, socket, say=lambda line: None, stderr=told)
        with store:
            daemon = start_daemon(
                project, url, folder / "replica", ["production"],
                say=lambda line: None, stderr=shown,
            )  # fmt: skip
            with daemon, ControlPlaneClient(str(folder / "replica"), "production") as client:
                yield Platform(folder, project, client)
    shutil.rmtree(folder)


def test_a_change_is_followed_from_submit_to_the_node_by_its_trace(platform: Platform) -> None:
    platform.apply("traced", TRACEPARENT=TRACE)
    (sequenced,) = (each for each in platform.lines("store") if each.get("traceparent") == TRACE)
    (applied,) = (each for each in platform.lines("daemon") if each.get("traceparent") == TRACE)
    assert applied["event"] == f"production: entry {applied['generation']} applied"
    for field in ("change", "generation", "environment", "verb"):
        assert sequenced[field] == applied[field]
    (entry, *_) = platform.run("history", "-e", "production", "--limit", "1")["entries"]
    assert entry["reason"].endswith(f"[traceparent {TRACE}]")


def test_a_change_without_a_trace_names_none(platform: Platform) -> None:
    platform.apply("untraced", TRACEPARENT="")
    for service in ("store", "daemon"):
        assert "traceparent" not in platform.lines(service)[-1]


def test_no_line_of_a_service_holds_a_value_or_a_token(platform: Platform) -> None:
    platform.apply(VALUE)
    tokens = [each.read_text().strip() for each in platform.project.private.rglob("*.token")]
    assert tokens
    for service in ("store", "daemon"):
        text = (platform.folder / service).read_text()
        assert VALUE not in text
        assert not [token for token in tokens if token[4:] in text]
        assert len(platform.lines(service)) >= 1
        assert all(each["environment"] == "production" for each in platform.lines(service))
