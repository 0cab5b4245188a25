"""A call of the OpenFeature SDK with our provider, beside the same call with the SDK's own.

One replica of 400 flags, 100 of each kind; names, tenants and contexts are prepared and walked by
index. Each call is ``client.get_boolean_value(name, False, context)`` of the SDK's client, but for
the string flag; the context has a targeting key and four attributes.

* no-op: the SDK's provider that returns the default; it makes a details object, too.
* in-memory: the SDK's provider over a dictionary, static flags.
* static flag, five rules (four do not match, the fifth is a list of 100 tenants that does), 25 %
  split by targeting key, string flag: our provider, which counts what it serves, as it does unless
  told otherwise. ``over no-op`` is what we add to the same call.
* inside: our ``resolve_boolean_details`` alone, called as the SDK calls it, and the no-op's.
"""

from __future__ import annotations

import statistics
from typing import Any

from openfeature.evaluation_context import EvaluationContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from openfeature.provider.no_op_provider import NoOpProvider

from benchmarks.harness import Variant, calls, circumstances, measure, percentile, printed
from control_plane.openfeature import ControlPlaneProvider
from control_plane.testing import ReplicaKit, replica
from openfeature import api

OF_EACH = 100
WALK = 2_000
TENANTS = [f"tenant-{number}" for number in range(1000)]
ATTRIBUTES = {"plan": "pro", "country": "FR", "region": "eu", "seats": 40}
ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}
LIMIT_NS = 1_500
OURS = {"static flag": "static", "five rules": "ruled", "25 % split": "split"}


def definitions() -> dict[str, dict[str, Any]]:
    """The four kinds of flag."""
    quarter = [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}]
    rules = [
        {"name": "enterprise", "when": {"plan": "enterprise"}, "serve": "on"},
        {"name": "dach", "when": {"country": {"in": ["DE", "AT", "CH"]}}, "serve": "on"},
        {"name": "us", "when": {"plan": "pro", "region": "us"}, "serve": "on"},
        {"name": "large", "when": {"country": "FR", "seats": 500}, "serve": "on"},
        {"name": "pilots", "when": {"tenant_id": {"in": TENANTS[::10]}}, "serve": "on"},
    ]
    return {
        "static": {**ON_OFF, "default": "on"},
        "ruled": {**ON_OFF, "rules": rules},
        "split": {**ON_OFF, "rules": [{"name": "rollout", "serve": quarter}]},
        "text": {"variants": {"a": "red", "b": "blue"}, "default": "a", "disabled": "a"},
    }


def variants(kit: ReplicaKit) -> list[Variant]:
    """The empty loop, then the SDK's providers, ours, and the two resolving methods alone."""
    memory = {f"static-{n:03}": InMemoryFlag("on", {"on": True}) for n in range(OF_EACH)}
    ours, none = ControlPlaneProvider(kit), NoOpProvider()
    api.set_provider_and_wait(ours, "ours")
    api.set_provider_and_wait(none, "none")
    api.set_provider_and_wait(InMemoryProvider(memory), "memory")
    contexts = [EvaluationContext(t, {**ATTRIBUTES, "tenant_id": t}) for t in TENANTS[::10]]
    known: dict[str, Any] = {
        "contexts": [contexts[n % len(contexts)] for n in range(WALK)],
        **{name: api.get_client(name) for name in ("ours", "none", "memory")},
        "resolve": ours.resolve_boolean_details,
        "nothing": none.resolve_boolean_details,
        **{kind: [f"{kind}-{n % OF_EACH:03}" for n in range(WALK)] for kind in definitions()},
    }
    asked = "get_boolean_value({}[i], False, contexts[i])"
    inside = "(flag_key={}[i], default_value=False, evaluation_context=contexts[i])"
    text = "get_string_value(text[i], '', contexts[i])"
    return [
        calls("empty loop", "pass", known),
        calls("no-op", "none." + asked.format("static"), known),
        calls("in-memory", "memory." + asked.format("static"), known),
        *[calls(label, "ours." + asked.format(kind), known) for label, kind in OURS.items()],
        calls("string flag", "ours." + text, known),
        calls("inside no-op", "nothing" + inside.format("static"), known),
        *[
            calls(f"inside {label}", "resolve" + inside.format(kind), known)
            for label, kind in OURS.items()
        ],
    ]


def rows(empty: Variant, none: Variant, found: list[Variant]) -> list[tuple[str, ...]]:
    """(label, median, p99, over no-op, limit) of each, in nanoseconds."""
    loop = statistics.median(empty.batches)
    base = statistics.median(none.batches)
    table = []
    for variant in found:
        median = statistics.median(variant.batches)
        inside = variant.label.startswith("inside")
        over = "" if inside or variant is none else f"{median - base:,.0f}"
        limited = variant.label.removeprefix("inside ") in OURS or variant.label == "string flag"
        table.append((
            variant.label,
            f"{median - loop:,.0f}",
            f"{percentile(variant.batches, 0.99) - loop:,.0f}",
            over,
            f"<= {LIMIT_NS:,}" if limited else "",
        ))  # fmt: skip
    return table


def main() -> None:
    """Build the replica, measure and print."""
    kinds = definitions()
    flags = {f"{kind}-{n:03}": kinds[kind] for kind in kinds for n in range(OF_EACH)}
    with replica(flags=flags) as kit:
        found = variants(kit)
        measure(found, WALK)
        api.shutdown()
    print(circumstances(__name__))
    title = "A call of the OpenFeature SDK; ns per call, mean of a batch"
    head = ("provider", "median", "p99", "over no-op", "limit")
    printed(title, head, rows(found[0], found[1], found[1:]))


if __name__ == "__main__":
    main()
