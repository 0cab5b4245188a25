"""Versions: their order, what is told of deprecated ones, and what can be wrong with them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from control_plane.errors import NotFound
from control_plane.registries.ordering import order
from control_plane.replica.reader import OPEN
from control_plane.testing import ReplicaKit, replica

NUMBER = st.integers(0, 11)
LOCAL = st.lists(st.one_of(NUMBER.map(str), st.sampled_from(["a", "b1", "seed"])), min_size=1)


@st.composite
def versions(draw: Any) -> str:
    """Versions in PEP 440's normal form with three numbers."""
    text = draw(st.sampled_from(["", "", "1!"]))
    text += ".".join(str(draw(NUMBER)) for _ in range(3))
    text += draw(st.one_of(st.just(""), st.tuples(st.sampled_from("abc"), NUMBER).map(_pre)))
    for word in (".post", ".dev"):
        text += draw(st.one_of(st.just(""), NUMBER.map((word + "{}").format)))
    return str(text + draw(st.one_of(st.just(""), LOCAL.map(lambda parts: "+" + ".".join(parts)))))


def _pre(pair: tuple[str, int]) -> str:
    return f"{'rc' if pair[0] == 'c' else pair[0]}{pair[1]}"


@given(versions(), versions())
def test_the_order_is_packagings(left: str, right: str) -> None:
    assert (order(left) < order(right)) == (Version(left) < Version(right))
    assert (order(left) == order(right)) == (Version(left) == Version(right))


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text_has_a_place(left: str, right: str) -> None:
    assert (order(left) < order(right)) or (order(right) <= order(left))


def tool(name: str, version: str = "1.0.0", **envelope: Any) -> dict[str, Any]:
    return {"name": name, "version": version, "metadata": {"description": "d"}, **envelope}


@pytest.fixture
def kit() -> Iterator[ReplicaKit]:
    OPEN.complained.clear()
    with replica(tools=[tool("crm"), tool("old", deprecated=True)]) as client:
        yield client


def test_a_deprecated_version_is_told_once_and_counted_each_time(
    kit: ReplicaKit, caplog: pytest.LogCaptureFixture
) -> None:
    kit.set_status("tool", "crm", "1.0.0", "deprecated", "slow", "tool/crm@2.0.0")
    with (
        caplog.at_level(logging.WARNING, "control_plane.registries"),
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        for _ in range(3):
            assert kit.registry.get_tool("crm").status == "deprecated"
        with kit.pinned() as view:
            view.registry.get_tool("crm")
    sentence = "tool/crm@1.0.0: expected a version in use, found it deprecated: slow; use tool/crm"
    assert [str(each.message) for each in told] == [f"{sentence}@2.0.0"]
    assert (told[0].category, told[0].filename) == (DeprecationWarning, __file__)
    assert len(caplog.records) == 1
    assert kit.registry.counts() == {("tool/crm@1.0.0", "deprecated"): 4}


def test_a_manifest_that_calls_itself_deprecated_is_told_alike(kit: ReplicaKit) -> None:
    with pytest.warns(DeprecationWarning, match="tool/old@1.0.0: expected a version in use"):
        kit.registry.get_tool("old")
    kit.registry.get_tool("old")
    assert kit.registry.counts() == {("tool/old@1.0.0", "deprecated"): 2}


def test_a_version_made_active_again_is_neither_told_nor_counted(kit: ReplicaKit) -> None:
    kit.set_status("tool", "crm", "1.0.0", "deprecated")
    kit.set_status("tool", "crm", "1.0.0", "active")
    assert kit.registry.get_tool("crm").status == "active"
    assert kit.registry.counts() == {}


def test_where_warnings_are_errors_the_second_call_answers(kit: ReplicaKit) -> None:
    kit.set_status("tool", "crm", "1.0.0", "deprecated", "slow")
    with pytest.raises(DeprecationWarning):
        kit.registry.get_tool("crm")
    assert kit.registry.get_tool("crm").version == "1.0.0"


@pytest.mark.parametrize("name", ["CRM_Tool", "crm.tool", "crm-tool"])
def test_a_name_that_differs_by_case_or_dots_names_the_one_meant(
    kit: ReplicaKit, name: str
) -> None:
    kit.put_tool(tool("crm_tool"))
    with pytest.raises(NotFound, match=r"found none; nearest: crm_tool"):
        kit.registry.get_tool(name)


def test_a_prompt_of_almost_a_mebibyte_is_read_and_left_to_its_reader(kit: ReplicaKit) -> None:
    prompt = "ä" * ((1 << 19) - 200)
    kit.put_agent({"name": "a", "metadata": {"description": "d", "system_prompt": prompt}})
    agent = kit.registry.get_agent("a")
    assert agent.system_prompt == prompt
    agent.system_prompt += "!"
    assert kit.registry.get_agent("a").system_prompt == prompt
