"""Versions of agents and tools put into an environment, pointed to, and taken out of use.

A `Release` gathers what is to change; ``submit`` compares it with the environment and sends what is
left to do. What this module decides:

1. The order: tools, then agents, then the status of versions, then channels, then deletions. So
   what is pointed to is there, and a release of several sets that ends half way leaves nothing
   pointing nowhere.
2. Whole or in sets: one set, all or nothing, unless ``atomic`` is false; then 250 changes a set.
3. Again: what stands already is left out, so a release that was interrupted, by its author's death
   or the store's, is finished by submitting it again, and nothing is in the log twice.
4. A version that a channel points to after the release is not yanked, and a yanked one is not
   pointed to: readers would be left without a version. Deleting a version deletes the channels
   that point to it, unless the release points them elsewhere.

Signers come with the publisher; nothing here looks for a key or a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from control_plane.errors import InputInvalid, ManifestInvalid, NotFound
from control_plane.log.statements import Key
from control_plane.manifests.documents import parse_reference, reference
from control_plane.manifests.validation import validate
from control_plane.names import VERSIONED_KINDS

if TYPE_CHECKING:
    from control_plane.publish.client import Submission
    from control_plane.publish.proposal import Proposal
    from control_plane.publish.publisher import Comparison, Progress, Publisher, StoredHead
    from control_plane.trust.enrolment import Enrolment

YANKED = "yanked"
MAX_NAMES = 100
"""Names asked for one by one; of more the whole kind is asked."""


@dataclass(frozen=True, slots=True)
class Released:
    """What a release did: keys such as ``tool/crm_tool v/1.2.0``, and the generations it became.

    ``generations`` is empty when everything stood already, and after a dry run.
    """

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    generations: tuple[int, ...]


class Release:
    """What is to change about agents and tools of one environment; nothing is sent by making it."""

    def __init__(
        self, publisher: Publisher, environment: str, reason: str = "", *, verb: str = "apply"
    ) -> None:
        self._publisher = publisher
        self._environment = environment
        self._reason = reason
        self._verb = verb
        self._documents: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._statuses: dict[str, tuple[str, str, str | None]] = {}
        self._channels: dict[tuple[str, str, str], str] = {}
        self._deleted: list[str] = []

    def publish(self, manifest: Mapping[str, Any], channel: str | None = "stable") -> None:
        """Publish a version, and point the channel to it unless None.

        Raises:
            ManifestInvalid: it is no agent or tool that may be published.
            InputInvalid: the release has that version already.
        """
        document = dict(manifest)
        validate(document)
        if document["kind"] not in VERSIONED_KINDS:
            raise ManifestInvalid(
                f"{reference(document)}: expected an agent or tool, found another"
            )
        key = document["kind"], document["name"], document["version"]
        if key in self._documents:
            raise InputInvalid(f"{reference(document)}: expected it once in a release, found again")
        self._documents[key] = document
        if channel is not None:
            self._channels[document["kind"], document["name"], channel] = reference(document)

    def activate(self, target: str, channel: str = "stable") -> None:
        """Point a channel to the version, like ``tool/crm_tool@1.2.0``."""
        kind, name, _ = _version_of(target)
        self._channels[kind, name, channel] = target

    def deprecate(self, target: str, reason: str, successor: str | None = None) -> None:
        """Say that the version should not be used any more; it goes on being served."""
        self._mark(target, "deprecated", reason, successor)

    def yank(self, target: str, reason: str, successor: str | None = None) -> None:
        """Say that the version must not be chosen any more; who names it exactly still gets it."""
        self._mark(target, YANKED, reason, successor)

    def reinstate(self, target: str, reason: str = "") -> None:
        """Take back a deprecation or a yank."""
        self._mark(target, "active", reason, None)

    def delete(self, target: str) -> None:
        """Delete the version, and the channels that still point to it."""
        _version_of(target)
        self._deleted.append(target)

    def submit(
        self, *, atomic: bool = True, dry_run: bool = False, progress: Progress | None = None
    ) -> Released:
        """Send what is left to do; see the publisher's ``submit`` for ``progress`` and errors.

        Raises:
            InputInvalid: a channel would point to a yanked version.
            NotFound: a version to delete is not there.
        """
        proposal, comparison = self.compared()
        submissions = self._publisher.submit(
            proposal, comparison, atomic=atomic, dry_run=dry_run, progress=progress
        )
        return _released(comparison, [] if dry_run else submissions)

    def compared(self) -> tuple[Proposal, Comparison]:
        """The release as a proposal beside the environment's heads; nothing is sent."""
        heads = self._heads()
        proposal = self._publisher.change(
            self._environment, self._reason or self._verb, verb=self._verb
        )
        # Tools sort behind agents, and agents rest on them.
        for key in sorted(self._documents, key=lambda key: key[0] != "tool"):
            proposal.put(self._documents[key], validated=True)
        for target, (status, reason, successor) in self._statuses.items():
            proposal.status(target, status, reason=reason, successor=successor)
        channels = dict(self._channels)
        orphaned = self._deletions(proposal, heads)
        for (_, _, channel), target in channels.items():
            proposal.activate(target, channel)
        for kind, name, channel in orphaned:
            if (kind, name, channel) not in channels:
                proposal.delete(f"{kind}/{name}", channel=channel)
        self._require_usable(heads)
        return proposal, self._publisher.compare(proposal)

    def _mark(self, target: str, status: str, reason: str, successor: str | None) -> None:
        _version_of(target)
        if status != "active" and not reason:
            raise InputInvalid(f"{target}: expected a reason why it is {status}, found none")
        self._statuses[target] = status, reason, successor

    def _heads(self) -> dict[Key, StoredHead]:
        """The heads of the names whose versions or channels are looked at below."""
        names = {_version_of(target)[:2] for target in (*self._deleted, *self._statuses)}
        names |= {(kind, name) for kind, name, _ in self._channels}
        if len(names) > MAX_NAMES:
            kinds = {kind for kind, _ in names}
            asked = [self._publisher.heads(self._environment, kind=kind) for kind in sorted(kinds)]
        else:
            asked = [
                self._publisher.heads(self._environment, kind=kind, name=name)
                for kind, name in sorted(names)
            ]
        return {key: head for heads in asked for key, head in heads.items()}

    def _deletions(
        self, proposal: Proposal, heads: Mapping[Key, StoredHead]
    ) -> list[tuple[str, str, str]]:
        """Propose the deletions; the channels that point to what is deleted."""
        orphaned = []
        for target in self._deleted:
            kind, name, version = _version_of(target)
            head = heads.get(Key(kind, name, f"v/{version}"))
            if head is None or not head.live:
                # Deleted by a run of this release that was interrupted, or never there.
                if head is None:
                    raise NotFound(f"{target}: expected it in {self._environment}, found none")
                continue
            proposal.delete(target)
            orphaned += [
                (kind, name, channel)
                for channel, at in _channels(heads, kind, name).items()
                if at == version
            ]
        return orphaned

    def _require_usable(self, heads: Mapping[Key, StoredHead]) -> None:
        """Refuse a channel on a yanked version, whichever of the two the release brings."""
        standing = {
            (key.kind, key.name, key.part[2:]): f"{key.kind}/{key.name}@{head.change.version}"
            for key, head in heads.items()
            if key.part.startswith("c/") and head.live
        }
        for pointer, target in sorted({**standing, **self._channels}.items()):
            touched = target in self._statuses or pointer in self._channels
            if touched and target not in self._deleted and self._is_yanked(target, heads):
                raise InputInvalid(
                    f"{target}: expected no channel on a yanked version, found {pointer[2]};"
                    " activate another version first, or in the same release"
                )

    def _is_yanked(self, target: str, heads: Mapping[Key, StoredHead]) -> bool:
        if target in self._statuses:
            return self._statuses[target][0] == YANKED
        kind, name, version = _version_of(target)
        head = heads.get(Key(kind, name, f"s/{version}"))
        return head is not None and head.live and head.change.status == YANKED


def promote(
    publisher: Publisher,
    source: str,
    target: str,
    references: tuple[str, ...],
    enrolment: Enrolment,
    *,
    reason: str = "",
    atomic: bool = True,
    progress: Progress | None = None,
) -> Released:
    """Carry agents and tools from one environment to another as the same signed bytes.

    The log of ``source`` is verified from its first entry with ``enrolment``; what the target holds
    already is left out.

    Raises:
        NotFound: a reference names nothing in ``source``.
        TrustError: the log of ``source`` is not what it should be.
    """
    from control_plane.publish.promotion import propose, selected
    from control_plane.publish.replay import replay

    if source == target:
        raise InputInvalid(f"promote: expected two environments, found {source} twice")
    for each in references:
        if parse_reference(each)[0] not in VERSIONED_KINDS:
            raise ManifestInvalid(f"{each}: expected an agent or tool, found another")
    history = replay(publisher.store, source, enrolment)
    chosen = selected(history.changes, references, source)
    proposal = publisher.change(target, reason or f"promote from {source}", verb="promote")
    propose(proposal, publisher, source, (each for each in chosen if each.kind in VERSIONED_KINDS))
    comparison = publisher.compare(proposal)
    submissions = publisher.submit(proposal, comparison, atomic=atomic, progress=progress)
    return _released(comparison, submissions)


def _released(comparison: Comparison, submissions: Sequence[Submission]) -> Released:
    return Released(
        tuple(str(change.key) for change in comparison.changes),
        tuple(str(key) for key in comparison.unchanged),
        tuple(each.generation for each in submissions if each.generation is not None),
    )


def _channels(heads: Mapping[Key, StoredHead], kind: str, name: str) -> dict[str, str]:
    """The version each live channel of a name points to."""
    return {
        key.part[2:]: str(head.change.version)
        for key, head in heads.items()
        if key[:2] == (kind, name) and key.part.startswith("c/") and head.live
    }


def _version_of(target: str) -> tuple[str, str, str]:
    kind, name, version = parse_reference(target)
    if kind not in VERSIONED_KINDS or version is None:
        raise ManifestInvalid(
            f"{target}: expected an agent or tool with its version, like tool/crm_tool@1.2.0"
        )
    return kind, name, version
