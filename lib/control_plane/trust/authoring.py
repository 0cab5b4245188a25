"""Making root and targets metadata: what to sign, and signing it.

The other side of `control_plane.trust.metadata`: whatever is made here has the shape read there,
and `signed` reads its own result before it hands it out.

 * The first root has one key for role root and one for role targets, threshold 1 each; more keys
   and higher thresholds come with later versions.
 * The first delegations, in the order that decides: for each environment `<environment>/kill/*`
   with threshold 1, so that one person on call can stop a flag, then `<environment>/*/*` with the
   threshold asked for; at the end `author/*/*`, who may sign agents and tools.
 * Bytes are RFC 8785 canonical JSON with signatures sorted by key id: equal metadata, equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from securesystemslib.signer import Signer, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Key, Metadata, Role, Root, Targets

from control_plane.errors import InputInvalid
from control_plane.log.canonical import Json, canonical
from control_plane.log.note import VerifierKey
from control_plane.names import ENVIRONMENT, INSTALLATION, NAME
from control_plane.trust.keys import tuf_key_of
from control_plane.trust.metadata import AUTHOR, LogIdentity, read_root, read_targets

RESERVED_NAMES = frozenset(("root", "targets", "snapshot", "timestamp"))
"""TUF's own roles, and the names of the key files that are not an author's."""

_SIGNED = TypeVar("_SIGNED", Root, Targets)


@dataclass(frozen=True, slots=True)
class Grant:
    """A delegation to be written: any ``threshold`` of ``keys`` (raw public) may sign patterns."""

    name: str
    keys: tuple[bytes, ...]
    threshold: int
    patterns: tuple[str, ...]


def check_plan(
    installation: str, environments: Sequence[str], authors: Sequence[str], threshold: int
) -> None:
    """Refuse names and thresholds that no metadata could be made of.

    Raises:
        InputInvalid: with the first thing that is wrong.
    """
    if not INSTALLATION.fullmatch(installation):
        raise InputInvalid(
            f"installation: expected a name like {INSTALLATION.pattern}, found {installation!r}"
        )
    for environment in environments:
        if not ENVIRONMENT.fullmatch(environment) or environment == AUTHOR:
            raise InputInvalid(
                f"environment: expected a name like {ENVIRONMENT.pattern} and not '{AUTHOR}',"
                f" found {environment!r}"
            )
    for author in authors:
        if not NAME.fullmatch(author) or author in RESERVED_NAMES or author.startswith("log-"):
            raise InputInvalid(
                f"author: expected a name like {NAME.pattern} that is not a role's or a log's,"
                f" found {author!r}"
            )
    for what, names in (("environments", environments), ("authors", authors)):
        if not names or len(set(names)) != len(names):
            raise InputInvalid(f"{what}: expected one or more, each once, found {list(names)}")
    if not 1 <= threshold <= len(authors):
        raise InputInvalid(
            f"threshold: expected 1 to {len(authors)}, the number of authors, found {threshold};"
            " name more authors or lower the threshold"
        )


def new_log(
    installation: str,
    environment: str,
    public: bytes,
    *,
    epoch: int = 1,
    continues: dict[str, Json] | None = None,
    witnesses: dict[str, Json] | None = None,
) -> LogIdentity:
    """What a root says about an environment's log, signed by the key with these raw bytes."""
    origin = f"{installation}/{environment}/{epoch}"
    vkeys = (
        VerifierKey.ed25519(origin, public).encode(),
        VerifierKey.cosigner(origin, public).encode(),
    )
    nobody: dict[str, Json] = {"vkeys": [], "threshold": 0}
    return LogIdentity(environment, epoch, origin, vkeys, witnesses or nobody, continues, public)


def new_root(
    *,
    version: int,
    expires: datetime,
    root_keys: Sequence[bytes],
    targets_keys: Sequence[bytes],
    logs: Iterable[LogIdentity],
    root_threshold: int = 1,
    targets_threshold: int = 1,
) -> Metadata[Root]:
    """Root metadata, unsigned. Keys are raw public bytes; ``expires`` is in UTC.

    Raises:
        SyntaxInvalid: a public key is out of form.
    """
    keys = _by_id([*root_keys, *targets_keys])
    roles = {
        Root.type: Role(list(_by_id(root_keys)), root_threshold),
        Targets.type: Role(list(_by_id(targets_keys)), targets_threshold),
        "timestamp": Role([], 1),
        "snapshot": Role([], 1),
    }
    extra = {"logs": {log.environment: log.to_json() for log in logs}}
    root = Root(version=version, expires=expires, keys=keys, roles=roles, unrecognized_fields=extra)
    return Metadata(root)


def new_targets(
    *, version: int, expires: datetime, delegations: Sequence[Grant]
) -> Metadata[Targets]:
    """Targets metadata, unsigned; the order of delegations decides.

    Raises:
        SyntaxInvalid: a public key is out of form.
    """
    keys = _by_id([key for grant in delegations for key in grant.keys])
    roles = {
        grant.name: DelegatedRole(
            grant.name,
            list(_by_id(grant.keys)),
            grant.threshold,
            terminating=True,
            paths=list(grant.patterns),
        )
        for grant in delegations
    }
    targets = Targets(version=version, expires=expires, delegations=Delegations(keys, roles))
    return Metadata(targets)


def first_delegations(
    environments: Sequence[str], authors: Sequence[bytes], threshold: int
) -> list[Grant]:
    """Who may do what in a new installation, as the module says at its top."""
    everyone = tuple(authors)
    grants = []
    for environment in environments:
        # A point cannot be in an environment's name, so no two of these names are one.
        grants.append(Grant(f"{environment}.kill", everyone, 1, (f"{environment}/kill/*",)))
        grants.append(Grant(f"{environment}.change", everyone, threshold, (f"{environment}/*/*",)))
    grants.append(Grant(AUTHOR, everyone, 1, (f"{AUTHOR}/*/*",)))
    return grants


def signed(metadata: Metadata[_SIGNED], signers: Iterable[Signer]) -> bytes:
    """The exact bytes of metadata with the signers' signatures added to those it has.

    Raises:
        SyntaxInvalid: it would not be read back, for instance a threshold out of reach.
    """
    for signer in signers:
        metadata.sign(signer, append=True)
    metadata.signatures = dict(sorted(metadata.signatures.items()))
    data = canonical(metadata.to_dict())
    if isinstance(metadata.signed, Root):
        read_root(data)
    else:
        read_targets(data)
    return data


def _by_id(publics: Iterable[bytes]) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for public in publics:
        key: SSlibKey = tuf_key_of(public)
        keys[key.keyid] = key
    return keys
