"""One entry of the log as bytes: when it was sequenced, and the envelope that was signed."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.errors import StatementInvalid, SyntaxInvalid
from control_plane.log.canonical import canonical, parse
from control_plane.log.envelope import Envelope
from control_plane.names import MAX_INTEGER, MAX_LEAF_BYTES

LEAF_VERSION = 1


class UnknownLeafVersion(StatementInvalid):
    """A leaf written by a newer version: the reader must stop, not skip."""

    code = "unknown_leaf_version"


@dataclass(frozen=True, slots=True)
class Leaf:
    """``sequenced_at`` is in milliseconds since the epoch and never falls within a log."""

    sequenced_at: int
    envelope: Envelope

    def encode(self) -> bytes:
        """The canonical bytes that are hashed into the tree.

        Raises:
            SyntaxInvalid: past 65,535 bytes, the bound of an entry in a tlog-tiles bundle.
        """
        data = canonical(
            {
                "envelope": self.envelope.to_json(),
                "sequenced_at": self.sequenced_at,
                "v": LEAF_VERSION,
            }
        )
        if len(data) > MAX_LEAF_BYTES:
            raise SyntaxInvalid(f"leaf: expected at most {MAX_LEAF_BYTES} bytes, found {len(data)}")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Leaf:
        """Read a leaf.

        Raises:
            UnknownLeafVersion: for another ``v``.
            SyntaxInvalid: for anything else out of form.
        """
        value = parse(data, what="leaf", max_bytes=MAX_LEAF_BYTES)
        if not isinstance(value, dict):
            raise SyntaxInvalid(f"leaf: expected an object, found {type(value).__name__}")
        if type(value.get("v")) is not int or value["v"] != LEAF_VERSION:
            raise UnknownLeafVersion(
                f"leaf: expected version {LEAF_VERSION}, found {value.get('v')!r}; this version is"
                " too old"
            )
        if set(value) != {"v", "sequenced_at", "envelope"}:
            raise SyntaxInvalid(
                f"leaf: expected the fields envelope, sequenced_at, v, found {sorted(value)}"
            )
        sequenced_at = value["sequenced_at"]
        if type(sequenced_at) is not int or not 0 <= sequenced_at <= MAX_INTEGER:
            raise SyntaxInvalid(
                f"leaf: expected sequenced_at in milliseconds, found {sequenced_at!r}"
            )
        return cls(sequenced_at, Envelope.from_json(value["envelope"]))
