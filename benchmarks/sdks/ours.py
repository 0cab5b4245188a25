"""control_plane: a replica, mapped; a change of it is seen by the next call."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISTRIBUTION = "control-plane"
SEEN_BY = "the next call"

CALLS = {
    "w1": "client.is_enabled(name, tenant_id=tenant)",
    "w2": "client.is_enabled(name, tenant_id=tenant, context=context)",
    "w3": "client.is_enabled(name, tenant_id=tenant)",
    "w4": "client.variant(name, tenant_id=tenant, context=context)",
}


def imports() -> None:
    """What a program imports."""
    import control_plane.feature_flags.flag_manager  # noqa: F401


def opened(path: str, counting: bool | None = None) -> Any:
    """A manager of the replica's one environment."""
    from control_plane.feature_flags.flag_manager import FeatureFlagManager

    return FeatureFlagManager(replica=path, environment="production", counting=counting)


def context(tenant: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """The context beside the tenant, which is an argument of its own."""
    return dict(attributes)
