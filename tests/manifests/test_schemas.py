"""The schemas are schemas, tight, described, and the same wherever they are read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

from control_plane.manifests.json_schema import CompiledSchema
from control_plane.names import MANIFEST_KINDS
from control_plane.schemas import copy_to, schema, schema_text

VERSION = CompiledSchema(schema("tool")["properties"]["version"])


def places(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property with a name, wherever it is defined."""
    if isinstance(part, dict):
        properties = part.get("properties")
        if isinstance(properties, dict):
            yield from ((name, inner) for name, inner in properties.items() if name != "in")
        for inner in part.values():
            yield from places(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from places(inner)


@pytest.mark.parametrize("kind", MANIFEST_KINDS)
def test_a_schema_is_json_schema_and_describes_every_field(kind: str) -> None:
    loaded = schema(kind)
    jsonschema.Draft202012Validator.check_schema(loaded)
    assert loaded["additionalProperties"] is False
    conditional = loaded.pop("then", None), loaded.pop("if", None)
    assert (conditional != (None, None)) == (kind == "config")
    undescribed = [
        name
        for name, inner in places(loaded)
        # False is no place: it says that there is none.
        if name != "metadata"
        and inner is not False
        and not inner.get("description")
        and "$ref" not in inner
    ]
    assert undescribed == []


def test_the_copies_for_editors_are_the_package_s_own(shipped: Path) -> None:
    copies = {path.name: path.read_bytes() for path in (shipped / "schemas").iterdir()}
    assert copies == {f"{kind}.schema.json": schema_text(kind) for kind in MANIFEST_KINDS}


def test_a_command_writes_the_copies(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    command = [sys.executable, "-m", "control_plane.schemas", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split() == [str(path) for path in sorted(folder.iterdir(), key=order)]
    assert [path.read_bytes() for path in copy_to(tmp_path)] == [
        schema_text(kind) for kind in MANIFEST_KINDS
    ]


def order(path: Path) -> int:
    return MANIFEST_KINDS.index(path.name.removesuffix(".schema.json"))


def test_an_unknown_kind_has_no_schema() -> None:
    with pytest.raises(ValueError, match="found 'flog'"):
        schema("flog")


@given(
    st.from_regex(r"\A[v]?([0-9]{1,2}!)?[0-9]{1,2}(\.[0-9]{1,2}){1,3}", fullmatch=False)
    | st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["1.2.3", "0.0.0", "1.02.3", "1.2", "1!1.2.3", "0!1.0.0"]),
            st.sampled_from(["", "a1", "b0", "rc10", "rc01", "alpha1", ".a1", "c1", "a"]),
            st.sampled_from(["", ".post1", "-1", ".post", ".post01"]),
            st.sampled_from(["", ".dev0", "dev1", ".dev"]),
            st.sampled_from(["", "+a.1", "+seed", "+01", "+A", "+a_b", "+1a", "+0", "+0a", "+"]),
        ),
    )
)
def test_a_version_is_pep_440_s_normal_form_with_three_numbers(text: str) -> None:
    try:
        version = Version(text)
        normal = str(version) == text and len(version.release) == 3
    except InvalidVersion:
        normal = False
    assert (VERSION.first_finding(text) is None) == normal
