"""What is signed: the Dead Simple Signing Envelope, version 1.

A signature covers PAE(payload type, payload bytes), so bytes signed as one thing can never be
passed off as another. Here an envelope holds at most 16 signatures, one per key id, sorted by key
id; its identity is the SHA-256 of the payload alone, so adding a signature does not change it.
Source: DSSE v1.0.2, https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from itertools import pairwise

from control_plane.errors import SyntaxInvalid
from control_plane.log.canonical import Json, canonical, parse, sha256_hex
from control_plane.names import DIGEST, MAX_LEAF_BYTES, MAX_SIGNATURES

STATEMENTS = ("change-set", "trust", "snapshot", "epoch")
PAYLOAD_TYPE = {name: f"application/vnd.control-plane.{name}.v1+json" for name in STATEMENTS}
MANIFEST_PAYLOAD_TYPE = "application/vnd.control-plane.manifest.v1+json"


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the exact bytes a signature covers."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Signature:
    """One key's signature; ``key_id`` is the TUF key id in hex, ``value`` the raw 64 bytes."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and the signatures over it, sorted by key id."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...] = ()

    @property
    def identity(self) -> str:
        """SHA-256 of the payload: the statement's name everywhere."""
        return sha256_hex(self.payload)

    def pae(self) -> bytes:
        """The bytes every signature of this envelope covers."""
        return pae(self.payload_type, self.payload)

    def with_signature(self, signature: Signature) -> Envelope:
        """The same statement with one more signature; the same key's older one is replaced."""
        others = [held for held in self.signatures if held.key_id != signature.key_id]
        signatures = sorted([*others, signature], key=lambda held: held.key_id)
        return replace(self, signatures=tuple(signatures))

    def to_json(self) -> dict[str, Json]:
        """The envelope as DSSE's JSON object."""
        return {
            "payload": _base64(self.payload),
            "payloadType": self.payload_type,
            "signatures": [
                {"keyid": held.key_id, "sig": _base64(held.value)} for held in self.signatures
            ],
        }

    def encode(self) -> bytes:
        """Canonical bytes of the JSON object."""
        return canonical(self.to_json())

    @classmethod
    def from_json(cls, value: Json) -> Envelope:
        """Read DSSE's JSON object.

        Raises:
            SyntaxInvalid: for missing or unknown fields, base64 of another spelling, more than 16
                signatures, a key id twice, or signatures out of order.
        """
        fields = _fields(value, {"payload", "payloadType", "signatures"}, "envelope")
        payload_type, listed = fields["payloadType"], fields["signatures"]
        if not isinstance(payload_type, str) or not isinstance(listed, list):
            raise SyntaxInvalid(
                "envelope: expected a payloadType string and a list of signatures, found others"
            )
        if len(listed) > MAX_SIGNATURES:
            raise SyntaxInvalid(
                f"envelope: expected at most {MAX_SIGNATURES} signatures, found {len(listed)}"
            )
        signatures = tuple(_signature(item) for item in listed)
        ids = [signature.key_id for signature in signatures]
        if any(first >= second for first, second in pairwise(ids)):
            raise SyntaxInvalid(
                "envelope: expected signatures sorted by key id, each once, found others"
            )
        return cls(payload_type, decode_base64(fields["payload"], "envelope payload"), signatures)

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Read an envelope's JSON bytes.

        Raises:
            SyntaxInvalid: as ``from_json``, or for bytes that are not strict JSON.
        """
        return cls.from_json(parse(data, what="envelope", max_bytes=MAX_LEAF_BYTES))


def decode_base64(value: Json, what: str) -> bytes:
    """Standard base64 (RFC 4648, section 4) in its only canonical spelling.

    Raises:
        SyntaxInvalid: for anything else, including missing padding and stray trailing bits.
    """
    if not isinstance(value, str):
        raise SyntaxInvalid(f"{what}: expected base64 text, found {type(value).__name__}")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SyntaxInvalid(f"{what}: expected base64, found {value[:24]!r}") from error
    if _base64(data) != value:
        raise SyntaxInvalid(f"{what}: expected canonical base64, found another spelling of it")
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _fields(value: Json, names: set[str], what: str) -> dict[str, Json]:
    if not isinstance(value, dict) or set(value) != names:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise SyntaxInvalid(f"{what}: expected the fields {sorted(names)}, found {found}")
    return value


def _signature(item: Json) -> Signature:
    fields = _fields(item, {"keyid", "sig"}, "signature")
    key_id = fields["keyid"]
    if not isinstance(key_id, str) or not DIGEST.fullmatch(key_id):
        raise SyntaxInvalid(f"signature: expected a key id of 64 hex digits, found {key_id!r}")
    return Signature(key_id, decode_base64(fields["sig"], "signature"))
