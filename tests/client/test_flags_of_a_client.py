"""What a client promises of its flags as a whole: trust, pinned views, waiting and closing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.replica.header import DEVELOPMENT, FLAGS_REVISION, STATE, HeaderWriter
from control_plane.replica.reader import Replica


@contextmanager
def header_of(node: Any) -> Iterator[HeaderWriter]:
    """The words of production's replica, to be changed as its writer would."""
    header = HeaderWriter(str(node.root / "production" / "v1" / "current" / "header"))
    yield header
    header.close()


@contextmanager
def flags_revision_held_back(node: Any, before: int) -> Iterator[None]:
    """As if the writer stood between the generation and the flags revision of its last commit."""
    with header_of(node) as header:
        after = header[FLAGS_REVISION]
        header[FLAGS_REVISION] = before
        yield
        header[FLAGS_REVISION] = after


def test_a_replica_refused_later_serves_what_was_loaded_and_nothing_of_its_new_writer(
    stocked: Any,
) -> None:
    segment = {"name": "r", "when": {"$segment": "testers"}, "serve": "on"}
    targeted = {"variants": {"on": True, "off": False}, "default": "off", "rules": [segment]}
    stocked.write(("with_flag", ["targeted", targeted]), ("with_segment", ["testers", ["ann"]]))
    client = stocked.client(require_trusted=True)
    assert client.is_enabled("new_ai_model") is True
    assert client.is_enabled("targeted", "ann") is True
    stocked._send({"folder": str(stocked.root / "production"), "close": True})
    stocked.write(
        ("with_flag", ["forged", True]),
        ("with_flag", ["new_ai_model", False]),
        ("with_segment", ["testers", ["mallory"]]),
        development=True,
    )
    assert client.is_enabled("new_ai_model") is True
    assert client.is_enabled("targeted", "ann") is True
    assert client.is_enabled("targeted", "mallory") is False
    assert client.is_enabled("forged") is False
    assert client.evaluate("forged", 1).error_code == "PROVIDER_NOT_READY"
    assert stocked.client().is_enabled("forged") is True


def test_a_mark_that_came_after_the_table_stops_its_reads(stocked: Any) -> None:
    client = stocked.client(require_trusted=True)
    assert client.is_enabled("new_ai_model") is True
    stocked.flag("later", True)
    assert client.is_enabled("new_ai_model") is True
    # No revision moves with it: the table in force was made before the mark.
    with header_of(stocked) as header:
        header[STATE] |= DEVELOPMENT
    assert client.is_enabled("new_ai_model") is True
    assert client.is_enabled("later") is False


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_view_without_a_snapshot_has_no_flags_of_some_other_generation(
    stocked: Any, monkeypatch: pytest.MonkeyPatch, asked_before: bool
) -> None:
    client = stocked.client()
    if asked_before:
        assert client.is_enabled("new_ai_model") is True
    client.wait_until_ready(5)
    with monkeypatch.context() as busy:
        busy.setattr("control_plane.replica.reader.ROUNDS", 0)
        view = client.pinned()
    assert view.generation == 0
    assert view.is_enabled("new_ai_model") is False
    assert view.evaluate("new_ai_model", 1).error_code == "PROVIDER_NOT_READY"


def test_a_pinned_view_takes_one_snapshot_for_everything(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    view_of = Replica.view
    monkeypatch.setattr(Replica, "view", lambda self: taken.append(1) or view_of(self))
    with stocked.client().pinned() as view:
        assert view.is_enabled("new_ai_model") is True
        assert view.config.get("database.url") == "postgresql://db/app"
        assert view.registry.get_tool("crm_tool").version == "1.2.0"
    assert taken == [1]


def test_after_wait_for_handles_and_other_managers_see_the_generation(stocked: Any) -> None:
    client = stocked.client()
    other = FeatureFlagManager(client)
    handles = [client.flags.flag("new_ai_model"), other.flag("new_ai_model")]
    assert [handle() for handle in handles] == [True, True]
    assert (client.is_enabled("new_ai_model"), other.is_enabled("new_ai_model")) == (True, True)
    before = int(client.source.words[8 * FLAGS_REVISION])
    generation = stocked.flag("new_ai_model", False)
    with flags_revision_held_back(stocked, before):
        client.wait_for(generation, timeout_seconds=1)
        assert [handle() for handle in handles] == [False, False]
        assert other.is_enabled("new_ai_model") is False
        assert client.is_enabled("new_ai_model") is False
    assert [handle() for handle in handles] == [False, False]


def test_after_close_everything_made_of_the_client_gives_defaults(stocked: Any) -> None:
    client = stocked.client()
    with stocked.client() as still_open:
        assert still_open.is_enabled("new_ai_model") is True
        other = FeatureFlagManager(client)
        handles = [client.flags.flag("new_ai_model"), other.flag("new_ai_model")]
        bound = other.bind(tenant_id="t")
        assert all(handle() for handle in handles)
        assert other.is_enabled("new_ai_model")
        client.close()
        client.close()
        answers = [client.is_enabled, other.is_enabled, bound.is_enabled]
        assert [answer("new_ai_model") for answer in answers] == [False] * 3
        assert [answer("new_ai_model", default=True) for answer in answers] == [True] * 3
        assert [handle() for handle in handles] == [False, False]
        assert FeatureFlagManager(client).is_enabled("new_ai_model") is False
        assert other.pinned().is_enabled("new_ai_model") is False
        assert still_open.is_enabled("new_ai_model") is True


def test_a_manager_that_was_closed_gives_defaults_while_its_client_goes_on(stocked: Any) -> None:
    client = stocked.client()
    with FeatureFlagManager(client) as other:
        assert other.is_enabled("new_ai_model") is True
    assert other.is_enabled("new_ai_model") is False
    assert client.is_enabled("new_ai_model") is True


def test_managers_and_handles_that_are_dropped_leave_nothing_behind(stocked: Any) -> None:
    client = stocked.client()
    for _ in range(10):
        FeatureFlagManager(client).flag("new_ai_model")()
        client.flags.flag("new_ai_model")()
    gc.collect()
    assert len(client._managers) == 1
    assert len(client.flags._handles) == 0
