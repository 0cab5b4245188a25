"""LaunchDarkly's Python SDK and our engine on imported flags, over generated contexts."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ldclient.context import Context
from ldclient.impl.evaluator import Evaluator
from ldclient.impl.events.types import EventFactory
from ldclient.impl.model import FeatureFlag, Segment

from control_plane.errors import ManifestInvalid
from control_plane.manifests.imported import Imported
from control_plane.manifests.launchdarkly import import_launchdarkly
from control_plane.manifests.loader import Document, load_file
from control_plane.testing import replica

FLAGS, SEGMENTS, CONTEXTS = 120, 25, 150
SCALARS = {
    "country": ["DE", "AT", "FR", ""],
    "seats": [0, 1, 5, 5.0, 7.5, -1, True, "5"],
    "beta": [True, False, 1, 0, "true"],
    "version": ["1.2.0", "1.10.0", "2.0.0-rc.1", "2.0.0+b1", "x"],
    "since": ["2026-01-31T08:00:00Z", "2026-01-31T08:00:00.5+01:00", 1769846400000, "x", 1.5],
    "name": ["Ann", "Bob"],
}
NESTED = {"plan": ["free", "pro"], "size": [1, 10, 99]}


class Generator:
    """Flag data and contexts that reach every branch, from a seed."""

    def __init__(self, seed: int) -> None:
        self._r = random.Random(seed)
        self._segments: list[str] = []
        self._flags: dict[str, int] = {}

    def data(self) -> dict[str, Any]:
        segments = {}
        for number in range(SEGMENTS):
            key = f"segment-{number}"
            segments[key] = self._segment(key)
            self._segments.append(key)
        flags = {}
        for number in range(FLAGS):
            key = f"flag-{number}"
            flags[key] = self._flag(key)
            self._flags[key] = len(flags[key]["variations"])
        return {"flags": flags, "segments": segments, "flagValues": {"simple": "yes"}}

    def context(self) -> dict[str, Any]:
        """One context by kind; most have a user."""
        r, found = self._r, {}
        if r.random() < 0.9:
            attributes = {n: r.choice(values) for n, values in SCALARS.items() if r.random() < 0.8}
            if r.random() < 0.5:
                attributes["company"] = {n: r.choice(v) for n, v in NESTED.items()}
            if r.random() < 0.5:
                attributes["groups"] = r.choice([[], ["a"], ["a", "b"], "a", "ab", 5])
            if r.random() < 0.3:
                attributes["anonymous"] = r.random() < 0.5
            found["user"] = {"key": self._key("u"), **attributes}
        if not found or r.random() < 0.5:
            attributes = {n: r.choice(v) for n, v in NESTED.items() if r.random() < 0.8}
            found["org"] = {"key": self._key("o"), **attributes}
        return found

    def _key(self, letter: str) -> str:
        return f"{letter}{self._r.choice([self._r.randrange(5), self._r.randrange(10**6)])}"

    def _some(self, choices: list[Any], least: int = 0, most: int = 3) -> list[Any]:
        return [self._r.choice(choices) for _ in range(self._r.randint(least, most))]

    def _keys(self, letter: str) -> list[str]:
        return sorted({f"{letter}{n}" for n in self._some(list(range(5)))})

    def _flag(self, key: str) -> dict[str, Any]:
        r = self._r
        variations = r.choice([[True, False], ["a", "b", "c"], [1, 2.5], [{"a": 1}, {"a": 1}], [7]])
        count = len(variations)
        flag: dict[str, Any] = {
            "key": key,
            "version": 1,
            "on": r.random() < 0.85,
            "variations": variations,
            "offVariation": r.choice([None, *range(count)]),
            "salt": f"salt-{r.randrange(99)}",
            "fallthrough": self._served(count),
            "rules": [
                {"id": f"rule {n}", "clauses": self._clauses(), **self._served(count)}
                for n in range(r.randint(0, 3))
            ],
        }
        if self._flags and r.random() < 0.4:
            flag["prerequisites"] = [
                {"key": other, "variation": r.randrange(self._flags[other])}
                for other in self._some(list(self._flags)[-6:], 1, 2)
            ]
        if r.random() < 0.4:
            flag["targets"] = [
                {"variation": r.randrange(count), "values": self._keys("u")} for _ in range(2)
            ]
        if r.random() < 0.2:
            flag["contextTargets"] = [
                {"variation": n, "contextKind": kind, "values": self._keys("o") * (kind == "org")}
                for n in range(count)
                for kind in ("org", "user")
            ]
        return flag

    def _served(self, count: int) -> dict[str, Any]:
        r = self._r
        if r.random() < 0.5:
            return {"variation": r.randrange(count)}
        weights = [r.choice([0, 1, 33_333, 50_000, 60_000, 100_000]) for _ in range(3)]
        rollout: dict[str, Any] = {
            "variations": [{"variation": r.randrange(count), "weight": w} for w in weights]
        }
        if r.random() < 0.3:
            rollout |= {"kind": "experiment", "seed": r.choice([61, 0, -7])}
            rollout["variations"][0]["untracked"] = True
        if r.random() < 0.5:
            kind = r.choice(["user", "org"])
            by = r.choice(["key", "country", "/company/plan", "seats"] if kind == "user" else
                          ["key", "plan", "size"])  # fmt: skip
            rollout |= {"contextKind": kind, "bucketBy": by}
        return {"rollout": rollout}

    def _clauses(self) -> list[dict[str, Any]]:
        return [self._clause() for _ in range(self._r.randint(0, 3))]

    def _clause(self) -> dict[str, Any]:
        r = self._r
        clause: dict[str, Any] = {"negate": r.random() < 0.3}
        if self._segments and r.random() < 0.25:
            asked = self._some([*self._segments, "unknown"], 1, 2)
            return {**clause, "attribute": "", "op": "segmentMatch", "values": asked}
        if r.random() < 0.1:
            kinds = self._some(["user", "org", "device"])
            return {**clause, "attribute": "kind", "op": "in", "values": kinds}
        if r.random() < 0.1:
            values = self._some([True, False, "x"])
            return {**clause, "attribute": "anonymous", "op": "in", "values": values}
        if r.random() < 0.15:
            values = self._some(["a", "b"])
            return {**clause, "attribute": "groups", "op": "in", "values": values}
        name, op, values = r.choice([
            ("country", "in", self._some([*SCALARS["country"], None, 5])),
            ("country", r.choice(["startsWith", "endsWith", "contains"]),
             self._some(["D", "E", 1])),
            ("seats", "in", self._some(SCALARS["seats"])),
            ("seats", r.choice(["lessThan", "lessThanOrEqual", "greaterThan",
                                "greaterThanOrEqual"]), self._some([1, 5, 7.5, "x"])),
            ("version", r.choice(["semVerEqual", "semVerLessThan", "semVerGreaterThan"]),
             self._some(["1.10", "2", "2.0.0-rc.1", "x", 5])),
            ("since", r.choice(["before", "after"]), self._some(SCALARS["since"])),
            ("key", "in", [*self._keys("u"), *self._keys("o")]),
            ("/company/plan", "in", self._some(NESTED["plan"])),
        ])  # fmt: skip
        if name == "/company/plan":
            clause["contextKind"] = "user"
        elif r.random() < 0.3:
            clause["contextKind"] = "org"
            name, op, values = r.choice([
                ("plan", "in", self._some(NESTED["plan"])),
                ("size", "greaterThan", self._some([1, 50])),
                ("key", "in", self._keys("o")),
            ])  # fmt: skip
        return {**clause, "attribute": name, "op": op, "values": values}

    def _segment(self, key: str) -> dict[str, Any]:
        r = self._r
        segment: dict[str, Any] = {"key": key, "version": 1, "salt": "s",
            "included": self._keys("u"), "excluded": self._keys("u")}  # fmt: skip
        if r.random() < 0.4:
            segment["includedContexts"] = [{"contextKind": "org", "values": self._keys("o")}]
            segment["excludedContexts"] = [
                {"contextKind": r.choice(["org", "user"]), "values": self._keys("o")}
            ]
        segment["rules"] = [{"clauses": self._clauses()} for _ in range(r.randint(0, 2))]
        for rule in segment["rules"]:
            if r.random() < 0.5:
                rule["weight"] = r.choice([0, 1, 25_000, 50_000, 100_000, 200_000])
                rule["rolloutContextKind"] = r.choice(["user", "org"])
                if r.random() < 0.3:
                    rule["bucketBy"] = r.choice(["plan", "country"])
        return segment


def imported(folder: Path, data: dict[str, Any], **how: Any) -> Imported:
    file = folder / "flags.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return import_launchdarkly(load_file(file), **how)


def theirs(data: dict[str, Any]) -> Any:
    """A function of flag key and contexts: the value, None where the caller's default is served."""
    flags = {key: FeatureFlag(flag) for key, flag in data["flags"].items()}
    segments = {key: Segment(segment) for key, segment in data["segments"].items()}
    evaluator = Evaluator(flags.get, segments.get, lambda key: (None, ""))
    events = EventFactory(False, lambda: 0)

    def ask(key: str, kinds: dict[str, Any]) -> Any:
        each = [Context.from_dict({"kind": kind, **kinds[kind]}) for kind in kinds]
        context = each[0] if len(each) == 1 else Context.create_multi(*each)
        assert context.valid, context.error
        return evaluator.evaluate(flags[key], context, events).detail.value

    return ask


def ours(kinds: dict[str, Any]) -> dict[str, Any]:
    """The same caller in a context of ours."""
    user = dict(kinds.get("user", {}))
    if "key" in user:
        user["targeting_key"] = user.pop("key")
    return {**user, **{kind: kinds[kind] for kind in kinds if kind != "user"}}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", range(4))
def test_flags_that_are_reported_as_exact_answer_as_the_sdk_does(
    tmp_path: Path, seed: int, record_property: Any
) -> None:
    generator = Generator(seed)
    data = generator.data()
    found = imported(tmp_path, data, lists=["groups"])
    assert found.problems == ()
    documents = {(each["kind"], each["name"]): each["metadata"] for each in found.documents}
    flags = {name: body for (kind, name), body in documents.items() if kind == "flag"}
    segments = {name: body for (kind, name), body in documents.items() if kind == "segment"}
    assert (len(flags), len(segments)) == (FLAGS + 1, SEGMENTS)
    ask = theirs(data)
    answers: list[bool] = []
    with replica(flags=flags, segments=segments) as kit:
        for _ in range(CONTEXTS):
            kinds = generator.context()
            for key in data["flags"]:
                mine = kit.flags.evaluate(key, None, context=ours(kinds))
                answers.append(mine.value == ask(key, kinds))
    print(f"seed {seed}: {sum(answers)} of {len(answers)} answers agree")
    record_property("agreement", sum(answers) / len(answers))
    assert (sum(answers), len(answers)) == (FLAGS * CONTEXTS, FLAGS * CONTEXTS)


JUNK = [
    None,
    True,
    0,
    -1,
    2.5,
    1e300,
    "",
    "x",
    "a.b",
    "/",
    [],
    [[]],
    [None],
    {},
    {"a": []},
    "\ud800",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON."""
    yield path
    steps: Any = value if isinstance(value, dict) else ()
    for step in range(len(value)) if isinstance(value, list) else steps:
        yield from places(value[step], (*path, step))


@pytest.mark.parametrize("seed", range(3))
def test_a_file_out_of_form_is_refused_part_by_part(seed: int) -> None:
    r = random.Random(seed)
    whole = Generator(seed).data()
    keys = sorted(whole["flags"])[:8]
    few = {"flags": {key: whole["flags"][key] for key in keys}, "segments": whole["segments"]}
    text = json.dumps(few)
    found = [path for path in places(few) if path]
    for _ in range(300):
        data = json.loads(text)
        path = r.choice(found)
        holder = data
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = r.choice(JUNK)
        try:
            result = import_launchdarkly(Document(data, "flags.json", b"{}"))
        except ManifestInvalid:
            # Without its keys a file says nothing of its parts.
            assert path[2:] in ((), ("key",))
            continue
        for problem in result.problems:
            assert "expected" in problem.text
            assert "\n" not in problem.text
