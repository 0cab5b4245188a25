"""Which change sets the store lets into a log.

What this module decides, in this order; the first rule that fails is the answer:

 1. the envelope is a DSSE envelope holding a change set in canonical bytes, within its bounds,
    for this log's origin;
 2. it was not created in the future and does not end before it begins;
 3. every signature is by a key the policy knows, and verifies, and there is one. One bad signature
    refuses the set even if the others would do, because the log keeps them all. Nobody without a
    key makes the store read more than the envelope;
 4. every kind, action and field is known here. (A node would hold what it does not know until it
    is upgraded; the store refuses it, because no author can want that.) A change list too long
    for the statement must be at hand;
 5. the signatures reach the threshold for every name. With at least one that counts the set may
    wait for more; all other rules are checked first, so that only signatures are missing;
 6. every blob named is at hand in this environment, with its digest;
 7. the log's own rules, steps 5 to 7, by the same function every node runs;
 8. every document is what its change says and obeys its kind's schema and limits, agents and
    tools carry their author's signature, a segment's shards hold the members they must, all
    configuration that the set can change still fits its schemas and finds what it refers to, and no
    flag asks itself round through others.

Nothing here writes; readers and the time are arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from cryptography.exceptions import InvalidSignature

from control_plane.errors import (
    ChecksumMismatch,
    Conflict,
    Late,
    ManifestInvalid,
    Refused,
    SignatureInvalid,
    StatementInvalid,
    ThresholdNotReached,
    TrustExpired,
)
from control_plane.log.canonical import Json, parse, parse_canonical, sha256_hex
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.fold import Head, Rejection, fold
from control_plane.log.leaf import Leaf
from control_plane.log.statements import (
    Change,
    ChangeSet,
    Key,
    decode_change_list,
    encode_change_list,
)
from control_plane.log.steps import Accepted, BlobMissing, Rejected, judge
from control_plane.manifests.documents import content
from control_plane.manifests.members import check_listed, check_member
from control_plane.manifests.validation import (
    max_bytes,
    signature_of,
    validate_blob,
)
from control_plane.names import MAX_LEAF_BYTES, VERSIONED_KINDS
from control_plane.replica.compile import check_shards
from control_plane.trust.state import Policy
from control_plane_store.bumps import Versions, check_bumps
from control_plane_store.namespaces import check_namespaces
from control_plane_store.prerequisites import check_rings

MAX_AHEAD_MS = 300_000
"""How far an author's clock may run ahead of the store's."""

MAX_SHARD_MEMBERS = 2_000
"""Shards aim at 500 members; this leaves room for uneven ones and for growth before a split."""

SHARD_BITS = 16


class BlobsMissing(Refused):
    """The set names bytes the environment was not given; ``missing`` are their digests."""

    code = "blob_missing"

    def __init__(self, message: str, missing: tuple[str, ...]) -> None:
        super().__init__(message)
        self.missing = missing


class Republished(Refused):
    """A published version of an agent or tool keeps its content for ever."""

    code = "republished"


class NotLive(Refused):
    """The set deletes, activates or marks what is not there."""

    code = "not_live"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a set is judged against: position, policy, heads, blobs, and the entry's time."""

    origin: str
    environment: str
    generation: int
    sequenced_at: int
    policy: Policy
    heads: Callable[[tuple[Key, ...]], Mapping[Key, Head]]
    tenants: Callable[[str], Mapping[Key, Head]]
    """The heads of a configuration namespace's tenant manifests, ``database@…``."""
    mentions: Callable[[], Iterable[tuple[str, frozenset[str]]]]
    """The live configs whose text refers to others: names, and the namespaces they mention."""
    versions: Versions
    """The heads of one agent or tool: its versions, channels and statuses."""
    blob: Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The set fits: the leaf to append and what it moves."""

    leaf: Leaf
    accepted: Accepted
    required: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The set fits but for ``threshold - found`` further signatures."""

    envelope: Envelope
    threshold: int
    found: int
    not_after: int


def read_change_set(data: bytes) -> tuple[Envelope, ChangeSet]:
    """Rule 1 but for the origin, from the bytes of a request.

    Raises:
        SyntaxInvalid: no envelope, or a payload of another spelling than canonical.
        StatementInvalid: no change set, or one out of form.
    """
    envelope = Envelope.decode(data)
    if envelope.payload_type != PAYLOAD_TYPE["change-set"]:
        raise StatementInvalid(
            f"envelope: expected {PAYLOAD_TYPE['change-set']}, found {envelope.payload_type[:80]!r}"
        )
    parse_canonical(envelope.payload, what="statement", max_bytes=MAX_LEAF_BYTES)
    return envelope, ChangeSet.from_payload(envelope.payload)


def check_origin(statement: ChangeSet, origin: str) -> None:
    """Rule 1's end: refuse a set for another log, or for another epoch of this one.

    Raises:
        StatementInvalid: naming both.
    """
    if statement.origin != origin:
        raise StatementInvalid(
            f"change set: expected the origin {origin}, found {statement.origin}"
        )


def is_urgent(statement: ChangeSet) -> bool:
    """Whether a set overtakes waiting ones: it kills or un-kills flags and does nothing else."""
    return bool(statement.changes) and all(change.kind == "kill" for change in statement.changes)


def admit(envelope: Envelope, statement: ChangeSet, around: Surroundings) -> Admitted | Waiting:
    """Rules 2 to 8.

    Raises:
        InputInvalid, Refused, TrustError: the rule that failed, as its class and message say.
    """
    _check_times(statement, around)
    _check_signatures(envelope, around)
    changes = _known_changes(statement, around)
    heads = around.heads(tuple(_keys_of(changes)))
    leaf = Leaf(around.sequenced_at, envelope)
    verdict = _verdict(leaf, heads, around)
    # An accepted set has its signatures: they are counted again only to say what is wrong.
    fits = isinstance(verdict, Accepted)
    missing = None if fits else _threshold(envelope, changes, around)
    blobs = _blobs(changes, around)
    if missing is not None:
        _check_fit(statement, changes, heads, around)
    elif isinstance(verdict, Rejected):
        raise _refusal(verdict.code, verdict.reason, changes, heads)
    _check_documents(changes, blobs, heads, around)
    if missing is not None:
        return Waiting(envelope, missing.threshold, missing.found, statement.not_after)
    assert isinstance(verdict, Accepted)
    required = () if statement.changes_blob is None else (statement.changes_blob.digest,)
    return Admitted(leaf, verdict, required)


def _known_changes(statement: ChangeSet, around: Surroundings) -> tuple[Change, ...]:
    changes = statement.changes
    if statement.changes_blob is not None:
        data = around.blob(statement.changes_blob.digest)
        if data is None:
            raise _missing((statement.changes_blob.digest,))
        changes = decode_change_list(data, statement.changes_blob)
        if encode_change_list(changes) != data:
            raise StatementInvalid("change list: expected canonical lines, found another spelling")
    for change in changes:
        if not change.known:
            raise StatementInvalid(
                f"{change.key}: expected kinds, actions and fields this store knows, found"
                f" {change.kind} {change.action} {sorted(change.unknown)}"
            )
    return changes


def _check_times(statement: ChangeSet, around: Surroundings) -> None:
    # The entry's time and not the clock's: a store whose clock was set back goes on.
    if statement.created_at > around.sequenced_at + MAX_AHEAD_MS:
        raise StatementInvalid(
            f"change set: expected created_at by {around.sequenced_at} ms, found"
            f" {statement.created_at}; set the author's clock"
        )
    if statement.not_after < statement.created_at:
        raise StatementInvalid(
            f"change set: expected not_after behind created_at {statement.created_at}, found"
            f" {statement.not_after}"
        )


def _check_signatures(envelope: Envelope, around: Surroundings) -> None:
    if not envelope.signatures:
        raise ThresholdNotReached("change set: expected a signature, found none", 1, 0)
    keys = around.policy.keys()
    signed = envelope.pae()
    for signature in envelope.signatures:
        key = keys.get(signature.key_id)
        if key is None:
            raise SignatureInvalid(
                f"change set: expected signatures by keys of the trust metadata, found key"
                f" {signature.key_id[:16]}"
            )
        try:
            key.verify(signature.value, signed)
        except InvalidSignature as error:
            raise SignatureInvalid(
                f"change set: expected a signature by key {signature.key_id[:16]}, found one that"
                " does not verify"
            ) from error


def _threshold(
    envelope: Envelope, changes: tuple[Change, ...], around: Surroundings
) -> ThresholdNotReached | None:
    """None when there are enough signatures; else what is missing, if the set may wait for it."""
    try:
        around.policy.authorise(
            sorted({change.path(around.environment) for change in changes}), envelope
        )
    except ThresholdNotReached as error:
        if error.found < 1:
            raise
        return error
    return None


def _keys_of(changes: tuple[Change, ...]) -> list[Key]:
    """Every key whose head the set's judgement can need."""
    keys = [change.key for change in changes]
    for change in changes:
        if change.kind in VERSIONED_KINDS and change.version is not None:
            keys.append(Key(change.kind, change.name, f"v/{change.version}"))
        if change.shard is not None:
            keys.append(Key(change.kind, change.name))
    return list(dict.fromkeys(keys))


def _blobs(changes: tuple[Change, ...], around: Surroundings) -> dict[str, bytes]:
    """The blobs the set names, all of them at hand; those of shards are read again one by one.

    A segment has many shards and each is judged alone, so the whole of it need not be in memory.
    """
    blobs: dict[str, bytes] = {}
    missing = []
    for change in changes:
        if change.digest is None or change.digest in blobs:
            continue
        data = around.blob(change.digest)
        if data is None:
            missing.append(change.digest)
        elif sha256_hex(data) != change.digest:
            raise ChecksumMismatch(
                f"{change.key}: expected blob {change.digest}, found other bytes"
            )
        elif change.shard is None:
            blobs[change.digest] = data
    if missing:
        raise _missing(tuple(missing))
    return blobs


def _missing(digests: tuple[str, ...]) -> BlobsMissing:
    more = f" and {len(digests) - 1} more" if len(digests) > 1 else ""
    return BlobsMissing(
        f"change set: expected blob {digests[0]}{more} to be put first, found none", digests
    )


def _verdict(leaf: Leaf, heads: Mapping[Key, Head], around: Surroundings) -> Accepted | Rejected:
    """What every node will say to the entry; a rejection is weighed against rules 5 and 6."""
    try:
        return judge(
            around.generation,
            leaf,
            origin=around.origin,
            environment=around.environment,
            policy=around.policy,
            heads=heads.get,
            blobs=around.blob,
        )
    except BlobMissing as error:
        raise _missing((error.digest,)) from error


def _check_fit(
    statement: ChangeSet,
    changes: tuple[Change, ...],
    heads: Mapping[Key, Head],
    around: Surroundings,
) -> None:
    """What steps 5 and 7 would say to a set whose signatures are not complete."""
    if around.sequenced_at > statement.not_after:
        raise Late(
            f"change set: expected to be sequenced by {statement.not_after} ms, found"
            f" {around.sequenced_at} ms"
        )
    if around.policy.expired_at(around.sequenced_at):
        raise TrustExpired("change set: expected a policy in force, found an expired one")
    try:
        fold(changes, heads.get, generation=around.generation, verb=statement.verb, key_ids=())
    except Rejection as error:
        raise _refusal(error.code, error.reason, changes, heads) from error


def _refusal(
    code: str, reason: str, changes: tuple[Change, ...], heads: Mapping[Key, Head]
) -> Exception:
    """A verdict of the log's rules as the error its code names."""
    if code == Conflict.code:
        return Conflict(reason, _conflicts(changes, heads))
    known = (Late, TrustExpired, Republished, NotLive)
    return next((kind for kind in known if kind.code == code), Refused)(reason)


def _conflicts(
    changes: tuple[Change, ...], heads: Mapping[Key, Head]
) -> tuple[dict[str, object], ...]:
    found = [
        (change, None if (head := heads.get(change.key)) is None else head.generation)
        for change in changes
    ]
    return tuple(
        {"key": str(change.key), "expected": change.replaces, "found": generation}
        for change, generation in found
        if change.replaces != generation
    )


def _check_documents(
    changes: tuple[Change, ...],
    blobs: Mapping[str, bytes],
    heads: Mapping[Key, Head],
    around: Surroundings,
) -> None:
    documents: dict[Key, Json] = {}
    for change in changes:
        if change.digest is not None and change.shard is None:
            document = validate_blob(
                change.kind,
                change.name,
                change.version,
                blobs[change.digest],
                change.checksum,
                environment=around.environment,
            )
            documents[change.key] = document
            if change.kind in VERSIONED_KINDS:
                _check_author(change, document, around.policy)
            elif change.kind == "segment":
                check_listed(document)
    manifests: dict[str, Json] = {}
    for change in changes:
        if change.digest is not None and change.shard is not None:
            manifest = documents.get(Key(change.kind, change.name)) or manifests.get(change.name)
            if manifest is None:
                manifest = manifests[change.name] = _live_manifest(change, heads, around)
            data = blobs.get(change.digest) or around.blob(change.digest)
            assert data is not None  # seen by ``_blobs``, in the same transaction
            _check_shard(change, data, manifest)
    for name in sorted({change.name for change in changes if change.kind == "segment"}):
        _check_shards(name, changes, documents, heads, around)
    check_namespaces(changes, documents, around)
    check_bumps(changes, documents, around.versions, around.blob)
    check_rings(
        documents,
        {change.key for change in changes if change.action == "delete"},
        lambda key: _live_document(key, around.heads((key,)).get(key), around),
        around.environment,
    )


def _live_document(key: Key, head: Head | None, around: Surroundings) -> Json:
    data = around.blob(head.digest) if head is not None and head.live else None
    return None if data is None else parse(data, what=str(key))


def _metadata(document: Mapping[str, Json]) -> Mapping[str, Json]:
    metadata = document.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _check_shards(
    name: str,
    changes: tuple[Change, ...],
    documents: Mapping[Key, Json],
    heads: Mapping[Key, Head],
    around: Surroundings,
) -> None:
    """A manifest and its shards fit together after the set; a deleted segment needs none."""
    manifest, head = Key("segment", name), heads.get(Key("segment", name))
    live = head is not None and head.live
    touching = [change for change in changes if (change.kind, change.name) == manifest[:2]]
    if any(change.key == manifest and change.action == "delete" for change in touching):
        return
    if manifest not in documents and not live:
        return
    before = _shard_count(_live_manifest(touching[0], heads, around)) if live else 0
    after = _shard_count(documents[manifest]) if manifest in documents else before
    shards = {
        action: {int(each.shard, 16) for each in touching if each.shard and each.action == action}
        for action in ("put", "delete")
    }
    check_shards(name, before, after, shards["put"], shards["delete"])


def _shard_count(manifest: Json) -> int:
    bits = _metadata(manifest).get("shards") if isinstance(manifest, dict) else None
    return 1 << bits if isinstance(bits, int) else 0


def _check_author(change: Change, document: dict[str, Json], policy: Policy) -> None:
    signature = signature_of(document)
    if signature is None:
        raise SignatureInvalid(
            f"{change.kind}/{change.name}@{change.version}: expected its author's signature, found"
            " none; run 'control-plane sign'"
        )
    key_id, value = signature
    policy.author(change.kind, change.name, key_id, value, content(document))


def _live_manifest(change: Change, heads: Mapping[Key, Head], around: Surroundings) -> Json:
    head = heads.get(Key(change.kind, change.name))
    data = around.blob(head.digest) if head is not None and head.live else None
    if data is None:
        raise ManifestInvalid(
            f"segment/{change.name}: expected a manifest that says how many shards there are,"
            " found none"
        )
    return validate_blob(change.kind, change.name, None, data, None)


def _check_shard(change: Change, data: bytes, manifest: Json) -> None:
    """A shard is the sorted list of those members whose hash starts with the shard's bits."""
    what = f"segment/{change.name} shard {change.shard}"
    bits = _shard_bits(manifest, what)
    index = int(str(change.shard), 16)
    if index >= 1 << bits:
        raise ManifestInvalid(f"{what}: expected a shard below {1 << bits:04x}, found {index:04x}")
    members = parse_canonical(data, what=what, max_bytes=max_bytes(change.kind))
    if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
        raise ManifestInvalid(f"{what}: expected a list of member strings, found another document")
    if len(members) > MAX_SHARD_MEMBERS:
        raise ManifestInvalid(
            f"{what}: expected at most {MAX_SHARD_MEMBERS} members, found {len(members)};"
            " raise the number of shards"
        )
    names = [str(member) for member in members]
    if any(first >= second for first, second in pairwise(names)):
        raise ManifestInvalid(f"{what}: expected members sorted and each once, found others")
    for position, name in enumerate(names):
        check_member(name, f"{what} member {position + 1}")
        if _shard_of(name, bits) != index:
            raise ManifestInvalid(f"{what}: expected members of this shard, found {name[:80]!r}")


def _shard_bits(manifest: Json, what: str) -> int:
    metadata = manifest.get("metadata") if isinstance(manifest, dict) else None
    bits = metadata.get("shards") if isinstance(metadata, dict) else None
    if not isinstance(bits, int):
        raise ManifestInvalid(f"{what}: expected a segment with shards, found one without")
    return bits


def _shard_of(member: str, bits: int) -> int:
    top = int.from_bytes(hashlib.sha256(member.encode()).digest()[: SHARD_BITS // 8], "big")
    return top >> (SHARD_BITS - bits)
