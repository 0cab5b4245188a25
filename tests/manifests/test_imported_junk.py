"""Files of GrowthBook's and Unleash's with a part that is none: a line, never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid
from control_plane.manifests.growthbook import import_growthbook
from control_plane.manifests.imported import Imported
from control_plane.manifests.loader import Document, load_file
from control_plane.manifests.unleash import import_unleash
from control_plane.manifests.validation import validate

GROWTHBOOK: dict[str, Any] = {
    "features": {
        "base": {"defaultValue": False, "rules": [{"force": True, "coverage": 0.5, "id": "r"}]},
        "new": {
            "defaultValue": "a",
            "rules": [
                {"parentConditions": [{"id": "base", "condition": {"value": True}, "gate": True}]},
                {
                    "condition": {"$or": [{"a": {"$in": ["x", 1]}}, {"b": {"$inGroup": "g"}}]},
                    "force": "b",
                    "range": [0, 0.5],
                    "fallbackAttribute": "device",
                },
                {
                    "condition": {"$not": {"$savedGroup": {"id": "c"}}, "t": {"$type": "string"}},
                    "variations": ["a", "b"],
                    "weights": [0.5, 0.5],
                    "ranges": [[0, 0.5], [0.5, 1]],
                    "meta": [{"key": "0"}, {"passthrough": True}],
                    "filters": [{"seed": "s", "ranges": [[0, 1]], "hashVersion": 2}],
                    "namespace": ["n", 0, 1],
                    "hashVersion": 2,
                    "seed": "s",
                },
            ],
        },
    },
    "savedGroups": {"g": ["x"], "c": {"type": "condition", "condition": {"v": {"$vgt": "1.0.0"}}}},
}
UNLEASH: dict[str, Any] = {
    "version": 2,
    "features": [
        {"name": "base", "enabled": True, "strategies": [], "variants": [
            {"name": "red", "weight": 1, "payload": {"type": "json", "value": "{}"},
             "overrides": [{"contextName": "plan", "values": ["pro"]}]},
            {"name": "blue", "weight": 1, "payload": {"type": "json", "value": "{}"}}]},
        {"name": "new", "enabled": True, "dependencies": [{"feature": "base", "variants": ["red"]}],
         "strategies": [
            {"name": "flexibleRollout", "segments": [1],
             "parameters": {"rollout": "5", "stickiness": "default", "groupId": "g"},
             "constraints": [
                 {"contextName": "currentTime", "operator": "DATE_AFTER",
                  "value": "2026-01-01T00:00:00Z"},
                 {"contextName": "a", "operator": "NUM_GT", "value": "5", "inverted": True}],
             "variants": [{"name": "red", "weight": 1}, {"name": "blue", "weight": 2}]},
            {"name": "remoteAddress", "parameters": {"IPs": "10.0.0.1"}}]},
    ],
    "segments": [{"id": 1, "constraints": [
        {"contextName": "b", "operator": "STR_CONTAINS", "values": ["x"]}]}],
}  # fmt: skip
IMPORTERS: list[tuple[dict[str, Any], Callable[[Document], Imported]]] = [
    (GROWTHBOOK, import_growthbook),
    (UNLEASH, import_unleash),
]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**53 - 1), st.floats(-9, 9),
    st.sampled_from(["", "$x", "a.b", "\\", '"', "targetingKey", "new", "ü😀" * 300, "on"]),
    st.sampled_from([[], {}, [[]], [{}], {"": 1}, {"$in": 1}, [None], {"id": []}]),
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key of a document."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


@pytest.mark.parametrize(("document", "convert"), IMPORTERS, ids=["growthbook", "unleash"])
@settings(
    deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_part_may_be_none(tmp_path: Path, document: Any, convert: Any, data: Any) -> None:
    value = copy.deepcopy(document)
    container, key = data.draw(st.sampled_from(list(places(value))))
    if data.draw(st.booleans()):
        container[key] = data.draw(JUNK)
    elif isinstance(container, dict):
        container[data.draw(st.sampled_from(["", "$if", "surprise"]))] = container.pop(key)
    else:
        container.append(data.draw(JUNK))
    path = tmp_path / "file.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        found = convert(load_file(path))
    except ManifestInvalid:
        # The whole file is refused.
        return
    for each in found.documents:
        validate(each)
    for problem in found.problems:
        assert problem.text.startswith(("flag ", "flag/"))
        assert "\n" not in problem.text


@pytest.mark.parametrize(("document", "convert"), IMPORTERS, ids=["growthbook", "unleash"])
def test_the_documents_are_sound_as_they_are(tmp_path: Path, document: Any, convert: Any) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert convert(load_file(path)).problems == ()
