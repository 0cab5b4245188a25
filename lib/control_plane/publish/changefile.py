"""A signed change set as one file, so that people can pass it on for another signature.

The file is JSON: ``{"format": 1, "environment", "envelope": DSSE, "blobs": {sha256: base64}}``.
It carries every blob it names, so whoever approves it can read what they sign without asking
anyone. Reading checks each blob's digest, that the statement's origin is the environment's, and
that no blob is missing or unasked for; a file that fails was changed on its way.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace

from control_plane.errors import ChecksumMismatch, StatementInvalid, SyntaxInvalid
from control_plane.log.canonical import Json, parse, sha256_hex
from control_plane.log.envelope import Envelope, Signature, decode_base64
from control_plane.log.statements import Change, ChangeSet, decode_change_list, parse_statement
from control_plane.shown import shown

MAX_FILE_BYTES = 512 << 20
"""Far above the largest atomic change set people pass on by file; the store decides the rest."""


@dataclass(frozen=True, slots=True)
class SignedChange:
    """An envelope over a change set and the blobs it needs; ``blobs`` is digest to bytes."""

    environment: str
    envelope: Envelope
    blobs: Mapping[str, bytes]

    @property
    def identity(self) -> str:
        """SHA-256 of the statement: the change set's name everywhere."""
        return self.envelope.identity

    def statement(self) -> ChangeSet:
        """The signed statement.

        Raises:
            StatementInvalid: it is no change set, or one of another environment.
        """
        statement = parse_statement(self.envelope)
        if not isinstance(statement, ChangeSet):
            raise StatementInvalid("change file: expected a change set, found another statement")
        if statement.origin.split("/")[1:2] != [self.environment]:
            raise StatementInvalid(
                f"change file: expected an origin of {shown(self.environment, 40)},"
                f" found {statement.origin}"
            )
        return statement

    def changes(self) -> tuple[Change, ...]:
        """What the set changes, also where the list is a blob of its own."""
        statement = self.statement()
        listed = statement.changes_blob
        if listed is None:
            return statement.changes
        if listed.digest not in self.blobs:
            raise StatementInvalid(
                f"change file: expected the change list {listed.digest}, found none"
            )
        return decode_change_list(self.blobs[listed.digest], listed)

    def with_signature(self, signature: Signature) -> SignedChange:
        """The same change with one more signature."""
        return replace(self, envelope=self.envelope.with_signature(signature))

    def to_json(self) -> dict[str, Json]:
        """The file's JSON object."""
        return {
            "format": 1,
            "environment": self.environment,
            "envelope": self.envelope.to_json(),
            "blobs": {
                digest: base64.b64encode(data).decode() for digest, data in self.blobs.items()
            },
        }

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> SignedChange:
        """Read and check a change file; ``what`` names it in errors.

        Raises:
            SyntaxInvalid: it is no change file.
            StatementInvalid: its statement is out of form or blobs do not match what it names.
            ChecksumMismatch: a blob is not the bytes its digest names.
        """
        value = parse(data, what=what, max_bytes=MAX_FILE_BYTES)
        if not isinstance(value, dict) or value.get("format") != 1:
            raise SyntaxInvalid(f"{what}: expected a change file of format 1, found other JSON")
        environment, blobs = value.get("environment"), value.get("blobs")
        if not isinstance(environment, str) or not isinstance(blobs, dict):
            raise SyntaxInvalid(f"{what}: expected an environment and blobs, found others")
        decoded = {digest: decode_base64(text, what) for digest, text in blobs.items()}
        for digest, content in decoded.items():
            if (found := sha256_hex(content)) != digest:
                raise ChecksumMismatch(f"{what}: expected blob {digest}, found {found}")
        change = cls(environment, Envelope.from_json(value.get("envelope")), decoded)
        change._check_blobs(what)
        return change

    def _check_blobs(self, what: str) -> None:
        named = {change.digest for change in self.changes() if change.digest}
        listed = self.statement().changes_blob
        if listed is not None:
            named.add(listed.digest)
        if extra := sorted(set(self.blobs) - named):
            raise StatementInvalid(
                f"{what}: expected only blobs its changes name, found {extra[0]}"
            )
