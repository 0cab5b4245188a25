"""The test kit: real replicas, changed at will, refused when a document is wrong."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient
from control_plane.errors import ManifestInvalid
from control_plane.testing import replica

RULES = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "rules": [{"name": "beta", "when": {"$segment": "beta"}, "serve": "on"}],
}


def test_a_change_is_seen_by_the_next_call_of_every_reader() -> None:
    with replica(flags={"x": True}) as client, ControlPlaneClient(client.replica) as other:
        assert client.is_enabled("x")
        assert other.is_enabled("x")
        for number, on in enumerate([False, True] * 5, 2):
            assert client.set_flag("x", on) == number
            assert (client.is_enabled("x"), other.is_enabled("x")) == (on, on)
        assert client.health().generation == 11


def test_every_kind_can_be_given_and_changed() -> None:
    with replica(
        flags={"x": RULES},
        config={"database": {"url": "a"}, "database@acme": {"url": "b"}},
        agents=[{"name": "agent", "metadata": {"description": "d", "tools": ["tool>=2"]}}],
        tools=[{"name": "tool", "version": "1.0.0", "metadata": {"description": "d"}}],
        segments={"beta": ["u1"]},
    ) as client:
        assert client.is_enabled("x", "u1")
        assert client.config.get("database.url", tenant_id="acme") == "b"
        agent = client.registry.get_agent("agent")
        assert agent.tools["tool"].version is None
        client.put_tool({"name": "tool", "version": "2.0.0", "metadata": {"description": "d"}})
        assert client.registry.get_agent("agent").tools["tool"].version == "2.0.0"
        client.set_status("tool", "tool", "2.0.0", "yanked", "leaks")
        with pytest.warns(DeprecationWarning, match="tool/tool@2.0.0: .* yanked: leaks"):
            assert client.registry.get_tool("tool", "2.0.0").status == "yanked"
        client.set_segment("beta", ["u2"])
        assert (client.is_enabled("x", "u1"), client.is_enabled("x", "u2")) == (False, True)
        client.set_config(
            "database", {"values": {"url": "c"}, "environments": {"test": {"url": "d"}}}
        )
        assert client.config.get("database.url") == "d"
        client.put_agent({"name": "agent", "version": "1.1.0", "metadata": {"description": "d"}})
        assert client.registry.get_agent("agent").version == "1.1.0"
        client.set_flag("x", None)
        assert client.evaluate("x", True).error_code == "FLAG_NOT_FOUND"


def test_a_kill_serves_its_variant_until_it_is_lifted() -> None:
    with replica(flags={"x": True}, kills={"x": None}) as client:
        assert client.evaluate("x", True).reason == "DISABLED"
        assert client.is_enabled("x") is False
        client.unkill("x")
        assert client.is_enabled("x") is True
        client.kill("x", "off")
        assert client.is_enabled("x") is False


def test_a_segment_past_one_record_is_sharded() -> None:
    members = [f"user-{number}" for number in range(1_500)]
    with replica(flags={"x": RULES}, segments={"beta": members}) as client:
        assert all(client.is_enabled("x", member) for member in members[::50])
        assert not client.is_enabled("x", "stranger")


def test_an_invalid_document_is_refused_and_changes_nothing() -> None:
    with pytest.raises(ManifestInvalid, match="flag/x"), replica(flags={"x": {"default": "on"}}):
        pass
    with replica(flags={"x": True}, config={"database": {"url": "a"}}) as client:
        refused: list[tuple[Any, ...]] = [
            (client.set_flag, "x", {"variants": {"on": True}, "default": "on"}),
            (client.set_config, "Database", {"url": "b"}),
            (client.put_tool, {"name": "tool", "metadata": {}, "color": "red"}),
        ]
        for call, *arguments in refused:
            with pytest.raises(ManifestInvalid):
                call(*arguments)
        assert client.health().generation == 1
        assert client.config.get("database.url") == "a"


def test_a_namespace_is_checked_against_its_schema_with_its_tenants() -> None:
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}}
    with replica(config={"pool": {"schema": schema, "values": {"size": 1}}}) as client:
        with pytest.raises(ManifestInvalid):
            client.set_config("pool@acme", {"size": "many"})
        assert client.config.get("pool.size", tenant_id="acme") == 1


def test_the_clock_is_the_tests_own() -> None:
    now = 1_000.0
    with replica(flags={"x": True}, now=lambda: now) as client:
        now = 1_005.0
        assert client.health().age_seconds == 5.0


def test_the_replica_is_marked_development_and_gone_afterwards() -> None:
    with replica(flags={"x": True}, environment="staging") as client:
        assert client.health().development
        folder = Path(client.replica)
        assert (folder / "staging" / "v1" / "current").exists()
    assert not folder.exists()


def test_many_changes_leave_two_folders_and_every_view_readable() -> None:
    with replica(flags={"a": True}) as client, client.pinned() as early:
        for number in range(5):
            client.set_flag("b", number % 2 == 0)
        formats = client._root / "test" / "v1"
        assert sorted(p.name for p in formats.iterdir() if p.name.isdigit()) == ["5", "6"]
        assert client.is_enabled("b")
        assert early.is_enabled("a")


def test_changes_reach_a_watch() -> None:
    from queue import Queue

    changes: Queue[Any] = Queue()
    with replica(config={"database": {"url": "a"}}) as client:
        client.config.watch("database.url", changes.put)
        for url in "bcd":
            generation = client.set_config("database", {"url": url})
            # The watching thread met the swap too; a call right after it still sees the change.
            assert client.config.get("database.url") == url
            change = changes.get(timeout=10)
            assert (change.new, change.generation) == (url, generation)


def test_it_needs_no_pytest() -> None:
    script = (
        "import sys; sys.modules['pytest'] = None\n"
        "from control_plane.testing import replica\n"
        "with replica(flags={'x': True}) as client: print(client.is_enabled('x'))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"


def test_the_fixture_makes_replicas_that_close_with_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from pathlib import Path\n"
        "made = []\n"
        "def test_one(control_plane_replica):\n"
        "    client = control_plane_replica(flags={'x': True})\n"
        "    made.append(client.replica)\n"
        "    assert client.is_enabled('x')\n"
        "def test_two():\n"
        "    assert not Path(made[0]).exists()\n"
    )
    installed = any(p.name == "control_plane" for p in entry_points(group="pytest11"))
    # From a checkout without metadata the plugin has no entry point and is named instead.
    plugin = [] if installed else ["-p", "control_plane.testing.pytest_plugin"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, "2 passed" in run.stdout) == (0, True), run.stdout
