"""What one accepted entry does to a replica.

What this module decides, inside one write transaction per entry:

- Every accepted entry moves the heads of all its keys. Its values become served all together, or
  none of them does and the entry is *held*: each record it touches keeps its last good body and is
  marked HEAD_HELD, or NO_VALUE where there never was one.
- A flag's record holds the merged flag and its kill side by side. A change of either keeps the
  other, so a kill works on the last good flag while a newer one is held, and a kill of an unknown
  flag makes a record that holds the kill only.
- A configuration leaf is written only where its value or its layer changed, so the generation in a
  record is that of the change that last made a difference. A change of a namespace writes the
  leaves of every namespace that refers to it, in the same transaction.
- A leaf whose references lead nowhere here keeps its last good value and is marked, and so told in
  the log: the store lets none in, but a node that left out superseded values meets them in between,
  and holding entries for each other's sake could last for ever.
- A tool's change rewrites, in the same transaction, the resolution of every agent version that
  names the tool; which ones those are is held in memory and read from the records at the start.
- A deletion leaves a record with status DELETED and no body. Configuration leaves just go: a path
  without a leaf has no value.
- A segment whose number of shards changes takes every shard anew, in the same set; else the set is
  held, for members would be looked for where they are not. Where this node skipped a manifest in
  between it cannot tell and follows the store, which has checked the same.
- A channel is not moved to a version that is held. Unknown kinds, actions and fields are held.

Everything that can fail comes before the first write: ``serve`` and ``finish`` only fill the plan.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from control_plane.configs.layers import tenant_of
from control_plane.configs.references import Configuration, Documents, Leaf, mentioned
from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import parse, sha256_hex
from control_plane.log.fold import Head
from control_plane.log.statements import Change, Key
from control_plane.manifests.configs import problems, refuse
from control_plane.replica.authorship import Authored, move_leaves
from control_plane.replica.compile import (
    check_shards,
    flag_body,
    leaf_body,
    segment_body,
    shard_body,
)
from control_plane.replica.format import (
    AGENT,
    CHANNEL,
    CONFIG,
    DELETED,
    FLAG,
    HEAD_HELD,
    NO_VALUE,
    RESOLUTION,
    SEGMENT,
    SERVED,
    STATUS,
    TOOL,
    Record,
    head_key,
    record_key,
)
from control_plane.replica.held import Held, HeldEntry
from control_plane.replica.mentions import Mentions, mentions_of
from control_plane.replica.plan import BLOBS, HEADS, Plan, Table
from control_plane.replica.resolution import Offered, resolve

MAX_STORED_BYTES = 32 << 20

Leaves = dict[tuple[str, str], Leaf]
"""The leaves of one namespace by tenant and path."""

logger = logging.getLogger("control_plane")


class Unservable(Exception):
    """Why this node cannot serve an accepted entry now; ``missing`` lists digests it lacks."""

    def __init__(self, reason: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Checked:
    """A blob whose bytes have their digest, and the document it is (a shard's list of members)."""

    blob: bytes
    document: Any


@dataclass(slots=True)
class Serving:
    """One entry on its way into a plan: which of its keys were skipped, what must be resolved."""

    plan: Plan
    generation: int
    keys: frozenset[Key]
    authored: Authored | None
    skipped: list[Key] = field(default_factory=list)
    tools: set[str] = field(default_factory=set)
    agents: set[tuple[str, str]] = field(default_factory=set)
    namespaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    segments: dict[str, Record | None] = field(default_factory=dict)
    mentions: dict[str, frozenset[str]] = field(default_factory=dict)


class Materialiser:
    """Turns accepted entries into records, heads and held entries of one environment's replica."""

    def __init__(self, environment: str, held: Held, resolutions: Resolutions) -> None:
        self._environment = environment
        self._resolutions = resolutions
        self._mentions: Mentions | None = None
        self.held = held
        self.namespaces_served = 0
        """How often configuration was served: what a held entry waits for may have come."""

    @classmethod
    def load(cls, environment: str, plan: Plan, held: Table) -> Materialiser:
        """For a replica just opened; ``plan`` is an empty one over its transaction."""
        return cls(environment, Held.load(held), Resolutions.load(plan))

    # Serving

    def begin(
        self, plan: Plan, generation: int, keys: Iterable[Key], authored: Authored | None = None
    ) -> Serving:
        """Start serving an entry that touches these keys; ``authored`` is what its author said."""
        return Serving(plan, generation, frozenset(keys), authored)

    def serve(self, serving: Serving, change: Change, checked: Checked | None) -> None:
        """Put one change's value into the plan; ``checked`` is None where a change has no blob.

        Raises:
            Unservable: this version does not know the change, or its version is held.
            InputInvalid: the record does not compile.
        """
        if not change.known:
            raise Unservable(
                f"{change.key}: expected a change this version knows, found {_described(change)};"
                " upgrade the daemon"
            )
        _SERVE[change.kind](self, serving, change, checked)
        serving.plan.settle()

    def skip(self, serving: Serving, change: Change) -> None:
        """Leave a value out because the store deleted its blob after it was superseded."""
        serving.skipped.append(change.key)
        _mark(serving.plan, change, serving.generation)

    def finish(self, serving: Serving) -> None:
        """Put what rests on several records: merged configuration, then resolutions of agents.

        Raises:
            InputInvalid: merged values break their schema, or requirements cannot be read.
        """
        self._finish_segments(serving)
        mentions = self._finish_configs(serving)
        self._resolutions.rewrite(serving)
        self._mentions = mentions
        self.namespaces_served += bool(serving.namespaces)

    # Settling

    def move(self, plan: Plan, heads: Mapping[Key, Head]) -> None:
        """Move the heads of an accepted entry; older held entries let go of its keys."""
        for key, head in heads.items():
            plan.put(HEADS, head_key(*key), head.encode())
        self.held.release(plan, heads)

    def hold(
        self, plan: Plan, entry: HeldEntry, changes: Iterable[Change], blobs: Mapping[str, bytes]
    ) -> None:
        """Keep an entry for later; its records stay what they were and say so."""
        for change in changes:
            _mark(plan, change, entry.generation)
            plan.settle()
        self.held.add(plan, entry, blobs)

    # Kinds

    def _flag(self, serving: Serving, change: Change, checked: Checked | None) -> None:
        plan, name = serving.plan, change.name
        stored = _stored_key("flag", name)
        if checked is not None:
            plan.put(BLOBS, stored, checked.blob)
        else:
            plan.remove(BLOBS, stored)
        document = None if checked is None else checked.document
        self._put_flag(serving, name, document, _served_kill(plan.record(_flag_key(name))))

    def _kill(self, serving: Serving, change: Change, checked: Checked | None) -> None:
        document = _stored(serving.plan, _stored_key("flag", change.name))
        value = None if change.value is None else dict(change.value)
        self._put_flag(serving, change.name, document, value)

    def _put_flag(
        self, serving: Serving, name: str, document: Any, kill: dict[str, Any] | None
    ) -> None:
        plan, key = serving.plan, _flag_key(name)
        before = plan.record(key)
        # Two chains meet in one record, and an older one may heal after the newer was served.
        head = max(serving.generation, before.head_generation if before else 0)
        served = max(serving.generation, before.served_generation if before else 0)
        waiting = any(
            self.held.holds(part) and part not in serving.keys
            for part in (Key("flag", name), Key("kill", name))
        )
        if document is None and kill is None:
            status = NO_VALUE if waiting else DELETED
            plan.put_record(key, FLAG, b"", head=head, served=served, status=status)
            return
        body = flag_body(document, kill, self._environment)
        status = HEAD_HELD if waiting else SERVED
        plan.put_record(key, FLAG, body, head=head, served=served, status=status)

    def _segment(self, serving: Serving, change: Change, checked: Checked | None) -> None:
        if change.name not in serving.segments:
            manifest = record_key(SEGMENT, change.name)
            serving.segments[change.name] = serving.plan.record(manifest)
        if checked is None:
            _put_deleted(serving, change)
            return
        body = segment_body(checked.document) if change.shard is None else shard_body(checked.blob)
        _put_served(serving, change, body)

    def _finish_segments(self, serving: Serving) -> None:
        for name, before in serving.segments.items():
            after = serving.plan.record(record_key(SEGMENT, name))
            known = before is not None and before.status == SERVED
            if before is None or not known or after is None or not after.body:
                continue
            put: set[int] = set()
            deleted: set[int] = set()
            for key in serving.keys:
                if (key.kind, key.name) == ("segment", name) and key.part:
                    shard = key.part[2:]
                    record = serving.plan.record(record_key(SEGMENT, name, shard))
                    live = record is not None and record.status != DELETED
                    (put if live else deleted).add(int(shard, 16))
            check_shards(name, _shard_count(before), _shard_count(after), put, deleted)

    def _config(self, serving: Serving, change: Change, checked: Checked | None) -> None:
        plan = serving.plan
        namespace = tenant_of(change.name)[0]
        if namespace not in serving.namespaces:
            serving.namespaces[namespace] = _config_documents(plan, namespace)
        stored = _stored_key("config", change.name)
        if checked is None:
            plan.remove(BLOBS, stored)
            serving.mentions[change.name] = frozenset()
        else:
            plan.put(BLOBS, stored, checked.blob)
            serving.mentions[change.name] = mentioned(checked.document)

    def _finish_configs(self, serving: Serving) -> Mentions | None:
        """Merge each namespace once, after all its documents: none need be valid in between.

        Who mentions whom from now on is returned, to be kept when the whole entry is served.
        """
        if not serving.namespaces:
            return self._mentions
        plan, changed = serving.plan, serving.namespaces
        mentions = self._read_mentions(serving).changed(serving.mentions)
        before = Configuration(
            self._environment,
            lambda name: _documents(
                name, changed[name] if name in changed else _config_documents(plan, name)
            ),
        )
        after = Configuration(
            self._environment, lambda name: _documents(name, _config_documents(plan, name))
        )
        for name in mentions.resting_on(changed):
            documents = after.documents(name)
            if documents[1] or after.speaks(name):
                # A base alone was judged with its values merged when its bytes were.
                self._check_namespace(after, name, documents)
            self._rewrite_namespace(serving, name, before, after)
        return mentions

    def _check_namespace(
        self, configuration: Configuration, name: str, documents: Documents
    ) -> None:
        # What cannot be made out keeps its last good value: it is no reason to hold the others.
        refuse(problems(configuration, name, documents, unfollowed=False))

    def _rewrite_namespace(
        self, serving: Serving, name: str, before: Configuration, after: Configuration
    ) -> None:
        unknown: set[tuple[str, str]] = set()
        failed: dict[tuple[str, str], ManifestInvalid] = {}

        def was_unknown(tenant: str, path: str, error: ManifestInvalid) -> None:
            unknown.add((tenant, path))

        def is_unknown(tenant: str, path: str, error: ManifestInvalid) -> None:
            failed[tenant, path] = error

        old, new = before.leaves(name, was_unknown), after.leaves(name, is_unknown)
        _rewrite_leaves(serving, old, new, unknown, set(failed))
        for error in failed.values():
            logger.warning("last good value stays: %s", error)

    def _read_mentions(self, serving: Serving) -> Mentions:
        if self._mentions is not None:
            return self._mentions
        prefix = _stored_key("config", "")
        stored = serving.plan.items(BLOBS, prefix)
        return mentions_of(((key[len(prefix) :].decode(), data) for key, data in stored), _document)

    def _versioned(self, serving: Serving, change: Change, checked: Checked | None) -> None:
        if change.kind == "tool":
            serving.tools.add(change.name)
        elif change.key.part.startswith("v/") and change.version is not None:
            serving.agents.add((change.name, change.version))
        if change.action == "delete":
            _put_deleted(serving, change)
        elif change.action == "activate":
            self._require_not_held(serving, change)
            _put_served(serving, change, msgpack.packb({"version": change.version}))
        elif change.action == "status":
            fields = {name: getattr(change, name) for name in ("status", "reason", "successor")}
            _put_served(serving, change, msgpack.packb(fields))
        elif checked is not None:
            _put_served(serving, change, checked.blob)

    def _require_not_held(self, serving: Serving, change: Change) -> None:
        version = Key(change.kind, change.name, f"v/{change.version}")
        if version not in serving.keys and self.held.holds(version):
            raise Unservable(
                f"{change.kind}/{change.name}@{change.version}: expected a served version to"
                " activate, found a held one"
            )


_SERVE: dict[str, Callable[[Materialiser, Serving, Change, Checked | None], None]] = {
    "flag": Materialiser._flag,
    "kill": Materialiser._kill,
    "segment": Materialiser._segment,
    "config": Materialiser._config,
    "agent": Materialiser._versioned,
    "tool": Materialiser._versioned,
}


class Resolutions:
    """Which agent versions rest on which tools, kept as their resolution records say."""

    def __init__(self) -> None:
        self._resting: dict[str, set[tuple[str, str]]] = {}
        self._needed: dict[tuple[str, str], tuple[str, ...]] = {}

    @classmethod
    def load(cls, plan: Plan) -> Resolutions:
        """Read the resolution records of a replica just opened."""
        resolutions = cls()
        for key, record in plan.records(bytes([RESOLUTION])):
            agent, version = key[1:].decode().split("\0")
            tools = msgpack.unpackb(record.body) if record.body else {}
            resolutions._set((agent, version), tuple(tools))
        return resolutions

    def rewrite(self, serving: Serving) -> None:
        """Put the resolutions of the entry's agents, and of those that rest on its tools."""
        tools = Tools(serving.plan)
        needed: dict[tuple[str, str], tuple[str, ...]] = {}
        resting = (self._resting.get(tool, ()) for tool in serving.tools)
        for agent in sorted(serving.agents.union(*resting)):
            needed[agent] = _put_resolution(serving, agent, tools)
            serving.plan.settle()
        for agent, names in needed.items():
            self._set(agent, names)

    def _set(self, agent: tuple[str, str], tools: tuple[str, ...]) -> None:
        for tool in self._needed.pop(agent, ()):
            self._resting[tool].discard(agent)
        for tool in tools:
            self._resting.setdefault(tool, set()).add(agent)
        if tools:
            self._needed[agent] = tools


class Tools:
    """What the tools of a replica offer, read once per entry."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[str, Offered] = {}

    def __call__(self, name: str) -> Offered:
        """The versions, statuses and stable channel of one tool."""
        if name not in self._known:
            self._known[name] = _offered(self._plan, name)
        return self._known[name]


def read_head(table: Table, key: Key) -> Head | None:
    """A key's head in a replica."""
    data = table.get(head_key(*key))
    return None if data is None else Head.decode(data)


def _offered(plan: Plan, name: str) -> Offered:
    versions = {
        key[1:].decode().split("\0")[1]: sha256_hex(record.body)
        for key, record in plan.records(record_key(TOOL, name, ""))
        if record.body
    }
    statuses = {
        key[1:].decode().split("\0")[2]: str(msgpack.unpackb(record.body)["status"])
        for key, record in plan.records(record_key(STATUS, "tool", name, ""))
        if record.body
    }
    stable = plan.record(record_key(CHANNEL, "tool", name, "stable"))
    pointed = msgpack.unpackb(stable.body)["version"] if stable and stable.body else None
    return Offered(versions, statuses, pointed)


def _put_resolution(serving: Serving, agent: tuple[str, str], tools: Tools) -> tuple[str, ...]:
    """Put one agent version's resolution where it changed; the tools it rests on."""
    plan, key = serving.plan, record_key(RESOLUTION, *agent)
    source = plan.record(record_key(AGENT, *agent))
    if source is None or not source.body:
        plan.remove_record(key)
        return ()
    resolved = resolve(_document(source.body), tools)
    body = msgpack.packb(resolved)
    before = plan.record(key)
    if before is None or before.body != body:
        plan.put_record(key, RESOLUTION, body, head=serving.generation, served=serving.generation)
    return tuple(resolved)


def _rewrite_leaves(
    serving: Serving,
    before: Leaves,
    after: Leaves,
    unknown: set[tuple[str, str]],
    failed: set[tuple[str, str]],
) -> None:
    """Write what changed; ``unknown`` leaves were not made out before, ``failed`` are not now."""
    plan, generation = serving.plan, serving.generation
    moved: Counter[int] = Counter()
    for place in (before.keys() | unknown) - after.keys() - failed:
        key = record_key(CONFIG, *place)
        moved[_leaf_generation(plan, key)] -= 1
        plan.remove_record(key)
        plan.settle()
    for (tenant, path), leaf in after.items():
        # 1 and True are equal in Python and two values in JSON: compare what would be stored.
        old = before.get((tenant, path))
        if old is not None and leaf_body(path, old, 0) == leaf_body(path, leaf, 0):
            continue
        key = record_key(CONFIG, tenant, path)
        body = leaf_body(path, leaf, generation)
        if old is not None or (tenant, path) in unknown:
            moved[_leaf_generation(plan, key)] -= 1
        moved[generation] += 1
        plan.put_record(key, CONFIG, body, head=generation, served=generation)
        plan.settle()
    for place in sorted(failed):
        _mark_leaf(plan, record_key(CONFIG, *place), generation)
        plan.settle()
    moved.pop(0, None)
    move_leaves(plan, moved, generation, serving.authored)


def _leaf_generation(plan: Plan, key: bytes) -> int:
    """The generation a leaf names; 0 where it has no value."""
    record = plan.record(key)
    return 0 if record is None or not record.body else record.served_generation


def _mark_leaf(plan: Plan, key: bytes, generation: int) -> None:
    """Say that a leaf's newest value could not be made out; its last good one stays."""
    before = plan.record(key)
    if before is None or not before.body:
        plan.put_record(key, CONFIG, b"", head=generation, served=0, status=NO_VALUE)
        return
    plan.put_record(
        key, CONFIG, before.body,
        head=generation, served=before.served_generation, status=HEAD_HELD,
    )  # fmt: skip


def _documents(name: str, documents: Mapping[str, Any]) -> Documents:
    return documents.get(name), [documents[each] for each in sorted(documents) if each != name]


def _config_documents(plan: Plan, namespace: str) -> dict[str, Any]:
    """The live documents of a namespace by name: its own and those of tenants."""
    documents = {}
    own = _stored(plan, _stored_key("config", namespace))
    if own is not None:
        documents[namespace] = own
    for key, data in plan.items(BLOBS, _stored_key("config", namespace + "@")):
        documents[key.decode().split("\0")[2]] = _document(data)
    return documents


def _stored_key(kind: str, name: str) -> bytes:
    """Where the ``blobs`` sub-database keeps the served document of a flag or config."""
    return f"live\0{kind}\0{name}".encode()


def _stored(plan: Plan, key: bytes) -> Any:
    data = plan.get(BLOBS, key)
    return None if data is None else _document(data)


def _document(data: bytes) -> Any:
    return parse(data, what="stored blob", max_bytes=MAX_STORED_BYTES)


def _flag_key(name: str) -> bytes:
    return record_key(FLAG, name)


def _served_kill(record: Record | None) -> dict[str, Any] | None:
    if record is None or not record.body:
        return None
    kill: dict[str, Any] | None = msgpack.unpackb(record.body)["k"]
    return kill


def _record_of(change: Change) -> tuple[bytes, int] | None:
    """The one record a change is about, and its kind; None for configs and unknown kinds."""
    kind, name, part = change.kind, change.name, change.key.part
    if not change.known or kind == "config":
        return None
    if kind in ("flag", "kill"):
        return _flag_key(name), FLAG
    if kind == "segment":
        shard = () if change.shard is None else (change.shard,)
        return record_key(SEGMENT, name, *shard), SEGMENT
    space, _, rest = part.partition("/")
    if space == "v":
        manifest = AGENT if kind == "agent" else TOOL
        return record_key(manifest, name, rest), manifest
    pointer = CHANNEL if space == "c" else STATUS
    return record_key(pointer, kind, name, rest), pointer


def _shard_count(manifest: Record) -> int:
    bits = msgpack.unpackb(manifest.body).get("shards")
    return 0 if bits is None else 1 << int(bits)


def _put_served(serving: Serving, change: Change, body: bytes) -> None:
    _put(serving, change, body, SERVED)


def _put_deleted(serving: Serving, change: Change) -> None:
    _put(serving, change, b"", DELETED)


def _put(serving: Serving, change: Change, body: bytes, status: int) -> None:
    found = _record_of(change)
    if found is not None:
        key, kind = found
        generation = serving.generation
        serving.plan.put_record(key, kind, body, head=generation, served=generation, status=status)


def _mark(plan: Plan, change: Change, generation: int) -> None:
    """Say in a record that its head has moved beyond what is served."""
    found = _record_of(change)
    if found is None:
        return
    key, kind = found
    before = plan.record(key)
    if before is None or not before.body:
        served = 0 if before is None else before.served_generation
        plan.put_record(key, kind, b"", head=generation, served=served, status=NO_VALUE)
        return
    plan.put_record(
        key, kind, before.body, head=generation, served=before.served_generation, status=HEAD_HELD
    )


def _described(change: Change) -> str:
    extra = f" with {', '.join(sorted(change.unknown))}" if change.unknown else ""
    return f"{change.action} of {change.kind}{extra}"
