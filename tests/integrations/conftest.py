"""What the tests of all integrations read: one replica, and flags that one tenant has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from control_plane.integrations import current
from control_plane.testing import ReplicaKit, replica

FOR_ACME: dict[str, Any] = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "rules": [{"name": "acme", "when": {"tenant_id": "acme"}, "serve": "on"}],
}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    """The process's client: flags ``x`` and ``y`` for all, ``theirs`` for the tenant acme."""
    config = {"db": {"values": {"url": "base"}, "tenants": {"acme": {"url": "theirs"}}}}
    flags = {"x": True, "y": True, "theirs": FOR_ACME}
    with replica(flags=flags, config=config) as made, current.using(made):
        yield made
