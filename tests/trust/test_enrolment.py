"""trust.json."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.errors import (
    Forked,
    FormatUnsupported,
    NotFound,
    SignatureInvalid,
    SyntaxInvalid,
)
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.state import adopt


@pytest.fixture
def enrolment(forge: Any) -> Enrolment:
    signer = LogSigner("hello/production/1", forge.private("log"))
    note = signer.sign_checkpoint(Checkpoint("hello/production/1", 1, bytes(32)), 1_700_000_000)
    return Enrolment(forge.root(), forge.targets(), {"production": note})


def test_an_enrolment_reads_back_as_it_was_written(enrolment: Enrolment, forge: Any) -> None:
    data = enrolment.encode()
    again = Enrolment.decode(data)
    assert again == enrolment
    assert again.encode() == data
    assert again.policy().digest == forge.policy().digest
    assert again.checkpoint("production") == enrolment.checkpoints["production"]
    with pytest.raises(NotFound, match="checkpoint of environment staging, found production"):
        again.checkpoint("staging")


def test_only_a_log_that_reached_the_same_root_is_confirmed(
    enrolment: Enrolment, forge: Any
) -> None:
    policy = enrolment.policy()
    enrolment.confirm("production", adopt(policy, [], forge.targets(2), at_ms=0))
    other = adopt(None, [forge.root(keys=("mallory",))], forge.targets(), at_ms=0)
    with pytest.raises(Forked, match=r"production: expected the root of trust\.json"):
        enrolment.confirm("production", other)


def test_metadata_that_do_not_vouch_for_each_other_make_no_policy(forge: Any) -> None:
    with pytest.raises(SignatureInvalid):
        Enrolment(forge.root(), forge.targets(signers=("mallory",))).policy()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 2}, FormatUnsupported),
        ({"format": True}, SyntaxInvalid),
        ({"extra": 1}, SyntaxInvalid),
        ({"root": "???"}, SyntaxInvalid),
        ({"targets": 1}, SyntaxInvalid),
        ({"checkpoints": []}, SyntaxInvalid),
        ({"checkpoints": {"production": 1}}, SyntaxInvalid),
        ({"checkpoints": {"production": "no note"}}, SyntaxInvalid),
        ({"checkpoints": {"../x": "no note"}}, SyntaxInvalid),
    ],
)
def test_an_enrolment_out_of_form_is_refused(
    enrolment: Enrolment, change: dict[str, Any], error: type[Exception]
) -> None:
    value = json.loads(enrolment.encode()) | change
    with pytest.raises(error, match=r"trust\.json|note"):
        Enrolment.decode(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b'{"format":1}', b'{"format":1,"format":1}'])
def test_bytes_that_are_no_enrolment_are_refused(data: bytes) -> None:
    with pytest.raises(SyntaxInvalid):
        Enrolment.decode(data)
