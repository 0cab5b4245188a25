"""flagd's own evaluator for Python: its JSON document, evaluated in the process."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISTRIBUTION = "openfeature-flagd-core"
SEEN_BY = "set_flags"

_BOOL = "client.resolve_boolean_value(name, False, context).value"
CALLS = {
    "w1": _BOOL,
    "w2": _BOOL,
    "w3": _BOOL,
    "w4": "client.resolve_string_value(name, '', context).variant",
}


def document(flags: dict[str, str], pilots: list[str]) -> bytes:
    """The file that flagd reads; a shared list of pilots stands in each flag, as it must."""
    import json

    kinds = {kind: _flag(kind, pilots) for kind in set(flags.values())}
    return json.dumps({"flags": {name: kinds[kind] for name, kind in flags.items()}}).encode()


def _flag(kind: str, pilots: list[str]) -> dict[str, Any]:
    flag: dict[str, Any] = {"state": "ENABLED", "variants": {"on": True, "off": False}}
    flag["defaultVariant"] = "on" if kind == "w1" else "off"
    if kind == "w2":
        flag["targeting"] = {
            "if": [
                _equal("plan", "enterprise"), "on",
                _among("country", ["DE", "AT", "CH"]), "on",
                {"and": [_equal("plan", "pro"), _equal("region", "us")]}, "on",
                {"and": [_equal("country", "FR"), _equal("seats", 500)]}, "on",
                _among("targetingKey", pilots), "on",
                "off",
            ]
        }  # fmt: skip
    elif kind == "w3":
        flag["targeting"] = {"fractional": [["on", 25], ["off", 75]]}
    elif kind == "w4":
        flag["variants"] = {"red": "#f00", "green": "#0f0", "blue": "#00f"}
        flag["defaultVariant"] = "red"
        split = {"fractional": [["red", 25], ["green", 25], ["blue", 50]]}
        flag["targeting"] = {"if": [_equal("plan", "pro"), split, "red"]}
    return flag


def _equal(attribute: str, value: Any) -> dict[str, Any]:
    return {"==": [{"var": attribute}, value]}


def _among(attribute: str, values: list[str]) -> dict[str, Any]:
    return {"in": [{"var": attribute}, values]}


def imports() -> None:
    """What a program imports."""
    import openfeature.contrib.tools.flagd.core
    import openfeature.evaluation_context  # noqa: F401


def opened(path: str) -> Any:
    """An evaluator that was given the file."""
    from openfeature.contrib.tools.flagd.core import FlagdCore

    client = FlagdCore()
    refreshed(client, path)
    return client


def refreshed(client: Any, path: str) -> None:
    """Give the evaluator the file as it is now."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        client.set_flags(file.read())


def context(tenant: str, attributes: dict[str, Any]) -> Any:
    """OpenFeature's evaluation context."""
    from openfeature.evaluation_context import EvaluationContext

    return EvaluationContext(tenant, dict(attributes))
