"""The text of module and stub: whole, alike each time, and safe whatever names are in it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import control_plane
from control_plane.client import PinnedView
from control_plane.codegen.description import Seen, described
from control_plane.codegen.shapes import Fields, Items, shape_of
from control_plane.codegen.writing import ALIASES, CLASSES, module_text, stub_text
from control_plane.configs.settings import PinnedConfig
from control_plane.feature_flags.evaluator import BoundFlags
from control_plane.feature_flags.flag_manager import PinnedFlags
from control_plane.registries.registry_manager import PinnedRegistry

Texts = Callable[..., tuple[str, str]]
Documents = Callable[..., dict[str, Any]]

REAL: dict[str, type] = {
    "BoundFlags": BoundFlags,
    "ConfigManager": control_plane.ConfigManager,
    "ControlPlaneClient": control_plane.ControlPlaneClient,
    "FeatureFlagManager": control_plane.FeatureFlagManager,
    "PinnedConfig": PinnedConfig,
    "PinnedFlags": PinnedFlags,
    "PinnedRegistry": PinnedRegistry,
    "PinnedView": PinnedView,
    "RegistryManager": control_plane.RegistryManager,
}
ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


def run(text: str, name: str = "features") -> types.ModuleType:
    """The module this text makes."""
    module = types.ModuleType(name)
    # Without this file's own future statement, as an import has it.
    exec(compile(text, name, "exec", dont_inherit=True), vars(module))
    return module


@pytest.fixture
def every_kind(documents: Documents) -> list[dict[str, Any]]:
    def flag(name: str, one: Any, two: Any, **envelope: Any) -> dict[str, Any]:
        metadata = {"variants": {"a": one, "b": two}, "default": "a", "disabled": "a"}
        return documents("flag", name, metadata, **envelope)

    return [
        flag("boolean", True, False),
        flag("old", True, False, deprecated=True),
        flag("text", "x", "y"),
        flag("whole", 1, 2.0),
        flag("fraction", 1, 2.5),
        flag("object", {"a": 1}, {"a": 2, "b": [1, "x"]}),
        flag("array", [1], []),
        documents("config", "database", {"values": {"url": "x", "pool": {"size": 1}}}),
    ]


def test_while_a_program_runs_every_class_is_the_librarys_own(
    texts: Texts, every_kind: list[dict[str, Any]]
) -> None:
    module = run(texts(*every_kind)[0])
    assert {name: getattr(module, name) for name in CLASSES} == REAL
    with module.ControlPlaneClient("/nowhere", "production") as client:
        assert type(client) is control_plane.ControlPlaneClient
        assert type(client.flags) is control_plane.FeatureFlagManager
        assert client.is_enabled("boolean") is False


def test_the_types_can_be_looked_at_while_a_program_runs(
    texts: Texts, every_kind: list[dict[str, Any]]
) -> None:
    module = run(texts(*every_kind)[0])
    assert typing.get_args(module.BooleanFlag) == ("boolean", "old")
    assert typing.get_args(module.NumberFlag) == ("fraction", "whole")
    assert typing.get_args(module.IntegerFlag) == ("whole",)
    assert typing.get_args(module.TextVariant) == ("a", "b")
    assert typing.get_type_hints(module.DatabaseConfig)["pool"] is module.DatabasePoolConfig
    assert module.ObjectValue.__required_keys__ == {"a"}
    assert {name for name in module.__all__ if not hasattr(module, name)} == set()


def test_module_and_stub_export_the_same_names(
    texts: Texts, every_kind: list[dict[str, Any]]
) -> None:
    module, stub = (ast.parse(text) for text in texts(*every_kind))
    exported = [ast.literal_eval(assigned(tree)["__all__"]) for tree in (module, stub)]
    assert exported[0] == exported[1] == sorted(exported[0])
    defined = {node.name for node in stub.body if isinstance(node, ast.ClassDef)}
    assert set(exported[1]) <= defined | set(assigned(stub))


def assigned(tree: ast.Module) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = node.value
    return found


def calls(stub: str) -> Iterator[tuple[str, str, ast.arguments]]:
    """(class, call, parameters) of each signature of the stub, with those it inherits within it."""
    tree = ast.parse(stub)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def lineage(node: ast.ClassDef) -> Iterator[ast.ClassDef]:
        yield node
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                yield from lineage(classes[base.id])

    for name in CLASSES:
        for node in lineage(classes[name]):
            for each in node.body:
                if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield name, each.name, each.args


def test_the_stubs_calls_have_the_parameters_of_the_librarys(
    texts: Texts, every_kind: list[dict[str, Any]]
) -> None:
    seen = set()
    for name, call, arguments in calls(texts(*every_kind)[1]):
        real = inspect.getattr_static(REAL[name], call)
        if isinstance(real, property):
            continue
        wanted = inspect.signature(real).parameters
        found = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
        found += [each.arg for each in (*arguments.kwonlyargs, arguments.kwarg) if each is not None]
        assert found == list(wanted), f"{name}.{call}"
        optional = [
            each.arg for each in arguments.args[len(arguments.args) - len(arguments.defaults) :]
        ]
        for parameter in wanted.values():
            plain = parameter.name not in ("name", "key", "prefix", "default", "flags", "tool")
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and plain:
                assert (parameter.default is not parameter.empty) == (parameter.name in optional)
                if parameter.default is not parameter.empty:
                    at = optional.index(parameter.name)
                    assert ast.literal_eval(arguments.defaults[at]) == parameter.default
        seen.add((name, call))
    assert {call for name, call in seen if name == "FeatureFlagManager"} >= {
        "is_enabled", "variant", "value", "evaluate", "flag", "bind", "pinned", "override",
        "get_bool", "get_str", "get_int", "get_float", "get_json", "explain",
    }  # fmt: skip
    assert {("ConfigManager", "get"), ("PinnedView", "value"), ("BoundFlags", "get_str")} <= seen


def test_the_order_of_documents_changes_no_byte(
    texts: Texts, every_kind: list[dict[str, Any]]
) -> None:
    backwards = [
        {**each, "metadata": dict(reversed(each["metadata"].items()))}
        for each in reversed(every_kind)
    ]
    assert texts(*every_kind) == texts(*backwards)


def test_a_rule_a_rollout_and_a_value_of_the_same_type_change_no_byte(
    texts: Texts, documents: Documents
) -> None:
    rule = {"name": "r", "when": {"plan": "pro"}, "serve": "on"}
    before = documents("flag", "x", ON_OFF), documents("config", "c", {"values": {"a": 1}})
    after = (
        documents("flag", "x", {**ON_OFF, "rules": [rule], "default": "on"}, owner="me"),
        documents("config", "c", {"values": {"a": 2}, "environments": {"production": {"a": 3}}}),
    )
    assert texts(*before) == texts(*after)


def test_environments_are_laid_together(texts: Texts, documents: Documents) -> None:
    flag = documents("flag", "x", {
        "variants": {"a": "1", "b": "2"}, "default": "a", "disabled": "a",
        "environments": {"production": {"variants": {"c": "3"}}},
    })  # fmt: skip
    config = documents("config", "c", {
        "values": {"a": 1}, "environments": {"production": {"b": 1, "a": 0.5}, "staging": {}},
    })  # fmt: skip
    every = run(texts(flag, config)[0])
    assert typing.get_args(every.XVariant) == ("a", "b", "c")
    assert every.CConfig.__annotations__["a"] is float
    assert every.CConfig.__required_keys__ == {"a"}
    staging = run(texts(flag, config, environments=("staging",))[0])
    assert typing.get_args(staging.XVariant) == ("a", "b")
    assert set(staging.CConfig.__annotations__) == {"a"}
    both = run(texts(flag, config, environments=("staging", "production"))[0])
    assert typing.get_args(both.XVariant) == ("a", "b", "c")


def test_references_are_followed_to_their_type(texts: Texts, documents: Documents) -> None:
    base = documents("config", "base", {"values": {"port": 5432}})
    other = documents(
        "config", "other", {"values": {"port": "${base.port}", "url": "x:${base.port}"}}
    )
    module = run(texts(base, other)[0])
    assert module.OtherConfig.__annotations__ == {"port": int, "url": str}


def test_a_tenants_own_manifest_adds_its_keys(texts: Texts, documents: Documents) -> None:
    base = documents("config", "limits", {"values": {"rate": 1}})
    own = documents("config", "limits@acme", {"values": {"burst": 2}})
    module = run(texts(base, own)[0])
    assert typing.get_args(module.ConfigKey) == ("limits", "limits.burst", "limits.rate")
    assert module.LimitsConfig.__required_keys__ == {"rate"}


def test_ruff_format_leaves_both_alone_at_any_line_length(
    texts: Texts, every_kind: list[dict[str, Any]], tmp_path: Path
) -> None:
    files = [tmp_path / "features.py", tmp_path / "features.pyi"]
    for file, text in zip(files, texts(*every_kind), strict=True):
        file.write_text(text)
    ruff = [sys.executable, "-m", "ruff"]
    for length in ("60", "88", "200"):
        check = [
            *ruff,
            "format",
            "--check",
            "--isolated",
            "--line-length",
            length,
            *map(str, files),
        ]
        assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    lint = [*ruff, "check", "--isolated", "--select", "ALL", "--ignore", "PGH004", *map(str, files)]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ten_thousand_flags_make_one_signature_a_type() -> None:
    seen = Seen(
        flags={f"team-{at % 7}.flag{at}": {"on": True, "off": False} for at in range(10_000)}
    )
    stub = stub_text(described([seen]))
    assert stub.count("def is_enabled(") == stub.count("def variant(") == 1
    module = run(module_text(described([seen])))
    assert len(typing.get_args(module.BooleanFlag)) == 10_000


# Names as nothing in the formats would let them through, and beyond.
TEXT = st.text(max_size=20) | st.sampled_from([
    '"', "'", '"""', "\\", "\\N{DASH}", "\n", "\r\n", "\x00", "\u2028", "\u202e", "{}", "%s",
    '")\nimport os  #', "]\nx = 1", "__class__", "class", "é", "e\u0301", "\ud800", "𝔘", "a.b",
    "BooleanFlag", "None", "_T0", "# type: ignore", "🙂", "__init__", "", "0",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
SCHEMAS = st.deferred(
    lambda: st.booleans()
    | st.fixed_dictionaries({}, optional={
        "type": st.sampled_from(["string", "integer", "object", "array", ["object", "null"]]),
        "enum": st.lists(VALUES, max_size=3),
        "const": VALUES,
        "properties": st.dictionaries(TEXT, SCHEMAS, max_size=3),
        "required": st.lists(TEXT, max_size=2),
        "additionalProperties": SCHEMAS,
        "items": SCHEMAS,
        "anyOf": st.lists(SCHEMAS, min_size=1, max_size=2),
        "allOf": st.lists(SCHEMAS, max_size=2),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a", "#nowhere", "other.json"]),
        "$defs": st.fixed_dictionaries({"a": SCHEMAS}),
    })
)  # fmt: skip

TREES = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), min_size=1, max_size=2)


@settings(max_examples=150)
@given(
    flags=st.dictionaries(TEXT, st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), max_size=4),
    sections=st.dictionaries(TEXT, st.tuples(st.none() | SCHEMAS, TREES), max_size=2),
    names=st.sets(TEXT, max_size=3),
)
def test_whatever_names_there_are_the_text_says_them_and_does_nothing_else(
    flags: dict[str, Any], sections: dict[str, Any], names: set[str]
) -> None:
    seen = Seen(flags, deprecated=set(flags), sections=sections, agents=names, tools=names)
    found = described([seen])
    module, stub = module_text(found), stub_text(found)
    for text in (module, stub):
        tree = ast.parse(text.encode("ascii"))
        # Nothing but imports, classes and assignments, whatever the names say.
        assert not [
            node for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) not in
            ("TypedDict", "TypeVar", "deprecated")
        ]  # fmt: skip
    made = run(module)
    aliases = [*ALIASES.values()]
    told = {name for alias in aliases for name in typing.get_args(getattr(made, alias))}
    assert told == set(flags) == set(typing.get_args(made.FlagName))
    assert set(typing.get_args(made.AgentName)) == names
    assert set(typing.get_args(made.ConfigKey)) >= set(sections)
    assert set(made.__all__) <= set(vars(made))


def test_a_schema_whose_references_double_ends() -> None:
    levels = {
        f"d{at}": {
            "type": "object",
            "properties": {side: {"$ref": f"#/$defs/d{at + 1}"} for side in ("a", "b")},
        }
        for at in range(40)
    }
    seen = Seen(sections={"c": ({"$ref": "#/$defs/d0", "$defs": levels}, [{"a": {"b": {}}}])})
    assert len(described([seen]).keys) < 50_000


def test_a_chain_of_references_ends() -> None:
    levels = {
        f"d{at}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{at + 1}"}}}
        for at in range(2_000)
    }
    found = described([Seen(sections={"c": ({"$ref": "#/$defs/d0", "$defs": levels}, [{}])})])
    assert "c" + ".a" * 20 in found.keys
    assert run(module_text(found)).CConfig.__optional_keys__ == {"a"}


def test_a_key_named_like_a_type_leaves_the_type_its_meaning(
    texts: Texts, documents: Documents
) -> None:
    names = {"str": 1, "int": "x", "Any": [], "CConfig": 2, "c": {"a": 1}, "CCConfig": True}
    module = run(texts(documents("config", "c", {"values": names}))[0])
    assert module.CConfig.__annotations__["str"] is int
    assert module.CConfig.__annotations__["int"] is str
    assert module.CConfig.__annotations__["c"] is module.CCConfig


@pytest.mark.parametrize("said", [{"properties": {"a": {"type": "integer"}}}, None])
def test_values_say_which_keys_there_are_but_not_for_the_next_item_of_a_schemas_list(
    said: dict[str, Any] | None,
) -> None:
    items = shape_of({"type": "array", **({"items": said} if said else {})}, [[{"a": 1}]])
    assert isinstance(items, Items)
    assert isinstance(items.item, Fields)
    assert (set(items.item.fields), items.item.required) == ({"a"}, set())
    whole = shape_of(said, [{"a": 1}])
    assert isinstance(whole, Fields)
    assert whole.required == {"a"}


def test_values_say_nothing_of_required_keys_where_a_schema_contains_itself() -> None:
    tree = {"properties": {"name": {"type": "string"}, "child": {"$ref": "#/$defs/tree"}}}
    schema = {"$ref": "#/$defs/tree", "$defs": {"tree": tree}}
    shape = shape_of(schema, [{"name": "a", "child": {}}])
    assert isinstance(shape, Fields)
    assert (shape.fields["child"], shape.required) == (shape, set())
