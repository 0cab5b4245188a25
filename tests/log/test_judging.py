"""Steps 5 to 7: what an entry decides, under the policy in force at its own index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from control_plane.errors import SignatureInvalid, StatementInvalid, SyntaxInvalid
from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope, Signature
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.statements import (
    Change,
    Continuation,
    EpochStatement,
    Key,
    SnapshotStatement,
    TrustStatement,
    UnknownPayloadType,
    change_set,
)
from control_plane.log.steps import Accepted, BlobMissing, Rejected, SnapshotMismatch, judge
from control_plane.trust import authoring
from control_plane.trust.state import Policy

ORIGIN = "acme/production/1"
NOW = 1_700_000_000_000
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)
EXPIRES_MS = int(EXPIRES.timestamp() * 1000)
DIGEST = "ab" * 32


def private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])


def public(name: str) -> bytes:
    return private(name).public_key().public_bytes_raw()


def signer(name: str) -> CryptoSigner:
    return CryptoSigner(private(name))


LOG = LogSigner(ORIGIN, private("log"))


def root_of(version: int = 1, signers: Sequence[str] = ("root",)) -> bytes:
    metadata = authoring.new_root(
        version=version,
        expires=EXPIRES,
        root_keys=[public("root")],
        targets_keys=[public("targets")],
        logs=[authoring.new_log("acme", "production", public("log"))],
    )
    return authoring.signed(metadata, [signer(name) for name in signers])


def targets_of(
    version: int = 1, threshold: int = 1, authors: Sequence[str] = ("ann", "bob")
) -> bytes:
    keys = tuple(public(name) for name in authors)
    grants = [
        authoring.Grant("kill", (public("oncall"),), 1, ("production/kill/*",)),
        authoring.Grant("flags", keys, threshold, ("production/*/*",)),
    ]
    metadata = authoring.new_targets(version=version, expires=EXPIRES, delegations=grants)
    return authoring.signed(metadata, [signer("targets")])


@dataclass
class Log:
    """A log judged entry by entry, as a node judges it."""

    heads: dict[Key, Head] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    policy: Policy | None = None
    generation: int = 0

    def judge(self, envelope: Envelope, at: int = NOW) -> Accepted | Rejected:
        return judge(
            self.generation + 1, Leaf(at, envelope), origin=ORIGIN, environment="production",
            policy=self.policy, heads=self.heads.get, blobs=self.blobs.get, state=self.state,
        )  # fmt: skip

    def add(self, envelope: Envelope, at: int = NOW) -> Accepted | Rejected:
        verdict = self.judge(envelope, at)
        self.generation += 1
        self.policy = verdict.policy
        if isinstance(verdict, Accepted):
            self.heads.update(verdict.heads or {})
        return verdict

    def state(self) -> tuple[int, str]:
        return snapshot_root(snapshot_line(key, head) for key, head in self.heads.items())

    def trust(self, roots: Sequence[bytes], targets: bytes, origin: str = ORIGIN) -> Envelope:
        self.blobs.update({sha256_hex(data): data for data in (*roots, targets)})
        digests = tuple(sha256_hex(data) for data in roots)
        statement = TrustStatement(origin=origin, root=digests, targets=sha256_hex(targets))
        return LOG.sign_envelope(Envelope(PAYLOAD_TYPE["trust"], statement.payload()))


def changes(
    *listed: Change, by: Sequence[str] = ("ann",), origin: str = ORIGIN, not_after: int = NOW + 1000
) -> Envelope:
    statement, _ = change_set(
        origin, listed, created_at=NOW, not_after=not_after, reason="", verb="apply"
    )
    return signed(statement.envelope(), *by)


def signed(envelope: Envelope, *names: str) -> Envelope:
    for name in names:
        value = private(name).sign(envelope.pae())
        envelope = envelope.with_signature(Signature(signer(name).public_key.keyid, value))
    return envelope


PUT = Change(action="put", kind="flag", name="x", replaces=None, digest=DIGEST)
KILL = Change(action="put", kind="kill", name="x", replaces=None, value={"variant": None})


@pytest.fixture
def log() -> Log:
    started = Log()
    started.add(started.trust([root_of()], targets_of()))
    return started


def rejected(log: Log, envelope: Envelope, at: int = NOW) -> Rejected:
    before = dict(log.heads), log.policy
    verdict = log.add(envelope, at)
    assert isinstance(verdict, Rejected)
    assert (log.heads, log.policy) == before
    assert verdict.identity == envelope.identity
    return verdict


def test_a_signed_change_set_is_accepted_and_names_its_keys(log: Log) -> None:
    verdict = log.add(changes(PUT))
    assert isinstance(verdict, Accepted)
    assert verdict.generation == 2
    assert verdict.key_ids == (signer("ann").public_key.keyid,)
    assert log.heads == {Key("flag", "x"): Head(2, DIGEST, "", "apply", verdict.key_ids)}


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        (changes(PUT, by=()), "threshold_not_reached"),
        (changes(PUT, by=("eve",)), "not_delegated"),
        (changes(PUT, by=("oncall",)), "not_delegated"),
        (changes(KILL, by=("ann",)), "not_delegated"),
        (changes(PUT, origin="acme/staging/1"), "statement_invalid"),
        (changes(PUT, origin="acme/production/2"), "statement_invalid"),
        (changes(PUT, not_after=NOW - 1), "late"),
        (signed(Envelope(PAYLOAD_TYPE["change-set"], b"{}"), "ann"), "statement_invalid"),
        (signed(Envelope(PAYLOAD_TYPE["trust"], b"[1"), "ann"), "statement_invalid"),
    ],
)
def test_what_is_not_authorised_is_rejected(log: Log, envelope: Envelope, code: str) -> None:
    assert rejected(log, envelope).code == code


def test_a_signature_that_does_not_verify_rejects(log: Log) -> None:
    good = changes(PUT)
    forged = good.with_signature(Signature(good.signatures[0].key_id, bytes(64)))
    assert rejected(log, forged).code == "signature_invalid"


def test_a_signature_over_another_payload_type_rejects(log: Log) -> None:
    good = changes(PUT)
    moved = Envelope(PAYLOAD_TYPE["snapshot"], good.payload, good.signatures)
    assert rejected(log, moved).code == "statement_invalid"


def test_an_entry_sequenced_at_not_after_is_in_time(log: Log) -> None:
    assert isinstance(log.add(changes(PUT, not_after=NOW), at=NOW), Accepted)


def test_a_stale_replaces_rejects_and_a_replay_is_stale(log: Log) -> None:
    log.add(changes(PUT))
    assert rejected(log, changes(PUT)).code == "conflict"


def test_a_threshold_of_two_needs_two_people(log: Log) -> None:
    log.add(log.trust([], targets_of(version=2, threshold=2)))
    assert rejected(log, changes(PUT)).code == "threshold_not_reached"
    verdict = log.add(changes(PUT, by=("ann", "bob")))
    assert isinstance(verdict, Accepted)
    assert len(verdict.key_ids) == 2


def test_a_trust_entry_changes_the_policy_for_entries_after_it(log: Log) -> None:
    log.add(changes(PUT))
    log.add(log.trust([], targets_of(version=2, authors=("bob",))))
    again = Change(action="put", kind="flag", name="x", replaces=2, digest=DIGEST)
    assert rejected(log, changes(again, by=("ann",))).code == "not_delegated"
    assert isinstance(log.add(changes(again, by=("bob",))), Accepted)


def test_a_rolled_back_or_unsigned_policy_is_rejected(log: Log) -> None:
    log.add(log.trust([], targets_of(version=3)))
    assert rejected(log, log.trust([], targets_of(version=2))).code == "rolled_back"
    skipped = log.trust([root_of(3)], targets_of(version=4))
    assert rejected(log, skipped).code == "syntax_invalid"


def test_a_root_that_drops_the_environment_is_rejected(log: Log) -> None:
    metadata = authoring.new_root(
        version=2,
        expires=EXPIRES,
        root_keys=[public("root")],
        targets_keys=[public("targets")],
        logs=[authoring.new_log("acme", "staging", public("log"))],
    )
    second = authoring.signed(metadata, [signer("root")])
    verdict = rejected(log, log.trust([second], targets_of(2)))
    assert (verdict.code, verdict.policy.root_version) == ("not_found", 1)


def test_a_trust_entry_needs_the_logs_signature(log: Log) -> None:
    envelope = log.trust([], targets_of(version=2))
    stripped = Envelope(envelope.payload_type, envelope.payload)
    assert rejected(log, stripped).code == "signature_invalid"


def test_an_expired_policy_passes_trust_entries_only(log: Log) -> None:
    late = changes(PUT, not_after=EXPIRES_MS * 2)
    assert rejected(log, late, at=EXPIRES_MS).code == "trust_expired"
    assert rejected(log, log.trust([], targets_of(version=2)), EXPIRES_MS).code == "trust_expired"
    assert isinstance(log.add(late, at=EXPIRES_MS - 1), Accepted)


def test_missing_trust_metadata_waits_and_decides_nothing(log: Log) -> None:
    envelope = log.trust([root_of(2)], targets_of(version=2))
    kept = dict(log.blobs)
    log.blobs.clear()
    with pytest.raises(BlobMissing) as waiting:
        log.judge(envelope)
    assert waiting.value.digest in kept
    log.blobs[waiting.value.digest] = b"other bytes"
    with pytest.raises(BlobMissing):
        log.judge(envelope)
    log.blobs.update(kept)
    assert isinstance(log.add(envelope), Accepted)


def test_a_large_change_list_is_waited_for_and_judged_whole(log: Log) -> None:
    many = [
        Change(action="put", kind="flag", name=f"x{n}", replaces=None, digest=DIGEST)
        for n in range(65)
    ]
    statement, blob = change_set(
        ORIGIN, many, created_at=NOW, not_after=NOW + 1, reason="", verb="apply"
    )
    envelope = signed(statement.envelope(), "ann")
    with pytest.raises(BlobMissing):
        log.judge(envelope)
    log.blobs[sha256_hex(blob or b"")] = blob or b""
    assert isinstance(log.add(envelope), Accepted)
    assert len(log.heads) == 65


def test_the_first_entry_must_establish_a_policy() -> None:
    log = Log()
    with pytest.raises(StatementInvalid, match="expected a trust entry first"):
        log.judge(changes(PUT))
    with pytest.raises(StatementInvalid, match="expected the origin"):
        log.judge(log.trust([root_of()], targets_of(), origin="acme/staging/1"))
    with pytest.raises(SyntaxInvalid, match="expected a root to begin with"):
        log.judge(log.trust([], targets_of()))
    stranger = LogSigner(ORIGIN, private("stranger"))
    envelope = log.trust([root_of()], targets_of())
    forged = stranger.sign_envelope(Envelope(envelope.payload_type, envelope.payload))
    with pytest.raises(SignatureInvalid):
        log.judge(forged)
    assert isinstance(log.add(envelope), Accepted)


def snapshot_of(log: Log, **other: object) -> Envelope:
    count, root = log.state()
    assert log.policy is not None
    fields = {"origin": ORIGIN, "generation": log.generation, "count": count, "root": root}
    fields |= {"policy": log.policy.digest, **other}
    statement = SnapshotStatement(**fields)  # type: ignore[arg-type]
    return LOG.sign_envelope(Envelope(PAYLOAD_TYPE["snapshot"], statement.payload()))


def test_a_true_snapshot_is_accepted_and_moves_nothing(log: Log) -> None:
    log.add(changes(PUT))
    heads = dict(log.heads)
    assert isinstance(log.add(snapshot_of(log)), Accepted)
    assert log.heads == heads


@pytest.mark.parametrize(
    "lie", [{"generation": 1}, {"count": 7}, {"root": DIGEST}, {"policy": DIGEST}]
)
def test_a_snapshot_of_another_fold_stops_the_loop(log: Log, lie: dict[str, object]) -> None:
    log.add(changes(PUT))
    with pytest.raises(SnapshotMismatch):
        log.judge(snapshot_of(log, **lie))


def test_a_snapshot_that_the_log_did_not_sign_is_rejected(log: Log) -> None:
    envelope = snapshot_of(log)
    forged = signed(Envelope(envelope.payload_type, envelope.payload), "ann")
    assert rejected(log, forged).code == "signature_invalid"


def test_an_epoch_statement_needs_a_root_that_names_it(log: Log) -> None:
    state = SnapshotStatement(origin=ORIGIN, generation=1, count=0, root=DIGEST, policy=DIGEST)
    continues = Continuation(epoch=1, size=1, root=DIGEST, generation=1 << 20)
    statement = EpochStatement(origin=ORIGIN, continues=continues, state=state)
    envelope = LOG.sign_envelope(Envelope(PAYLOAD_TYPE["epoch"], statement.payload()))
    assert rejected(log, envelope).code == "epoch"


def test_an_unknown_payload_type_stops_the_loop(log: Log) -> None:
    with pytest.raises(UnknownPayloadType, match="too old"):
        log.judge(signed(Envelope("application/vnd.control-plane.ring.v1+json", b"{}"), "ann"))
