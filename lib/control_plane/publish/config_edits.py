"""An edit of one environment's or tenant's configuration as the smallest change of a manifest.

- An edit goes into the highest layer there is for whom it is meant: ``environments.E`` of the base
  manifest; for a tenant ``tenants.T`` of it, or ``environments.E`` of the tenant's own manifest
  ``database@T`` where that exists. Only leaves that are to change are written there.
- A layer adds and replaces, it takes nothing away. A leaf goes where that layer alone holds it;
  else the edit is refused and says which layer has it.
- To a list that is appended to, the layer holds only what comes after the layers below.
- Text is edited as authors write it, with ``${}`` in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from control_plane.configs.layers import (
    APPEND,
    Merged,
    decode_path,
    encode_path,
    same,
    tenant_of,
)
from control_plane.configs.merged import ABSENT
from control_plane.configs.references import Documents, manifest_place
from control_plane.errors import NotFound, Refused

Keys = tuple[str, ...]


class Layer(NamedTuple):
    """Where an edit goes: the manifest and the place of the block inside its metadata."""

    document: Mapping[str, Any]
    block: str
    name: str

    @property
    def label(self) -> str:
        """``environments.production of config/database``."""
        return f"{self.block}.{self.name} of config/{self.document['name']}"


def layer_of(documents: Documents, namespace: str, environment: str, tenant: str) -> Layer:
    """The layer that an edit goes into.

    Raises:
        NotFound: there is no manifest to hold it.
    """
    base, own = documents
    if tenant:
        for document in own:
            if tenant_of(document["name"])[1] == tenant:
                return Layer(document, "environments", environment)
    if base is None:
        raise NotFound(
            f"config/{namespace}: expected it in {environment}, found none; publish one with"
            " 'control-plane apply'"
        )
    return Layer(base, "tenants", tenant) if tenant else Layer(base, "environments", environment)


def merged_tree(documents: Documents, environment: str, tenant: str) -> dict[str, Any]:
    """The whole values of a namespace as they are edited: merged, references as text."""
    tree = Merged(*documents, environment).tree(tenant)
    return tree if isinstance(tree, dict) else {}


def with_value(
    documents: Documents, keys: Keys, value: Any, environment: str, tenant: str
) -> dict[str, Any]:
    """The manifest in which the value of these keys, the namespace first, is another.

    Raises:
        NotFound: there is no manifest to hold it.
        Refused: a scalar stands where the keys lead through.
    """
    namespace, *inner = keys
    tree: Any = merged_tree(documents, environment, tenant)
    for count, key in enumerate(inner):
        if not isinstance(tree, dict):
            above = encode_path(keys[: count + 1])
            raise Refused(
                f"{above}: expected a mapping to set {encode_path(inner[count:])} in, found"
                f" another value; set {above} itself"
            )
        tree = tree.get(key, {})
    layer = layer_of(documents, namespace, environment, tenant)
    return _written(layer, [(tuple(inner), value)])


def with_tree(
    documents: Documents, namespace: str, wanted: Mapping[str, Any], environment: str, tenant: str
) -> dict[str, Any] | None:
    """The manifest with which the merged values are ``wanted``; None if they are already.

    Raises:
        NotFound: there is no manifest to hold the edit.
        Refused: no content of the layer makes them so; says which value, and which layer has it.
    """
    tree = merged_tree(documents, environment, tenant)
    changes = list(_changed((), tree, dict(wanted)))
    if not changes:
        return None
    layer = layer_of(documents, namespace, environment, tenant)
    below = merged_tree(_replaced(documents, _emptied(layer)), environment, tenant)
    appended = _appended(documents[0])
    made = _written(
        layer, [(keys, _behind(below, keys, value, appended)) for keys, value in changes]
    )
    found = merged_tree(_replaced(documents, made), environment, tenant)
    for keys, value in _changed((), found, dict(wanted)):
        raise _unreachable(documents, namespace, keys, value, environment, tenant, layer)
    return made


def changed_keys(
    documents: Documents, wanted: Mapping[str, Any], environment: str, tenant: str
) -> list[Keys]:
    """The keys, below the namespace, at which a tree is another than the merged values."""
    tree = merged_tree(documents, environment, tenant)
    return [keys for keys, _ in _changed((), tree, dict(wanted))]


def _changed(keys: Keys, old: Any, new: Any) -> Iterator[tuple[Keys, Any]]:
    """The topmost places where two trees differ, with what the new one has there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(each for each in new if each not in old)]:
            yield from _changed((*keys, key), old.get(key, ABSENT), new.get(key, ABSENT))
        if keys and old and not new:
            # Its keys are taken out one by one, and the mapping itself is to stay.
            yield keys, new
    elif not same(old, new):
        yield keys, new


def _written(layer: Layer, changes: list[tuple[Keys, Any]]) -> dict[str, Any]:
    """The layer's manifest with these values in its block; absent ones are taken out of it."""
    made = copy.deepcopy(dict(layer.document))
    block = made["metadata"].setdefault(layer.block, {}).setdefault(layer.name, {})
    for keys, value in changes:
        if value is ABSENT:
            _take(block, keys)
        else:
            _put(block, keys, value)
    return made


def _put(block: dict[str, Any], keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        inner = block.get(key)
        if not isinstance(inner, dict):
            inner = block[key] = {}
        block = inner
    block[keys[-1]] = value


def _take(block: dict[str, Any], keys: Keys) -> None:
    """Take a value out, and the mappings that only led to it."""
    passed = [block]
    for key in keys[:-1]:
        inner = passed[-1].get(key)
        if not isinstance(inner, dict):
            return
        passed.append(inner)
    for mapping, key in zip(reversed(passed), reversed(keys), strict=True):
        mapping.pop(key, None)
        if mapping:
            return


def _emptied(layer: Layer) -> dict[str, Any]:
    """The layer's manifest without its block."""
    metadata = dict(layer.document["metadata"])
    blocks = dict(metadata.get(layer.block, {}))
    blocks.pop(layer.name, None)
    return {**layer.document, "metadata": {**metadata, layer.block: blocks}}


def _replaced(documents: Documents, document: Mapping[str, Any]) -> Documents:
    base, own = documents
    if base is not None and base["name"] == document["name"]:
        return document, own
    return base, [document if each["name"] == document["name"] else each for each in own]


def _appended(base: Mapping[str, Any] | None) -> set[Keys]:
    lists = {} if base is None else base["metadata"].get("lists", {})
    return {decode_path(path) for path, strategy in lists.items() if strategy == APPEND}


def _behind(below: Any, keys: Keys, value: Any, appended: set[Keys]) -> Any:
    """What the layer has to hold for a list to come out as ``value``."""
    if keys not in appended or not isinstance(value, list):
        return value
    for key in keys:
        below = below.get(key, ABSENT) if isinstance(below, dict) else ABSENT
    if isinstance(below, list) and same(value[: len(below)], below):
        return value[len(below) :]
    return value


def _unreachable(
    documents: Documents,
    namespace: str,
    keys: Keys,
    value: Any,
    environment: str,
    tenant: str,
    layer: Layer,
) -> Refused:
    path = encode_path((namespace, *keys))
    what = "another list to come after" if isinstance(value, list) else "it to go"
    merged = Merged(*documents, environment)
    records = merged.base_records() | (merged.differences(tenant) if tenant else {})
    holding = next(
        (
            name
            for each, (_, name, _) in sorted(records.items())
            if f"{each}.".startswith(f"{path}.")
        ),
        layer.block,
    )
    manifest, place = manifest_place(namespace, holding)
    return Refused(
        f"{path}: expected {what} in {layer.label}, found that a lower layer has it"
        f" ({'.'.join(place[1:])} of config/{manifest}); change it there, or give it another value"
    )
