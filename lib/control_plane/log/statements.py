"""What is said in the log: change sets, trust, snapshot and epoch statements.

Reading distinguishes three things. A statement out of form is refused (``StatementInvalid``): it
is rejected alike by everyone who knows this version's rules. A change of an unknown kind, action or
field is kept as unknown: the store refuses it, a node holds it until it is upgraded. A payload type
unknown here is ``UnknownPayloadType``: the reader stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from control_plane.errors import StatementInvalid, SyntaxInvalid
from control_plane.log.canonical import Json, canonical, parse, sha256_hex
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.names import (
    CHANGE_KINDS,
    CHANNEL,
    DIGEST,
    MAX_CHANGE_LIST_BYTES,
    MAX_CHANGES,
    MAX_INTEGER,
    MAX_KILL_VALUE_BYTES,
    MAX_LEAF_BYTES,
    MAX_LISTED_CHANGES,
    MAX_REASON_BYTES,
    MAX_SCOPE_BYTES,
    MAX_VERSION_BYTES,
    ORIGIN,
    SHARD,
    VERB,
    VERSIONED_KINDS,
    is_name,
)

STATUSES = ("active", "deprecated", "yanked")
MAX_PART_BYTES = 128
"""The longest ``part`` a change of an unknown kind may name."""


class UnknownPayloadType(StatementInvalid):
    """A statement written by a newer version: the reader must stop, not skip."""

    code = "unknown_payload_type"


class Key(NamedTuple):
    """What a change touches: one key has one head."""

    kind: str
    name: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name} {self.part}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one key. ``replaces`` is the generation that last touched the key, or None.

    A put of an agent or tool names its version and checksum; a put or delete of a segment shard
    names the shard; a delete of an agent or tool names the version or the channel it removes.
    """

    action: str
    kind: str
    name: str
    replaces: int | None
    version: str | None = None
    digest: str | None = None
    checksum: str | None = None
    value: Mapping[str, Json] | None = None
    channel: str | None = None
    status: str | None = None
    reason: str | None = None
    successor: str | None = None
    shard: str | None = None
    scope: str | None = None
    unknown: Mapping[str, Json] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether this version understands the change whole."""
        return not self.unknown and self.kind in CHANGE_KINDS and self.action in _FIELDS

    @property
    def key(self) -> Key:
        """The key this change touches, the same for a version that does not know the change.

        Of an unknown kind the part is what channel, shard or status give, else the field ``part``.
        """
        return Key(self.kind, self.name, self._part())

    def path(self, environment: str) -> str:
        """The name delegations are matched against."""
        return f"{environment}/{self.kind}/{self.name}"

    def to_json(self) -> dict[str, Json]:
        """The change as it stands in a change set."""
        fields: dict[str, Json] = {
            name: value for name in _OPTIONAL if (value := getattr(self, name)) is not None
        }
        return {
            "action": self.action, "kind": self.kind, "name": self.name, "replaces": self.replaces,
            **fields, **self.unknown,
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Json) -> Change:
        """Read a change.

        Raises:
            StatementInvalid: for a missing field or one of another type or form.
        """
        fields = _object(value, "change")
        change = cls(**_known_fields(fields), unknown=_unknown_fields(fields))
        if change.known:
            _check_change(change)
        return change

    def _part(self) -> str:
        if self.action == "status":
            return f"s/{self.version}"
        if self.channel is not None:
            return f"c/{self.channel}"
        if self.shard is not None:
            return f"s/{self.shard}"
        if self.kind in VERSIONED_KINDS:
            return f"v/{self.version}"
        return str(self.unknown.get("part", ""))


_OPTIONAL = (
    "version", "digest", "checksum", "value", "channel", "status", "reason", "successor",
    "shard", "scope",
)  # fmt: skip
_FIELDS = {
    "put": {"version", "digest", "checksum", "value", "shard", "scope"},
    "delete": {"version", "channel", "shard", "scope"},
    "activate": {"channel", "version", "scope"},
    "status": {"version", "status", "reason", "successor", "scope"},
}


@dataclass(frozen=True, slots=True)
class ChangesBlob:
    """A change list too long for the statement: the digest of its lines and their number."""

    digest: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSet:
    """An atomic list of changes to one environment. Times are milliseconds since the epoch."""

    origin: str
    created_at: int
    not_after: int
    reason: str
    verb: str
    changes: tuple[Change, ...] = ()
    changes_blob: ChangesBlob | None = None

    def payload(self) -> bytes:
        """The canonical bytes that are signed."""
        listed: Json = [change.to_json() for change in self.changes]
        if self.changes_blob is not None:
            listed = {"digest": self.changes_blob.digest, "count": self.changes_blob.count}
        return canonical(
            {
                "origin": self.origin, "created_at": self.created_at, "not_after": self.not_after,
                "reason": self.reason, "verb": self.verb, "changes": listed,
            }
        )  # fmt: skip

    def envelope(self) -> Envelope:
        """The unsigned envelope of this statement."""
        return Envelope(PAYLOAD_TYPE["change-set"], self.payload())

    @classmethod
    def from_payload(cls, payload: bytes) -> ChangeSet:
        """Read a change set.

        Raises:
            StatementInvalid: for any other form, or a key that appears twice.
        """
        fields = _statement(
            payload, {"origin", "created_at", "not_after", "reason", "verb", "changes"}
        )
        changes, blob = _changes(fields["changes"])
        return cls(
            origin=_origin(fields["origin"]),
            created_at=_integer(fields["created_at"], "created_at"),
            not_after=_integer(fields["not_after"], "not_after"),
            reason=_bounded(fields["reason"], "reason", MAX_REASON_BYTES),
            verb=_matching(fields["verb"], "verb", VERB),
            changes=changes,
            changes_blob=blob,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustStatement:
    """New trust metadata: digests of root versions N+1 … M (none when unchanged) and of targets."""

    origin: str
    root: tuple[str, ...]
    targets: str

    def payload(self) -> bytes:
        """The canonical bytes that are signed."""
        return canonical({"origin": self.origin, "root": list(self.root), "targets": self.targets})

    @classmethod
    def from_payload(cls, payload: bytes) -> TrustStatement:
        """Read a trust statement.

        Raises:
            StatementInvalid: for any other form.
        """
        fields = _statement(payload, {"origin", "root", "targets"})
        roots = fields["root"]
        if not isinstance(roots, list):
            raise StatementInvalid("trust statement: expected a list of root digests, found none")
        return cls(
            origin=_origin(fields["origin"]),
            root=tuple(_digest(digest, "root") for digest in roots),
            targets=_digest(fields["targets"], "targets"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotStatement:
    """What the log commits to before this entry: the fold's root and the policy's digest."""

    origin: str
    generation: int
    count: int
    root: str
    policy: str

    def to_json(self) -> dict[str, Json]:
        """The statement as JSON; an epoch statement holds one as its state."""
        return {
            "origin": self.origin, "generation": self.generation, "count": self.count,
            "root": self.root, "policy": self.policy,
        }  # fmt: skip

    def payload(self) -> bytes:
        """The canonical bytes that are signed."""
        return canonical(self.to_json())

    @classmethod
    def from_payload(cls, payload: bytes) -> SnapshotStatement:
        """Read a snapshot statement.

        Raises:
            StatementInvalid: for any other form.
        """
        return cls._from_fields(
            _statement(payload, {"origin", "generation", "count", "root", "policy"})
        )

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Json]) -> SnapshotStatement:
        return cls(
            origin=_origin(fields["origin"]),
            generation=_integer(fields["generation"], "generation"),
            count=_integer(fields["count"], "count"),
            root=_digest(fields["root"], "root"),
            policy=_digest(fields["policy"], "policy"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What an epoch continues: the old one's number, size and root, and where generations go on."""

    epoch: int
    size: int
    root: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStatement:
    """Entry 1 of a new epoch: what it continues and the state it starts from."""

    origin: str
    continues: Continuation
    state: SnapshotStatement

    def payload(self) -> bytes:
        """The canonical bytes that are signed."""
        before = self.continues
        continues: Json = {
            "epoch": before.epoch, "size": before.size, "root": before.root,
            "generation": before.generation,
        }  # fmt: skip
        return canonical(
            {"origin": self.origin, "continues": continues, "state": self.state.to_json()}
        )

    @classmethod
    def from_payload(cls, payload: bytes) -> EpochStatement:
        """Read an epoch statement.

        Raises:
            StatementInvalid: for any other form.
        """
        fields = _statement(payload, {"origin", "continues", "state"})
        state = _exactly(
            fields["state"], {"origin", "generation", "count", "root", "policy"}, "state"
        )
        return cls(
            origin=_origin(fields["origin"]),
            continues=continuation(fields["continues"]),
            state=SnapshotStatement._from_fields(state),
        )


Statement = ChangeSet | TrustStatement | SnapshotStatement | EpochStatement
_READERS: dict[str, type[Statement]] = {
    PAYLOAD_TYPE["change-set"]: ChangeSet,
    PAYLOAD_TYPE["trust"]: TrustStatement,
    PAYLOAD_TYPE["snapshot"]: SnapshotStatement,
    PAYLOAD_TYPE["epoch"]: EpochStatement,
}


def parse_statement(envelope: Envelope) -> Statement:
    """Read what an envelope says.

    Raises:
        UnknownPayloadType: for a type this version does not know.
        StatementInvalid: for a payload out of form.
    """
    reader = _READERS.get(envelope.payload_type)
    if reader is None:
        raise UnknownPayloadType(
            f"entry: expected one of {sorted(_READERS)}, found {envelope.payload_type[:80]!r}; this"
            " version is too old"
        )
    return reader.from_payload(envelope.payload)


def continuation(value: Json) -> Continuation:
    """Read the ``continues`` object of an epoch statement or of a root's ``logs`` field.

    Raises:
        StatementInvalid: for any other form.
    """
    fields = _exactly(value, {"epoch", "size", "root", "generation"}, "continues")
    return Continuation(
        epoch=_integer(fields["epoch"], "epoch"),
        size=_integer(fields["size"], "size"),
        root=_digest(fields["root"], "root"),
        generation=_integer(fields["generation"], "generation"),
    )


def change_set(
    origin: str,
    changes: Sequence[Change],
    *,
    created_at: int,
    not_after: int,
    reason: str,
    verb: str,
) -> tuple[ChangeSet, bytes | None]:
    """A change set, and the blob of its change list when more than 64 changes do not fit in it.

    Raises:
        StatementInvalid: for no change, too many, a key twice, or a change out of form.
    """
    _check_list(changes)
    for change in changes:
        _check_change(change)
    blob = encode_change_list(changes) if len(changes) > MAX_LISTED_CHANGES else None
    listed = () if blob is not None else tuple(changes)
    reference = None if blob is None else ChangesBlob(sha256_hex(blob), len(changes))
    statement = ChangeSet(
        origin=origin, created_at=created_at, not_after=not_after, reason=reason, verb=verb,
        changes=listed, changes_blob=reference,
    )  # fmt: skip
    return ChangeSet.from_payload(statement.payload()), blob


def encode_change_list(changes: Iterable[Change]) -> bytes:
    """A change list as a blob: one canonical JSON object a line, each line ended."""
    return b"".join(canonical(change.to_json()) + b"\n" for change in changes)


def decode_change_list(data: bytes, expected: ChangesBlob) -> tuple[Change, ...]:
    """Read a change list's blob; its digest is the caller's to check.

    Raises:
        StatementInvalid: for another number of lines than promised, or a line out of form.
    """
    if len(data) > MAX_CHANGE_LIST_BYTES or not data.endswith(b"\n"):
        raise StatementInvalid(
            f"change list: expected ended lines of at most 32 MiB, found {len(data)} bytes"
        )
    lines = data[:-1].split(b"\n")
    if len(lines) != expected.count:
        raise StatementInvalid(f"change list: expected {expected.count} lines, found {len(lines)}")
    changes = tuple(Change.from_json(_parse(line, "change")) for line in lines)
    _check_list(changes)
    return changes


def _changes(value: Json) -> tuple[tuple[Change, ...], ChangesBlob | None]:
    if isinstance(value, list):
        if len(value) > MAX_LISTED_CHANGES:
            raise StatementInvalid(
                f"change set: expected at most {MAX_LISTED_CHANGES} listed changes, found"
                f" {len(value)}"
            )
        changes = tuple(Change.from_json(item) for item in value)
        _check_list(changes)
        return changes, None
    fields = _exactly(value, {"digest", "count"}, "changes")
    count = _integer(fields["count"], "count")
    if not MAX_LISTED_CHANGES < count <= MAX_CHANGES:
        raise StatementInvalid(
            f"change set: expected 65 to {MAX_CHANGES} changes in a blob, found {count}"
        )
    return (), ChangesBlob(_digest(fields["digest"], "changes"), count)


def _check_list(changes: Sequence[Change]) -> None:
    if not 1 <= len(changes) <= MAX_CHANGES:
        raise StatementInvalid(
            f"change set: expected 1 to {MAX_CHANGES} changes, found {len(changes)}"
        )
    keys: set[Key] = set()
    for change in changes:
        if change.key in keys:
            raise StatementInvalid(f"change set: expected each key once, found {change.key} twice")
        keys.add(change.key)


def _known_fields(fields: Mapping[str, Json]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name in ("action", "kind", "name"):
        known[name] = _word(fields.get(name), name, 128)
    _word(fields.get("part", ""), "part", MAX_PART_BYTES)
    if "replaces" not in fields:
        raise StatementInvalid(
            f"change {known['kind']}/{known['name']}: expected replaces, found none"
        )
    replaces = fields["replaces"]
    known["replaces"] = None if replaces is None else _integer(replaces, "replaces")
    for name in _OPTIONAL:
        if name in fields:
            known[name] = _optional(name, fields[name])
    return known


def _optional(name: str, value: Json) -> Json:
    if name == "value":
        return _object(value, "value")
    if name in ("digest", "checksum"):
        return _digest(value, name)
    if name == "reason":
        return _bounded(value, name, MAX_REASON_BYTES)
    bounds = {"version": MAX_VERSION_BYTES, "scope": MAX_SCOPE_BYTES}
    return _word(value, name, bounds.get(name, 128))


def _unknown_fields(fields: Mapping[str, Json]) -> dict[str, Json]:
    known = {"action", "kind", "name", "replaces", *_OPTIONAL}
    return {name: value for name, value in fields.items() if name not in known}


def _check_change(change: Change) -> None:
    """Refuse a change whose fields do not fit its kind and action."""
    what = f"change {change.kind}/{change.name}"
    if not change.known:
        raise StatementInvalid(
            f"{what}: expected a known kind, action and fields, found {change.kind} {change.action}"
        )
    if not is_name(change.kind, change.name):
        raise StatementInvalid(f"{what}: expected a name inside its pattern, found {change.name!r}")
    present = {name for name in _OPTIONAL if getattr(change, name) is not None}
    needed, allowed = _shape(change)
    if not needed <= present or not present <= allowed:
        raise StatementInvalid(
            f"{what}: expected the fields {sorted(needed)} for {change.action}, found"
            f" {sorted(present)}"
        )
    if change.channel is not None:
        _matching(change.channel, "channel", CHANNEL)
    if change.shard is not None:
        _matching(change.shard, "shard", SHARD)
    if change.status is not None and change.status not in STATUSES:
        raise StatementInvalid(
            f"{what}: expected a status of {', '.join(STATUSES)}, found {change.status!r}"
        )
    if change.value is not None:
        _check_kill_value(change.value, what)


def _shape(change: Change) -> tuple[set[str], set[str]]:
    """The fields a change of this kind and action must and may have."""
    versioned = change.kind in VERSIONED_KINDS
    if change.action == "put":
        if change.kind == "kill":
            return {"value"}, {"value", "scope"}
        if versioned:
            return {"digest", "version", "checksum"}, {"digest", "version", "checksum", "scope"}
        shard = {"shard"} if change.kind == "segment" else set()
        return {"digest"}, {"digest", "version", "scope"} | shard
    if change.action == "delete":
        if versioned:
            target = {"channel"} if change.channel is not None else {"version"}
            return target, target | {"scope"}
        return set(), {"scope"} | ({"shard"} if change.kind == "segment" else set())
    if not versioned:
        raise StatementInvalid(
            f"change {change.kind}/{change.name}: expected an agent or tool to {change.action},"
            f" found a {change.kind}"
        )
    if change.action == "activate":
        return {"channel", "version"}, {"channel", "version", "scope"}
    return {"version", "status"}, {"version", "status", "reason", "successor", "scope"}


def _check_kill_value(value: Mapping[str, Json], what: str) -> None:
    variant = value.get("variant", 0)
    if set(value) != {"variant"} or not (variant is None or isinstance(variant, str)):
        raise StatementInvalid(f"{what}: expected {{variant: name or null}}, found {dict(value)!r}")
    if len(canonical(dict(value))) > MAX_KILL_VALUE_BYTES:
        raise StatementInvalid(
            f"{what}: expected a kill value of at most {MAX_KILL_VALUE_BYTES} bytes, found more"
        )


def _statement(payload: bytes, names: set[str]) -> dict[str, Json]:
    return _exactly(_parse(payload, "statement"), names, "statement")


def _parse(data: bytes, what: str) -> Json:
    try:
        return parse(data, what=what, max_bytes=MAX_LEAF_BYTES)
    except SyntaxInvalid as error:
        raise StatementInvalid(str(error)) from error


def _object(value: Json, what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise StatementInvalid(f"{what}: expected an object, found {type(value).__name__}")
    return value


def _exactly(value: Json, names: set[str], what: str) -> dict[str, Json]:
    fields = _object(value, what)
    if set(fields) != names:
        raise StatementInvalid(
            f"{what}: expected the fields {sorted(names)}, found {sorted(fields)}"
        )
    return fields


def _integer(value: Json, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise StatementInvalid(f"{what}: expected an integer from 0 to 2^53 - 1, found {value!r}")
    return value


def _bounded(value: Json, what: str, max_bytes: int) -> str:
    if not isinstance(value, str) or len(value.encode()) > max_bytes:
        raise StatementInvalid(
            f"{what}: expected text of at most {max_bytes} bytes, found {str(value)[:40]!r}"
        )
    return value


def _word(value: Json, what: str, max_bytes: int) -> str:
    """Text that can be part of a key, also in a change this version does not know.

    Keys are joined by NUL, and a key has to fit into a node's database.
    """
    text = _bounded(value, what, max_bytes)
    if any(character < " " or character == "\x7f" for character in text):
        raise StatementInvalid(f"{what}: expected no control characters, found {text[:40]!r}")
    return text


def _matching(value: Json, what: str, pattern: Any) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise StatementInvalid(f"{what}: expected {pattern.pattern}, found {str(value)[:80]!r}")
    return value


def _digest(value: Json, what: str) -> str:
    return _matching(value, what, DIGEST)


def _origin(value: Json) -> str:
    return _matching(value, "origin", ORIGIN)
