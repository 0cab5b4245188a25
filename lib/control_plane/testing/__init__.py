"""A replica for a test: real records in a real file, read by the real library.

    from control_plane.testing import replica

    with replica(flags={"new_ai_model": True}, config={"database": {"url": "…"}}) as client:
        assert client.is_enabled("new_ai_model")
        client.set_flag("new_ai_model", False)
        assert not client.is_enabled("new_ai_model")

What gives it is a client whose calls change what it reads: several documents as one generation,
the time, who falls into which variant, when watches fire; and it records what was evaluated.

Documents are validated and compiled as a node's daemon does it, so the extra ``publish`` is
needed; pytest is not. With pytest the fixture ``control_plane_replica`` makes replicas that close
with the test.
"""

from __future__ import annotations

from control_plane.errors import MissingExtra

try:
    from control_plane.testing.clock import Clock
    from control_plane.testing.evaluations import Evaluations
    from control_plane.testing.kit import ReplicaKit, replica
except ModuleNotFoundError as error:
    if (error.name or "control_plane").startswith("control_plane"):
        raise
    raise MissingExtra.of(error.name, "publish") from error

__all__ = ["Clock", "Evaluations", "ReplicaKit", "replica"]
