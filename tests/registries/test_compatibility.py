"""A tool's version number has to say what became of its schemas."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.errors import ManifestInvalid
from control_plane.registries.compatibility import (
    MAJOR,
    MINOR,
    PATCH,
    bump_between,
    check_bump,
    compare_tools,
    next_version,
)

STRING, NUMBER = {"type": "string"}, {"type": "number"}


def tool(version: str, inputs: Any = None, outputs: Any = None) -> dict[str, Any]:
    metadata = {"description": "d", "inputs_schema": inputs, "outputs_schema": outputs}
    known = {key: value for key, value in metadata.items() if value is not None}
    return {"kind": "tool", "name": "t", "version": version, "metadata": known}


@pytest.mark.parametrize(
    ("older", "newer", "needed", "verdict"),
    [
        (tool("1", STRING, STRING), tool("2", STRING, STRING), PATCH, "compatible"),
        (tool("1", STRING), tool("2", {**STRING, "description": "text"}), PATCH, "compatible"),
        (tool("1", STRING), tool("2", {"type": ["string", "null"]}), MINOR, "compatible"),
        (tool("1", {"type": ["string", "null"]}), tool("2", STRING), MAJOR, "breaking"),
        (tool("1", None, {"type": ["string", "null"]}), tool("2", None, STRING), MINOR,
         "compatible"),
        (tool("1", None, STRING), tool("2", None, {"type": ["string", "null"]}), MAJOR, "breaking"),
        (tool("1", None, STRING), tool("2"), MAJOR, "breaking"),
        (tool("1", {**STRING, "pattern": "^ab$"}), tool("2", {**STRING, "pattern": "^a"}), MAJOR,
         "unknown"),
    ],
)  # fmt: skip
def test_inputs_may_widen_and_outputs_may_narrow(
    older: Any, newer: Any, needed: str, verdict: str
) -> None:
    found = compare_tools(older, newer)
    assert (found.needed, found.verdict) == (needed, verdict)


@pytest.mark.parametrize(
    ("older", "newer", "bump"),
    [
        ("1.9.0", "1.10.0", MINOR), ("1.9.9", "2.0.0", MAJOR), ("1.2.3", "1.2.4", PATCH),
        ("0.4.2", "0.5.0", MAJOR), ("0.4.2", "0.4.3", MINOR), ("0.0.1", "0.0.2", MAJOR),
        ("1.0.0", "1.0.0.post1", PATCH), ("1.0.0", "1.0.0+local.1", PATCH),
        ("9.0.0", "1!0.1.0", MAJOR), ("0.9.0", "1.0.0", MAJOR),
    ],
)  # fmt: skip
def test_a_step_announces_what_its_first_number_says(older: str, newer: str, bump: str) -> None:
    assert bump_between(older, newer) == bump


@pytest.mark.parametrize("version", ["1.9.0", "0.4.2", "0.0.7", "0.0.0", "2!1.0.0"])
@pytest.mark.parametrize("needed", [PATCH, MINOR, MAJOR])
def test_the_version_that_is_proposed_would_do(version: str, needed: str) -> None:
    rank = (PATCH, MINOR, MAJOR)
    proposed = next_version(version, needed)
    assert rank.index(bump_between(version, proposed)) >= rank.index(needed)


def test_a_breaking_change_under_a_small_step_is_refused_with_place_and_cure() -> None:
    older = tool("1.9.0", {"type": "object", "properties": {"id": NUMBER}})
    newer = tool("1.10.0", {"type": "object", "properties": {"id": {"type": "integer"}}})
    with pytest.raises(ManifestInvalid, match=r"from 1\.9\.0 to 1\.10\.0") as refused:
        check_bump(newer, [older, tool("1.2.0")])
    assert "(inputs)" in str(refused.value)
    assert "at id" in str(refused.value)
    assert str(refused.value).endswith("publish it as 2.0.0")
    check_bump({**newer, "version": "2.0.0"}, [older])


def test_a_version_between_two_is_held_to_both() -> None:
    wide = tool("1.2.0", {"type": ["string", "null"]})
    with pytest.raises(ManifestInvalid, match=r"step from 1\.1\.5 to 1\.2\.0"):
        check_bump(tool("1.1.5"), [tool("1.1.0"), wide])
    check_bump(tool("1.1.5", STRING), [tool("1.1.0", STRING), wide])


def test_pre_releases_promise_nothing() -> None:
    check_bump(tool("1.0.1rc1", STRING), [tool("1.0.0", NUMBER)])
    check_bump(tool("1.0.0", STRING), [tool("1.0.0rc1", NUMBER), tool("1.0.0.dev3", NUMBER)])
