"""What applications import and call, pinned: a change here is a change of the public interface."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import pytest

import control_plane
from control_plane import errors
from control_plane.testing import ReplicaKit

EXPORTS = {
    "control_plane": [
        "ConfigManager", "ControlPlaneClient", "ControlPlaneError", "Evaluation",
        "FeatureFlagManager", "Health", "KeyNotFoundError", "MissingExtra", "NotFound",
        "RegistryManager", "ReplicaUnavailable", "TrustError", "Unavailable",
        "UnsupportedPlatformError", "ViewExpired", "WaitTimeout", "__version__",
    ],
    "control_plane.integrations.asgi": ["ControlPlaneMiddleware"],
    "control_plane.integrations.celery": ["TaskCarrier", "connect"],
    "control_plane.integrations.current": [
        "bind", "client", "config", "flags", "generation", "provide", "registry", "request",
        "snapshots", "using", "view",
    ],
    "control_plane.integrations.fastapi": [
        "Config", "ControlPlaneMiddleware", "Flags", "Registry", "request_config",
        "request_flags", "request_registry",
    ],
    "control_plane.publish": [
        "Proposal", "Publisher", "Release", "Released", "SignedChange", "StoreClient", "Submission",
    ],
    "control_plane.testing": ["Clock", "Evaluations", "ReplicaKit", "replica"],
}  # fmt: skip

WHO = "user_id=None, tenant_id=None, context=None"
MANAGER = "client=None, *, replica=None, environment=None"
CALLS = {
    "ControlPlaneClient": {
        "__init__": "replica=None, environment=None, require_trusted=False",
        "adopt": "manager",
        "close": "",
        "evaluate": f"name, default, {WHO}",
        "get_agent": "name, version=None, tenant_id=None",
        "get_tool": "name, version=None, tenant_id=None",
        "health": "",
        "is_enabled": f"name, {WHO}, default=False, rollout_percentage=None",
        "pinned": "",
        "value": f"name, default, {WHO}",
        "variant": f"name, {WHO}, default=None",
        "wait_for": "generation, timeout_seconds",
        "wait_until_ready": "timeout_seconds",
    },
    "FeatureFlagManager": {
        "__init__": f"{MANAGER}, counting=None, now=<built-in function time>",
        "bind": "**context",
        "close": "",
        "evaluate": f"name, default, {WHO}",
        "flag": "name",
        "get_bool": f"name, default, {WHO}",
        "get_float": f"name, default, {WHO}",
        "get_int": f"name, default, {WHO}",
        "get_json": f"name, default, {WHO}",
        "get_str": f"name, default, {WHO}",
        "is_enabled": f"name, {WHO}, default=False, rollout_percentage=None",
        "pinned": "",
        "pinned_to": "view",
        "all_flags": WHO,
        "count": "name, variant",
        "counts": "",
        "decided": f"name, {WHO}",
        "explain": f"name, {WHO}",
        "override": "flags",
        "refresh": "",
        "value": f"name, default, {WHO}",
        "variant": f"name, {WHO}, default=None",
    },
    "ConfigManager": {
        "__init__": f"{MANAGER}, allow_environment_overrides=False",
        "bind": "model, prefix=(), tenant_id=None",
        "changes": "prefix, tenant_id=None",
        "close": "",
        "get": "key, default=<no value>, environment=None, tenant_id=None",
        "load_environment": "name",
        "origin": "key, environment=None, tenant_id=None",
        "refresh": "",
        "section": "prefix, tenant_id=None",
        "snapshot": "prefix=(), tenant_id=None",
        "watch": "prefix, callback, tenant_id=None",
    },
    "RegistryManager": {
        "__init__": MANAGER,
        "activate": "target, channel='stable', *, publisher, reason=''",
        "batch": "*, publisher, reason=''",
        "bind": "name, handler, version=None, *, open_seconds=30.0",
        "close": "",
        "counts": "",
        "delete": "target, *, publisher, reason=''",
        "deprecate": "target, reason, successor=None, *, publisher",
        "flag_definition": "name",
        "get_agent": "name, version=None, tenant_id=None",
        "get_tool": "name, version=None, tenant_id=None",
        "list_agents": "",
        "list_tools": "",
        "load_lock": "path, tenant_id=None",
        "pinned_to": "view, flags",
        "publish": "manifest, channel='stable', *, publisher, reason=''",
        "refresh": "",
        "search": (
            "kind, *, name=None, owner=None, category=None, capability=None, tag=None, text=None, "
            "channel=None, limit=100, cursor=None"
        ),
        "trust": "",
        "validate_tool_compatibility": "tool, tools",
        "yank": "target, reason, successor=None, *, publisher",
    },
}


def public_calls(cls: type) -> Iterator[tuple[str, object]]:
    for name, member in inspect.getmembers(cls, callable):
        if not name.startswith("_") or name == "__init__":
            yield name, member


def parameters(call: object) -> str:
    """Names, kinds and defaults of a method's parameters, without ``self`` and annotations."""
    signature = inspect.signature(call)  # type: ignore[arg-type]
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(bare))[1:-1]


@pytest.mark.parametrize("module", EXPORTS)
def test_a_module_exports_these_names(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == EXPORTS[module]


@pytest.mark.parametrize("name", CALLS)
def test_a_class_has_these_calls(name: str) -> None:
    found = {name: parameters(call) for name, call in public_calls(getattr(control_plane, name))}
    assert found == CALLS[name]


@pytest.mark.parametrize("module", EXPORTS)
def test_every_public_name_and_method_has_a_docstring(module: str) -> None:
    holder = importlib.import_module(module)
    for name in EXPORTS[module]:
        value = getattr(holder, name)
        if inspect.isclass(value):
            calls = [call for method, call in public_calls(value) if method != "__init__"]
            assert all(inspect.getdoc(each) for each in (value, *calls)), name
        elif inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_the_tree_of_errors_is_the_one_drawn() -> None:
    """Every class is in the drawing, below its base, and none is drawn that does not exist."""
    drawing = (inspect.getdoc(errors) or "").split("A message is one line")[0]
    drawn = [line.strip("│├└─ ").split()[0] for line in drawing.splitlines() if "  " in line]
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.ControlPlaneError)
    ]
    assert sorted(drawn) == sorted(cls.__name__ for cls in classes)
    assert all(inspect.getdoc(cls) for cls in classes)
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes)


def test_the_kit_is_a_client() -> None:
    assert issubclass(ReplicaKit, control_plane.ControlPlaneClient)
