"""Bad input is refused with its status and code, and changes nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope, Signature
from control_plane.log.statements import Change, ChangeSet
from control_plane.manifests.documents import blob, content, sealed

HOUR_MS = 3_600_000


@dataclass
class Bad:
    """What a case may use, and what it wants sent: blobs first, then the body."""

    kit: Any
    now_ms: int
    blobs: tuple[bytes, ...] = ()

    def signed(self, payload: bytes, payload_type: str = PAYLOAD_TYPE["change-set"]) -> bytes:
        return self.kit.alice.sign(Envelope(payload_type, payload)).encode()

    def statement(self, *changes: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return {
            "origin": "test/production/1",
            "created_at": self.now_ms,
            "not_after": self.now_ms + HOUR_MS,
            "reason": "",
            "verb": "apply",
            "changes": list(changes),
        } | fields

    def published(self, data: bytes, **fields: Any) -> bytes:
        self.blobs = (*self.blobs, data)
        change = replace(self.kit.put(data), **fields)
        return self.kit.envelope(change, reason="again").encode()


def put_json(**fields: Any) -> dict[str, Any]:
    return {"action": "put", "kind": "flag", "name": "x", "replaces": None} | fields


def unsigned(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    bad.blobs = (data,)
    return bad.kit.envelope(bad.kit.put(data), by=()).encode()


def by_a_stranger(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    bad.blobs = (data,)
    return bad.kit.envelope(bad.kit.put(data), by=(bad.kit.alice, bad.kit.stranger)).encode()


def with_a_wrong_signature(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    bad.blobs = (data,)
    envelope = bad.kit.envelope(bad.kit.put(data))
    other = bad.kit.envelope(bad.kit.put(data), reason="another").signatures[0].value
    return envelope.with_signature(Signature(bad.kit.alice.key_id, other)).encode()


def with_one_good_and_one_bad_signature(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    bad.blobs = (data,)
    envelope = bad.kit.envelope(bad.kit.put(data))
    return envelope.with_signature(Signature(bad.kit.oncall.key_id, bytes(64))).encode()


def by_a_key_not_delegated(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    bad.blobs = (data,)
    return bad.kit.envelope(bad.kit.put(data), by=(bad.kit.oncall,)).encode()


def stale(bad: Bad) -> bytes:
    return bad.published(bad.kit.flag("pilot", default="on"), replaces=None)


def replayed_after_a_deletion(bad: Bad) -> bytes:
    return bad.published(bad.kit.flag("gone"))


def replayed_after_a_revert(bad: Bad) -> bytes:
    return bad.published(bad.kit.flag("moved", default="on"), replaces=5)


def late(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    bad.blobs = (data,)
    return bad.kit.envelope(
        bad.kit.put(data), created_at=bad.now_ms - 2 * HOUR_MS, not_after=bad.now_ms - HOUR_MS
    ).encode()


def from_the_future(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    return bad.kit.envelope(
        bad.kit.put(data), created_at=bad.now_ms + HOUR_MS, not_after=bad.now_ms + 2 * HOUR_MS
    ).encode()


def republished(bad: Bad) -> bytes:
    return bad.published(bad.kit.agent(temperature=0.5), replaces=8)


def of_an_unknown_kind(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement(put_json(kind="policy", digest="0" * 64))))


def of_an_unknown_action(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement(put_json(action="freeze"))))


def with_an_unknown_field(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement(put_json(digest="0" * 64, until="noon"))))


def with_an_unknown_statement_field(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement(put_json(digest="0" * 64), urgent=True)))


def outside_the_schema(bad: Bad) -> bytes:
    return bad.published(bad.kit.flag("x", colour="red"))


def naming_another_document(bad: Bad) -> bytes:
    return bad.published(bad.kit.flag("x"), name="y")


def with_a_wrong_checksum(bad: Bad) -> bytes:
    return bad.published(bad.kit.agent("other"), checksum="0" * 64)


def without_its_authors_signature(bad: Bad) -> bytes:
    document = json.loads(bad.kit.agent("other"))
    del document["signature"]
    return bad.published(blob(document))


def with_an_author_not_delegated(bad: Bad) -> bytes:
    document = json.loads(bad.kit.agent("other"))
    value = bad.kit.alice.private.sign(content(document))
    return bad.published(blob(sealed(document, bad.kit.alice.key_id, value)))


def with_a_forged_authors_signature(bad: Bad) -> bytes:
    document = json.loads(bad.kit.agent("other"))
    return bad.published(blob(sealed(document, bad.kit.author.key_id, bytes(64))))


def larger_than_its_kind_may_be(bad: Bad) -> bytes:
    return bad.published(bad.kit.flag("x", salt="s" * (1 << 20)))


def deeper_than_allowed(bad: Bad) -> bytes:
    data = b'{"kind":"flag","metadata":' + b"[" * 100_000 + b"]" * 100_000 + b',"name":"x"}'
    bad.blobs = (data,)
    change = Change(action="put", kind="flag", name="x", replaces=None, digest=sha256_hex(data))
    return bad.kit.envelope(change).encode()


def an_oversized_body(bad: Bad) -> bytes:
    return b" " * (1 << 20)


def a_depth_bomb(bad: Bad) -> bytes:
    return b"[" * 60_000


def no_json(bad: Bad) -> bytes:
    return b"put: flag/x"


def of_bytes_that_are_no_utf_8(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement()).replace(b"apply", b"appl\xff"))


def with_a_key_twice(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement()).replace(b'"verb"', b'"verb":"apply","verb"'))


def with_nan(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement()).replace(b'"reason":""', b'"reason":NaN'))


def with_an_integer_past_2_53(bad: Bad) -> bytes:
    text = canonical(bad.statement(put_json(replaces=7, digest="0" * 64)))
    return bad.signed(text.replace(b'"replaces":7', b'"replaces":9007199254740993'))


def in_another_spelling(bad: Bad) -> bytes:
    return bad.signed(json.dumps(bad.statement(put_json(digest="0" * 64)), indent=1).encode())


def with_a_name_outside_the_pattern(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement(put_json(name="../x", digest="0" * 64))))


def naming_one_key_twice(bad: Bad) -> bytes:
    change = put_json(digest="0" * 64)
    return bad.signed(canonical(bad.statement(change, change)))


def for_another_environment(bad: Bad) -> bytes:
    data = bad.kit.flag("x")
    bad.blobs = (data,)
    return bad.kit.envelope(bad.kit.put(data), environment="staging").encode()


def of_another_payload_type(bad: Bad) -> bytes:
    return bad.signed(canonical(bad.statement()), PAYLOAD_TYPE["trust"])


def without_its_blob(bad: Bad) -> bytes:
    return bad.kit.envelope(bad.kit.put(bad.kit.flag("never-sent"))).encode()


def deleting_what_is_not_there(bad: Bad) -> bytes:
    change = Change(action="delete", kind="flag", name="x", replaces=None)
    return bad.kit.envelope(change).encode()


def activating_what_is_not_there(bad: Bad) -> bytes:
    change = Change(
        action="activate", kind="agent", name="support", replaces=None,
        channel="stable", version="9.0.0",
    )  # fmt: skip
    return bad.kit.envelope(change).encode()


def of_a_shard_without_its_segment(bad: Bad) -> bytes:
    data = canonical(["u1"])
    bad.blobs = (data,)
    change = Change(
        action="put", kind="segment", name="s", replaces=None, shard="0000", digest=sha256_hex(data)
    )
    return bad.kit.envelope(change).encode()


def of_a_shard_with_anothers_member(bad: Bad) -> bytes:
    manifest = canonical({"kind": "segment", "name": "s", "metadata": {"shards": 1}})
    # SHA-256("u1") begins with a one bit or a zero bit: the other shard is the wrong one.
    right = int(sha256_hex(b"u1")[0], 16) >> 3
    data = canonical(["u1"])
    bad.blobs = (manifest, data)
    shard = Change(
        action="put", kind="segment", name="s", replaces=None,
        shard=f"{1 - right:04x}", digest=sha256_hex(data),
    )  # fmt: skip
    return bad.kit.envelope(bad.kit.put(manifest), shard).encode()


def shard_of_bits_0(bad: Bad, members: list[str]) -> bytes:
    manifest = canonical({"kind": "segment", "name": "s", "metadata": {"shards": 0}})
    data = canonical([*members])
    bad.blobs = (manifest, data)
    change = Change(
        action="put", kind="segment", name="s", replaces=None, shard="0000", digest=sha256_hex(data)
    )
    return bad.kit.envelope(bad.kit.put(manifest), change).encode()


# What is wrong with a segment, and what the answer says of where it is.
SEGMENTS: list[tuple[dict[str, Any], str]] = [
    ({}, "segment/s: expected"),
    ({"exclude": ["a"]}, "segment/s: expected members, shards or rules"),
    ({"members": ["a"], "shards": 0}, "metadata"),
    ({"shards": 17}, "metadata.shards"),
    ({"shards": -1}, "metadata.shards"),
    ({"shards": True}, "metadata.shards"),
    ({"members": ["a", "a"]}, "metadata.members"),
    ({"members": [7]}, "metadata.members[0]"),
    ({"members": [""]}, "metadata.members[0]"),
    ({"members": ["a", "b\nc"]}, "metadata.members[1]: expected a member without control"),
    ({"members": ["é" * 300]}, "metadata.members[0]: expected a member of 1 to 512 bytes"),
    ({"members": [str(number) for number in range(501)]}, "metadata.members"),
    ({"members": [], "exclude": ["\x7f"]}, "metadata.exclude[0]: expected a member without"),
    ({"members": [], "exclude": "a"}, "metadata.exclude"),
    ({"rules": []}, "metadata.rules"),
    ({"rules": [{"name": "r"}]}, "metadata.rules[0]"),
    ({"rules": [{"name": "r", "when": {}}]}, "metadata.rules[0].when"),
    ({"rules": [{"name": "r", "when": {"a": {"like": "b"}}}]}, "metadata.rules[0].when.a"),
    ({"rules": [{"name": "r", "when": {"$segment": "t"}}]}, "metadata.rules[0].when"),
    (
        {"rules": [{"name": "r", "when": {"$not": {"$flag": {"f": "on"}}}}]},
        "metadata.rules[0].when",
    ),
    ({"rules": [{"name": "r", "when": {"a": 1}}] * 2}, "metadata.rules[1].name"),
    ({"rules": [{"name": "r", "when": {"a": 1}, "serve": "on"}]}, "metadata.rules[0]"),
    ({"member": ["a"]}, "metadata"),
]


@pytest.mark.parametrize(("metadata", "told"), SEGMENTS, ids=range(len(SEGMENTS)))
async def test_a_malformed_segment_is_refused_with_its_place(
    lived_in: Any, metadata: dict[str, Any], told: str
) -> None:
    bad = Bad(lived_in.installation, lived_in.clock())
    data = canonical({"kind": "segment", "name": "s", "metadata": metadata})
    await lived_in.put_blob(data)
    before = await lived_in.standing()
    body = bad.kit.envelope(bad.kit.put(data)).encode()
    answer = await lived_in.request("POST", "/v1/production/changes", body)
    assert (answer.status, answer.body["code"]) == (400, "manifest_invalid"), answer.body
    assert told in answer.body["message"]
    assert await lived_in.standing() == before


SHARDS: list[tuple[list[Any], str]] = [
    (["b", "a"], "shard 0000: expected members sorted and each once"),
    (["a", "a"], "shard 0000: expected members sorted and each once"),
    (["a", 7], "shard 0000: expected a list of member strings"),
    ([""], "shard 0000 member 1: expected a member of 1 to 512 bytes, found 0"),
    (["a", "b\tc"], "shard 0000 member 2: expected a member without control characters"),
    (["é" * 300], "shard 0000 member 1: expected a member of 1 to 512 bytes, found 600"),
    (sorted(map(str, range(2_001))), "shard 0000: expected at most 2000 members, found 2001;"),
]


@pytest.mark.parametrize(("members", "told"), SHARDS, ids=range(len(SHARDS)))
async def test_a_malformed_shard_is_refused_with_its_place(
    lived_in: Any, members: list[Any], told: str
) -> None:
    bad = Bad(lived_in.installation, lived_in.clock())
    body = shard_of_bits_0(bad, members)
    for data in bad.blobs:
        await lived_in.put_blob(data)
    before = await lived_in.standing()
    answer = await lived_in.request("POST", "/v1/production/changes", body)
    assert (answer.status, answer.body["code"]) == (400, "manifest_invalid"), answer.body
    assert f"segment/s {told}" in answer.body["message"]
    assert await lived_in.standing() == before


TABLE: list[tuple[Callable[[Bad], bytes], int, str]] = [
    (unsigned, 403, "threshold_not_reached"),
    (by_a_stranger, 403, "signature_invalid"),
    (with_a_wrong_signature, 403, "signature_invalid"),
    (with_one_good_and_one_bad_signature, 403, "signature_invalid"),
    (by_a_key_not_delegated, 403, "not_delegated"),
    (stale, 409, "conflict"),
    (replayed_after_a_deletion, 409, "conflict"),
    (replayed_after_a_revert, 409, "conflict"),
    (late, 403, "late"),
    (from_the_future, 400, "statement_invalid"),
    (republished, 409, "republished"),
    (of_an_unknown_kind, 400, "statement_invalid"),
    (of_an_unknown_action, 400, "statement_invalid"),
    (with_an_unknown_field, 400, "statement_invalid"),
    (with_an_unknown_statement_field, 400, "statement_invalid"),
    (outside_the_schema, 400, "manifest_invalid"),
    (naming_another_document, 400, "manifest_invalid"),
    (with_a_wrong_checksum, 400, "checksum_mismatch"),
    (without_its_authors_signature, 403, "signature_invalid"),
    (with_an_author_not_delegated, 403, "not_delegated"),
    (with_a_forged_authors_signature, 403, "signature_invalid"),
    (larger_than_its_kind_may_be, 400, "syntax_invalid"),
    (deeper_than_allowed, 400, "syntax_invalid"),
    (an_oversized_body, 413, "too_large"),
    (a_depth_bomb, 400, "syntax_invalid"),
    (no_json, 400, "syntax_invalid"),
    (of_bytes_that_are_no_utf_8, 400, "syntax_invalid"),
    (with_a_key_twice, 400, "syntax_invalid"),
    (with_nan, 400, "syntax_invalid"),
    (with_an_integer_past_2_53, 400, "syntax_invalid"),
    (in_another_spelling, 400, "syntax_invalid"),
    (with_a_name_outside_the_pattern, 400, "statement_invalid"),
    (naming_one_key_twice, 400, "statement_invalid"),
    (for_another_environment, 400, "statement_invalid"),
    (of_another_payload_type, 400, "statement_invalid"),
    (without_its_blob, 409, "blob_missing"),
    (deleting_what_is_not_there, 409, "not_live"),
    (activating_what_is_not_there, 409, "not_live"),
    (of_a_shard_without_its_segment, 400, "manifest_invalid"),
    (of_a_shard_with_anothers_member, 400, "manifest_invalid"),
]


@pytest.mark.parametrize(
    ("case", "status", "code"), TABLE, ids=[case.__name__ for case, _, _ in TABLE]
)
async def test_a_change_set_is_refused_and_leaves_nothing(
    lived_in: Any, case: Callable[[Bad], bytes], status: int, code: str
) -> None:
    bad = Bad(lived_in.installation, lived_in.clock())
    body = case(bad)
    for data in bad.blobs:
        await lived_in.put_blob(data)
    before = await lived_in.standing()

    answer = await lived_in.request("POST", "/v1/production/changes", body)

    assert (answer.status, answer.body["code"]) == (status, code), answer.body["message"]
    assert answer.body["format"] == 1
    assert "\n" not in answer.body["message"]
    assert await lived_in.standing() == before


async def test_a_refusal_is_audited_before_it_is_answered(lived_in: Any) -> None:
    await lived_in.request(
        "POST", "/v1/production/changes", unsigned(Bad(lived_in.installation, 1))
    )
    lines = [json.loads(line) for line in lived_in.audit.path.read_bytes().splitlines()]
    assert [line["event"] for line in lines][-1] == "refused"
    assert lines[-1]["token"] == "submit"
    assert lines[-1]["environment"] == "production"


async def test_a_conflict_lists_every_stale_key(lived_in: Any) -> None:
    kit = lived_in.installation
    pilot, gone = kit.flag("pilot", default="on"), kit.flag("gone")
    for data in (pilot, gone):
        await lived_in.put_blob(data)
    answer = await lived_in.submit(kit.envelope(kit.put(pilot, 1), kit.put(gone)))
    assert answer.status == 409
    assert answer.body["conflicts"] == [
        {"key": "flag/pilot", "expected": 1, "found": 2},
        {"key": "flag/gone", "expected": None, "found": 4},
    ]


async def test_an_exact_replay_is_answered_as_before_and_changes_nothing(lived_in: Any) -> None:
    kit = lived_in.installation
    data = kit.flag("gone")
    before = await lived_in.standing()
    answer = await lived_in.submit(kit.envelope(kit.put(data)))
    assert (answer.status, answer.body["generation"]) == (200, 3)
    assert await lived_in.standing() == before


async def test_missing_blobs_are_listed(served: Any) -> None:
    kit = served.installation
    first, second = kit.flag("first"), kit.flag("second")
    answer = await served.submit(kit.envelope(kit.put(first), kit.put(second)))
    assert answer.body["missing"] == [sha256_hex(first), sha256_hex(second)]


async def test_a_blob_of_another_environment_is_not_at_hand(served: Any) -> None:
    kit = served.installation
    data = kit.flag()
    await served.put_blob(data, "staging")
    answer = await served.submit(kit.envelope(kit.put(data)))
    assert answer.body["code"] == "blob_missing"
    found = await served.request("GET", f"/v1/production/blob/sha256/{sha256_hex(data)}")
    assert found.status == 404


async def test_a_blob_with_other_bytes_than_its_digest_is_refused(served: Any) -> None:
    answer = await served.request("PUT", f"/v1/production/blob/sha256/{'0' * 64}", b"other")
    assert (answer.status, answer.body["code"]) == (400, "checksum_mismatch")
    found = await served.request("GET", f"/v1/production/blob/sha256/{sha256_hex(b'other')}")
    assert found.status == 404


async def test_a_change_list_in_another_spelling_is_refused(served: Any) -> None:
    kit = served.installation
    changes = [kit.put(kit.flag(f"f{number}")) for number in range(65)]
    spaced = b"".join(json.dumps(change.to_json()).encode() + b"\n" for change in changes)
    digest = await served.put_blob(spaced)
    payload = ChangeSet.from_payload(kit.envelope(changes[0]).payload)
    fields = json.loads(payload.payload()) | {"changes": {"digest": digest, "count": 65}}
    envelope = kit.alice.sign(Envelope(PAYLOAD_TYPE["change-set"], canonical(fields)))
    answer = await served.submit(envelope)
    assert (answer.status, answer.body["code"]) == (400, "statement_invalid")


async def test_an_envelope_with_unsorted_signatures_is_refused(served: Any) -> None:
    kit = served.installation
    value = kit.envelope(kit.kill(), by=(kit.oncall, kit.alice)).to_json()
    value["signatures"].reverse()
    body = json.dumps(value).encode()
    answer = await served.request("POST", "/v1/production/changes", body)
    assert (answer.status, answer.body["code"]) == (400, "syntax_invalid")


async def test_an_envelope_need_not_be_canonical_on_the_wire(served: Any) -> None:
    kit = served.installation
    body = json.dumps(kit.envelope(kit.kill(), by=(kit.oncall,)).to_json(), indent=2).encode()
    answer = await served.request("POST", "/v1/production/changes", body)
    assert answer.status == 201
    assert (
        base64.b64encode(kit.envelope(kit.kill()).payload) in (await served.follow(1))["entries"][0]
    )


async def test_under_an_expired_policy_only_trust_passes(
    sequencer: Any, installation: Any, clock: Any
) -> None:
    writer = sequencer()
    soon = datetime.fromtimestamp(clock() / 1000 + 60, UTC).replace(microsecond=0)
    installation.new_targets(expires=soon)
    taken = writer.append_trust("production", installation.roots, installation.targets)
    writer.work()
    assert taken.result().generation == 2
    clock.ms += 120_000
    envelope = installation.envelope(installation.kill(), by=(installation.oncall,))
    statement = ChangeSet.from_payload(envelope.payload)
    killed = writer.submit("production", envelope, statement)
    installation.new_targets()
    renewed = writer.append_trust("production", installation.roots, installation.targets)
    writer.work()
    assert killed.exception().code == "trust_expired"
    assert renewed.result().generation == 3


async def test_trust_metadata_with_one_key_under_two_ids_is_refused(
    sequencer: Any, installation: Any
) -> None:
    writer = sequencer()
    value = json.loads(installation.targets)
    keys = value["signed"]["delegations"]["keys"]
    keys["0" * 64] = keys[installation.alice.key_id]
    value["signed"]["version"] += 1
    before = writer.position("production").log
    refused = writer.append_trust("production", installation.roots, json.dumps(value).encode())
    writer.work()
    assert refused.exception().code == "syntax_invalid"
    assert writer.position("production").log == before
