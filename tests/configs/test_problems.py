"""What is wrong with configuration is told whole, in the manifest and at the place that says it."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import canonical
from control_plane.manifests import configs
from control_plane.manifests.configs import MAX_COUNTED, MAX_LISTED, check_together, validate_config
from control_plane.manifests.validation import validate, validate_blob
from control_plane.names import MAX_CONFIG_BYTES, MAX_CONFIG_LEAVES


def document(name: str = "app", **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(ManifestInvalid) as refused:
        call(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


SIZE = {"properties": {"size": {"type": "integer", "maximum": 9}, "name": {"type": "string"}}}


def test_every_place_is_listed_once_in_its_own_layer() -> None:
    base = document(
        schema=SIZE,
        values={"size": 10, "name": 5},
        environments={"production": {"size": 11}, "staging": {"size": 1}},
        tenants={"acme": {"size": 12}, "fine": {"size": 2}},
    )
    first, *others = refusal(validate, base).split(" | ")
    assert first == (
        "config/app: for production: expected at most 9, found 11"
        " at metadata.environments.production.size; and 2 more"
    )
    assert others == [
        "config/app: for production: expected a string, found 5 at metadata.values.name;"
        " write it in quotes",
        "config/app: for production: for tenant acme: expected at most 9, found 12"
        " at metadata.tenants.acme.size",
    ]


def test_a_long_list_is_cut_and_counted() -> None:
    tenants = {f"t{number:04}": {"size": 100} for number in range(MAX_COUNTED * 2)}
    message = refusal(validate, document(schema=SIZE, values={"size": 1}, tenants=tenants))
    assert len(message.split(" | ")) == MAX_LISTED
    assert f"; and at least {MAX_COUNTED} more | " in message


def test_a_tenants_own_manifest_is_named_for_what_it_says() -> None:
    base = document(schema=SIZE, values={"size": 1})
    own = [document("app@acme", values={"size": 5}, environments={"production": {"size": 50}})]
    assert refusal(validate_config, base, own, "production") == (
        "config/app@acme: for production: for tenant acme: expected at most 9, found 50"
        " at metadata.environments.production.size"
    )


def test_a_value_that_a_reference_gave_is_named_with_it() -> None:
    base = document(schema=SIZE, values={"size": "${app.big}", "big": 50})
    assert refusal(validate, base) == (
        "config/app: expected at most 9, found 50 at metadata.values.size;"
        ' it is what "${app.big}" gives'
    )


def test_an_item_of_an_appended_list_is_placed_at_the_list() -> None:
    schema = {"properties": {"hosts": {"items": {"type": "string"}}}}
    base = document(
        schema=schema, values={"hosts": ["a"]}, tenants={"t": {"hosts": [5]}},
        lists={"hosts": "append"},
    )  # fmt: skip
    assert " at metadata.tenants.t.hosts" in refusal(validate, base)


def test_what_only_another_document_can_tell_is_left_for_it() -> None:
    schema: dict[str, Any] = {
        "required": ["port"],
        "properties": {"url": {"format": "uri"}, "mode": {"enum": ["a", "b"]}},
        "if": {"properties": {"mode": {"const": "a"}}},
        "then": {"required": ["extra"]},
    }
    values = {"url": "${hosts.url}", "mode": "${hosts.mode}", "port": 1}
    base = document(schema=schema, values=values)
    validate(base)
    assert "expected the field port, found none" in refusal(
        validate, document(schema=schema, values={"mode": "${hosts.mode}"})
    )

    def hosts(**values: Any) -> dict[str, Any]:
        return {"config/hosts": document("hosts", values=values), "config/app": base}

    check_together(hosts(url="http://x", mode="b"))
    assert "expected the field extra" in refusal(check_together, hosts(url="http://x", mode="a"))
    assert "expected a uri" in refusal(check_together, hosts(url="no uri", mode="b"))
    assert "at hosts.mode to refer to, found none" in refusal(check_together, hosts(url="http://x"))


def test_files_are_judged_together_in_environments_that_both_can_be_in() -> None:
    hosts = document("hosts", environments={"production": {"db": "x"}, "staging": {}})
    app = document("app", values={"url": "${hosts.db}"})
    check_together({"config/hosts": hosts, "config/app": app})
    typo = document("app", values={"url": "${hosts.dbx}"})
    assert "hosts.dbx" in refusal(check_together, {"config/hosts": hosts, "config/app": typo})
    named = document("app", values={"url": "${hosts.db}"}, environments={"staging": {}})
    assert "config/app: for staging: expected a value at hosts.db" in refusal(
        check_together, {"config/hosts": hosts, "config/app": named}
    )


def test_a_tenants_reference_may_lead_to_a_manifest_that_is_not_here() -> None:
    app = document("app", values={}, tenants={"acme": {"url": "${hosts.own}"}})
    hosts = document("hosts", values={"db": "x"})
    validate(app)
    check_together({"config/app": app, "config/hosts": hosts})


def test_documents_of_200_000_leaves_are_judged_and_one_more_is_refused() -> None:
    values: dict[str, Any] = {f"k{number}": 1 for number in range(MAX_CONFIG_LEAVES - 1)}
    schema = {"additionalProperties": {"type": ["integer", "string"]}}
    validate(document(schema=schema, values={**values, "last": "${app.k1}"}))
    over = {**values, "last": 1, "more": 1}
    assert "expected at most 200000 leaves, found more" in refusal(
        validate, document(schema=schema, values=over)
    )


def test_a_document_at_its_limit_is_taken_and_one_byte_over_it_is_not() -> None:
    bare = len(canonical(document(values={"k": ""})))
    at_limit = document(values={"k": "x" * (MAX_CONFIG_BYTES - bare)})
    validate(at_limit)
    validate_blob("config", "app", None, canonical(at_limit), None)
    assert f"expected at most {MAX_CONFIG_BYTES} bytes" in refusal(
        validate, document(values={"k": "x" * (MAX_CONFIG_BYTES - bare + 1)})
    )


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "https://example.org/s.json"}, "expected a $ref that stays inside the schema"),
        ({"$ref": "#"}, "expected a $ref that ends"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "found"),
        ({"type": "objekt"}, "expected JSON Schema 2020-12"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "2020-12/schema, found"),
    ],
)
def test_a_schema_that_cannot_be_judged_alone_is_refused(
    schema: Any, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    message = refusal(validate, document(schema=schema, values={"a": "y"}))
    assert message.startswith("config/app: expected ")
    assert problem in message
    assert " at metadata.schema" in message


def test_a_recursive_schema_judges_values_that_end() -> None:
    node = {"properties": {"next": {"$ref": "#"}, "size": {"maximum": 9}}}
    validate(document(schema=node, values={"next": {"next": {"size": 9}}}))
    assert "at metadata.values.next.next.size" in refusal(
        validate, document(schema=node, values={"next": {"next": {"size": 10}}})
    )


@pytest.mark.parametrize("key", ["gpt-4.1", "ключ", "~", "a b", '"'])
def test_any_key_is_found_again_by_its_refusal(key: str) -> None:
    schema = {"properties": {key: {"maximum": 9}}}
    with pytest.raises(ManifestInvalid) as refused:
        validate(document(schema=schema, values={key: 10}))
    assert refused.value.path == ("metadata", "values", key)


def test_tenants_of_another_namespace_count_only_where_they_are_referred_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(configs, "MAX_MERGED_LEAVES", 500)
    many = {f"t{number}": {"db": f"h{number}"} for number in range(100)}
    documents = {
        "app": document(schema=SIZE, values={f"k{n}": n for n in range(9)} | {"u": "${hosts.db}"}),
        "hosts": document("hosts", values={"db": "x", "other": 1}, tenants=many),
    }

    def judge() -> None:
        others = (documents["hosts"], [])
        validate_config(documents["app"], [], None, others=lambda _: others)

    message = refusal(judge)
    assert (
        "at most 500 leaves and references when every tenant of what it refers to is merged"
        in message
    )
    assert "found 1111;" in message
    documents["app"]["metadata"]["values"]["u"] = "${hosts.other}"
    judge()
