"""Statsig: its specs from a data store that reads the file; where changes are awaited polled once
a second (its default is 10); no logging.

The tenant is the ``userID``. Gates answer the boolean questions, an experiment that of variants.
Its core is Rust.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISTRIBUTION = "statsig-python-core"
SEEN_BY = "its data store, polled every 1 s"

_BOOL = "client.check_gate(context, name)"
CALLS = {
    "w1": _BOOL,
    "w2": _BOOL,
    "w3": _BOOL,
    "w4": "client.get_experiment(context, name).get_string('colour', '')",
}


def document(flags: dict[str, str], pilots: list[str]) -> bytes:
    """The specs, as its server serves them; ``time`` tells new ones from old."""
    import json
    from time import time_ns

    conditions = {
        "public": _condition("public"),
        "enterprise": _among("plan", ["enterprise"]),
        "dach": _among("country", ["DE", "AT", "CH"]),
        "pro": _among("plan", ["pro"]),
        "us": _among("region", ["us"]),
        "fr": _among("country", ["FR"]),
        "large": _condition("user_field", field="seats", operator="eq", target=500),
        "pilots": _condition("unit_id", operator="any_case_sensitive", target=pilots),
        "not pro": _condition(
            "user_field", field="plan", operator="none_case_sensitive", target=["pro"]
        ),
    }
    gates, experiments = {}, {}
    for name, kind in flags.items():
        if kind == "w4":
            experiments[name] = _experiment(name, conditions)
        else:
            gates[name] = _gate(name, kind)
    return json.dumps(
        {
            "has_updates": True,
            "time": time_ns() // 1_000_000,
            "feature_gates": gates,
            "dynamic_configs": experiments,
            "layer_configs": {},
            "condition_map": conditions,
            "experiment_to_layer": {},
        }
    ).encode()


def _gate(name: str, kind: str) -> dict[str, Any]:
    rules = [_rule("all", ["public"], True, 0 if kind == "w0" else 100)]
    if kind == "w2":
        wanted = {
            "enterprise": ["enterprise"],
            "dach": ["dach"],
            "us": ["pro", "us"],
            "large": ["fr", "large"],
            "pilots": ["pilots"],
        }
        rules = [_rule(rule, asked, True) for rule, asked in wanted.items()]
    elif kind == "w3":
        rules = [_rule("rollout", ["public"], True, 25)]
    return _spec(name, "feature_gate", rules, False)


def _experiment(name: str, conditions: dict[str, Any]) -> dict[str, Any]:
    rules = [_rule("not pro", ["not pro"], {"colour": "red"})]
    for colour, bound in {"red": 250, "green": 500, "blue": 1000}.items():
        # The bucket is of the experiment's salt, so each experiment has conditions of its own.
        key = f"{name} {colour}"
        conditions[key] = _condition(
            "user_bucket", operator="lt", target=bound, additional={"salt": name}
        )
        rules.append(_rule(colour, [key], {"colour": colour}))
    return _spec(name, "dynamic_config", rules, {"colour": "red"}, "experiment")


def _spec(
    name: str, type: str, rules: list[Any], default: Any, entity: str = "feature_gate"
) -> dict[str, Any]:
    return {
        "name": name,
        "type": type,
        "salt": name,
        "enabled": True,
        "defaultValue": default,
        "rules": rules,
        "idType": "userID",
        "entity": entity,
        "isActive": True,
    }


def _rule(name: str, conditions: list[str], answer: Any, share: int = 100) -> dict[str, Any]:
    return {
        "name": name,
        "id": name,
        "salt": name,
        "passPercentage": share,
        "conditions": conditions,
        "returnValue": answer,
        "idType": "userID",
    }


def _among(field: str, values: list[str]) -> dict[str, Any]:
    return _condition("user_field", field=field, operator="any_case_sensitive", target=values)


def _condition(
    type: str,
    *,
    field: str | None = None,
    operator: str | None = None,
    target: Any = None,
    additional: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "type": type,
        "targetValue": target,
        "operator": operator,
        "field": field,
        "additionalValues": additional or {},
        "idType": "userID",
    }


def imports() -> None:
    """What a program imports."""
    import statsig_python_core  # noqa: F401


def opened(path: str) -> Any:
    """A client whose data store reads the file once."""
    return _client(path, polling=False)


def following(path: str) -> Any:
    """A client whose data store is asked again and again."""
    return _client(path, polling=True)


def _client(path: str, polling: bool) -> Any:
    from statsig_python_core import DataStore, DataStoreResponse, Statsig, StatsigOptions

    class File(DataStore):  # type: ignore[misc]
        """Specs of a file."""

        def get(self, key: str) -> Any:
            """The file, under whatever key."""
            with open(path, encoding="utf-8") as file:  # noqa: PTH123
                return DataStoreResponse(result=file.read(), time=None)

        def support_polling_updates_for(self, key: str) -> bool:
            """Whether it is to be asked again."""
            return polling

    options = StatsigOptions(
        data_store=File(),
        disable_network=True,
        disable_all_logging=True,
        disable_country_lookup=True,
        specs_sync_interval_ms=1000,
        output_log_level="none",
    )
    client = Statsig("secret-none", options)
    client.initialize().wait()
    return client


def context(tenant: str, attributes: dict[str, Any]) -> Any:
    """Its user."""
    from statsig_python_core import StatsigUser

    return StatsigUser(tenant, custom=dict(attributes))
