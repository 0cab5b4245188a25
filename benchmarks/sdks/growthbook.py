"""GrowthBook: its features payload, evaluated in Python.

One instance holds the features, and is given the user by ``set_attributes`` before it is asked: an
instance for each user would hold a dictionary of all features each.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISTRIBUTION = "growthbook"
SEEN_BY = "set_features"

_BOOL = "(client.set_attributes(context), client.is_on(name))[1]"
CALLS = {
    "w1": _BOOL,
    "w2": _BOOL,
    "w3": _BOOL,
    "w4": "(client.set_attributes(context), client.get_feature_value(name, ''))[1]",
}


def document(flags: dict[str, str], pilots: list[str]) -> bytes:
    """The payload of its features endpoint."""
    import json

    features = {name: _feature(name, kind, pilots) for name, kind in flags.items()}
    return json.dumps({"status": 200, "features": features}).encode()


def _feature(name: str, kind: str, pilots: list[str]) -> dict[str, Any]:
    if kind == "w2":
        conditions: list[dict[str, Any]] = [
            {"plan": "enterprise"},
            {"country": {"$in": ["DE", "AT", "CH"]}},
            {"plan": "pro", "region": "us"},
            {"country": "FR", "seats": 500},
            {"id": {"$in": pilots}},
        ]
        rules = [{"condition": condition, "force": True} for condition in conditions]
        return {"defaultValue": False, "rules": rules}
    if kind == "w3":
        rollout = {"force": True, "coverage": 0.25, "hashAttribute": "id"}
        return {"defaultValue": False, "rules": [rollout]}
    if kind == "w4":
        experiment = {
            "key": name,
            "condition": {"plan": "pro"},
            "variations": ["red", "green", "blue"],
            "weights": [0.25, 0.25, 0.5],
            "coverage": 1,
            "hashAttribute": "id",
        }
        return {"defaultValue": "red", "rules": [experiment]}
    return {"defaultValue": kind == "w1"}


def imports() -> None:
    """What a program imports."""
    import growthbook  # noqa: F401


def opened(path: str) -> Any:
    """An instance with the features of the file."""
    from growthbook import GrowthBook

    client = GrowthBook()
    refreshed(client, path)
    return client


def refreshed(client: Any, path: str) -> None:
    """Give the instance the file as it is now."""
    import json

    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        client.set_features(json.load(file)["features"])


def context(tenant: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """The user's attributes."""
    return {"id": tenant, **attributes}
