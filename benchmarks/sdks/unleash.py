"""Unleash: a bootstrapped file cache; where changes are awaited looked at once a second (its
default is 15); no metrics.

The tenant is the ``userId``. Its engine is Rust, asked through ctypes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISTRIBUTION = "UnleashClient"
SEEN_BY = "its cache, every 1 s"

_BOOL = "client.is_enabled(name, context)"
CALLS = {
    "w1": _BOOL,
    "w2": _BOOL,
    "w3": _BOOL,
    "w4": "client.get_variant(name, context)['name']",
}
_APPLICATION = "benchmark"


def document(flags: dict[str, str], pilots: list[str]) -> bytes:
    """The features as its server serves them to clients."""
    import json

    features = [_feature(name, kind, pilots) for name, kind in flags.items()]
    return json.dumps({"version": 2, "features": features}).encode()


def _feature(name: str, kind: str, pilots: list[str]) -> dict[str, Any]:
    strategies = [_rollout(name, 100)]
    if kind == "w2":
        strategies = [
            _rollout(name, 100, _among("plan", "enterprise")),
            _rollout(name, 100, _among("country", "DE", "AT", "CH")),
            _rollout(name, 100, _among("plan", "pro"), _among("region", "us")),
            _rollout(name, 100, _among("country", "FR"), _number("seats", 500)),
            _rollout(name, 100, _among("userId", *pilots)),
        ]
    elif kind == "w3":
        strategies = [_rollout(name, 25)]
    elif kind == "w4":
        strategies = [_rollout(name, 100, _among("plan", "pro")), _rollout(name, 100)]
        strategies[0]["variants"] = _variants(red=250, green=250, blue=500)
        strategies[1]["variants"] = _variants(red=1000)
    return {
        "name": name,
        "type": "release",
        "project": "default",
        "enabled": kind != "w0",
        "stale": False,
        "impressionData": False,
        "strategies": strategies,
        "variants": [],
    }


def _variants(**weights: int) -> list[dict[str, Any]]:
    return [
        {"name": name, "weight": weight, "stickiness": "default"}
        for name, weight in weights.items()
    ]


def _rollout(name: str, percentage: int, *constraints: dict[str, Any]) -> dict[str, Any]:
    parameters = {"rollout": str(percentage), "stickiness": "default", "groupId": name}
    return {
        "name": "flexibleRollout",
        "parameters": parameters,
        "constraints": list(constraints),
    }


def _among(field: str, *values: str) -> dict[str, Any]:
    return {"contextName": field, "operator": "IN", "values": list(values)}


def _number(field: str, value: int) -> dict[str, Any]:
    return {"contextName": field, "operator": "NUM_EQ", "values": [], "value": str(value)}


def imports() -> None:
    """What a program imports."""
    import UnleashClient
    import UnleashClient.cache  # noqa: F401


def opened(path: str) -> Any:
    """A client of the cache beside the file, bootstrapped from it."""
    from UnleashClient import UnleashClient

    return UnleashClient(
        "http://127.0.0.1:9/api",
        _APPLICATION,
        cache=_bootstrapped(path),
        refresh_interval=1,
        disable_metrics=True,
        disable_registration=True,
    )


def following(path: str) -> Any:
    """A client that looks at its cache again, and asks no server."""
    from logging import ERROR, getLogger

    # A look that takes over a second makes it complain of the next.
    getLogger("apscheduler").setLevel(ERROR)
    client = opened(path)
    client.initialize_client(fetch_toggles=False)
    return client


def _bootstrapped(path: str) -> Any:
    from pathlib import Path

    from UnleashClient.cache import FileCache

    cache = FileCache(_APPLICATION, directory=path + ".cache")
    cache.bootstrap_from_file(Path(path))
    return cache


def published(path: str) -> None:
    """Put the file into the cache, from another process."""
    _bootstrapped(path)


def context(tenant: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Its context."""
    return {"userId": tenant, "properties": {k: str(v) for k, v in attributes.items()}}
