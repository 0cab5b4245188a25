"""The next root and targets metadata, and what rests on a key that loses its rights.

What this module decides:

- The next metadata is the one in force with one thing changed: its version is one higher, its
  expiry the one given, everything else, fields of other tools included, stays as it is.
- A role keeps a threshold that its keys can reach. A delegation too: one that a revocation would
  leave without enough keys is refused, since nobody could change those names again.
- A live record rests on a key when the signatures of its change set do not suffice without it,
  under the policy that follows; an agent or tool also when that key is its author's signature.
- Approving again is the same change under other signatures: same digest, same checksum, and the
  verb that the record had, so that what was done by hand still counts as done by hand. An agent or
  tool whose author's signature is revoked gets another signature over the same content.
- Deleting is done so that what stays is whole: channels go with the version they point to, a
  segment with its shards. A shard that alone rests on the key becomes empty, since a segment
  without one of its shards is none. A status cannot be deleted; it becomes ``active``.

Nothing here opens a file or asks a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from tuf.api.metadata import DelegatedRole, Metadata, Root, Targets

from control_plane.errors import InputInvalid, NotDelegated, NotFound, Refused, ThresholdNotReached
from control_plane.log.canonical import Json, canonical
from control_plane.log.fold import Head
from control_plane.log.statements import Change, Key
from control_plane.manifests.documents import signature_of
from control_plane.names import VERSIONED_KINDS
from control_plane.publish.proposal import Proposal, manifest_change
from control_plane.trust.keys import key_id_of, tuf_key_of
from control_plane.trust.metadata import AUTHOR, LogIdentity, read_root, read_targets
from control_plane.trust.state import Policy

ROLES: Final = (Root.type, Targets.type)
GENERATION_GAP: Final = 1 << 20
"""How far a new epoch's generations begin above any that is known: more than ever was unknown."""


# The next metadata


@dataclass(frozen=True, slots=True)
class RoleChange:
    """Keys (raw public bytes) that join a role, ids of those that leave; None keeps a threshold."""

    role: str
    add: tuple[bytes, ...] = ()
    remove: frozenset[str] = frozenset()
    threshold: int | None = None


def role_of(policy: Policy, role: str) -> tuple[tuple[str, ...], int]:
    """The ids of a role's keys, and how many of them must sign."""
    found = read_root(policy.root_bytes).metadata.signed.roles[role]
    return tuple(found.keyids), found.threshold


def next_root(
    policy: Policy,
    *,
    expires: datetime,
    change: RoleChange | None = None,
    logs: Iterable[LogIdentity] = (),
) -> Metadata[Root]:
    """The root after the one in force, unsigned, with a role or some logs changed.

    Raises:
        NotFound: a key to remove is not in the role.
        InputInvalid: a key to add is in it, or its threshold would be out of reach.
    """
    metadata = read_root(policy.root_bytes).metadata
    _begin(metadata, expires)
    root = metadata.signed
    if change is not None:
        _change_role(root, change)
    named = root.unrecognized_fields["logs"]
    root.unrecognized_fields["logs"] = named | {log.environment: log.to_json() for log in logs}
    return metadata


def next_targets(policy: Policy, *, expires: datetime) -> Metadata[Targets]:
    """The targets after those in force, unsigned, with the same delegations."""
    metadata = read_targets(policy.targets_bytes).metadata
    _begin(metadata, expires)
    return metadata


def targets_without(
    policy: Policy, key_id: str, *, expires: datetime, instead: bytes | None = None
) -> Metadata[Targets]:
    """The next targets, unsigned, with a key in no delegation; ``instead`` takes its places.

    Whether those left suffice is `check_reachable`'s question.
    """
    metadata = next_targets(policy, expires=expires)
    for name, delegation in _roles(metadata).items():
        if key_id in delegation.keyids:
            metadata.signed.revoke_key(key_id, name)
            if instead is not None and key_id_of(instead) not in delegation.keyids:
                metadata.signed.add_key(tuf_key_of(instead), name)
    return metadata


def check_reachable(policy: Policy, key_id: str, metadata: Metadata[Targets]) -> None:
    """Refuse targets without a key where its delegations could be signed by nobody any more.

    Raises:
        Refused: a delegation that had the key has fewer keys now than its threshold.
    """
    losing = {each.name for each in policy.delegations if key_id in each.key_ids}
    for name, delegation in _roles(metadata).items():
        if name in losing and len(delegation.keyids) < delegation.threshold:
            patterns = " ".join(delegation.paths or ())
            raise Refused(
                f"{patterns}: expected {delegation.threshold} keys that may sign it without"
                f" {key_id[:12]}, found {len(delegation.keyids)}; name a key that takes its"
                " place with --replace-with NAME"
            )


def _roles(metadata: Metadata[Targets]) -> Mapping[str, DelegatedRole]:
    delegations = metadata.signed.delegations
    assert delegations is not None
    assert delegations.roles is not None
    return delegations.roles


def planned(policy: Policy, targets: Metadata[Targets]) -> Policy:
    """The policy that targets will make with the root in force, before anybody has signed them."""
    bare: Json = targets.to_dict()
    return Policy(read_root(policy.root_bytes), read_targets(canonical(bare)))


def check_signers(
    what: str, key_ids: Iterable[str], threshold: int, signers: set[str], option: str = "--key"
) -> None:
    """Refuse to begin what cannot be finished with the keys at hand.

    Raises:
        ThresholdNotReached: fewer than ``threshold`` of ``key_ids`` are there to sign.
    """
    allowed = set(key_ids)
    found = len(allowed & signers)
    if found < threshold:
        ids = ", ".join(sorted(key_id[:12] for key_id in allowed))
        raise ThresholdNotReached(
            f"{what}: expected keys to sign with, {threshold} of {ids}, found {found};"
            f" name each key file with {option} FILE",
            threshold,
            found,
        )


def _begin(metadata: Metadata[Any], expires: datetime) -> None:
    """Make metadata read a moment ago, which nobody else holds, into the next version, unsigned."""
    metadata.signatures.clear()
    metadata.signed.version += 1
    metadata.signed.expires = expires


def _change_role(root: Root, change: RoleChange) -> None:
    role = root.roles[change.role]
    what = f"role {change.role}"
    for public in change.add:
        key = tuf_key_of(public)
        if key.keyid in role.keyids:
            raise InputInvalid(f"{what}: expected a key that is not in it, found {key.keyid[:12]}")
        root.add_key(key, change.role)
    for key_id in sorted(change.remove):
        if key_id not in role.keyids:
            raise NotFound(f"{what}: expected one of its keys to remove, found {key_id[:12]}")
        root.revoke_key(key_id, change.role)
    role.threshold = role.threshold if change.threshold is None else change.threshold
    if not 1 <= role.threshold <= len(role.keyids):
        raise InputInvalid(
            f"{what}: expected a threshold of 1 to {len(role.keyids)}, its number of keys, found"
            f" {role.threshold}; add keys with --add, or lower it with --threshold"
        )


# What rests on a key


@dataclass(frozen=True, slots=True)
class Resting:
    """A live record that has no authority without a key, and why.

    ``document`` is the agent or tool whose author's signature is that key's; None where only the
    change set's signature is.
    """

    change: Change
    head: Head
    document: Mapping[str, Any] | None = None

    @property
    def key(self) -> Key:
        """The record's key."""
        return self.change.key

    @property
    def why(self) -> str:
        """What the key did for it."""
        return "let in" if self.document is None else "signed as its author"


def resting(
    key_id: str,
    after: Policy,
    environment: str,
    changes: Mapping[Key, Change],
    heads: Mapping[Key, Head],
    document: Callable[[Change], Mapping[str, Any]],
) -> list[Resting]:
    """The live records that rest on a key under the policy ``after`` its revocation, sorted.

    ``changes`` and ``heads`` are those of a verified log; ``document`` gives the agent or tool
    that a put names.
    """
    found = []
    for key, change in sorted(changes.items()):
        if change.action == "status" and _version_key(change) not in changes:
            continue  # it says something about a version that is not there
        head = heads[key]
        written = _written_by(key_id, change, document)
        if written is not None or _approved_by(key_id, after, environment, change, head):
            found.append(Resting(change, head, written))
    return found


def _approved_by(key_id: str, after: Policy, environment: str, change: Change, head: Head) -> bool:
    if key_id not in head.key_ids:
        return False
    try:
        delegation = after.delegation(change.path(environment))
    except NotDelegated:
        return True
    others = delegation.key_ids.intersection(head.key_ids) - {key_id}
    return len(others) < delegation.threshold


def _written_by(
    key_id: str, change: Change, document: Callable[[Change], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    if change.kind not in VERSIONED_KINDS or change.action != "put":
        return None
    found = document(change)
    signature = signature_of(dict(found))
    return found if signature is not None and signature[0] == key_id else None


# Approving again, deleting


def approved_again(
    environment: str,
    records: Sequence[Resting],
    reason: str,
    sign: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> list[Proposal]:
    """Proposals that put the same records again, one for each verb that they had.

    ``sign`` gives a document another author's signature.
    """
    proposals = []
    for verb in dict.fromkeys(record.head.verb for record in records):
        proposal = Proposal(environment, reason, verb)
        same_verb = [record for record in records if record.head.verb == verb]
        # Versions first: people read a set in order, and a set may be cut behind any change.
        for record in sorted(same_verb, key=lambda record: record.change.action != "put"):
            if record.document is None:
                proposal.put_again(record.change, rewrite=True)
            else:
                change, data = manifest_change(record.change, sign(record.document))
                proposal.put_bytes(change, data)
        proposals.append(proposal)
    return proposals


def deleted(
    environment: str, records: Sequence[Resting], changes: Mapping[Key, Change], reason: str
) -> list[Proposal]:
    """A proposal that deletes the records; ``changes`` are all live ones of the environment."""
    wanted = {record.key for record in records}
    proposal = Proposal(environment, reason, "delete")
    # Channels first: none may point to a version that is gone.
    for change in sorted(_to_delete(wanted, changes), key=lambda change: change.action == "put"):
        _delete(proposal, change, wanted)
    return [proposal] if len(proposal) else []


def _to_delete(wanted: set[Key], changes: Mapping[Key, Change]) -> Iterator[Change]:
    for key, change in sorted(changes.items()):
        of_segment = key.kind == "segment" and Key("segment", key.name) in wanted
        to_version = change.action == "activate" and _version_key(change) in wanted
        if key in wanted or of_segment or to_version:
            yield change


def _delete(proposal: Proposal, change: Change, wanted: set[Key]) -> None:
    if change.action == "status":
        if _version_key(change) not in wanted:
            bare = replace(change, status="active", reason=None, successor=None)
            proposal.put_again(bare, rewrite=True)
    elif change.shard is not None and Key("segment", change.name) not in wanted:
        proposal.put_shard(change.name, change.shard, [])
    else:
        kept = change.version if change.action == "put" else None
        proposal.put_again(
            replace(change, action="delete", digest=None, checksum=None, value=None, version=kept)
        )


def _version_key(change: Change) -> Key:
    return Key(change.kind, change.name, f"v/{change.version}")


def check_approvers(after: Policy, environment: str, paths: Iterable[str], have: set[str]) -> None:
    """Refuse when the keys at hand are too few to change one of these names.

    Raises:
        NotDelegated: nobody may change it any more.
        ThresholdNotReached: naming the first such path.
    """
    for path in paths:
        delegation = after.delegation(path)
        check_signers(path, delegation.key_ids, delegation.threshold, have)


def author_of(after: Policy, kind: str, name: str, have: Iterable[str]) -> str:
    """The first of the keys at hand that may sign a manifest of that kind and name.

    Raises:
        ThresholdNotReached: none of them may.
    """
    path = f"{AUTHOR}/{kind}/{name}"
    delegation = after.delegation(path)
    listed = list(have)
    check_signers(path, delegation.key_ids, 1, set(listed))
    return next(key_id for key_id in listed if key_id in delegation.key_ids)
