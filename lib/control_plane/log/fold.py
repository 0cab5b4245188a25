"""The fold: which change of a key is its head, decided by the log alone.

A change set fits when, for every key it touches,

* ``replaces`` is the generation of the key's head (null only for a key the log never named),
* a deleted key is live,
* a published version of an agent or tool, live or deleted, keeps the checksum it first had,
* an activated or marked version is live after the set.

One misfit rejects the whole set. A deletion leaves a tombstone that keeps its generation, so no
change set fits twice. Store and node fold alike, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgpack

from control_plane.errors import SyntaxInvalid
from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.merkle import Frontier, leaf_hash
from control_plane.log.statements import Change, Key
from control_plane.names import VERSIONED_KINDS


@dataclass(frozen=True, slots=True)
class Head:
    """A key's last authorised change.

    ``digest`` is empty for a tombstone; ``checksum`` is empty for kinds that have none; ``key_ids``
    are the keys whose signatures authorised the change.
    """

    generation: int
    digest: str
    checksum: str = ""
    verb: str = ""
    key_ids: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether the key has a value."""
        return self.digest != ""

    def encode(self) -> bytes:
        """The head as it is stored, the same bytes on every node and in the store."""
        fields = [self.generation, self.digest, self.checksum, self.verb, list(self.key_ids)]
        packed: bytes = msgpack.packb(fields)
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Read what ``encode`` wrote.

        Raises:
            SyntaxInvalid: for anything else.
        """
        try:
            generation, digest, checksum, verb, key_ids = msgpack.unpackb(data)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise _out_of_form(data) from error
        # A generation that is true, or key ids in one string, would unpack and compare like others.
        if type(generation) is not int or generation < 0 or type(key_ids) is not list:
            raise _out_of_form(data)
        if not all(type(text) is str for text in (digest, checksum, verb, *key_ids)):
            raise _out_of_form(data)
        return cls(generation, digest, checksum, verb, tuple(key_ids))


def _out_of_form(data: bytes) -> SyntaxInvalid:
    return SyntaxInvalid(f"head: expected five packed fields, found {data[:24].hex()}…")


HeadReader = Callable[[Key], Head | None]


class Rejection(Exception):
    """Why a well-formed entry changes nothing: decided by the log, alike everywhere."""

    def __init__(
        self, code: str, reason: str, conflicts: tuple[dict[str, object], ...] = ()
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.conflicts = conflicts


def fold(
    changes: Sequence[Change],
    heads: HeadReader,
    *,
    generation: int,
    verb: str,
    key_ids: tuple[str, ...],
) -> dict[Key, Head]:
    """The heads a change set moves, or why it does not fit.

    Raises:
        Rejection: ``conflict`` with every stale key, or ``republished``, ``not_live``.
    """
    before = {change.key: heads(change.key) for change in changes}
    _check_replaces(changes, before)
    moved = {
        change.key: _moved(change, before[change.key], generation, verb, key_ids)
        for change in changes
    }
    for change in changes:
        _check_version_is_live(change, moved, heads)
    return moved


def change_digest(change: Change) -> str:
    """A head's digest: the blob's, else SHA-256 of the canonical change without ``replaces``."""
    if change.digest is not None:
        return change.digest
    fields = change.to_json()
    del fields["replaces"]
    return sha256_hex(canonical(fields))


def snapshot_line(key: Key, head: Head) -> bytes:
    """The line of one head: kind, name, part, generation, digest and checksum, separated by NUL."""
    fields = (key.kind, key.name, key.part, str(head.generation), head.digest, head.checksum)
    return "\0".join(fields).encode() + b"\n"


def snapshot_root(lines: Iterable[bytes]) -> tuple[int, str]:
    """How many lines there are, and the RFC 6962 root over them in bytewise order, in hex."""
    ordered = sorted(lines)
    return len(ordered), Frontier().extended(map(leaf_hash, ordered)).root().hex()


def _check_replaces(changes: Sequence[Change], before: Mapping[Key, Head | None]) -> None:
    conflicts: list[dict[str, object]] = []
    for change in changes:
        head = before[change.key]
        found = None if head is None else head.generation
        if change.replaces != found:
            conflicts.append({"key": str(change.key), "expected": change.replaces, "found": found})
    if conflicts:
        first = conflicts[0]
        more = f" and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise Rejection(
            "conflict",
            f"{first['key']}: expected to replace generation {first['expected']}, found"
            f" {first['found']}{more}",
            tuple(conflicts),
        )


def _moved(
    change: Change, before: Head | None, generation: int, verb: str, key_ids: tuple[str, ...]
) -> Head:
    kept = before.checksum if before is not None else ""
    if change.action == "delete":
        if before is None or not before.live:
            raise Rejection("not_live", f"{change.key}: expected a live key to delete, found none")
        return Head(generation, "", kept, verb, key_ids)
    versioned = change.kind in VERSIONED_KINDS
    # Also an action that only a newer version understands leaves a published version sealed.
    checksum = change.checksum or (kept if versioned else "")
    if versioned and kept not in ("", checksum):
        raise Rejection(
            "republished",
            f"{change.key}: expected the published checksum {kept}, found {change.checksum};"
            " publish a new version",
        )
    return Head(generation, change_digest(change), checksum, verb, key_ids)


def _check_version_is_live(change: Change, moved: Mapping[Key, Head], heads: HeadReader) -> None:
    if change.action not in ("activate", "status") or not change.known:
        return
    key = Key(change.kind, change.name, f"v/{change.version}")
    head = moved.get(key) or heads(key)
    if head is None or not head.live:
        raise Rejection(
            "not_live",
            f"{change.kind}/{change.name}@{change.version}: expected a published version to"
            f" {change.action}, found none",
        )
