"""How the layers of one configuration namespace become leaves, for an environment and its tenants.

Low to high, a later layer over an earlier one:

1. ``default``            the schema's defaults
2. ``values``             the manifest's own values
3. ``environments.E``     the manifest's block for the environment
4. ``tenants.T``          the manifest's block for a tenant
5. ``database@T``         the tenant's own manifest: its ``values``, then its ``environments.E``

- Two mappings merge key by key; anything else (a scalar, a list, null) replaces what is below it.
- At a path that ``metadata.lists`` of the base names with ``append``, a list comes after the list
  below it instead, a default's included. The leaf's layer is the highest that gave items.
- A leaf is a scalar, a list or an empty mapping. Its path is the namespace and the keys that lead
  to it, joined by dots; in each, ``~`` is written ``~0``, ``.`` ``~1`` and NUL ``~2``.
- The base (tenant ``""``) has every leaf of layers 1 to 3. A tenant has only the leaves whose
  value differs from the base's, and a *hidden* marker for each base leaf that is gone for it; the
  base overlaid with them is the tenant's whole configuration.
- A default of the schema counts where its property is absent. The defaults inside an absent object
  count only if they make up all that object requires, so that they never create half an object.
  Defaults are followed through ``properties`` and local ``$ref``.

This module is on the way to a reader's first value, so it needs nothing but the language.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    Tree = dict[str, Any]
    Keys = tuple[str, ...]

BASE_TENANT = ""
DEFAULT_LAYER = "default"
APPEND = "append"

_ABSENT = object()
# Which lists are appended: keys lead down, and None stands where the path ends.
_REPLACED: dict[Any, Any] = {}


class Leaf:
    """A value at the end of a path, and the layer it comes from."""

    __slots__ = ("layer", "value")

    def __init__(self, value: Any, layer: str) -> None:
        self.value = value
        self.layer = layer


# Paths


def encode_key(key: str) -> str:
    """One key as it stands between the dots of a path."""
    if "~" in key or "." in key or "\0" in key:
        return key.replace("~", "~0").replace(".", "~1").replace("\0", "~2")
    return key


def decode_key(text: str) -> str:
    """The key that ``encode_key`` wrote so."""
    if "~" in text:
        return text.replace("~2", "\0").replace("~1", ".").replace("~0", "~")
    return text


def encode_path(keys: Iterable[str]) -> str:
    """The path of the leaf these keys lead to; there is at least one key."""
    return ".".join([encode_key(key) for key in keys])


def decode_path(path: str) -> Keys:
    """The keys that ``encode_path`` joined."""
    return tuple([decode_key(text) for text in path.split(".")])


def path_of(key: str | tuple[str, ...]) -> str:
    """The path a caller means: keys joined by dots, or a tuple for keys that hold a dot."""
    if isinstance(key, tuple):
        return encode_path(key)
    if "~" in key or "\0" in key:
        return encode_path(key.split("."))
    return key


def written(path: str) -> str | tuple[str, ...]:
    """The path as a caller passes it to ``get``: a tuple only where a key holds a dot."""
    keys = decode_path(path)
    return keys if any("." in key for key in keys) else ".".join(keys)


# Trees


def merge(base: Any, over: Any) -> Any:
    """``over`` laid on ``base``: mappings merge key by key, anything else replaces.

    Neither argument changes; the result shares what it took from them.
    """
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return merged


def flatten(tree: Any, prefix: Keys = ()) -> dict[str, Any]:
    """Every leaf of a tree by its path; an empty mapping is a leaf.

    Raises:
        ValueError: for a leaf without any key, which has no path.
    """
    if not prefix and not (isinstance(tree, dict) and tree):
        raise ValueError("expected a key, found a leaf without any")
    return {path: leaf.value for path, leaf in _node_leaves(_node(tree, ""), _prefix(prefix))}


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The tree with these leaves, the inverse of ``flatten``.

    Raises:
        ValueError: if one path is a leaf and also leads to another leaf.
    """
    tree: Tree = {}
    # A leaf may be `{}`; only the mappings made here may take further keys.
    made = {id(tree)}
    for path, value in leaves.items():
        *parents, last = decode_path(path)
        node = tree
        for key in parents:
            if key not in node:
                node[key] = {}
                made.add(id(node[key]))
            node = node[key]
            if id(node) not in made:
                raise ValueError(f"expected leaves only, found {path!r} below another leaf")
        if last in node:
            raise ValueError(f"expected leaves only, found another below {path!r}")
        node[last] = value
    return tree


def same(one: Any, other: Any) -> bool:
    """Whether two values are one JSON value: ``1`` and ``1.0`` are, ``1`` and ``True`` are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


# Layers


def compile_config(
    base: Mapping[str, Any] | None,
    tenant_documents: Iterable[Mapping[str, Any]],
    environment: str | None,
) -> dict[tuple[str, str], tuple[Any, str, bool]]:
    """Every record of one namespace: ``(tenant, path)`` to ``(value, layer, hidden)``.

    ``base`` is the manifest ``database``, ``tenant_documents`` are the manifests ``database@…``.
    The result is ordered by tenant and path. A hidden record has the value None and the layer
    that hides the base's leaf.

    Raises:
        ManifestInvalid: when the schema's defaults are without bound.
    """
    return Merged(base, tenant_documents, environment).records()


def merged_config(
    base: Mapping[str, Any] | None,
    tenant_documents: Iterable[Mapping[str, Any]],
    environment: str | None,
) -> Iterator[tuple[str, Any]]:
    """The whole values as ``(tenant, tree)``: the base's first, then each tenant's by name.

    Raises:
        ManifestInvalid: when the schema's defaults are without bound.
    """
    return Merged(base, tenant_documents, environment).trees()


def tenant_of(name: str) -> tuple[str, str]:
    """``database@acme`` as ``("database", "acme")``; the tenant is empty without an ``@``."""
    namespace, _, tenant = name.partition("@")
    return namespace, tenant


class Merged:
    """The documents of one namespace, merged for one environment; references stay as text.

    Raises:
        ManifestInvalid: from the constructor and every method but `tenants`, when the schema's
            defaults or appended lists are without bound.

    Inside, a tree is made of *nodes*: a non-empty dict of nodes, or a Leaf. An empty mapping is
    ``Leaf({})``, which takes part in a merge as the mapping without keys that it is.
    """

    def __init__(
        self,
        base: Mapping[str, Any] | None,
        tenant_documents: Iterable[Mapping[str, Any]],
        environment: str | None,
    ) -> None:
        documents = list(tenant_documents)
        metadata = base["metadata"] if base is not None else {}
        name = (base if base is not None else documents[0])["name"] if base or documents else ""
        self.keys: Keys = (tenant_of(name)[0],)
        self._lists = _list_rules(metadata.get("lists", {}))
        self._defaults = _Defaults(metadata.get("schema"), self._lists)
        self._blocks: dict[str, list[Any]] = {
            tenant: [_node(block, f"tenants.{tenant}")]
            for tenant, block in metadata.get("tenants", {}).items()
        }
        for document in sorted(documents, key=lambda document: str(document["name"])):
            tenant = tenant_of(document["name"])[1]
            layers = document["name"], document["name"]
            own = _explicit(document["metadata"], environment, layers, self._lists)
            self._blocks.setdefault(tenant, []).append(own)
        self._explicit: Any = _ABSENT
        if base is not None:
            layers = "values", f"environments.{environment}"
            self._explicit = _explicit(metadata, environment, layers, self._lists)
        self.base: Any = self._defaults.filled(self._defaults.root, self._explicit)

    def tenants(self) -> list[str]:
        """Every tenant that has a block or a manifest of its own, in order."""
        return sorted(self._blocks)

    def records(self) -> dict[tuple[str, str], tuple[Any, str, bool]]:
        """Every record of the namespace, as `compile_config` gives them."""
        records = {(BASE_TENANT, path): leaf for path, leaf in self.base_records().items()}
        for tenant in self._blocks:
            for path, record in self.differences(tenant).items():
                records[tenant, path] = record
        return dict(sorted(records.items()))

    def base_records(self) -> dict[str, tuple[Any, str, bool]]:
        """The base's records by path; none of them is hidden."""
        return {
            path: (leaf.value, leaf.layer, False)
            for path, leaf in _node_leaves(self.base, _prefix(self.keys))
        }

    def trees(self) -> Iterator[tuple[str, Any]]:
        """The whole values, as `merged_config` gives them."""
        for tenant in (BASE_TENANT, *self.tenants()):
            yield tenant, self.tree(tenant)

    def tree(self, tenant: str) -> Any:
        """A tenant's whole values, or those of the base for one that has nothing of its own."""
        return _value(self._whole(tenant) if tenant in self._blocks else self.base)

    def _whole(self, tenant: str) -> Any:
        """The tenant's whole tree, by laying every layer on the one below it."""
        node = self._explicit
        for block in self._blocks[tenant]:
            node = _over(node, block, self._lists)
        return self._defaults.filled(self._defaults.root, node)

    def differences(self, tenant: str) -> dict[str, tuple[Any, str, bool]]:
        """The tenant's records, by walking its own keys only, however large the base is."""
        found: dict[str, tuple[Any, str, bool]] = {}
        blocks = self._blocks.get(tenant)
        if blocks:
            root = self._defaults.root
            self._differ(self.keys, self.base, blocks, root, [], self._lists, found)
        return found

    def _differ(
        self,
        keys: Keys,
        base: Any,
        blocks: list[Any],
        schema: Any,
        given: list[Any],
        lists: dict[Any, Any],
        found: dict[str, tuple[Any, str, bool]],
    ) -> None:
        """``given`` is what the defaults of the mappings above have here, the topmost first."""
        if isinstance(base, dict) and all(map(_is_mapping, blocks)):
            mappings = [block for block in blocks if isinstance(block, dict)]
            given = [*given, self._defaults.own(schema)]
            for key in dict.fromkeys([key for block in mappings for key in block]):
                below = [block[key] for block in mappings if key in block]
                inner = self._defaults.property(schema, key)
                still = [each[key] for each in given if isinstance(each, dict) and key in each]
                self._differ(
                    (*keys, key), base.get(key, _ABSENT), below, inner, still,
                    lists.get(key, _REPLACED), found,
                )  # fmt: skip
            return
        # Nothing of the base shows through here but for a list that is appended to: what stands
        # is the blocks' own, with defaults.
        node = self._explicit_at(keys) if None in lists else _ABSENT
        for block in blocks:
            node = _over(node, block, lists)
        for default in given:
            node = _over(default, node, lists)
        node = self._defaults.filled(schema, node, lists)
        _replace(keys, base, node, _layer_of(blocks[-1]), found)

    def _explicit_at(self, keys: Keys) -> Any:
        node = self._explicit
        for key in keys[len(self.keys) :]:
            node = node.get(key, _ABSENT) if isinstance(node, dict) else _ABSENT
        return node


class _Defaults:
    """Fills in the schema's defaults, within a bound that no schema can multiply past."""

    # Properties without a value that are asked for a default; a schema whose references double
    # ends here instead of in an hour.
    MAX_ASKED = 20_000
    MAX_REFERENCES = 32
    # Explicit values have fewer levels; a chain of references is only as long as this too.
    MAX_LEVELS = 64

    def __init__(self, schema: Any, lists: dict[Any, Any]) -> None:
        self.root = schema
        self._lists = lists
        self._asked = 0

    def filled(self, schema: Any, node: Any, lists: dict[Any, Any] | None = None) -> Any:
        """The node with the defaults below it; ``_ABSENT`` stays so when there are none.

        ``lists`` are the rules from the node's place down; without them it is the root.
        """
        self._asked = 0
        rules = self._lists if lists is None else lists
        return self._filled(schema, node, rules, frozenset(), 0)

    def _filled(
        self, schema: Any, node: Any, lists: dict[Any, Any], inside: frozenset[int], level: int
    ) -> Any:
        if level > self.MAX_LEVELS:
            raise _too_many(f"{self.MAX_LEVELS} levels of defaults")
        chain = self._chain(schema)
        if node is not _ABSENT:
            inside = frozenset()
        elif id(schema) in inside:
            # A schema that contains itself has no last default.
            return _ABSENT
        else:
            self._count()
        whole = _over(_own(chain), node, lists)
        if whole is not _ABSENT and not _is_mapping(whole):
            return whole
        properties = _properties(chain)
        if not properties:
            return whole
        tree = dict(whole) if isinstance(whole, dict) else {}
        for key, inner in properties.items():
            value = self._filled(
                inner, tree.get(key, _ABSENT), lists.get(key, _REPLACED),
                inside | {id(schema)}, level + 1,
            )  # fmt: skip
            if value is not _ABSENT:
                tree[key] = value
        if whole is _ABSENT and not all(name in tree for name in _required(chain)):
            return _ABSENT
        return tree or whole

    def own(self, schema: Any) -> Any:
        """The default that stands at a schema itself, ``_ABSENT`` when there is none."""
        return _own(self._chain(schema))

    def property(self, schema: Any, key: str) -> Any:
        """The schema of one property, None when there is none."""
        return _properties(self._chain(schema)).get(key)

    def _chain(self, schema: Any) -> list[dict[str, Any]]:
        """The schema and what its local references lead to, nearest first."""
        chain: list[dict[str, Any]] = []
        while isinstance(schema, dict) and len(chain) < self.MAX_REFERENCES:
            chain.append(schema)
            schema = self._at(schema.get("$ref"))
        return chain

    def _at(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
            return None
        place = self.root
        for step in reference.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            place = place.get(key) if isinstance(place, dict) else None
        return place

    def _count(self) -> None:
        self._asked += 1
        if self._asked > self.MAX_ASKED:
            raise _too_many(f"{self.MAX_ASKED} defaults")


def _too_many(most: str) -> Exception:
    from control_plane.errors import ManifestInvalid

    return ManifestInvalid(
        f"expected at most {most}, found more at metadata.schema", ("metadata", "schema")
    )


def _own(chain: list[dict[str, Any]]) -> Any:
    for part in chain:
        if "default" in part:
            return _node(part["default"], DEFAULT_LAYER)
    return _ABSENT


def _properties(chain: list[dict[str, Any]]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for part in reversed(chain):
        own = part.get("properties")
        if isinstance(own, dict):
            properties.update(own)
    return properties


def _required(chain: list[dict[str, Any]]) -> list[Any]:
    lists = [part.get("required") for part in chain]
    return [name for names in lists if isinstance(names, list) for name in names]


def _list_rules(lists: Mapping[str, str]) -> dict[Any, Any]:
    """``{"a.b": "append"}`` as the mapping that is walked beside a tree."""
    rules: dict[Any, Any] = {}
    appending = _Appending()
    for path, strategy in lists.items():
        if strategy == APPEND:
            place = rules
            for key in decode_path(path):
                place = place.setdefault(key, {})
            place[None] = appending
    return rules


class _Appending:
    """Appends lists, within a bound that no number of tenants can multiply past."""

    # About the bytes of all lists made for one namespace: as much as a few of its documents.
    MAX_WEIGHT = 64 << 20

    def __init__(self) -> None:
        self._weight = 0

    def appended(self, low: Leaf, high: Leaf) -> Leaf:
        if not high.value:
            return low
        self._weight += weight(low.value) + weight(high.value)
        if self._weight > self.MAX_WEIGHT:
            from control_plane.errors import ManifestInvalid

            raise ManifestInvalid(
                f"expected at most {self.MAX_WEIGHT} bytes of lists that are appended to, found"
                " more at metadata.lists; let large lists replace", ("metadata", "lists"),
            )  # fmt: skip
        return Leaf(low.value + high.value, high.layer)


def weight(value: Any) -> int:
    """About how many bytes a value is, as JSON has it."""
    if isinstance(value, str):
        return len(value) + 8
    if isinstance(value, list):
        return 8 + sum(map(weight, value))
    if isinstance(value, dict):
        return 8 + sum(len(key) + weight(inner) for key, inner in value.items())
    return 8


def _explicit(
    metadata: Mapping[str, Any],
    environment: str | None,
    layers: tuple[str, str],
    lists: dict[Any, Any],
) -> Any:
    """What the author wrote for this environment: the values and the environment's block."""
    node = _node(metadata.get("values", {}), layers[0])
    blocks = metadata.get("environments", {})
    if environment not in blocks:
        return node
    return _over(node, _node(blocks[environment], layers[1]), lists)


def _node(tree: Any, layer: str) -> Any:
    if isinstance(tree, dict) and tree:
        # Most of a tree is leaves: those are not worth a call each.
        return {
            key: _node(value, layer) if isinstance(value, dict) else Leaf(value, layer)
            for key, value in tree.items()
        }
    return Leaf(tree, layer)


def _value(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: inner.value if isinstance(inner, Leaf) else _value(inner)
            for key, inner in node.items()
        }
    return {} if node is _ABSENT else node.value


def _is_mapping(node: Any) -> bool:
    return isinstance(node, dict) or (isinstance(node, Leaf) and isinstance(node.value, dict))


def _over(low: Any, high: Any, lists: dict[Any, Any]) -> Any:
    """``merge`` for nodes, appending the lists that the rules name; either may be absent."""
    if low is _ABSENT or high is _ABSENT:
        return low if high is _ABSENT else high
    if not isinstance(high, dict):
        if None in lists and _is_list(low) and _is_list(high):
            return lists[None].appended(low, high)
        return low if _is_mapping(high) and _is_mapping(low) else high
    if not isinstance(low, dict):
        return high
    merged = dict(low)
    for key, node in high.items():
        merged[key] = _over(merged.get(key, _ABSENT), node, lists.get(key, _REPLACED))
    return merged


def _is_list(node: Any) -> bool:
    return isinstance(node, Leaf) and isinstance(node.value, list)


def _replace(
    keys: Keys, old: Any, new: Any, layer: str, found: dict[str, tuple[Any, str, bool]]
) -> None:
    """Record where ``new`` differs from ``old``, which it stands in place of."""
    before = dict(_node_leaves(old, _prefix(keys)))
    after = dict(_node_leaves(new, _prefix(keys)))
    for path in before.keys() - after.keys():
        found[path] = (None, layer, True)
    for path, leaf in after.items():
        if path not in before or not same(before[path].value, leaf.value):
            found[path] = (leaf.value, leaf.layer, False)


def _layer_of(node: Any) -> str:
    while isinstance(node, dict):
        node = next(iter(node.values()))
    return str(node.layer)


def _prefix(keys: Keys) -> str:
    """What the paths below these keys begin with; nothing where there are no keys."""
    return encode_path(keys) + "." if keys else ""


def _node_leaves(node: Any, prefix: str) -> Iterator[tuple[str, Leaf]]:
    """Every leaf by its path; ``prefix`` is the node's own path and a dot."""
    if isinstance(node, dict):
        for key, inner in node.items():
            path = prefix + encode_key(key)
            if isinstance(inner, Leaf):
                yield path, inner
            else:
                yield from _node_leaves(inner, path + ".")
    elif node is not _ABSENT:
        yield prefix[:-1], node
