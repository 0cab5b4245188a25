"""Which version of a tool an agent gets, or the sentence that says why none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from control_plane.errors import ManifestInvalid
from control_plane.replica.resolution import (
    Offered,
    ToolReference,
    parse_tool_reference,
    resolve,
    tool_references,
)

OFFERED = Offered(
    {"1.2.0": "d120", "1.10.0": "d1100", "2.0.0": "d200", "2.1.0rc1": "drc"}, {}, "1.2.0"
)


def agent(*tools: Any) -> dict[str, Any]:
    return {"metadata": {"tools": list(tools)}}


def chosen(tool: Any, offered: Offered) -> tuple[str | None, str | None]:
    (found,) = resolve(agent(tool), lambda name: offered).values()
    return found["version"], found["problem"]


def test_the_stable_version_is_taken_when_it_meets_the_specifier() -> None:
    assert chosen("t", OFFERED) == ("1.2.0", None)
    assert chosen("t>=1.2,<2", OFFERED) == ("1.2.0", None)


def test_else_the_highest_version_that_meets_it_is() -> None:
    assert chosen("t>=1.3,<2", OFFERED) == ("1.10.0", None)
    assert chosen("t>=1.3", OFFERED) == ("2.0.0", None)
    assert chosen("t", OFFERED._replace(stable=None)) == ("2.0.0", None)


def test_a_pre_release_is_taken_only_when_asked_for_or_stable() -> None:
    assert chosen("t>=2.1.0rc1", OFFERED) == ("2.1.0rc1", None)
    assert chosen("t>2.0.0", OFFERED)[0] is None
    assert chosen("t", OFFERED._replace(stable="2.1.0rc1")) == ("2.1.0rc1", None)


def test_a_yanked_version_is_never_taken_and_a_deprecated_one_is() -> None:
    statuses = {"1.2.0": "yanked", "1.10.0": "deprecated"}
    assert chosen("t<2", OFFERED._replace(statuses=statuses)) == ("1.10.0", None)


def test_a_stable_channel_without_its_version_is_passed_over() -> None:
    assert chosen("t", OFFERED._replace(stable="9.0.0")) == ("2.0.0", None)


def test_a_tool_that_cannot_be_had_is_told_in_a_sentence() -> None:
    assert chosen("t>=3", Offered({}, {}, None)) == (
        None,
        "expected tool/t>=3, found no version of it",
    )
    offered = OFFERED._replace(statuses={"2.0.0": "yanked"})
    assert chosen("t>=2,<3", offered) == (
        None,
        "expected tool/t>=2,<3, found 2.1.0rc1, 2.0.0 (yanked), 1.10.0, 1.2.0",
    )
    many = Offered({f"1.0.{i}": "d" for i in range(30)}, {}, None)
    assert str(chosen("t>2", many)[1]).endswith("1.0.22 and 22 more")


def test_a_record_keeps_the_manifests_order_and_what_was_asked() -> None:
    tools = {"b": OFFERED, "a": Offered({}, {}, None)}
    found = resolve(
        agent("b ~= 1.2", {"name": "a", "version": "1.0.0", "optional": True}), tools.__getitem__
    )
    assert list(found.items()) == [
        ("b", {"specifier": "~= 1.2", "optional": False, "version": "1.2.0", "digest": "d120",
               "problem": None}),
        ("a", {"specifier": "==1.0.0", "optional": True, "version": None, "digest": None,
               "problem": "expected tool/a==1.0.0, found no version of it"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("crm_tool", ToolReference("crm_tool", "", False)),
        ("crm_tool>=1.2,<2", ToolReference("crm_tool", ">=1.2,<2", False)),
        ("a.b-c ==1.0.0", ToolReference("a.b-c", "==1.0.0", False)),
        ({"name": "t", "version": ">=1"}, ToolReference("t", ">=1", False)),
        ({"name": "t", "optional": True}, ToolReference("t", "", True)),
    ],
)
def test_a_reference_has_three_forms(written: Any, reference: ToolReference) -> None:
    assert parse_tool_reference(written) == reference


@pytest.mark.parametrize(
    "written", ["", ">=1", "T", "t>>1", "t>=", "t@1", "t>=1 or <2", {"name": "T"}]
)
def test_what_is_no_reference_is_refused(written: Any) -> None:
    with pytest.raises(ManifestInvalid, match="expected a tool such as"):
        parse_tool_reference(written)


def test_a_tool_asked_for_twice_is_refused_with_its_place() -> None:
    with pytest.raises(ManifestInvalid, match=r"found t again at metadata.tools\[1\]") as refused:
        tool_references(agent("t", {"name": "t"}))
    assert refused.value.path == ("metadata", "tools", 1)


versions = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)).map(
    lambda parts: ".".join(map(str, parts))
)


@given(
    st.lists(versions, unique=True, max_size=8),
    st.lists(versions, max_size=3),
    versions,
    st.sampled_from(["", ">=1", "<2", "==1.0.0", "~=1.1", "!=1.0.0,<2"]),
)
def test_a_chosen_version_is_offered_usable_and_meets_what_was_asked(
    offered: list[str], yanked: list[str], stable: str, specifier: str
) -> None:
    statuses = dict.fromkeys(yanked, "yanked")
    version, problem = chosen(
        f"t{specifier}", Offered(dict.fromkeys(offered, "d"), statuses, stable)
    )
    usable = [v for v in offered if v not in yanked and Version(v) in SpecifierSet(specifier)]
    assert (version is None) == (not usable) == (problem is not None)
    if version is not None:
        assert version in usable
        assert version == (stable if stable in usable else max(usable, key=Version))
