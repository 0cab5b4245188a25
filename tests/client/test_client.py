"""The client as a whole: one generation for everything, waiting, health, trust, fork, asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane import (
    ControlPlaneClient,
    Evaluation,
    ReplicaUnavailable,
    TrustError,
    ViewExpired,
    WaitTimeout,
)
from control_plane.client import Health
from control_plane.replica.header import CHECKPOINT_TIME_S, HEARTBEAT_NS, STALE, empty_words


def test_the_shortcuts_answer_what_the_flags_answer(stocked: Any) -> None:
    client = stocked.client()
    assert client.is_enabled("new_ai_model", tenant_id="t") is True
    assert client.variant("new_ai_model") == "on"
    assert client.value("new_ai_model", False) is True
    assert client.evaluate("new_ai_model", False) == Evaluation(True, "on", "STATIC", generation=1)
    assert client.is_enabled("no_such_flag", default=True) is True


async def test_agents_and_tools_can_be_awaited(stocked: Any) -> None:
    async with ControlPlaneClient(str(stocked.root), "production") as client:
        agent, tool = await asyncio.gather(
            client.get_agent("customer_support_agent"), client.get_tool("crm_tool")
        )
        agent.temperature = 0.3
        assert (agent.temperature, tool.version) == (0.3, "1.2.0")
        assert client.is_enabled("new_ai_model")


def test_a_pinned_view_stays_at_its_generation(stocked: Any) -> None:
    client = stocked.client()
    with client.pinned() as view:
        stocked.write(
            ("with_flag", ["new_ai_model", False]),
            ("with_config", ["database", {"url": "new"}]),
            (
                "with_version",
                [
                    "tool",
                    {"name": "crm_tool", "version": "1.3.0", "metadata": {"description": "x"}},
                ],
            ),
        )
        assert view.generation == 1
        assert view.is_enabled("new_ai_model") is True
        assert view.config.get("database.url") == "postgresql://db/app"
        assert view.config.section("database").get("pool", tenant_id="acme")["size"] == 80
        assert view.registry.get_tool("crm_tool").version == "1.2.0"
    assert client.is_enabled("new_ai_model") is False
    assert client.config.get("database.url") == "new"
    assert client.registry.get_tool("crm_tool").version == "1.3.0"


def test_a_pinned_view_never_mixes_generations_while_a_writer_moves(stocked: Any) -> None:
    client = stocked.client()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            stocked.write(
                (
                    "with_flag",
                    [
                        "stage",
                        {"variants": {"a": number, "b": -1}, "default": "a", "disabled": "b"},
                    ],
                ),
                ("with_config", ["stage", {"number": number}]),
                (
                    "with_version",
                    [
                        "tool",
                        {
                            "name": "stage",
                            "version": f"1.0.{number}",
                            "metadata": {"description": "x"},
                        },
                    ],
                ),
            )

    writing = threading.Thread(target=write)
    stocked.config("stage", {"number": 0})
    writing.start()
    try:
        seen = set()
        while len(seen) < 20:
            with client.pinned() as view:
                number = view.config.get("stage.number")
                if number:
                    assert view.value("stage", 0) == number
                    assert view.registry.get_tool("stage").version == f"1.0.{number}"
                    seen.add(number)
    finally:
        stop.set()
        writing.join()


def test_a_closed_view_explains_what_it_answers_and_says_that_the_steps_cannot_be_read(
    stocked: Any,
) -> None:
    with stocked.client().pinned() as view:
        answered = view.flags.explain("new_ai_model")
    assert len(answered.steps) > 0
    told = view.flags.explain("new_ai_model")
    assert told.evaluation == answered.evaluation
    [step] = told.steps
    assert step.startswith("no steps: expected")


def test_a_closed_view_gives_the_default_for_flags_and_raises_for_the_rest(stocked: Any) -> None:
    view = stocked.client().pinned()
    config, registry = view.config, view.registry
    view.close()
    assert view.is_enabled("new_ai_model", default=False) is False
    with pytest.raises(ViewExpired):
        config.get("database.url")
    with pytest.raises(ViewExpired):
        registry.get_tool("crm_tool")
    with pytest.raises(ViewExpired):
        _ = view.generation


def test_another_environment_is_not_of_the_pinned_generation(stocked: Any) -> None:
    with (
        stocked.client().pinned() as view,
        pytest.raises(ValueError, match="expected environment production, found staging"),
    ):
        view.config.get("database.url", environment="staging")


def test_without_a_replica_pinned_flags_give_defaults_and_the_rest_raises(tmp_path: Path) -> None:
    with ControlPlaneClient(str(tmp_path), "production") as client, client.pinned() as view:
        assert view.generation == 0
        assert view.is_enabled("new_ai_model", default=True) is True
        with pytest.raises(ReplicaUnavailable):
            view.config.get("database.url", "x")


def test_a_replica_that_cannot_be_pinned_gives_default_flags_and_raises_for_the_rest(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stocked.client()
    client.wait_until_ready(5)
    monkeypatch.setattr("control_plane.replica.reader.ROUNDS", 0)
    with client.pinned() as view:
        assert view.is_enabled("new_ai_model", default=False) is False
        assert view.generation == 0
        with pytest.raises(ReplicaUnavailable, match="found the writer moving"):
            view.config.get("database.url", "x")


def test_requiring_trust_covers_the_configuration_of_other_environments(
    stocked: Any, without_variables: pytest.MonkeyPatch
) -> None:
    stocked.config("database", {"url": "theirs"}, environment="staging", development=True)
    config = stocked.client(require_trusted=True).config
    assert config.get("database.url", "x", environment="staging") == "x"
    config.load_environment("staging")
    assert config.get("database.url", "x") == "x"


def test_wait_for_returns_when_the_next_call_sees_the_generation(stocked: Any) -> None:
    client = stocked.client()
    assert client.is_enabled("new_ai_model")
    for expected in (False, True) * 10:
        generation = client.health().generation + 1
        writing = threading.Thread(target=stocked.flag, args=("new_ai_model", expected))
        writing.start()
        client.wait_for(generation, timeout_seconds=10)
        assert client.is_enabled("new_ai_model") is expected
        writing.join()


def test_wait_for_says_what_it_found_when_time_is_over(stocked: Any) -> None:
    with pytest.raises(WaitTimeout) as caught:
        stocked.client().wait_for(7, timeout_seconds=0.01)
    assert (
        str(caught.value)
        == f"{stocked.root}/production: expected generation 7 within 0.01 s, found 1"
    )


def test_wait_until_ready_returns_when_a_replica_appears(node: Any) -> None:
    client = node.client()
    with pytest.raises(WaitTimeout, match="start the daemon"):
        client.wait_until_ready(timeout_seconds=0)
    assert not client.health().ready
    assert client.config.get("stage.number", 0) == 0
    node.write(("with_flag", ["new_ai_model", True]), ("with_config", ["stage", {"number": 1}]))
    client.wait_until_ready(timeout_seconds=10)
    assert client.is_enabled("new_ai_model")
    assert client.config.get("stage.number", 0) == 1
    node.config("stage", {"number": 2})
    assert client.config.get("stage.number", 0) == 2


def test_health_tells_generation_age_and_state(stocked: Any) -> None:
    client = stocked.client()
    stocked.write(state=STALE, checkpoint=int(time.time()) - 90)
    health = client.health()
    assert (health.environment, health.generation, health.ready) == ("production", 1, True)
    assert health.stale
    assert not health.development
    assert 89 < health.age_seconds < 120
    assert health.reasons == (
        "stale: the store has not confirmed this generation for over a minute",
    )


def test_a_silent_daemon_makes_a_healthy_replica_stale() -> None:
    words = bytearray(empty_words().tobytes())
    header = memoryview(words).cast("Q")
    header[8 * HEARTBEAT_NS] = 1_000 * 10**9
    header[8 * CHECKPOINT_TIME_S] = 1_000
    assert not Health("production", "/r", header, None, 1_010 * 10**9).stale
    silent = Health("production", "/r", header, None, 1_100 * 10**9)
    assert silent.stale
    assert silent.reasons == (
        "silent: the daemon's last sign is 100 s old",
        "stale: the newest checkpoint is 100 s old",
        "empty: the daemon has not written a first generation yet",
    )


def test_health_without_a_replica_says_what_is_missing(tmp_path: Path) -> None:
    with ControlPlaneClient(str(tmp_path), "production") as client:
        health = client.health()
    assert (health.ready, health.generation, health.age_seconds) == (False, 0, None)
    assert "start the daemon" in health.reasons[0]


def test_a_trusted_client_refuses_a_development_replica_and_says_what_to_do(node: Any) -> None:
    node.flag("new_ai_model", True, development=True)
    with pytest.raises(TrustError, match="control-plane daemon --store"):
        node.client(require_trusted=True)
    assert node.client().is_enabled("new_ai_model")
    assert node.client().health().development


def test_a_trusted_client_treats_a_development_replica_that_appears_as_absent(node: Any) -> None:
    client = node.client(require_trusted=True)
    node.flag("new_ai_model", True, development=True)
    with pytest.raises(WaitTimeout, match="found one marked development"):
        client.wait_until_ready(timeout_seconds=1.2)
    assert client.is_enabled("new_ai_model") is False
    with pytest.raises(ReplicaUnavailable, match="found one marked development"):
        client.registry.get_tool("crm_tool")


def test_a_trusted_client_reads_a_replica_that_follows_a_log(stocked: Any) -> None:
    client = stocked.client(require_trusted=True)
    assert client.is_enabled("new_ai_model")
    assert client.health().reasons == ()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_reads_on_and_sees_changes(
    stocked: Any, in_child: Callable[..., str]
) -> None:
    client = stocked.client()
    assert client.is_enabled("new_ai_model")
    assert client.config.get("database.pool.size") == 50

    def child() -> object:
        client.wait_for(2, timeout_seconds=10)
        return (
            client.is_enabled("new_ai_model"),
            client.config.get("database.pool.size"),
            client.registry.get_tool("crm_tool").version,
        )

    def publish() -> None:
        stocked.write(
            ("with_flag", ["new_ai_model", False]),
            ("with_config", ["database", {"pool": {"size": 3}}]),
        )

    assert in_child(child, publish) == "(False, 3, '1.2.0')"
    assert client.is_enabled("new_ai_model") is False
    assert client.config.get("database.pool.size") == 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_view_does_not_survive_a_fork(stocked: Any, in_child: Callable[..., str]) -> None:
    with stocked.client().pinned() as view:
        assert in_child(lambda: view.config.get("database.url")).startswith("ViewExpired")
        assert view.config.get("database.url") == "postgresql://db/app"


def test_many_threads_never_read_a_value_older_than_a_seen_one(stocked: Any) -> None:
    client = stocked.client()
    stocked.config("stage", {"number": 0})
    stop, wrong = threading.Event(), []

    def read() -> None:
        last = 0
        while not stop.is_set():
            number = client.config.get("stage.number")
            if number < last:
                wrong.append((last, number))
            last = number

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 150):
        stocked.config("stage", {"number": number})
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert client.config.get("stage.number") == 149


def test_three_processes_read_what_one_publishes(stocked: Any) -> None:
    import sys

    script = (
        "import sys; from control_plane import ControlPlaneClient\n"
        "with ControlPlaneClient(sys.argv[1], 'production') as client:\n"
        "    client.wait_for(2, 10)\n"
        "    print(client.is_enabled('new_ai_model'), client.config.get('database.url'))\n"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(stocked.root)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    stocked.write(
        ("with_flag", ["new_ai_model", False]), ("with_config", ["database", {"url": "n"}])
    )
    assert [reader.communicate(timeout=20)[0] for reader in readers] == ["False n\n"] * 3
