"""Statements, envelopes and leaves: exact bytes, and what is refused or kept as unknown."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as ReferenceEnvelope

from control_plane.errors import InputInvalid, StatementInvalid, SyntaxInvalid
from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.checkpoint import LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope, Signature, pae
from control_plane.log.leaf import Leaf, UnknownLeafVersion
from control_plane.log.statements import (
    Change,
    ChangesBlob,
    ChangeSet,
    Continuation,
    EpochStatement,
    Key,
    SnapshotStatement,
    TrustStatement,
    UnknownPayloadType,
    change_set,
    decode_change_list,
    encode_change_list,
    parse_statement,
)

DIGEST = "ab" * 32
ORIGIN = "acme/production/1"
PUT = Change(action="put", kind="flag", name="new_ai_model", replaces=None, digest=DIGEST)
KILL = Change(action="put", kind="kill", name="x", replaces=7, value={"variant": None})


def one(change: Change) -> ChangeSet:
    statement, blob = change_set(
        ORIGIN, [change], created_at=1, not_after=2, reason="why", verb="apply"
    )
    assert blob is None
    return statement


def with_change(**fields: object) -> bytes:
    """A change-set payload holding one change with these fields, whatever they are."""
    base = {"action": "put", "kind": "flag", "name": "x", "replaces": None, "digest": DIGEST}
    change = {name: value for name, value in {**base, **fields}.items() if value != "absent"}
    statement = {
        "origin": ORIGIN, "created_at": 1, "not_after": 2, "reason": "", "verb": "apply",
        "changes": [change],
    }  # fmt: skip
    return json.dumps(statement).encode()


def test_a_change_set_is_these_bytes() -> None:
    assert one(PUT).payload() == (
        b'{"changes":[{"action":"put","digest":"' + DIGEST.encode() + b'","kind":"flag",'
        b'"name":"new_ai_model","replaces":null}],"created_at":1,"not_after":2,'
        b'"origin":"acme/production/1","reason":"why","verb":"apply"}'
    )


def test_the_pae_is_the_one_dsse_prints_and_securesystemslib_computes() -> None:
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    envelope = one(PUT).envelope()
    assert envelope.pae() == ReferenceEnvelope.from_dict(envelope.to_json()).pae()


def test_a_signed_leaf_is_these_bytes() -> None:
    signer = LogSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    leaf = Leaf(1_700_000_000_000, signer.sign_envelope(one(PUT).envelope()))
    assert sha256_hex(leaf.encode()) == GOLDEN_LEAF
    assert Leaf.decode(leaf.encode()) == leaf
    assert leaf.encode().startswith(b'{"envelope":{"payload":"eyJjaGFuZ2Vz')
    assert leaf.envelope.identity == sha256_hex(one(PUT).payload())


def test_a_signature_more_keeps_order_and_identity() -> None:
    envelope = one(PUT).envelope()
    signed = envelope.with_signature(Signature("b" * 64, b"1" * 64))
    signed = signed.with_signature(Signature("a" * 64, b"2" * 64))
    again = signed.with_signature(Signature("b" * 64, b"3" * 64))
    assert [held.key_id[0] for held in again.signatures] == ["a", "b"]
    assert again.signatures[1].value == b"3" * 64
    assert again.identity == envelope.identity
    assert Envelope.decode(again.encode()) == again


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": [{"keyid": "b" * 64, "sig": "AA=="}, {"keyid": "a" * 64, "sig": "AA=="}]},
        {"signatures": [{"keyid": "a" * 64, "sig": "AA=="}] * 2},
        {"signatures": [{"keyid": "a" * 64, "sig": "AB=="}]},
        {"signatures": [{"keyid": "A" * 64, "sig": "AA=="}]},
        {"signatures": [{"keyid": "a" * 64, "sig": "AA==", "more": 1}]},
        {"signatures": [{"keyid": f"{n:064x}", "sig": "AA=="} for n in range(17)]},
        {"signatures": {}},
        {"payload": "A"},
        {"payload": "AA=\n="},
        {"payload": 1},
        {"payloadType": None},
        {"more": 1},
    ],
)
def test_an_envelope_out_of_form_is_refused(change: dict[str, object]) -> None:
    form = {"payload": "AA==", "payloadType": PAYLOAD_TYPE["trust"], "signatures": []}
    assert Envelope.decode(json.dumps(form).encode())
    with pytest.raises(SyntaxInvalid):
        Envelope.decode(json.dumps({**form, **change}).encode())


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({}, Key("flag", "x")),
        ({"version": "a label"}, Key("flag", "x")),
        ({"kind": "segment", "shard": "00ff"}, Key("segment", "x", "s/00ff")),
        ({"kind": "agent", "version": "1.0.0", "checksum": DIGEST}, Key("agent", "x", "v/1.0.0")),
        (
            {"kind": "tool", "action": "activate", "channel": "stable", "version": "1.0.0",
             "digest": "absent"},
            Key("tool", "x", "c/stable"),
        ),
        (
            {"kind": "tool", "action": "status", "status": "yanked", "version": "1.0.0",
             "reason": "broken", "successor": "1.0.1", "digest": "absent"},
            Key("tool", "x", "s/1.0.0"),
        ),
        ({"kind": "kill", "value": {"variant": "off"}, "digest": "absent"}, Key("kill", "x")),
        ({"action": "delete", "digest": "absent"}, Key("flag", "x")),
        (
            {"kind": "agent", "action": "delete", "channel": "stable", "digest": "absent"},
            Key("agent", "x", "c/stable"),
        ),
    ],
)  # fmt: skip
def test_each_change_has_its_key_and_reads_back(fields: dict[str, object], key: Key) -> None:
    statement = ChangeSet.from_payload(with_change(**fields))
    change = statement.changes[0]
    assert change.known
    assert change.key == key
    assert change.path("production") == f"production/{key.kind}/x"
    assert ChangeSet.from_payload(statement.payload()) == statement


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Upper"}, {"name": ""}, {"name": "a" * 129}, {"name": 1}, {"name": "a/b"},
        {"replaces": "absent"}, {"replaces": -1}, {"replaces": 1.5}, {"replaces": True},
        {"replaces": 2**53}, {"digest": "absent"}, {"digest": DIGEST.upper()}, {"digest": "ab"},
        {"channel": "stable"}, {"checksum": DIGEST}, {"value": {"variant": None}},
        {"kind": "agent"}, {"kind": "agent", "version": "1.0.0"}, {"version": "1" * 65},
        {"kind": "kill"}, {"kind": "kill", "digest": "absent", "value": {}},
        {"kind": "kill", "digest": "absent", "value": {"variant": 1}},
        {"kind": "kill", "digest": "absent", "value": {"variant": "x" * 300}},
        {"action": "activate", "digest": "absent", "channel": "stable", "version": "1.0.0"},
        {"kind": "tool", "action": "activate", "channel": "Stable", "version": "1.0.0",
         "digest": "absent"},
        {"kind": "tool", "action": "status", "status": "gone", "version": "1.0.0",
         "digest": "absent"},
        {"kind": "segment", "shard": "0"}, {"shard": "0000"}, {"scope": "x" * 33},
        {"kind": "config", "name": "a.b"}, {"kind": "tool", "action": "delete", "digest": "absent"},
    ],
)  # fmt: skip
def test_a_change_out_of_form_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(StatementInvalid):
        ChangeSet.from_payload(with_change(**fields))


@pytest.mark.parametrize(
    "fields",
    [{"kind": "policy"}, {"action": "rename"}, {"ring": 3}, {"kind": "policy", "part": "p/1"}],
)
def test_what_a_newer_version_may_say_is_kept_as_unknown(fields: dict[str, object]) -> None:
    change = ChangeSet.from_payload(with_change(**fields)).changes[0]
    assert not change.known
    assert change.key.part == fields.get("part", "")
    assert {**change.to_json(), **fields} == change.to_json()
    with pytest.raises(StatementInvalid, match="expected a known kind"):
        one(change)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "policy\0x"}, {"kind": "policy", "name": "x\n"}, {"action": "re\x7fname"},
        {"kind": "policy", "part": "x" * 129}, {"kind": "policy", "part": "\0"},
        {"kind": "policy", "part": 1}, {"ring": 3, "part": "x" * 129},
        {"kind": "policy", "channel": "a\0b"}, {"kind": "policy", "shard": "\0"},
        {"kind": "tool", "version": "1.0.0\0", "checksum": DIGEST}, {"scope": "\t"},
    ],
)  # fmt: skip
def test_no_change_known_or_not_makes_a_key_that_cannot_be_stored(
    fields: dict[str, object],
) -> None:
    with pytest.raises(StatementInvalid):
        ChangeSet.from_payload(with_change(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": "acme/production/0"}, {"origin": "acme/Production/1"}, {"origin": "acme"},
        {"created_at": -1}, {"not_after": None}, {"verb": "Apply"}, {"verb": ""},
        {"reason": "x" * 1025}, {"changes": []}, {"changes": None}, {"more": 1},
        {"changes": {"digest": DIGEST, "count": 64}},
        {"changes": {"digest": DIGEST, "count": 10**6}},
        {"changes": [PUT.to_json()] * 2}, {"changes": [PUT.to_json()] * 65},
    ],
)  # fmt: skip
def test_a_change_set_out_of_form_is_refused(fields: dict[str, object]) -> None:
    statement = json.loads(one(PUT).payload())
    with pytest.raises(StatementInvalid):
        ChangeSet.from_payload(json.dumps({**statement, **fields}).encode())


def test_more_than_64_changes_stand_in_a_blob() -> None:
    changes = [replace(PUT, name=f"flag_{number}") for number in range(65)]
    statement, blob = change_set(
        ORIGIN, changes, created_at=1, not_after=2, reason="", verb="apply"
    )
    assert blob is not None
    assert statement.changes == ()
    assert statement.changes_blob == ChangesBlob(sha256_hex(blob), 65)
    assert blob == encode_change_list(changes)
    assert blob.split(b"\n")[0] == canonical(changes[0].to_json())
    assert decode_change_list(blob, statement.changes_blob) == tuple(changes)
    assert ChangeSet.from_payload(statement.payload()) == statement


@pytest.mark.parametrize("cut", [slice(0, -1), slice(1, None), slice(0, 0)])
def test_a_change_list_cut_short_is_refused(cut: slice) -> None:
    blob = encode_change_list([replace(PUT, name=f"flag_{number}") for number in range(65)])
    with pytest.raises(StatementInvalid):
        decode_change_list(blob[cut], ChangesBlob(DIGEST, 65))


def test_a_change_list_with_a_key_twice_is_refused() -> None:
    blob = encode_change_list([replace(PUT, name=f"flag_{number}") for number in range(64)] * 2)
    with pytest.raises(StatementInvalid, match="twice"):
        decode_change_list(blob, ChangesBlob(DIGEST, 128))


SNAPSHOT = SnapshotStatement(origin=ORIGIN, generation=9, count=3, root=DIGEST, policy=DIGEST)
TRUST = TrustStatement(origin=ORIGIN, root=(DIGEST,), targets=DIGEST)
EPOCH = EpochStatement(
    origin="acme/production/2",
    continues=Continuation(epoch=1, size=9, root=DIGEST, generation=1_048_585),
    state=SNAPSHOT,
)


@pytest.mark.parametrize(
    ("kind", "statement", "payload"),
    [
        ("trust", TRUST, f'{{"origin":"{ORIGIN}","root":["{DIGEST}"],"targets":"{DIGEST}"}}'),
        (
            "snapshot",
            SNAPSHOT,
            f'{{"count":3,"generation":9,"origin":"{ORIGIN}","policy":"{DIGEST}","root":"{DIGEST}"}}',
        ),
        (
            "epoch",
            EPOCH,
            (
                f'{{"continues":{{"epoch":1,"generation":1048585,"root":"{DIGEST}","size":9}},'
                f'"origin":"acme/production/2","state":{{"count":3,"generation":9,"origin":"{ORIGIN}",'
                f'"policy":"{DIGEST}","root":"{DIGEST}"}}}}'
            ),
        ),
    ],
)
def test_the_other_statements_are_these_bytes(
    kind: str, statement: TrustStatement | SnapshotStatement | EpochStatement, payload: str
) -> None:
    assert statement.payload() == payload.encode()
    assert parse_statement(Envelope(PAYLOAD_TYPE[kind], payload.encode())) == statement
    with pytest.raises(StatementInvalid):
        parse_statement(Envelope(PAYLOAD_TYPE[kind], payload.replace("ab", "AB").encode()))


def test_an_unknown_payload_type_stops_the_reader() -> None:
    with pytest.raises(UnknownPayloadType, match="too old"):
        parse_statement(Envelope("application/vnd.control-plane.change-set.v2+json", b"{}"))


def test_an_unknown_leaf_version_stops_the_reader() -> None:
    leaf = Leaf(1, one(PUT).envelope()).encode().replace(b'"v":1}', b'"v":2}')
    with pytest.raises(UnknownLeafVersion, match="too old"):
        Leaf.decode(leaf)


@pytest.mark.parametrize("version", [b"true", b"1.0"])
def test_a_leaf_version_is_an_integer(version: bytes) -> None:
    leaf = Leaf(1, one(PUT).envelope()).encode().replace(b'"v":1}', b'"v":' + version + b"}")
    with pytest.raises(UnknownLeafVersion):
        Leaf.decode(leaf)


@pytest.mark.parametrize("fields", [{"sequenced_at": -1}, {"sequenced_at": "1"}, {"more": 1}])
def test_a_leaf_out_of_form_is_refused(fields: dict[str, object]) -> None:
    leaf = json.loads(Leaf(1, one(PUT).envelope()).encode())
    with pytest.raises(SyntaxInvalid):
        Leaf.decode(json.dumps({**leaf, **fields}).encode())


def test_a_leaf_past_its_bound_is_refused() -> None:
    envelope = Envelope(PAYLOAD_TYPE["trust"], b"x" * 60_000)
    with pytest.raises(SyntaxInvalid, match="65535 bytes"):
        Leaf(1, envelope).encode()


@given(st.binary(max_size=200), st.sampled_from(sorted(PAYLOAD_TYPE)))
def test_arbitrary_payloads_raise_one_family_of_errors(payload: bytes, kind: str) -> None:
    with pytest.raises(InputInvalid):
        parse_statement(Envelope(PAYLOAD_TYPE[kind], payload))
    with pytest.raises(InputInvalid):
        Leaf.decode(payload)


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=8)))
def test_arbitrary_changes_raise_one_family_of_errors(fields: dict[str, object]) -> None:
    payload = with_change(**fields)
    with contextlib.suppress(InputInvalid):
        ChangeSet.from_payload(payload)


def test_base64_in_an_envelope_is_standard_and_canonical() -> None:
    form = {"payloadType": "x", "signatures": []}
    url_safe = base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode()
    with pytest.raises(SyntaxInvalid):
        Envelope.decode(json.dumps({**form, "payload": url_safe}).encode())


GOLDEN_LEAF = "b84ef3967691ad6894a277a954e19d4ed3a725553e8bf6d1cbe3387037461650"
