"""What may be published, and the line an author reads when it may not."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ChecksumMismatch, InputInvalid, ManifestInvalid, SyntaxInvalid
from control_plane.log.canonical import canonical
from control_plane.manifests.documents import blob, checksum, sealed
from control_plane.manifests.loader import load_file
from control_plane.manifests.validation import (
    validate,
    validate_blob,
    validate_config,
    validate_document,
)

Make = Callable[..., dict[str, Any]]


def rule(**fields: Any) -> dict[str, Any]:
    return {"rules": [{"name": "r", "serve": "on", **fields}]}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"x": value}
    return value


def doubling(keyword: str, levels: int = 40) -> dict[str, Any]:
    """A schema of a few lines whose references, written out, are 2^levels long."""

    def twice(reference: dict[str, str]) -> Any:
        return [reference, reference] if keyword == "allOf" else {"l": reference, "r": reference}

    steps = {f"a{i}": {keyword: twice({"$ref": f"#/$defs/a{i + 1}"})} for i in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**steps, f"a{levels}": {"default": 1}}}


def chained(length: int, step: str = "$ref") -> dict[str, Any]:
    """A schema whose definitions lead one to the next."""
    defs: dict[str, Any] = {}
    for index in range(length):
        reference = {"$ref": f"#/$defs/d{index + 1}"}
        defs[f"d{index}"] = reference if step == "$ref" else {"properties": {"x": reference}}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{length}": {}}}


WEIGHTS = {"variant": "on", "weight": 0}, {"variant": "off", "weight": 0}
PRODUCTION = {"production": {"url": "db"}}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown field": ("flag", {"foo": 1},
        'flag/x: expected only bucketing, default, description, disabled, enabled, environ…, '
        'found "foo" at metadata; unknown fields are refused'),
    "misspelt field": ("flag", {"rule": []},
        'flag/x: expected only bucketing, default, description, disabled, enabled, environ…, '
        'found "rule" at metadata; did you mean rules?'),
    "envelope name in metadata": ("agent", {"owner": "me"},
        "agent/a@1.0.0: expected owner in the envelope only, found it in metadata too"
        " at metadata.owner"),
    "one variant": ("flag", {"variants": {"on": True}},
        "flag/x: expected 2 or more fields, found 1 at metadata.variants"),
    "unknown default": ("flag", {"default": "maybe"},
        "flag/x: expected one of the variants on, off, found 'maybe' at metadata.default"),
    "two types": ("flag", {"variants": {"on": True, "off": 1}},
        "flag/x: expected bool, found 1 at metadata.variants.off"),
    "no weight": ("flag", rule(serve=list(WEIGHTS)),
        "flag/x: expected weights with a sum of 1 to 2147483647, found 0"
        " at metadata.rules[0].serve"),
    "broken weight": ("flag", rule(serve=[{"variant": "on", "weight": 1.5}, WEIGHTS[1]]),
        "flag/x: expected a whole number, found 1.5 at metadata.rules[0].serve[0].weight"),
    "one weighted variant": ("flag", rule(serve=[WEIGHTS[0]]),
        "flag/x: expected 2 or more items, found 1 at metadata.rules[0].serve"),
    "serve of another form": ("flag", rule(serve=3),
        "flag/x: expected a variant's name, or a list of {variant, weight}, found 3"
        " at metadata.rules[0].serve"),
    "unknown $ word": ("flag", rule(when={"$most": [{"a": 1}]}),
        'flag/x: expected only $all, $any, $bucket, $flag, $not, $segment, found "$most" at'
        " metadata.rules[0].when; did you mean $not?"),
    "unknown condition": ("flag", rule(when={"a": {"not": 1}}),
        "flag/x: expected only after, before, contains, ends_with, gt, gte, in, lt, lte, n…,"
        ' found "not" at metadata.rules[0].when.a; did you mean not_in?'),
    "broken path": ("flag", rule(when={"a..b": 1}),
        "flag/x: expected keys that are an attribute's path, found \"a..b\""
        " at metadata.rules[0].when"),
    "null condition": ("flag", rule(when={"a": None}),
        "flag/x: expected a value to equal, or words such as {in: [values]}, found null"
        " at metadata.rules[0].when.a"),
    "rule twice": ("flag", {"rules": [*rule()["rules"], *rule()["rules"]]},
        "flag/x: expected a name no other rule has, found 'r' at metadata.rules[1].name"),
    "environment's result": ("flag", {"environments": {"production": {"default": "maybe"}}},
        "flag/x: expected one of the variants on, off, found 'maybe' at metadata.default"
        " for production"),
    "environment's name": ("flag", {"environments": {"Prod": {}}},
        "flag/x: expected keys that are an environment such as production, found \"Prod\""
        " at metadata.environments"),
    "501 members": ("segment", {"members": [str(i) for i in range(501)]},
        "segment/s: expected at most 500 items, found 501 at metadata.members"),
    "member twice": ("segment", {"members": ["a", "a"]},
        'segment/s: expected each item once, found ["a","a"] at metadata.members'),
    "members and shards": ("segment", {"shards": 3},
        'segment/s: expected nothing here, found ["a","b"] at metadata.members'),
    "value against schema": (
        "config",
        {"values": {"pool": {"size": "a"}}},
        'config/database: for production: expected a whole number, found "a"'
        " at metadata.values.pool.size",
    ),
    "environment against schema": ("config",
        {"environments": {"production": {"pool": {"size": "a"}}}, "tenants": {}},
        'config/database: for production: expected a whole number, found "a"'
        " at metadata.environments.production.pool.size"),
    "tenant against schema": ("config", {"tenants": {"acme": {"url": None}}},
        "config/database: for production: for tenant acme: expected a string, found null"
        " at metadata.tenants.acme.url"),
    "remote $ref": ("config", {"schema": {"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}},
        "config/database: expected a $ref that stays inside the schema (#…), "
        'found "http://127.0.0.1:9/x" at metadata.schema.properties.a.$ref;'
        " copy the schema under $defs"),
    "file $ref": ("tool", {"inputs_schema": {"items": {"$ref": "file:///etc/passwd"}}},
        "tool/crm_tool@1.2.0: expected a $ref that stays inside the schema (#…), "
        'found "file:///etc/passwd" at metadata.inputs_schema.items.$ref;'
        " copy the schema under $defs"),
    "other dialect": ("tool", {"outputs_schema": {"$schema": "http://json-schema.org/draft-07/schema#"}},
        "tool/crm_tool@1.2.0: expected https://json-schema.org/draft/2020-12/schema, "
        'found "http://json-schema.org/draft-07/schema#" at metadata.outputs_schema.$schema'),
    "no JSON Schema": ("tool", {"inputs_schema": {"type": "dict"}},
        'tool/crm_tool@1.2.0: expected JSON Schema 2020-12, found "dict" is not valid under any of '
        "the schemas listed in the … at metadata.inputs_schema.type"),
    "look-around": ("tool", {"inputs_schema": {"pattern": "(?=a)b"}},
        'tool/crm_tool@1.2.0: expected JSON Schema 2020-12, found "(?=a)b" is not a "regex"'
        " at metadata.inputs_schema.pattern"),
    "endless $ref": ("tool", {"inputs_schema": {"$ref": "#"}},
        "tool/crm_tool@1.2.0: expected a $ref that ends, found one that leads back to itself"
        " at metadata.inputs_schema"),
    "schema bomb": ("tool", {"inputs_schema": doubling("allOf")},
        "tool/crm_tool@1.2.0: expected at most 10000 subschemas for one value, found more"
        " at metadata.inputs_schema"),
    "schema bomb in data": ("tool", {"inputs_schema": {
        "$ref": "#/default/at",
        "default": {
            "at": {"properties": {"x": {"$ref": "#/default/$defs/a0"}}},
            "$defs": json.loads(
                json.dumps(doubling("allOf")["$defs"]).replace("#/", "#/default/")
            )}}},
        "tool/crm_tool@1.2.0: expected at most 10000 subschemas for one value, found more"
        " at metadata.inputs_schema"),
    "anchor": ("tool", {"inputs_schema": {"$ref": "#a", "$defs": {"a": {"$anchor": "a"}}}},
        "tool/crm_tool@1.2.0: expected a $ref that is a path from the top (#/$defs/…), found"
        ' "#a" at metadata.inputs_schema.$ref;'
        " write the path in place of an anchor, and its characters as they are"),
    "escaped $ref": ("tool", {"inputs_schema": {"$ref": "#/%24defs/a", "$defs": {"a": {}}}},
        "tool/crm_tool@1.2.0: expected a $ref that is a path from the top (#/$defs/…), found"
        ' "#/%24defs/a" at metadata.inputs_schema.$ref;'
        " write the path in place of an anchor, and its characters as they are"),
    "$id below": ("tool", {"inputs_schema": {"properties": {"a": {"$id": "urn:a"}}}},
        'tool/crm_tool@1.2.0: expected $id at the top only, found "urn:a"'
        " at metadata.inputs_schema.properties.a.$id"),
    "long chain": ("tool", {"inputs_schema": chained(101)},
        "tool/crm_tool@1.2.0: expected a shorter chain of $ref, found one too long to follow"
        " at metadata.inputs_schema"),
    "many subschemas": ("tool", {"inputs_schema": chained(10_000, "properties")},
        "tool/crm_tool@1.2.0: expected at most 10000 subschemas, found more"
        " at metadata.inputs_schema"),
    "deep defaults": ("config", {"schema": chained(900, "properties")},
        "config/database: expected at most 64 levels of defaults, found more at metadata.schema"),
    "defaults bomb": ("config", {"schema": doubling("properties")},
        "config/database: expected at most 20000 defaults, found more at metadata.schema"),
    "reserved key": ("config", {"values": {"url": "x", "pool": {"$sealed": "s"}}},
        'config/database: expected a key without a leading $, found "$sealed"'
        " at metadata.values.pool.$sealed; such keys are reserved"),
    "no reference": ("config", {"values": {"url": "x", "list": ["a ${b}"]}},
        "config/database: expected a reference such as ${database.url}, found ${b}"
        " at metadata.values.list[0]; write $${ for the text ${"),
    "tenant not NFC": ("config", {"tenants": {"a\u0301": {}}},
        "config/database: expected a tenant id of 1 to 128 bytes, NFC, without control characters,"
        ' found "a\u0301" at metadata.tenants.a\u0301'),
    "200,001 leaves": ("config", {"values": {str(i): 1 for i in range(200_001)}},
        "config/database: expected at most 200000 leaves, found more"),
    "broken specifier": ("agent", {"tools": ["crm_tool>>1"]},
        "agent/a@1.0.0: expected a tool such as crm_tool or crm_tool>=1.2,<2, found 'crm_tool>>1'"
        " at metadata.tools[0]"),
    "reference with @": ("agent", {"tools": ["crm_tool@1.0.0"]},
        'agent/a@1.0.0: expected a tool such as crm_tool or crm_tool>=1.2,<2, '
        'found "crm_tool@1.0.0" at metadata.tools[0]'),
    "tool twice": ("agent", {"tools": ["a", "a>1"]},
        "agent/a@1.0.0: expected each tool once, found a again at metadata.tools[1]"),
    "oversize": ("agent", {"system_prompt": "x" * (1 << 20)},
        "agent/a@1.0.0: expected at most 1048576 bytes, found 1048706"),
    "depth bomb": ("config", {"values": deep(100_000)},
        "config/database: expected at most 64 levels, found more"),
    "NaN": ("config", {"values": {"url": float("nan")}},
        "config/database: expected a value RFC 8785 can write, found one it cannot:"
        " nan is not representable in JCS"),
    "integer past 2^53": ("config", {"values": {"url": 2**53}},
        "config/database: expected a value RFC 8785 can write, found one it cannot:"
        " 9007199254740992 exceeds safe integer domain for JSON floats"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_document_is_refused_in_one_line(
    case: str, manifest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, metadata, message = REFUSED[case]
    monkeypatch.setattr(socket, "socket", None)
    document = manifest(kind, **metadata)
    # A deep value cannot be compared by Python itself; its size says that nothing moved.
    before = None if case == "depth bomb" else repr(document)
    with pytest.raises(ManifestInvalid) as refused:
        validate(document)
    assert str(refused.value) == message
    assert before is None or repr(document) == before


ENVELOPE = [
    ([], "manifest: expected a mapping, found []"),
    ({"kind": "flog", "name": "x"},
     'flog/x: expected the kind flag, segment, config, agent, tool, found "flog"'),
    ({"kind": "flag"}, "flag: expected a name, found none"),
    ({"kind": "flag", "name": "X"},
     "flag: expected a name like [a-z0-9][a-z0-9_.-]{0,127}, found 'X'"),
    ({"kind": "flag", "name": "x" * 129, "metadata": {}},
     "flag: expected a name like [a-z0-9][a-z0-9_.-]{0,127}, found '" + "x" * 129 + "'"),
    ({"kind": "flag", "name": "x\n"},
     "flag: expected a name like [a-z0-9][a-z0-9_.-]{0,127}, found 'x\\n'"),
    ({"kind": "flag", "name": "x"}, "flag/x: expected the field metadata, found none"),
    ({"kind": "tool", "name": "x", "metadata": {"description": "d"}},
     "tool/x: expected the field version, found none"),
    ({"kind": "config", "name": "database@acme", "metadata": {"schema": {}}},
     "config/database@acme: expected nothing here, found {} at metadata.schema"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "message"), ENVELOPE)
def test_a_broken_envelope_is_refused_in_one_line(document: Any, message: str) -> None:
    with pytest.raises(ManifestInvalid) as refused:
        validate(document)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "field",
    [
        {"extra": 1},
        {"created_at": "yesterday"},
        {"version": "1.0"},
        {"version": "v1.0.0"},
        {"version": "1.0.0-1"},
        {"version": "01.0.0"},
        {"deprecated": "no"},
        {"checksum_sha256": "abc"},
        {"signature": "ed25519:k:AA=="},
    ],
)
def test_an_envelope_field_out_of_form_is_refused(field: dict[str, Any], manifest: Make) -> None:
    with pytest.raises(ManifestInvalid, match=r"^tool/crm_tool@\S+: expected .*, found "):
        validate({**manifest("tool"), **field})


@pytest.mark.parametrize("kind", ["flag", "segment", "config", "agent", "tool"])
def test_a_whole_document_passes_and_stays_as_it_is(kind: str, manifest: Make) -> None:
    document = manifest(kind)
    before = copy.deepcopy(document)
    validate(document)
    assert document == before


def test_the_largest_documents_pass(manifest: Make) -> None:
    validate(manifest("config", values={"url": "x", **{str(i): 1 for i in range(199_990)}}))
    agent = manifest("agent", system_prompt="")
    agent["metadata"]["system_prompt"] = "x" * ((1 << 20) - len(blob(agent)))
    assert len(blob(agent)) == 1 << 20
    validate(agent)
    validate(manifest("config", schema={}, values=deep(62)))


def test_tenants_times_leaves_are_bounded_where_a_schema_judges_them(manifest: Make) -> None:
    values = {"url": "x", **{str(i): 1 for i in range(4_999)}}
    tenants = {f"t{i}": {"url": "y"} for i in range(4_000)}
    with pytest.raises(ManifestInvalid, match="at most 20000000 leaves when every tenant is me"):
        validate(manifest("config", values=values, tenants=tenants))
    document = manifest("config", values=values, tenants=tenants)
    del document["metadata"]["schema"]
    validate(document)


def test_a_base_that_only_its_environments_complete_passes(manifest: Make) -> None:
    document = manifest("config", values={}, tenants={})
    validate(document)
    with pytest.raises(ManifestInvalid, match="for staging: expected the field url, found none"):
        validate(document, environment="staging")


def test_data_that_only_looks_like_a_reference_passes(manifest: Make) -> None:
    validate(
        manifest(
            "tool",
            inputs_schema={
                "properties": {"$ref": {"type": "string"}, "next": {"$ref": "#/properties/$ref"}},
                "default": {"$ref": "http://example.com"},
                "examples": [{"$ref": "http://example.com"}],
            },
        )
    )


def test_a_recursive_schema_passes(manifest: Make) -> None:
    tree: dict[str, Any] = {"type": "object", "properties": {"below": {"items": {"$ref": "#"}}}}
    validate(manifest("tool", inputs_schema=tree))
    validate(manifest("config", schema=tree, values={"below": [{"below": []}]}))


def test_a_schema_that_doubles_with_every_level_of_a_value_judges_shallow_ones(
    manifest: Make,
) -> None:
    below = {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}
    schema = {"properties": {"x": below}}
    validate(manifest("config", schema=schema, values=deep(8)))
    with pytest.raises(ManifestInvalid, match="expected at most 1000000 applications of the schem"):
        validate(manifest("config", schema=schema, values=deep(40)))


def test_branches_of_which_one_fits_judge_deep_values(manifest: Make) -> None:
    word: dict[str, Any] = {"type": "object", "additionalProperties": False}
    branches = [{**word, "properties": {name: {"$ref": "#/$defs/e"}}} for name in "abcdx"]
    schema = {"$ref": "#/$defs/e", "$defs": {"e": {"anyOf": [{"type": "integer"}, *branches]}}}
    validate(manifest("config", schema=schema, values=deep(60), environments={}, tenants={}))


def test_a_pattern_that_would_backtrack_is_judged_at_once(manifest: Make) -> None:
    schema = {"properties": {"url": {"pattern": "^(a+)+$"}}}
    with pytest.raises(ManifestInvalid, match=r"expected text like \^\(a\+\)\+\$"):
        validate(manifest("config", schema=schema, values={"url": "a" * 50_000 + "!"}))


def test_a_tenants_own_manifest_is_judged_with_the_schema_of_its_base(manifest: Make) -> None:
    own: dict[str, Any] = {
        "kind": "config",
        "name": "database@acme",
        "metadata": {"values": {"pool": {"size": "x"}}},
    }
    validate(own)
    validate_config(manifest("config"), [], "production")
    with pytest.raises(ManifestInvalid, match="for tenant acme: expected a whole number"):
        validate_config(manifest("config"), [own], "production")


def test_a_files_refusal_starts_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "kind: flag\nname: x\nmetadata:\n  variants: {a: 1, b: 2}\n  default: c\n  disabled: a\n"
    )
    with pytest.raises(ManifestInvalid) as refused:
        validate_document(load_file(file))
    assert str(refused.value) == (
        f"{file}:5:3: flag/x: expected one of the variants a, b, found 'c' at metadata.default"
    )
    assert refused.value.path == ("metadata", "default")


# Blobs: what a store and a node check


def test_a_blob_that_is_what_its_change_says_gives_its_document(manifest: Make) -> None:
    tool = sealed(manifest("tool"), "k", bytes(64))
    found = validate_blob("tool", "crm_tool", "1.2.0", blob(tool), checksum(tool))
    assert found == tool


@pytest.mark.parametrize(
    ("kind", "name", "version"),
    [("agent", "crm_tool", "1.2.0"), ("tool", "other", "1.2.0"), ("tool", "crm_tool", "1.2.1")],
)
def test_a_blob_of_another_name_is_refused(
    kind: str, name: str, version: str, manifest: Make
) -> None:
    tool = sealed(manifest("tool"), "k", bytes(64))
    with pytest.raises(ManifestInvalid, match=rf"^{kind}/{name}@{version}: expected the "):
        validate_blob(kind, name, version, blob(tool), checksum(tool))


def test_a_blob_with_another_checksum_is_refused(manifest: Make) -> None:
    tool = sealed(manifest("tool"), "k", bytes(64))
    other = {**tool, "owner": "somebody"}
    with pytest.raises(ChecksumMismatch, match=r"^tool/crm_tool@1.2.0: expected checksum"):
        validate_blob("tool", "crm_tool", "1.2.0", blob(tool), "0" * 64)
    with pytest.raises(ChecksumMismatch):
        validate_blob("tool", "crm_tool", "1.2.0", blob(other), checksum(other))
    with pytest.raises(
        ChecksumMismatch, match=r"expected the field checksum_sha256 .*, found none"
    ):
        validate_blob("tool", "crm_tool", "1.2.0", blob(manifest("tool")), checksum(tool))


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"kind": "flag"}', b"[]", b"\xff", b'{"a":1,"a":1}', b"[" * 1000]
)
def test_a_blob_that_is_no_canonical_document_is_refused(data: bytes) -> None:
    with pytest.raises(InputInvalid, match=r"^flag/x: expected"):
        validate_blob("flag", "x", None, data, None)


def test_an_oversize_blob_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(SyntaxInvalid, match="expected at most 1048576 bytes"):
        validate_blob("flag", "x", None, b" " * ((1 << 20) + 1), None)


def test_every_byte_of_a_signed_tool_is_under_its_checksum(manifest: Make) -> None:
    tool = sealed(manifest("tool"), "k", bytes(64))
    data, expected = blob(tool), checksum(tool)
    seal = data.index(b'"signature"'), data.index(b'"version"')
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if seal[0] <= at < seal[1]:
            continue
        with pytest.raises((InputInvalid, ChecksumMismatch)):
            validate_blob("tool", "crm_tool", "1.2.0", changed, expected)


def test_a_label_is_no_version_of_the_change(manifest: Make) -> None:
    flag = {**manifest("flag"), "version": "spring"}
    assert validate_blob("flag", "x", None, canonical(flag), None) == flag
