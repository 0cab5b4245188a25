"""The merged value of one configuration path, put together from leaf records.

- A tenant's leaf stands in place of the base's; a tenant's *hidden* marker takes a base leaf away.
- A path that is no leaf is the tree of all leaves below it, the tenant's laid over the base's.
- A path without a leaf and without leaves below it has no value (``ABSENT``).
- Deleted records and records that never had an accepted value count as no leaf; a record whose
  newest change is held still has its last good value and counts.

Everything here is a function of what a *reader* answers: an open replica's view, or a pinned one.
"""

from __future__ import annotations

from msgpack import unpackb

from control_plane.configs.layers import BASE_TENANT, decode_path, written
from control_plane.errors import KeyNotFoundError, ReplicaCorrupt, ReplicaInvalid
from control_plane.replica.format import (
    CONFIG,
    DELETED,
    NO_VALUE,
    decode_record,
    describe_key,
    record_key,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Protocol

    class Reader(Protocol):
        """One snapshot of a replica."""

        def read(self, *keys: bytes) -> list[bytes | None]: ...
        def scan(self, prefix: bytes, limit: int = ...) -> list[tuple[bytes, bytes]]: ...


MAX_CANDIDATES = 1_000
"""Keys looked at for a suggestion; an error may not cost a walk through the whole document."""

KEPT_PREFIX_BYTES = 440
"""A longer record key keeps this many bytes and ends in a hash; its full path is in the body."""


class Absent:
    """The type of ``ABSENT``, which no configuration can hold."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<no value>"


ABSENT = Absent()
_HIDDEN = Absent()


def leaf_keys(path: str, tenant: str) -> tuple[bytes, ...]:
    """The record keys that decide a leaf: the base's, then the tenant's if there is one."""
    base = record_key(CONFIG, BASE_TENANT, path)
    return (base, record_key(CONFIG, tenant, path)) if tenant else (base,)


def leaf_value(keys: tuple[bytes, ...], records: list[bytes | None]) -> object:
    """The leaf these records make, or ``ABSENT``."""
    for key, raw in zip(reversed(keys), reversed(records), strict=True):
        value = ABSENT if raw is None else _decode(key, raw)[1]
        if value is not ABSENT:
            return ABSENT if value is _HIDDEN else value
    return ABSENT


def merged_value(reader: Reader, path: str, tenant: str) -> object:
    """The leaf at ``path`` or the tree below it, as new containers; ``ABSENT`` without either."""
    keys = leaf_keys(path, tenant)
    value = leaf_value(keys, reader.read(*keys))
    return value if value is not ABSENT else subtree(reader, path, tenant)


def subtree(reader: Reader, path: str, tenant: str) -> object:
    """The tree of the leaves below ``path`` (all, if it is empty); ``ABSENT`` without any."""
    start = len(path) + 1 if path else 0
    leaves = dict(_below(reader, path, BASE_TENANT))
    if tenant:
        for below, value in _below(reader, path, tenant):
            # The tenant's go last, so that they also win over a base leaf of another shape.
            leaves.pop(below, None)
            leaves[below] = value
    return tree_of(
        (decode_path(below[start:]), value)
        for below, value in leaves.items()
        if value is not _HIDDEN
    )


def tree_of(leaves: Iterable[tuple[tuple[str, ...], object]]) -> object:
    """The nested mapping of the leaves; a later one replaces what stands in its way."""
    tree: dict[str, Any] = {}
    for keys, value in leaves:
        node = tree
        for key in keys[:-1]:
            child = node.get(key)
            if type(child) is not dict:
                child = node[key] = {}
            node = child
        node[keys[-1]] = value
    return tree or ABSENT


def key_not_found(reader: Reader, path: str, environment: str) -> KeyNotFoundError:
    """The error for a path without a value, with the keys it may have been meant to be."""
    from control_plane.shown import MAX_SHOWN_NAME, shown

    key, nearest = written(path), tuple([written(each) for each in nearest_keys(reader, path)])
    hint = f"; nearest: {', '.join(map(str, nearest))}" if nearest else ""
    asked = shown(key, MAX_SHOWN_NAME)
    message = f"config {asked} ({environment}): expected a key with a value, found none{hint}"
    return KeyNotFoundError(message, key, nearest)


def nearest_keys(reader: Reader, path: str) -> tuple[str, ...]:
    """Up to three paths spelled like ``path``, from its own mapping first, then from all."""
    from difflib import get_close_matches

    parent = path.rpartition(".")[0]
    for prefix in dict.fromkeys((parent, "")):
        # Only what follows the prefix is compared: a long prefix would make everything alike.
        start = len(prefix) + 1 if prefix else 0
        candidates = _candidates(reader, prefix, path.count(".") + 1)
        below = [candidate[start:] for candidate in candidates]
        nearest = get_close_matches(path[start:], below, n=3, cutoff=0.7)
        if nearest:
            return tuple(path[:start] + found for found in nearest)
    return ()


def _candidates(reader: Reader, prefix: str, length: int) -> Iterator[str]:
    """The base's paths below ``prefix``, whole and cut to as many keys as were asked for."""
    seen = set()
    scan_prefix = _scan_prefix(BASE_TENANT, f"{prefix}." if prefix else "")
    for key, raw in reader.scan(scan_prefix, MAX_CANDIDATES):
        try:
            full, value = _decode(key, raw)
        except ReplicaInvalid:
            # A record that cannot be read is no suggestion, and no reason to fail for another.
            continue
        for path in (full, ".".join(full.split(".")[:length])):
            if value is not ABSENT and path not in seen:
                seen.add(path)
                yield path


def _below(reader: Reader, path: str, tenant: str) -> Iterator[tuple[str, object]]:
    start = f"{path}." if path else ""
    for key, raw in reader.scan(_scan_prefix(tenant, start)):
        full, value = _decode(key, raw)
        if value is not ABSENT and full.startswith(start):
            yield full, value


def _scan_prefix(tenant: str, start: str) -> bytes:
    # Cut to what every longer key keeps: a scan may then answer too much, and the path decides.
    below = tenant.encode() + b"\0" + start.encode("utf-8", "surrogatepass")
    return (bytes((CONFIG,)) + below)[:KEPT_PREFIX_BYTES]


def _decode(key: bytes, raw: bytes) -> tuple[str, object]:
    """The full path and value of one leaf record; the value may be ``ABSENT`` or hidden."""
    record = decode_record(key, raw)
    if record.status in (DELETED, NO_VALUE):
        return "", ABSENT
    try:
        # A leaf has four fields; a fifth that is true marks that it hides the base's.
        path, value, _, _, *hidden = unpackb(record.body)
    except (ValueError, TypeError) as error:
        raise ReplicaCorrupt(
            f"{describe_key(key)}: expected path, value, layer and generation, found {error!r}; "
            "run 'control-plane replica verify'"
        ) from error
    return path, _HIDDEN if hidden and hidden[0] else value
