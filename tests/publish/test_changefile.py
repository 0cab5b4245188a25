"""Change files: what is passed on for another signature is what was signed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.errors import ChecksumMismatch, StatementInvalid, SyntaxInvalid
from control_plane.log.canonical import sha256_hex
from control_plane.log.statements import Change, change_set
from control_plane.publish.changefile import SignedChange
from control_plane.publish.keyfiles import sign_envelope


def signed_change(signer: Any, count: int = 1, environment: str = "production") -> SignedChange:
    data = b'{"a":1}'
    changes = [
        Change(action="put", kind="flag", name=f"f{at}", replaces=None, digest=sha256_hex(data))
        for at in range(count)
    ]
    statement, listed = change_set(
        f"x/{environment}/1", changes, created_at=1, not_after=2, reason="r", verb="apply"
    )
    blobs = {sha256_hex(data): data}
    if listed is not None:
        blobs[sha256_hex(listed)] = listed
    return SignedChange("production", sign_envelope(statement.envelope(), signer), blobs)


def written(change: SignedChange, **changed: Any) -> bytes:
    return json.dumps({**change.to_json(), **changed}).encode()


@pytest.mark.parametrize("count", [1, 64, 65, 300])
def test_a_change_file_comes_back_as_it_was(signer: Any, count: int) -> None:
    change = signed_change(signer, count)
    read = SignedChange.decode(written(change), what="c.json")
    assert read == change
    assert len(read.changes()) == count


def test_a_changed_blob_is_refused(signer: Any) -> None:
    change = signed_change(signer)
    blobs = dict.fromkeys(change.blobs, "e30=")
    with pytest.raises(ChecksumMismatch, match=r"c.json: expected blob"):
        SignedChange.decode(written(change, blobs=blobs), what="c.json")


def test_a_blob_nobody_asked_for_is_refused(signer: Any) -> None:
    change = signed_change(signer)
    blobs = change.to_json()["blobs"] | {sha256_hex(b"{}"): "e30="}  # type: ignore[operator]
    with pytest.raises(StatementInvalid, match="only blobs its changes name"):
        SignedChange.decode(written(change, blobs=blobs), what="c.json")


def test_a_change_list_that_is_missing_is_refused(signer: Any) -> None:
    change = signed_change(signer, 65)
    with pytest.raises(StatementInvalid, match="expected the change list"):
        SignedChange.decode(written(change, blobs={}), what="c.json")


def test_a_statement_of_another_environment_is_refused(signer: Any) -> None:
    change = signed_change(signer, environment="staging")
    with pytest.raises(StatementInvalid, match="expected an origin of production"):
        SignedChange.decode(written(change), what="c.json")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_other_bytes_are_no_change_file(data: bytes) -> None:
    with pytest.raises(SyntaxInvalid):
        SignedChange.decode(data, what="c.json")
