"""The protocol's own document, this service's, and the stock client of the protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("openfeature.contrib.provider.ofrep")

import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from schemathesis.generation import GenerationMode

from control_plane.testing import ReplicaKit
from control_plane_sidecar.tokens import Tokens
from openfeature import api

DOCUMENT = Path(__file__).parents[3] / "shared/conformance/ofrep/openapi.yaml"
EXAMPLES = 15
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def url(kit: ReplicaKit, start: Any, token_file: Path) -> Iterator[str]:
    with start(kit, tokens=Tokens(token_file)) as found:
        yield found


def ofrep() -> dict[str, Any]:
    """The protocol's document, with the one rule in it that no answer can keep taken back.

    ``evaluationSuccess`` wants exactly one of its kinds of value, and ``codeDefaultFlag``, which
    has no property, is met by all of them.
    """
    if not DOCUMENT.exists():
        pytest.skip(f"expected the protocol's document at {DOCUMENT}, found none")
    document: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())
    parts = document["components"]["schemas"]["evaluationSuccess"]["allOf"]
    [kinds] = [part for part in parts if "oneOf" in part]
    kinds["anyOf"] = kinds.pop("oneOf")
    return document


def own() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        files("control_plane_sidecar").joinpath("openapi.json").read_bytes()
    )
    # It does not end.
    del document["paths"]["/ofrep/v1/events"]
    return document


def conforms(document: dict[str, Any], path: str, method: str, mode: Any, url: str) -> None:
    """Ask what the document allows, or forbids, and hold each answer to it."""
    operation = schemathesis.openapi.from_dict(document)[path][method]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def held(case: Any) -> None:
        headers = {"Authorization": "Bearer a-token-of-this-very-test"}
        case.call_and_validate(base_url=url, headers=headers)

    held()


@pytest.mark.parametrize("mode", MODES, ids=["allowed", "forbidden"])
@pytest.mark.parametrize(
    "path", ["/ofrep/v1/evaluate/flags/{key}", "/ofrep/v1/evaluate/flags"], ids=["single", "bulk"]
)
def test_flags_are_answered_as_the_protocol_says(url: str, path: str, mode: Any) -> None:
    conforms(ofrep(), path, "POST", mode, url)


@pytest.mark.parametrize("name", ["plain", "ruled"])
def test_a_flag_there_is_is_answered_as_the_protocol_says(url: str, name: str) -> None:
    operation = schemathesis.openapi.from_dict(ofrep())["/ofrep/v1/evaluate/flags/{key}"]["POST"]
    case = operation.Case(
        path_parameters={"key": name},
        body={"context": {"targetingKey": "u1"}},
        media_type="application/json",
    )
    case.call_and_validate(
        base_url=url, headers={"Authorization": "Bearer a-token-of-this-very-test"}
    )


@pytest.mark.parametrize("path", sorted(own()["paths"]))
def test_everything_else_is_answered_as_its_own_document_says(url: str, path: str) -> None:
    conforms(own(), path, "GET", GenerationMode.POSITIVE, url)


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    provider = OFREPProvider(
        url, headers_factory=lambda: {"Authorization": "Bearer a-token-of-this-very-test"}
    )
    api.set_provider(provider)
    yield api.get_client()
    provider.session.close()
    api.shutdown()


def test_the_stock_client_gets_values_reasons_and_variants(client: Any) -> None:
    enterprise = EvaluationContext("u1", {"plan": "enterprise"})
    found = client.get_boolean_details("ruled", False, enterprise)
    assert (found.value, found.variant, found.reason) == (True, "on", Reason.TARGETING_MATCH)


def test_the_stock_client_gets_its_default_for_a_flag_there_is_not(client: Any) -> None:
    found = client.get_boolean_details("nothing", True, EvaluationContext("u1"))
    assert (found.value, found.error_code) == (True, ErrorCode.FLAG_NOT_FOUND)


def test_the_stock_client_without_a_targeting_key_is_told(client: Any) -> None:
    found = client.get_boolean_details("plain", False, EvaluationContext(None, {"plan": "x"}))
    assert (found.value, found.error_code) == (False, ErrorCode.TARGETING_KEY_MISSING)


def test_the_stock_client_sees_a_change_at_once(kit: ReplicaKit, client: Any) -> None:
    before = client.get_boolean_value("plain", False, EvaluationContext("u1"))
    kit.set_flag("plain", False)
    assert (before, client.get_boolean_value("plain", True, EvaluationContext("u1"))) == (
        True,
        False,
    )
