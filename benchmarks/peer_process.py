"""A process of `peers`: one library with its flags. Prints JSON, or a line for each change seen.

    python -m benchmarks.peer_process latency|memory|changes SDK FILE KINDS ROOT

``KINDS`` is how many flags of each kind there are to ask for, ``ROOT`` the replica with the same
flags. Of ``latency`` the answers are compared first: those of W1 and W2 have to be ours, those of
the splits shared as ours are, within two points of a hundred.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from time import perf_counter_ns, sleep

from benchmarks.memory import private_dirty_kib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KINDS = ("w1", "w2", "w3", "w4")
CONTEXT = {"plan": "pro", "country": "FR", "region": "eu", "seats": 40}
CHANGED = "w1-000"
ASKED_EVERY_SECONDS = 0.0001
TOLERANCE = 0.02


def names_of(kind: str, kinds: int) -> list[str]:
    """The names of the flags of a kind that are asked for."""
    return [f"{kind}-{number:03}" for number in range(kinds)]


def asking(sdk: Any, client: Any, kind: str) -> Callable[[str, str, Any], Any]:
    """The library's call of that workload as a function of name, tenant and context."""
    source = f"lambda name, tenant, context: {sdk.CALLS[kind]}"
    function: Callable[[str, str, Any], Any] = eval(source, {"client": client})
    return function


def attributes_of(kind: str) -> dict[str, Any]:
    """What the context holds beside the tenant."""
    return CONTEXT if kind in ("w2", "w4") else {}


def memory(sdk: Any, file: str, kinds: int) -> None:
    """Print what opening the flags and evaluating 100 of them adds to the imports, in KiB."""
    sdk.imports()
    before = private_dirty_kib()
    client = sdk.opened(file)
    for kind in KINDS:
        ask = asking(sdk, client, kind)
        context = sdk.context("tenant-0", attributes_of(kind))
        for name in names_of(kind, min(kinds, 25)):
            ask(name, "tenant-0", context)
    print(private_dirty_kib() - before, flush=True)


def changes(sdk: Any, file: str) -> None:
    """Print the clock each time the flag is seen to have changed, until standard input ends."""
    client = getattr(sdk, "following", sdk.opened)(file)
    ask = asking(sdk, client, "w1")
    context = sdk.context("tenant-0", {})
    refreshed = getattr(sdk, "refreshed", None)
    found, stamp = ask(CHANGED, "tenant-0", context), _stamp(file)
    print("ready", flush=True)
    for _ in sys.stdin:
        while ask(CHANGED, "tenant-0", context) is found:
            if refreshed is not None and _stamp(file) != stamp:
                stamp = _stamp(file)
                refreshed(client, file)
            sleep(ASKED_EVERY_SECONDS)
        print(perf_counter_ns(), flush=True)
        found = not found


def _stamp(file: str) -> tuple[int, int]:
    found = os.stat(file)  # noqa: PTH116
    return found.st_ino, found.st_mtime_ns


def latency(sdk: Any, file: str, kinds: int, root: str) -> None:
    """Print the rows of ours, with counting off and on, and of the library beside them."""
    import json

    from benchmarks.harness import calls, measure, percentile
    from benchmarks.reading import PILOTS, TENANTS, WALK, Lookup, walked
    from benchmarks.sdks import ours

    tenants = TENANTS[7::2] + TENANTS[::2]
    asked = {"ours off": (ours, ours.opened(root, False)), "ours": (ours, ours.opened(root, True))}
    if sdk is not ours:
        asked["peer"] = sdk, sdk.opened(file)
        for kind in KINDS:
            _compare(kind, asked["ours"], asked["peer"], kinds, (TENANTS, PILOTS))
    variants = [calls("empty", "pass", {})]
    lookup = Lookup(dict.fromkeys(names_of("w1", kinds), True))
    known: dict[str, Any] = {"o": lookup, "names": walked(names_of("w1", kinds))}
    known["tenants"] = walked(tenants)
    variants.append(calls("F", "o.kw(names[i], tenant_id=tenants[i])", known))
    for label, (module, client) in asked.items():
        for kind in KINDS:
            who = PILOTS if kind == "w2" else tenants
            attributes = attributes_of(kind)
            known = {
                "client": client,
                "names": walked(names_of(kind, kinds)),
                "tenants": walked(who),
                "contexts": walked([module.context(tenant, attributes) for tenant in who]),
            }
            variants.append(calls(f"{label} {kind}", _indexed(module.CALLS[kind]), known))
    measure(variants, WALK)
    empty = percentile(variants[0].batches, 0.5)
    found = {
        variant.label: [percentile(variant.batches, share) - empty for share in (0.5, 0.99)]
        for variant in variants[1:]
    }
    print(json.dumps(found), flush=True)


def _indexed(call: str) -> str:
    """The call with its three words taken from prepared lists by the loop's index."""
    import re

    return re.sub(
        r"\b(?<![.'])(name|tenant|context)\b(?!=|')", lambda found: f"{found[0]}s[i]", call
    )


def _compare(
    kind: str, ours: Any, peer: Any, kinds: int, people: tuple[list[str], list[str]]
) -> None:
    """Insist that a library answers as ours does."""
    tenants, pilots = people
    found: list[dict[Any, int]] = [{}, {}]
    contexts = [
        {who: module.context(who, attributes_of(kind)) for who in tenants}
        for module, _ in (ours, peer)
    ]
    mine, theirs = (asking(module, client, kind) for module, client in (ours, peer))
    split = kind in ("w3", "w4")
    for name in names_of(kind, min(kinds, 10)):
        for who in tenants if split else [*pilots, *tenants[1:200:3]]:
            pair = (mine(name, who, contexts[0][who]), theirs(name, who, contexts[1][who]))
            for answers, answer in zip(found, pair, strict=True):
                answers[answer] = answers.get(answer, 0) + 1
            if not split and pair[0] is not pair[1]:
                raise RuntimeError(f"{name} for {who}: expected {pair[0]}, found {pair[1]}")
    asked = sum(found[0].values())
    for answer in {*found[0], *found[1]}:
        shares = [answers.get(answer, 0) / asked for answers in found]
        if abs(shares[0] - shares[1]) > TOLERANCE:
            raise RuntimeError(
                f"{kind}: expected {answer!r} for {shares[0]:.3f}, found {shares[1]:.3f}"
            )


def program(what: str, sdk_name: str, file: str, kinds: str, root: str) -> None:
    """Run one of the three."""
    sdk = import_module(f"benchmarks.sdks.{sdk_name}")
    if what == "memory":
        memory(sdk, file, int(kinds))
    elif what == "changes":
        changes(sdk, file)
    else:
        latency(sdk, file, int(kinds), root)


if __name__ == "__main__":
    program(*sys.argv[1:])
    # Without the clean-up of threads and of 100,000 flags.
    os._exit(0)
