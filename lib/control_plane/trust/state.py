"""Which policy is in force, and what a signature is worth under it.

A `Policy` is one root and one targets metadata that belong together. It never changes; `adopt`
makes the next one from the policy in force and what a trust entry brings. The rules of `adopt`:

 1. Roots come in order: the first has the version after the root in force, each next the version
    after it. None may be skipped, for each is what vouches for the next. Without a policy in force,
    at the start of a log, the first root may have any version.
 2. A root is signed by its own threshold of keys and by that of the root before it. The first root
    of a log has none before it and vouches for itself; whether it is the right one is decided by
    enrolment.
 3. A root keeps what it names: an environment's epoch never falls, its installation stays, and
    within an epoch the origin, the log's key, the witnesses and what the epoch continues stay as
    they are. A late node reads the epoch under its first root and must find there the keys that
    sign checkpoints today; other keys take a new epoch.
 4. Targets metadata is signed by the threshold of the newest root, also when it is not new.
 5. The version of targets rises, or its bytes are those in force.
 6. One public key has one id in root and targets together, one id has one public key, and a log's
    key is none of them.
 7. The newest root and targets are not expired at the time given. Roots on the way may be.

The rules of `Policy.authorise`, for a change set that names several paths:

 1. The first delegation with a pattern that matches a path decides that path alone: its keys and
    its threshold count, whatever later delegations say. No match: nobody may.
 2. A signature under a delegated key's id must verify, or the whole set is refused. Signatures
    under other ids are not looked at and count for nothing. Each signature is verified once.
 3. A path needs signatures by as many distinct public keys as the threshold says, each delegated
    for that path.

Time is an argument, and nothing here reads a file or asks a store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import translate
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Targets

from control_plane.errors import (
    NotDelegated,
    NotFound,
    RolledBack,
    SignatureInvalid,
    SyntaxInvalid,
    ThresholdNotReached,
    TrustExpired,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.envelope import MANIFEST_PAYLOAD_TYPE, Envelope, pae
from control_plane.trust.keys import public_key_of, raw_of
from control_plane.trust.metadata import (
    AUTHOR,
    PATH_PARTS,
    LogIdentity,
    RootFile,
    TargetsFile,
    one_key_one_id,
    read_root,
    read_targets,
)

__all__ = [
    "Delegation", "LogIdentity", "Policy", "adopt", "newest_root", "restore", "verify_by_log",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Delegation:
    """Who may sign the paths that match: any ``threshold`` of the keys with these ids."""

    name: str
    key_ids: frozenset[str]
    threshold: int
    patterns: tuple[str, ...]


class Policy:
    """The root and targets metadata in force together; immutable.

    Made by `adopt` and `restore`, which verify; the constructor only arranges.
    """

    __slots__ = (
        "_expires_ms", "_keys", "_log_keys", "_logs", "_matchers", "delegations", "digest",
        "root_bytes", "root_digest", "root_key_ids", "root_version",
        "targets_bytes", "targets_digest", "targets_key_ids", "targets_version",
    )  # fmt: skip

    def __init__(self, root: RootFile, targets: TargetsFile) -> None:
        self.root_version = root.version
        self.root_bytes = root.data
        self.root_digest = sha256_hex(root.data)
        self.root_key_ids = tuple(root.metadata.signed.roles[Root.type].keyids)
        self.targets_version = targets.version
        self.targets_bytes = targets.data
        self.targets_digest = sha256_hex(targets.data)
        self.targets_key_ids = tuple(root.metadata.signed.roles[Targets.type].keyids)
        self.digest = sha256_hex(bytes.fromhex(self.root_digest + self.targets_digest))
        self.delegations = _delegations(targets)
        self._matchers = _matchers(self.delegations)
        self._keys = MappingProxyType({**root.keys, **targets.keys})
        self._logs = root.logs
        self._log_keys = {name: public_key_of(log.public) for name, log in root.logs.items()}
        self._expires_ms = min(
            _milliseconds(root.metadata.signed.expires),
            _milliseconds(targets.metadata.signed.expires),
        )

    @property
    def environments(self) -> tuple[str, ...]:
        """The environments whose logs the root names, sorted."""
        return tuple(sorted(self._logs))

    def log(self, environment: str) -> LogIdentity:
        """The log the root names for an environment.

        Raises:
            NotFound: the root names none.
        """
        try:
            return self._logs[environment]
        except KeyError:
            raise NotFound(
                f"environment {environment}: expected one of {', '.join(self.environments)}"
                f" (root version {self.root_version}), found none of that name"
            ) from None

    def log_key(self, environment: str) -> Ed25519PublicKey:
        """The key that signs an environment's checkpoints, trust and snapshot entries.

        Raises:
            NotFound: the root names no such environment.
        """
        return self._log_keys[self.log(environment).environment]

    def keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Every key that may sign something, by id; the keys of logs are not among them."""
        return self._keys

    def expired_at(self, ms: int) -> bool:
        """Whether root or targets has expired at that time (Unix time in milliseconds)."""
        return ms >= self._expires_ms

    def verify_by_log(self, environment: str, envelope: Envelope) -> None:
        """Accept an envelope that the environment's log signed; other signatures are ignored.

        Raises:
            NotFound: the root names no such environment.
            SignatureInvalid: the log's signature is absent or does not verify.
        """
        verify_by_log(self.log(environment), envelope)

    def authorise(self, paths: Iterable[str], envelope: Envelope) -> tuple[str, ...]:
        """The ids of the keys that let an envelope change all these paths, sorted.

        Raises:
            SignatureInvalid: a signature under a delegated key's id does not verify.
            NotDelegated: a path matches no delegation, has signatures by others only, or there
                is no path to authorise.
            ThresholdNotReached: a path has fewer distinct keys' signatures than it needs.
        """
        deciding = {path: self.delegation(path) for path in paths}
        if not deciding:
            raise NotDelegated("change set: expected a name to authorise, found none")
        delegated = frozenset[str]().union(*(found.key_ids for found in deciding.values()))
        signed_by = self._verified(envelope, delegated)
        others = bool(envelope.signatures)
        for path, delegation in deciding.items():
            if others and not signed_by & delegation.key_ids:
                raise _not_delegated(path, delegation, envelope)
        for path, delegation in deciding.items():
            found = len(self._distinct(signed_by & delegation.key_ids))
            if found < delegation.threshold:
                raise ThresholdNotReached(
                    f"{path}: expected signatures by {delegation.threshold} keys of"
                    f" delegation {delegation.name!r}, found {found}",
                    delegation.threshold,
                    found,
                )
        return tuple(sorted(signed_by))

    def author(self, kind: str, name: str, key_id: str, signature: bytes, content: bytes) -> None:
        """Accept a manifest's signature over its content (canonical, without the signature).

        Raises:
            NotDelegated: nobody, or not that key, may sign manifests of that kind and name.
            SignatureInvalid: the signature does not verify.
        """
        path = f"{AUTHOR}/{kind}/{name}"
        delegation = self.delegation(path)
        if key_id not in delegation.key_ids:
            raise NotDelegated(
                f"{path}: expected a signature by a key of delegation {delegation.name!r},"
                f" found {key_id}"
            )
        _verify(self._keys[key_id], key_id, signature, pae(MANIFEST_PAYLOAD_TYPE, content))

    def delegation(self, path: str) -> Delegation:
        """The first delegation with a pattern that matches a path: the one that decides.

        Raises:
            NotDelegated: no pattern matches.
        """
        parts = path.split("/")
        if len(parts) == PATH_PARTS:
            first, kind, name = parts
            for matches_kind, matches_name, delegation in self._matchers.get(first, ()):
                if matches_kind(kind) and matches_name(name):
                    return delegation
        raise NotDelegated(
            f"{path}: expected a delegation that matches, found none"
            f" in targets version {self.targets_version}"
        )

    def _verified(self, envelope: Envelope, delegated: frozenset[str]) -> frozenset[str]:
        message = envelope.pae()
        found = []
        for signature in envelope.signatures:
            if signature.key_id in delegated:
                key = self._keys[signature.key_id]
                _verify(key, signature.key_id, signature.value, message)
                found.append(signature.key_id)
        return frozenset(found)

    def _distinct(self, key_ids: Iterable[str]) -> frozenset[bytes]:
        # One public key has one id (rule 6 of adopt); counting keys keeps this true without it.
        return frozenset(raw_of(self._keys[key_id]) for key_id in key_ids)


def verify_by_log(log: LogIdentity, envelope: Envelope) -> None:
    """Accept an envelope that a log signed; other signatures are ignored.

    Raises:
        SignatureInvalid: the log's signature is absent or does not verify.
    """
    for signature in envelope.signatures:
        if signature.key_id == log.key_id:
            _verify(public_key_of(log.public), log.key_id, signature.value, envelope.pae())
            return
    raise SignatureInvalid(
        f"{log.environment}: expected a signature by the log's key {log.key_id}, found none"
    )


def newest_root(policy: Policy | None, roots: Sequence[bytes]) -> RootFile:
    """The last of these roots, vouched for from the policy in force on: rules 1 to 3 of `adopt`.

    Roots that are not newer than the one in force are skipped unread but for their versions; with
    none in force the first vouches for itself. Targets and expiry are not looked at.

    Raises:
        SyntaxInvalid: metadata out of form, a version skipped, or no root.
        SignatureInvalid: a root without its threshold of good signatures.
        RolledBack: an epoch below the one in force.
    """
    if policy is None:
        return _newest_root(None, roots)
    newer = [data for data in roots if read_root(data).version > policy.root_version]
    return _newest_root(read_root(policy.root_bytes), newer)


def adopt(policy: Policy | None, roots: Sequence[bytes], targets: bytes, *, at_ms: int) -> Policy:
    """The policy after a trust entry; the one given stays as it is.

    ``roots`` are the exact bytes of the roots after the one in force, oldest first; empty when only
    targets is new. ``at_ms`` is the entry's time (Unix time in milliseconds).

    Raises:
        SyntaxInvalid: metadata out of form, a version skipped, or one key under two ids.
        SignatureInvalid: root or targets without its threshold of good signatures.
        RolledBack: a version or an epoch below the one in force.
        TrustExpired: the newest root or targets had expired at that time.
    """
    in_force = None if policy is None else read_root(policy.root_bytes)
    newest = _newest_root(in_force, roots)
    offered = read_targets(targets)
    _check_targets_signed(newest, offered)
    if policy is not None:
        _check_targets_rise(policy, offered)
    adopted = _together(newest, offered)
    _check_not_expired(newest, offered, at_ms)
    return adopted


def restore(root: bytes, targets: bytes) -> Policy:
    """The policy of metadata that was adopted before: what a restart makes of stored bytes.

    Root must vouch for itself and for targets; expiry is not looked at, since what was in force
    stays so until the next trust entry.

    Raises:
        SyntaxInvalid, SignatureInvalid: as `adopt`.
    """
    newest = read_root(root)
    _check_root_signed(None, newest)
    offered = read_targets(targets)
    _check_targets_signed(newest, offered)
    return _together(newest, offered)


def _newest_root(in_force: RootFile | None, roots: Sequence[bytes]) -> RootFile:
    newest = in_force
    # Also of roots before the last: a log cannot be dropped and named anew as another.
    logs = {} if in_force is None else dict(in_force.logs)
    for data in roots:
        offered = read_root(data)
        _check_root_follows(newest, logs, offered)
        _check_root_signed(newest, offered)
        logs |= offered.logs
        newest = offered
    if newest is None:
        raise SyntaxInvalid("trust entry: expected a root to begin with, found none")
    return newest


def _check_root_follows(
    before: RootFile | None, logs: Mapping[str, LogIdentity], offered: RootFile
) -> None:
    """Rules 1 and 3."""
    if before is None:
        return
    expected = before.version + 1
    if offered.version < expected:
        raise RolledBack(f"root: expected version {expected}, found {offered.version}")
    if offered.version > expected:
        raise SyntaxInvalid(
            f"root: expected version {expected}, found {offered.version}; give each version between"
        )
    for environment, log in logs.items():
        after = offered.logs.get(environment)
        if after is not None:
            _check_log_follows(log, after, offered.version)


def _check_log_follows(before: LogIdentity, after: LogIdentity, version: int) -> None:
    what = f"root version {version}: log {before.environment}"
    if after.installation != before.installation:
        raise SyntaxInvalid(
            f"{what}: expected a log of installation {before.installation}, found one of"
            f" {after.installation}"
        )
    if after.epoch < before.epoch:
        raise RolledBack(f"{what}: expected epoch {before.epoch} or later, found {after.epoch}")
    if after.epoch > before.epoch:
        return
    if (before.origin, before.continues) != (after.origin, after.continues):
        raise SyntaxInvalid(
            f"{what}: expected epoch {before.epoch} of origin {before.origin} as it was,"
            f" found origin {after.origin} or another 'continues'; a new epoch takes a new number"
        )
    if before.vkeys != after.vkeys:
        raise SyntaxInvalid(
            f"{what}: expected the key {before.vkeys[0]} for all of epoch {before.epoch}, found"
            f" {after.vkeys[0]}; another key takes a new epoch"
        )
    if before.witnesses != after.witnesses:
        raise SyntaxInvalid(
            f"{what}: expected the witnesses of epoch {before.epoch} as they were, found others;"
            " other witnesses take a new epoch"
        )


def _check_root_signed(before: RootFile | None, offered: RootFile) -> None:
    """Rule 2: the root before it first, since its keys are the ones already trusted."""
    what = f"root version {offered.version}"
    for voucher in (before, offered):
        if voucher is not None:
            _check_signed(voucher, Root.type, offered, f"{what}: by root version {voucher.version}")


def _check_targets_signed(root: RootFile, offered: TargetsFile) -> None:
    """Rule 4."""
    what = f"targets version {offered.version}: by root version {root.version}"
    _check_signed(root, Targets.type, offered, what)


def _check_signed(voucher: RootFile, role: str, offered: RootFile | TargetsFile, what: str) -> None:
    """Whether the voucher's keys for a role signed what is offered, in number.

    python-tuf counts key ids; `one_key_one_id` has made them stand for distinct keys.
    """
    metadata = offered.metadata
    try:
        result = voucher.metadata.signed.get_verification_result(
            role, metadata.signed_bytes, metadata.signatures
        )
    except (RepositoryError, ValueError) as error:
        raise SyntaxInvalid(f"{what}: expected metadata that can be verified: {error}") from error
    if not result.verified:
        raise SignatureInvalid(
            f"{what}: expected good signatures by {result.threshold} keys of role {role},"
            f" found {len(result.signed)}"
        )


def _check_targets_rise(policy: Policy, offered: TargetsFile) -> None:
    """Rule 5."""
    held, found = policy.targets_version, offered.version
    if found < held or (found == held and offered.data != policy.targets_bytes):
        other = " with other content" if found == held else ""
        raise RolledBack(f"targets: expected a version after {held}, found {found}{other}")


def _together(root: RootFile, targets: TargetsFile) -> Policy:
    """Rule 6, across the two."""
    for key_id, key in targets.keys.items():
        other = root.keys.get(key_id)
        if other is not None and raw_of(other) != raw_of(key):
            raise SyntaxInvalid(
                f"targets version {targets.version}: expected one public key under the id"
                f" {key_id}, found another than in root version {root.version}"
            )
    what = f"root version {root.version} with targets version {targets.version}"
    one_key_one_id({**root.keys, **targets.keys}, what, [log.public for log in root.logs.values()])
    return Policy(root, targets)


def _check_not_expired(root: RootFile, targets: TargetsFile, at_ms: int) -> None:
    """Rule 7."""
    for offered in (root, targets):
        signed = offered.metadata.signed
        if at_ms >= _milliseconds(signed.expires):
            raise TrustExpired(
                f"{signed.type} version {signed.version}: expected an expiry after the entry's"
                f" time {at_ms} ms, found {signed.expires:%Y-%m-%dT%H:%M:%SZ}; sign a newer version"
            )


def _not_delegated(path: str, delegation: Delegation, envelope: Envelope) -> NotDelegated:
    found = ", ".join(signature.key_id for signature in envelope.signatures)
    return NotDelegated(
        f"{path}: expected signatures by keys of delegation {delegation.name!r}, found {found}"
    )


def _verify(key: Ed25519PublicKey, key_id: str, signature: bytes, message: bytes) -> None:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        raise SignatureInvalid(
            f"key {key_id}: expected a signature that verifies, found one that does not"
        ) from None


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def _delegations(targets: TargetsFile) -> tuple[Delegation, ...]:
    delegations = targets.metadata.signed.delegations
    roles = delegations.roles if delegations is not None else None
    return tuple(
        Delegation(role.name, frozenset(role.keyids), role.threshold, tuple(role.paths or ()))
        for role in (roles or {}).values()
    )


# A matcher is (kind pattern, name pattern, delegation); the first part of a path is spelled out in
# its pattern, so it is a table's key. One fnmatch per part is what TUF prescribes for patterns and
# what python-tuf's DelegatedRole.is_delegated_path does; compiled once, as nodes judge 10,000
# entries a second.
_Match = Callable[[str], object]
_Matchers = dict[str, list[tuple[_Match, _Match, Delegation]]]


def _matchers(delegations: tuple[Delegation, ...]) -> _Matchers:
    table: _Matchers = {}
    for delegation in delegations:
        for pattern in delegation.patterns:
            first, kind, name = pattern.split("/")
            table.setdefault(first, []).append((_matcher(kind), _matcher(name), delegation))
    return table


def _matcher(pattern: str) -> _Match:
    return re.compile(translate(pattern)).match
