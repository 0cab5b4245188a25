"""Signed notes and verifier keys as C2SP's signed-note has them (c2sp.org/signed-note@v1.0.0).

A note is a text and signature lines. Lines by unknown keys are kept and ignored; whose lines count
is the caller's question. Parsing and printing are exact inverses for every note accepted here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from control_plane.errors import SyntaxInvalid
from control_plane.log.envelope import decode_base64

ED25519 = 0x01
COSIGNATURE_V1 = 0x04
ALGORITHMS = (ED25519, COSIGNATURE_V1)
PUBLIC_KEY_BYTES = 32
MAX_NOTE_BYTES = 1 << 16
MAX_NOTE_SIGNATURES = 64
_DASH = "— "


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A vkey: the name, the four-byte key id, the signature type and the raw Ed25519 public key."""

    name: str
    key_id: bytes
    algorithm: int
    public: bytes

    @classmethod
    def of(cls, name: str, algorithm: int, public: bytes) -> VerifierKey:
        """The key of that name; its id is computed as the specification recommends."""
        return cls(name, note_key_id(name, algorithm, public), algorithm, public)

    @classmethod
    def ed25519(cls, name: str, public: bytes) -> VerifierKey:
        """A key for plain Ed25519 signatures (type 0x01)."""
        return cls.of(name, ED25519, public)

    @classmethod
    def cosigner(cls, name: str, public: bytes) -> VerifierKey:
        """A key for timestamped cosignatures (type 0x04)."""
        return cls.of(name, COSIGNATURE_V1, public)

    def encode(self) -> str:
        """``name+key id in hex+base64(type, public key)``."""
        material = base64.b64encode(bytes([self.algorithm]) + self.public).decode("ascii")
        return f"{self.name}+{self.key_id.hex()}+{material}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a vkey.

        Raises:
            SyntaxInvalid: for another form or type, or an id that is not the key's own.
        """
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise SyntaxInvalid(f"vkey: expected name+id+key, found {text[:80]!r}")
        name, written, material = parts
        _check_key_name(name)
        data = decode_base64(material, "vkey")
        if len(data) != 1 + PUBLIC_KEY_BYTES or data[0] not in ALGORITHMS:
            raise SyntaxInvalid(
                f"vkey {name}: expected an Ed25519 key of type 0x01 or 0x04, found {len(data)}"
                " bytes"
            )
        key = cls.of(name, data[0], data[1:])
        if written != key.key_id.hex():
            raise SyntaxInvalid(
                f"vkey {name}: expected the id {key.key_id.hex()}, found {written[:16]!r}"
            )
        return key


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who, the four-byte key id, and the bytes that follow the id."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a newline, and its signature lines in order."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """The note as it is published."""
        lines = "".join(
            f"{_DASH}{line.name} {base64.b64encode(line.key_id + line.value).decode('ascii')}\n"
            for line in self.signatures
        )
        return f"{self.text}\n{lines}".encode()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a note.

        Raises:
            SyntaxInvalid: for control characters, no blank line, or a signature out of form.
        """
        text = _note_text(data)
        body, blank, tail = text.rpartition("\n\n")
        if not blank or not tail.endswith("\n"):
            raise SyntaxInvalid(
                "note: expected a text, an empty line and signature lines, found no such end"
            )
        lines = tail[:-1].split("\n")
        if len(lines) > MAX_NOTE_SIGNATURES:
            raise SyntaxInvalid(
                f"note: expected at most {MAX_NOTE_SIGNATURES} signatures, found {len(lines)}"
            )
        return cls(body + "\n", tuple(_signature_line(line) for line in lines))


def note_key_id(name: str, algorithm: int, public: bytes) -> bytes:
    """SHA-256(name, newline, type, public key), its first four bytes."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + public).digest()[:4]


def signature_by(note: Note, key: VerifierKey) -> NoteSignature | None:
    """The line that claims to be by that key, unverified; None when there is none."""
    return next(_lines_by(note.signatures, key), None)


def signatures_by(note: Note, key: VerifierKey) -> tuple[NoteSignature, ...]:
    """Every line that claims to be by that key, unverified, in the note's order."""
    return tuple(_lines_by(note.signatures, key))


def _lines_by(lines: Iterable[NoteSignature], key: VerifierKey) -> Iterator[NoteSignature]:
    return (line for line in lines if line.name == key.name and line.key_id == key.key_id)


def _note_text(data: bytes) -> str:
    if len(data) > MAX_NOTE_BYTES:
        raise SyntaxInvalid(f"note: expected at most {MAX_NOTE_BYTES} bytes, found {len(data)}")
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise SyntaxInvalid(
            f"note: expected UTF-8, found byte 0x{data[error.start]:02x}"
        ) from error
    if any(character < " " and character != "\n" for character in text):
        raise SyntaxInvalid("note: expected no control characters but newlines, found one")
    return text


def _signature_line(line: str) -> NoteSignature:
    name, space, material = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise SyntaxInvalid(f"note: expected '— name base64', found {line[:80]!r}")
    _check_key_name(name)
    data = decode_base64(material, "note signature")
    if len(data) < 5:
        raise SyntaxInvalid(f"note: expected a key id and a signature, found {len(data)} bytes")
    return NoteSignature(name, data[:4], data[4:])


def _check_key_name(name: str) -> None:
    # Errors print names, so none may hold what steers a terminal; a space is printable.
    if not name.isprintable() or not name or "+" in name or any(map(str.isspace, name)):
        raise SyntaxInvalid(
            "note: expected a printable key name without spaces and plus signs, found"
            f" {name[:80]!r}"
        )
