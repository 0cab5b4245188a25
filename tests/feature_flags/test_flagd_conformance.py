"""flagd's own scenarios for evaluators: its file imported, published, read from a real replica.

A scenario that is tagged with a version of ``fractional`` is asked of the flags imported with that
one; every other of those imported with flagd-v2, whose buckets it tells, and with the newest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest

from control_plane.cli.failures import run
from control_plane.feature_flags.evaluation import Evaluation
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.manifests.loader import load_paths
from control_plane.replica.format import FLAG, record_key
from control_plane.replica.writer import ReplicaWriter
from control_plane.testing import replica

SUITE = Path(__file__).parents[3] / "shared" / "conformance" / "flagd-evaluator"
FLAGS = SUITE / "testkit-flags.json"
VERSIONS = ("flagd-v1", "flagd-v2", "flagd-v3")

if not FLAGS.is_file():
    pytest.skip("needs flagd's evaluator suite beside the project", allow_module_level=True)
bdd = pytest.importorskip("pytest_bdd", reason="needs pytest-bdd")
from pytest_bdd import given, parsers, scenarios, then, when  # noqa: E402

Flags = dict[str, FeatureFlagManager]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Flags]]:
    """By version: for the flags that were imported a manager, and one for those refused."""
    with ExitStack() as held:
        managers = {}
        for version in VERSIONS:
            folder = tmp_path_factory.mktemp(version)
            options = ["--out", str(folder), "--bucketing", version, "--rename", "--partial"]
            assert run(["import", "flagd", str(FLAGS), *options]) == 1
            documents = [document.value for document in load_paths([folder])]
            flags = {str(each["name"]): each["metadata"] for each in documents}
            client = held.enter_context(replica(flags=flags))  # type: ignore[arg-type]
            managers[version] = {
                "imported": client.flags,
                "refused": held.enter_context(slipped_through(folder / "replica")),
            }
        yield managers


def slipped_through(root: Path) -> FeatureFlagManager:
    """What a reader finds of the one flag whose reference leads nowhere, were it published."""
    name = "ref-to-nonexistent-evaluator-flag"
    flag = json.loads(FLAGS.read_bytes())["flags"][name]
    metadata = {
        "variants": flag["variants"],
        "default": flag["defaultVariant"],
        "disabled": None,
        "targeting": flag["targeting"],
    }
    body = msgpack.packb({"m": metadata, "k": None})
    with (
        ReplicaWriter.open(str(root / "test"), development=True, sync=False) as writer,
        writer.write() as transaction,
    ):
        transaction.generation = 1
        key = record_key(FLAG, name)
        transaction.put_record(key, FLAG, body, head_generation=1, served_generation=1)
    return FeatureFlagManager(replica=str(root), environment="test")


class Asked:
    """One scenario: the flag, what it is asked with, and what came of it."""

    def __init__(self, flags: dict[str, Flags], versions: tuple[str, ...]) -> None:
        self.flags = flags
        self.versions = versions
        self.name = ""
        self.default: Any = None
        self.context: dict[str, Any] = {}
        self.found: list[Evaluation] = []

    def evaluate(self) -> None:
        of = "refused" if self.name == "ref-to-nonexistent-evaluator-flag" else "imported"
        for version in self.versions:
            manager = self.flags[version][of]
            name = self.name.lower()
            self.found.append(manager.evaluate(name, self.default, context=self.context))


@pytest.fixture
def asked(request: pytest.FixtureRequest, imported: dict[str, Flags]) -> Asked:
    found = [
        mark.name for mark in request.node.iter_markers() if mark.name.startswith("fractional-v")
    ]
    versions = tuple(name.replace("fractional", "flagd") for name in found)
    return Asked(imported, versions or VERSIONS[1:])


def value_of(kind: str, text: str) -> Any:
    if kind == "String":
        return text
    if kind == "Boolean":
        return {"true": True, "false": False}[text]
    if kind == "Object":
        return json.loads(text.replace('\\"', '"'))
    return int(text) if kind == "Integer" else float(text)


@given("an evaluator")
def an_evaluator(asked: Asked) -> None:
    assert asked.versions


@given(
    parsers.re(r'an? (?P<kind>\w+)-flag with key "(?P<key>.*)" and a fallback value "(?P<text>.*)"')
)
def a_flag(asked: Asked, kind: str, key: str, text: str) -> None:
    asked.name = key
    asked.default = value_of(kind, text)


@given(parsers.re(
    r'a context containing a key "(?P<key>.*)", with type "(?P<kind>\w+)" '
    r'and with value "(?P<text>.*)"'
))  # fmt: skip
def an_attribute(asked: Asked, key: str, kind: str, text: str) -> None:
    asked.context[key] = value_of(kind, text)


@given(parsers.re(
    r'a context containing a nested property with outer key "(?P<outer>.*)" and inner key '
    r'"(?P<inner>.*)", with value "(?P<text>.*)"'
))  # fmt: skip
def a_nested_attribute(asked: Asked, outer: str, inner: str, text: str) -> None:
    asked.context[outer] = {inner: text}


@given(parsers.re(r'a context containing a targeting key with value "(?P<text>.*)"'))
def a_targeting_key(asked: Asked, text: str) -> None:
    asked.context["targetingKey"] = text


@when("the flag was evaluated with details")
def evaluated(asked: Asked) -> None:
    asked.evaluate()


@then(parsers.re(r'the resolved details value should be "(?P<text>.*)"'))
def the_value(asked: Asked, text: str) -> None:
    kinds = {bool: "Boolean", int: "Integer", float: "Float", dict: "Object", str: "String"}
    wanted = value_of(kinds[type(asked.default)], text)
    assert [(found.value, type(found.value)) for found in asked.found] == [
        (wanted, type(wanted))
    ] * len(asked.versions)


@then(parsers.re(r'the reason should be "(?P<reason>.*)"'))
def the_reason(asked: Asked, reason: str) -> None:
    assert [found.reason for found in asked.found] == [reason] * len(asked.versions)


@then(parsers.re(r'the error-code should be "(?P<code>.*)"'))
def the_error_code(asked: Asked, code: str) -> None:
    assert [found.error_code for found in asked.found] == [code] * len(asked.versions)


@then("the resolved metadata should contain")
def the_metadata(asked: Asked, datatable: list[list[str]]) -> None:
    wanted = {key: value_of(kind, text) for key, kind, text in datatable[1:]}
    assert wanted
    for found in asked.found:
        assert found.flag_metadata == wanted


@then("the resolved metadata is empty")
def no_metadata(asked: Asked) -> None:
    assert [found.flag_metadata for found in asked.found] == [{}] * len(asked.versions)


scenarios(str(SUITE))
