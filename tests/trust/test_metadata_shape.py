"""Metadata out of form: one family of errors, whatever the bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata

from control_plane.errors import ControlPlaneError, SyntaxInvalid
from control_plane.trust.metadata import MAX_METADATA_BYTES, read_root, read_targets
from control_plane.trust.state import adopt

Change = Callable[[dict[str, Any]], object]

GOOD_ID = "ab" * 32


def alias(signed: dict[str, Any]) -> None:
    key_id, key = next(iter(signed["keys"].items()))
    signed["keys"][GOOD_ID] = deepcopy(key)
    signed["roles"]["root"] = {"keyids": [key_id, GOOD_ID], "threshold": 2}


def first_key(signed: dict[str, Any]) -> dict[str, Any]:
    return next(iter(signed["keys"].values()))  # type: ignore[no-any-return]


def log(signed: dict[str, Any]) -> dict[str, Any]:
    return signed["logs"]["production"]  # type: ignore[no-any-return]


def delegation(signed: dict[str, Any]) -> dict[str, Any]:
    return signed["delegations"]["roles"][0]  # type: ignore[no-any-return]


ROOT: dict[str, tuple[Change, str]] = {
    "one key under two ids": (alias, "expected one id for each public key"),
    "an unknown field": (lambda s: s.update(allow="all"), "expected no field but its own"),
    "no logs": (lambda s: s.pop("logs"), "expected the field logs"),
    "a version that is true": (lambda s: s.update(version=True), "expected an integer from 1"),
    "version 0": (lambda s: s.update(version=0), "expected an integer from 1"),
    "half a threshold": (lambda s: s["roles"]["root"].update(threshold=0.5), "integer from 1"),
    "threshold 1.5": (lambda s: s["roles"]["root"].update(threshold=1.5), "integer from 1"),
    "threshold out of reach": (lambda s: s["roles"]["root"].update(threshold=2), "at least 2 keys"),
    "a key id that is nobody's": (
        lambda s: s["roles"]["root"].update(keyids=[GOOD_ID]), "keys that are described"),
    "a key id twice": (
        lambda s: s["roles"]["root"].update(keyids=s["roles"]["root"]["keyids"] * 2), "once"),
    "a timestamp key": (
        lambda s: s["roles"]["timestamp"].update(keyids=s["roles"]["root"]["keyids"]), "no keys"),
    "a fifth role": (lambda s: s["roles"].update(mirror={}), "no field but its own"),
    "an rsa key": (lambda s: first_key(s).update(keytype="rsa"), "keytype and scheme ed25519"),
    "a short key": (lambda s: first_key(s)["keyval"].update(public="ab"), "32 bytes in lower case"),
    "a key of small order": (
        lambda s: first_key(s)["keyval"].update(public="01" + "00" * 31), "point of large order"),
    "a key in a longer encoding": (
        lambda s: first_key(s)["keyval"].update(public="ee" + "ff" * 30 + "7f"), "shortest"),
    "an expiry in another spelling": (
        lambda s: s.update(expires="2030-1-1T00:00:00Z"), "in its one form"),
    "an expiry that is no date": (lambda s: s.update(expires="never"), "expected TUF metadata"),
    "another major version of TUF": (lambda s: s.update(spec_version="2.0.0"), "expected TUF"),
    "an environment called author": (
        lambda s: s["logs"].update(author=log(s)), "and not 'author'"),
    "an environment out of form": (
        lambda s: s["logs"].update({"A/b": log(s)}), "expected an environment's name"),
    "the origin of another epoch": (lambda s: log(s).update(epoch=2), "production/2'"),
    "the origin of another environment": (
        lambda s: log(s).update(origin="hello/staging/1"), "production/1'"),
    "an unknown log field": (lambda s: log(s).update({"x-y": 1}), "no field but its own"),
    "one vkey": (lambda s: log(s)["vkeys"].pop(), "expected two vkeys"),
    "vkeys in another order": (lambda s: log(s)["vkeys"].reverse(), "in this order"),
    "a vkey that is none": (lambda s: log(s).update(vkeys=["a", "b"]), "vkey"),
    "a first epoch that continues": (
        lambda s: log(s).update(continues={}), "in every epoch but the first"),
    "witnesses that are not there": (
        lambda s: log(s)["witnesses"].update(threshold=1), "at least 1 witnesses"),
}  # fmt: skip

TARGETS: dict[str, tuple[Change, str]] = {
    "a target file": (lambda s: s.update(targets={"a": {}}), "no target files"),
    "no delegations": (lambda s: s.pop("delegations"), "expected the field delegations"),
    "hash bins": (lambda s: s["delegations"].update(succinct_roles={}), "no field but its own"),
    "path hash prefixes": (
        lambda s: delegation(s).update(path_hash_prefixes=["ab"]), "no field but its own"),
    "a delegation that goes on": (lambda s: delegation(s).update(terminating=False), "terminating"),
    "a delegation twice": (
        lambda s: s["delegations"]["roles"].append(delegation(s)), "name of its own"),
    "TUF's own role": (lambda s: delegation(s).update(name="snapshot"), "expected TUF metadata"),
    "a pattern of two parts": (lambda s: delegation(s).update(paths=["production/*"]), "patterns"),
    "a pattern for every environment": (
        lambda s: delegation(s).update(paths=["*/kill/*"]), "after the first part only"),
    "a pattern with a class": (lambda s: delegation(s).update(paths=["a/[b/c"]), "patterns like"),
    "a manifest by two authors": (
        lambda s: delegation(s).update(paths=["author/*/*"], threshold=2), "has one signature"),
    "a threshold of 0": (lambda s: delegation(s).update(threshold=0), "integer from 1"),
}  # fmt: skip


def changed(data: bytes, change: Change) -> bytes:
    """The metadata with its signed part changed; the shape is judged before any signature."""
    value = json.loads(data)
    change(value["signed"])
    return json.dumps(value).encode()


@pytest.mark.parametrize("case", ROOT)
def test_root_out_of_form_is_refused_with_the_reason(forge: Any, case: str) -> None:
    change, reason = ROOT[case]
    with pytest.raises(SyntaxInvalid, match=reason) as refusal:
        read_root(changed(forge.root(), change))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("case", TARGETS)
def test_targets_out_of_form_are_refused_with_the_reason(forge: Any, case: str) -> None:
    change, reason = TARGETS[case]
    with pytest.raises(SyntaxInvalid, match=reason) as refusal:
        read_targets(changed(forge.targets(), change))
    assert "\n" not in str(refusal.value)


def test_a_root_key_that_signs_a_log_is_refused(forge: Any) -> None:
    data = changed(forge.root(), lambda signed: signed.update(logs={}))
    assert read_root(data).logs == {}
    with pytest.raises(SyntaxInvalid, match="expected keys that sign no log"):
        forge.root(logs=[forge.log(key="root")])


def test_fields_of_signing_tools_are_carried_and_ignored(forge: Any) -> None:
    def annotate(signed: dict[str, Any]) -> None:
        signed["x-expiry-period"] = 365
        first_key(signed)["x-keyowner"] = "@alice"

    data = forge.resigned(forge.root(), ("root",), annotate)
    policy = adopt(None, [data], forge.targets(), at_ms=0)
    assert policy.root_bytes == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"signatures":[],"signed":[]}',
        b'{"signatures":{},"signed":{}}',
        b'{"signatures":[],"signed":{},"signed":{}}',
        b'{"signatures":[],"signed":{"_type":"root","version":1}}',
        b"\xff",
        b"[" * 100_000,
        b" " * (MAX_METADATA_BYTES + 1),
    ],
)
def test_bytes_that_are_no_metadata_are_refused(data: bytes) -> None:
    for read in (read_root, read_targets):
        with pytest.raises(SyntaxInvalid):
            read(data)


def test_one_kind_does_not_pass_for_the_other(forge: Any) -> None:
    with pytest.raises(SyntaxInvalid, match="expected targets metadata, found 'root'"):
        read_targets(forge.root())
    with pytest.raises(SyntaxInvalid, match="expected root metadata, found 'targets'"):
        read_root(forge.targets())


def test_a_signature_is_listed_once_and_in_hex(forge: Any) -> None:
    value = json.loads(forge.root())
    value["signatures"] *= 2
    with pytest.raises(SyntaxInvalid, match="Multiple signatures found for keyid"):
        read_root(json.dumps(value).encode())
    value["signatures"] = [{"keyid": GOOD_ID, "sig": "zz"}]
    with pytest.raises(SyntaxInvalid, match="64 bytes in hex"):
        read_root(json.dumps(value).encode())
    value["signatures"] = [{"keyid": f"{number:064x}", "sig": "0" * 128} for number in range(65)]
    with pytest.raises(SyntaxInvalid, match="at most 64 signatures"):
        read_root(json.dumps(value).encode())


def test_python_tuf_reads_what_we_write(forge: Any) -> None:
    root, targets = Metadata.from_bytes(forge.root()), Metadata.from_bytes(forge.targets())
    root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path, *(deeper for key, item in items for deeper in places(item, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), of_root=st.booleans(), replacement=json_values)
def test_any_value_anywhere_gives_one_family_of_errors(
    metadata_pair: tuple[bytes, bytes], data: st.DataObject, of_root: bool, replacement: Any
) -> None:
    root, targets = metadata_pair
    value = json.loads(root if of_root else targets)
    path = data.draw(st.sampled_from(places(value)[1:]))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = replacement
    elif isinstance(holder, dict):
        holder[str(replacement)] = holder.pop(path[-1])
    else:
        holder.append(holder.pop(path[-1]) if replacement else holder[path[-1]])
    mutated = json.dumps(value).encode()
    pair = (mutated, targets) if of_root else (root, mutated)
    try:
        adopted = adopt(None, [pair[0]], pair[1], at_ms=0)
    except ControlPlaneError:
        return
    # Only what no signature covers, or what is the same JSON, may still be adopted.
    assert (adopted.root_bytes, adopted.targets_bytes) == pair
    assert json.loads(mutated)["signed"] == json.loads(root if of_root else targets)["signed"]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_anywhere_give_one_family_of_errors(
    metadata_pair: tuple[bytes, bytes], data: st.DataObject
) -> None:
    root, targets = metadata_pair
    at = data.draw(st.integers(0, len(root)))
    cut = data.draw(st.integers(0, 8))
    mutated = root[:at] + data.draw(st.binary(max_size=8)) + root[at + cut :]
    try:
        adopted = adopt(None, [mutated], targets, at_ms=0)
    except ControlPlaneError:
        return
    assert json.loads(adopted.root_bytes)["signed"] == json.loads(root)["signed"]
