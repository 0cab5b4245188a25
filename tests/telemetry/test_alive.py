"""The probe of a node's daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.telemetry.alive import main, silent
from control_plane.testing import replica


def test_a_replica_with_a_young_heartbeat_is_alive() -> None:
    with replica(flags={"on": True}) as kit:
        root, name = kit.replica, kit.health().environment
        assert silent(str(root), [], 30.0) == []
        assert main(["--replica", str(root), "-e", str(name)]) == 0


def test_a_heartbeat_that_is_too_old_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with replica(flags={"on": True}) as kit:
        assert main(["--replica", str(kit.replica), "--within", "-1"]) == 1
    assert "expected a sign of the daemon within -1 s, found one of 0 s ago" in (
        capsys.readouterr().err
    )


def test_where_no_daemon_ever_wrote_nothing_is_alive(tmp_path: Path) -> None:
    assert silent(str(tmp_path), [], 30.0) == [f"{tmp_path}: expected a replica, found none"]
    assert silent(str(tmp_path), ["production"], 30.0) == [
        "production: expected a sign of the daemon within 30 s, found none"
    ]
