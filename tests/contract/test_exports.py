"""The names applications import, pinned: a change here is a change of the public interface."""

from __future__ import annotations

import importlib
import inspect

import pytest

EXPORTS = {
    "control_plane": [
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
    ],
}


@pytest.mark.parametrize("module", EXPORTS)
def test_a_module_exports_these_names(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == EXPORTS[module]


@pytest.mark.parametrize("module", EXPORTS)
def test_every_exported_name_has_a_docstring(module: str) -> None:
    holder = importlib.import_module(module)
    for name in holder.__all__:
        value = getattr(holder, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{module}.{name}"
