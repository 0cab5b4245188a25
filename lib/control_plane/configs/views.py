"""Configuration as mappings that cannot be changed, each of one generation.

- A section is nothing until it is first asked; then everything below its prefix is read at once
  from one snapshot, and every later answer is of that generation. A section that is to follow
  changes is taken anew, which costs nothing. For another tenant a section reads once more, then.
- A snapshot is everything there is, read when it is taken.
- Mappings inside are such views too; a list is copied when it is asked for.

To read one key of a large namespace, use ``get``: a section reads all that is below its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from control_plane.configs.layers import decode_path, path_of, written
from control_plane.configs.merged import ABSENT
from control_plane.copies import fresh
from control_plane.errors import KeyNotFoundError

if TYPE_CHECKING:
    from typing import Protocol

    Key = str | tuple[str, ...]

    class Config(Protocol):
        """What a section reads: a manager, or a pinned view of one."""

        def get(
            self,
            key: Key,
            default: Any = ...,
            environment: str | None = None,
            tenant_id: str | None = None,
        ) -> Any: ...


class Values(Mapping[str, Any]):
    """A mapping of one generation; the mappings inside are such views, lists are copies."""

    __slots__ = ("_tree",)

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree

    def __getitem__(self, key: str) -> Any:
        return _shown(self._tree[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain nested dict of the caller's own."""
        tree: dict[str, Any] = fresh(self._tree)
        return tree

    def __repr__(self) -> str:
        # The values stay out: they may be private, and representations end in logs.
        return f"<{type(self).__name__} of {len(self._tree)} keys>"


class Snapshot(Values):
    """The whole configuration of one environment, for one tenant, at one generation."""

    __slots__ = ("environment", "generation", "tenant_id")

    def __init__(
        self, tree: dict[str, Any], generation: int, environment: str | None, tenant_id: str | None
    ) -> None:
        super().__init__(tree)
        self.generation = generation
        self.environment = environment
        self.tenant_id = tenant_id


class Section(Mapping[str, Any]):
    """A part of the configuration, its keys relative to a prefix; see the module."""

    __slots__ = ("_config", "_prefix", "_tenant", "_trees")

    def __init__(self, config: Config, prefix: str, tenant_id: str | None = None) -> None:
        self._config = config
        self._prefix = decode_path(prefix) if prefix else ()
        self._tenant = tenant_id
        self._trees: dict[str | None, dict[str, Any]] = {}

    def get(
        self,
        key: Key,
        default: Any = ABSENT,
        environment: str | None = None,
        tenant_id: str | None = None,
    ) -> Any:
        """As `ConfigManager.get`, below the section's prefix and of the section's generation.

        Another environment has other generations: it is read as it is now.
        """
        keys = decode_path(path_of(key))
        whole = self._prefix + keys
        if environment is not None:
            return self._config.get(whole, default, environment, tenant_id)
        value: Any = self._read(tenant_id)
        for step in keys:
            if not isinstance(value, dict) or step not in value:
                return self._without_value(whole, default, tenant_id)
            value = value[step]
        return fresh(value)

    def section(self, prefix: Key) -> Section:
        """A section of this section, read for itself."""
        below = path_of(self._prefix + decode_path(path_of(prefix)))
        return Section(self._config, below, self._tenant)

    def __getitem__(self, key: str) -> Any:
        return _shown(self._read(None)[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._read(None))

    def __len__(self) -> int:
        return len(self._read(None))

    def __repr__(self) -> str:
        return f"<Section of {'.'.join(self._prefix) or 'everything'}>"

    def _read(self, tenant_id: str | None) -> dict[str, Any]:
        tenant = self._tenant if tenant_id is None else tenant_id
        tree = self._trees.get(tenant)
        if tree is None:
            found = self._config.get(self._prefix, {}, None, tenant)
            # Two threads may both have read: the first to arrive counts for both.
            tree = self._trees.setdefault(tenant, found if isinstance(found, dict) else {})
        return tree

    def _without_value(self, keys: tuple[str, ...], default: Any, tenant_id: str | None) -> Any:
        if default is not ABSENT:
            return default
        # It names the nearest keys of now; a value that came since is not this generation's.
        self._config.get(keys, ABSENT, None, self._tenant if tenant_id is None else tenant_id)
        key = written(path_of(keys))
        raise KeyNotFoundError(
            f"config {key}: expected a key with a value when the section was first used, found "
            "none; take a new section",
            key,
        )


def _shown(value: Any) -> Any:
    return Values(value) if type(value) is dict else fresh(value)
