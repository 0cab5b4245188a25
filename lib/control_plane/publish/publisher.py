"""From a proposal to entries of the log.

What this module decides, in order:

1. An agent or tool without signature is signed here with the publisher's first key. If the log
   holds the same content already, its published signature stays, whoever made it.
2. Each change is compared with its key's head as the store tells it. What would change nothing is
   left out; the others say which generation they replace. A store that lies about heads can only
   make the set be refused, because every node checks ``replaces`` against its own fold.
3. The origin comes from the enrolment where there is one, else from the store, and must name the
   environment asked for: a store must not get a signature for production from somebody who
   meant staging.
4. A segment whose number of shards changes brings all its shards in one set and deletes those left
   over, so that nobody is a member before and after but not in between, or never again. Its
   members stay; going back to a list, they are who the list names.
5. More than 250 changes become several sets, in order, unless they shall be atomic.
6. Blobs go first, then the statement. A crash in between leaves blobs nobody names, which the
   store may delete; sending the same set again is answered with the entry it already is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from control_plane.errors import (
    InputInvalid,
    NotFound,
    SignatureInvalid,
    ThresholdNotReached,
    TrustError,
)
from control_plane.log.canonical import canonical, parse, sha256_hex
from control_plane.log.statements import Change, Key, change_set
from control_plane.manifests.documents import checksum, parse_reference
from control_plane.names import VERSIONED_KINDS
from control_plane.publish.changefile import SignedChange
from control_plane.publish.client import StoreClient, Submission
from control_plane.publish.proposal import Proposal, manifest_change
from control_plane.publish.resharding import Resharding
from control_plane.publish.sign import is_signed, signed
from control_plane.publish.spool import Chosen, Together
from control_plane.telemetry.trace_context import current_traceparent, trace_of, with_trace

if TYPE_CHECKING:
    from control_plane.publish.keyfiles import KeySigner

MAX_CHANGES_A_SET: Final = 250
"""An atomic list of changes holds a node's one write transaction; this bounds how long."""

DEFAULT_VALID_SECONDS: Final = 86_400
"""How long a signed set may wait for more signatures before it is too late: a day."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A key's head as the store tells it; ``live`` is false for a tombstone.

    ``change`` is the last change itself, which holds what the head only has a digest of.
    """

    key: Key
    generation: int
    digest: str
    checksum: str
    verb: str
    key_ids: tuple[str, ...]
    change: Change

    @property
    def live(self) -> bool:
        """Whether the key has a value."""
        return bool(self.digest)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A proposal beside the heads: what is left to do, what stands already."""

    origin: str
    changes: tuple[Change, ...]
    blobs: Mapping[str, bytes]
    unchanged: tuple[Key, ...]
    heads: Mapping[Key, StoredHead]
    whole: frozenset[str] = frozenset()
    """Segments whose changes must stay in one set."""


class Publisher:
    """Signs and submits change sets for the environments of one store.

    ``store`` is a URL or a client; ``signers`` are key files or loaded keys, the first of which
    also signs unsigned agents and tools. ``origins`` maps environments to their trusted origin;
    where it is silent the store is asked. ``valid_seconds`` is how long a signed set may wait.
    ``traceparent`` tells the trace that a set belongs to, which its reason then names.
    """

    def __init__(
        self,
        store: str | StoreClient,
        *signers: str | KeySigner,
        token: str | None = None,
        origins: Mapping[str, str] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        valid_seconds: float = DEFAULT_VALID_SECONDS,
        traceparent: Callable[[], str | None] = current_traceparent,
    ) -> None:
        self.store = StoreClient(store, token) if isinstance(store, str) else store
        self.signers = tuple(_loaded(signer) for signer in signers)
        self._origins = dict(origins or {})
        self._now_ms = now_ms
        self._valid_ms = int(valid_seconds * 1000)
        self._traceparent = traceparent

    def close(self) -> None:
        """Close the connection to the store."""
        self.store.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, environment: str, reason: str, *, verb: str = "apply") -> Proposal:
        """An empty proposal for ``environment``."""
        return Proposal(environment, reason, verb)

    def heads(
        self, environment: str, keys: Sequence[Key] = (), *, kind: str = "", name: str = ""
    ) -> dict[Key, StoredHead]:
        """All heads, those of a kind or of one name of it, or those of ``keys`` that have one."""
        return self._heads(environment, keys, kind, name)[1]

    def document(self, environment: str, target: str) -> dict[str, Any]:
        """The manifest that is the head of ``flag/x`` or ``tool/y@1.2.0``.

        Raises:
            NotFound: it was never published or is deleted.
        """
        kind, name, version = parse_reference(target)
        key = Key(kind, name, f"v/{version}" if kind in VERSIONED_KINDS else "")
        head = self.heads(environment, [key]).get(key)
        if head is None or not head.live:
            raise NotFound(f"{target}: expected it in {environment}, found none")
        return self.document_at(environment, head.digest)

    def document_at(self, environment: str, digest: str) -> dict[str, Any]:
        """The manifest whose blob has that digest."""
        value = parse(self.store.blob(environment, digest), what=digest)
        if not isinstance(value, dict):
            raise InputInvalid(f"{digest}: expected a manifest, found other JSON")
        return value

    def compare(self, proposal: Proposal) -> Comparison:
        """Look at the proposal beside the store's heads; steps 1 to 4, nothing is sent."""
        origin, heads = self._heads(proposal.environment, list(proposal.changes))
        shards = Resharding(self, proposal, heads)
        heads = heads | shards.heads
        documents: dict[str, bytes] = {}
        rewritten = proposal.rewritten | shards.proposal.rewritten
        changes, unchanged = [], []
        for key, change in (proposal.changes | shards.proposal.changes).items():
            head = heads.get(key)
            document = proposal.manifests.get(key)
            if document is not None:
                if _stands(document, head):
                    unchanged.append(key)
                    continue
                change, data = manifest_change(change, self._signed(document))
                documents[str(change.digest)] = data
            if key not in rewritten and _same(change, head):
                unchanged.append(key)
                continue
            changes.append(replace(change, replaces=None if head is None else head.generation))
        needed = {change.digest for change in changes}
        kept = Chosen(Together(documents, proposal.blobs, shards.proposal.blobs), needed)
        return Comparison(
            origin, tuple(changes), kept, tuple(unchanged), heads, frozenset(shards.names)
        )

    def sign(self, proposal: Proposal, comparison: Comparison | None = None) -> SignedChange:
        """One signed set of everything that changes, however large, for a file.

        Raises:
            InputInvalid: nothing would change.
        """
        found = self.compare(proposal) if comparison is None else comparison
        if not found.changes:
            raise InputInvalid(
                f"{proposal.environment}: expected a change, found everything in place"
            )
        return self._sign(proposal, found, found.changes)

    def submit(
        self,
        proposal: Proposal,
        comparison: Comparison | None = None,
        *,
        atomic: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> list[Submission]:
        """Sign and submit what the proposal changes; an empty list when all stands already.

        ``progress`` is called with changes done and changes in all, as their blobs go and after
        each set. A dry run is one set, because a later set may rest on an earlier one that was
        not written.

        Raises:
            Conflict: somebody else changed a key in between.
            ThresholdNotReached: the set waits in the store for more signatures.
            Refused, TrustError, StoreUnreachable: as the store answers.
        """
        found = self.compare(proposal) if comparison is None else comparison
        size = len(found.changes) if atomic or dry_run else MAX_CHANGES_A_SET
        submissions, done = [], 0
        for part in _parts(found.changes, size, found.whole):
            change = self._sign(proposal, found, part)
            told = _told(progress, done, len(part), len(found.changes))
            submissions.append(self.send(change, dry_run=dry_run, progress=told))
            done += len(part)
            told(len(part), len(part))
        return submissions

    def send(
        self, change: SignedChange, *, dry_run: bool = False, progress: Progress | None = None
    ) -> Submission:
        """Submit a signed set as it is: blobs first, then the statement.

        ``progress`` is called with blobs sent and blobs in all.

        Raises:
            ThresholdNotReached: it waits in the store for more signatures.
        """
        total = len(change.blobs)
        told = _told(progress, 0, total, total)
        blobs = change.blobs.values()
        self.store.put_blobs(change.environment, blobs, lambda sent: told(sent, total))
        submission = self.store.submit(
            change.environment,
            change.envelope,
            dry_run=dry_run,
            traceparent=trace_of(change.statement().reason),
        )
        if submission.pending and not dry_run:
            raise ThresholdNotReached(
                f"{change.environment}: expected {submission.threshold} signatures, found"
                f" {submission.found}; change set {submission.identity[:16]} waits in the store,"
                f" another key holder runs 'control-plane approve {submission.identity[:16]}"
                f" -e {change.environment}'",
                submission.threshold,
                submission.found,
            )
        return submission

    def approve(self, change: SignedChange) -> SignedChange:
        """The same set with this publisher's signatures added."""
        from control_plane.publish.keyfiles import sign_envelope

        envelope = change.envelope
        for signer in self.signers:
            envelope = sign_envelope(envelope, signer)
        return replace(change, envelope=envelope)

    def _sign(
        self, proposal: Proposal, comparison: Comparison, changes: Sequence[Change]
    ) -> SignedChange:
        now_ms = self._now_ms()
        statement, listed = change_set(
            comparison.origin,
            changes,
            created_at=now_ms,
            not_after=now_ms + self._valid_ms,
            reason=with_trace(proposal.reason, self._traceparent()),
            verb=proposal.verb,
        )
        digests = {change.digest for change in changes}
        change_list = {} if listed is None else {sha256_hex(listed): listed}
        blobs = Together(Chosen(comparison.blobs, digests), change_list)
        if not self.signers:
            raise InputInvalid(
                "change set: expected a key to sign with, found none; pass --key FILE"
            )
        return self.approve(SignedChange(proposal.environment, statement.envelope(), blobs))

    def _signed(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        if document["kind"] not in VERSIONED_KINDS or is_signed(document):
            return document
        if not self.signers:
            raise SignatureInvalid(
                f"{document['kind']}/{document['name']}: expected its author's signature, found"
                " none and no key to make it with; run 'control-plane sign'"
            )
        return signed(document, self.signers[0])

    def _heads(
        self, environment: str, keys: Sequence[Key], kind: str = "", name: str = ""
    ) -> tuple[str, dict[Key, StoredHead]]:
        answer = self.store.heads(environment, [str(key) for key in keys], kind, name)
        origin = str(answer["origin"])
        expected = self._origins.get(environment)
        if expected is not None and origin != expected:
            raise TrustError(f"{environment}: expected origin {expected}, found {origin}")
        if origin.split("/")[1:2] != [environment]:
            raise TrustError(f"{environment}: expected an origin of it, found {origin}")
        heads = (_head(item) for item in answer["heads"])
        return origin, {head.key: head for head in heads}


def _told(progress: Progress | None, done: int, size: int, total: int) -> Progress:
    """What one set's blobs tell, in changes of all sets."""

    def told(sent: int, blobs: int) -> None:
        if progress is not None:
            progress(done + size * sent // blobs, total)

    return told


def _loaded(signer: str | KeySigner) -> KeySigner:
    if not isinstance(signer, str):
        return signer
    from control_plane.publish.keyfiles import load_signer

    return load_signer(signer)


def _head(item: Mapping[str, Any]) -> StoredHead:
    change = Change.from_json(item["change"])
    return StoredHead(
        key=change.key,
        generation=item["generation"],
        digest=item["digest"],
        checksum=item["checksum"],
        verb=item["verb"],
        key_ids=tuple(item["key_ids"]),
        change=change,
    )


def _stands(document: Mapping[str, Any], head: StoredHead | None) -> bool:
    """Whether an unsigned agent or tool is published already, by whoever signed it then."""
    return (
        head is not None
        and head.live
        and document["kind"] in VERSIONED_KINDS
        and not is_signed(document)
        and head.checksum == checksum(dict(document))
    )


def _same(change: Change, head: StoredHead | None) -> bool:
    if head is None or not head.live:
        return change.action == "delete"
    if change.action == "delete":
        return False
    return canonical(_bare(change)) == canonical(_bare(head.change))


def _bare(change: Change) -> dict[str, Any]:
    return {name: value for name, value in change.to_json().items() if name != "replaces"}


def _parts(
    changes: Sequence[Change], size: int, whole: frozenset[str]
) -> Iterator[Sequence[Change]]:
    """At most ``size`` changes each, more only where a whole segment is larger."""
    units: dict[Key, list[Change]] = {}
    for change in changes:
        key = change.key
        kept_whole = key.kind == "segment" and key.name in whole
        units.setdefault(key._replace(part="") if kept_whole else key, []).append(change)
    part: list[Change] = []
    for unit in units.values():
        if part and len(part) + len(unit) > size:
            yield part
            part = []
        part += unit
    if part:
        yield part
