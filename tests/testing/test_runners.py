"""The kit in the runners people have: unittest, async tests, the fixture under pytest-xdist."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import unittest
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

import pytest

from control_plane.testing import ReplicaKit, replica


class OfUnittest(unittest.TestCase):
    over: ClassVar[list[ReplicaKit]] = []

    def setUp(self) -> None:
        self.kit = self.enterContext(replica(flags={"x": True}))
        # After the kit's own clean-up, which was registered last.
        self.over.append(self.kit)

    def test_it_is_there(self) -> None:
        assert self.kit.is_enabled("x")

    @replica(flags={"y": True})
    def test_a_decorated_test_has_one_too(self) -> None:
        assert not self.kit.is_enabled("y")


class OfAsyncUnittest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.kit = replica(flags={"x": True})
        self.client = self.kit.__enter__()
        self.addCleanup(self.kit.__exit__, None, None, None)

    async def test_it_is_there(self) -> None:
        assert await asyncio.to_thread(self.client.is_enabled, "x")


@pytest.mark.parametrize("case", [OfUnittest, OfAsyncUnittest])
def test_it_works_in_unittest(case: type[unittest.TestCase]) -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert (result.testsRun > 0, result.errors, result.failures) == (True, [], [])
    assert not any(Path(kit.replica).exists() for kit in OfUnittest.over)


async def test_it_works_in_async_tests(control_plane_replica: Callable[..., ReplicaKit]) -> None:
    kit = control_plane_replica(
        flags={"x": False}, agents=[{"name": "a", "metadata": {"description": "d"}}]
    )

    published = asyncio.Event()

    async def ask() -> bool:
        await published.wait()
        return kit.is_enabled("x")

    asked = asyncio.gather(ask(), ask())
    await asyncio.sleep(0)
    kit.set_flag("x", True)
    published.set()
    assert await asked == [True, True]
    assert (await kit.get_agent("a")).version == "1.0.0"


def test_the_fixture_works_under_xdist(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import pytest

            @pytest.mark.parametrize("number", range(6))
            def test_each_has_its_own(control_plane_replica, number, tmp_path_factory):
                even = number % 2 == 0
                kit = control_plane_replica(flags={"x": even})
                other = control_plane_replica(flags={"x": not even})
                assert (kit.is_enabled("x"), other.is_enabled("x")) == (even, not even)
                with kit.recording() as evaluations:
                    kit.is_enabled("x")
                evaluations.assert_evaluated("x", times=1)
        """)
    )
    installed = any(p.name == "control_plane" for p in entry_points(group="pytest11"))
    # From a checkout without metadata the plugin has no entry point and is named instead.
    plugin = [] if installed else ["-p", "control_plane.testing.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *plugin]
    run = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, "6 passed" in run.stdout) == (0, True), run.stdout
