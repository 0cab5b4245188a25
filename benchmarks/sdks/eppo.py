"""Eppo: a configuration in its universal flag format, evaluated in Rust.

The tenant is the subject, which its rules know as ``id``. Nothing is logged (``doLog``).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISTRIBUTION = "eppo-server-sdk"
SEEN_BY = "set_configuration"

_BOOL = "client.get_boolean_assignment(name, tenant, context, False)"
CALLS = {
    "w1": _BOOL,
    "w2": _BOOL,
    "w3": _BOOL,
    "w4": "client.get_string_assignment(name, tenant, context, '')",
}
_SHARDS = 10_000


def document(flags: dict[str, str], pilots: list[str]) -> bytes:
    """The configuration, as its API serves it."""
    import json

    configuration = {
        "createdAt": "2026-01-01T00:00:00.000Z",
        "format": "SERVER",
        "environment": {"name": "production"},
        "flags": {name: _flag(name, kind, pilots) for name, kind in flags.items()},
    }
    return json.dumps(configuration).encode()


def _flag(name: str, kind: str, pilots: list[str]) -> dict[str, Any]:
    allocations: list[dict[str, Any]]
    values: dict[str, Any] = {"on": True, "off": False}
    if kind == "w2":
        allocations = [
            _allocation("enterprise", _one_of("plan", "enterprise")),
            _allocation("dach", _one_of("country", "DE", "AT", "CH")),
            _allocation("us", _one_of("plan", "pro"), _one_of("region", "us")),
            _allocation("large", _one_of("country", "FR"), _one_of("seats", "500")),
            _allocation("pilots", _one_of("id", *pilots)),
        ]
    elif kind == "w3":
        allocations = [_allocation("rollout")]
        allocations[0]["splits"] = [_split(name, "on", 0, 25), _split(name, "off", 25, 100)]
    elif kind == "w4":
        values = {colour: colour for colour in ("red", "green", "blue")}
        allocations = [_allocation("experiment", _one_of("plan", "pro"))]
        bounds = {"red": (0, 25), "green": (25, 50), "blue": (50, 100)}
        allocations[0]["splits"] = [_split(name, key, *bounds[key]) for key in bounds]
        allocations.append(_allocation("default", variant="red"))
    else:
        allocations = [_allocation("default", variant="off" if kind == "w0" else "on")]
    return {
        "key": name,
        "enabled": True,
        "variationType": "STRING" if kind == "w4" else "BOOLEAN",
        "variations": {key: {"key": key, "value": value} for key, value in values.items()},
        "totalShards": _SHARDS,
        "allocations": allocations,
    }


def _allocation(key: str, *conditions: dict[str, Any], variant: str = "on") -> dict[str, Any]:
    rules = [{"conditions": list(conditions)}] if conditions else []
    split: dict[str, Any] = {"variationKey": variant, "shards": []}
    return {"key": key, "rules": rules, "splits": [split], "doLog": False}


def _one_of(attribute: str, *values: str) -> dict[str, Any]:
    return {"attribute": attribute, "operator": "ONE_OF", "value": list(values)}


def _split(salt: str, variant: str, start: int, end: int) -> dict[str, Any]:
    share = {"start": start * _SHARDS // 100, "end": end * _SHARDS // 100}
    return {"variationKey": variant, "shards": [{"salt": salt, "ranges": [share]}]}


def imports() -> None:
    """What a program imports."""
    import eppo_client  # noqa: F401


def opened(path: str) -> Any:
    """A client that was initialised with the file and asks nobody for another."""
    from eppo_client import AssignmentLogger, ClientConfig, init

    return init(
        ClientConfig(
            api_key="none",
            base_url="http://127.0.0.1:9/",
            assignment_logger=AssignmentLogger(),
            poll_interval_seconds=None,
            initial_configuration=_read(path),
        )
    )


def refreshed(client: Any, path: str) -> None:
    """Give the client the file as it is now."""
    client.set_configuration(_read(path))


def _read(path: str) -> Any:
    from eppo_client import Configuration

    with open(path, "rb") as file:  # noqa: PTH123
        return Configuration(flags_configuration=file.read())


def context(tenant: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """The subject's attributes."""
    return dict(attributes)
