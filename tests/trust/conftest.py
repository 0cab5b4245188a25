"""Real keys from fixed seeds, and metadata made of them with few words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from control_plane.log.canonical import canonical
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.publish.keyfiles import sign_envelope
from control_plane.trust import authoring
from control_plane.trust.authoring import Grant
from control_plane.trust.keys import raw_of
from control_plane.trust.state import Policy, restore

EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)
BEFORE_EXPIRY_MS = 1_800_000_000_000


class Forge:
    """Keys by name, and the metadata a test needs, signed by whom it says."""

    before_expiry_ms = BEFORE_EXPIRY_MS
    expires = EXPIRES
    expires_ms = int(EXPIRES.timestamp()) * 1000

    def private(self, name: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])

    def public(self, name: str) -> bytes:
        return raw_of(self.private(name).public_key())

    def signer(self, name: str) -> CryptoSigner:
        return CryptoSigner(self.private(name))

    def key_id(self, name: str) -> str:
        return str(self.signer(name).public_key.keyid)

    def grant(
        self, pattern: str, names: Sequence[str], threshold: int = 1, label: str | None = None
    ) -> Grant:
        keys = tuple(self.public(name) for name in names)
        return Grant(label or pattern.replace("/", "."), keys, threshold, (pattern,))

    def root(
        self,
        version: int = 1,
        *,
        keys: Sequence[str] = ("root",),
        threshold: int = 1,
        targets: Sequence[str] = ("targets",),
        signers: Sequence[str] | None = None,
        expires: datetime = EXPIRES,
        logs: Iterable[authoring.LogIdentity] | None = None,
    ) -> bytes:
        metadata = authoring.new_root(
            version=version,
            expires=expires,
            root_keys=[self.public(name) for name in keys],
            root_threshold=threshold,
            targets_keys=[self.public(name) for name in targets],
            logs=logs if logs is not None else [self.log()],
        )
        return authoring.signed(metadata, [self.signer(name) for name in signers or keys])

    def log(self, environment: str = "production", key: str = "log", **more: Any) -> Any:
        return authoring.new_log("hello", environment, self.public(key), **more)

    def targets(
        self,
        version: int = 1,
        *,
        grants: Sequence[Grant] | None = None,
        signers: Sequence[str] = ("targets",),
        expires: datetime = EXPIRES,
    ) -> bytes:
        if grants is None:
            grants = [
                self.grant("production/kill/*", ("alice", "bob")),
                self.grant("production/*/*", ("alice", "bob"), 2),
                self.grant("author/*/*", ("alice",)),
            ]
        metadata = authoring.new_targets(version=version, expires=expires, delegations=grants)
        return authoring.signed(metadata, [self.signer(name) for name in signers])

    def policy(self, *grants: Grant) -> Policy:
        return restore(self.root(), self.targets(grants=grants or None))

    def envelope(self, *names: str, payload: bytes = b"{}") -> Envelope:
        envelope = Envelope(PAYLOAD_TYPE["change-set"], payload, ())
        for name in names:
            envelope = sign_envelope(envelope, self.signer(name))
        return envelope

    def resigned(self, data: bytes, names: Sequence[str], change: Callable[[Any], None]) -> bytes:
        """Metadata with its signed part changed at will, signed over the changed JSON."""
        from securesystemslib.formats import encode_canonical

        value = json.loads(data)
        change(value["signed"])
        message = (encode_canonical(value["signed"]) or "").encode()
        value["signatures"] = [
            self.signer(name).sign(message).to_dict() for name in sorted(names, key=self.key_id)
        ]
        return canonical(value)


@pytest.fixture
def forge() -> Forge:
    return Forge()


@pytest.fixture(scope="session")
def metadata_pair() -> tuple[bytes, bytes]:
    """Good root and targets metadata, made once for tests that mutate them often."""
    return Forge().root(), Forge().targets()
