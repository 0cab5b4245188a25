"""Checkpoints: what a log says its tree is, who says so, and when.

The text is C2SP's tlog-checkpoint (origin, size, root hash). The log signs it twice with one
Ed25519 key: plainly (type 0x01), and as a timestamped cosignature (type 0x04, tlog-cosignature)
that is renewed while nothing changes, so that a frozen log can be told from a quiet one.

Witnesses are others who saw the log grow and cosigned what they saw (type 0x04, too). A log that
shows two histories would need enough of them to sign both. Whose lines are asked for, and how many,
is the root metadata's to say; when they signed is not judged.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from control_plane.errors import SignatureInvalid, SyntaxInvalid
from control_plane.log.canonical import Json
from control_plane.log.envelope import Envelope, Signature, decode_base64
from control_plane.log.merkle import HASH_BYTES
from control_plane.log.note import (
    COSIGNATURE_V1,
    ED25519,
    Note,
    NoteSignature,
    VerifierKey,
    signature_by,
    signatures_by,
)
from control_plane.trust.keys import key_id_of

_SIGNATURE_BYTES = 64
_MAX_SIZE = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a tree: its log's origin, number of leaves and RFC 6962 root hash."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text: three lines."""
        root = base64.b64encode(self.root).decode("ascii")
        return f"{self.origin}\n{self.size}\n{root}\n"

    @classmethod
    def parse_text(cls, text: str) -> Checkpoint:
        """Read a note text; extension lines are refused, for no monitor could audit them.

        Raises:
            SyntaxInvalid: for any other form.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] != "" or not lines[0] or not lines[0].isprintable():
            raise SyntaxInvalid(
                f"checkpoint: expected origin, size and root hash lines, found {text[:120]!r}"
            )
        origin, size, root = lines[:3]
        if (
            not size.isascii()
            or not size.isdigit()
            or len(size) > 19
            or str(int(size)) != size
            or int(size) > _MAX_SIZE
        ):
            raise SyntaxInvalid(
                f"checkpoint {origin}: expected a decimal size, found {size[:24]!r}"
            )
        digest = decode_base64(root, "checkpoint root")
        if len(digest) != HASH_BYTES:
            raise SyntaxInvalid(
                f"checkpoint {origin}: expected a root of 32 bytes, found {len(digest)}"
            )
        return cls(origin, int(size), digest)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint whose log signature was verified; ``cosigned_at`` in seconds or None."""

    checkpoint: Checkpoint
    note: bytes
    cosigned_at: int | None


class LogSigner:
    """Signs checkpoints and the log's own statements with the log's Ed25519 key."""

    def __init__(self, origin: str, private_key: Ed25519PrivateKey) -> None:
        self.origin = origin
        self._private_key = private_key
        public = private_key.public_key().public_bytes_raw()
        self._plain = VerifierKey.ed25519(origin, public)
        self._cosigner = VerifierKey.cosigner(origin, public)
        self.key_id = key_id_of(public)

    @property
    def vkeys(self) -> list[str]:
        """The two verifier keys as a root metadata lists them."""
        return [self._plain.encode(), self._cosigner.encode()]

    def sign_checkpoint(self, checkpoint: Checkpoint, time_s: int) -> bytes:
        """The signed note of a checkpoint, cosigned at ``time_s`` (seconds since the epoch)."""
        text = checkpoint.text()
        plain = self._private_key.sign(text.encode())
        stamped = self._private_key.sign(cosigned_message(text, time_s))
        lines = (
            NoteSignature(self.origin, self._plain.key_id, plain),
            NoteSignature(self.origin, self._cosigner.key_id, time_s.to_bytes(8, "big") + stamped),
        )
        return Note(text, lines).encode()

    def sign_envelope(self, envelope: Envelope) -> Envelope:
        """The envelope with the log's signature (trust, snapshot and epoch statements)."""
        return envelope.with_signature(
            Signature(self.key_id, self._private_key.sign(envelope.pae()))
        )


def cosigned_message(text: str, time_s: int) -> bytes:
    """The bytes a tlog-cosignature v1 covers."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def open_checkpoint(
    note: bytes, vkeys: Iterable[str], *, witnesses: Mapping[str, Json] | None = None
) -> SignedCheckpoint:
    """Read a checkpoint and verify it with the log's keys (a 0x01 and, where listed, a 0x04 vkey).

    ``witnesses`` are ``{vkeys, threshold}`` as the root metadata names them: that many of them must
    have cosigned the same text. None asks for none.

    Raises:
        SyntaxInvalid: when the note, the checkpoint or a vkey is out of form.
        SignatureInvalid: without a valid signature by the log or by witnesses enough, for a
            cosignature that does not verify, or when the origin is not the key's name.
    """
    parsed = Note.parse(note)
    checkpoint = Checkpoint.parse_text(parsed.text)
    keys = [_verifier_key(vkey) for vkey in vkeys]
    for key in keys:
        if key.name != checkpoint.origin:
            raise SignatureInvalid(
                f"checkpoint: expected the origin {key.name}, found {checkpoint.origin}"
            )
    _verify_plain(parsed, [key for key in keys if key.algorithm == ED25519], checkpoint.origin)
    cosigners = [key for key in keys if key.algorithm == COSIGNATURE_V1]
    times = [time for key in cosigners if (time := cosigned_at(parsed, key)) is not None]
    if witnesses is not None:
        _check_witnessed(parsed, witnesses, checkpoint.origin)
    return SignedCheckpoint(checkpoint, note, max(times, default=None))


def cosigned_at(note: Note, key: VerifierKey) -> int | None:
    """When that key cosigned the note, in seconds; None when it did not.

    Raises:
        SignatureInvalid: when its line does not verify.
    """
    line = signature_by(note, key)
    return None if line is None else _cosigned_at(note, key, line)


def _cosigned_at(note: Note, key: VerifierKey, line: NoteSignature) -> int:
    if len(line.value) != 8 + _SIGNATURE_BYTES:
        raise SignatureInvalid(
            f"checkpoint {key.name}: expected a cosignature of 72 bytes, found {len(line.value)}"
        )
    time_s = int.from_bytes(line.value[:8], "big")
    _verify(key, line.value[8:], cosigned_message(note.text, time_s))
    return time_s


def _check_witnessed(note: Note, witnesses: Mapping[str, Json], origin: str) -> None:
    """Enough witnesses cosigned; each counts once, and each line by one of them verifies."""
    threshold, listed = witnesses["threshold"], witnesses["vkeys"]
    assert isinstance(threshold, int)
    assert isinstance(listed, list)
    keys = [VerifierKey.parse(str(vkey)) for vkey in listed]
    found = set()
    for key in keys:
        for line in signatures_by(note, key):
            _cosigned_at(note, key, line)
            found.add(key.public)
    if len(found) < threshold:
        raise SignatureInvalid(
            f"checkpoint {origin}: expected cosignatures by {threshold} of {len(keys)} witnesses,"
            f" found {len(found)}"
        )


def _verify_plain(note: Note, keys: list[VerifierKey], origin: str) -> None:
    signed = [(key, line) for key in keys if (line := signature_by(note, key)) is not None]
    if not signed:
        raise SignatureInvalid(
            f"checkpoint {origin}: expected a signature by the log's key, found none"
        )
    for key, line in signed:
        _verify(key, line.value, note.text.encode())


@lru_cache(maxsize=64)
def _verifier_key(vkey: str) -> VerifierKey:
    """A node reads the same few keys with each of its log's checkpoints."""
    return VerifierKey.parse(vkey)


@lru_cache(maxsize=64)
def _public_key(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def _verify(key: VerifierKey, signature: bytes, message: bytes) -> None:
    try:
        _public_key(key.public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureInvalid(
            f"checkpoint {key.name}: expected a signature by key {key.key_id.hex()}, found one that"
            " does not verify"
        ) from error
