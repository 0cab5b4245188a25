"""What environments show: read from documents, or from the replica on this node.

- Of documents every environment that one of them names is looked at, and for flags also one that
  none names, or those that were asked for. Layers are merged and references followed as the daemon
  does it; a reference to what is not among the documents stays the text it is.
- A replica's records are what its environment serves. The schema of a configuration and the mark
  of a deprecated flag are in the documents that a daemon's replica keeps beside its records;
  without them (a replica of the test kit) types come from the values, and nothing is deprecated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from control_plane.codegen.description import Seen
from control_plane.configs.layers import BASE_TENANT, tenant_of
from control_plane.configs.references import Configuration
from control_plane.log.canonical import parse
from control_plane.manifests.environments import environments_of, merged_flag

if TYPE_CHECKING:
    from control_plane.replica.reader import Replica, View

_ALL = 1 << 62


def seen_in_documents(
    documents: Sequence[Mapping[str, Any]], environments: Sequence[str] = ()
) -> list[Seen]:
    """What documents that are in form show: in ``environments``, or in every one they name."""
    named = sorted({each for document in documents for each in _named(document)})
    chosen: list[str | None] = [*(environments or named)]
    seen = [_shown(documents, environment, configs=True) for environment in chosen]
    if not environments:
        # An environment that no document names sees the flags as they are without a block; a
        # configuration may be whole in those it names only.
        seen.append(_shown(documents, None, configs=not named))
    return seen


def _named(document: Mapping[str, Any]) -> list[str]:
    return environments_of(document) if document["kind"] in ("flag", "config") else []


def _shown(
    documents: Iterable[Mapping[str, Any]], environment: str | None, *, configs: bool
) -> Seen:
    seen = Seen()
    spaces: dict[str, list[Mapping[str, Any]]] = {}
    for document in documents:
        kind, name = document["kind"], document["name"]
        if kind == "flag":
            seen.flags[name] = merged_flag(document["metadata"], environment)["variants"]
            if document.get("deprecated"):
                seen.deprecated.add(name)
        elif kind == "config" and configs:
            spaces.setdefault(tenant_of(name)[0], []).append(document)
        elif kind == "agent":
            seen.agents.add(name)
        elif kind == "tool":
            seen.tools.add(name)
    configuration = Configuration(environment, lambda space: _manifests(space, spaces))
    for space in spaces:
        base = configuration.documents(space)[0]
        trees = [tree for _, tree, _ in configuration.trees(space, unfollowed=False)]
        seen.sections[space] = (None if base is None else base["metadata"].get("schema"), trees)
    return seen


def _manifests(
    space: str, spaces: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]] | None:
    """A namespace's own manifest and those of its tenants; None for one that is not among them."""
    if space not in spaces:
        return None
    base = next((each for each in spaces[space] if each["name"] == space), None)
    return base, [each for each in spaces[space] if each is not base]


def seen_in_replica(replica: Replica) -> Seen:
    """What the newest generation of a replica shows.

    Raises:
        ReplicaInvalid: a record is damaged.
        ReplicaBusy, ViewExpired: its writer left no snapshot to read in time.
    """
    stored = replica.database("blobs")
    with replica.view() as view:
        seen = Seen(agents=_versioned(view, "agent"), tools=_versioned(view, "tool"))
        _read_flags(view, stored, seen)
        _read_sections(view, stored, seen)
        return seen


def _versioned(view: View, kind: str) -> set[str]:
    from control_plane.registries.registry_manager import PinnedRegistry

    registry = PinnedRegistry(view)
    listed = registry.list_agents() if kind == "agent" else registry.list_tools()
    return {each.name for each in listed}


def _read_flags(view: View, stored: Any, seen: Seen) -> None:
    from msgpack import unpackb

    from control_plane.replica.format import DELETED, FLAG, decode_record

    documents = _stored(view, stored, "flag")
    for key, raw in view.scan(bytes((FLAG,)), _ALL):
        record = decode_record(key, raw)
        # A kill may stand alone, of a flag that is not there.
        if record.status == DELETED or not record.body or not unpackb(record.body)["m"]:
            continue
        name = key[1:].decode()
        seen.flags[name] = unpackb(record.body)["m"]["variants"]
        if documents.get(name, {}).get("deprecated"):
            seen.deprecated.add(name)


def _read_sections(view: View, stored: Any, seen: Seen) -> None:
    from control_plane.configs.merged import ABSENT, merged_value
    from control_plane.replica.format import CONFIG

    places: dict[str, set[str]] = {}
    for key, _ in view.scan(bytes((CONFIG,)), _ALL):
        tenant, _, path = key[1:].partition(b"\0")
        space = path.partition(b".")[0].decode()
        places.setdefault(space, {BASE_TENANT}).add(tenant.decode())
    documents = _stored(view, stored, "config")
    for space, tenants in sorted(places.items()):
        trees = [merged_value(view, space, tenant) for tenant in sorted(tenants)]
        there = [tree for tree in trees if tree is not ABSENT]
        if there:
            schema = documents.get(space, {"metadata": {}})["metadata"].get("schema")
            seen.sections[space] = (schema, there)


def _stored(view: View, database: Any, kind: str) -> dict[str, Any]:
    """The served documents of a kind that the writer keeps, by name."""
    prefix = f"live\0{kind}\0".encode()
    return {
        key[len(prefix) :].decode(): parse(data, what="stored document")
        for key, data in view.scan(prefix, _ALL, database)
    }
