"""Configuration as an application reads it: ``ConfigManager``.

- A value is read from the replica on first use and kept, per tenant and key, until the replica's
  configuration revision moves. Then the kept values go as a whole: table first, then revision, and
  a value read meanwhile goes into the table that was captured before its snapshot.
- What a caller gets is the caller's: mappings and lists are copied on the way out.
- While a moved revision cannot be read (the writer keeps moving, a record is damaged), the value
  kept before stays the answer.
- Without any replica a call with a default gives the default and one warning is logged; a call
  without one raises. Not knowing *which* environment is meant is always an error.
- Process overrides (``CONTROL_PLANE__DATABASE__URL``) count only when the manager was made with
  ``allow_environment_overrides=True``, and stand above every layer of every tenant.
"""

from __future__ import annotations

from control_plane.configs.layers import path_of, weight
from control_plane.configs.merged import (
    ABSENT,
    key_not_found,
    leaf_keys,
    leaf_value,
    merged_value,
)
from control_plane.configs.overrides import overridden
from control_plane.copies import fresh
from control_plane.defaults import config_overrides, replica_source, require_environment
from control_plane.errors import ReplicaBusy, ReplicaInvalid, ReplicaUnavailable
from control_plane.feature_flags.counting import Counts
from control_plane.replica.header import CONFIG_REVISION, TOMBSTONE
from control_plane.usage.slots import CONFIG_READS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike
    from typing import Any, Self, TypeVar

    from control_plane.client import ControlPlaneClient
    from control_plane.configs.binding import Binding
    from control_plane.configs.changes import Changes
    from control_plane.configs.origin import Origin
    from control_plane.configs.views import Section, Snapshot
    from control_plane.configs.watch import Change, Watch, Watcher
    from control_plane.defaults import ChosenSource, TrustedReplica
    from control_plane.replica.reader import Replica, View

    Key = str | tuple[str, ...]
    Model = TypeVar("Model")

MAX_KEPT_VALUES = 65_536
"""Values one manager keeps; past it the table starts again, so tenants cannot fill the memory."""

MAX_KEPT_WEIGHT = 64 << 20
"""About the bytes of them, keys included: an unknown tenant's large value is kept once more."""

MAX_TENANT_BYTES = 128
"""What the formats allow in a stored tenant."""

NOWHERE = "."
"""The path of the keys "" and "": no namespace is called so, and nothing is there."""

_WORD = 8 * CONFIG_REVISION
_TOMBSTONE = 8 * TOMBSTONE


class Kept:
    """A kept answer that is not returned as it stands: a container to copy, or no value."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class ConfigManager:
    """Reads the merged configuration of one environment, and of others by name.

    Calls are safe from any thread and inside asyncio: none of them waits for another process.

    Args:
        client: share this client's replica; otherwise ``replica`` (a folder) and ``environment``
            choose one as `control_plane.defaults` says.
        allow_environment_overrides: let ``CONTROL_PLANE__DATABASE__URL`` stand for
            ``database.url``. The variables are read once, here.
    """

    __slots__ = (
        "__weakref__",
        "_counts",
        "_environment",
        "_kept_weight",
        "_others",
        "_owns_source",
        "_previous",
        "_reads",
        "_replica_root",
        "_revision",
        "_source",
        "_table",
        "_warned",
        "_watcher",
        "_words",
        "overrides",
    )

    def __init__(
        self,
        client: ControlPlaneClient | None = None,
        *,
        replica: str | PathLike[str] | None = None,
        environment: str | None = None,
        allow_environment_overrides: bool = False,
    ) -> None:
        if client is not None and (replica is not None or environment is not None):
            raise TypeError("expected client or replica and environment, found both")
        self.overrides = config_overrides() if allow_environment_overrides else {}
        self._others: dict[str, ConfigManager] = {}
        self._watcher: Watcher | None = None
        self._warned = False
        self._replica_root = replica if client is None else client.replica
        if client is not None:
            self._read_from(client.source, client.environment, owns=False)
            client.adopt(self)
        else:
            self._read_from(*replica_source(replica, environment), owns=True)

    def _read_from(self, source: ChosenSource, environment: str | None, *, owns: bool) -> None:
        self._source = source
        self._environment = environment
        self._owns_source = owns
        self._words = source.words
        self._table: dict[tuple[str | None, Key], Any] = {}
        self._previous: dict[tuple[str | None, Key], Any] = {}
        self._kept_weight = 0
        self._counts = Counts()
        self._reads = self._counts.counter("", "", "", None)
        source.usage.tell_of(self, CONFIG_READS, self._counts)
        # No word of a header is negative: the first call always looks.
        self._revision = -1

    @property
    def environment(self) -> str | None:
        """The environment read when a call names none; None while that is undecided."""
        return self._environment or self._source.environment

    def get(
        self,
        key: Key,
        default: Any = ABSENT,
        environment: str | None = None,
        tenant_id: str | None = None,
    ) -> Any:
        """The merged value of a key, or the mapping of everything below it.

        Args:
            key: keys joined by dots, or a tuple for a key that itself holds a dot.
            default: what a key without a value gives; without it such a key raises.
            environment: read this environment instead of the manager's.
            tenant_id: lay this tenant's values over the base; an unknown tenant has the base's.

        Raises:
            KeyNotFoundError: no value and no default; names the nearest keys.
            ReplicaUnavailable: no replica and no default, or several environments and none named.
        """
        if environment is not None:
            return self._of(environment).get(key, default, None, tenant_id)
        if self._words[_WORD] != self._revision:
            self.refresh()
        try:
            next(self._reads)
        except StopIteration:
            # One in 1,024, see `control_plane.feature_flags.counting`.
            self._counts.count("", "")
            self._reads = self._counts.counter("", "", "", None)
        try:
            value = self._table[tenant_id, key]
        except (KeyError, TypeError):
            value = self._load(tenant_id, key)
        if value.__class__ is not Kept:
            return value
        if value.value is not ABSENT:
            return fresh(value.value)
        return self._without_value(key, default)

    def section(self, prefix: Key, tenant_id: str | None = None) -> Section:
        """A read-only mapping of what is below ``prefix``: of one generation, read at first use.

        Its ``get`` takes keys as this class's does, relative to the prefix.
        """
        from control_plane.configs.views import Section

        _checked_tenant(tenant_id)
        return Section(self, checked_path(prefix), tenant_id)

    def snapshot(self, prefix: Key = (), tenant_id: str | None = None) -> Snapshot:
        """Everything below ``prefix``, all there is without one, as a mapping of one generation.

        It cannot be changed and does not change; ``.generation`` is its generation.

        Raises:
            ReplicaUnavailable: no replica, or several environments and none named.
        """
        from control_plane.configs.views import Snapshot

        path, tenant = _checked_prefix(prefix), _checked_tenant(tenant_id)
        replica = self._source.open()
        if replica is None:
            require_environment(self._source)
            raise ReplicaUnavailable(str(self._source.error))
        with replica.view() as view:
            generation = view.generation
            tree = self._overridden(path, merged_value(view, path, tenant))
        mapping = tree if isinstance(tree, dict) else {}
        return Snapshot(mapping, generation, self.environment, tenant_id)

    def bind(
        self, model: type[Model], prefix: Key = (), tenant_id: str | None = None
    ) -> Binding[Model]:
        """An instance of a dataclass or pydantic model, made of what is below ``prefix``.

        The instance is ``.value`` of what is returned, always of one generation; when the values
        change, a new one takes its place as a whole. Values that do not fit leave the last good
        instance and are reported. Without a prefix the fields are namespaces.

        Raises:
            SettingsInvalid: the values there are now do not fit; says where, expected and found.
            KeyNotFoundError: nothing is below the prefix.
            ReplicaUnavailable: no replica, or several environments and none named.
            TypeError: the class is neither, or has a field of a type that no rule converts to.
        """
        from control_plane.configs.binding import Binding

        return Binding(self, model, _checked_prefix(prefix), _checked_tenant(tenant_id))

    def origin(
        self, key: Key, environment: str | None = None, tenant_id: str | None = None
    ) -> Origin:
        """Which layer, manifest and change the value of a key comes from; see `Origin`.

        Raises:
            KeyNotFoundError: no value, or a mapping: each of its values has an origin of its own.
            ReplicaUnavailable: no replica, or several environments and none named.
        """
        if environment is not None:
            return self._of(environment).origin(key, None, tenant_id)
        from control_plane.configs.origin import origin_of

        path, tenant = checked_path(key), _checked_tenant(tenant_id)
        replica = self._source.open()
        if replica is None:
            require_environment(self._source)
            raise ReplicaUnavailable(str(self._source.error))
        with replica.view() as view:
            return origin_of(view, path, tenant, self.environment or "", self.overrides)

    def load_environment(self, name: str) -> None:
        """Read ``name`` from now on; watches stay with the environment they were made in."""
        trusted = self._source.requires_trusted
        source, environment = replica_source(self._replica_root, name, trusted)
        if self._owns_source and self._watcher is not None:
            # Its watches still read the old source; the watcher closes it with itself.
            self._watcher.keep(self._source)
        elif self._owns_source:
            self._source.close()
        self._read_from(source, environment, owns=True)

    def watch(
        self,
        prefix: Key,
        callback: Callable[[Change], object],
        tenant_id: str | None = None,
    ) -> Watch:
        """Call ``callback(change)`` once per generation that changed the value under ``prefix``.

        Never at registration. Generations that pass between two looks come as one change from the
        last value seen to the newest. Calls come one after another, in the order of generations,
        from one thread that starts with the first watch; an exception from a callback is logged
        and disturbs nobody. A forked child inherits the watches and has such a thread, too.
        """
        path, tenant = _checked_prefix(prefix), _checked_tenant(tenant_id)
        require_environment(self._source)
        return self._watching().add(self._source, path, prefix, tenant, callback)

    def changes(self, prefix: Key, tenant_id: str | None = None) -> Changes:
        """The changes of the value under ``prefix``: ``async for change in config.changes(…)``.

        As `watch`, from this call on, in the running event loop; no thread for each iterator.
        """
        from control_plane.configs.changes import Changes

        path, tenant = _checked_prefix(prefix), _checked_tenant(tenant_id)
        require_environment(self._source)
        watcher, source = self._watching(), self._source
        return Changes(lambda put, end: watcher.add(source, path, prefix, tenant, put, end))

    def close(self) -> None:
        """Stop the watches and let go of the replica; a value not kept reads as absent then."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        for other in self._others.values():
            other.close()
        self._others.clear()
        if self._owns_source:
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watching(self) -> Watcher:
        if self._watcher is None:
            from control_plane.configs.watch import Watcher

            self._watcher = Watcher(self)
        return self._watcher

    def _of(self, environment: str) -> ConfigManager:
        """The manager that reads ``environment``: this one or a companion made once."""
        if environment == self.environment:
            return self
        try:
            return self._others[environment]
        except KeyError:
            other = ConfigManager(replica=self._replica_root, environment=environment)
            # What was required of this manager's replicas is required of this one, too.
            other._source.requires_trusted = self._source.requires_trusted
            other.overrides = self.overrides
            # Two threads may both make one; the first to arrive is kept by both.
            return self._others.setdefault(environment, other)

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
        self._kept_weight = 0
        self._words = words
        # Without a replica, or in one given up, every call looks again; the source sets the pace.
        self._revision = -1 if replica is None or swapped_away else revision
        if source is not self._source:
            # `load_environment` went by in another thread: these words are of the other one.
            self._revision = -1

    def _load(self, tenant_id: str | None, key: Key) -> Any:
        """Read one value and keep it in the table captured before the read."""
        table = self._table
        tenant, path = _checked_tenant(tenant_id), checked_path(key)
        if not tenant and tenant_id is not None:
            # No replica holds it: it has the base's values, and its own text is not kept.
            tenant_id = None
            if (None, key) in table:
                return table[None, key]
        replica = self._source.open()
        if replica is None:
            require_environment(self._source)
            return Kept(self._overridden(path, ABSENT))
        try:
            value = self._overridden(path, _read(replica, path, tenant))
        except ReplicaUnavailable:
            if self._source.open() is not None:
                raise
            # Refused or closed while it was read: as if it had been so before.
            return Kept(self._overridden(path, ABSENT))
        except (ReplicaBusy, ReplicaInvalid) as error:
            value = self._previous.get((tenant_id, key), ABSENT)
            if value is ABSENT:
                raise
            if isinstance(error, ReplicaBusy):
                return value
            # What is damaged stays so until something moves; kept, its last good value outlives
            # moves that do not mend it.
        if value is ABSENT or isinstance(value, (dict, list)):
            value = Kept(value)
        # Two threads may both have added, or emptied it: then it is a little more, or less.
        self._kept_weight += weight(path) + weight(value.value if type(value) is Kept else value)
        if len(table) >= MAX_KEPT_VALUES or self._kept_weight > MAX_KEPT_WEIGHT:
            table.clear()
            self._kept_weight = 0
        table[tenant_id, key] = value
        return value

    def _without_value(self, key: Key, default: Any) -> Any:
        replica = self._source.open()
        if replica is None and not self._warned:
            self._warned = True
            import logging

            from control_plane.shown import shown

            log = logging.getLogger("control_plane")
            error = shown(self._source.error)
            log.warning("configuration has no replica and gives defaults: %s", error)
        if default is not ABSENT:
            return default
        if replica is None:
            raise ReplicaUnavailable(str(self._source.error))
        with replica.view() as view:
            raise key_not_found(view, path_of(key), self.environment or "")

    def _overridden(self, path: str, value: Any) -> Any:
        return overridden(self.overrides, path, value) if self.overrides else value


class PinnedConfig:
    """The configuration of one generation, read through a pinned view."""

    __slots__ = ("_environment", "_view", "overrides")

    def __init__(
        self, view: View, environment: str, overrides: Mapping[tuple[str, ...], str]
    ) -> None:
        self._view = view
        self._environment = environment
        self.overrides = overrides

    def get(
        self,
        key: Key,
        default: Any = ABSENT,
        environment: str | None = None,
        tenant_id: str | None = None,
    ) -> Any:
        """As `ConfigManager.get`, of the pinned generation.

        Raises:
            KeyNotFoundError: no value and no default.
            ViewExpired: the view outlived the grace period.
            ValueError: another environment is named; generations of two are not comparable.
        """
        self._check(environment)
        path, tenant = checked_path(key), _checked_tenant(tenant_id)
        value = overridden(self.overrides, path, merged_value(self._view, path, tenant))
        if value is not ABSENT:
            return value
        if default is not ABSENT:
            return default
        raise key_not_found(self._view, path_of(key), self._environment)

    def section(self, prefix: Key, tenant_id: str | None = None) -> Section:
        """As `ConfigManager.section`, of the pinned generation."""
        from control_plane.configs.views import Section

        return Section(self, checked_path(prefix), tenant_id)

    def origin(
        self, key: Key, environment: str | None = None, tenant_id: str | None = None
    ) -> Origin:
        """As `ConfigManager.origin`, of the pinned generation.

        Raises:
            KeyNotFoundError: no value, or a mapping: each of its values has an origin of its own.
            ViewExpired: the view outlived the grace period.
            ValueError: another environment is named; generations of two are not comparable.
        """
        from control_plane.configs.origin import origin_of

        self._check(environment)
        path, tenant = checked_path(key), _checked_tenant(tenant_id)
        return origin_of(self._view, path, tenant, self._environment, self.overrides)

    def _check(self, environment: str | None) -> None:
        if environment not in (None, self._environment):
            raise ValueError(f"expected environment {self._environment}, found {environment}")


def _read(replica: Replica | TrustedReplica, path: str, tenant: str) -> object:
    """A leaf by one short read; a tree by one view, so that it is of one generation."""
    keys = leaf_keys(path, tenant)
    value = leaf_value(keys, replica.read(*keys)[1])
    if value is not ABSENT:
        return value
    with replica.view() as view:
        return merged_value(view, path, tenant)


def checked_path(key: Key) -> str:
    """The path of a key, ``NOWHERE`` for one that no document can hold.

    Raises:
        TypeError: it is neither str nor a tuple of them.
    """
    if not isinstance(key, str) and not (
        isinstance(key, tuple) and key and all(isinstance(part, str) for part in key)
    ):
        raise TypeError(f"expected a key as str or as a tuple of one or more str, found {key!r}")
    path = path_of(key)
    # Keys come from requests, too: what is odd about one makes it unknown, not an error.
    return path if path and _is_unicode(path) else NOWHERE


def _checked_prefix(prefix: Key) -> str:
    """The path of a prefix; empty for the empty one, which every key is below."""
    return "" if prefix in ((), "") else checked_path(prefix)


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold it: a lone surrogate is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_tenant(tenant_id: str | None) -> str:
    """The tenant whose records to look for; empty for one that no replica can hold."""
    if tenant_id is None:
        return ""
    if not isinstance(tenant_id, str):
        raise TypeError(f"expected tenant_id as str or None, found {type(tenant_id).__name__}")
    # Tenants come from requests: one that is odd is unknown, not an error.
    storable = _is_unicode(tenant_id) and len(tenant_id.encode()) <= MAX_TENANT_BYTES
    return tenant_id if storable and "\0" not in tenant_id else ""
