"""Signed flags, configuration and manifests, read from a memory-mapped file.

Importing the package loads nothing else: each public name below is looked up on first use, so
that a process pays only for what it calls.
"""

from __future__ import annotations

from control_plane._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from control_plane.client import ControlPlaneClient, Health
    from control_plane.configs.settings import ConfigManager
    from control_plane.errors import (
        ControlPlaneError,
        KeyNotFoundError,
        MissingExtra,
        NotFound,
        ReplicaUnavailable,
        TrustError,
        Unavailable,
        UnsupportedPlatformError,
        ViewExpired,
        WaitTimeout,
    )
    from control_plane.feature_flags.evaluation import Evaluation
    from control_plane.feature_flags.flag_manager import FeatureFlagManager
    from control_plane.registries.registry_manager import RegistryManager

__all__ = [
    "ConfigManager",
    "ControlPlaneClient",
    "ControlPlaneError",
    "Evaluation",
    "FeatureFlagManager",
    "Health",
    "KeyNotFoundError",
    "MissingExtra",
    "NotFound",
    "RegistryManager",
    "ReplicaUnavailable",
    "TrustError",
    "Unavailable",
    "UnsupportedPlatformError",
    "ViewExpired",
    "WaitTimeout",
    "__version__",
]

_HOMES = {
    "ConfigManager": "control_plane.configs.settings",
    "ControlPlaneClient": "control_plane.client",
    "Evaluation": "control_plane.feature_flags.evaluation",
    "FeatureFlagManager": "control_plane.feature_flags.flag_manager",
    "Health": "control_plane.client",
    "RegistryManager": "control_plane.registries.registry_manager",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it, once."""
    if name not in __all__:
        raise AttributeError(f"module 'control_plane' has no attribute {name!r}")
    # __import__ with a non-empty last list returns the module named, without importlib's package.
    home = __import__(_HOMES.get(name, "control_plane.errors"), fromlist=[name])
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
