"""Unleash's Python SDK and our engine on imported features, over generated contexts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from control_plane.manifests.loader import load_file
from control_plane.manifests.unleash import import_unleash
from control_plane.testing import replica

UnleashClient = pytest.importorskip("UnleashClient")
pytest.importorskip("UnleashClient.cache")

FEATURES = 300
CONTEXTS = 40
NOW = 1_780_000_000.0
SEGMENTS = [
    {"id": 1, "name": "dach", "constraints": [
        {"contextName": "country", "operator": "IN", "values": ["DE", "AT"]}]},
    {"id": 2, "name": "nobody", "constraints": [
        {"contextName": "country", "operator": "IN", "values": []}]},
    {"id": 3, "name": "everybody", "constraints": []},
    {"id": 4, "name": "two", "constraints": [
        {"contextName": "seats", "operator": "NUM_GT", "value": "3"},
        {"contextName": "userId", "operator": "NOT_IN", "values": ["u1", "7"]}]},
]  # fmt: skip


class Generator:
    """Features and contexts that reach every kind of strategy, from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def features(self, count: int) -> list[dict[str, Any]]:
        """Features, the later of which may depend on the earlier."""
        found: list[dict[str, Any]] = []
        for number in range(count):
            found.append(self._feature(f"feature-{number}", found[-8:]))
        return found

    def context(self) -> dict[str, Any]:
        """A context of Unleash's: text alone."""
        r = self._random
        context = {
            "userId": r.choice([f"u{r.randrange(10**6)}", f"u{r.randrange(4)}", "7", "", "ü😀"]),
            "sessionId": r.choice([f"s{r.randrange(10**6)}", "s1"]),
            "environment": r.choice(["prod", "dev"]),
            "appName": r.choice(["shop", "api"]),
            "remoteAddress": r.choice(["10.0.0.5", "10.0.1.5", "127.0.0.1", "::1", "x"]),
        }
        properties = {
            "country": r.choice(["DE", "AT", "FR", "de", "", "D"]),
            "plan": r.choice(["pro", "enterprise", "PRO-1", ""]),
            "seats": r.choice(["0", "1", "5", "5.0", "7.5", "-1", "500", "many", ""]),
            "version": r.choice(
                ["1.2.0", "1.10.0", "2.0.0-rc.1", "2.0.0", "2.0.0+b", "1.2", "v2.0.0", "01.0.0"]
            ),
            "since": r.choice(
                ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "2027-01-01T00:00:00.5Z",
                 "2026-01-01", "1767225600"]
            ),
        }  # fmt: skip
        kept = {name: value for name, value in context.items() if r.random() < 0.85}
        return {**kept, "properties": {n: v for n, v in properties.items() if r.random() < 0.85}}

    def _feature(self, name: str, others: list[dict[str, Any]]) -> dict[str, Any]:
        r = self._random
        feature: dict[str, Any] = {
            "name": name, "type": "release", "project": "default", "stale": False,
            "enabled": r.random() < 0.92, "impressionData": r.random() < 0.2,
            "strategies": [self._strategy(name) for _ in range(r.choice([0, 1, 1, 2, 3]))],
            "variants": [],
        }  # fmt: skip
        if r.random() < 0.5:
            kind = r.choice(["string", "csv", "json", "number", None])
            self._vary(feature, kind)
        if others and r.random() < 0.3:
            feature["dependencies"] = [self._dependency(r.choice(others))]
        return feature

    def _vary(self, feature: dict[str, Any], kind: str | None) -> None:
        r = self._random
        if r.random() < 0.6:
            feature["variants"] = self._variants(kind, own=True)
        for strategy in feature["strategies"]:
            if r.random() < 0.7:
                strategy["variants"] = self._variants(kind) if r.random() < 0.7 else []

    def _variants(self, kind: str | None, own: bool = False) -> list[dict[str, Any]]:
        r = self._random
        stickiness = r.choice(["default", "default", "userId", "sessionId", "country"])
        found = []
        for name in r.sample(["red", "green", "blue", "grey"], r.choice([1, 2, 3, 4])):
            variant: dict[str, Any] = {"name": name, "weight": r.choice([1, 250, 333, 500, 1000])}
            variant["stickiness"] = stickiness
            if kind is not None:
                value = {"json": json.dumps({"c": name}), "number": str(len(name) + 0.5)}
                variant["payload"] = {"type": kind, "value": value.get(kind, f"{name},1")}
            if own and r.random() < 0.3:
                variant["overrides"] = [
                    {"contextName": r.choice(["userId", "plan"]), "values": ["u1", "pro", "7"]}
                ]
            found.append(variant)
        if len(found) > 1 and r.random() < 0.2:
            found[-1]["weight"] = 0
        return found

    def _dependency(self, other: dict[str, Any]) -> dict[str, Any]:
        r = self._random
        found: dict[str, Any] = {"feature": other["name"]}
        if r.random() < 0.5:
            found["enabled"] = r.random() < 0.6
        if found.get("enabled", True) and r.random() < 0.5:
            found["variants"] = r.sample(["red", "green", "blue", "grey"], r.choice([0, 1, 2]))
        return found

    def _strategy(self, name: str) -> dict[str, Any]:
        r = self._random
        share = str(r.choice([0, 1, 10, 33, 50, 99, 100]))
        kinds: list[tuple[str, dict[str, str]]] = [
            ("default", {}),
            ("userWithId", {"userIds": "u1, u2,7"}),
            ("flexibleRollout", {"rollout": share, "stickiness": r.choice(
                ["default", "userId", "sessionId", "country", "environment", "appName", "random"]
            ), "groupId": r.choice([name, "group"])}),
            ("flexibleRollout", {"rollout": share}),
            ("gradualRolloutUserId", {"percentage": share, "groupId": "g"}),
            ("gradualRolloutSessionId", {"percentage": share, "groupId": name}),
            ("gradualRolloutRandom", {"percentage": r.choice(["0", "100"])}),
            ("remoteAddress", {"IPs": "127.0.0.1, 10.0.0.0/24"}),
        ]  # fmt: skip
        kind, parameters = r.choice([*kinds, kinds[2]])
        found: dict[str, Any] = {"name": kind, "parameters": parameters, "constraints": []}
        if r.random() < 0.6:
            found["constraints"] = [self._constraint() for _ in range(r.choice([1, 1, 2, 3]))]
        if r.random() < 0.25:
            found["segments"] = r.sample([1, 2, 3, 4], r.choice([1, 1, 2]))
        return found

    def _constraint(self) -> dict[str, Any]:
        r = self._random
        name, operator, asked = r.choice([
            (r.choice(["country", "plan", "userId", "appName", "nowhere"]),
             r.choice(["IN", "NOT_IN"]),
             r.choice([["DE", "pro", "u1"], ["", "7"], [], ["AT", "shop"]])),
            (r.choice(["country", "plan", "userId"]),
             r.choice(["STR_CONTAINS", "STR_STARTS_WITH", "STR_ENDS_WITH"]),
             r.choice([["D"], ["r", "E"], [""], [], ["u", "1"]])),
            ("seats", r.choice(["NUM_EQ", "NUM_GT", "NUM_GTE", "NUM_LT", "NUM_LTE"]),
             r.choice(["5", "5.0", "-1", "7.5", "+1"])),
            ("version", r.choice(["SEMVER_EQ", "SEMVER_GT", "SEMVER_LT", "SEMVER_GTE"]),
             r.choice(["1.2.0", "2.0.0", "2.0.0-beta"])),
            (r.choice(["since", "currentTime"]), r.choice(["DATE_AFTER", "DATE_BEFORE"]),
             r.choice(["2026-01-01T00:00:00.000Z", "2026-12-01T00:00:00+02:00"])),
        ])  # fmt: skip
        found: dict[str, Any] = {"contextName": name, "operator": operator}
        found["values" if isinstance(asked, list) else "value"] = asked
        if r.random() < 0.25:
            found["inverted"] = True
        return found


def attributes(context: dict[str, Any]) -> dict[str, Any]:
    """What calls of ours give for that context, as the importer's notes say."""
    found = {**context, **context["properties"]}
    del found["properties"]
    if "userId" in found:
        found["user_id"] = found.pop("userId")
    with suppress(KeyError, ValueError):
        found["seats"] = float(found["seats"])
    return found


def is_stated(name: str, changes: dict[str, list[str]], context: dict[str, Any]) -> bool:
    """Whether a feature's answer may differ: what the context lacks is chosen at random there."""
    known = {**context, **context["properties"]}
    for change in changes.get(name, ()):
        if "neither a user id nor" in change:
            stated = "userId" not in context and "sessionId" not in context
        elif "which it asks, differs" in change:
            stated = is_stated(change.split(": ")[1].split(",")[0], changes, context)
        elif "a rollout without groupId" in change:
            stated = True
        else:
            assert "callers without" in change, change
            stated = change.split("callers without ")[1].split(" ")[0] not in known
        if stated:
            return True
    return False


class Sdk:
    """The SDK, with features from a file and nothing else."""

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        cache = UnleashClient.cache.FileCache("agreement", directory=str(folder))
        cache.bootstrap_from_dict(document)
        self.client = UnleashClient.UnleashClient(
            "http://127.0.0.1:9/api", "agreement", cache=cache, disable_metrics=True,
            disable_registration=True,
        )  # fmt: skip
        self.client.unleash_static_context = {"currentTime": "2026-05-28T20:26:40Z"}

    def enabled(self, name: str, context: dict[str, Any]) -> bool:
        return bool(self.client.is_enabled(name, context))

    def variant(self, name: str, context: dict[str, Any]) -> str | None:
        found = self.client.get_variant(name, context)
        return str(found["name"]) if found["enabled"] else None


@pytest.fixture
def sdk(tmp_path: Path) -> Iterator[Any]:
    opened: list[Sdk] = []

    def open_sdk(document: dict[str, Any]) -> Sdk:
        opened.append(Sdk(tmp_path / "cache", document))
        return opened[-1]

    yield open_sdk
    for each in opened:
        each.client.destroy()


@pytest.mark.parametrize("seed", [1, 2])
def test_imported_features_answer_as_the_sdk_does(tmp_path: Path, sdk: Any, seed: int) -> None:
    generator = Generator(seed)
    features = generator.features(FEATURES)
    document = {"version": 2, "features": features, "segments": SEGMENTS}
    path = tmp_path / "features.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    found = import_unleash(load_file(path))
    flags = {each["name"]: each["metadata"] for each in found.documents}
    changes: dict[str, list[str]] = {}
    for change in found.changes:
        changes.setdefault(features[int(change.path[1])]["name"], []).append(change.text)
    names = [feature["name"] for feature in features if feature["name"] in flags]
    theirs = sdk(document)
    agreeing = stated = 0
    differing: list[Any] = []
    with replica(flags=flags, now=lambda: NOW) as client:
        for _ in range(CONTEXTS):
            context = generator.context()
            mine = attributes(context)
            for name in names:
                if is_stated(name, changes, context):
                    stated += 1
                    continue
                pairs: list[tuple[Any, Any]] = [
                    (client.flags.is_enabled(name, context=mine), theirs.enabled(name, context))
                ]
                if f"{name}.variant" in flags:
                    variant = client.flags.variant(f"{name}.variant", context=mine)
                    pairs.append((variant, theirs.variant(name, context)))
                wrong = [(name, context, pair) for pair in pairs if pair[0] != pair[1]]
                differing += wrong
                agreeing += len(pairs) - len(wrong)
    print(
        f"UnleashClient: {len(names)} of {FEATURES} features carried, "
        f"{len(changes)} of them with a stated difference; {agreeing} of "
        f"{agreeing + len(differing)} answers agree, {stated} may differ as stated"
    )
    assert differing[:1] == []
    assert len(names) > FEATURES // 2
    assert agreeing > 10 * stated
