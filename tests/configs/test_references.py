"""References are followed after all layers are merged, for each tenant, and always end."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.configs import references
from control_plane.configs.layers import decode_path, same, unflatten
from control_plane.configs.references import (
    MAX_CHAIN,
    MAX_TEXT_CHARACTERS,
    Configuration,
    Documents,
    Part,
    mentioned,
    parts,
    referred,
)
from control_plane.errors import ManifestInvalid


def document(name: str, **metadata: Any) -> dict[str, Any]:
    return {"kind": "config", "name": name, "metadata": metadata}


def configured(*documents: dict[str, Any], environment: str = "production") -> Configuration:
    def found(name: str) -> Documents:
        base = [each for each in documents if each["name"] == name]
        tenants = [each for each in documents if each["name"].startswith(f"{name}@")]
        return (base[0] if base else None), [*tenants]

    return Configuration(environment, found)


def seen(configuration: Configuration, name: str, tenant: str = "") -> Any:
    """What a reader puts together: the base's leaves, the tenant's over them."""
    values: dict[str, Any] = {}
    leaves = configuration.leaves(name)
    for wanted in dict.fromkeys(("", tenant)):
        for (owner, path), (value, _, hidden, _) in leaves.items():
            if owner == wanted:
                values.pop(path, None)
                if not hidden:
                    values[path] = value
    return unflatten(values).get(name, {})


def refused(*documents: dict[str, Any]) -> str:
    with pytest.raises(ManifestInvalid) as error:
        configured(*documents).leaves(str(documents[0]["name"]))
    return str(error.value)


HOSTS = document("hosts", values={"db": "db.internal", "port": 5432, "tls": True, "ratio": 1.0})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${hosts.port}", 5432),
        ("${hosts.tls}", True),
        ("${hosts.none}", None),
        ("${hosts.list}", ["a", 1]),
        ("pg://${hosts.db}:${hosts.port}/${hosts.tls}", "pg://db.internal:5432/true"),
        ("${hosts.ratio} ", "1 "),
        ("$${hosts.db}", "${hosts.db}"),
        ("a$b{c}", "a$b{c}"),
        ("$$${hosts.db}", "$${hosts.db}"),
        ("${hosts.gpt-4~11}", "dotted"),
        ("${hosts.a~0b}", "tilde"),
        ("${hosts.ключ}", "unicode"),
        ("${hosts.}", "empty"),
        (["${hosts.port}", {"at": "${hosts.db}"}], [5432, {"at": "db.internal"}]),
    ],
)
def test_a_reference_that_is_all_of_a_text_keeps_its_type(text: Any, value: Any) -> None:
    more = {"none": None, "list": ["a", 1], "gpt-4.1": "dotted", "a~b": "tilde", "": "empty"}
    values = {**HOSTS["metadata"]["values"], **more, "ключ": "unicode"}
    hosts = document("hosts", values=values)
    assert same(seen(configured(document("app", values={"x": text}), hosts), "app"), {"x": value})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${hosts.nowhere}", "expected a value at hosts.nowhere to refer to, found none"),
        ("${nobody.here}", "expected a value at nobody.here to refer to, found none"),
        ("${hosts.pool}", "found a mapping at metadata.values.x; refer to its keys one by one"),
        ("${hosts.empty}", "found a mapping at metadata.values.x; refer to its keys one by one"),
        ("a ${hosts.null}", "to stand inside other text, found null"),
        ("a ${hosts.list}", "to stand inside other text, found a list"),
        ("${hosts}", "expected a reference such as ${database.url}, found ${hosts}"),
        ("${ hosts.db }", "expected a reference such as ${database.url}, found ${ hosts.db }"),
        ("${hosts.db", "expected a reference such as ${database.url}, found ${hosts.db"),
        ("${hosts.a~b}", "expected a reference such as ${database.url}, found ${hosts.a~b}"),
        ("${Hosts.db}", "write $${ for the text ${"),
        ("${hosts@acme.db}", "write $${ for the text ${"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused_by_name(text: str, problem: str) -> None:
    hosts = document("hosts", values={"pool": {"size": 1}, "empty": {}, "null": None, "list": []})
    message = refused(document("app", values={"x": text}), hosts)
    assert message.startswith("config/app: for production: expected ")
    assert problem in message


def test_a_tenant_sees_references_through_its_own_values() -> None:
    app = document("app", values={"url": "pg://${hosts.db}", "copy": "${app.url}", "n": 1})
    hosts = document("hosts", values={"db": "a"}, tenants={"acme": {"db": "b"}, "idle": {"x": 1}})
    leaves = configured(app, hosts).leaves("app")
    assert leaves == {
        ("", "app.copy"): ("pg://a", "values", False, ("app.url",)),
        ("", "app.n"): (1, "values", False, ()),
        ("", "app.url"): ("pg://a", "values", False, ("hosts.db",)),
        ("acme", "app.copy"): ("pg://b", "values", False, ("app.url",)),
        ("acme", "app.url"): ("pg://b", "values", False, ("hosts.db",)),
    }


def test_a_tenant_whose_reference_comes_out_like_the_base_has_no_leaf_of_its_own() -> None:
    app = document("app", values={"port": 5432}, tenants={"acme": {"port": "${hosts.port}"}})
    assert set(configured(app, HOSTS).leaves("app")) == {("", "app.port")}


def test_what_a_tenant_hides_cannot_be_referred_to_for_it() -> None:
    app = document("app", values={"x": "${hosts.db}"})
    hosts = document("hosts", values={"db": "a"}, tenants={"acme": {"db": {"main": "b"}}})
    message = refused(app, hosts)
    assert "for tenant acme: expected a value at hosts.db to refer to, found a mapping" in message


def test_references_that_lead_back_are_refused_with_the_way_they_go() -> None:
    app = document("app", values={"a": "${other.b}"})
    other = document("other", values={"b": "x${app.a}"})
    assert "expected references that end, found app.a > other.b > app.a" in refused(app, other)
    for_one = document("app", values={"a": 1, "b": "${app.a}"}, tenants={"t": {"a": "${app.b}"}})
    assert "for tenant t: expected references that end, found app.a > app.b > app.a" in refused(
        for_one
    )


@pytest.mark.parametrize("from_the_end", [False, True])
def test_a_chain_is_as_long_as_it_may_be_in_whichever_order_it_is_walked(
    from_the_end: bool,
) -> None:
    def chain(length: int) -> dict[str, Any]:
        names = [f"k{number:03}" for number in range(length + 1)]
        if from_the_end:
            names.reverse()
        links = {name: f"${{app.{after}}}" for name, after in pairwise(names)}
        return document("app", values={**links, names[-1]: "end"})

    assert set(seen(configured(chain(MAX_CHAIN)), "app").values()) == {"end"}
    assert f"expected at most {MAX_CHAIN} references on end, found more" in refused(
        chain(MAX_CHAIN + 1)
    )


def test_text_and_lists_that_double_end_at_a_bound() -> None:
    text = {f"t{n}": f"${{app.t{n + 1}}}" * 2 for n in range(30)} | {"t30": "x"}
    assert f"expected text of at most {MAX_TEXT_CHARACTERS} characters, found more" in refused(
        document("app", values=text)
    )
    lists = {f"l{n}": [f"${{app.l{n + 1}}}"] * 2 for n in range(30)} | {"l30": "x"}
    assert "characters that references make, found more" in refused(document("app", values=lists))
    copies = {f"c{n}": "${app.whole}" for n in range(80)} | {"whole": ["x" * (1 << 20)]}
    assert "characters that references make, found more" in refused(document("app", values=copies))


def test_lists_that_references_nest_are_no_deeper_than_any_document() -> None:
    def nested(number: int) -> Any:
        value: Any = f"${{app.n{number + 1:02}}}"
        for _ in range(30):
            value = [value]
        return value

    deep = {f"n{number:02}": nested(number) for number in range(25)} | {"n25": 1}
    assert "expected at most 64 levels, found more" in refused(document("app", values=deep))


def test_a_namespace_nobody_here_knows_leaves_its_text_as_it_is() -> None:
    alone: Documents = (document("app", values={"x": "${hosts.db}", "y": "${app.x}-", "z": 1}), [])
    configuration = Configuration(None, lambda name: alone if name == "app" else None)
    [(tenant, tree, left_open)] = configuration.trees("app")
    assert (tenant, left_open) == ("", ["app.x", "app.y"])
    assert tree == {"x": "${hosts.db}", "y": "${app.x}-", "z": 1}


def test_a_default_of_the_schema_may_refer_to_other_values() -> None:
    schema = {"properties": {"url": {"default": "pg://${hosts.db}"}}}
    app = document("app", schema=schema)
    assert configured(app, HOSTS).leaves("app") == {
        ("", "app.url"): ("pg://db.internal", "default", False, ("hosts.db",))
    }
    assert mentioned(app) == {"hosts"}


def test_the_other_leaves_are_made_out_when_some_cannot_be() -> None:
    app = document("app", values={"bad": "${no.where}", "on": "x${app.bad}", "good": "${hosts.db}"})
    failed: dict[tuple[str, str], str] = {}

    def note(tenant: str, path: str, error: ManifestInvalid) -> None:
        failed[tenant, path] = str(error)

    assert set(configured(app, HOSTS).leaves("app", note)) == {("", "app.good")}
    assert set(failed) == {("", "app.bad"), ("", "app.on")}
    assert all(each.startswith("config/app: for production: ") for each in failed.values())


@given(st.text(st.sampled_from("${}a.b~1@"), max_size=12) | st.text(max_size=12))
def test_every_text_is_either_parsed_whole_or_refused(text: str) -> None:
    found = outcome(lambda: parts(text), ManifestInvalid)
    if found == "refused":
        assert "${" in text
        return
    written = "".join(f"${{{p[0]}}}" if isinstance(p, tuple) else p for p in found)
    assert written.replace("${", "") == text.replace("$${", "").replace("${", "")
    assert set(referred(text)) == {part[0] for part in found if isinstance(part, tuple)}


# A plain interpreter of layers and references, to compare with

PATHS = ["a.x", "a.y", "a.l", "a.m.x", "b.x", "b.y", "b.m.x", "b.nowhere"]
texts = st.sampled_from(PATHS).map(lambda path: f"${{{path}}}") | st.lists(
    st.sampled_from(PATHS).map(lambda path: f"${{{path}}}") | st.sampled_from(["t", "$${", "$"]),
    min_size=1,
    max_size=2,
).map("".join)
values = st.integers(0, 1) | st.none() | st.just("s") | texts
blocks = st.fixed_dictionaries(
    {},
    optional={
        "x": values,
        "y": values | st.just({"z": 1}),
        "l": st.lists(values, max_size=2),
        "m": st.fixed_dictionaries({}, optional={"x": values}) | values,
    },
)
namespaces = st.fixed_dictionaries(
    {"values": blocks},
    optional={
        "environments": st.fixed_dictionaries({"production": blocks}),
        "tenants": st.dictionaries(st.sampled_from("tu"), blocks, max_size=2),
        "lists": st.just({"l": "append"}),
    },
)
TOKEN = re.compile(r"\$\$\{|\$\{([^}]*)\}")


class Nowhere(Exception):
    """A reference that the interpreter cannot follow."""


def laid(low: Any, high: Any, lists: Any, path: tuple[str, ...] = ()) -> Any:
    if isinstance(low, dict) and isinstance(high, dict):
        keys = {**low, **high}
        return {
            key: (
                laid(low[key], high[key], lists, (*path, key))
                if key in low and key in high
                else keys[key]
            )
            for key in keys
        }
    if isinstance(low, list) and isinstance(high, list) and ".".join(path) in lists:
        return low + high
    return high


def merged(documents: dict[str, Any], name: str, tenant: str) -> Any:
    base, own = documents[name]["metadata"], documents.get(f"{name}@{tenant}")
    layers = [base.get("environments", {}).get("production", {})]
    layers.append(base.get("tenants", {}).get(tenant, {}))
    if own is not None:
        layers.append(own["metadata"]["values"])
    tree = base["values"]
    for layer in layers:
        tree = laid(tree, layer, base.get("lists", {}))
    return tree


def interpreted(documents: dict[str, Any], name: str, tenant: str) -> Any:
    def look(path: str, trail: tuple[str, ...]) -> Any:
        if path in trail:
            raise Nowhere(path)
        keys = decode_path(path)
        place: Any = {each: merged(documents, each, tenant) for each in ("a", "b")}
        for key in keys:
            if not isinstance(place, dict) or key not in place:
                raise Nowhere(path)
            place = place[key]
        if isinstance(place, dict):
            raise Nowhere(path)
        return follow(place, (*trail, path))

    def follow(value: Any, trail: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {key: follow(inner, trail) for key, inner in value.items()}
        if isinstance(value, list):
            return [follow(inner, trail) for inner in value]
        if not isinstance(value, str):
            return value
        whole = TOKEN.fullmatch(value)
        if whole and whole[1] is not None:
            return look(whole[1], trail)
        return TOKEN.sub(lambda match: "${" if match[1] is None else word(match[1], trail), value)

    def word(path: str, trail: tuple[str, ...]) -> str:
        found = look(path, trail)
        if found is None or isinstance(found, list):
            raise Nowhere(path)
        return str(found)

    def leaf(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: leaf(inner, f"{path}.{key}") for key, inner in value.items()}
        return follow(value, (path,))

    return leaf(merged(documents, name, tenant), name)


def outcome(call: Callable[[], Any], error: type[Exception]) -> Any:
    try:
        return call()
    except error:
        return "refused"


@settings(max_examples=300)
@given(namespaces, namespaces, st.none() | blocks, st.none() | blocks)
def test_layers_and_references_give_what_a_plain_interpreter_gives(
    one: dict[str, Any], two: dict[str, Any], own_a: Any, own_b: Any
) -> None:
    documents = {"a": document("a", **one), "b": document("b", **two)}
    for name, block in (("a@t", own_a), ("b@t", own_b)):
        if block is not None:
            documents[name] = document(name, values=block)
    configuration = configured(*documents.values())
    tenants = ["", "t", "u"]
    expected = outcome(lambda: [interpreted(documents, "a", tenant) for tenant in tenants], Nowhere)
    found = outcome(
        lambda: [seen(configuration, "a", tenant) for tenant in tenants], ManifestInvalid
    )
    assert same(found, expected)
    if found != "refused":
        trees = {tenant: tree for tenant, tree, left_open in configuration.trees("a")}
        assert all(same(tree, seen(configuration, "a", each)) for each, tree in trees.items())


def test_each_leaf_of_a_long_ring_or_chain_is_followed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []

    def counted(text: str) -> list[Part]:
        read.append(text)
        return parts(text)

    monkeypatch.setattr(references, "parts", counted)
    names = [f"k{number:04}" for number in range(1_000)]
    links = {name: f"${{app.{after}}}" for name, after in pairwise(names)}
    found: list[str] = []
    for last, refusal in ((f"${{app.{names[0]}}}", "that end"), ("end", "at most 32 references")):
        app = document("app", values={**links, names[-1]: last})
        configured(app).leaves("app", lambda _, path, error: found.append(str(error)))
        assert len(found) >= len(names) - 1 - MAX_CHAIN
        assert all(refusal in each for each in found)
        # When it is asked what it refers to, when it is made, and when that is told.
        assert len(read) <= 3 * len(names)
        read.clear()
        found.clear()


def test_text_for_a_list_of_it_is_bounded_before_it_is_made() -> None:
    values = {f"x{number}": f"${{app.long}}{number}" for number in range(1_000)}
    listed = [f"${{app.{name}}}" for name in values]
    app = document("app", values={"a": listed, "long": "x" * 1_000_000, **values})
    tracemalloc.start()
    try:
        assert "characters that references make, found more" in refused(app)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_a_namespace_that_makes_too_much_is_no_fault_of_what_it_refers_to() -> None:
    many = [
        document(
            f"n{each}",
            values={"long": "x" * 1_000_000, **{f"x{n}": f"${{n{each}.long}}!" for n in range(50)}},
        )
        for each in range(3)
    ]
    all_of_them = {f"n{each}-{n}": f"${{n{each}.x{n}}}" for each in range(3) for n in range(50)}
    configuration = configured(document("app", values={"all": [*all_of_them.values()]}), *many)
    with pytest.raises(ManifestInvalid, match="characters that references make"):
        configuration.leaves("app")
    for each in range(3):
        assert len(configuration.leaves(f"n{each}")) == 51
