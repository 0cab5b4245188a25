"""What an edit starts from: what the log proves, where trust is known; else the store's word.

An author's edit of what stands is signed as a whole. A store that could say what stands would get
a document of its own making signed with the edit, and every node would believe it. So the log is
read from its first entry, as ``revert`` and ``promote`` read it, and the digests are taken from it;
bytes fetched by a digest are hashed anyway. An edit replaces the generation it started from and no
other, so that nobody's change in between is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from control_plane.cli.settings import Settings, own_enrolment
from control_plane.errors import Conflict, NotFound
from control_plane.log.statements import Change, Key

if TYPE_CHECKING:
    from control_plane.cli.output import Progress
    from control_plane.log.fold import Head
    from control_plane.publish.publisher import Publisher, StoredHead


class Standing:
    """The keys of one kind in an environment as they stand."""

    def __init__(
        self, author: Publisher, environment: str, heads: Mapping[Key, Head | StoredHead]
    ) -> None:
        self._author = author
        self._environment = environment
        self._heads = heads

    @classmethod
    def read(
        cls,
        found: Settings,
        author: Publisher,
        environment: str,
        kind: str,
        moved: Progress | None = None,
    ) -> Standing:
        """Prove what stands; without an enrolment for this store, ask it.

        Raises:
            TrustError: the log proves something else than it claims.
        """
        enrolment = own_enrolment(found)
        if enrolment is None:
            return cls(author, environment, author.heads(environment, kind=kind))
        from control_plane.publish.replay import replay

        history = replay(author.store, environment, enrolment, progress=moved)
        heads = {key: head for key, head in history.heads.items() if key.kind == kind}
        return cls(author, environment, heads)

    @property
    def digests(self) -> dict[Key, str]:
        """The digests of the live keys' blobs."""
        return {key: head.digest for key, head in self._heads.items() if head.live}

    def document(self, kind: str, name: str) -> dict[str, Any]:
        """The manifest that stands under a name.

        Raises:
            NotFound: none does.
        """
        digest = self.digests.get(Key(kind, name))
        if digest is None:
            raise NotFound(f"{kind}/{name}: expected it in {self._environment}, found none")
        return self._author.document_at(self._environment, digest)

    def require(self, changes: Iterable[Change]) -> None:
        """Refuse changes that would replace something else than what stood.

        Raises:
            Conflict: somebody changed a key in between, or the store says so.
        """
        for change in changes:
            head = self._heads.get(change.key)
            expected = None if head is None else head.generation
            if change.replaces != expected:
                raise Conflict(
                    f"{change.key}: expected generation {expected} as read, found"
                    f" {change.replaces}; run it again"
                )
