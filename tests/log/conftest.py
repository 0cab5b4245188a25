"""One environment's log over several epochs, kept in memory: written as a store writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from control_plane.errors import EpochMoved, NotFound
from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import Checkpoint, LogSigner, cosigned_message
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope, Signature
from control_plane.log.epochs import begin_epoch
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import EMPTY, consistency_proof, leaf_hash, subtree_reader
from control_plane.log.note import Note, NoteSignature, VerifierKey
from control_plane.log.statements import (
    Change,
    Continuation,
    EpochStatement,
    Key,
    SnapshotStatement,
    TrustStatement,
    change_set,
)
from control_plane.log.steps import Accepted, Position, Rejected, judge
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.state import LogIdentity, Policy

ENVIRONMENT = "production"
NOW = 1_700_000_000_000
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)


class Keys:
    """Real keys from fixed seeds, by name."""

    def private(self, name: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])

    def public(self, name: str) -> bytes:
        return self.private(name).public_key().public_bytes_raw()

    def signer(self, name: str) -> CryptoSigner:
        return CryptoSigner(self.private(name))

    def signed(self, envelope: Envelope, *names: str) -> Envelope:
        for name in names:
            value = self.private(name).sign(envelope.pae())
            envelope = envelope.with_signature(Signature(self.signer(name).public_key.keyid, value))
        return envelope

    def witness(self, name: str) -> VerifierKey:
        return VerifierKey.cosigner(f"{name}.example", self.public(name))

    def witnesses(self, *names: str, threshold: int) -> dict[str, Any]:
        """What a root says about witnesses."""
        vkeys = [self.witness(name).encode() for name in names]
        return {"vkeys": vkeys, "threshold": threshold}

    def witnessed(self, note: bytes, *names: str, at: int = 7) -> bytes:
        """The note with a cosignature line by each witness."""
        parsed = Note.parse(note)
        message = cosigned_message(parsed.text, at)
        lines = [
            NoteSignature(
                self.witness(name).name,
                self.witness(name).key_id,
                at.to_bytes(8, "big") + self.private(name).sign(message),
            )
            for name in names
        ]
        return Note(parsed.text, (*parsed.signatures, *lines)).encode()


@dataclass
class Epoch:
    """One epoch's entries; ``note`` is what is shown instead of the checkpoint of all of them."""

    signer: LogSigner
    leaves: list[bytes] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.signer.origin.rpartition("/")[2])

    def root(self, size: int) -> bytes:
        return EMPTY.extended(map(leaf_hash, self.leaves[:size])).root()

    def checkpoint(self, size: int | None = None) -> bytes:
        size = len(self.leaves) if size is None else size
        checkpoint = Checkpoint(self.signer.origin, size, self.root(size))
        return self.signer.sign_checkpoint(checkpoint, NOW // 1000)


class MemoryLog:
    """A log that its author, its store and a node of it are at once; a source for `replay`."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.heads: dict[Key, Head] = {}
        self.blobs: dict[str, bytes] = {}
        self.roots: list[bytes] = []
        self.targets = self.targets_of(1)
        self.epochs: list[Epoch] = []
        self.policy: Policy | None = None
        self.position = Position("acme/production/1")
        self.verdicts: list[Accepted | Rejected] = []
        self.part = 8192
        self.witnesses: tuple[str, ...] = ()

    # What is signed

    def identity(self, epoch: int = 1, key: str = "log", **more: Any) -> LogIdentity:
        return authoring.new_log("acme", ENVIRONMENT, self.keys.public(key), epoch=epoch, **more)

    def root_of(
        self,
        version: int,
        log: LogIdentity,
        signers: Sequence[str] = ("root",),
        expires: datetime = EXPIRES,
    ) -> bytes:
        metadata = authoring.new_root(
            version=version,
            expires=expires,
            root_keys=[self.keys.public("root")],
            targets_keys=[self.keys.public("targets")],
            logs=[log],
        )
        return authoring.signed(metadata, [self.keys.signer(name) for name in signers])

    def targets_of(self, version: int, authors: Sequence[str] = ("ann",)) -> bytes:
        keys = tuple(self.keys.public(name) for name in authors)
        grants = [authoring.Grant("all", keys, 1, (f"{ENVIRONMENT}/*/*",))]
        metadata = authoring.new_targets(version=version, expires=EXPIRES, delegations=grants)
        return authoring.signed(metadata, [self.keys.signer("targets")])

    def trust_entry(
        self,
        signer: LogSigner,
        roots: Sequence[bytes],
        targets: bytes | None = None,
        origin: str | None = None,
        at: int = NOW,
    ) -> Leaf:
        targets = self.targets if targets is None else targets
        self.blobs.update({sha256_hex(data): data for data in (*roots, targets)})
        statement = TrustStatement(
            origin=origin or signer.origin,
            root=tuple(map(sha256_hex, roots)),
            targets=sha256_hex(targets),
        )
        return Leaf(at, signer.sign_envelope(Envelope(PAYLOAD_TYPE["trust"], statement.payload())))

    def continuation(self, **other: Any) -> dict[str, Any]:
        """What a root says that continues this log where it stands now."""
        position = self.position
        return {
            "epoch": position.epoch,
            "size": position.size,
            "root": position.frontier.root().hex(),
            "generation": position.generation + (1 << 20),
            **other,
        }

    def statement(self, *, continues: dict[str, Any], **other: Any) -> EpochStatement:
        """What founds the epoch at whose second entry this log stands."""
        assert self.policy is not None
        count, root = self.state()
        state = {
            "origin": self.position.origin, "generation": self.position.generation,
            "count": count, "root": root, "policy": self.policy.digest, **other,
        }  # fmt: skip
        return EpochStatement(
            origin=self.position.origin,
            continues=Continuation(**continues),
            state=SnapshotStatement(**state),
        )

    def founding(self, signer: LogSigner, statement: EpochStatement, at: int = NOW) -> Leaf:
        envelope = Envelope(PAYLOAD_TYPE["epoch"], statement.payload())
        return Leaf(at, signer.sign_envelope(envelope))

    # What is written

    def start(self, **identity: Any) -> None:
        """The first epoch with its first entry."""
        self.roots.append(self.root_of(1, self.identity(**identity)))
        self.epochs.append(Epoch(LogSigner("acme/production/1", self.keys.private("log"))))
        self.append(self.trust_entry(self.epochs[0].signer, self.roots))

    def begin(
        self, epoch: int | None = None, key: str = "log", *, at: int = NOW, **identity: Any
    ) -> None:
        """A new epoch that continues the end of the newest one, begun with both its entries."""
        number = epoch or self.position.epoch + 1
        continues = self.continuation()
        log = self.identity(number, key, continues=continues, **identity)
        self.roots.append(self.root_of(len(self.roots) + 1, log))
        self.epochs.append(Epoch(LogSigner(log.origin, self.keys.private(key))))
        assert self.policy is not None
        first = self.trust_entry(self.newest.signer, self.roots[-1:], at=at)
        self.position, _ = begin_epoch(
            self.position, self.policy, ENVIRONMENT, first, self.blobs.get
        )
        self.append(first)
        self.append(self.founding(self.newest.signer, self.statement(continues=continues), at))

    def put(self, name: str, replaces: int | None = None, **more: Any) -> Accepted | Rejected:
        """A change set of one flag."""
        return self.append(self.change(name, replaces, **more))

    def change(
        self, name: str, replaces: int | None = None, *, by: str = "ann", at: int = NOW
    ) -> Leaf:
        blob = b'{"%s":%d}' % (name.encode(), len(self.blobs))
        self.blobs[sha256_hex(blob)] = blob
        change = Change(
            action="put", kind="flag", name=name, replaces=replaces, digest=sha256_hex(blob)
        )
        statement, _ = change_set(
            self.position.origin, [change], created_at=at, not_after=at + 1000, reason="",
            verb="apply",
        )  # fmt: skip
        return Leaf(at, self.keys.signed(statement.envelope(), by))

    def judged(self, leaf: Leaf, **other: Any) -> Accepted | Rejected:
        """What steps 5 to 7 make of an entry here; nothing moves."""
        given: dict[str, Any] = {
            "origin": self.position.origin, "environment": ENVIRONMENT, "policy": self.policy,
            "heads": self.heads.get, "blobs": self.blobs.get, "state": self.state, **other,
        }  # fmt: skip
        return judge(self.position.generation + 1, leaf, **given)

    def append(self, leaf: Leaf) -> Accepted | Rejected:
        verdict = self.judged(leaf)
        data = leaf.encode()
        self.newest.leaves.append(data)
        before = self.position
        self.position = Position(
            before.origin,
            before.size + 1,
            before.frontier.extended([leaf_hash(data)]),
            b"",
            leaf.sequenced_at,
            before.continues_generation,
        )
        self.policy = verdict.policy
        if isinstance(verdict, Accepted):
            self.heads.update(verdict.heads or {})
        self.verdicts.append(verdict)
        return verdict

    def state(self) -> tuple[int, str]:
        return snapshot_root(snapshot_line(key, head) for key, head in self.heads.items())

    @property
    def newest(self) -> Epoch:
        return self.epochs[-1]

    # What is served

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        """Entries as a store answers: an older epoch to its end, then where the log goes on."""
        served = next((each for each in self.epochs if each.number == epoch), None)
        newest = self.newest.number
        if served is None and epoch > newest:
            raise NotFound(f"{environment}: expected epoch {newest}, found {epoch}")
        if served is None or (epoch < newest and size >= len(served.leaves)):
            raise EpochMoved(f"{environment}: the log goes on in epoch {newest}", newest)
        end = min(size + self.part, len(served.leaves))
        more = end < len(served.leaves)
        read = subtree_reader([leaf_hash(leaf) for leaf in served.leaves])
        return {
            "first": size,
            "entries": served.leaves[size:end],
            "checkpoint": self.keys.witnessed(served.checkpoint(), *self.witnesses),
            "blobs": {},
            "more": more,
            "proof": consistency_proof(end, len(served.leaves), read) if more else [],
        }

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        try:
            return self.blobs[digest]
        except KeyError:
            raise NotFound(f"{environment}: expected blob {digest}, found none") from None

    def enrolment(self) -> Enrolment:
        """A ``trust.json`` of what the log is now."""
        note = self.keys.witnessed(self.newest.checkpoint(), *self.witnesses)
        return Enrolment(self.roots[-1], self.targets, {ENVIRONMENT: note})


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def log(keys: Keys) -> MemoryLog:
    """A log of one epoch that holds two flags."""
    made = MemoryLog(keys)
    made.start()
    made.put("one")
    made.put("two")
    return made


@pytest.fixture(scope="session")
def new_log() -> Any:
    """Makes logs that hold nothing yet."""
    return lambda: MemoryLog(Keys())
