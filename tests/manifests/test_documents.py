"""The bytes of a document, pinned, and its names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import sha256_hex
from control_plane.manifests.documents import (
    blob,
    checksum,
    content,
    parse_reference,
    reference,
    sealed,
    signature_of,
)
from control_plane.manifests.loader import load_file

Make = Callable[..., dict[str, Any]]

CRM_CHECKSUM = "3f1b28afbaabee61d31676c2607bcf091056599014ae82575bad6aa342e7a256"
CRM_BLOB_LENGTH = 1499
CRM_SEALED_DIGEST = "b486c7bd18ca7c5a0abf3ebc2352ad05c0f0b1f02867d8adcaeeed4bc41179a8"


def test_the_published_bytes_of_crm_tool_never_change(shipped: Path) -> None:
    document = load_file(shipped / "tools" / "crm_tool.yaml").value
    assert content(document) == blob(document)
    assert content(document).startswith(b'{"changelog":"Look customers up')
    assert (checksum(document), len(blob(document))) == (CRM_CHECKSUM, CRM_BLOB_LENGTH)
    assert sha256_hex(blob(sealed(document, "k" * 64, bytes(64)))) == CRM_SEALED_DIGEST


def test_checksum_and_signature_are_not_part_of_the_content(manifest: Make) -> None:
    tool = manifest("tool")
    signed = sealed(tool, "key", b"s" * 64)
    assert content(signed) == content(tool)
    assert signed["checksum_sha256"] == checksum(tool) == sha256_hex(content(tool))
    assert blob(signed) != blob(tool)
    assert signature_of(signed) == ("key", b"s" * 64)
    assert signature_of(tool) is None


def test_sealing_again_replaces_the_seal(manifest: Make) -> None:
    tool = manifest("tool")
    assert sealed(sealed(tool, "a", b"1"), "b", b"2") == sealed(tool, "b", b"2")


@pytest.mark.parametrize("written", ["x", "rsa:k:AAAA", "ed25519::AAAA", "ed25519:k:A A", 3])
def test_a_signature_in_another_form_is_refused(written: object, manifest: Make) -> None:
    tool = {**manifest("tool"), "signature": written}
    with pytest.raises(ManifestInvalid, match="expected ed25519:<key id>:<base64>"):
        signature_of(tool)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tool/crm_tool@1.2.0", ("tool", "crm_tool", "1.2.0")),
        ("agent/a.b-c", ("agent", "a.b-c", None)),
        ("flag/new_ai_model", ("flag", "new_ai_model", None)),
        ("config/database@acme", ("config", "database@acme", None)),
    ],
)
def test_a_reference_reads_back_as_its_parts(text: str, parts: tuple[str, str, str | None]) -> None:
    assert parse_reference(text) == parts
    kind, name, version = parts
    assert reference({"kind": kind, "name": name, "version": version}) == text


@pytest.mark.parametrize("text", ["flag", "flag/", "flog/x", "flag/X", "tool/x@", "flag/x@1", ""])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ManifestInvalid, match="expected a reference like"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("document", "written"),
    [
        ({}, "?/?"),
        ({"kind": "flag", "name": 3}, "flag/?"),
        ({"kind": "a\nb", "name": "x"}, r"'a\nb'/x"),
    ],
)
def test_a_document_nobody_has_checked_still_has_one_line_for_a_name(
    document: dict[str, Any], written: str
) -> None:
    assert reference(document) == written
