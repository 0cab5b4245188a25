"""The pytest fixture ``control_plane_replica``, registered by the package's entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from control_plane.testing import ReplicaKit


@pytest.fixture
def control_plane_replica() -> Iterator[Callable[..., ReplicaKit]]:
    """A function with the arguments of `control_plane.testing.replica`; closes with the test."""
    # Imported here: a test run that never asks for the fixture loads nothing of the package.
    from control_plane.testing import replica

    with ExitStack() as stack:

        def make(*args: Any, **kwargs: Any) -> ReplicaKit:
            return stack.enter_context(replica(*args, **kwargs))

        yield make
