"""Stepping from generation to generation: several changes in one, views that stay, waiting."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient, KeyNotFoundError
from control_plane.errors import ManifestInvalid, SyntaxInvalid, WaitTimeout
from control_plane.testing import ReplicaKit, replica

TOOL = {"name": "tool", "metadata": {"description": "d"}}
MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"


def change(kit: ReplicaKit, *steps: dict[str, Any]) -> None:
    with kit.one_generation():
        for step in steps:
            kit.set_flags(step)


def test_several_changes_are_one_generation() -> None:
    with replica(flags={"x": True}, config={"database": {"url": "a"}}) as kit:
        with kit.one_generation() as generation:
            assert kit.set_flag("x", False) == generation
            assert kit.set_config("database", {"url": "b"}) == generation
            assert kit.put_tool(TOOL) == generation
            # Nobody sees a part of it.
            assert (kit.is_enabled("x"), kit.config.get("database.url")) == (True, "a")
        assert kit.generation == generation == kit.health().generation == 2
        assert (kit.is_enabled("x"), kit.config.get("database.url")) == (False, "b")
        assert kit.registry.get_tool("tool").version == "1.0.0"


def test_a_pinned_view_stays_while_generations_pass() -> None:
    with replica(flags={"x": True}, config={"n": {"v": 1}}) as kit, kit.pinned() as view:
        for number in range(2, 5):
            kit.set_config("n", {"v": number})
            kit.set_flag("x", number % 2 == 0)
            assert kit.config.get("n.v") == number
            assert (view.config.get("n.v"), view.is_enabled("x"), view.generation) == (1, True, 1)


def test_a_block_that_raises_publishes_nothing() -> None:
    with replica(flags={"x": True}) as kit:
        with pytest.raises(ManifestInvalid):
            change(kit, {"x": False}, {"y": {"default": "on"}})
        assert (kit.generation, kit.is_enabled("x")) == (1, True)
        assert kit.set_flag("y", True) == 2
        assert kit.is_enabled("x")


def test_a_block_inside_another_joins_it_and_takes_back_only_its_own() -> None:
    with replica(flags={"x": True}) as kit:
        with kit.one_generation():
            kit.set_flag("a", True)
            with kit.one_generation():
                kit.set_flag("b", True)
            with pytest.raises(ManifestInvalid):
                change(kit, {"c": True}, {"d": True, "e": {}})
        assert kit.generation == 2
        assert [kit.is_enabled(name) for name in "abcd"] == [True, True, False, False]


def test_another_thread_waits_for_a_generation_and_sees_it() -> None:
    with replica(flags={"x": False}) as kit, ControlPlaneClient(kit.replica) as other:
        seen: list[bool] = []

        def wait() -> None:
            other.wait_for(2, timeout_seconds=10)
            seen.append(other.is_enabled("x"))

        thread = threading.Thread(target=wait)
        thread.start()
        kit.wait_for(kit.set_flag("x", True), timeout_seconds=10)
        thread.join()
        assert seen == [True]
        with pytest.raises(WaitTimeout, match=r"expected generation 3 within 0\.01 s, found 2"):
            kit.wait_for(3, timeout_seconds=0.01)


def test_changes_of_threads_neither_mix_nor_get_lost() -> None:
    with replica() as kit:

        def change(name: str) -> None:
            for _ in range(3):
                with kit.one_generation():
                    kit.set_flag(f"{name}1", True)
                    kit.set_flag(f"{name}2", True)
                kit.set_flag(f"{name}3", True)

        threads = [threading.Thread(target=change, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert kit.generation == 1 + 3 * 3 * 2
        assert all(kit.is_enabled(f"{name}{number}") for name in "abc" for number in (1, 2, 3))


def test_two_kits_at_once_know_nothing_of_each_other() -> None:
    with (
        replica(flags={"x": True}, now=1) as one,
        replica(config={"x": {"y": 1}}, environment="staging", now=2) as two,
        one.recording() as of_one,
        two.recording() as of_two,
    ):
        one.set_flag("x", False)
        two.set_flag("x", True)
        assert (one.is_enabled("x"), two.is_enabled("x")) == (False, True)
        assert (of_one.counts, of_two.counts) == ({("x", "off"): 1}, {("x", "on"): 1})
        assert (one.clock(), two.clock(), one.generation, two.generation) == (1, 2, 2, 2)
        with pytest.raises(KeyNotFoundError):
            one.config.get("x.y")


def test_a_projects_own_manifests_are_served_and_what_is_given_beside_them_replaces_theirs() -> (
    None
):
    given = {"database": {"url": "sqlite://"}}
    with replica(manifests=[MANIFESTS], config=given, environment="production") as kit:
        assert kit.is_enabled("new_ai_model", tenant_id="acme")
        assert kit.variant(
            "new_ai_model", tenant_id=kit.unit_for("new_ai_model", "off", "tenant_id")
        )
        assert kit.config.get("database") == {"url": "sqlite://"}
        agent = kit.registry.get_agent("customer_support_agent")
        assert agent.tools["crm_tool"].version is not None


def test_a_manifest_that_is_wrong_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "flag.yaml").write_text('kind: flag\nname: x\nmetadata: {default: "on"}\n')
    with (
        pytest.raises(ManifestInvalid, match=r"flag\.yaml:3:\d+: flag/x: "),
        replica(manifests=[tmp_path]),
    ):
        pass
    (tmp_path / "flag.yaml").write_text("kind: flag\nkind: flag\n")
    with (
        pytest.raises(SyntaxInvalid, match=r"flag\.yaml: .* line 2"),
        replica(manifests=[tmp_path]),
    ):
        pass


def test_its_variables_lead_other_clients_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with replica(flags={"x": True}, environment="staging") as kit:
        for name, value in kit.variables.items():
            monkeypatch.setenv(name, value)
        with ControlPlaneClient() as client:
            assert (client.is_enabled("x"), client.environment) == (True, "staging")
