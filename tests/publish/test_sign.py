"""Signing documents, and what it leaves of their files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.errors import ChecksumMismatch, InputInvalid, ManifestInvalid
from control_plane.log.envelope import MANIFEST_PAYLOAD_TYPE, pae
from control_plane.manifests.documents import checksum, content, signature_of
from control_plane.manifests.loader import load_yaml
from control_plane.publish.sign import check_checksum, signed, signed_text

TOOL: dict[str, Any] = {"kind": "tool", "name": "t", "version": "1.0.0", "metadata": {"a": 1}}
TEXT = """# yaml-language-server: $schema=../schemas/tool.schema.json
kind: tool   # what it is
name: t
version: "1.0.0"
metadata: {a: 1}   # short
"""


def test_a_signature_is_over_the_content_alone(signer: Any) -> None:
    document = signed(TOOL, signer)
    key_id, value = signature_of(document) or ("", b"")
    assert key_id == signer.public_key.keyid
    assert document["checksum_sha256"] == checksum(TOOL)
    expected = signer.sign(pae(MANIFEST_PAYLOAD_TYPE, content(TOOL)))
    assert value == bytes.fromhex(expected.signature)


def test_a_wrong_checksum_is_refused_with_both(signer: Any) -> None:
    document = {**signed(TOOL, signer), "metadata": {"a": 2}}
    with pytest.raises(ChecksumMismatch) as caught:
        check_checksum(document)
    assert document["checksum_sha256"] in str(caught.value)
    assert checksum(document) in str(caught.value)


def test_only_agents_and_tools_carry_an_authors_signature(signer: Any) -> None:
    with pytest.raises(ManifestInvalid, match="flag/x: expected an agent or a tool"):
        signed({"kind": "flag", "name": "x", "metadata": {}}, signer)


def test_signing_a_file_adds_two_lines_and_changes_none(signer: Any) -> None:
    document = signed(TOOL, signer)
    text = signed_text(TEXT, document, json=False, what="t.yaml")
    assert text.startswith(TEXT)
    assert len(text.splitlines()) == len(TEXT.splitlines()) + 2
    assert load_yaml(text.encode(), what="t.yaml") == document


def test_signing_again_changes_only_those_two_lines(signer: Any) -> None:
    once = signed_text(TEXT, signed(TOOL, signer), json=False, what="t.yaml")
    edited = once.replace("{a: 1}", "{a: 2}")
    document = signed({**TOOL, "metadata": {"a": 2}}, signer)
    twice = signed_text(edited, document, json=False, what="t.yaml")
    pairs = zip(edited.splitlines(), twice.splitlines(), strict=True)
    changed = [old for old, new in pairs if old != new]
    assert [line.split(":")[0] for line in changed] == ["checksum_sha256", "signature"]


def test_a_json_file_gets_two_fields_before_its_closing_brace(signer: Any) -> None:
    text = json.dumps(TOOL, indent=2) + "\n"
    document = signed(TOOL, signer)
    once = signed_text(text, document, json=True, what="t.json")
    assert json.loads(once) == document
    assert signed_text(once, document, json=True, what="t.json") == once


def test_a_file_in_one_line_is_refused_rather_than_rewritten(signer: Any) -> None:
    text = '{kind: tool, name: t, version: "1.0.0", metadata: {a: 1}}\n'
    with pytest.raises(InputInvalid):
        signed_text(text, signed(TOOL, signer), json=False, what="t.yaml")


@pytest.mark.parametrize("digest", ["0" * 64, "12e3" + "0" * 60])
def test_a_digest_that_looks_like_a_number_is_quoted(digest: str) -> None:
    document = {**TOOL, "checksum_sha256": digest, "signature": "ed25519:k:c2ln"}
    text = signed_text(TEXT, document, json=False, what="t.yaml")
    assert f'checksum_sha256: "{digest}"' in text
