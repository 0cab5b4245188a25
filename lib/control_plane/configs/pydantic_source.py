"""The replica as a source of pydantic-settings, beside environment variables and files.

    class Settings(BaseSettings):
        url: str

        @classmethod
        def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **_):
            source = ControlPlaneSettingsSource(settings_cls, config, prefix="database")
            return init_settings, env_settings, source

The source gives what is below the prefix, from one snapshot, when an instance is made; sources
before it win field by field and, as pydantic-settings merges mappings, key by key. Keys without a
field are left out, whatever ``extra`` says: a new key may be published before the code that reads
it. An instance does not follow changes; ``config.bind`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from control_plane.errors import MissingExtra

try:
    from pydantic import AliasChoices, AliasPath
    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
except ModuleNotFoundError as error:
    raise MissingExtra.of(error.name, "pydantic") from error

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from control_plane.configs.settings import ConfigManager, Key


class ControlPlaneSettingsSource(PydanticBaseSettingsSource):
    """Gives a settings class the configuration below a prefix.

    Args:
        settings_cls: the class whose instance is made.
        config: the manager that reads.
        prefix: as for ``config.get``; without one the fields are namespaces.
        tenant_id: lay this tenant's values over the base.
    """

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        config: ConfigManager,
        prefix: Key = (),
        tenant_id: str | None = None,
    ) -> None:
        super().__init__(settings_cls)
        self._config = config
        self._prefix = prefix
        self._tenant_id = tenant_id

    def __call__(self) -> dict[str, Any]:
        """The values of the fields that have one.

        Raises:
            ReplicaUnavailable: there is no replica; settings are not made from defaults then.
        """
        tree = self._tree()
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = _found(tree, field, name)
            if key in tree:
                found[key] = value
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field, the key it has, and that it needs no parsing."""
        return _found(self._tree(), field, field_name)

    def _tree(self) -> dict[str, Any]:
        return self._config.snapshot(self._prefix, self._tenant_id).as_dict()

    def __repr__(self) -> str:
        return f"ControlPlaneSettingsSource(prefix={self._prefix!r})"


def _found(tree: dict[str, Any], field: FieldInfo, name: str) -> tuple[Any, str, bool]:
    """By the field's alias, as pydantic finds it, else by its name."""
    for key in (*_aliases(field), name):
        if key in tree:
            return tree[key], key, False
    return None, name, False


def _aliases(field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    firsts = [choice.path[0] if isinstance(choice, AliasPath) else choice for choice in choices]
    return [first for first in firsts if isinstance(first, str)]
