"""How a log takes newer trust metadata, and how it goes on in a new epoch.

What is offered are the roots after the one in force, oldest first, and targets metadata. What this
module decides, in this order; the first rule that fails is the answer:

 1. roots not newer than the one in force are passed over. With none left, and with the targets in
    force, there is nothing to write;
 2. the metadata's own signatures are its authority, and what is expired now is refused, by the
    same function every node runs (``trust.state.adopt``);
 3. the newest root names the environment, else its log stays as it is;
 4. a root that names the epoch there is brings one more trust entry;
 5. a root that names a later epoch begins it, and must continue exactly the log's present end:
    epoch, size and root. Its first entry is the trust entry, judged under the policy of the old
    log's end; its second says what is continued and which heads are carried over.

Every entry made here was judged by the functions that judge it on nodes. Nothing here writes;
readers, signers and the time are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from control_plane.errors import Refused, SyntaxInvalid
from control_plane.log.canonical import Json, parse, parse_canonical, sha256_hex
from control_plane.log.checkpoint import LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.epochs import begin_epoch
from control_plane.log.fold import snapshot_line
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import Frontier, leaf_hash
from control_plane.log.statements import (
    EpochStatement,
    Key,
    SnapshotStatement,
    TrustStatement,
    continuation,
)
from control_plane.log.steps import Accepted, Rejected, StateReader, judge
from control_plane.log.steps import Position as LogPosition
from control_plane.names import DIGEST, MAX_REQUEST_BYTES
from control_plane.trust.metadata import MAX_METADATA_BYTES
from control_plane.trust.state import LogIdentity, Policy, adopt
from control_plane_store.admission import BlobsMissing
from control_plane_store.transactions import HeadRow, Log, Snapshot, key_bytes

_PAGE = 2_000


class Unnamed(Refused):
    """The newest root no longer names the environment."""

    code = "environment_dropped"


@dataclass(frozen=True, slots=True)
class Named:
    """A request's trust metadata, by digest."""

    roots: tuple[str, ...]
    targets: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Newer trust metadata; ``blobs`` are its bytes by digest."""

    roots: tuple[bytes, ...]
    targets: bytes
    blobs: Mapping[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        blobs = {sha256_hex(data): data for data in (*self.roots, self.targets)}
        object.__setattr__(self, "blobs", blobs)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry to append, and what it moves; ``required`` are the blobs it is judged by."""

    leaf: Leaf
    accepted: Accepted
    required: tuple[str, ...] = ()


def read_named(data: bytes) -> Named:
    """The body of a request that offers trust metadata.

    Raises:
        SyntaxInvalid: it is not canonical JSON of the form expected.
    """
    value = parse_canonical(data, what="trust metadata")
    fields = value if isinstance(value, dict) else {}
    roots, targets = fields.get("root"), fields.get("targets")
    if fields.keys() != {"format", "root", "targets"} or fields["format"] != 1:
        raise SyntaxInvalid("trust metadata: expected format 1, root and targets, found another")
    if not isinstance(roots, list) or len({str(each) for each in roots}) != len(roots):
        raise SyntaxInvalid("trust metadata: expected a list of roots, each once, found another")
    return Named(tuple(map(_digest, roots)), _digest(targets))


def read_metadata(snapshot: Snapshot, environment: str, named: Named) -> tuple[list[bytes], bytes]:
    """The bytes of roots and targets, which were put before.

    Raises:
        BlobsMissing: with all that are not at hand.
        SyntaxInvalid: too large for trust metadata, one or all together.
    """
    missing, found, total = [], [], 0
    for digest in (*named.roots, named.targets):
        data = snapshot.held_blob(environment, digest)
        if data is None:
            missing.append(digest)
            continue
        total += len(data)
        if len(data) > MAX_METADATA_BYTES or total > MAX_REQUEST_BYTES:
            raise SyntaxInvalid(
                f"trust metadata {digest}: expected at most {MAX_METADATA_BYTES} bytes, and"
                f" {MAX_REQUEST_BYTES} together, found more"
            )
        found.append(data)
    if missing:
        raise BlobsMissing(
            f"{environment}: expected the blobs of trust metadata, found {len(missing)} missing;"
            " put them first",
            tuple(missing),
        )
    return found[:-1], found[-1]


def newer(policy: Policy | None, roots: Sequence[bytes], targets: bytes) -> Offer | None:
    """Rule 1; None when all of it is in force.

    Raises:
        SyntaxInvalid: no root metadata at all.
    """
    if policy is None:
        return Offer(tuple(roots), targets)
    left = tuple(root for root in roots if _version(root) > policy.root_version)
    if not left and sha256_hex(targets) == policy.targets_digest:
        return None
    return Offer(left, targets)


def named_log(policy: Policy | None, offer: Offer, environment: str, now_ms: int) -> LogIdentity:
    """Rules 2 and 3: the log that the metadata offered names.

    Raises:
        TrustError, SyntaxInvalid: as ``adopt``.
        Unnamed: the newest root names no log of this environment.
    """
    adopted = adopt(policy, offer.roots, offer.targets, at_ms=now_ms)
    if environment not in adopted.environments:
        raise Unnamed(
            f"{environment}: expected a root that names its log, found version"
            f" {adopted.root_version} that names {', '.join(adopted.environments)}; its log stays"
            " as it is"
        )
    return adopted.log(environment)


def trust_entry(
    log: LogIdentity,
    offer: Offer,
    *,
    generation: int,
    policy: Policy | None,
    signer: LogSigner,
    at_ms: int,
) -> Entry:
    """Rule 4, and the first entry of any log.

    Raises:
        Refused: the metadata does not fit at that time.
        TrustError, InputInvalid: it does not begin a log.
    """
    leaf = _trust_leaf(log, offer, signer, at_ms)
    accepted = _accepted(leaf, log, generation, policy, offer)
    return Entry(leaf, accepted, tuple(offer.blobs))


def first_entry(log: LogIdentity, offer: Offer, *, signer: LogSigner, at_ms: int) -> Entry:
    """The entry that begins a log which continues none.

    Raises:
        Refused: the root says that it continues one.
        TrustError, InputInvalid: the metadata does not begin a log.
    """
    if log.continues is not None:
        before = continuation(dict(log.continues))
        raise Refused(
            f"{log.origin}: expected a database with epoch {before.epoch} up to size {before.size},"
            " found one without that log; restore the store's database"
        )
    return trust_entry(log, offer, generation=1, policy=None, signer=signer, at_ms=at_ms)


def epoch_entries(
    snapshot: Snapshot,
    old: Log,
    policy: Policy,
    log: LogIdentity,
    offer: Offer,
    *,
    signer: LogSigner,
    at_ms: int,
) -> tuple[int, Entry, Entry]:
    """Rule 5: the generation that is continued, and the two entries that begin the epoch.

    Raises:
        EpochDiverged: the root continues another history than ``old``.
        TrustError, InputInvalid, Refused: the metadata begins no epoch.
    """
    held = LogPosition(
        old.origin, old.frontier.size, old.frontier, old.note, old.sequenced_at,
        old.continues_generation,
    )  # fmt: skip
    leaf = _trust_leaf(log, offer, signer, at_ms)
    begun, _ = begin_epoch(held, policy, old.environment, leaf, offer.blobs.get)
    generation = begun.continues_generation
    adopted = _accepted(leaf, log, generation + 1, policy, offer)
    first = Entry(leaf, adopted, tuple(offer.blobs))
    assert log.continues is not None  # begin_epoch has compared it with what is held
    count, root = _state(snapshot, old)
    statement = EpochStatement(
        origin=log.origin,
        continues=continuation(dict(log.continues)),
        state=SnapshotStatement(
            origin=log.origin,
            generation=generation + 1,
            count=count,
            root=root,
            policy=adopted.policy.digest,
        ),
    )
    envelope = Envelope(PAYLOAD_TYPE["epoch"], statement.payload())
    leaf = Leaf(at_ms, signer.sign_envelope(envelope))
    founded = _accepted(
        leaf, log, generation + 2, adopted.policy, offer, state=lambda: (count, root)
    )
    return generation, first, Entry(leaf, founded)


def _trust_leaf(log: LogIdentity, offer: Offer, signer: LogSigner, at_ms: int) -> Leaf:
    statement = TrustStatement(
        origin=log.origin,
        root=tuple(map(sha256_hex, offer.roots)),
        targets=sha256_hex(offer.targets),
    )
    envelope = Envelope(PAYLOAD_TYPE["trust"], statement.payload())
    return Leaf(at_ms, signer.sign_envelope(envelope))


def _accepted(
    leaf: Leaf,
    log: LogIdentity,
    generation: int,
    policy: Policy | None,
    offer: Offer,
    *,
    state: StateReader | None = None,
) -> Accepted:
    # A leaf past its bound is refused here, before anything is written.
    leaf.encode()
    verdict = judge(
        generation,
        leaf,
        origin=log.origin,
        environment=log.environment,
        policy=policy,
        heads=_no_head,
        blobs=offer.blobs.get,
        state=state,
    )
    if isinstance(verdict, Rejected):
        raise Refused(
            f"{log.environment}: expected trust metadata that fits, found {verdict.reason}"
        )
    return verdict


def _state(snapshot: Snapshot, log: Log) -> tuple[int, str]:
    """How many heads there are, and the RFC 6962 root over their lines.

    The table is in the order of the lines: a key ends at its third NUL, before anything else of the
    line. So the heads are read page by page and never held together.
    """
    count, frontier = 0, Frontier()
    for rows in _pages(snapshot, log):
        count += len(rows)
        frontier = frontier.extended(leaf_hash(snapshot_line(row.key, row.head)) for row in rows)
    return count, frontier.root().hex()


def _pages(snapshot: Snapshot, log: Log) -> Iterator[list[HeadRow]]:
    after = b""
    while rows := snapshot.heads_from(log, b"", after, _PAGE):
        yield rows
        after = key_bytes(rows[-1].key)


def _no_head(_key: Key) -> None:
    """Trust and epoch entries are judged without heads."""


def _digest(value: Json) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise SyntaxInvalid(
            f"trust metadata: expected a digest of 64 hex digits, found {str(value)[:80]!r}"
        )
    return value


def _version(metadata: bytes) -> int:
    """The version of TUF metadata, before anything is verified."""
    value = parse(metadata, what="trust metadata", max_bytes=MAX_METADATA_BYTES)
    signed = value.get("signed") if isinstance(value, dict) else None
    version = signed.get("version") if isinstance(signed, dict) else None
    if not isinstance(version, int):
        raise SyntaxInvalid("trust metadata: expected a signed version, found none")
    return version
