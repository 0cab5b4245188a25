"""``lint``: advice on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from control_plane.cli.linting import lint

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


def asking(name: str) -> dict[str, Any]:
    return {**ON_OFF, "rules": [{"name": "r", "when": {"$flag": {name: "on"}}, "serve": "on"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "schemas").mkdir()
    return tmp_path


def put(folder: Path, name: str, metadata: dict[str, Any]) -> None:
    document = {"kind": "flag", "name": name, "metadata": metadata}
    (folder / f"{name}.json").write_text(json.dumps(document))


def test_sound_documents_end_with_0(folder: Path) -> None:
    put(folder, "a", asking("b"))
    put(folder, "b", ON_OFF)
    done = CliRunner().invoke(lint, [str(folder)], standalone_mode=False)
    assert (done.output, done.return_value) == ("2 documents, no advice\n", 0)


def test_advice_is_printed_and_ends_with_1(folder: Path) -> None:
    put(folder, "a", asking("bb"))
    put(folder, "bbb", ON_OFF)
    (folder / "schemas" / "context.schema.json").write_text('{"properties": {"plan": {}}}')
    rule = {"name": "r", "when": {"paln": "pro"}, "serve": "on"}
    put(folder, "c", {**ON_OFF, "rules": [rule]})
    done = CliRunner().invoke(lint, [str(folder)], standalone_mode=False)
    assert done.return_value == 1
    assert "flag/a: expected a flag that is published, found none called bb" in done.output
    assert "did you mean plan? at metadata.rules[0].when" in done.output
    assert done.output.endswith("3 documents, 2 advice\n")
    told = json.loads(CliRunner().invoke(lint, [str(folder), "--json"]).output)
    assert [each["document"] for each in told["advice"]] == ["flag/a", "flag/c"]


def test_the_shipped_documents_are_meant() -> None:
    shipped = Path(__file__).parents[2] / "manifests"
    done = CliRunner().invoke(lint, [str(shipped)], standalone_mode=False)
    assert (done.return_value, "no advice" in done.output) == (0, True)


def test_a_ring_is_named_as_the_environment_sees_it(folder: Path) -> None:
    put(folder, "a", asking("b"))
    put(folder, "b", {**ON_OFF, "environments": {"production": {"rules": asking("a")["rules"]}}})
    for arguments, code in (([], 1), (["-e", "production"], 1), (["-e", "staging"], 0)):
        done = CliRunner().invoke(lint, [str(folder), *arguments], standalone_mode=False)
        assert done.return_value == code
        assert ("found a > b > a" in done.output) is bool(code)


def test_a_schema_that_is_none_is_refused(folder: Path) -> None:
    from control_plane.errors import SyntaxInvalid

    put(folder, "b", ON_OFF)
    (folder / "schemas" / "context.schema.json").write_text("[]")
    with pytest.raises(SyntaxInvalid, match="expected a JSON Schema as one object"):
        CliRunner().invoke(lint, [str(folder)], standalone_mode=False, catch_exceptions=False)
