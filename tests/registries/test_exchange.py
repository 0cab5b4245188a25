"""Tools in the forms of model APIs and MCP: what each holds, and the way back."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid
from control_plane.manifests.validation import validate
from control_plane.registries import exchange
from control_plane.testing import replica

SCHEMA = {
    "type": "object",
    "properties": {"customer_id": {"type": "string"}},
    "required": ["customer_id"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "kind": "tool",
    "name": "crm_tool",
    "version": "1.2.0",
    "owner": "platform",
    "metadata": {
        "description": "looks a customer up",
        "inputs_schema": SCHEMA,
        "outputs_schema": {"type": "object"},
        "timeout_ms": 100,
    },
}
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,127}", fullmatch=True)


def tool(**metadata: Any) -> dict[str, Any]:
    return {**TOOL, "metadata": {**TOOL["metadata"], **metadata}}


def test_a_tool_of_the_registry_has_the_three_forms() -> None:
    with replica(tools=[TOOL]) as kit:
        crm = kit.registry.get_tool("crm_tool")
        function = {
            "name": "crm_tool",
            "description": "looks a customer up",
            "parameters": SCHEMA,
        }
        assert crm.to_openai() == {"type": "function", "function": function}
        assert crm.to_openai("responses") == {"type": "function", "strict": False, **function}
        assert crm.to_anthropic() == {
            "name": "crm_tool",
            "description": "looks a customer up",
            "input_schema": SCHEMA,
        }
        assert crm.to_mcp() == {
            "name": "crm_tool",
            "description": "looks a customer up",
            "inputSchema": SCHEMA,
            "outputSchema": {"type": "object"},
        }


def test_what_is_handed_out_is_the_callers_own() -> None:
    with replica(tools=[TOOL]) as kit:
        kit.registry.get_tool("crm_tool").to_openai()["function"]["parameters"].clear()
        assert kit.registry.get_tool("crm_tool").to_openai()["function"]["parameters"] == SCHEMA


@pytest.mark.parametrize(
    ("there", "back", "held"),
    [
        (exchange.to_openai, exchange.from_openai, ("description", "inputs_schema")),
        (
            lambda document: exchange.to_openai(document, "responses"),
            exchange.from_openai,
            ("description", "inputs_schema"),
        ),
        (exchange.to_anthropic, exchange.from_anthropic, ("description", "inputs_schema")),
        (
            exchange.to_mcp,
            exchange.from_mcp,
            ("description", "inputs_schema", "outputs_schema", "mcp"),
        ),
    ],
    ids=["chat", "responses", "anthropic", "mcp"],
)
def test_there_and_back_keeps_what_the_form_holds(there: Any, back: Any, held: Any) -> None:
    of_mcp = {"tool": {"title": "CRM", "annotations": {"readOnlyHint": True}}}
    document = tool(mcp=of_mcp)
    validate(document)
    name, metadata = back(there(document))
    assert name == "crm_tool"
    assert {field: metadata[field] for field in held} == {
        field: document["metadata"][field] for field in held
    }


@pytest.mark.parametrize("strict", [True, False])
def test_strict_is_kept_on_the_way_there_and_back(strict: bool) -> None:
    function = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": strict}
    name, metadata = exchange.from_openai({"type": "function", "function": function})
    document = {**TOOL, "name": name, "metadata": metadata}
    validate(document)
    assert exchange.to_openai(document)["function"] == function
    assert exchange.to_openai(document, "responses") == {"type": "function", **function}


@given(NAMES)
def test_every_name_of_ours_becomes_one_of_theirs(name: str) -> None:
    document = {**TOOL, "name": name}
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", exchange.exchanged_name(document, "openai"))
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", exchange.exchanged_name(document, "anthropic"))
    assert exchange.exchanged_name(document, "mcp") == name


@given(NAMES, NAMES)
def test_two_tools_stay_two(one: str, other: str) -> None:
    names = {
        exchange.exchanged_name({**TOOL, "name": name}, "openai")
        for name in {one, other, one.replace(".", "_")}
    }
    assert len(names) == len({one, other, one.replace(".", "_")})


def test_a_mapped_name_is_told() -> None:
    document = {**TOOL, "name": "crm.tool"}
    name = exchange.exchanged_name(document, "openai")
    assert name.startswith("crm_tool_")
    assert f"name: crm.tool is {name}" in exchange.left_out(document, "openai")


def test_what_a_form_does_not_hold_is_listed() -> None:
    told = exchange.left_out(TOOL, "openai")
    assert told == ("version", "owner", "metadata.outputs_schema", "metadata.timeout_ms")
    assert "metadata.outputs_schema" not in exchange.left_out(TOOL, "mcp")


def test_an_imported_tool_has_its_first_name_again_and_no_other_tools() -> None:
    own = {"source": {"format": "openai-tools", "name": "CRM_Tool"}}
    assert exchange.exchanged_name(tool(**own), "openai") == "CRM_Tool"
    assert exchange.left_out(tool(**own), "openai")[-2:] == (
        "metadata.source.format",
        "name: crm_tool is CRM_Tool",
    )
    stolen = {"source": {"format": "openai-tools", "name": "Payments"}}
    assert exchange.exchanged_name(tool(**stolen), "openai") == "crm_tool"


def test_the_forms_need_no_package_beyond_the_librarys_own() -> None:
    with replica(tools=[TOOL]) as kit:
        program = (
            "import sys\n"
            "for name in ('packaging', 'rfc8785', 'yaml', 'jsonschema_rs', 'tenacity'):\n"
            "    sys.modules[name] = None\n"
            "from control_plane import RegistryManager\n"
            f"registry = RegistryManager(replica={kit.variables['CONTROL_PLANE_REPLICA']!r})\n"
            "tool = registry.get_tool('crm_tool')\n"
            "print(tool.to_openai()['type'], tool.to_anthropic()['name'], tool.to_mcp()['name'])\n"
        )
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (ran.stdout, ran.stderr) == ("function crm_tool crm_tool\n", "")


def test_an_object_is_said_where_the_schema_leaves_it_out() -> None:
    document = tool(inputs_schema={"properties": {"a": {}}})
    assert exchange.to_anthropic(document)["input_schema"]["type"] == "object"
    assert exchange.left_out(document, "anthropic")[-1] == (
        "metadata.inputs_schema: type object is written out"
    )


def test_a_server_has_no_form() -> None:
    server = {**TOOL, "metadata": {"description": "d", "mcp": {"server": {"name": "x"}}}}
    validate(server)
    for form in (exchange.to_openai, exchange.to_anthropic, exchange.to_mcp):
        with pytest.raises(ManifestInvalid, match="expected an inputs_schema, found an MCP server"):
            form(server)


@pytest.mark.parametrize(
    ("row", "problem", "path"),
    [
        ([], "expected a mapping, found a list", ()),
        ({"description": "d"}, "expected a name, found none", ("name",)),
        ({"type": "web_search"}, "expected a function", ("type",)),
        ({"name": "f", "parameters": 3}, "expected a mapping, found a int", ("parameters",)),
        ({"name": "f", "strict": "no"}, "expected true or false, found 'no'", ("strict",)),
        ({"name": "f", "output": {}}, "found 'output'", ("output",)),
        ({"type": "function", "function": {}}, "expected a name", ("function", "name")),
    ],
)
def test_what_is_no_function_is_refused_with_its_place(
    row: Any, problem: str, path: tuple[str, ...]
) -> None:
    with pytest.raises(ManifestInvalid, match=problem) as caught:
        exchange.from_openai(row)
    assert caught.value.path == path
