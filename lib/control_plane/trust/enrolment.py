"""What a node is given before it trusts anything: ``trust.json``.

It holds the exact bytes of the newest root and targets metadata, and for each environment a signed
checkpoint of its log as it was when the file was written:
``{"checkpoints": {ENVIRONMENT: note text}, "format": 1, "root": base64, "targets": base64}``.

A node replays a log from the first entry of its first epoch, whichever epoch the checkpoint is of.
That entry vouches for itself, so what makes a log the right one is this file: in the epoch and at
the size its checkpoint names the tree has that root hash, and the policy reached there holds this
root.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from control_plane.errors import Forked, FormatUnsupported, NotFound, SyntaxInvalid
from control_plane.log.canonical import canonical, parse
from control_plane.log.envelope import decode_base64
from control_plane.log.note import Note
from control_plane.names import ENVIRONMENT
from control_plane.trust.state import Policy, restore

FORMAT = 1
MAX_ENROLMENT_BYTES = 8 << 20
_FIELDS = ("checkpoints", "format", "root", "targets")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The newest root and targets metadata, and a signed checkpoint of each environment's log."""

    root: bytes
    targets: bytes
    checkpoints: Mapping[str, bytes] = field(default_factory=dict)

    def policy(self) -> Policy:
        """The policy the metadata make together; whether it has expired is not asked.

        Raises:
            SyntaxInvalid, SignatureInvalid: the metadata do not vouch for each other.
        """
        return restore(self.root, self.targets)

    def checkpoint(self, environment: str) -> bytes:
        """The signed note of an environment's log.

        Raises:
            NotFound: the file names no such environment.
        """
        try:
            return self.checkpoints[environment]
        except KeyError:
            raise NotFound(
                f"trust.json: expected a checkpoint of environment {environment},"
                f" found {', '.join(sorted(self.checkpoints)) or 'none'}"
            ) from None

    def confirm(self, environment: str, reached: Policy) -> None:
        """Accept the policy that a replay reached at the size of the environment's checkpoint.

        Raises:
            Forked: it holds another root than this file: the log is another installation's.
        """
        if reached.root_bytes != self.root:
            raise Forked(
                f"{environment}: expected the root of trust.json at the checkpoint's size,"
                f" found root version {reached.root_version} with digest {reached.root_digest}"
            )

    def encode(self) -> bytes:
        """The bytes of ``trust.json``."""
        return canonical(
            {
                "checkpoints": {name: note.decode() for name, note in self.checkpoints.items()},
                "format": FORMAT,
                "root": base64.b64encode(self.root).decode(),
                "targets": base64.b64encode(self.targets).decode(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Enrolment:
        """Read ``trust.json``; its metadata and notes are not verified yet.

        Raises:
            SyntaxInvalid: it is out of form.
            FormatUnsupported: a newer version wrote it.
        """
        value = parse(data, what="trust.json", max_bytes=MAX_ENROLMENT_BYTES)
        if not isinstance(value, dict):
            raise SyntaxInvalid("trust.json: expected an object, found another value")
        found = value.get("format")
        if type(found) is int and found > FORMAT:
            raise FormatUnsupported(f"trust.json: expected format {FORMAT}, found {found}")
        if type(found) is not int or found != FORMAT:
            raise SyntaxInvalid(f"trust.json: expected format {FORMAT}, found {str(found)[:20]!a}")
        if sorted(value) != list(_FIELDS):
            raise SyntaxInvalid(f"trust.json: expected the fields {', '.join(_FIELDS)} only")
        checkpoints = value["checkpoints"]
        if not isinstance(checkpoints, dict):
            raise SyntaxInvalid("trust.json: expected an object of checkpoints, found none")
        return cls(
            decode_base64(value["root"], "trust.json: root"),
            decode_base64(value["targets"], "trust.json: targets"),
            {name: _note(name, note) for name, note in checkpoints.items()},
        )


def _note(environment: str, value: object) -> bytes:
    if not ENVIRONMENT.fullmatch(environment) or not isinstance(value, str):
        raise SyntaxInvalid(
            f"trust.json: expected a note for each environment, found {environment[:40]!a}"
        )
    data = value.encode()
    Note.parse(data)
    return data
