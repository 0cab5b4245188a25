"""What authors are shown of a log: heads, history and what waits; plain values, ready for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control_plane.errors import InputInvalid, NotFound
from control_plane.log.canonical import Json, parse
from control_plane.log.envelope import Envelope
from control_plane.log.leaf import Leaf
from control_plane.log.statements import Change, ChangeSet, Key, decode_change_list, parse_statement
from control_plane_store.transactions import HeadRow, Log, Snapshot, key_bytes

MAX_HEADS = 20_000
MAX_ENTRIES = 1_000


@dataclass(frozen=True, slots=True)
class HeadQuery:
    """Which heads: those of ``keys``, or all of a kind and name prefix behind ``after``."""

    keys: tuple[str, ...] = ()
    kind: str = ""
    name: str = ""
    prefix: str = ""
    after: str = ""
    limit: int = MAX_HEADS


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which entries: those below generation ``before`` that touch the kind, name and part given."""

    kind: str = ""
    name: str = ""
    part: str | None = None
    before: int | None = None
    limit: int = 100


def heads(snapshot: Snapshot, log: Log, query: HeadQuery) -> dict[str, object]:
    """Heads in key order, tombstones included (``live`` false), with the log's position.

    ``next`` is the ``after`` of the following page, None at the end.
    """
    if query.keys:
        rows = list(snapshot.heads(log, map(_key, query.keys)).values())
        following = None
    else:
        limit = max(1, min(query.limit, MAX_HEADS))
        rows = snapshot.heads_from(log, _prefix(query), _after(query.after), limit + 1)
        following = str(rows[limit - 1].key) if len(rows) > limit else None
        rows = rows[:limit]
    return _position(log) | {"heads": [_head(row) for row in rows], "next": following}


def history(snapshot: Snapshot, log: Log, query: HistoryQuery) -> dict[str, object]:
    """Entries of all epochs, newest first; of a change set, only the changes that were asked for.

    ``next`` is the ``before`` of the following page, None at the end.
    """
    limit = max(1, min(query.limit, MAX_ENTRIES))
    found: list[tuple[Log, int]] = []
    for each in snapshot.epochs(log.environment):
        if len(found) <= limit:
            indices = _indices(snapshot, each, query, limit + 1 - len(found))
            found += [(each, index) for index in indices]
    entries = [_entry(snapshot, each, index, query) for each, index in found[:limit]]
    last, index = found[limit - 1] if len(found) > limit else (None, 0)
    following = None if last is None else last.generation_of(index)
    return _position(log) | {"entries": entries, "next": following}


def _indices(snapshot: Snapshot, log: Log, query: HistoryQuery, limit: int) -> list[int]:
    """The newest entries of one epoch that were asked for."""
    before = log.note_size if query.before is None else log.index_of(query.before)
    # A generation of a later epoch lies behind all of this one, one of an earlier before all.
    before = max(0, min(before, log.note_size))
    if not query.kind:
        return list(range(before - 1, max(-1, before - limit - 1), -1))
    touched = f"{query.kind}\0{query.name}\0" if query.name else f"{query.kind}\0"
    prefix = touched.encode()
    if query.name and query.part is not None:
        prefix = key_bytes(Key(query.kind, query.name, query.part))
    return snapshot.touching(log, prefix, before, limit)


def pending(snapshot: Snapshot, log: Log) -> dict[str, object]:
    """Change sets that wait for signatures, oldest first, with their envelopes."""
    waiting = []
    for row in snapshot.pending(log):
        envelope = Envelope.decode(row.envelope)
        waiting.append(
            {
                "statement": row.statement,
                "envelope": envelope.to_json(),
                "threshold": row.threshold,
                "found": row.found,
                "received_at": row.received_at,
                "key_ids": [each.key_id for each in envelope.signatures],
                **_said(parse(envelope.payload, what="statement")),
            }
        )
    return _position(log) | {"pending": waiting}


def _position(log: Log) -> dict[str, object]:
    return {
        "format": 1,
        "environment": log.environment,
        "origin": log.origin,
        "epoch": log.epoch,
        "size": log.frontier.size,
        "generation": log.generation,
    }


def _key(text: str) -> Key:
    """A key as it prints: ``flag/x``, ``agent/a v/1.0.0``."""
    path, _, part = text.partition(" ")
    kind, slash, name = path.partition("/")
    if not slash:
        raise InputInvalid(f"key: expected kind/name, found {text[:80]!r}")
    return Key(kind, name, part)


def _prefix(query: HeadQuery) -> bytes:
    if query.name:
        return f"{query.kind}\0{query.name}\0".encode()
    if query.kind:
        return f"{query.kind}\0{query.prefix}".encode()
    return b""


def _after(text: str) -> bytes:
    return key_bytes(_key(text)) if text else b""


def _head(row: HeadRow) -> dict[str, object]:
    key, head = row.key, row.head
    return {
        "kind": key.kind,
        "name": key.name,
        "part": key.part,
        "generation": head.generation,
        "live": head.live,
        "digest": head.digest,
        "checksum": head.checksum,
        "verb": head.verb,
        "key_ids": list(head.key_ids),
        "change": parse(row.change, what="change"),
    }


def _entry(snapshot: Snapshot, log: Log, index: int, query: HistoryQuery) -> dict[str, object]:
    data = snapshot.leaf(log, index)
    assert data is not None
    leaf = Leaf.decode(data)
    envelope = leaf.envelope
    entry: dict[str, object] = {
        "generation": log.generation_of(index),
        "epoch": log.epoch,
        "index": index,
        "statement": envelope.identity,
        "sequenced_at": leaf.sequenced_at,
        "type": envelope.payload_type,
        "key_ids": [each.key_id for each in envelope.signatures],
    }
    statement = parse_statement(envelope)
    if not isinstance(statement, ChangeSet):
        return entry
    changes = _asked(_changes(snapshot, log, statement), query)
    return (
        entry
        | _said(parse(envelope.payload, what="statement"))
        | {"changes": [change.to_json() for change in changes]}
    )


def _said(statement: Json) -> dict[str, Any]:
    """What a change set's statement says beside its changes, and how many there are."""
    assert isinstance(statement, Mapping)
    listed = statement["changes"]
    count = listed["count"] if isinstance(listed, Mapping) else len(listed)  # type: ignore[arg-type]
    named = ("verb", "reason", "created_at", "not_after")
    return {name: statement[name] for name in named} | {"count": count}


def _changes(snapshot: Snapshot, log: Log, statement: ChangeSet) -> Sequence[Change]:
    if statement.changes_blob is None:
        return statement.changes
    data = snapshot.blob(log.environment, statement.changes_blob.digest)
    if data is None:
        raise NotFound(f"expected change list {statement.changes_blob.digest}, found it deleted")
    return decode_change_list(data, statement.changes_blob)


def _asked(changes: Iterable[Change], query: HistoryQuery) -> list[Change]:
    return [
        change
        for change in changes
        if (not query.kind or change.kind == query.kind)
        and (not query.name or change.name == query.name)
        and (query.part is None or change.key.part == query.part)
    ]
