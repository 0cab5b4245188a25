"""Who made the change that a configuration leaf rests on, and why: kept once for all its leaves.

A leaf's record names the generation that last made a difference to it. For each generation that
some leaf names there is one entry in the sub-database ``blobs``, under ``change NUL`` and the
generation in 8 bytes, big-endian: msgpack ``[leaves, sequenced_at, verb, key ids, reason]``. It
goes when the last leaf that names it does, so there are never more entries than leaves.

A replica that an older version wrote has leaves without an entry: their author is not known until
they change. An older version that writes in between counts nothing; an entry may then go too early
or stay too long, and no value depends on it.
"""

from __future__ import annotations

from msgpack import packb, unpackb

from control_plane.errors import ReplicaCorrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.replica.plan import Plan

PREFIX = b"change\0"


class Authored:
    """What the log says of a change: why, with which verb, by which keys, and when (ms)."""

    __slots__ = ("key_ids", "reason", "sequenced_at", "verb")

    def __init__(self, reason: str, verb: str, key_ids: tuple[str, ...], sequenced_at: int) -> None:
        self.reason = reason
        self.verb = verb
        self.key_ids = key_ids
        self.sequenced_at = sequenced_at


def change_key(generation: int) -> bytes:
    """Where the entry of a generation is kept."""
    return PREFIX + generation.to_bytes(8, "big")


def decode_change(generation: int, data: bytes) -> tuple[int, Authored]:
    """How many leaves name the generation, and what the log says of it.

    Raises:
        ReplicaCorrupt: the entry has another form.
    """
    try:
        leaves, sequenced_at, verb, key_ids, reason, *_ = unpackb(data)
        return int(leaves), Authored(str(reason), str(verb), tuple(key_ids), int(sequenced_at))
    except (ValueError, TypeError) as error:
        raise ReplicaCorrupt(
            f"change {generation}: expected leaves, time, verb, key ids and reason, found"
            f" {error!r}; rebuild the replica"
        ) from error


def move_leaves(
    plan: Plan, moved: Mapping[int, int], generation: int, authored: Authored | None
) -> None:
    """Count leaves that came to name a generation, or ceased to; ``authored`` is of the new one."""
    from control_plane.replica.plan import BLOBS

    for each, difference in moved.items():
        key = change_key(each)
        data = plan.get(BLOBS, key)
        if data is not None:
            leaves, known = decode_change(each, data)
        elif each == generation and authored is not None:
            leaves, known = 0, authored
        else:
            continue
        leaves += difference
        if leaves > 0:
            packed = [leaves, known.sequenced_at, known.verb, list(known.key_ids), known.reason]
            plan.put(BLOBS, key, packb(packed))
        elif data is not None:
            plan.remove(BLOBS, key)
