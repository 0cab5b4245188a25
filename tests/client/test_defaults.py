"""Which replica and environment count when none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from control_plane import defaults
from control_plane.client import ControlPlaneClient
from control_plane.defaults import ChosenSource, environments, replica_root, writer_root

pytestmark = pytest.mark.usefixtures("without_variables")


@pytest.fixture
def system_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "system"
    monkeypatch.setattr(defaults, "SYSTEM_ROOT", str(root))
    return root


def test_the_argument_wins_over_the_variable_and_that_over_the_system_path(
    system_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_root.mkdir()
    assert replica_root() == str(system_root)
    monkeypatch.setenv("CONTROL_PLANE_REPLICA", "/from/variable")
    assert replica_root() == "/from/variable"
    assert replica_root("/from/argument") == "/from/argument"


def test_without_a_system_path_the_users_own_folder_counts(
    system_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert replica_root() == "/home/someone/.local/share/control-plane/replica"


@pytest.mark.parametrize(("user", "system"), [(0, True), (1000, False)])
def test_a_writer_run_by_root_takes_the_system_path_though_it_is_not_there(
    system_root: Path, monkeypatch: pytest.MonkeyPatch, user: int, system: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert (writer_root() == str(system_root)) is system
    assert writer_root("/from/argument") == "/from/argument"


def test_the_only_environment_under_the_root_counts(stocked: Any) -> None:
    (stocked.root / "no-replica").mkdir()
    assert environments(str(stocked.root)) == ("production",)
    client = stocked.client(environment=None)
    assert client.environment == "production"
    assert client.is_enabled("new_ai_model")


def test_the_variable_names_the_environment(stocked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stocked.flag("new_ai_model", False, environment="staging")
    monkeypatch.setenv("CONTROL_PLANE_ENVIRONMENT", "staging")
    assert stocked.client(environment=None).is_enabled("new_ai_model") is False
    assert stocked.client(environment="production").is_enabled("new_ai_model") is True


def test_with_several_environments_flags_give_defaults_and_health_says_why(stocked: Any) -> None:
    stocked.flag("new_ai_model", True, environment="staging")
    client = stocked.client(environment=None)
    assert client.is_enabled("new_ai_model", default=False) is False
    assert client.environment is None
    assert client.health().reasons == (
        "expected one environment, found production, staging; "
        "set CONTROL_PLANE_ENVIRONMENT or pass environment=",
    )


def test_an_open_choice_is_looked_at_again_once_a_second(node: Any) -> None:
    now = 0.0
    source = ChosenSource(str(node.root), None, clock=lambda: now)
    node.flag("new_ai_model", True)
    assert source.open() is None
    now = 1.0
    assert source.open() is not None
    assert source.environment == "production"
    source.close()


def test_the_choice_stays_when_another_environment_appears(stocked: Any) -> None:
    client = stocked.client(environment=None)
    stocked.flag("new_ai_model", False, environment="staging")
    assert client.is_enabled("new_ai_model") is True
    assert client.environment == "production"


@pytest.mark.parametrize("name", ["../production", "Production", "a/b", "9", "a_b", "-a"])
def test_an_environment_outside_its_pattern_is_misuse(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected an environment like production"):
        ControlPlaneClient(str(tmp_path), name)


@pytest.mark.parametrize(("text", "required"), [("1", True), ("true", True), ("0", False)])
def test_the_variable_can_require_trust_for_the_whole_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, required: bool
) -> None:
    monkeypatch.setenv("CONTROL_PLANE_REQUIRE_TRUSTED", text)
    source, _ = defaults.replica_source(str(tmp_path), "production")
    assert source.requires_trusted is required
