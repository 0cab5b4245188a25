"""``import openai-tools``: functions in, versions of tools out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.cli.failures import run
from control_plane.errors import SyntaxInvalid
from control_plane.manifests.imported import Imported
from control_plane.manifests.loader import load_file
from control_plane.manifests.openai_tools import import_openai_tools
from control_plane.manifests.rows import load_rows
from control_plane.registries.exchange import to_openai
from control_plane.testing import replica


def function(name: str, kind: str = "dict", **schema: Any) -> dict[str, Any]:
    return {"name": name, "description": "d", "parameters": {"type": kind, **schema}}


def imported(folder: Path, rows: list[Any]) -> Imported:
    file = folder / "tools.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return import_openai_tools(load_rows(file))


def schema_of(folder: Path, schema: dict[str, Any]) -> Any:
    found = imported(folder, [{"name": "f", "description": "d", "parameters": schema}])
    assert found.problems == ()
    return found.documents[0]["metadata"]["inputs_schema"]


def test_other_content_is_the_next_version_and_the_same_is_one(tmp_path: Path) -> None:
    one, two = function("f"), function("f", required=["a"])
    found = imported(tmp_path, [one, two, one, function("g"), function("f", "object")])
    assert [(each["name"], each["version"]) for each in found.documents] == [
        ("f", "0.0.1"),
        ("f", "0.0.2"),
        ("g", "0.0.1"),
    ]
    assert "2 rows repeat what an earlier row says" in found.notes


def test_a_mapped_name_is_kept_and_comes_back(tmp_path: Path) -> None:
    found = imported(tmp_path, [function("Alarm_1_Add", "object")])
    (document,) = found.documents
    assert document["name"] == "alarm_1_add"
    assert document["metadata"]["source"] == {"format": "openai-tools", "name": "Alarm_1_Add"}
    assert to_openai(document)["function"] == function("Alarm_1_Add", "object")


def test_a_name_that_becomes_anothers_is_refused(tmp_path: Path) -> None:
    found = imported(tmp_path, [function("Add"), function("add"), function("__")])
    assert [document["name"] for document in found.documents] == ["add"]
    assert [(problem.path[0], problem.text) for problem in found.problems] == [
        (2, "tool add: expected a name no other tool has, found add of 'Add'"),
        (3, "tool __: expected a name of letters and digits, found '__'"),
    ]


def test_words_of_other_dialects_become_json_schemas(tmp_path: Path) -> None:
    schema = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "default": {"type": "dict"}},
            "type": {"type": "tuple", "items": {"type": "any"}},
            "pair": {"type": "array", "items": [{"type": "int"}, {"type": "str"}]},
            "some": {"type": ["float", "NULL"]},
        },
    }
    assert schema_of(tmp_path, schema) == {
        "type": "object",
        "properties": {
            "a": {"type": "number", "default": {"type": "dict"}},
            "type": {"type": "array", "items": {}},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
            "some": {"type": ["number", "null"]},
        },
    }


@pytest.mark.parametrize(
    ("schema", "problem", "path"),
    [
        ({"type": "money"}, "expected JSON Schema 2020-12", ("metadata", "inputs_schema", "type")),
        ({"type": "string", "nullable": True}, "nullable: true of OpenAPI", ("nullable",)),
        ({"$ref": "https://example.org/x"}, "stays inside the schema", None),
        ({"required": True}, "expected JSON Schema 2020-12", None),
    ],
)
def test_what_is_no_json_schema_is_refused_with_its_row(
    tmp_path: Path, schema: Any, problem: str, path: Any
) -> None:
    found = imported(tmp_path, [function("g"), {"name": "f", "parameters": schema}])
    assert [document["name"] for document in found.documents] == ["g"]
    (told,) = found.problems
    assert told.path[0] == 2
    assert problem in told.text
    assert path is None or told.path[1:] == path


def test_a_tool_without_parameters_takes_none(tmp_path: Path) -> None:
    (document,) = imported(tmp_path, [{"type": "function", "name": "now"}]).documents
    assert document["metadata"]["inputs_schema"] == {"type": "object", "properties": {}}
    assert document["metadata"]["description"] == "now"


def test_the_command_writes_a_file_for_each_version_and_tells_the_row_of_a_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tools.json"
    rows = [function("F"), function("F", required=["a"]), {"name": "bad", "parameters": 1}]
    file.write_text(json.dumps({"tools": rows}), encoding="utf-8")
    out = tmp_path / "m"
    assert run(["import", "openai-tools", str(file), "--out", str(out)]) == 1
    assert not out.exists()
    assert f"{file}: row 3: parameters: tool bad: expected" in capsys.readouterr().err
    assert run(["import", "openai-tools", str(file), "--out", str(out), "--partial"]) == 1
    assert sorted(path.name for path in (out / "tools").iterdir()) == [
        "f@0.0.1.yaml",
        "f@0.0.2.yaml",
    ]
    told = capsys.readouterr().out
    assert "2 files written, 0 as they were, 1 tool refused" in told
    tools = [load_file(path).value for path in sorted((out / "tools").iterdir())]
    with replica(tools=tools) as kit:
        assert kit.registry.get_tool("f").version == "0.0.2"


@pytest.mark.parametrize("text", ['{"a": 1}', "3", "[1", '{"tools": 1}'])
def test_a_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SyntaxInvalid, match=r"x\.json"):
        load_rows(file, under=("tools",))


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"name": "a"}\n\n{"name": \n', encoding="utf-8")
    with pytest.raises(SyntaxInvalid, match=r"x\.jsonl: row 3"):
        load_rows(file)


def test_the_schemas_of_the_field_import_whole(tool_schemas: Path) -> None:
    found = import_openai_tools(load_rows(tool_schemas))
    assert found.problems == ()
    assert len(found.documents) == 1167
    assert len({document["name"] for document in found.documents}) == 711
    assert found.notes == (
        "172 names are mapped; metadata.source.name has the original",
        "3 rows repeat what an earlier row says",
        "10 type any is no type",
        "1339 type dict is object",
        "331 type float is number",
        "13 type tuple is array",
    )
