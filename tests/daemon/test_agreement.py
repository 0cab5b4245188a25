"""Live nodes, late nodes and the log come to the same heads, byte for byte."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.log.statements import Change
from control_plane.replica.format import head_key
from control_plane.replica.verify import verify

RELAXED = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NAMES = st.sampled_from(["a", "b"])
STEPS = st.one_of(
    st.tuples(st.just("flag"), NAMES, st.sampled_from(["on", "off"])),
    st.tuples(st.just("lost"), NAMES, st.sampled_from(["on", "off"])),
    st.tuples(st.just("kill"), NAMES, st.none()),
    st.tuples(st.just("unkill"), NAMES, st.none()),
    st.tuples(st.just("delete"), NAMES, st.none()),
    st.tuples(st.just("config"), st.sampled_from(["c", "c@acme"]), st.integers(0, 3)),
    st.tuples(st.just("tool"), NAMES, st.sampled_from(["1.0.0", "2.0.0"])),
    st.tuples(st.just("untool"), NAMES, st.sampled_from(["1.0.0", "2.0.0"])),
    st.tuples(st.just("agent"), NAMES, st.sampled_from(["1.0.0", "2.0.0"])),
    st.tuples(st.just("stable"), NAMES, st.sampled_from(["1.0.0", "2.0.0"])),
    st.tuples(st.just("stale"), NAMES, st.none()),
)


@pytest.fixture
def act(flag: Any, tool: Any, agent: Any) -> Any:
    """Append what a step says; much of it is rejected, and that is part of the history."""

    def act(log: Any, step: tuple[str, str, Any]) -> None:
        what, name, value = step
        if what in ("flag", "lost"):
            change = log.change(flag(name, default=value, salt=what))
            log.submit(change)
            if what == "lost":
                log.blobs.pop(change.digest)
        elif what == "config":
            log.put({"kind": "config", "name": name, "metadata": {"values": {"v": value}}})
        elif what == "tool":
            log.put(tool(value, name=name))
        elif what == "untool":
            log.delete("tool", name, value)
        elif what == "agent":
            log.put(agent("a>=1", "b", version=value, name=name))
        elif what == "stable":
            log.activate("tool", name, value)
        elif what == "kill":
            log.kill(name)
        elif what == "unkill":
            log.unkill(name)
        elif what == "delete":
            log.delete("flag", name)
        else:
            log.submit_as_is(
                Change(action="delete", kind="flag", name=name, replaces=len(log.leaves) + 7)
            )

    return act


def heads(log: Any) -> dict[bytes, bytes]:
    return {head_key(*key): head.encode() for key, head in log.heads.items()}


@pytest.fixture
def make_log(trust: Any, clock: Any, log: Any) -> Any:
    return lambda: type(log)(trust, clock)


numbers = count()


@RELAXED
@given(history=st.lists(STEPS, max_size=14), part=st.integers(1, 5))
def test_live_late_and_restarted_nodes_agree_byte_for_byte(
    make_log: Any, make_node: Any, act: Any, history: list[Any], part: int
) -> None:
    log, number = make_log(), next(numbers)
    live = make_node(f"live {number}", of=log)
    live.follow()
    for step in history:
        act(log, step)
        live.follow()
    late = make_node(f"late {number}", of=log)
    late.follow()
    parts = make_node(f"parts {number}", of=log)
    parts.follow(part)
    lazy = make_node(f"lazy {number}", of=log)
    lazy.follow(part, blobs=False)
    restarted = make_node(f"live {number}", of=log)
    for node in (late, parts, lazy, restarted):
        assert node.table("heads") == heads(log)
        assert node.follower.position == restarted.follower.position
        node_held = {key for entry in node.follower.held.values() for key in entry.keys}
        assert node_held == {k for e in restarted.follower.held.values() for k in e.keys}
    for node in (late, parts):
        assert node.records() == restarted.records()
    for node in (restarted, late, parts, lazy):
        node.close()
        assert verify(str(node.folder)).problems == ()


@settings(RELAXED, max_examples=25)
@given(
    chapters=st.lists(st.lists(STEPS, max_size=5), min_size=2, max_size=4), part=st.integers(2, 5)
)
def test_live_late_and_restarted_nodes_agree_through_epochs(
    make_log: Any, make_node: Any, act: Any, chapters: list[list[Any]], part: int
) -> None:
    log, number = make_log(), next(numbers)
    live = make_node(f"live {number}", of=log)
    parts = make_node(f"parts {number}", of=log)
    for chapter, steps in enumerate(chapters):
        if chapter:
            log = parts.log = live.log = log.next_epoch(epoch=log.epoch + 1 + chapter % 2)
        for step in steps:
            act(log, step)
        live.follow()
        if chapter % 2:
            live = make_node(f"live {number}", of=log)
    parts.follow(part)
    late = make_node(f"late {number}", of=log, enrolment=log.enrolment())
    late.follow()
    for node in (live, late, parts):
        assert node.table("heads") == heads(log)
        assert node.follower.position == live.follower.position
        assert node.records() == live.records()
        assert sorted(node.follower.held) == sorted(live.follower.held)
    for node in (live, late, parts):
        node.close()
        assert verify(str(node.folder)).problems == ()
