"""Agents and tools of one environment by name: ``RegistryManager``.

- A name without a version means the version its channel ``stable`` points to.
- A version, its status and its resolution are read from one snapshot and kept until the
  replica's registry revision moves. Then they are read again; the document is parsed again only
  if its record has another hash.
- While a moved revision cannot be read, what was kept before stays the answer.
- Whether a tool suits an agent is what the node's daemon resolved and recorded; only a list of
  references that no agent stands behind is resolved here, with ``packaging``.
- A yanked version is never chosen by a channel; who names it gets it, and is told. A deprecated
  one is chosen, and told: one warning for each version and process, and a count.
- ``tenant_id`` says who asks. Where the manifest lets flags decide (`overrides`), they are those of
  the transaction the version was read in; both are read again when either's revision has moved.
"""

from __future__ import annotations

from msgpack import unpackb

from control_plane.defaults import replica_source, require_environment
from control_plane.errors import (
    NotFound,
    ReplicaBusy,
    ReplicaCorrupt,
    ReplicaInvalid,
    ReplicaUnavailable,
)
from control_plane.feature_flags.counting import Counts
from control_plane.registries.lookups import Lookups
from control_plane.registries.manifests import (
    ACTIVE,
    YANKED,
    Agent,
    CompatibilityReport,
    Listed,
    Loaded,
    Requirements,
    Tool,
    unresolved,
)
from control_plane.registries.notices import discourage
from control_plane.registries.ordering import order
from control_plane.registries.overrides import (
    CHANNEL_FLAG,
    STABLE,
    Moment,
    Settled,
    tailored,
)
from control_plane.replica.format import (
    AGENT,
    CHANNEL,
    DELETED,
    FLAG,
    NO_VALUE,
    RESOLUTION,
    STATUS,
    TOOL,
    decode_record,
    describe_key,
    record_key,
)
from control_plane.replica.header import FLAGS_REVISION, REGISTRY_REVISION, TOMBSTONE
from control_plane.usage.slots import DISCOURAGED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
    from os import PathLike
    from typing import Any, ParamSpec, Self, TypeVar, overload

    from control_plane.client import ControlPlaneClient
    from control_plane.defaults import ChosenSource, TrustedReplica
    from control_plane.feature_flags.flag_manager import FeatureFlagManager, PinnedFlags
    from control_plane.publish import Publisher, Release, Released
    from control_plane.registries.contracts import AsyncBoundTool, BoundTool
    from control_plane.registries.overrides import Applied
    from control_plane.registries.searching import Page
    from control_plane.replica.reader import Replica, View
    from control_plane.replica.resolution import Offered

    Known = Callable[[str, str, str | None], Loaded | None]
    P = ParamSpec("P")
    R = TypeVar("R")

KINDS = {"agent": AGENT, "tool": TOOL}
MAX_KEPT_VERSIONS = 4_096
MAX_CANDIDATES = 10_000
FIRST_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
ROUNDS = 10

_WORD = 8 * REGISTRY_REVISION
_FLAGS = 8 * FLAGS_REVISION
_TOMBSTONE = 8 * TOMBSTONE


def _unknown(kind: str, name: str, version: str | None) -> None:
    """Of a snapshot that is held nothing is known before it is read."""


class _Registry:
    """The calls that are alike for the newest generation and for a pinned one."""

    __slots__ = ("_counts",)

    _counts: Counts

    def _load(self, kind: str, name: str, version: str | None) -> Loaded:
        raise NotImplementedError

    def _tailored(
        self, loaded: Loaded, name: str, version: str | None, tenant_id: str | int | None
    ) -> tuple[Loaded, tuple[Applied, ...]]:
        """The version flags choose for a tenant and what they change in it."""
        raise NotImplementedError

    def _with_view(self, ask: Callable[[View], Any]) -> Any:
        raise NotImplementedError

    def _looked_up(self, kind: str, name: str, version: str | None, tenant_id: Any) -> Loaded:
        """The version as it was read, and counted where somebody tells of it."""
        return self._load(kind, name, version)

    def get_agent(
        self, name: str, version: str | None = None, tenant_id: str | None = None
    ) -> Agent:
        """The agent's version, or the one of its channel, as a copy of the caller's own.

        The channel is stable, or what the agent's ``channel_flag`` says for the tenant. Fields
        that the manifest calls ``overridable`` are as their flags say for the tenant; ``applied``
        tells what flags changed. A version that is deprecated or yanked is told of once.

        Raises:
            NotFound: names the nearest names, or the versions there are.
            ReplicaUnavailable: there is no replica, or several environments and none named.
        """
        loaded = self._looked_up("agent", name, version, tenant_id)
        if loaded.plain:
            return Agent(loaded, self._resolved)
        loaded, applied = self._handed(loaded, name, version, tenant_id)
        return Agent(loaded, self._resolved, applied)

    def get_tool(self, name: str, version: str | None = None, tenant_id: str | None = None) -> Tool:
        """The tool's version, or the one of its channel, as a copy of the caller's own.

        The channel is stable, or what the tool's ``channel_flag`` says for the tenant. A version
        that is deprecated or yanked is told of once.

        Raises:
            NotFound: names the nearest names, or the versions there are.
            ReplicaUnavailable: there is no replica, or several environments and none named.
        """
        loaded = self._looked_up("tool", name, version, tenant_id)
        if loaded.plain:
            return Tool(loaded)
        return Tool(*self._handed(loaded, name, version, tenant_id))

    def load_lock(self, path: str | PathLike[str], tenant_id: str | None = None) -> Agent:
        """The agent that a lock pins, with the lock's tools, once all of it is as it was pinned.

        The lock is verified against the trust this node follows: a key revoked there signs no more.

        Raises:
            TrustError, Refused, InputInvalid: the lock is changed, of a key that is not (or no
                longer) the agent's author's, or of another installation or environment.
            ChecksumMismatch, NotFound: the registry holds something else than was pinned.
            MissingExtra: verifying needs the extra ``publish``.
        """
        from control_plane.registries.lockfiles import read_lock
        from control_plane.registries.locking import check

        return check(self, read_lock(path, self.trust()), tenant_id)

    def trust(self) -> tuple[str, bytes, bytes]:
        """The log's origin, and the root and targets metadata in force, as the daemon keeps them.

        Raises:
            NotFound: the replica follows no log, as one made for tests.
        """
        keys = (b"origin", b"root", b"targets")
        origin, root, targets = self._with_view(lambda view: view.read_log(*keys))
        if origin is None or root is None or targets is None:
            raise NotFound("trust: expected a replica that follows a log, found one made otherwise")
        return origin.decode(), root, targets

    def flag_definition(self, name: str) -> dict[str, Any] | None:
        """A flag as this environment merges it, kills aside; None where there is none."""
        key = record_key(FLAG, name)
        found = self._with_view(lambda view: _body_of(view, key)).get("m")
        return found if isinstance(found, dict) else None

    def counts(self) -> dict[tuple[str, str], int]:
        """How often each (``kind/name@version``, deprecated or yanked) was handed out.

        Counted since the manager was made; the numbers only grow, whoever exports them keeps the
        last ones. Versions in use are not counted.
        """
        return self._counts.read()

    def list_agents(self) -> tuple[Listed, ...]:
        """Every agent with its published versions and channels, by name."""
        return tuple(self._with_view(lambda view: list(_listed(view, "agent"))))

    def list_tools(self) -> tuple[Listed, ...]:
        """Every tool with its published versions and channels, by name."""
        return tuple(self._with_view(lambda view: list(_listed(view, "tool"))))

    def search(
        self,
        kind: str,
        *,
        name: str | None = None,
        owner: str | None = None,
        category: str | None = None,
        capability: str | None = None,
        tag: str | None = None,
        text: str | None = None,
        channel: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Versions of agents or tools that say all this, by name and then by version.

        Args:
            kind: ``agent`` or ``tool``.
            name: a part of the name.
            owner, category, capability, tag: exactly as the manifest has it.
            text: words that are all in name, description, category, tags or capabilities.
            channel: only versions that this channel points to.
            limit: how many a page has, at most 1,000.
            cursor: the last page's.

        Raises:
            ValueError: another kind, limit or cursor than there can be.
            ReplicaUnavailable: there is no replica, or several environments and none named.
        """
        # Imported here: most processes never search.
        from control_plane.registries.searching import Wanted, search

        wanted = Wanted(name, owner, category, capability, tag, text, channel)
        found: Page = self._with_view(lambda view: search(view, kind, wanted, limit, cursor))
        return found

    def validate_tool_compatibility(
        self, tool: str | Tool, tools: Requirements | Iterable[str]
    ) -> CompatibilityReport:
        """Whether the agent asks for the tool and a version meets what it asks.

        With ``agent.tools`` the answer is the newest resolution of that agent's version. With a
        list of references (``crm_tool>=1.2,<2``) the published versions are compared here.

        Raises:
            MissingExtra: a list of references needs ``packaging``.
        """
        name = tool if isinstance(tool, str) else tool.name
        if isinstance(tools, str):
            raise TypeError(f"expected agent.tools or a list of references, found {tools!r}")
        if isinstance(tools, Requirements):
            asker, resolution = self._resolution(tools)
        else:
            asker, resolution = "the list", self._resolved_here(list(tools), name)
        return _report(name, asker, resolution)

    def _handed(
        self, loaded: Loaded, name: str, version: str | None, tenant_id: str | int | None
    ) -> tuple[Loaded, tuple[Applied, ...]]:
        """What is not plain: with what flags change, told of and counted where it should be."""
        applied: tuple[Applied, ...] = ()
        if loaded.asks_flags:
            loaded, applied = self._tailored(loaded, name, version, tenant_id)
        status = loaded.discouraged
        if status is not None:
            self._counts.count(loaded.reference, status)
            told = loaded.status
            # Frames: this one, get_agent or get_tool, its caller.
            discourage(loaded.reference, status, told.get("reason"), told.get("successor"), stack=3)
        return loaded, applied

    def _resolved(self, name: str, version: str) -> Tool:
        return Tool(self._load("tool", name, version))

    def _resolution(self, tools: Requirements) -> tuple[str, dict[str, dict[str, Any]]]:
        """The newest resolution for the agent behind ``tools``, or the one it was read with."""
        name, version = tools.agent
        asker = f"agent/{name}@{version}"
        try:
            return asker, self._load("agent", name, version).resolution
        except NotFound:
            return asker, tools.resolution

    def _resolved_here(self, references: list[str], name: str) -> dict[str, dict[str, Any]]:
        from control_plane.replica.resolution import parse_tool_reference, resolve

        mine = [entry for entry in references if parse_tool_reference(entry).name == name]
        document = {"metadata": {"tools": mine}}
        found: dict[str, dict[str, Any]] = self._with_view(
            lambda view: resolve(document, lambda tool: _offered(view, tool))
        )
        others = (parse_tool_reference(entry).name for entry in references)
        return found or unresolved(others)


class RegistryManager(_Registry):
    """Reads the agents and tools of one environment.

    Calls are safe from any thread and inside asyncio: none of them waits for another process.

    Args:
        client: share this client's replica; otherwise ``replica`` (a folder) and ``environment``
            choose one as `control_plane.defaults` says.
    """

    __slots__ = (
        "__weakref__",
        "_flags",
        "_lookups",
        "_owns_source",
        "_previous",
        "_revision",
        "_source",
        "_table",
        "_words",
    )

    def __init__(
        self,
        client: ControlPlaneClient | None = None,
        *,
        replica: str | PathLike[str] | None = None,
        environment: str | None = None,
    ) -> None:
        if client is not None and (replica is not None or environment is not None):
            raise TypeError("expected client or replica and environment, found both")
        self._owns_source = client is None
        self._source = client.source if client else replica_source(replica, environment)[0]
        self._flags: FeatureFlagManager | None = None if client is None else client.flags
        self._counts = Counts()
        self._lookups = Lookups()
        for word, counts in ((DISCOURAGED, self._counts), *self._lookups.told):
            self._source.usage.tell_of(self, word, counts)
        self._words = self._source.words
        self._table: dict[tuple[str, str, str | None], Loaded] = {}
        self._previous: dict[tuple[str, str, str | None], Loaded] = {}
        # No word of a header is negative: the first call always looks.
        self._revision = -1
        if client is not None:
            client.adopt(self)

    if TYPE_CHECKING:
        # A coroutine function is a function, too; the first that fits is meant.
        @overload
        def bind(  # type: ignore[overload-overlap]
            self,
            name: str,
            handler: Callable[P, Coroutine[Any, Any, R]],
            version: str | None = None,
            *,
            open_seconds: float = ...,
        ) -> AsyncBoundTool[P, R]: ...
        @overload
        def bind(
            self,
            name: str,
            handler: Callable[P, R],
            version: str | None = None,
            *,
            open_seconds: float = ...,
        ) -> BoundTool[P, R]: ...

    def bind(
        self,
        name: str,
        handler: Callable[..., Any],
        version: str | None = None,
        *,
        open_seconds: float = 30.0,
    ) -> Any:
        """The handler of a tool, held at every call to the contract in the tool's manifest.

        See `control_plane.registries.contracts` for what that is. Without ``version`` it follows
        channel ``stable``, from the next call on. ``open_seconds`` is how long a breaker that
        opened refuses calls.

        Raises:
            NotFound: there is no such tool or version, or the stable one was yanked.
            ManifestInvalid: the tool has no ``inputs_schema``; an MCP server has none.
            MissingExtra: without the packages of the extra ``contracts``.
        """
        from control_plane.registries.contracts import bound

        return bound(self._load, name, handler, version, open_seconds=open_seconds)

    def pinned_to(self, view: View, flags: PinnedFlags) -> PinnedRegistry:
        """The registry as a view shows it, with that view's flags; what it hands out counts."""
        return PinnedRegistry(view, flags, self._counts)

    # Writing goes to the store, through a publisher that brings address, token and keys.

    def batch(self, *, publisher: Publisher, reason: str = "") -> Release:
        """A release for this environment: gather what is to change, then ``submit`` it.

        Raises:
            MissingExtra: writing needs the extra ``publish``.
        """
        # Imported here: reading needs none of it.
        from control_plane.publish import Release

        return Release(publisher, require_environment(self._source), reason)

    def publish(
        self,
        manifest: Mapping[str, Any],
        channel: str | None = "stable",
        *,
        publisher: Publisher,
        reason: str = "",
    ) -> Released:
        """Publish a version and point the channel to it unless None; as `Release.publish`."""
        release = self.batch(publisher=publisher, reason=reason)
        release.publish(manifest, channel)
        return release.submit()

    def activate(
        self, target: str, channel: str = "stable", *, publisher: Publisher, reason: str = ""
    ) -> Released:
        """Point a channel to a version like ``tool/crm_tool@1.2.0``; as `Release.activate`."""
        release = self.batch(publisher=publisher, reason=reason)
        release.activate(target, channel)
        return release.submit()

    def deprecate(
        self, target: str, reason: str, successor: str | None = None, *, publisher: Publisher
    ) -> Released:
        """Say that a version should not be used any more; as `Release.deprecate`."""
        release = self.batch(publisher=publisher, reason=reason)
        release.deprecate(target, reason, successor)
        return release.submit()

    def yank(
        self, target: str, reason: str, successor: str | None = None, *, publisher: Publisher
    ) -> Released:
        """Say that a version must not be chosen any more; as `Release.yank`."""
        release = self.batch(publisher=publisher, reason=reason)
        release.yank(target, reason, successor)
        return release.submit()

    def delete(self, target: str, *, publisher: Publisher, reason: str = "") -> Released:
        """Delete a version and the channels that point to it; as `Release.delete`."""
        release = self.batch(publisher=publisher, reason=reason)
        release.delete(target)
        return release.submit()

    def close(self) -> None:
        """Let go of the replica, unless it is a client's."""
        if self._owns_source:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _looked_up(self, kind: str, name: str, version: str | None, tenant_id: Any) -> Loaded:
        is_current = self._words[_WORD] == self._revision
        was_kept = is_current and (kind, name, version) in self._table
        loaded = self._load(kind, name, version)
        self._lookups.count(kind, loaded.reference, was_kept, tenant_id)
        return loaded

    def _load(self, kind: str, name: str, version: str | None) -> Loaded:
        if self._words[_WORD] != self._revision:
            self.refresh()
        try:
            return self._table[kind, name, version]
        except KeyError:
            return self._read(kind, name, version)

    def refresh(self) -> None:
        """Let the next call read the replica again, whether its revision moved or not."""
        source = self._source
        source.usage.moved()
        replica = source.open()
        words = source.words
        revision = words[_WORD]
        swapped_away = words[_TOMBSTONE] != 0
        if swapped_away and words is self._words and self._revision == -1:
            # The folder was given up and the next cannot be opened yet: what is kept still holds.
            return
        # Table first, then revision: a reader between the two reads again, none keeps old data.
        self._previous, self._table = self._table or self._previous, {}
        self._words = words
        # Without a replica, or in one given up, every call looks again; the source sets the pace.
        self._revision = -1 if replica is None or swapped_away else revision

    def _tailored(
        self, loaded: Loaded, name: str, version: str | None, tenant_id: str | int | None
    ) -> tuple[Loaded, tuple[Applied, ...]]:
        flags = self._asked_flags()
        for _ in range(ROUNDS):
            moment = loaded.moment
            if (
                moment is None
                or moment.moved
                or moment.revision != self._words[_FLAGS]
                or moment.overridden is not flags.overridden
            ):
                before, loaded = loaded, self._read(loaded.kind, name, version)
                moment = loaded.moment
                if moment is None:
                    # Published anew meanwhile, as one that asks no flag.
                    return loaded, ()
                if loaded is before:
                    # What moved cannot be read now: the last good answer stands.
                    return tailored(loaded, moment, tenant_id)
            answer = tailored(loaded, moment, tenant_id)
            if not moment.moved:
                return answer
        # A writer that outruns one read after another moves no snapshot that is held.
        kind = loaded.kind
        found: tuple[Loaded, tuple[Applied, ...]] = self._with_view(
            lambda view: _pinned(view, flags.pinned_to(view), kind, name, version, tenant_id)
        )
        return found

    def _read(self, kind: str, name: str, version: str | None) -> Loaded:
        """Read one version and keep it in the table captured before the snapshot."""
        table, previous = self._table, self._previous
        # Before the snapshot, too: its flags are at least this new.
        flags_revision = self._words[_FLAGS]

        def known(kind: str, name: str, version: str | None) -> Loaded | None:
            return table.get((kind, name, version)) or previous.get((kind, name, version))

        replica = self._opened()
        try:
            with replica.view() as view:
                loaded = read_version(view, kind, name, version, known)
                txn_id = view.txn_id
        except (ReplicaBusy, ReplicaInvalid) as error:
            last = known(kind, name, version)
            if last is None:
                raise
            loaded = last
            if isinstance(error, ReplicaBusy):
                return loaded
            # What is damaged stays so until something moves; kept, its last good version outlives
            # moves that do not mend it.
        else:
            if loaded.asks_flags:
                self._attach(loaded, replica, txn_id, flags_revision)
        if len(table) >= MAX_KEPT_VERSIONS:
            table.clear()
        table[kind, name, version] = loaded
        if loaded.channels is None:
            table[kind, name, loaded.document["version"]] = loaded
        return loaded

    def _attach(
        self, loaded: Loaded, replica: Replica | TrustedReplica, txn_id: int, flags_revision: int
    ) -> None:
        """Give the version flags of its own transaction."""
        flags = self._asked_flags()
        moment = Moment(txn_id, flags_revision, flags.overridden, replica.get)
        # A moment reads records as a view does; more is not asked of it.
        moment.flags = flags.pinned_to(moment)  # type: ignore[arg-type]
        loaded.moment = moment

    def _asked_flags(self) -> FeatureFlagManager:
        """The client's flags, or some that share this registry's replica."""
        if self._flags is None:
            # Imported here: most registries of their own ask no flag.
            from control_plane.feature_flags.flag_manager import FeatureFlagManager

            self._flags = FeatureFlagManager(_Sharing(self._source))
        return self._flags

    def _with_view(self, ask: Callable[[View], Any]) -> Any:
        with self._opened().view() as view:
            return ask(view)

    def _opened(self) -> Replica | TrustedReplica:
        replica = self._source.open()
        if replica is None:
            require_environment(self._source)
            raise ReplicaUnavailable(str(self._source.error))
        return replica


class _Sharing:
    """What flags need of a client, for a registry that has none."""

    __slots__ = ("source",)

    def __init__(self, source: ChosenSource) -> None:
        self.source = source

    def adopt(self, manager: object) -> None:
        """Nobody waits for these flags or closes them: the source is the registry's."""


class PinnedRegistry(_Registry):
    """The agents and tools of one generation, read through a pinned view.

    ``flags`` are those of the view, and ``counts`` the manager's; without them flags are asked
    uncounted, and versions are counted here.
    """

    __slots__ = ("_flags", "_view")

    def __init__(
        self, view: View, flags: PinnedFlags | None = None, counts: Counts | None = None
    ) -> None:
        self._view = view
        self._flags = flags
        self._counts = Counts() if counts is None else counts

    def _load(self, kind: str, name: str, version: str | None) -> Loaded:
        return read_version(self._view, kind, name, version)

    def _tailored(
        self, loaded: Loaded, name: str, version: str | None, tenant_id: str | int | None
    ) -> tuple[Loaded, tuple[Applied, ...]]:
        if self._flags is None:
            from control_plane.feature_flags.flag_manager import PinnedFlags
            from control_plane.feature_flags.table import Library

            self._flags = PinnedFlags(Library(), self._view, None)
        return tailored(loaded, Settled(self._flags), tenant_id)

    def _with_view(self, ask: Callable[[View], Any]) -> Any:
        return ask(self._view)


def read_version(
    view: View,
    kind: str,
    name: str,
    version: str | None,
    known: Known = _unknown,
) -> Loaded:
    """One version with its status and resolution; ``known`` saves parsing what did not change.

    Raises:
        NotFound: no such name or version, or no stable one that is not yanked.
    """
    if not isinstance(name, str) or not (version is None or isinstance(version, str)):
        raise TypeError(f"expected name and version as str, found {name!r} and {version!r}")
    try:
        record_key(KINDS[kind], name, version or "")
    except ValueError as error:
        # NUL or a lone surrogate. Names come from requests: this one is unknown, not an error.
        wanted = ascii(name if version is None else f"{name}@{version}")
        raise NotFound(f"{kind}/{wanted}: expected a published {kind}, found none") from error
    if version is None:
        return _of_channel(view, kind, name, known)
    return _of_version(view, kind, name, version, known)


def _of_channel(view: View, kind: str, name: str, known: Known) -> Loaded:
    """The stable version, with those of other channels where its flag may choose one."""
    version = _channel(view, kind, name, STABLE)
    if version is None:
        raise _not_found(view, kind, name, None)
    stable = _of_version(view, kind, name, version, known)
    if stable.status.get("status") == YANKED:
        raise _yanked(stable)
    if CHANNEL_FLAG not in stable.document["metadata"]:
        return stable
    channels = {}
    for channel, pointed in channels_of(view, kind, name).items():
        if channel == STABLE:
            continue
        try:
            other = _of_version(view, kind, name, pointed, known)
        except NotFound:
            # Deleted, or held back on this node: nobody is sent there, and stable is not harmed.
            continue
        if other.status.get("status") != YANKED:
            channels[channel] = other
    stable.offer(channels)
    return stable


def _of_version(view: View, kind: str, name: str, version: str, known: Known) -> Loaded:
    key = record_key(KINDS[kind], name, version)
    raw = view.read(key)[0]
    record = None if raw is None else decode_record(key, raw)
    if record is None or record.status == DELETED:
        raise _not_found(view, kind, name, version)
    if record.status == NO_VALUE:
        raise NotFound(
            f"{kind}/{name}@{version}: expected a version this node accepted, found one held "
            "back; see control-plane status"
        )
    before = known(kind, name, version)
    document = (
        before.document if before and before.hash == record.hash else _parsed(key, record.body)
    )
    status = _body_of(view, record_key(STATUS, kind, name, version))
    return Loaded(kind, record, document, status, _resolution(view, kind, document))


def _resolution(view: View, kind: str, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was found for each tool of an agent; a tool asks for none."""
    if kind != "agent":
        return {}
    found = _body_of(view, record_key(RESOLUTION, document["name"], document["version"]))
    return found or unresolved(document["metadata"].get("tools", ()))


def _pinned(
    view: View,
    flags: PinnedFlags,
    kind: str,
    name: str,
    version: str | None,
    tenant_id: str | int | None,
) -> tuple[Loaded, tuple[Applied, ...]]:
    """The version a tenant gets, all of one snapshot that is held."""
    loaded = read_version(view, kind, name, version)
    return tailored(loaded, Settled(flags), tenant_id)


def channels_of(view: View, kind: str, name: str) -> dict[str, str]:
    """The live channels of one name, and the version each points to."""
    prefix = record_key(CHANNEL, kind, name, "")
    channels = {}
    for key, raw in view.scan(prefix):
        version = _body(key, raw).get("version")
        if version is not None:
            channels[key[len(prefix) :].decode()] = version
    return channels


def _yanked(stable: Loaded) -> NotFound:
    reason, successor = stable.status.get("reason"), stable.status.get("successor")
    why = f" ({reason})" if reason else ""
    instead = f" {successor}" if successor else " another version"
    name = stable.document["name"]
    return NotFound(
        f"{stable.kind}/{name}: expected a version on channel {STABLE} that is not yanked, found "
        f"{stable.document['version']}{why}; activate{instead}, or pass version="
    )


def _channel(view: View, kind: str, name: str, channel: str) -> str | None:
    return _body_of(view, record_key(CHANNEL, kind, name, channel)).get("version")


def _body_of(view: View, key: bytes) -> dict[str, Any]:
    return _body(key, view.read(key)[0])


def _body(key: bytes, raw: bytes | None) -> dict[str, Any]:
    """The mapping in a record; empty without one, after a deletion, or before the first value."""
    if raw is None:
        return {}
    record = decode_record(key, raw)
    if record.status in (DELETED, NO_VALUE):
        return {}
    try:
        body = unpackb(record.body)
    except ValueError as error:
        raise _malformed(key, repr(error)) from error
    if not isinstance(body, dict):
        raise _malformed(key, type(body).__name__)
    return body


def _parsed(key: bytes, blob: bytes) -> dict[str, Any]:
    # Loaded here: a process that reads flags only never needs it.
    from json import loads

    try:
        document = loads(blob)
    except ValueError as error:
        raise _malformed(key, repr(error)) from error
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        raise _malformed(key, "another value")
    return document


def _malformed(key: bytes, found: str) -> ReplicaCorrupt:
    return ReplicaCorrupt(
        f"{describe_key(key)}: expected a document, found {found}; "
        "run 'control-plane replica verify'"
    )


def _not_found(view: View, kind: str, name: str, version: str | None) -> NotFound:
    versions = _versions(view, kind, name)
    if versions and version is None:
        return NotFound(
            f"{kind}/{name}: expected a version on channel {STABLE}, found none; activate one of "
            f"{', '.join(versions)}, or pass version="
        )
    if versions:
        return NotFound(
            f"{kind}/{name}: expected one of versions {', '.join(versions)}, found {version}"
        )
    from difflib import get_close_matches

    nearest = get_close_matches(name.lower(), list(dict.fromkeys(_channel_names(view, kind))), n=3)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return NotFound(f"{kind}/{name}: expected a published {kind}, found none{hint}")


def _versions(view: View, kind: str, name: str) -> list[str]:
    """The published versions of one name, oldest first."""
    prefix = bytes((KINDS[kind],)) + name.encode() + b"\0"
    found = view.scan(prefix)
    return sorted((key[len(prefix) :].decode() for key, raw in found if _live(key, raw)), key=order)


def _offered(view: View, tool: str) -> Offered:
    """What there is of a tool, for a resolution made here."""
    from hashlib import sha256

    from control_plane.replica.resolution import Offered

    versions, statuses = {}, {}
    for version in _versions(view, "tool", tool):
        loaded = read_version(view, "tool", tool, version)
        versions[version] = sha256(loaded.blob).hexdigest()
        statuses[version] = loaded.status.get("status", ACTIVE)
    return Offered(versions, statuses, _channel(view, "tool", tool, STABLE))


def _listed(view: View, kind: str) -> Iterator[Listed]:
    """Every name of a kind. Records come with their bodies, so they are taken in 36 portions."""
    channels: dict[str, dict[str, str]] = {}
    prefix = bytes((CHANNEL,)) + kind.encode() + b"\0"
    for key, raw in view.scan(prefix):
        name, channel = key[len(prefix) :].decode().split("\0")
        version = _body(key, raw).get("version")
        if version is not None:
            channels.setdefault(name, {})[channel] = version
    for first in FIRST_CHARACTERS:
        versions: dict[str, list[str]] = {}
        for key, raw in view.scan(bytes((KINDS[kind],)) + first.encode()):
            if _live(key, raw):
                name, version = key[1:].decode().split("\0")
                versions.setdefault(name, []).append(version)
        for name, found in versions.items():
            yield Listed(name, tuple(sorted(found, key=order)), channels.get(name, {}))


def _channel_names(view: View, kind: str) -> Iterator[str]:
    prefix = bytes((CHANNEL,)) + kind.encode() + b"\0"
    for key, raw in view.scan(prefix, MAX_CANDIDATES):
        if _body(key, raw):
            yield key[len(prefix) :].split(b"\0")[0].decode()


def _live(key: bytes, raw: bytes) -> bool:
    return decode_record(key, raw).status not in (DELETED, NO_VALUE)


def _report(name: str, asker: str, resolution: dict[str, dict[str, Any]]) -> CompatibilityReport:
    found = resolution.get(name)
    if found is None:
        asked = ", ".join(resolution) or "no tool"
        problem = f"tool/{name}: expected {asker} to ask for it, found {asked}"
        return CompatibilityReport(name, None, (problem,))
    if found["version"] is None or found["problem"]:
        problem = found["problem"] or f"tool/{name}: expected a version, found none"
        return CompatibilityReport(name, None, (problem,))
    return CompatibilityReport(name, found["version"], ())
