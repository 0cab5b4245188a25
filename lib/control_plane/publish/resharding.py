"""Which shards a segment brings along when the number of its shards changes.

``segment_edits`` says why all of them. Here they are found: what a proposal asks for is compared
with the manifest that stands, its members are read, and the shards that the proposal does not
bring itself are added. The heads are those the members were read at, so a member added meanwhile
makes the set a conflict instead of being lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from control_plane.errors import InputInvalid
from control_plane.log.canonical import parse, sha256_hex
from control_plane.log.statements import Key
from control_plane.manifests.documents import blob
from control_plane.publish.client import StoreClient
from control_plane.publish.proposal import Proposal
from control_plane.publish.segment_edits import in_shards, members_of, shard_names

if TYPE_CHECKING:
    from control_plane.publish.publisher import StoredHead


class Published(Protocol):
    """What is asked of a publisher here."""

    store: StoreClient

    def heads(self, environment: str, *, kind: str) -> dict[Key, StoredHead]: ...
    def document_at(self, environment: str, digest: str) -> dict[str, Any]: ...


class Resharding:
    """The shards that ``proposal`` needs besides its own changes.

    ``names`` are the segments whose number of shards changes, ``heads`` those of their shards.
    """

    def __init__(
        self, published: Published, proposal: Proposal, heads: Mapping[Key, StoredHead]
    ) -> None:
        self._published = published
        self._asked = proposal
        self.proposal = Proposal(proposal.environment, proposal.reason, proposal.verb)
        self.names: list[str] = []
        self.heads: dict[Key, StoredHead] = {}
        for key, document in proposal.manifests.items():
            if key.kind == "segment":
                self._compare(key, document, heads.get(key))

    def _compare(self, key: Key, document: Mapping[str, Any], head: StoredHead | None) -> None:
        stands = head is not None and head.live
        if head is not None and stands and head.digest == sha256_hex(blob(dict(document))):
            return
        before = self._document(head.digest) if head is not None and stands else None
        bits = document["metadata"].get("shards")
        if bits == (before["metadata"].get("shards") if before is not None else None):
            return
        self.names.append(key.name)
        wanted = [] if bits is None else shard_names(bits)
        self._write(key, document, before, wanted)
        self._delete(key, set(wanted))

    def _write(
        self,
        key: Key,
        document: Mapping[str, Any],
        before: Mapping[str, Any] | None,
        wanted: list[str],
    ) -> None:
        keys = {shard: key._replace(part=f"s/{shard}") for shard in wanted}
        for each in keys.values():
            self._at_hand(each)
            self.proposal.rewritten.add(each)
        if all(each in self._asked.changes for each in keys.values()):
            return
        members = () if before is None else members_of(before, self._reader(key.name))
        shards = in_shards(document, members)
        self.proposal.put_shards(key.name, shards, but=self._asked.changes)

    def _delete(self, key: Key, wanted: set[str]) -> None:
        """Those left over; a shard that lies there from another time goes too."""
        for each, head in self._segments.items():
            shard = each.part[2:]
            if each.name != key.name or not shard or not head.live or shard in wanted:
                continue
            self._at_hand(each)
            if each not in self._asked.changes:
                self.proposal.delete(f"segment/{key.name}", shard=shard)

    def _at_hand(self, key: Key) -> None:
        if key in self._segments:
            self.heads[key] = self._segments[key]

    @cached_property
    def _segments(self) -> dict[Key, StoredHead]:
        return self._published.heads(self._asked.environment, kind="segment")

    def _document(self, digest: str) -> dict[str, Any]:
        return self._published.document_at(self._asked.environment, digest)

    def _reader(self, name: str) -> Any:
        def read(shard: str) -> list[str]:
            head = self._segments.get(Key("segment", name, f"s/{shard}"))
            if head is None or not head.live:
                return []
            return read_shard(self._published.store, self._asked.environment, head.digest)

        return read


def read_shard(store: StoreClient, environment: str, digest: str) -> list[str]:
    """The members in the shard whose blob has that digest.

    Raises:
        InputInvalid: it is another document.
    """
    value = parse(store.blob(environment, digest), what=digest)
    if not isinstance(value, list):
        raise InputInvalid(f"{digest}: expected a list of members, found other JSON")
    return [str(member) for member in value]
