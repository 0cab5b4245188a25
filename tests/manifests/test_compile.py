"""Documents become the bodies of records, on a machine that has the library alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid, SyntaxInvalid
from control_plane.log.canonical import canonical
from control_plane.manifests.environments import merged_flag, merged_rules
from control_plane.replica.compile import (
    config_records,
    flag_body,
    packed_members,
    segment_body,
    shard_body,
)

Make = Callable[..., dict[str, Any]]

RULES = [
    {"name": "a", "serve": "on", "description": "first"},
    {"name": "b", "when": {"plan": "free"}, "serve": "off"},
]


def test_a_flags_record_is_its_metadata_merged_for_the_environment(manifest: Make) -> None:
    over = {"default": "on", "rules": [{"name": "c", "serve": "on"}, {"name": "a", "serve": "off"}]}
    flag = manifest(
        "flag", description="for people", rules=RULES, environments={"production": over}
    )
    assert msgpack.unpackb(flag_body(flag, None, "production")) == {
        "m": {
            "variants": {"on": True, "off": False},
            "default": "on",
            "rules": [{"name": "a", "serve": "off"}, RULES[1], {"name": "c", "serve": "on"}],
        },
        "k": None,
    }
    assert msgpack.unpackb(flag_body(flag, None, "staging"))["m"]["default"] == "off"


def test_an_environments_null_is_a_value_and_its_mappings_merge() -> None:
    base = {"overrides": {"user_id": {"u": "on"}}, "salt": "s", "rules": RULES}
    block = {"overrides": {"tenant_id": {"t": "on"}}, "salt": None, "rules": None}
    merged = merged_flag({**base, "environments": {"production": block}}, "production")
    assert merged == {
        "overrides": {"user_id": {"u": "on"}, "tenant_id": {"t": "on"}},
        "salt": None,
        "rules": None,
    }


names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


@given(names, names)
def test_rules_merge_by_name_in_the_bases_order(base: list[str], over: list[str]) -> None:
    merged = merged_rules(
        [{"name": name, "from": "base"} for name in base],
        [{"name": name, "from": "over"} for name in over],
    )
    assert [rule["name"] for rule in merged] == base + [name for name in over if name not in base]
    assert [rule["from"] for rule in merged] == [
        "over" if rule["name"] in over else "base" for rule in merged
    ]


@pytest.mark.parametrize("variant", [None, "off"])
def test_a_kill_is_kept_beside_the_flag_and_without_one(
    variant: str | None, manifest: Make
) -> None:
    kill = {"variant": variant}
    assert msgpack.unpackb(flag_body(manifest("flag"), kill, "production"))["k"] == kill
    assert msgpack.unpackb(flag_body(None, kill, "production")) == {"m": None, "k": kill}


@pytest.mark.parametrize("kill", [{}, {"variant": 3}, {"variant": None, "x": 1}])
def test_a_kill_in_another_form_is_refused(kill: dict[str, Any], manifest: Make) -> None:
    with pytest.raises(ManifestInvalid, match="kill: expected"):
        flag_body(manifest("flag"), kill, "production")


def test_a_flag_that_does_not_compile_for_the_environment_is_refused(manifest: Make) -> None:
    flag = manifest("flag", environments={"production": {"default": "maybe"}})
    assert flag_body(flag, None, "staging")
    with pytest.raises(ManifestInvalid, match=r"^flag/x: default: expected") as refused:
        flag_body(flag, None, "production")
    assert refused.value.path == ("metadata", "default")


def test_a_segments_record_is_the_sorted_hashes_of_its_members(manifest: Make) -> None:
    hashes = sorted(hashlib.sha256(member).digest()[:16] for member in (b"b", b"\xc3\xa9"))
    body = segment_body(manifest("segment", members=["é", "b", "é"]))
    assert msgpack.unpackb(body) == {"members": b"".join(hashes)}
    sharded = manifest("segment", shards=4)
    del sharded["metadata"]["members"]
    assert msgpack.unpackb(segment_body(sharded)) == {"shards": 4}
    assert shard_body(canonical(["b", "é"])) == b"".join(hashes)


@given(st.lists(st.text(max_size=5).filter(str.isprintable), max_size=20))
def test_members_can_be_searched_by_bisection(members: list[str]) -> None:
    packed = packed_members(members)
    slots = [packed[at : at + 16] for at in range(0, len(packed), 16)]
    assert slots == sorted(set(slots))
    assert len(slots) == len(set(members))


@pytest.mark.parametrize("blob", [b'["b","a"]', b'["a","a"]', b"[1]", b"{}", b'"a"'])
def test_a_shard_that_is_no_sorted_array_of_strings_is_refused(blob: bytes) -> None:
    with pytest.raises(ManifestInvalid, match=r"^segment"):
        shard_body(blob)


def test_a_shard_in_another_spelling_is_refused() -> None:
    with pytest.raises(SyntaxInvalid):
        shard_body(b'["a", "b"]')


@pytest.mark.parametrize("metadata", [{"shards": 17}, {"shards": True}, {}])
def test_a_segment_without_a_usable_shape_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(ManifestInvalid, match=r"^segment/s: expected"):
        segment_body({"name": "s", "metadata": metadata})


def test_a_leafs_record_has_path_value_layer_and_generation(manifest: Make) -> None:
    config = manifest("config", tenants={"acme": {"pool": 1}})
    records = config_records(config, [], "production", 7)
    assert {place: msgpack.unpackb(body) for place, body in records.items()} == {
        ("", "database.pool.size"): ["database.pool.size", 5, "values", 7],
        ("", "database.url"): ["database.url", "db.internal", "environments.production", 7],
        ("acme", "database.pool"): ["database.pool", 1, "tenants.acme", 7],
        ("acme", "database.pool.size"): ["database.pool.size", None, "hidden", 7, True],
    }


def test_flags_segments_and_configs_compile_without_the_authors_packages() -> None:
    code = """
import sys
for name in ("jsonschema", "jsonschema_rs", "rfc8785", "yaml", "packaging", "tuf", "cryptography"):
    sys.modules[name] = None
from control_plane.replica.compile import config_records, flag_body, segment_body
metadata = {"variants": {"on": True, "off": False}, "default": "on"}
assert flag_body({"name": "x", "metadata": metadata}, None, "production")
assert segment_body({"name": "s", "metadata": {"members": ["a"]}})
assert config_records({"name": "n", "metadata": {"values": {"a": 1}}}, [], "production", 1)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
