"""From documents to the bodies of records: what a reader finds is decided here, before it asks.

- flag: msgpack ``{"m": the metadata merged for this environment, "k": the kill's value or nil}``;
  ``m`` is nil where only a kill is there. A flag that does not compile to a function is refused.
- segment: msgpack ``{"members": hashes}`` or ``{"shards": k}``, with ``exclude: hashes`` and
  ``rules`` where it has them; a shard: hashes. Hashes are the sorted first 16 bytes of SHA-256 of
  each member's UTF-8, one after the other.
- config: one leaf per path, msgpack ``[full path, value, layer, generation]``; where a base leaf
  is gone for a tenant ``[full path, nil, "hidden", generation, true]``; where the text refers to
  other leaves ``[full path, value, layer, generation, false, their paths]``.
- agent, tool: the exact blob, which has no code here.

The same documents give the same bytes everywhere, and nothing here needs more than the library's
own packages: documents are validated elsewhere, what cannot be compiled is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgpack

from control_plane.configs.layers import tenant_of
from control_plane.configs.references import Configuration, Documents, Leaf
from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.compile import check_flag
from control_plane.feature_flags.definition import parse_segment_rules
from control_plane.manifests.environments import merged_flag
from control_plane.names import MAX_MANIFEST_BYTES

HASH_BYTES = 16
MAX_SHARD_BITS = 16


def flag_body(
    document: Mapping[str, Any] | None, kill: Mapping[str, Any] | None, environment: str | None
) -> bytes:
    """The record of a flag and its kill; either may be absent, not both.

    Raises:
        ManifestInvalid: for a flag that does not compile, or a kill that is no kill value.
    """
    if document is None and kill is None:
        raise ValueError("expected a flag or a kill, found neither")
    if kill is not None:
        _check_kill(kill)
    merged = None
    if document is not None:
        merged = merged_flag(document["metadata"], environment)
        _check_compiles(document, merged)
    return _packed({"m": merged, "k": None if kill is None else dict(kill)})


def segment_body(document: Mapping[str, Any]) -> bytes:
    """The record of a segment's manifest.

    Raises:
        ManifestInvalid: for a segment with nothing that says who its members are.
    """
    metadata = document["metadata"]
    what = f"segment/{document['name']}"
    body: dict[str, Any] = {}
    if "shards" in metadata:
        bits = metadata["shards"]
        if type(bits) is not int or not 0 <= bits <= MAX_SHARD_BITS:
            raise ManifestInvalid(
                f"{what}: expected shards from 0 to {MAX_SHARD_BITS}, found {bits!r}",
                ("metadata", "shards"),
            )
        body["shards"] = bits
    elif "members" in metadata or "rules" in metadata:
        body["members"] = packed_members(metadata.get("members", ()))
    else:
        raise ManifestInvalid(
            f"{what}: expected members, shards or rules, found neither", ("metadata",)
        )
    if metadata.get("exclude"):
        body["exclude"] = packed_members(metadata["exclude"])
    if "rules" in metadata:
        try:
            parse_segment_rules(metadata["rules"])
        except ManifestInvalid as error:
            raise ManifestInvalid(f"{what}: {error}", ("metadata", *error.path)) from error
        body["rules"] = metadata["rules"]
    return _packed(body)


def check_shards(
    name: str, before: int, after: int, put: Collection[int], deleted: Collection[int]
) -> None:
    """Refuse a change set after which a segment's shards would not be those its manifest counts.

    ``before`` and ``after`` are how many shards the manifest counts without and with the set (0
    where it lists its members); ``put`` and ``deleted`` are the indexes of the shards the set
    changes. Which shard a member lies in depends on their number, so another number takes every
    shard anew.

    Raises:
        ManifestInvalid: naming a shard that is too many or missing.
    """
    expected = f"segment/{name}: expected {after} shards after the change set"
    for index in put:
        if index >= after:
            raise ManifestInvalid(f"{expected}, found shard {index:04x} among them")
    for index in deleted:
        if index < after:
            raise ManifestInvalid(f"{expected}, found shard {index:04x} deleted")
    if before == after:
        return
    for index in range(after):
        if index not in put:
            raise ManifestInvalid(f"{expected}, each written by it, found no shard {index:04x}")
    for index in range(after, before):
        if index not in deleted:
            raise ManifestInvalid(f"{expected}, found shard {index:04x} left; delete it too")


def shard_body(blob: bytes) -> bytes:
    """The record of one shard, from the canonical JSON array of its members.

    Raises:
        SyntaxInvalid: when the blob is not canonical JSON.
        ManifestInvalid: when it is not a sorted array of different strings.
    """
    # Authors' and daemons' code, which a reader's bare install lacks; only they have shards.
    from control_plane.log.canonical import parse_canonical

    members = parse_canonical(blob, what="segment shard", max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(members, list):
        raise ManifestInvalid("segment shard: expected an array of members, found another value")
    packed = packed_members(members)
    if members != sorted(set(map(str, members))):
        raise ManifestInvalid("segment shard: expected sorted, different members, found others")
    return packed


def packed_members(members: Iterable[Any]) -> bytes:
    """The sorted hashes of members, one after the other.

    Raises:
        ManifestInvalid: for a member that is no string.
    """
    hashes = set()
    for member in members:
        if not isinstance(member, str):
            raise ManifestInvalid(f"segment: expected members that are strings, found {member!r}")
        hashes.add(sha256(member.encode("utf-8")).digest()[:HASH_BYTES])
    return b"".join(sorted(hashes))


def config_records(
    base: Mapping[str, Any] | None,
    tenant_documents: Iterable[Mapping[str, Any]],
    environment: str | None,
    generation: int,
    others: Callable[[str], Documents | None] = lambda _: (None, []),
) -> dict[tuple[str, str], bytes]:
    """The records of one namespace by ``(tenant, path)``, all of one generation.

    ``others`` gives the documents of the namespaces that its text refers to.

    Raises:
        ManifestInvalid: when the schema's defaults are without bound, or a reference leads nowhere.
    """
    documents: Documents = (base, list(tenant_documents))
    named = documents[1] if base is None else [base]
    if not named:
        return {}
    name = tenant_of(named[0]["name"])[0]
    configuration = Configuration(
        environment, lambda asked: documents if asked == name else others(asked)
    )
    leaves = configuration.leaves(name)
    return {
        (tenant, path): leaf_body(path, leaf, generation) for (tenant, path), leaf in leaves.items()
    }


def leaf_body(path: str, leaf: Leaf, generation: int) -> bytes:
    """The record of one leaf ``(value, layer, hidden, paths)`` last changed by that generation."""
    value, layer, hidden, paths = leaf
    if hidden:
        return _packed([path, None, "hidden", generation, True])
    if paths:
        return _packed([path, value, layer, generation, False, list(paths)])
    return _packed([path, value, layer, generation])


def _check_kill(kill: Mapping[str, Any]) -> None:
    variant = kill.get("variant")
    if set(kill) != {"variant"} or not (variant is None or isinstance(variant, str)):
        raise ManifestInvalid(f"kill: expected {{variant: NAME or null}}, found {dict(kill)!r}")


def _check_compiles(document: Mapping[str, Any], merged: dict[str, Any]) -> None:
    try:
        check_flag(merged)
    except ManifestInvalid as error:
        what = f"flag/{document.get('name', '?')}"
        raise ManifestInvalid(f"{what}: {error}", ("metadata", *error.path)) from error


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
