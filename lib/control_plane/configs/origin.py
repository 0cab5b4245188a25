"""Where a configuration value comes from: its layer, its manifest, and the change it rests on.

- A leaf's record names its layer and the generation that last made a difference to it; what the log
  says of that generation stands beside the records, once for all its leaves.
- The layer is the one whose text stands; where that text refers to other leaves they are named too,
  and the generation may be that of a change of theirs.
- A process override stands above all layers and rests on no change.
"""

from __future__ import annotations

from control_plane.configs.layers import decode_path, written
from control_plane.configs.merged import ABSENT, key_not_found, leaf_keys, subtree
from control_plane.errors import KeyNotFoundError, ReplicaCorrupt
from control_plane.replica.authorship import change_key, decode_change
from control_plane.replica.format import (
    DELETED,
    HEAD_HELD,
    NO_VALUE,
    decode_record,
    describe_key,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.replica.reader import View

OVERRIDE = "override"
"""The layer of a process override."""

MAX_SUGGESTED = 3


class Origin:
    """Where one value comes from.

    - ``layer`` is ``default``, ``values``, ``environments.E``, ``tenants.T``, ``database@T`` or
      ``override``; ``manifest`` is ``config/database``, ``config/database@T``, or None for an
      override, whose variable is ``variable``.
    - ``generation`` is of the change that last made a difference to the value; ``reason``,
      ``verb``, ``key_ids`` (the keys that authorised it) and ``sequenced_at`` (ms since 1970) are
      what the log says of it: None and empty in a replica that does not know.
    - ``references`` are the keys that the value's text refers to.
    - ``held`` says that a newer value could not be made out on this node; the daemon's log has why.
    """

    __slots__ = (
        "environment",
        "generation",
        "held",
        "key",
        "key_ids",
        "layer",
        "manifest",
        "reason",
        "references",
        "sequenced_at",
        "tenant_id",
        "variable",
        "verb",
    )

    def __init__(
        self,
        key: str | tuple[str, ...],
        layer: str,
        *,
        environment: str,
        tenant_id: str | None = None,
        manifest: str | None = None,
        generation: int | None = None,
        key_ids: tuple[str, ...] = (),
        reason: str | None = None,
        verb: str | None = None,
        sequenced_at: int | None = None,
        references: tuple[str | tuple[str, ...], ...] = (),
        held: bool = False,
        variable: str | None = None,
    ) -> None:
        self.key = key
        self.layer = layer
        self.environment = environment
        self.tenant_id = tenant_id
        self.manifest = manifest
        self.generation = generation
        self.key_ids = key_ids
        self.reason = reason
        self.verb = verb
        self.sequenced_at = sequenced_at
        self.references = references
        self.held = held
        self.variable = variable

    def __repr__(self) -> str:
        return (
            f"<Origin of {self.key}: {self.layer} of {self.manifest or self.variable},"
            f" generation {self.generation}>"
        )


def origin_of(
    view: View,
    path: str,
    tenant: str,
    environment: str,
    overrides: Mapping[tuple[str, ...], str],
) -> Origin:
    """The origin of the leaf at ``path``, all of it as the view's generation has it.

    Raises:
        KeyNotFoundError: no value, or a mapping, whose leaves each have an origin of their own.
        ReplicaCorrupt | FormatUnsupported: the record cannot be read.
        ViewExpired: the view outlived the grace period.
    """
    keys = decode_path(path)
    if keys in overrides:
        variable = "__".join(("CONTROL_PLANE", *keys)).upper()
        return Origin(
            written(path), OVERRIDE, environment=environment, tenant_id=tenant or None,
            variable=variable,
        )  # fmt: skip
    found = None
    if not any(keys[: len(above)] == above for above in overrides):
        found = _leaf(view, path, tenant)
    if found is None:
        raise _no_leaf(view, path, tenant, environment)
    (layer, generation, references), held = found
    manifest = layer if layer.startswith(f"{keys[0]}@") else keys[0]
    [data] = view.read_blobs(change_key(generation))
    authored = None if data is None else decode_change(generation, data)[1]
    return Origin(
        written(path),
        layer,
        environment=environment,
        tenant_id=tenant or None,
        manifest=f"config/{manifest}",
        generation=generation,
        key_ids=authored.key_ids if authored else (),
        reason=authored.reason if authored else None,
        verb=authored.verb if authored else None,
        sequenced_at=authored.sequenced_at if authored else None,
        references=tuple([written(each) for each in references]),
        held=held,
    )


def _leaf(
    view: View, path: str, tenant: str
) -> tuple[tuple[str, int, tuple[str, ...]], bool] | None:
    """Layer, generation and references of the leaf a reader is given, and whether it is held."""
    from msgpack import unpackb

    keys = leaf_keys(path, tenant)
    for key, raw in zip(reversed(keys), reversed(view.read(*keys)), strict=True):
        record = None if raw is None else decode_record(key, raw)
        if record is None or record.status in (DELETED, NO_VALUE):
            continue
        try:
            _, _, layer, generation, *more = unpackb(record.body)
        except (ValueError, TypeError) as error:
            raise ReplicaCorrupt(
                f"{describe_key(key)}: expected path, value, layer and generation, found"
                f" {error!r}; run 'control-plane replica verify'"
            ) from error
        if more and more[0]:
            return None
        references = tuple(more[1]) if len(more) > 1 else ()
        return (layer, generation, references), record.status == HEAD_HELD
    return None


def _no_leaf(view: View, path: str, tenant: str, environment: str) -> KeyNotFoundError:
    below = subtree(view, path, tenant)
    if below is ABSENT:
        return key_not_found(view, path, environment)
    assert isinstance(below, dict)
    key = written(path)
    keys = decode_path(path)
    some = tuple([(*keys, each) for each in list(below)[:MAX_SUGGESTED]])
    nearest = tuple([".".join(each) if all("." not in k for k in each) else each for each in some])
    return KeyNotFoundError(
        f"config {key} ({environment}): expected the key of one value, found a mapping; ask for"
        f" {', '.join(map(str, nearest))}",
        key,
        nearest,
    )
