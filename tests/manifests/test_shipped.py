"""The manifests of this repository are whole, and say what the platform published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.configs.layers import merged_config
from control_plane.manifests.loader import Document, load_paths
from control_plane.manifests.validation import validate_document
from control_plane.replica.compile import config_records, flag_body, segment_body
from control_plane.replica.resolution import Offered, resolve

ENVIRONMENTS = ("development", "staging", "production")


@pytest.fixture
def documents(shipped: Path) -> dict[str, Document]:
    return {document.reference: document for document in load_paths([shipped])}


def test_every_manifest_is_valid_and_compiles_in_every_environment(
    documents: dict[str, Document],
) -> None:
    for document in documents.values():
        for environment in ENVIRONMENTS:
            validate_document(document, environment=environment)
            if document.value["kind"] == "flag":
                assert flag_body(document.value, None, environment)
            if document.value["kind"] == "config":
                assert config_records(document.value, [], environment, 1)
        if document.value["kind"] == "segment":
            assert segment_body(document.value)


def test_every_kind_is_there(documents: dict[str, Document]) -> None:
    kinds = [document.value["kind"] for document in documents.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "agent": 1, "config": 3, "flag": 13, "segment": 1, "tool": 3,
    }  # fmt: skip


def test_every_file_names_its_schema_in_its_first_line(documents: dict[str, Document]) -> None:
    for document in documents.values():
        line = document.data.splitlines()[0].decode()
        kind = document.value["kind"]
        assert line == f"# yaml-language-server: $schema=../schemas/{kind}.schema.json"
        assert Path(document.source, "../../schemas", f"{kind}.schema.json").resolve().exists()
        assert Path(document.source).stem == document.value["name"]


def test_a_yaml_1_1_tool_reads_the_same(documents: dict[str, Document]) -> None:
    for document in documents.values():
        assert yaml.safe_load(document.data) == document.value


def test_no_file_carries_a_checksum_or_signature(documents: dict[str, Document]) -> None:
    for document in documents.values():
        assert not {"checksum_sha256", "signature"} & set(document.value)


def test_the_customer_support_agent_is_the_published_one(documents: dict[str, Document]) -> None:
    agent: dict[str, Any] = documents["agent/customer_support_agent@1.0.0"].value
    metadata = agent.pop("metadata")
    assert agent == {
        "kind": "agent",
        "name": "customer_support_agent",
        "version": "1.0.0",
        "owner": "platform-team",
        "created_at": "2024-01-01T00:00:00Z",
        "changelog": "Initial customer support agent implementation",
        "deprecated": False,
    }
    assert metadata["tools"] == ["crm_tool>=1.2,<2", "order_tool", "knowledge_base_tool"]
    assert {"description", "capabilities", "max_tokens", "temperature", "system_prompt"} < set(
        metadata
    )


def test_the_agent_finds_each_of_its_tools_here(documents: dict[str, Document]) -> None:
    def offered(name: str) -> Offered:
        versions = {
            str(document.value["version"]): "digest"
            for document in documents.values()
            if (document.value["kind"], document.value["name"]) == ("tool", name)
        }
        return Offered(versions, {}, None)

    found = resolve(documents["agent/customer_support_agent@1.0.0"].value, offered)
    assert {name: tool["version"] for name, tool in found.items()} == {
        "crm_tool": "1.2.0", "order_tool": "1.0.0", "knowledge_base_tool": "1.1.0",
    }  # fmt: skip


def test_the_keys_other_pages_read_are_there(documents: dict[str, Document]) -> None:
    database = dict(merged_config(documents["config/database"].value, [], "production"))
    assert database[""]["url"].startswith("postgresql://")
    assert database[""]["pool"]["size"] == 50
    assert database["acme"]["pool"]["size"] == 80
    ai = dict(merged_config(documents["config/ai"].value, [], "production"))
    assert ai[""]["model_settings"]["temperature"] == 0.3
