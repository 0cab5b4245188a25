"""For all tests: no example has a deadline, and nothing is told to the machine's own daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A busy machine is no defect of the code.
settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")


@pytest.fixture(scope="session", autouse=True)
def usage_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where processes tell what they served: nowhere, unless a daemon of the tests makes it."""
    before = os.environ.get("CONTROL_PLANE_USAGE")
    os.environ["CONTROL_PLANE_USAGE"] = str(tmp_path_factory.getbasetemp() / "usage")
    yield
    if before is None:
        del os.environ["CONTROL_PLANE_USAGE"]
    else:
        os.environ["CONTROL_PLANE_USAGE"] = before
