"""How long it takes to judge and to merge a configuration that many tenants share.

Run with ``python -m benchmarks.config_validation``. Each row is one whole call, the median of five:

- *validate*: a namespace of 100 leaves with a schema of formats and bounds, and 1,000 tenants'
  manifests that change five leaves each: every tenant's merged document against the schema, as the
  store and each node do it. Beside it the same documents, merged before, by the bare engine.
- *with references*: 20 of the leaves are text that refers to another namespace, in which every
  tenant has a value of its own.
- *one tenant*: what the store does when one tenant's manifest changes.
- *merge*: 200,000 leaves to records, and what the changes they rest on take in the replica.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import msgpack

from control_plane.configs.layers import merged_config
from control_plane.configs.references import Configuration, Documents
from control_plane.manifests.configs import problems
from control_plane.replica.compile import config_records

TENANTS = 1_000
LEAVES = 100
MANY = 1_000
ROUNDS = 5


def document(name: str, **metadata: Any) -> dict[str, Any]:
    """A config manifest."""
    return {"kind": "config", "name": name, "metadata": metadata}


def namespace(references: bool, leaves: int = LEAVES) -> dict[str, Documents]:
    """A namespace and its 1,000 tenants, and the one it refers to."""
    kinds: list[tuple[dict[str, Any], Any]] = [
        ({"type": "integer", "minimum": 0, "maximum": 10_000}, 5),
        ({"type": "string", "minLength": 1, "maxLength": 200}, "some text"),
        ({"type": "string", "format": "uri"}, "https://example.org/a"),
        ({"type": "boolean", "default": False}, True),
        ({"type": "array", "items": {"type": "string"}}, ["a", "b", "c"]),
    ]
    properties, values = {}, {}
    for number in range(leaves):
        properties[f"k{number:03}"], values[f"k{number:03}"] = kinds[number % len(kinds)]
    if references:
        for number in range(2, leaves, 5):
            values[f"k{number:03}"] = f"https://${{hosts.web}}/{number}"
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    own = [
        document(f"app@t{tenant:04}", values={f"k{5 * each:03}": tenant for each in range(5)})
        for tenant in range(TENANTS)
    ]
    hosts = [document(f"hosts@t{n:04}", values={"web": f"t{n}.org"}) for n in range(TENANTS)]
    return {
        "app": (document("app", schema=schema, values=values), [*own]),
        "hosts": (document("hosts", values={"web": "example.org"}), [*hosts]),
    }


def median_ms(call: Callable[[], object]) -> float:
    """The median of whole calls in milliseconds."""
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1000


def judge(documents: dict[str, Documents], tenants: set[str] | None = None) -> None:
    """What the store and each node do."""
    configuration = Configuration("production", documents.get)
    assert not list(problems(configuration, "app", documents["app"], tenants=tenants))


def main() -> None:
    """Print the rows."""
    plain, referring = namespace(references=False), namespace(references=True)
    base, own = plain["app"]
    assert base is not None
    merged = [tree for _, tree in merged_config(base, own, "production")]
    schema = base["metadata"]["schema"]
    engine = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    print(
        f"validate, {TENANTS} tenants x {LEAVES} leaves   {median_ms(lambda: judge(plain)):8.1f} ms"
    )
    assert all(map(engine.is_valid, merged))
    bare = median_ms(lambda: all(map(engine.is_valid, merged)))
    print(f"  the bare engine, documents merged      {bare:8.1f} ms")
    wide = namespace(references=False, leaves=MANY)
    took = median_ms(lambda: judge(wide))
    print(f"validate, {TENANTS} tenants x {MANY} leaves  {took:8.1f} ms")
    print(f"with references                          {median_ms(lambda: judge(referring)):8.1f} ms")
    one = median_ms(lambda: judge(referring, {"t0500"}))
    print(f"one tenant                               {one:8.1f} ms")
    large = document("big", values={f"k{n:06}": f"value {n}" for n in range(200_000)})
    took = median_ms(lambda: config_records(large, [], "production", 1))
    records = config_records(large, [], "production", 1)
    size = sum(map(len, records.values()))
    print(f"merge, 200000 leaves                     {took:8.1f} ms")
    entry = len(msgpack.packb([200_000, 1_800_000_000_000, "apply", ["0" * 64], "x" * 80]))
    print(f"  bytes of all leaves {size:,}; of what the log says of one change {entry:,}")


if __name__ == "__main__":
    main()
