"""The one shape of root and targets metadata that is read here.

TUF metadata arrives from a store that may lie, so nothing but this shape reaches python-tuf:

 * strict JSON of at most 1 MiB: each key once, no floats where integers belong, bounded depth;
 * `signatures` and `signed` only, each signature a key id and 64 bytes in hex, each key id once;
 * keys are Ed25519, written as 64 lower case hex digits, their ids 64 lower case hex digits; one
   public key has one id and one id has one public key, for two ids would count as two people;
 * roles name keys that are there, each once, with an integer threshold from 1;
 * root has the roles root and targets, whose thresholds their keys can reach, the roles timestamp
   and snapshot without keys (freshness comes from cosigned checkpoints), and the field `logs`;
 * targets has no target files; its delegations are one level, terminating, by path pattern. A
   threshold there may be out of reach: that is what is left when a key has been revoked;
 * a field this version does not know is refused, since its meaning would be kept by some nodes
   only. Fields that begin with `x-`, as signing tools write them, carry no meaning and pass;
 * written back, the metadata is the same JSON: what python-tuf verified is what was read.

Every refusal is `SyntaxInvalid`. Whether the signatures are good is decided in
`control_plane.trust.state`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from control_plane.errors import SyntaxInvalid
from control_plane.log.canonical import Json, parse
from control_plane.log.note import COSIGNATURE_V1, ED25519, VerifierKey
from control_plane.names import DIGEST, ENVIRONMENT, MAX_DEPTH, ORIGIN
from control_plane.trust.keys import key_id_of, public_key_of, raw_of

MAX_METADATA_BYTES = 1 << 20
MAX_METADATA_SIGNATURES = 64
MAX_PATTERN_BYTES = 256
MAX_ROLE_NAME_BYTES = 128
PATH_PARTS = 3
"""A path is ``<environment>/<kind>/<name>`` or ``author/<kind>/<name>``."""
AUTHOR = "author"
"""First part of the paths under which manifests are signed; no environment may be called so."""

# The characters of names, and fnmatch's * and ?. The first part is spelled out, so that no pattern
# reaches into an environment that its author did not name.
_PATTERN = re.compile(r"[a-z][a-z0-9-]*(/[a-z0-9_.@*?-]+){2}")
_SIGNATURE_HEX = re.compile(r"[0-9a-f]{128}")
_COMMON = ("_type", "version", "spec_version", "expires")
_SIGNED = TypeVar("_SIGNED", Root, Targets)
_Fields = dict[str, Json]


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Which log an environment has: its name, the keys that sign it, and what it continues."""

    environment: str
    epoch: int
    origin: str
    vkeys: tuple[str, str]
    witnesses: Mapping[str, Json]
    continues: Mapping[str, Json] | None
    public: bytes

    @property
    def installation(self) -> str:
        """The first part of the origin."""
        return self.origin.partition("/")[0]

    @property
    def key_id(self) -> str:
        """The TUF key id under which the log's key signs trust and snapshot entries."""
        return key_id_of(self.public)

    def to_json(self) -> dict[str, Json]:
        """The environment's value in the root's `logs`."""
        return {
            "continues": dict(self.continues) if self.continues is not None else None,
            "epoch": self.epoch,
            "origin": self.origin,
            "vkeys": list(self.vkeys),
            "witnesses": dict(self.witnesses),
        }


@dataclass(frozen=True, slots=True)
class RootFile:
    """Root metadata in form, with its exact bytes; not yet verified."""

    data: bytes
    metadata: Metadata[Root]
    logs: Mapping[str, LogIdentity]
    keys: Mapping[str, Ed25519PublicKey]

    @property
    def version(self) -> int:
        return self.metadata.signed.version


@dataclass(frozen=True, slots=True)
class TargetsFile:
    """Targets metadata in form, with its exact bytes; not yet verified."""

    data: bytes
    metadata: Metadata[Targets]
    keys: Mapping[str, Ed25519PublicKey]

    @property
    def version(self) -> int:
        return self.metadata.signed.version


def read_root(data: bytes) -> RootFile:
    """Root metadata that has the shape above, its signatures unchecked.

    Raises:
        SyntaxInvalid: naming the first thing that is out of form.
    """
    top, signed = _signed_part(data, "root")
    what = f"root version {signed['version']}"
    _fields(signed, what, (*_COMMON, "keys", "roles", "logs"), ("consistent_snapshot",))
    if not isinstance(signed.get("consistent_snapshot", True), bool):
        raise SyntaxInvalid(f"{what}: expected consistent_snapshot to be true or false")
    keys = _keys(signed["keys"], what)
    roles = _object(signed["roles"], f"{what}: roles")
    _fields(roles, f"{what}: roles", ("root", "targets", "timestamp", "snapshot"))
    for name, role in roles.items():
        _role(role, f"{what}: role {name}", keys, used=name in ("root", "targets"))
    logs = _logs(signed["logs"], what)
    one_key_one_id(keys, what, (log.public for log in logs.values()))
    return RootFile(data, _from_bytes(data, top, what, Root), logs, keys)


def read_targets(data: bytes) -> TargetsFile:
    """Targets metadata that has the shape above, its signatures unchecked.

    Raises:
        SyntaxInvalid: naming the first thing that is out of form.
    """
    top, signed = _signed_part(data, "targets")
    what = f"targets version {signed['version']}"
    _fields(signed, what, (*_COMMON, "targets", "delegations"))
    if signed["targets"] != {}:
        raise SyntaxInvalid(f"{what}: expected no target files, found some")
    delegations = _object(signed["delegations"], f"{what}: delegations")
    _fields(delegations, f"{what}: delegations", ("keys", "roles"))
    keys = _keys(delegations["keys"], what)
    seen: set[str] = set()
    for role in _list(delegations["roles"], f"{what}: delegations"):
        _delegation(role, what, keys, seen)
    one_key_one_id(keys, what)
    return TargetsFile(data, _from_bytes(data, top, what, Targets), keys)


def one_key_one_id(
    keys: Mapping[str, Ed25519PublicKey], what: str, log_keys: Iterable[bytes] = ()
) -> None:
    """Refuse two key ids that hold one public key, and a log's key among keys that authorise.

    A store holds the log's key; if that key could authorise, the store could invent changes.

    Raises:
        SyntaxInvalid: naming both ids, or the id that is a log's key.
    """
    id_of: dict[bytes, str] = {}
    for key_id, key in sorted(keys.items()):
        other = id_of.setdefault(raw_of(key), key_id)
        if other != key_id:
            raise SyntaxInvalid(
                f"{what}: expected one id for each public key, found {other} and {key_id}"
                " holding the same"
            )
    for public in log_keys:
        if public in id_of:
            raise SyntaxInvalid(
                f"{what}: expected keys that sign no log, found {id_of[public]},"
                " the key of a log; give the log a key of its own"
            )


def _signed_part(data: bytes, kind: str) -> tuple[_Fields, _Fields]:
    """The JSON of metadata of that type and its `signed`, signatures and common fields checked."""
    value = parse(data, what=kind, max_bytes=MAX_METADATA_BYTES, max_depth=MAX_DEPTH)
    top = _object(value, kind)
    _fields(top, kind, ("signatures", "signed"))
    signatures = _list(top["signatures"], f"{kind}: signatures")
    if len(signatures) > MAX_METADATA_SIGNATURES:
        raise SyntaxInvalid(
            f"{kind}: expected at most {MAX_METADATA_SIGNATURES} signatures,"
            f" found {len(signatures)}"
        )
    for signature in signatures:
        _signature(signature, kind)
    signed = _object(top["signed"], f"{kind}: signed")
    if signed.get("_type") != kind:
        raise SyntaxInvalid(f"expected {kind} metadata, found {_shown(signed.get('_type'))}")
    _integer(signed.get("version"), f"{kind}: version", 1)
    for field in ("spec_version", "expires"):
        _text(signed.get(field), f"{kind}: {field}")
    return top, signed


def _signature(value: Json, what: str) -> None:
    signature = _object(value, f"{what}: signature")
    _fields(signature, f"{what}: signature", ("keyid", "sig"))
    _key_id(signature["keyid"], f"{what}: signature")
    if not _SIGNATURE_HEX.fullmatch(_text(signature["sig"], f"{what}: signature")):
        raise SyntaxInvalid(f"{what}: expected a signature of 64 bytes in hex, found another")


def _keys(value: Json, what: str) -> dict[str, Ed25519PublicKey]:
    found: dict[str, Ed25519PublicKey] = {}
    for key_id, described in _object(value, f"{what}: keys").items():
        named = f"{what}: key {_key_id(key_id, what)}"
        key = _object(described, named)
        _fields(key, named, ("keytype", "scheme", "keyval"))
        if (key["keytype"], key["scheme"]) != ("ed25519", "ed25519"):
            raise SyntaxInvalid(
                f"{named}: expected keytype and scheme ed25519,"
                f" found {_shown(key['keytype'])} and {_shown(key['scheme'])}"
            )
        keyval = _object(key["keyval"], named)
        _fields(keyval, named, ("public",))
        public = _text(keyval["public"], named)
        if not DIGEST.fullmatch(public):
            raise SyntaxInvalid(f"{named}: expected 32 bytes in lower case hex, found another")
        found[key_id] = public_key_of(bytes.fromhex(public))
    return found


def _role(value: Json, what: str, keys: Collection[str], *, used: bool) -> None:
    """A role of root. One that is used needs keys enough, or nobody could ever sign it again."""
    role = _object(value, what)
    _fields(role, what, ("keyids", "threshold"))
    count, threshold = _holders(role, what, keys)
    if used and threshold > count:
        raise SyntaxInvalid(f"{what}: expected at least {threshold} keys, found {count}")
    if not used and count:
        raise SyntaxInvalid(f"{what}: expected no keys, found {count}; the role is unused")


def _delegation(value: Json, what: str, keys: Collection[str], seen: set[str]) -> None:
    role = _object(value, f"{what}: delegation")
    name = _text(role.get("name"), f"{what}: delegation")
    named = f"{what}: delegation {_shown(name)}"
    _fields(role, named, ("name", "keyids", "threshold", "terminating", "paths"))
    if not 0 < len(name.encode()) <= MAX_ROLE_NAME_BYTES or name in seen:
        raise SyntaxInvalid(
            f"{named}: expected a name of its own of 1 to {MAX_ROLE_NAME_BYTES} bytes"
        )
    seen.add(name)
    if role["terminating"] is not True:
        raise SyntaxInvalid(f"{named}: expected terminating true, since the first match decides")
    _, threshold = _holders(role, named, keys)
    for pattern in _list(role["paths"], named):
        _pattern(pattern, named, threshold)


def _pattern(value: Json, what: str, threshold: int) -> None:
    pattern = _text(value, what)
    if not _PATTERN.fullmatch(pattern) or len(pattern) > MAX_PATTERN_BYTES:
        raise SyntaxInvalid(
            f"{what}: expected patterns like '<environment>/<kind>/<name>' or"
            f" '{AUTHOR}/<kind>/<name>', with * and ? after the first part only,"
            f" found {_shown(pattern)}"
        )
    if pattern.startswith(f"{AUTHOR}/") and threshold != 1:
        raise SyntaxInvalid(
            f"{what}: expected threshold 1 for {pattern}, since a manifest has one signature,"
            f" found {threshold}"
        )


def _holders(role: _Fields, what: str, keys: Collection[str]) -> tuple[int, int]:
    """How many keys a role has, and how many it needs."""
    listed = [_key_id(key_id, what) for key_id in _list(role["keyids"], what)]
    for key_id in listed:
        if key_id not in keys:
            raise SyntaxInvalid(f"{what}: expected keys that are described, found {key_id}")
    if len(set(listed)) != len(listed):
        raise SyntaxInvalid(f"{what}: expected each key id once, found one twice")
    return len(listed), _integer(role["threshold"], f"{what}: threshold", 1)


def _logs(value: Json, what: str) -> dict[str, LogIdentity]:
    logs = {
        environment: _log(environment, described, f"{what}: log {_shown(environment)}")
        for environment, described in _object(value, f"{what}: logs").items()
    }
    installations = sorted({log.installation for log in logs.values()})
    if len(installations) > 1:
        raise SyntaxInvalid(
            f"{what}: expected the logs of one installation, found {', '.join(installations)}"
        )
    return logs


def _log(environment: str, value: Json, what: str) -> LogIdentity:
    if not ENVIRONMENT.fullmatch(environment) or environment == AUTHOR:
        raise SyntaxInvalid(
            f"{what}: expected an environment's name like {ENVIRONMENT.pattern},"
            f" and not '{AUTHOR}', found {_shown(environment)}"
        )
    log = _object(value, what)
    _fields(log, what, ("epoch", "origin", "vkeys", "witnesses", "continues"), extra=False)
    epoch = _integer(log["epoch"], f"{what}: epoch", 1)
    origin = _text(log["origin"], f"{what}: origin")
    if not ORIGIN.fullmatch(origin) or origin.split("/")[1:] != [environment, str(epoch)]:
        raise SyntaxInvalid(
            f"{what}: expected the origin '<installation>/{environment}/{epoch}',"
            f" found {_shown(origin)}"
        )
    vkeys, public = _log_vkeys(log["vkeys"], what, origin)
    witnesses = _witnesses(log["witnesses"], what, public)
    continues = _continues(log["continues"], what, epoch)
    return LogIdentity(environment, epoch, origin, vkeys, witnesses, continues, public)


def _log_vkeys(value: Json, what: str, origin: str) -> tuple[tuple[str, str], bytes]:
    listed = [_vkey(item, what) for item in _list(value, what)]
    if [key.algorithm for key in listed] != [ED25519, COSIGNATURE_V1]:
        raise SyntaxInvalid(
            f"{what}: expected two vkeys, Ed25519 (1) and cosignature (4) in this order,"
            f" found {[key.algorithm for key in listed]}"
        )
    for key in listed:
        if key.name != origin:
            raise SyntaxInvalid(f"{what}: expected vkeys named {origin}, found {_shown(key.name)}")
    if listed[0].public != listed[1].public:
        raise SyntaxInvalid(f"{what}: expected one public key in both vkeys, found two")
    public_key_of(listed[0].public)
    return (listed[0].encode(), listed[1].encode()), listed[0].public


def _witnesses(value: Json, what: str, log_public: bytes) -> _Fields:
    witnesses = _object(value, f"{what}: witnesses")
    _fields(witnesses, f"{what}: witnesses", ("vkeys", "threshold"), extra=False)
    listed = [_vkey(item, what) for item in _list(witnesses["vkeys"], what)]
    if any(key.algorithm != COSIGNATURE_V1 for key in listed):
        raise SyntaxInvalid(f"{what}: expected witnesses with cosignature vkeys (4), found others")
    for key in listed:
        public_key_of(key.public)
    distinct = len({key.public for key in listed})
    if distinct != len(listed):
        raise SyntaxInvalid(f"{what}: expected one vkey for each witness, found one key twice")
    if log_public in {key.public for key in listed}:
        raise SyntaxInvalid(f"{what}: expected witnesses other than the log itself, found its key")
    threshold = _integer(witnesses["threshold"], f"{what}: witnesses: threshold", 0)
    if threshold > distinct:
        raise SyntaxInvalid(f"{what}: expected at least {threshold} witnesses, found {distinct}")
    return witnesses


def _continues(value: Json, what: str, epoch: int) -> _Fields | None:
    """What the epoch goes on from: nothing for the first, an earlier one for every other."""
    if (value is None) != (epoch == 1):
        raise SyntaxInvalid(f"{what}: expected 'continues' in every epoch but the first")
    if value is None:
        return None
    named = f"{what}: continues"
    continues = _object(value, named)
    _fields(continues, named, ("epoch", "size", "root", "generation"), extra=False)
    if _integer(continues["epoch"], f"{named}: epoch", 1) >= epoch:
        raise SyntaxInvalid(f"{named}: expected an epoch before {epoch}")
    size = _integer(continues["size"], f"{named}: size", 0)
    if _integer(continues["generation"], f"{named}: generation", 0) < size:
        raise SyntaxInvalid(f"{named}: expected a generation that is not below the size {size}")
    if not DIGEST.fullmatch(_text(continues["root"], f"{named}: root")):
        raise SyntaxInvalid(f"{named}: expected a root of 64 hex digits")
    return continues


def _vkey(value: Json, what: str) -> VerifierKey:
    return VerifierKey.parse(_text(value, f"{what}: vkey"))


def _from_bytes(data: bytes, read: _Fields, what: str, kind: type[_SIGNED]) -> Metadata[_SIGNED]:
    """python-tuf's object of bytes whose shape is known, if it writes back what was read."""
    try:
        metadata = cast("Metadata[_SIGNED]", Metadata.from_bytes(data))
        written = metadata.to_dict()
    except (RepositoryError, ValueError) as error:
        reason = error.__cause__ or error
        raise SyntaxInvalid(f"{what}: expected TUF metadata, found {reason}") from error
    if not isinstance(metadata.signed, kind) or written != read:
        raise SyntaxInvalid(f"{what}: expected metadata in its one form, found another spelling")
    return metadata


def _fields(
    value: _Fields,
    what: str,
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    *,
    extra: bool = True,
) -> None:
    """Refuse missing and unknown fields; `x-` fields pass where signing tools may put them."""
    for name in required:
        if name not in value:
            raise SyntaxInvalid(f"{what}: expected the field {name}, found none")
    for name in value:
        if name not in required and name not in optional and not (extra and name[:2] == "x-"):
            raise SyntaxInvalid(f"{what}: expected no field but its own, found {_shown(name)}")


def _object(value: Json, what: str) -> _Fields:
    if not isinstance(value, dict):
        raise SyntaxInvalid(f"{what}: expected an object, found {type(value).__name__}")
    return value


def _list(value: Json, what: str) -> list[Json]:
    if not isinstance(value, list):
        raise SyntaxInvalid(f"{what}: expected a list, found {type(value).__name__}")
    return value


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise SyntaxInvalid(f"{what}: expected a string, found {type(value).__name__}")
    return value


def _integer(value: Json, what: str, least: int) -> int:
    # bool is an int in Python; true is no number in JSON.
    if type(value) is not int or value < least:
        raise SyntaxInvalid(f"{what}: expected an integer from {least}, found {_shown(value)}")
    return value


def _key_id(value: Json, what: str) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise SyntaxInvalid(f"{what}: expected a key id of 64 hex digits, found {_shown(value)}")
    return value


def _shown(value: Json) -> str:
    """A short, one-line rendering of something hostile."""
    return ascii(value)[:80]
