"""The replica as one of the sources of pydantic-settings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from control_plane.configs.pydantic_source import ControlPlaneSettingsSource
from control_plane.configs.settings import ConfigManager
from control_plane.errors import ReplicaUnavailable
from control_plane.testing import replica

VALUES = {"url": "sqlite://", "pool": {"size": 5, "timeout": 2}, "later": 1}


class Pool(BaseModel):
    size: int
    timeout: float


def settings_class(config: ConfigManager, tenant_id: str | None = None) -> type[BaseSettings]:
    class Settings(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="APP_", env_nested_delimiter="__")
        url: str
        pool: Pool
        retries: int = 3
        limit: int = Field(default=0, validation_alias=AliasChoices("max", "limit"))

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            source = ControlPlaneSettingsSource(settings_cls, config, "database", tenant_id)
            return init_settings, env_settings, source

    return Settings


def test_fields_come_from_the_replica_and_keys_without_a_field_are_left_out() -> None:
    tenants = {"acme": {"pool": {"size": 80}}}
    with replica(config={"database": {"values": VALUES, "tenants": tenants}}) as kit:
        base: Any = settings_class(kit.config)()
        acme: Any = settings_class(kit.config, "acme")()
    assert (base.url, base.pool, base.retries) == ("sqlite://", Pool(size=5, timeout=2), 3)
    assert acme.pool.size == 80


def test_sources_before_it_win_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_POOL__SIZE", "9")
    with replica(config={"database": VALUES}) as kit:
        settings: Any = settings_class(kit.config)(url="given")
    assert (settings.url, settings.pool) == ("given", Pool(size=9, timeout=2))


def test_an_alias_is_found_as_pydantic_finds_it() -> None:
    with replica(config={"database": {**VALUES, "max": 7}}) as kit:
        assert settings_class(kit.config)().limit == 7  # type: ignore[attr-defined]


def test_each_instance_is_of_the_generation_of_its_making() -> None:
    with replica(config={"database": VALUES}) as kit:
        made = settings_class(kit.config)
        before: Any = made()
        kit.set_config("database", {**VALUES, "url": "new"})
        after: Any = made()
    assert (before.url, after.url) == ("sqlite://", "new")


def test_a_value_that_does_not_fit_is_pydantics_own_error() -> None:
    with (
        replica(config={"database": {**VALUES, "pool": {"size": "x", "timeout": 1}}}) as kit,
        pytest.raises(ValidationError, match=r"pool\.size"),
    ):
        settings_class(kit.config)()


def test_without_a_replica_no_settings_are_made_of_defaults(tmp_path: Any) -> None:
    with (
        ConfigManager(replica=tmp_path, environment="test") as config,
        pytest.raises(ReplicaUnavailable),
    ):
        settings_class(config)(url="", pool={"size": 1, "timeout": 1})
