"""What a node would drop: the keys whose head is newer than a generation, as far as it knows them.

Of each key stand there its generation, digest, verb and the ids of the keys that let it in, and its
value where the replica has the very bytes of that digest: the document of a flag, config, agent or
tool, the value of a kill, a channel's version, a status. A tombstone has no value. The members of a
segment's shards are kept here as hashes only, so a shard has none either.

A replica keeps no old trees, so it cannot tell whether the history that an epoch continues is its
own up to there: a store that was restored may have taken other changes before the epoch began. Its
keys from before that point, back to the beginning of the epoch continued, are *unsure* therefore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from control_plane.log.canonical import parse, sha256_hex
from control_plane.log.fold import Head
from control_plane.log.statements import Key
from control_plane.replica.format import (
    AGENT,
    CHANNEL,
    FLAG,
    SERVED,
    STATUS,
    TOOL,
    decode_record,
    parse_head_key,
    record_key,
)
from control_plane.replica.held import held_blob_key
from control_plane.replica.reader import open_replica
from control_plane.replica.source import current_folder

if TYPE_CHECKING:
    from control_plane.replica.reader import Replica, View

_ALL = 1 << 62
_VERSIONED = {"agent": AGENT, "tool": TOOL}


def read_dropped(folder: str, keeps: int, begins: int | None = None) -> list[dict[str, Any]]:
    """The keys of the replica in ``folder`` with a head after generation ``keeps``, in key order.

    With ``begins`` those that are unsure: after that generation and up to ``keeps``.

    Raises:
        Unavailable | ReplicaInvalid: it is not there, or cannot be read.
    """
    after, last = (keeps, None) if begins is None else (begins, keeps)
    replica = open_replica(current_folder(folder))
    try:
        # Handles first: a view sees the databases that were opened before it.
        values = _Values(replica)
        heads = replica.database("heads")
        with replica.view() as view:
            values.view = view
            return [
                _entry(key, head, values)
                for raw, data in view.scan(b"", _ALL, heads)
                if (head := Head.decode(data)).generation > after
                if last is None or head.generation <= last
                for key in [Key(*parse_head_key(raw))]
            ]
    finally:
        replica.close()


def _entry(key: Key, head: Head, values: _Values) -> dict[str, Any]:
    return {
        "key": str(key),
        "generation": head.generation,
        "digest": head.digest or None,
        "verb": head.verb,
        "key_ids": list(head.key_ids),
        "value": values.of(key, head) if head.live else None,
    }


class _Values:
    """The values that a replica has of its heads."""

    view: View

    def __init__(self, replica: Replica) -> None:
        self._blobs = replica.database("blobs")

    def of(self, key: Key, head: Head) -> Any:
        """The value of a live head, None where the replica has another one, or none."""
        kind, name, part = key
        if kind == "kill":
            return self._body(record_key(FLAG, name), head, "k")
        space, _, rest = part.partition("/")
        if kind in _VERSIONED and space in ("c", "s"):
            number = CHANNEL if space == "c" else STATUS
            return self._body(record_key(number, kind, name, rest), head)
        candidates = [self._blob(held_blob_key(head.digest))]
        if kind in _VERSIONED:
            candidates.append(self._record(record_key(_VERSIONED[kind], name, rest))[1])
        else:
            candidates.append(self._blob(f"live\0{kind}\0{name}".encode()))
        for data in candidates:
            if data and sha256_hex(data) == head.digest:
                return parse(data, what=str(key))
        return None

    def _body(self, place: bytes, head: Head, field: str | None = None) -> Any:
        served, body = self._record(place)
        if not body or (field is None and served != head.generation):
            return None
        value = msgpack.unpackb(body)
        return value if field is None else value[field]

    def _record(self, place: bytes) -> tuple[int, bytes]:
        [data] = self.view.read(place)
        if data is None:
            return 0, b""
        record = decode_record(place, data)
        return (record.served_generation if record.status == SERVED else 0), record.body

    def _blob(self, place: bytes) -> bytes | None:
        found = self.view.scan(place, 1, self._blobs)
        return found[0][1] if found and found[0][0] == place else None
