"""GrowthBook's Python SDK and our engine on imported features, over generated users."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.manifests.growthbook import import_growthbook
from control_plane.manifests.imported import Imported
from control_plane.manifests.loader import load_file
from control_plane.testing import replica

growthbook = pytest.importorskip("growthbook")

FEATURES = 300
USERS = 40
LISTS = ("country", "seats", "tags")
COUNTRIES = ["DE", "AT", "FR", "US", ""]
GROUPS = {"dach": ["DE", "AT"], "ids": ["u1", "u2", 7], "typed": {
    "type": "list", "attributeKey": "country", "values": ["FR", "DE"]}, "beta": {
    "type": "condition", "condition": {"beta": True}}}  # fmt: skip


class Generator:
    """Features and users that reach every kind of rule, from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def features(self, count: int) -> dict[str, Any]:
        """Features, the later of which may ask the earlier."""
        found: dict[str, Any] = {}
        for number in range(count):
            found[f"feature-{number}"] = self._feature(list(found)[-8:])
        return found

    def user(self) -> dict[str, Any]:
        """The attributes of one user; most are there."""
        r = self._random
        user: dict[str, Any] = {
            "id": r.choice(
                [f"u{r.randrange(10**6)}", f"u{r.randrange(4)}", r.randrange(9), "", None]
            ),
            "device": r.choice([f"d{r.randrange(1000)}", 1.5, 0, True, "ü😀"]),
            "country": r.choice([*COUNTRIES, ["DE", "XX"], ["US", 1], [], {"DE": 1}, None, 1]),
            "seats": r.choice([0, 1, 5, 5.0, 7.5, -1, 500, "5", True, None, [5]]),
            "beta": r.choice([True, False, 1, 0, "true", None]),
            "version": r.choice(["1.2.0", "1.10.0", "2.0.0-rc.1", "2.0.0", None]),
            "tags": r.choice([["a"], ["a", "b"], ["b", "c", 1], [], "a", "ab", None, {"a": 1}]),
            "company": r.choice([{"plan": "pro"}, {"plan": {"name": "pro"}}, {}, "pro", None]),
        }
        return {name: value for name, value in user.items() if r.random() < 0.85}

    def _feature(self, others: list[str]) -> dict[str, Any]:
        r = self._random
        values: list[Any] = r.choice([
            [True, False], ["red", "green", "blue"], [1, 2.5, 3], ["a b", "", "x"],
            [{"a": 1}, {"a": 2}, {}], [[1], [2], []],
        ])  # fmt: skip
        rules = [self._rule(values, others) for _ in range(r.choice([0, 1, 1, 2, 3, 4]))]
        feature: dict[str, Any] = {"defaultValue": r.choice([*values, *values, None])}
        return {**feature, "rules": rules} if rules or r.random() < 0.5 else feature

    def _rule(self, values: list[Any], others: list[str]) -> dict[str, Any]:
        r = self._random
        rule: dict[str, Any] = {}
        if r.random() < 0.6:
            rule["condition"] = self._condition(2)
        if others and r.random() < 0.25:
            rule["parentConditions"] = [self._parent(others) for _ in range(r.choice([1, 1, 2]))]
            if r.random() < 0.3:
                return rule
        if r.random() < 0.4:
            rule["hashAttribute"] = r.choice(["id", "device", "country", "missing"])
        if r.random() < 0.6:
            rule["hashVersion"] = r.choice([1, 2])
        if r.random() < 0.3:
            rule["seed"] = r.choice(["seed", "ß", "another-seed"])
        if r.random() < 0.2:
            rule["filters"] = [self._filter() for _ in range(r.choice([1, 2]))]
        if r.random() < 0.5:
            rule["force"] = r.choice(values)
            if r.random() < 0.4:
                rule["coverage"] = r.choice([0, 0.1, 0.29, 0.5, 0.3333, 1])
            elif r.random() < 0.3:
                rule["range"] = self._span()
            if r.random() < 0.2:
                rule["fallbackAttribute"] = r.choice(["device", "seats"])
        else:
            self._experiment(rule, values)
        return rule

    def _experiment(self, rule: dict[str, Any], values: list[Any]) -> None:
        r = self._random
        count = r.choice([1, 2, 2, 3, 4])
        rule["variations"] = [r.choice(values) for _ in range(count)]
        rule["key"] = r.choice(["exp", "exp-2"])
        if r.random() < 0.5:
            rule["coverage"] = r.choice([0, 0.2, 0.75, 1])
        if r.random() < 0.5:
            parts = [r.random() for _ in range(count)]
            rule["weights"] = r.choice([
                [round(part / sum(parts), 4) for part in parts], [0.1] * count, [1 / count] * count,
            ])  # fmt: skip
        elif r.random() < 0.3:
            rule["ranges"] = [self._span() for _ in range(count)]
        if r.random() < 0.3:
            rule["namespace"] = ["space", *self._span()]
        if r.random() < 0.2 and "ranges" not in rule:
            rule["meta"] = [{"key": str(n), "passthrough": r.random() < 0.4} for n in range(count)]

    def _span(self) -> list[float]:
        start = self._random.choice([0, 0.1, 0.25, 0.3, 0.6])
        return [start, self._random.choice([0.3, 0.5, 0.7, 1])]

    def _filter(self) -> dict[str, Any]:
        r = self._random
        found: dict[str, Any] = {"seed": r.choice(["f1", "f2"]), "ranges": [self._span()]}
        if r.random() < 0.5:
            found["ranges"].append(self._span())
            found["attribute"] = r.choice(["id", "device"])
        if r.random() < 0.5:
            found["hashVersion"] = r.choice([1, 2])
        return found

    def _parent(self, others: list[str]) -> dict[str, Any]:
        r = self._random
        asked = r.choice([
            {"value": True}, {"value": {"$exists": True}}, {"value": {"$exists": False}},
            {"value": {"$ne": "red"}}, {"value": {"$in": ["red", "green", 1, ""]}}, {"value.a": 1},
            {"value": {"$gt": 1}},
        ])  # fmt: skip
        found = {"id": r.choice(others), "condition": asked}
        return {**found, "gate": True} if r.random() < 0.5 else found

    def _condition(self, depth: int) -> dict[str, Any]:
        r = self._random
        found: dict[str, Any] = {}
        for _ in range(r.choice([1, 1, 2, 3])):
            if depth and r.random() < 0.25:
                word = r.choice(["$or", "$and", "$nor", "$not", "$savedGroup"])
                several = [self._condition(depth - 1) for _ in range(r.choice([0, 1, 2, 3]))]
                found[word] = several
                if word == "$not":
                    found[word] = self._condition(depth - 1)
                elif word == "$savedGroup":
                    found[word] = r.choice([
                        {"id": "beta"}, {"id": "typed"}, {"id": "typed", "attributeKey": "tags"},
                    ])  # fmt: skip
            else:
                name, asked = self._leaf()
                found[name] = asked
        return found

    def _leaf(self) -> tuple[str, Any]:
        r = self._random
        name = r.choice([
            "country", "country", "seats", "beta", "version", "tags", "company.plan",
            "company.plan.name", "id", "nowhere",
        ])  # fmt: skip
        words: dict[str, Any] = {
            "$eq": r.choice(["DE", "", 5, 0, 1, True, False, None, ["DE"], "pro"]),
            "$ne": r.choice(["DE", 5, 1, True, None, [], "pro"]),
            "$in": r.choice([["DE", "FR"], ["a", "u1"], [], ["pro", ["DE"]], [1, None]]),
            "$nin": r.choice([["DE", "FR"], ["a", "b"], []]),
            "$gt": r.choice([1, 5, 7.5, None, True]), "$lte": r.choice([5, 5.0, -1]),
            "$exists": r.choice([True, False, 1, 0]),
            "$type": r.choice(["string", "number", "boolean", "null"]),
            "$inGroup": "dach", "$notInGroup": "dach", "$all": r.choice([["a"], ["a", "b"]]),
            "$elemMatch": {"$eq": "b"}, "$not": {"$in": ["DE", "a"]},
        }  # fmt: skip
        if r.random() < 0.3:
            return name, r.choice(["DE", "pro", 5, 1, 0, True, False, None, "1.2.0", {}])
        picked = r.sample(sorted(words), r.choice([1, 1, 2]))
        return name, {word: words[word] for word in picked}


def imported(folder: Path, features: dict[str, Any]) -> Imported:
    path = folder / "features.json"
    path.write_text(json.dumps({"features": features, "savedGroups": GROUPS}), encoding="utf-8")
    return import_growthbook(load_file(path), lists=LISTS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The SDK warns of each experiment with one variation."""
    logger = logging.getLogger("growthbook")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.mark.parametrize("seed", [1, 2])
def test_exact_features_answer_as_the_sdk_does(tmp_path: Path, seed: int) -> None:
    generator = Generator(seed)
    features = generator.features(FEATURES)
    found = imported(tmp_path, features)
    changed = {change.path[1] for change in found.changes}
    exact = [document for document in found.documents if document["name"] not in changed]
    flags = {document["name"]: document["metadata"] for document in found.documents}
    sdk = growthbook.GrowthBook(features=features, saved_groups=GROUPS)
    asked = differing = 0
    with replica(flags=flags) as client:
        for _ in range(USERS):
            user = generator.user()
            sdk.set_attributes(user)
            for document in exact:
                name = document["name"]
                asked += 1
                theirs = sdk.eval_feature(name).value
                ours = client.flags.evaluate(name, None, context=user)
                assert ours.error_code is None, (name, user, ours)
                same = type(theirs) is type(ours.value) or not isinstance(theirs, bool)
                if not (same and theirs == ours.value):
                    differing += 1
                    if differing == 1:
                        print(name, json.dumps(features[name]), document, user, theirs, ours)
    sdk.destroy()
    print(
        "growthbook : "
        f"{len(found.documents)} of {FEATURES} features carried, {len(exact)} exactly; "
        f"{asked - differing} of {asked} answers agree"
    )
    assert differing == 0
    assert len(exact) > FEATURES // 2
