"""What a test says in short, as the documents it stands for, and those as records.

- A flag is its metadata, or true or false for a boolean flag that serves that to everybody.
- A configuration namespace is its values, or its metadata: a mapping with the key ``values`` and
  none beside it that metadata does not have.
- An agent or tool is its document; kind is filled in, and version 1.0.0 where there is none. The
  last version of a name in the list is its stable one.
- A segment is the list of its members; more than 500 go into shards, as they do when published.
- A kill is the name of the variant it serves, or None for what the flag serves when disabled.

Every document is validated before a record is made of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import msgpack

from control_plane.configs.layers import same, tenant_of
from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.segments import shard_of
from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.statements import STATUSES
from control_plane.manifests.documents import blob
from control_plane.manifests.loader import Document, load_paths
from control_plane.manifests.validation import validate, validate_config, validate_document
from control_plane.names import CHANNEL as CHANNEL_NAME
from control_plane.names import check_name
from control_plane.replica.compile import config_records, flag_body, segment_body, shard_body
from control_plane.replica.format import (
    AGENT,
    CHANNEL,
    CONFIG,
    FLAG,
    RESOLUTION,
    SEGMENT,
    STATUS,
    TOOL,
    record_key,
)
from control_plane.replica.resolution import Offered, resolve
from control_plane.testing.plain import plain

MAX_INLINE_MEMBERS = 500
CONFIG_METADATA = {"schema", "values", "environments", "tenants", "lists", "description"}
VERSIONED = {"agent": AGENT, "tool": TOOL}

Body = tuple[int, bytes]
"""A record's kind and body."""


Segment = Iterable[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Documents:
    """Everything one generation of a test's replica is made of; each ``with_…`` gives the next."""

    environment: str
    flags: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    kills: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    segments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    versions: Mapping[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    channels: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    statuses: Mapping[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    def with_flag(self, name: str, flag: Mapping[str, Any] | bool | None) -> Documents:
        """With this flag; None takes it away."""
        _check_name("flag", name)
        if flag is None:
            return replace(self, flags=_without(self.flags, name))
        document = {"kind": "flag", "name": name, "metadata": _flag_metadata(flag)}
        return replace(self, flags={**self.flags, name: self._valid(document)})

    def with_files(self, paths: Iterable[str | PathLike[str]]) -> Documents:
        """With the manifests of these files and folders; the last version in a name is stable."""
        documents = load_paths(paths)
        following = self
        # What others are checked against, or resolve to, comes first.
        for document in sorted(documents, key=_order):
            validate_document(document, environment=self.environment)
            value: dict[str, Any] = document.value
            following = _STEPS[value["kind"]](following, value)
        return following

    def with_kill(self, flag: str, variant: str | None) -> Documents:
        """With this kill in force; its variant may come with a later definition of the flag."""
        _check_name("flag", flag)
        if variant is not None:
            _check_text(f"kill/{flag} variant", variant)
        return replace(self, kills={**self.kills, flag: {"variant": variant}})

    def without_kill(self, flag: str) -> Documents:
        """With the flag's own rules in force again."""
        return replace(self, kills=_without(self.kills, flag))

    def with_segment(self, name: str, segment: Segment) -> Documents:
        """With these members, and no others, in the segment; or with metadata that has more."""
        _check_name("segment", name)
        metadata = _segment_metadata(name, segment)
        shown = metadata
        if "members" in metadata:
            shown = metadata | {"members": metadata["members"][:1]}
        self._valid({"kind": "segment", "name": name, "metadata": shown})
        segment_body({"name": name, "metadata": metadata})
        return replace(self, segments={**self.segments, name: metadata})

    def with_config(self, name: str, config: Mapping[str, Any] | None) -> Documents:
        """With this namespace (or ``database@acme``, one tenant's part); None takes it away."""
        _check_name("config", name)
        if config is None:
            configs = _without(self.configs, name)
        else:
            document = {"kind": "config", "name": name, "metadata": _config_metadata(config)}
            configs = {**self.configs, name: self._valid(document)}
        following = replace(self, configs=configs)
        namespace = tenant_of(name)[0]
        validate_config(*following.namespace(namespace), self.environment)
        return following

    def with_version(
        self, kind: str, document: Mapping[str, Any], channel: str | None = "stable"
    ) -> Documents:
        """With this version of an agent or tool, and the channel moved to it unless None."""
        if not isinstance(document, Mapping):
            found = type(document).__name__
            raise ManifestInvalid(f"{kind}: expected a document as mapping, found {found}")
        whole = self._valid({"kind": kind, "version": "1.0.0", **document})
        if whole["kind"] != kind:
            raise ManifestInvalid(f"expected kind {kind}, found {whole['kind']}", ("kind",))
        key = (kind, whole["name"], whole["version"])
        following = replace(self, versions={**self.versions, key: whole})
        return following if channel is None else following.with_channel(*key, channel)

    def with_channel(self, kind: str, name: str, version: str, channel: str) -> Documents:
        """With the channel moved to that version."""
        _check_text("channel", channel)
        if CHANNEL_NAME.fullmatch(channel) is None:
            pattern = CHANNEL_NAME.pattern
            raise ManifestInvalid(f"channel: expected a name like {pattern}, found {channel!a}")
        return replace(self, channels={**self.channels, (kind, name, channel): version})

    def with_status(
        self, kind: str, name: str, version: str, status: Mapping[str, Any]
    ) -> Documents:
        """With the version deprecated, yanked or active again."""
        for what, text in {"kind": kind, "name": name, "version": version}.items():
            _check_text(what, text)
        what = f"{kind}/{name}@{version}"
        if (kind, name, version) not in self.versions:
            raise ManifestInvalid(f"status: expected a version that is published, found {what!a}")
        if status["status"] not in STATUSES:
            expected, found = ", ".join(STATUSES), ascii(status["status"])
            raise ManifestInvalid(f"{what}: expected a status of {expected}, found {found:.80}")
        for field_name in ("reason", "successor"):
            if status[field_name] is not None:
                _check_text(f"{what} {field_name}", status[field_name])
        return replace(self, statuses={**self.statuses, (kind, name, version): dict(status)})

    def namespace(self, name: str) -> tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]:
        """A namespace's own document and those of single tenants."""
        tenants: list[Mapping[str, Any]] = [
            document for other, document in self.configs.items() if other.startswith(f"{name}@")
        ]
        return self.configs.get(name), tenants

    def records(self, generation: int, before: Mapping[bytes, Body]) -> dict[bytes, Body]:
        """Every record of the replica.

        A leaf of the configuration says which generation last made a difference to it:
        ``generation``, unless ``before`` holds the same leaf.
        """
        return {
            **dict(self._flag_records()),
            **dict(self._segment_records()),
            **{
                key: _unless_same(leaf, before.get(key))
                for key, leaf in self._config_records(generation)
            },
            **dict(self._version_records()),
        }

    def _flag_records(self) -> Iterator[tuple[bytes, Body]]:
        for name in dict.fromkeys((*self.flags, *self.kills)):
            body = flag_body(self.flags.get(name), self.kills.get(name), self.environment)
            yield record_key(FLAG, name), (FLAG, body)

    def _segment_records(self) -> Iterator[tuple[bytes, Body]]:
        for name, metadata in self.segments.items():
            members = tuple(metadata.get("members", ()))
            bits = _shard_bits(len(members))
            if bits is not None:
                rest = {key: metadata[key] for key in metadata if key != "members"}
                metadata = {**rest, "shards": bits}
            body = segment_body({"name": name, "metadata": metadata})
            yield record_key(SEGMENT, name), (SEGMENT, body)
            for shard, held in _shards(members, bits).items():
                yield record_key(SEGMENT, name, shard), (SEGMENT, shard_body(canonical([*held])))

    def _config_records(self, generation: int) -> Iterator[tuple[bytes, Body]]:
        for name in dict.fromkeys(tenant_of(name)[0] for name in self.configs):
            base, tenants = self.namespace(name)
            leaves = config_records(base, tenants, self.environment, generation, self.namespace)
            for (tenant, path), body in leaves.items():
                yield record_key(CONFIG, tenant, path), (CONFIG, body)

    def _version_records(self) -> Iterator[tuple[bytes, Body]]:
        for (kind, name, version), document in self.versions.items():
            yield record_key(VERSIONED[kind], name, version), (VERSIONED[kind], blob(document))
            if kind == "agent":
                resolution = msgpack.packb(resolve(document, self._offered))
                yield record_key(RESOLUTION, name, version), (RESOLUTION, resolution)
        for key, version in self.channels.items():
            yield record_key(CHANNEL, *key), (CHANNEL, msgpack.packb({"version": version}))
        for key, status in self.statuses.items():
            yield record_key(STATUS, *key), (STATUS, msgpack.packb(status))

    def _offered(self, tool: str) -> Offered:
        """What there is of a tool, for the resolution of the agents that ask for it."""
        versions = {
            version: sha256_hex(blob(document))
            for (kind, name, version), document in self.versions.items()
            if (kind, name) == ("tool", tool)
        }
        statuses = {v: self.statuses.get(("tool", tool, v), {}).get("status") for v in versions}
        known = {version: status for version, status in statuses.items() if status is not None}
        return Offered(versions, known, self.channels.get(("tool", tool, "stable")))

    def _valid(self, document: dict[str, Any]) -> dict[str, Any]:
        valid: dict[str, Any] = plain(_shown_name(document), document)
        validate(valid, environment=self.environment)
        return valid


_STEPS: dict[str, Callable[[Documents, dict[str, Any]], Documents]] = {
    "config": lambda documents, it: documents.with_config(it["name"], it["metadata"]),
    "segment": lambda documents, it: documents.with_segment(it["name"], it["metadata"]),
    "flag": lambda documents, it: documents.with_flag(it["name"], it["metadata"]),
    "tool": lambda documents, it: documents.with_version("tool", it),
    "agent": lambda documents, it: documents.with_version("agent", it),
}


def _order(document: Document) -> tuple[int, str]:
    """Kinds in the order of the steps, and a tenant's part of a namespace after the namespace."""
    kind = str(document.value.get("kind"))
    kinds = list(_STEPS)
    name = str(document.value.get("name")) if kind == "config" else ""
    return kinds.index(kind) if kind in kinds else len(kinds), name


def _unless_same(leaf: Body, before: Body | None) -> Body:
    """The leaf as it was before, if only its generation differs."""
    if before is None:
        return leaf
    path, value, layer, _, *hidden = msgpack.unpackb(leaf[1])
    then = msgpack.unpackb(before[1])
    return (
        before
        if [path, layer, *hidden] == [then[0], then[2], *then[4:]] and same(value, then[1])
        else leaf
    )


def _flag_metadata(flag: Mapping[str, Any] | bool) -> Mapping[str, Any]:
    if isinstance(flag, bool):
        return {"variants": {"on": True, "off": False}, "default": "on" if flag else "off"}
    return flag


def _config_metadata(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(config, Mapping) and "values" in config and CONFIG_METADATA.issuperset(config):
        return config
    return {"values": config}


def _segment_metadata(name: str, segment: Segment) -> dict[str, Any]:
    """A segment's metadata with its members once each, in order."""
    what = f"segment/{name}"
    if isinstance(segment, str | bytes) or not isinstance(segment, Iterable):
        found = type(segment).__name__
        raise ManifestInvalid(f"{what}: expected members or metadata, found {found}")
    if not isinstance(segment, Mapping):
        segment = {"members": list(segment)}
    metadata: dict[str, Any] = plain(what, segment, ("metadata",))
    members = metadata.get("members")
    if isinstance(members, list):
        for at, member in enumerate(members):
            _check_text(f"{what} metadata.members.{at}", member)
        metadata["members"] = sorted(set(members))
    return metadata


def _check_name(kind: str, name: str) -> None:
    _check_text(f"name of a {kind}", name)
    check_name(kind, name)


def _check_text(what: str, value: object) -> None:
    if not isinstance(plain(what, value), str):
        raise ManifestInvalid(f"{what}: expected text, found {type(value).__name__}")


def _shown_name(document: Mapping[str, Any]) -> str:
    """``flag/x`` for errors, whatever the name is."""
    return f"{document['kind']!s:.60}/{document.get('name')!s:.60}"


def _shard_bits(count: int) -> int | None:
    """How many bits choose a shard of at most some 500 members; None for members in one record."""
    if count <= MAX_INLINE_MEMBERS:
        return None
    return (count // MAX_INLINE_MEMBERS).bit_length()


def _shards(members: Sequence[str], bits: int | None) -> dict[str, list[str]]:
    shards: dict[str, list[str]] = {}
    if bits is not None:
        for member in members:
            digest = hashlib.sha256(member.encode()).digest()
            shards.setdefault(shard_of(digest, bits), []).append(member)
    return shards


def _without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}
