"""What becomes of an accepted entry on this node: served whole, or held.

- Every blob is judged here, by steps 8 and 9. All of an entry's values pass and are served
  together, or none is and the entry is held: its heads move, its records stay the last good ones.
- A held entry is judged again as it would have been judged at its place in the log: under the
  policy in force there, from the blobs that were kept for it and those that came since.
- A value that a newer entry supersedes may be left out; the rest of its entry is served, and the
  key waits for the newer one.

What is decided here stands in a plan; nothing is written before the caller adds it to a commit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from control_plane.errors import InputInvalid, Refused, SignatureInvalid, TrustError
from control_plane.log.canonical import sha256_hex
from control_plane.log.fold import Head
from control_plane.log.leaf import Leaf
from control_plane.log.statements import Change, ChangeSet, Key
from control_plane.log.steps import Accepted, BlobMissing
from control_plane.manifests.documents import content, signature_of
from control_plane.manifests.validation import validate_blob
from control_plane.names import VERSIONED_KINDS
from control_plane.replica.apply import Checked, Materialiser, Serving, Unservable
from control_plane.replica.authorship import Authored
from control_plane.replica.format import head_key
from control_plane.replica.held import SUPERSEDED, Held, HeldEntry, held_blob_key
from control_plane.replica.plan import HEADS, STAGED, Plan
from control_plane.telemetry.logs import without_values
from control_plane.trust.state import Policy, restore
from control_plane_daemon.batch import Verified, read_changes
from control_plane_daemon.commits import Commits
from control_plane_daemon.demand import Demand
from control_plane_daemon.events import Events
from control_plane_daemon.shelf import Shelf

_UNSERVABLE: Final = (Unservable, InputInvalid, TrustError, Refused)

logger = logging.getLogger("control_plane_daemon")


class Entries:
    """Turns entries of one environment into plans over its replica."""

    def __init__(
        self,
        environment: str,
        commits: Commits,
        demand: Demand,
        materialiser: Materialiser,
        events: Events,
    ) -> None:
        self._environment = environment
        self._commits = commits
        self._demand = demand
        self._shelf: Shelf = demand.shelf
        self._materialiser = materialiser
        self._events = events

    @property
    def held(self) -> Held:
        """The held entries; only this object and a plan of its making change them."""
        return self._materialiser.held

    @property
    def namespaces_served(self) -> int:
        """How often configuration was served since the start."""
        return self._materialiser.namespaces_served

    # An entry in its turn

    def plan(self, accepted: Accepted, index: int, verified: Verified) -> Plan:
        """Serve the entry at ``index`` of the log, or hold it.

        Raises:
            Wanting: its blobs have to be asked for first.
        """
        if not accepted.heads:
            return self._commits.plan()
        leaf = verified.data[index - verified.first]
        plan = self._commits.plan()
        authored = _authored(accepted.statement, accepted.key_ids, accepted.sequenced_at)
        serving = self._materialiser.begin(plan, accepted.generation, accepted.heads, authored)
        try:
            superseded = self._demand.superseded(accepted.changes, verified, index)
            self._serve(serving, accepted.changes, accepted.policy, superseded)
        except _UNSERVABLE as error:
            self._drop(plan)
            return self._hold(accepted, leaf, error)
        self._materialiser.move(plan, accepted.heads)
        if serving.skipped:
            missing = {c.key: c.digest or "" for c in accepted.changes if c.key in superseded}
            entry = _held_entry(accepted, leaf, serving.skipped, SUPERSEDED, missing)
            self.held.add(plan, entry, self._kept_for_judging(accepted))
        return plan

    def _hold(self, accepted: Accepted, leaf: bytes, error: Exception) -> Plan:
        heads = accepted.heads or {}
        digests = {c.key: c.digest for c in accepted.changes if c.digest is not None}
        missing = {key: digest for key, digest in digests.items() if digest not in self._shelf}
        entry = _held_entry(accepted, leaf, heads, one_line(error), missing)
        self._events.failed("held", getattr(error, "code", ""))
        plan = self._commits.plan()
        self._materialiser.move(plan, heads)
        blobs = self._kept_for_judging(accepted)
        blobs |= {d: found for d in digests.values() if (found := self._shelf.get(d)) is not None}
        self._materialiser.hold(plan, entry, accepted.changes, blobs)
        logger.warning(
            "%s: entry %d held, last good values stay: %s",
            self._environment, accepted.generation, without_values(error),
            extra=self._concerning(accepted.generation, accepted.identity),
        )  # fmt: skip
        return plan

    def _concerning(self, generation: int, identity: str) -> dict[str, object]:
        return {"environment": self._environment, "generation": generation, "change": identity}

    def _kept_for_judging(self, accepted: Accepted) -> dict[str, bytes]:
        """What judging the entry again takes: the policy at its index, and its change list."""
        policy = accepted.policy
        blobs = {sha256_hex(data): data for data in (policy.root_bytes, policy.targets_bytes)}
        statement = accepted.statement
        if isinstance(statement, ChangeSet) and statement.changes_blob is not None:
            digest = statement.changes_blob.digest
            blobs[digest] = self._shelf.get(digest) or b""
        return blobs

    # A held entry, later

    def arrived(self, entry: HeldEntry, blobs: Mapping[str, bytes]) -> tuple[HeldEntry, Plan]:
        """Keep blobs a held entry had lacked."""
        plan = self._commits.plan()
        return self.held.arrived(plan, entry, blobs), plan

    def plan_again(self, entry: HeldEntry) -> Plan | None:
        """Serve a held entry that lacks no blob; None when this node still cannot."""
        kept = {digest: self._kept(digest) for digest in entry.kept}
        plan = self._commits.plan()
        serving = self._materialiser.begin(
            plan, entry.generation, entry.keys, _held_author(plan, entry)
        )
        try:
            # The policy in force at the entry's own index judges it, however late that is.
            policy = restore(kept[entry.root], kept[entry.targets])
            self._shelf.put(kept)
            changes = read_changes(Leaf.decode(entry.leaf), kept.get)
            self._serve(serving, [c for c in changes if c.key in serving.keys], policy)
        except (*_UNSERVABLE, BlobMissing) as error:
            self._drop(plan)
            logger.info(
                "%s: entry %d still held: %s",
                self._environment, entry.generation, without_values(error),
                extra=self._concerning(entry.generation, Leaf.decode(entry.leaf).envelope.identity),
            )  # fmt: skip
            return None
        self.held.release(plan, entry.keys)
        return plan

    def _kept(self, digest: str) -> bytes:
        return self._commits.transaction().blobs.get(held_blob_key(digest)) or b""

    # Steps 8 and 9

    def _serve(
        self,
        serving: Serving,
        changes: Iterable[Change],
        policy: Policy,
        superseded: frozenset[Key] = frozenset(),
    ) -> None:
        """Steps 8 and 9 for every change of an entry; all of them pass, or none is served."""
        for change in changes:
            if change.key in superseded:
                self._materialiser.skip(serving, change)
                continue
            # (8) bytes with the digest  (9) owner's signature, schema, limits
            checked = self._checked(change, policy)
            # (9) and the record compiles
            self._materialiser.serve(serving, change, checked)
        self._materialiser.finish(serving)

    def _checked(self, change: Change, policy: Policy) -> Checked | None:
        if change.digest is None or not change.known:
            return None
        # (8) only bytes with their digest are on the shelf
        blob = self._shelf.get(change.digest)
        if blob is None:
            raise Unservable(f"{change.key}: expected blob {change.digest}, found none")
        if change.shard is not None:
            return Checked(blob, None)  # (9) a shard's form is checked where it is packed
        # (9) schema and limits, the checksum, kind, name and version
        document: Any = validate_blob(
            change.kind, change.name, change.version, blob, change.checksum,
            environment=self._environment,
        )  # fmt: skip
        # (9) the owner's signature
        if change.kind in VERSIONED_KINDS:
            _check_author(change, document, policy)
        return Checked(blob, document)

    def _drop(self, plan: Plan) -> None:
        """Forget a plan; what it had staged is removed."""
        if plan.staged:
            self._commits.clear_staging(STAGED)


def one_line(error: Exception) -> str:
    """An error's text without line ends."""
    return " ".join(str(error).split())


def _check_author(change: Change, document: Mapping[str, Any], policy: Policy) -> None:
    signature = signature_of(document)
    if signature is None:
        raise SignatureInvalid(
            f"{change.kind}/{change.name}@{change.version}: expected the owner's signature, found"
            " none; sign it with 'control-plane sign'"
        )
    policy.author(change.kind, change.name, *signature, content(document))


def _authored(statement: object, key_ids: tuple[str, ...], sequenced_at: int) -> Authored | None:
    if not isinstance(statement, ChangeSet):
        return None
    return Authored(statement.reason, statement.verb, key_ids, sequenced_at)


def _held_author(plan: Plan, entry: HeldEntry) -> Authored | None:
    """What the author of a held entry said; whose keys counted stands in the heads it left."""
    leaf = Leaf.decode(entry.leaf)
    found = (plan.get(HEADS, head_key(*key)) for key in entry.keys)
    heads = [Head.decode(data) for data in found if data is not None]
    key_ids = next((head.key_ids for head in heads if head.generation == entry.generation), ())
    return _authored(ChangeSet.from_payload(leaf.envelope.payload), key_ids, leaf.sequenced_at)


def _held_entry(
    accepted: Accepted, leaf: bytes, keys: Iterable[Key], reason: str, missing: Mapping[Key, str]
) -> HeldEntry:
    policy = accepted.policy
    return HeldEntry(
        accepted.generation, leaf, tuple(keys), reason, missing,
        root=sha256_hex(policy.root_bytes), targets=sha256_hex(policy.targets_bytes),
    )  # fmt: skip
