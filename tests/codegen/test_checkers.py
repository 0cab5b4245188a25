"""What mypy and pyright say of a program that uses generated code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}
STYLE: dict[str, Any] = {
    "variants": {"warm": "be kind", "brief": "be short"}, "default": "warm", "disabled": "warm",
}  # fmt: skip
WHOLE: dict[str, Any] = {"variants": {"one": 1, "four": 4}, "default": "one", "disabled": "one"}
RATIO: dict[str, Any] = {"variants": {"no": 0, "low": 0.5}, "default": "no", "disabled": "no"}
LIMITS: dict[str, Any] = {
    "variants": {"small": {"rate": 1, "burst": 2}, "large": {"rate": 10}},
    "default": "small",
    "disabled": "small",
}
DATABASE: dict[str, Any] = {
    "schema": {
        "type": "object",
        "required": ["url", "pool"],
        "properties": {
            "url": {"type": "string"},
            "mode": {"enum": ["read", "write"]},
            "pool": {"$ref": "#/$defs/pool"},
            "hosts": {"type": "array", "items": {"type": "string"}},
            "limit": {"type": ["integer", "null"]},
            "plans": {"type": "object", "additionalProperties": {"$ref": "#/$defs/pool"}},
            "tree": {"$ref": "#/$defs/tree"},
        },
        "$defs": {
            "pool": {
                "type": "object",
                "required": ["size"],
                "properties": {"size": {"type": "integer"}, "wait": {"type": "number"}},
            },
            "tree": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
            },
        },
    },
    "values": {
        "url": "postgresql://localhost/app",
        "pool": {"size": 5},
        "plans": {"a": {"size": 1}},
    },
}

ODD: dict[str, Any] = {
    "port": 1, "str": 2, "list": ["x"], "größe": 3, "a-b": {"class": True}, "with.dot": "x",
    "__mangled": 1, 'quo"te': 2,
}  # fmt: skip

# Each line that ends in a mark is reported by both checkers, every other by none.
PROGRAM = """\
from dataclasses import dataclass
from typing import Literal, assert_type

import control_plane
from features import (
    BooleanFlag, ConfigManager, ControlPlaneClient, DatabaseConfig, FeatureFlagManager,
    LimitsValue, RegistryManager, StyleVariant,
)

@dataclass(frozen=True)
class Pool:
    size: int

client = ControlPlaneClient()
flags = client.flags
assert_type(flags, FeatureFlagManager)

# names
assert_type(client.is_enabled("new_model", tenant_id="acme", default=True), bool)
client.is_enabled("new_modl")  # wrong
flags.is_enabled("dots.and-dashes", "u1", rollout_percentage=25)
flags.is_enabled("style")  # wrong
flags.is_enabled("new_model", tenant="acme")  # wrong
flags.is_enabled("old_model")  # wrong: deprecated
flags.is_enabled("deleted_flag")  # wrong

def asked(name: BooleanFlag, any_name: str) -> bool:
    flags.is_enabled(any_name)  # wrong
    return flags.is_enabled(name)

# variants
assert_type(flags.variant("style"), Literal["brief", "warm"] | None)
assert_type(flags.variant("style", default="warm"), Literal["brief", "warm"])
flags.variant("style", None, None, None, "warm")
flags.variant("style", default="warmm")  # wrong
def worded(style: StyleVariant) -> str:
    return style
if (style := flags.variant("style")) is not None:
    worded(style)
    if style == "shiny":  # wrong
        pass

# values
assert_type(flags.value("new_model", False), bool)
assert_type(flags.value("style", "be kind", user_id="u1"), str)
assert_type(flags.value("style", None), str | None)
flags.value("style", 3)  # wrong
assert_type(flags.value("parallel", 1), int)
assert_type(flags.value("ratio", 0.5), float)
assert_type(flags.get_int("parallel", 1), int)
flags.get_int("ratio", 1)  # wrong
assert_type(flags.get_float("parallel", 1.5), float)
flags.get_str("parallel", "1")  # wrong
assert_type(flags.value("limits", {"rate": 3}), LimitsValue)
assert_type(flags.value("limits", {"rate": 3}).get("burst"), int | None)
flags.value("limits", {"rate": "3"})  # wrong
flags.value("limits", {})  # wrong
assert_type(flags.value("limits", None), LimitsValue | None)
flags.get_json("limitz", None)  # wrong
assert_type(flags.evaluate("ratio", 0.5), control_plane.Evaluation)
flags.evaluate("ratio", "half")  # wrong

# every form of them
handle = flags.flag("new_model")
assert_type(handle("u1", default=True), bool)
flags.flag("style")  # wrong
bound = flags.bind(user_id="u1")
bound.is_enabled("new_modl")  # wrong
with client.pinned() as view:
    view.flags.is_enabled("new_modl")  # wrong
    assert_type(view.config.get("database.pool.size"), int)
    view.registry.get_agent("support")
with flags.override({"new_model": True}):
    flags.explain("new_modl")  # wrong
flags.override({"new_modl": True})  # wrong
FeatureFlagManager(client).is_enabled("new_modl")  # wrong

# configuration
config = client.config
assert_type(config, ConfigManager)
assert_type(config.get("database.url"), str)
assert_type(config.get("database.url", None), str | None)
assert_type(config.get("database.url", tenant_id="acme", default="x"), str)
config.get("database.urll")  # wrong
config.get("database.pool.size", "many")  # wrong
assert_type(config.get("database"), DatabaseConfig)
assert_type(config.get("database")["pool"]["size"], int)
config.get("database")["pool"]["sise"]  # wrong
assert_type(config.get("database.mode"), Literal["read", "write"])
assert_type(config.get("database.hosts"), list[str])
assert_type(config.get("database.hosts", []), list[str])
assert_type(config.get("database.limit"), int | None)
assert_type(config.get("database.plans.a.size"), int)
assert_type(config.get("database")["plans"]["b"]["size"], int)
assert_type(config.get("database.tree")["name"], str)
name: str = config.get("database.tree").get("children", [])[0].get("children", [])[0]["name"]
assert_type(config.get("plain.port"), int)
assert_type(config.get("plain.größe"), int)
assert_type(config.get('plain.quo"te'), int)
assert_type(config.get("plain.a-b")["class"], bool)
assert_type(config.get("plain")["str"], int)
assert_type(config.get("plain")["list"], list[str])
assert_type(config.get("plain")["with.dot"], str)
assert_type(config.get("plain")["__mangled"], int)
config.get("plain.with.dot")  # wrong
config.get(("database", "plans", name))
config.section("databas")  # wrong
config.watch("database.pool", print)
config.watch("database.pol", print)  # wrong
assert_type(config.bind(Pool, "database.pool").value, Pool)
assert_type(config.bind(Pool)(), Pool)
config.bind(Pool, "database.pol")  # wrong
config.snapshot("database").generation
config.snapshot(tenant_id="acme")
config.snapshot("databas")  # wrong
assert_type(config.origin("database.pool.size").layer, str)
config.origin("database.pool.sise", tenant_id="acme")  # wrong
async def follow() -> None:
    config.changes("database.pol")  # wrong
    async with config.changes(("database", "pool")) as changes:
        async for change in changes:
            assert_type(change.generation, int)
with client.pinned() as held:
    held.config.origin("databas")  # wrong

# agents and tools
registry = client.registry
assert_type(registry, RegistryManager)
registry.get_agent("support", version="1.0.0")
registry.get_agent("suport")  # wrong
registry.get_tool("crm")
registry.get_tool("support")  # wrong

# code that knows the library only
def plain(client: control_plane.ControlPlaneClient) -> None:
    client.is_enabled("whatever")
plain(client)
"""
WRONG = {n for n, line in enumerate(PROGRAM.splitlines(), 1) if "# wrong" in line}


@pytest.fixture
def given(documents: Callable[..., dict[str, Any]], tmp_path: Path) -> list[dict[str, Any]]:
    agent = {"description": "d", "capabilities": ["c"], "tools": ["crm"], "system_prompt": "p"}
    tool = {"description": "d", "inputs_schema": {"type": "object"}}
    return [
        documents("flag", "new_model", ON_OFF),
        documents("flag", "dots.and-dashes", ON_OFF),
        documents("flag", "old_model", ON_OFF, deprecated=True),
        documents("flag", "style", STYLE),
        documents("flag", "parallel", WHOLE),
        documents("flag", "ratio", RATIO),
        documents("flag", "limits", LIMITS),
        documents("config", "database", DATABASE),
        documents("config", "plain", {"values": ODD}),
        documents("agent", "support", agent, version="1.0.0"),
        documents("tool", "crm", tool, version="1.0.0"),
    ]


def test_mypy_reports_each_wrong_use_and_no_right_one(
    generate: Callable[..., Path],
    given: list[dict[str, Any]],
    mypy_reports: Callable[..., set[int]],
) -> None:
    generate(*given)
    assert mypy_reports(PROGRAM) == WRONG


def test_pyright_reports_each_wrong_use_and_no_right_one(
    generate: Callable[..., Path],
    given: list[dict[str, Any]],
    pyright_reports: Callable[..., set[int]],
) -> None:
    generate(*given)
    assert pyright_reports(PROGRAM) == WRONG


def test_a_flag_is_reported_once_it_is_deleted(
    generate: Callable[..., Path],
    given: list[dict[str, Any]],
    mypy_reports: Callable[..., set[int]],
    pyright_reports: Callable[..., set[int]],
) -> None:
    program = (
        "from features import ControlPlaneClient\nControlPlaneClient().is_enabled('new_model')\n"
    )
    generate(*given)
    assert mypy_reports(program) == pyright_reports(program) == set()
    generate(*given[1:])
    assert mypy_reports(program) == pyright_reports(program) == {2}


def test_a_stub_of_nothing_takes_no_name(
    generate: Callable[..., Path],
    given: list[dict[str, Any]],
    mypy_reports: Callable[..., set[int]],
    pyright_reports: Callable[..., set[int]],
) -> None:
    generate(given[-1])
    program = (
        "from features import ControlPlaneClient\nclient = ControlPlaneClient()\n"
        "client.is_enabled('x')\nclient.variant('x')\nclient.value('x', 1)\n"
        "client.evaluate('x', 1)\nclient.flags.get_str('x', '')\nclient.config.get('x')\n"
        "client.registry.get_agent('x')\nclient.registry.get_tool('crm')\n"
    )
    assert mypy_reports(program) == pyright_reports(program) == {3, 4, 5, 6, 7, 8, 9}


def test_mypy_would_find_nothing_in_the_stub_but_that_it_narrows_the_library(
    generate: Callable[..., Path], given: list[dict[str, Any]], tmp_path: Path
) -> None:
    import subprocess
    import sys

    stub = generate(*given).with_suffix(".pyi")
    stub.write_text(stub.read_text().replace("# mypy: ignore-errors\n", ""))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(stub)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    codes = set(re.findall(r" error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE))
    assert codes <= {"misc", "override", "overload-overlap"}, done.stdout
    narrowed = "incompatible with|violates the Liskov|overlap"
    assert all(re.search(narrowed, line) for line in done.stdout.splitlines() if "error:" in line)
