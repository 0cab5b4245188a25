"""A change set before it knows what it replaces.

A proposal lists what its author wants, one key each, in order; ``Publisher`` compares it with the
environment's heads, fills in each ``replaces`` and signs. Nothing here asks a store.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

from control_plane.errors import ManifestInvalid, StatementInvalid
from control_plane.log.canonical import Json, canonical, sha256_hex
from control_plane.log.statements import Change, Key
from control_plane.manifests.documents import blob, parse_reference, reference
from control_plane.manifests.validation import validate
from control_plane.names import MAX_REASON_BYTES, VERSIONED_KINDS
from control_plane.publish.segment_edits import Shards
from control_plane.publish.sign import check_checksum
from control_plane.publish.spool import Blobs


class Proposal:
    """What is to change in one environment, and why; made by ``Publisher.change``.

    ``reason`` is at most 1,024 bytes of UTF-8, ``verb`` a word such as ``apply``.

    Raises:
        StatementInvalid: for a reason longer than that.
    """

    def __init__(self, environment: str, reason: str, verb: str = "apply") -> None:
        if len(reason.encode()) > MAX_REASON_BYTES:
            raise StatementInvalid(
                f"reason: expected at most {MAX_REASON_BYTES} bytes, found {len(reason.encode())}"
            )
        self.environment = environment
        self.reason = reason
        self.verb = verb
        self.changes: dict[Key, Change] = {}
        self.blobs = Blobs()
        self.manifests: dict[Key, dict[str, Any]] = {}
        """The documents put, by key: what a publisher signs for their author when they are not."""
        self.rewritten: set[Key] = set()
        """Keys to write even if they have that value: a set may have to be whole."""

    def __len__(self) -> int:
        return len(self.changes)

    def put(self, manifest: Mapping[str, Any], *, validated: bool = False) -> Key:
        """Propose a manifest; agents and tools are signed by the publisher if they are not yet.

        ``validated`` says that the caller has done so with ``manifests.validation``, and can name
        file and line where this could not.

        Raises:
            ManifestInvalid: it breaks its kind's schema or rules.
            ChecksumMismatch: it carries a checksum that is not its content's.
        """
        document = dict(manifest)
        if not validated:
            validate(document)
        check_checksum(document)
        versioned = document["kind"] in VERSIONED_KINDS
        change = Change(
            action="put",
            kind=document["kind"],
            name=document["name"],
            replaces=None,
            version=document["version"] if versioned else None,
            digest="",
        )
        key = self._add(change, reference(document))
        self.manifests[key] = document
        return key

    def put_shard(self, name: str, shard: str, members: Sequence[str]) -> Key:
        """Propose one shard of a segment; ``shard`` is its index in 4 hex digits."""
        return self._put_shard(name, shard, canonical(list[Json](sorted(set(members)))))

    def put_shards(self, name: str, shards: Shards, but: Container[Key] = ()) -> None:
        """Propose shards of a segment, one after another; those ``but`` some keys."""
        for shard in shards:
            if Key("segment", name, f"s/{shard}") not in but:
                self._put_shard(name, shard, shards.blob(shard))

    def _put_shard(self, name: str, shard: str, data: bytes) -> Key:
        change = Change(action="put", kind="segment", name=name, replaces=None, shard=shard)
        return self.put_bytes(change, data)

    def put_bytes(self, change: Change, data: bytes) -> Key:
        """Propose a put of exact bytes, such as a blob of an earlier generation."""
        return self._add(replace(change, digest=self.blobs.add(data), replaces=None))

    def put_again(self, change: Change, *, rewrite: bool = False) -> Key:
        """Propose a change of an earlier generation again; the store still holds its blob.

        With ``rewrite`` it is written even where the key has that value now.
        """
        key = self._add(replace(change, replaces=None))
        if rewrite:
            self.rewritten.add(key)
        return key

    def delete(self, target: str, *, channel: str | None = None, shard: str | None = None) -> Key:
        """Propose a deletion of ``flag/x``, ``tool/y@1.2.0``, a channel, a shard or ``kill/x``."""
        kind, name, version = _parts(target)
        if kind in VERSIONED_KINDS and (version is None) == (channel is None):
            raise ManifestInvalid(
                f"{target}: expected a version or a channel to delete, found"
                f" {'neither' if version is None else 'both'}; name it like {kind}/{name}@1.0.0"
            )
        return self._add(
            Change(
                action="delete",
                kind=kind,
                name=name,
                replaces=None,
                version=version if kind in VERSIONED_KINDS else None,
                channel=channel,
                shard=shard,
            ),
            target,
        )

    def activate(self, target: str, channel: str = "stable") -> Key:
        """Propose that ``channel`` of an agent or tool points to the version in ``target``."""
        kind, name, version = _versioned(target)
        change = Change(
            action="activate",
            kind=kind,
            name=name,
            replaces=None,
            version=version,
            channel=channel,
        )
        return self._add(change, target)

    def status(
        self, target: str, status: str, *, reason: str = "", successor: str | None = None
    ) -> Key:
        """Propose ``active``, ``deprecated`` or ``yanked`` for a version of an agent or tool."""
        kind, name, version = _versioned(target)
        change = Change(
            action="status",
            kind=kind,
            name=name,
            replaces=None,
            version=version,
            status=status,
            reason=reason or None,
            successor=successor,
        )
        return self._add(change, target)

    def kill(self, flag: str, variant: str | None = None) -> Key:
        """Propose a kill of a flag; ``variant`` None serves what its ``disabled`` names."""
        return self._add(
            Change(action="put", kind="kill", name=flag, replaces=None, value={"variant": variant})
        )

    def unkill(self, flag: str) -> Key:
        """Propose the end of a kill."""
        return self._add(Change(action="delete", kind="kill", name=flag, replaces=None))

    def _add(self, change: Change, what: str = "") -> Key:
        key = change.key
        if key in self.changes:
            raise StatementInvalid(
                f"{what or key}: expected each key once in a set, found it twice"
            )
        self.changes[key] = change
        return key


def manifest_change(change: Change, document: Mapping[str, Any]) -> tuple[Change, bytes]:
    """The put of a finished (signed where needed) document, and its blob."""
    data = blob(dict(document))
    checksum = document.get("checksum_sha256") if change.kind in VERSIONED_KINDS else None
    return replace(change, digest=sha256_hex(data), checksum=checksum), data


def _parts(target: str) -> tuple[str, str, str | None]:
    if target.startswith("kill/"):
        return "kill", target.removeprefix("kill/"), None
    kind, name, version = parse_reference(target)
    return kind, name, version


def _versioned(target: str) -> tuple[str, str, str]:
    kind, name, version = parse_reference(target)
    if kind not in VERSIONED_KINDS or version is None:
        raise ManifestInvalid(
            f"{target}: expected an agent or tool with its version, like tool/crm_tool@1.2.0"
        )
    return kind, name, version
