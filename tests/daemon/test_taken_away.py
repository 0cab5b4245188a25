"""A replica whose files somebody removed under the daemon, while the log has nothing new."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ControlPlaneError
from control_plane.replica.header import GENERATION, TOMBSTONE, map_header
from control_plane.replica.source import current_folder
from control_plane_daemon.enrol import Opened


def shows(node: Any, generation: int) -> bool:
    """Whether a reader who comes now would be at that generation."""
    try:
        return bool(node.word(GENERATION) == generation)
    except ControlPlaneError:
        return False


async def waits(node: Any, served: Any) -> None:
    """Until the loop has nothing to do but to wait for its poll."""
    await node.until(lambda: "wait=20" in "".join(served.asked[-1:]))


@pytest.mark.parametrize("gone", ["v1/2/data.mdb", "v1/2/header", "v1/2", "v1", "."])
async def test_an_idle_daemon_makes_what_was_taken_away_anew(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any, tmp_path: Path, gone: str
) -> None:
    log.put(flag())
    async with running(served) as node:
        await node.reach(2)
        await waits(node, served)
        old = map_header(f"{current_folder(node.folder)}/header")
        assert Path(current_folder(node.folder)).name == "2"
        path = tmp_path / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        await node.until(lambda: old[8 * TOMBSTONE])
        assert shows(node, 2)
        log.put(flag(default="on"))
        served.moved.set()
        await node.until(lambda: shows(node, 3))
    assert caplog.text.count("expected the files that are being written") == 1
    assert (tmp_path / "v1" / "daemon.lock").exists()


async def test_what_cannot_be_made_anew_yet_is_told_once_and_tried_again(
    served: Any, running: Any, log: Any, flag: Any, caplog: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    tries = []
    rebuild = Opened.rebuild
    monkeypatch.setattr(
        Opened, "rebuild", lambda self, **how: (tries.append(1), rebuild(self, **how))
    )
    log.put(flag())
    async with running(served) as node:
        await node.reach(2)
        await waits(node, served)
        put_in_the_way(tmp_path)
        await node.until(lambda: len(tries) > 2)
        assert caplog.text.count("expected to write the replica") == 1
        assert caplog.text.count("Not a directory; the replica is rebuilt") == 1
        clear_the_way(tmp_path)
        await node.until(lambda: shows(node, 2))


def put_in_the_way(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def clear_the_way(folder: Path) -> None:
    folder.unlink()


async def test_a_loop_that_is_ended_when_its_files_are_gone_ends(
    served: Any, running: Any, tmp_path: Path
) -> None:
    async with running(served) as node:
        await waits(node, served)
        polling = node.loop._polling
        shutil.rmtree(tmp_path / "v1")
        # The second in which it looks, and the end, in one turn of the event loop.
        node.loop._look()
        polling.cancel()
        await asyncio.wait([polling], timeout=10)
        assert polling.cancelled()
    assert not (tmp_path / "v1").exists()
