"""What a promotion carries from one environment to another.

- The bytes are those that were signed and published there: documents with their author's
  signature, shards, where channels point, and the status of versions.
- Kills stay behind. Each is about what one environment serves at this moment.
- Nothing is deleted: what only the target holds stays as it is.
- ``flag/x`` and ``agent/a`` mean all of that name; ``tool/t@1.2.0`` means that version, its status
  and the channels that point to it.
- The past comes from a verified log, never from the store's word: its author signs for the target
  what was authorised in the source, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from control_plane.errors import ChecksumMismatch, NotFound
from control_plane.log.statements import Change, Key
from control_plane.manifests.documents import parse_reference

if TYPE_CHECKING:
    from control_plane.publish.proposal import Proposal
    from control_plane.publish.publisher import Publisher

# What others rest on goes first, so that a promotion that ends between two sets leaves it whole.
KIND_ORDER = ("segment", "config", "tool", "agent", "flag")


def selected(
    changes: Mapping[Key, Change], references: Iterable[str], environment: str
) -> list[Change]:
    """The changes to carry, in the order they are published; all without ``references``.

    Raises:
        NotFound: a reference names nothing in ``environment``.
    """
    carried = [change for key, change in changes.items() if key.kind in KIND_ORDER]
    wanted = list(dict.fromkeys(references))
    for reference in wanted:
        if not any(_means(reference, change) for change in carried):
            raise NotFound(f"{reference}: expected it in {environment}, found none")
    chosen = [
        change for change in carried if not wanted or any(_means(each, change) for each in wanted)
    ]
    return sorted(chosen, key=_order)


def _means(reference: str, change: Change) -> bool:
    kind, name, version = parse_reference(reference)
    same = (change.kind, change.name) == (kind, name)
    return same and version in (None, change.version)


def _order(change: Change) -> tuple[bool, int, Key]:
    # Channels last: a version must be there before anything points to it.
    return change.action != "put", KIND_ORDER.index(change.kind), change.key


def propose(proposal: Proposal, author: Publisher, source: str, changes: Iterable[Change]) -> None:
    """Fill ``proposal`` with what differs in its environment from these changes of ``source``.

    Raises:
        NotFound: the store deleted bytes that the source still rests on.
        ChecksumMismatch: the store sent other bytes than the log names.
    """
    heads = author.heads(proposal.environment)
    standing = {key for key, head in heads.items() if head.live}
    moved = set()
    for change in changes:
        key, digest = change.key, change.digest
        # A segment that gets another number of shards takes all of them along.
        brought = change.shard is not None and change.name in moved
        if key in standing and digest and heads[key].digest == digest and not brought:
            continue
        if digest is None:
            proposal.put_again(change)
        elif change.shard is not None:
            proposal.put_bytes(change, author.store.blob(source, digest))
        else:
            if change.kind == "segment":
                moved.add(change.name)
            _require(key, proposal.put(author.document_at(source, digest)))


def _require(expected: Key, found: Key) -> None:
    """The log's name for a document is the one inside it, or the target would get another."""
    if found != expected:
        raise ChecksumMismatch(f"{expected}: expected its document, found that of {found}")
