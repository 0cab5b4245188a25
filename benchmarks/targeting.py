"""Flags of flagd's: the same rule as ``targeting`` and in this project's own language.

flagd's benchmark standard for its evaluators (open-feature/flagd-evaluator, BENCHMARKS) has four
kinds of flag: none with rules, one comparison, nested comparisons, and ``fractional``; each is
asked with its context of five attributes, and the two in the middle with one of 105 as well. Its
names are kept: E2 static, E4 and E5 simple, E6 and E7 complex, O1 two buckets.

W2 to W4 are the workloads of ``reading``, written as ``targeting``. Own rules split by XXH3,
``fractional`` by MurmurHash3 of CBOR, as flagd has it: in O1 of flag key and targeting key, in W3
and W4 of the text of flag key and tenant, which the own rules split by.

Each pair is timed in one run, interleaved; the last column is the ratio of their medians.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.harness import Variant, calls, circumstances, measure, printed
from benchmarks.reading import CONTEXT, ON_OFF, PILOTS, TENANTS, WALK, definitions, walked
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.testing import replica

LIMIT = 1.5
SMALL: dict[str, Any] = {"tier": "premium", "role": "admin", "region": "us-east", "score": 85}
LARGE = SMALL | {f"attr_{number}": f"value-{number}" for number in range(100)}
TIERS = {"premium": "premium-tier", "standard": "standard-tier", "basic": "basic-tier"}


def var(name: str) -> dict[str, Any]:
    """What is found under a name."""
    return {"var": name}


def pairs() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By workload the flag in the own language and as flagd has it."""
    own = definitions()
    tiers: dict[str, Any] = {"variants": TIERS, "default": "basic", "disabled": "basic"}
    quarter = [{"variant": "on", "weight": 25}, {"variant": "off", "weight": 75}]
    tier, score = var("tier"), var("score")
    premium = {"and": [{"==": [tier, "premium"]}, {">": [score, 90]}]}
    standard = {"or": [{"==": [tier, "standard"]}, {">": [score, 50]}]}
    fraction = {"fractional": [["on", 25], ["off", 75]]}
    tenant = {"cat": [var("$flagd.flagKey"), var("tenant_id")]}
    colours = {"fractional": [tenant, ["red", 1], ["green", 1], ["blue", 2]]}
    plan, country = var("plan"), var("country")
    five = [
        {"==": [plan, "enterprise"]}, "on",
        {"in": [country, ["DE", "AT", "CH"]]}, "on",
        {"and": [{"==": [plan, "pro"]}, {"==": [var("region"), "us"]}]}, "on",
        {"and": [{"==": [country, "FR"]}, {"==": [var("seats"), 500]}]}, "on",
        {"in": [var("tenant_id"), PILOTS]}, "on",
        "off",
    ]  # fmt: skip
    return {
        "static": ({**ON_OFF, "default": "on"}, {**ON_OFF, "default": "on", "disabled": None}),
        "simple": (
            {**ON_OFF, "rules": [{"name": "tier", "when": {"tier": "premium"}, "serve": "on"}]},
            {**ON_OFF, "targeting": {"if": [{"==": [tier, "premium"]}, "on", "off"]}},
        ),
        "complex": (
            {
                **tiers,
                "rules": [
                    {
                        "name": "premium",
                        "when": {"tier": "premium", "score": {"gt": 90}},
                        "serve": "premium",
                    },
                    {
                        "name": "standard",
                        "when": {"$any": [{"tier": "standard"}, {"score": {"gt": 50}}]},
                        "serve": "standard",
                    },
                ],
            },
            {
                **tiers,
                "targeting": {"if": [premium, "premium", {"if": [standard, "standard", "basic"]}]},
            },
        ),
        "fractional": (
            {**ON_OFF, "rules": [{"name": "split", "serve": quarter}]},
            {**ON_OFF, "targeting": fraction},
        ),
        "w2": (own["w2"], {**ON_OFF, "targeting": {"if": five}}),
        "w3": (
            own["w3"],
            {**ON_OFF, "targeting": {"fractional": [tenant, ["on", 25], ["off", 75]]}},
        ),
        "w4": (
            own["w4"],
            {
                "variants": own["w4"]["variants"],
                "default": "red",
                "disabled": None,
                "targeting": {"if": [{"==": [plan, "pro"]}, colours]},
            },
        ),
    }


ASKED = (
    ("E2 static, 5 attributes", "static", "is_enabled", "small", "tenants"),
    ("E4 one comparison, 5 attributes", "simple", "is_enabled", "small", "tenants"),
    ("E5 one comparison, 105 attributes", "simple", "is_enabled", "large", "tenants"),
    ("E6 nested comparisons, 5 attributes", "complex", "variant", "small", "tenants"),
    ("E7 nested comparisons, 105 attributes", "complex", "variant", "large", "tenants"),
    ("O1 two buckets", "fractional", "is_enabled", "small", "tenants"),
    ("W2 five rules", "w2", "is_enabled", "contexts", "pilots"),
    ("W3 25 % split", "w3", "is_enabled", "", "tenants"),
    ("W4 three variants", "w4", "variant", "contexts", "tenants"),
)


def variants(flags: FeatureFlagManager) -> list[Variant]:
    """The empty loop, then each workload in the own language and as targeting."""
    known = {
        "flags": flags,
        "tenants": walked(TENANTS),
        "pilots": walked(PILOTS),
        "small": walked([dict(SMALL) for _ in TENANTS]),
        "large": walked([dict(LARGE) for _ in range(50)]),
        "contexts": walked([dict(CONTEXT) for _ in TENANTS]),
    }
    found = [calls("empty loop", "pass", known)]
    for label, kind, method, context, who in ASKED:
        rest = f", context={context}[i]" if context else ""
        for language in ("own", "flagd"):
            call = f"flags.{method}('{kind}-{language}', tenant_id={who}[i]{rest})"
            found.append(calls(f"{label} {language}", call, known))
    return found


def main() -> None:
    """Measure and print."""
    flags = {
        f"{kind}-{language}": flag
        for kind, pair in pairs().items()
        for language, flag in zip(("own", "flagd"), pair, strict=True)
    }
    with (
        replica(flags=flags) as kit,
        FeatureFlagManager(kit, counting=False) as manager,
    ):
        found = variants(manager)
        measure(found, WALK)
    overhead = statistics.median(found[0].batches)
    rows = []
    for (label, *_), own, flagd in zip(ASKED, found[1::2], found[2::2], strict=True):
        one, other = (statistics.median(each.batches) - overhead for each in (own, flagd))
        rows.append((label, f"{one:,.0f}", f"{other:,.0f}", f"{other / one:.2f}", f"<= {LIMIT:g}"))
    print(circumstances(__name__))
    head = ("rule", "own", "targeting", "x own", "limit")
    printed("Rules of flagd's; ns per call, medians of batches", head, rows)


if __name__ == "__main__":
    main()
