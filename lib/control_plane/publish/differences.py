"""Where two sides hold different things: folders of documents and environments alike.

A side is a mapping from names, such as ``flag/x``, to *holdings*: a fingerprint that is equal
exactly where the content is, and a way to get the content, asked for only where it differs.

- A document is compared by its content. Checksum and signature are no part of it, so an unsigned
  file equals what was published from it.
- An environment also holds what is no document: kills, channels, the status of versions and the
  members of segments. Members are shown as their shards' digests, because they are personal data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from control_plane.log.canonical import canonical, sha256_hex
from control_plane.manifests.documents import SEALS, checksum, reference
from control_plane.names import VERSIONED_KINDS

if TYPE_CHECKING:
    from control_plane.log.statements import Key
    from control_plane.publish.publisher import StoredHead


@dataclass(frozen=True, slots=True)
class Holding:
    """One thing a side holds."""

    fingerprint: str
    content: Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """A name that both sides hold, with different content."""

    name: str
    left: dict[str, Any]
    right: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What only one side holds, and what both hold differently; in order of names."""

    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    changed: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same."""
        return not (self.only_left or self.only_right or self.changed)


def compare(left: Mapping[str, Holding], right: Mapping[str, Holding]) -> Comparison:
    """Compare two sides; content is asked for only where fingerprints differ."""
    shared = sorted(set(left) & set(right))
    suspected = [
        Difference(name, left[name].content(), right[name].content())
        for name in shared
        if left[name].fingerprint != right[name].fingerprint
    ]
    return Comparison(
        tuple(sorted(set(left) - set(right))),
        tuple(sorted(set(right) - set(left))),
        # A flag or config that was published with a checksum inside has another blob without it.
        tuple(each for each in suspected if each.left != each.right),
    )


def of_documents(documents: Iterable[Mapping[str, Any]]) -> dict[str, Holding]:
    """What files hold."""
    found = {}
    for document in documents:
        content = {name: value for name, value in document.items() if name not in SEALS}
        found[reference(document)] = Holding(checksum(content), _constant(content))
    return found


def of_environment(
    heads: Iterable[StoredHead], document: Callable[[str], dict[str, Any]]
) -> dict[str, Holding]:
    """What an environment's heads hold; ``document`` gets the document of a digest."""
    found: dict[str, Holding] = {}
    shards: dict[str, dict[str, str]] = {}
    for head in heads:
        key = head.key
        if not head.live:
            continue
        if key.kind == "segment" and key.part:
            shards.setdefault(f"segment/{key.name} members", {})[key.part[2:]] = head.digest
        elif _is_document(key):
            found[_document_name(key)] = Holding(_content_digest(head), _bare(document, head))
        else:
            state = _state(head)
            found[_state_name(key)] = Holding(sha256_hex(canonical(state)), _constant(state))
    for name, digests in shards.items():
        found[name] = Holding(sha256_hex(canonical(dict(digests))), _constant(dict(digests)))
    return found


def _is_document(key: Key) -> bool:
    return key.kind != "kill" and (not key.part or key.part.startswith("v/"))


def _document_name(key: Key) -> str:
    version = f"@{key.part[2:]}" if key.part else ""
    return f"{key.kind}/{key.name}{version}"


def _state_name(key: Key) -> str:
    """``kill/x``, ``tool/t channel stable``, ``tool/t status 1.0.0``."""
    letter, _, rest = key.part.partition("/")
    word = {"c": " channel ", "s": " status "}.get(letter, "")
    return f"{key.kind}/{key.name}{word}{rest}"


def _content_digest(head: StoredHead) -> str:
    """A digest of the content alone; other kinds than these need no seals, so theirs is enough."""
    return head.checksum if head.key.kind in VERSIONED_KINDS else head.digest


def _bare(document: Callable[[str], dict[str, Any]], head: StoredHead) -> Callable[[], Any]:
    def content() -> dict[str, Any]:
        found = document(head.digest)
        return {name: value for name, value in found.items() if name not in SEALS}

    return content


def _state(head: StoredHead) -> dict[str, Any]:
    """What a kill, a channel or a status says."""
    told = head.change.to_json()
    names = ("value", "version", "status", "reason", "successor")
    return {name: told[name] for name in names if told.get(name) is not None}


def _constant(value: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: value
