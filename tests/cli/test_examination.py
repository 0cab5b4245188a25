"""What `doctor` takes for a fault: one rule a test, on values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control_plane.cli import examination
from control_plane.cli.examination import CURES, NOTE, OK, WRONG, Finding, Mount
from control_plane.client import STATE_REASONS

GIB = 1 << 30
FOLDER = Path("/replicas/production")
FILES = FOLDER / "v1" / "3"


def only(findings: object) -> Finding:
    (finding,) = findings  # type: ignore[misc]
    assert isinstance(finding, Finding)
    assert bool(finding.cure) == (finding.state == WRONG)
    return finding


def test_every_reason_of_an_unhealthy_replica_has_a_cure() -> None:
    words = {reason.partition(":")[0] for _, reason in STATE_REASONS} | {"silent", "empty"}
    assert words == set(CURES)


def test_a_stale_replica_is_wrong_and_a_development_one_is_not() -> None:
    reasons = dict(STATE_REASONS).values()
    states = [each.state for each in examination.served("production", 7, reasons)]
    assert states == [NOTE, *[WRONG] * 6]
    assert only(examination.served("production", 7, [])).said == "production: fresh at generation 7"


def test_a_reason_that_is_an_error_keeps_the_errors_own_cure() -> None:
    finding = only(examination.served("x", 0, ["/r: expected a replica, found none; start one"]))
    assert (finding.said, finding.cure) == ("x: /r: expected a replica, found none", "start one")


DAY_MS = 86_400_000


@pytest.mark.parametrize(("days", "state"), [(400, OK), (30, OK), (29, WRONG), (-1, WRONG)])
def test_metadata_that_expires_within_a_month_is_wrong(days: int, state: str) -> None:
    finding = only(examination.trusted("x", {"root": (1000 + days) * DAY_MS}, 1000 * DAY_MS))
    assert finding.state == state
    assert f"{days} days" in finding.said or "that it has expired" in finding.said


@pytest.mark.parametrize(
    ("ahead_seconds", "state"),
    [(0.0, OK), (29.0, OK), (-31.0, WRONG), (3600.0, WRONG), (None, NOTE)],
)
def test_a_clock_half_a_minute_off_is_wrong(ahead_seconds: float | None, state: str) -> None:
    assert only(examination.clock(ahead_seconds)).state == state


@pytest.mark.parametrize(("limit", "state"), [(None, OK), (GIB, WRONG), (128 * GIB, OK)])
def test_an_address_space_below_the_map_is_wrong(limit: int | None, state: str) -> None:
    assert only(examination.limits(limit)).state == state


def test_a_disk_without_room_for_a_rebuild_is_wrong() -> None:
    assert only(examination.space(FOLDER, GIB, GIB // 2)).state == OK
    assert only(examination.space(FOLDER, GIB, GIB // 2 + 1)).state == WRONG
    assert only(examination.space(FOLDER, 1 << 20, 0)).state == WRONG


def test_old_packages_are_named_with_the_command_that_mends_them() -> None:
    found = list(
        examination.versions((3, 10, 2), {"lmdb": "4.0", "msgpack": "1.1", "xxhash": None})
    )
    assert [each.cure for each in found if each.state == WRONG] == [
        "use a newer Python", "pip install 'lmdb>=3,<4'", "pip install 'xxhash>=3'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mount", "state", "words"),
    [
        (Mount(Path("/replicas"), "nfs4", ("rw",)), WRONG, "found nfs4"),
        (Mount(Path("/replicas"), "fuse.sshfs", ("rw",)), WRONG, "found fuse.sshfs"),
        (Mount(FILES, "ext4", ("ro",)), WRONG, "found one inside it"),
        (Mount(FOLDER / "v1", "ext4", ("ro",)), WRONG, "found one inside it"),
        (Mount(FOLDER, "ext4", ("ro", "relatime")), OK, "read-only here"),
        (Mount(Path("/replicas"), "tmpfs", ("rw",)), OK, "writable here"),
    ],
)
def test_a_replica_lies_on_a_local_disk_mounted_as_a_whole(
    mount: Mount, state: str, words: str
) -> None:
    root = Mount(Path("/"), "overlay", ("rw",))
    finding = only(examination.mounted(FOLDER, FILES, [root, mount]))
    assert (finding.state, words in finding.said) == (state, True), finding


def test_the_mount_table_of_this_host_is_read() -> None:
    mounts = examination.read_mounts(Path("/proc/self/mountinfo").read_text())
    assert Path("/") in {mount.point for mount in mounts}
    line = r"36 35 98:0 /a /mnt/with\040blank ro,noatime shared:1 - ext3 /dev/root rw"
    assert examination.read_mounts(line) == [
        Mount(Path("/mnt/with blank"), "ext3", ("ro", "noatime"))
    ]
    assert examination.read_mounts("nonsense\n\n") == []


def test_the_outermost_closed_folder_is_the_one_to_open(tmp_path: Path) -> None:
    path = tmp_path / "root" / "production"
    path.mkdir(parents=True)
    closed = tmp_path / "root"
    found = only(examination.access([path], lambda at, _: at not in (closed, path)))
    assert (found.state, found.cure) == (WRONG, f"chmod o+rx {closed}")
    assert only(examination.access([path], lambda at, mode: os.access(at, mode))).state == OK
