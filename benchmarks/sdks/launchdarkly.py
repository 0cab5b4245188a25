"""LaunchDarkly: its file data source, which looks at the file once a second; no events."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISTRIBUTION = "launchdarkly-server-sdk"
SEEN_BY = "its file source, every 1 s"

_BOOL = "client.variation(name, context, False)"
CALLS = {
    "w1": _BOOL,
    "w2": _BOOL,
    "w3": _BOOL,
    "w4": "client.variation(name, context, '')",
}


def document(flags: dict[str, str], pilots: list[str]) -> bytes:
    """The data file, flags in full."""
    import json

    return json.dumps(
        {"flags": {name: _flag(name, kind, pilots) for name, kind in flags.items()}}
    ).encode()


def _flag(name: str, kind: str, pilots: list[str]) -> dict[str, Any]:
    flag: dict[str, Any] = {
        "key": name,
        "version": 1,
        "on": True,
        "salt": name,
        "variations": [True, False],
        "offVariation": 1,
        "fallthrough": {"variation": 0 if kind == "w1" else 1},
    }
    if kind == "w2":
        flag["rules"] = [
            _rule("enterprise", _among("plan", "enterprise")),
            _rule("dach", _among("country", "DE", "AT", "CH")),
            _rule("us", _among("plan", "pro"), _among("region", "us")),
            _rule("large", _among("country", "FR"), _among("seats", 500)),
            _rule("pilots", _among("key", *pilots)),
        ]
    elif kind == "w3":
        flag["fallthrough"] = _rollout(25, 75)
    elif kind == "w4":
        flag["variations"] = ["red", "green", "blue"]
        flag["offVariation"] = 0
        flag["fallthrough"] = {"variation": 0}
        rule = {"id": "experiment", "clauses": [_among("plan", "pro")], **_rollout(25, 25, 50)}
        flag["rules"] = [rule]
    return flag


def _rule(identity: str, *clauses: dict[str, Any]) -> dict[str, Any]:
    return {"id": identity, "variation": 0, "clauses": list(clauses)}


def _among(attribute: str, *values: Any) -> dict[str, Any]:
    return {"attribute": attribute, "op": "in", "values": list(values), "contextKind": "user"}


def _rollout(*percentages: int) -> dict[str, Any]:
    weights = [
        {"variation": number, "weight": 1000 * percentage}
        for number, percentage in enumerate(percentages)
    ]
    return {"rollout": {"contextKind": "user", "variations": weights}}


def imports() -> None:
    """What a program imports."""
    import sys

    # Where PyYAML is installed the file source reads JSON by it, which takes minutes for what
    # json reads in a second. Nothing else in a process that runs this needs it.
    sys.modules["yaml"] = None  # type: ignore[assignment]
    import ldclient
    import ldclient.integrations  # noqa: F401


def opened(path: str) -> Any:
    """A client that has read the file."""
    imports()
    from ldclient import Config, LDClient
    from ldclient.integrations import Files

    source = Files.new_data_source(paths=[path], auto_update=True)
    client = LDClient(Config("none", update_processor_class=source, send_events=False))
    if not client.is_initialized():
        raise RuntimeError("expected a client that has read its file, found none")
    return client


def context(tenant: str, attributes: dict[str, Any]) -> Any:
    """Its context, of kind user."""
    from ldclient import Context

    builder = Context.builder(tenant)
    for name, value in attributes.items():
        builder.set(name, value)
    return builder.build()
