"""Managers made with a client: its waiting and its closing reach all of them."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from control_plane.configs.settings import ConfigManager
from control_plane.registries.registry_manager import RegistryManager
from control_plane.replica.header import CONFIG_REVISION, REGISTRY_REVISION, HeaderWriter
from control_plane.replica.reader import OPEN


def watching_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "control-plane-watch"]


def test_after_wait_for_every_manager_of_the_client_sees_the_generation(stocked: Any) -> None:
    client = stocked.client()
    config, registry = ConfigManager(client), RegistryManager(client)
    assert config.get("database.url") == "postgresql://db/app"
    assert registry.get_tool("crm_tool").version == "1.2.0"
    moved = (CONFIG_REVISION, REGISTRY_REVISION)
    before = [client.source.words[8 * word] for word in moved]
    newer = {"name": "crm_tool", "version": "1.3.0", "metadata": {"description": "Looks up."}}
    generation = stocked.write(
        ("with_config", ["database", {"url": "new"}]), ("with_version", ["tool", newer])
    )
    # As if the writer stood between the generation and the revisions of its last commit.
    header = HeaderWriter(str(stocked.root / "production" / "v1" / "current" / "header"))
    for word, value in zip(moved, before, strict=True):
        header[word] = value
    header.close()
    client.wait_for(generation, timeout_seconds=1)
    assert config.get("database.url") == "new"
    assert registry.get_tool("crm_tool").version == "1.3.0"


@pytest.mark.parametrize("kept", [True, False])
def test_closing_a_client_ends_the_watches_of_every_manager(stocked: Any, kept: bool) -> None:
    client = stocked.client()
    config = ConfigManager(client)
    watch = config.watch("database.url", lambda change: None)
    if not kept:
        del config
        gc.collect()
    assert len(watching_threads()) == 1
    client.close()
    assert watch.closed
    assert watching_threads() == []


def test_closing_a_client_closes_what_its_managers_opened_elsewhere(stocked: Any) -> None:
    stocked.config("database", {"url": "theirs"}, environment="staging")
    stocked.config("database", {"url": "third"}, environment="third")
    client = stocked.client()
    config = ConfigManager(client)
    assert config.get("database.url", environment="staging") == "theirs"
    config.load_environment("third")
    assert config.get("database.url") == "third"
    client.close()
    client.close()
    opened = [replica.directory for replica in OPEN._replicas.values()]
    assert not [place for place in opened if place.startswith(str(stocked.root))]


def test_managers_that_are_dropped_leave_nothing_behind(stocked: Any) -> None:
    client = stocked.client()
    for _ in range(10):
        ConfigManager(client).get("database.url")
        RegistryManager(client).get_tool("crm_tool")
    gc.collect()
    assert len(client._managers) == 1
