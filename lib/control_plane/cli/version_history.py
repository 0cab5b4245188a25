"""What ``history agent/NAME`` tells of each version that was published.

Owner, author's key, digest and changelog, and where the manifest differs from that of the version
before it: the highest published one below it, which is what its users come from. A blob that was
forgotten is said to be; the log keeps its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from control_plane.errors import NotFound
from control_plane.manifests.documents import signature_of
from control_plane.manifests.fields import ABSENT, field_differences
from control_plane.registries.ordering import order
from control_plane.shown import shown

if TYPE_CHECKING:
    from control_plane.log.statements import Key
    from control_plane.publish.publisher import Publisher, StoredHead


class Versions:
    """The manifests of one agent or tool, each read once."""

    def __init__(self, reader: Publisher, environment: str, kind: str, name: str) -> None:
        self._reader = reader
        self._environment = environment
        self._documents: dict[str, dict[str, Any] | None] = {}
        heads = reader.heads(environment, kind=kind, name=name)
        self._digests = {
            key.part[2:]: head.digest for key, head in heads.items() if _is_version(key, head)
        }

    def of_entry(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is told of each version that an entry of the history published."""
        puts = [each for each in entry.get("changes") or () if each["action"] == "put"]
        return [self._told(str(each["version"]), str(each["digest"])) for each in puts]

    def _told(self, version: str, digest: str) -> dict[str, Any]:
        document = self._document(digest)
        if document is None:
            return {"version": version, "digest": digest, "forgotten": True}
        signature = signature_of(document)
        before = self._before(version)
        earlier = None if before is None else self._document(self._digests[before])
        differences = () if earlier is None else field_differences(earlier, document)
        return {
            "version": version,
            "digest": digest,
            "owner": document.get("owner"),
            "author_key": None if signature is None else signature[0],
            "changelog": document.get("changelog"),
            "compared_with": None if earlier is None else before,
            "differences": [
                {
                    "path": each.path,
                    **({} if each.before is ABSENT else {"before": each.before}),
                    **({} if each.after is ABSENT else {"after": each.after}),
                    "text": str(each),
                }
                for each in differences
            ],
        }

    def _before(self, version: str) -> str | None:
        lower = [each for each in self._digests if order(each) < order(version)]
        return max(lower, key=order, default=None)

    def _document(self, digest: str) -> dict[str, Any] | None:
        if digest not in self._documents:
            try:
                self._documents[digest] = self._reader.document_at(self._environment, digest)
            except NotFound:
                self._documents[digest] = None
        return self._documents[digest]


def _is_version(key: Key, head: StoredHead) -> bool:
    return head.live and key.part.startswith("v/")


def lines(told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is told, for people."""
    for each in told:
        if each.get("forgotten"):
            yield f"        {each['version']}: sha256 {each['digest']}; its bytes were deleted"
            continue
        owner, key = each["owner"] or "nobody", each["author_key"] or "none"
        yield f"        {each['version']}: owner {shown(owner)}, author key {shown(key)}"
        yield f"          sha256 {each['digest']}"
        if each["changelog"]:
            yield f"          changelog: {shown(each['changelog'])}"
        if each["compared_with"] is not None:
            yield f"          compared with {each['compared_with']}:"
            for difference in each["differences"]:
                yield f"            {difference['text']}"
