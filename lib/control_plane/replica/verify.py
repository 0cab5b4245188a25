"""Whether a replica is what its own bytes say it is.

One snapshot is checked, beside a running writer or without one:

- the database: LMDB's trees, walked page by page; the rest follows only if these are sound;
- the header: its words against the snapshot, and each revision no higher than ``revision``;
- every record: length, hash and kind; no generation above the snapshot's;
- every head against the records it must have left, and every served record against a head;
- the snapshot root: the RFC 6962 root over the heads' lines, to be compared with the log's.

A problem is a sentence that names the thing; nothing is mended here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lmdb.verify import VerifyError
from lmdb.verify import verify as verify_database

from control_plane.errors import ControlPlaneError, ReplicaInvalid, ReplicaUnavailable
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.statements import Key
from control_plane.replica.format import (
    AGENT,
    CHANNEL,
    DELETED,
    FLAG,
    KIND_NAMES,
    SEGMENT,
    SERVED,
    STATUS,
    TOOL,
    Record,
    decode_record,
    describe_key,
    parse_head_key,
    record_key,
)
from control_plane.replica.header import (
    CLASS_REVISIONS,
    GENERATION,
    REVISION,
    SAFE_TXNID,
    TXN_ID,
)
from control_plane.replica.reader import Replica, open_replica
from control_plane.replica.source import current_folder

_VERSIONED = {"agent": AGENT, "tool": TOOL}
_HEADED = frozenset({FLAG, SEGMENT, AGENT, TOOL, CHANNEL, STATUS})
# How long a commit may stay untold before that is a problem: a starved writer's turn of the CPU.
_UNTOLD_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `verify` found in ``directory``, the numbered folder in use.

    ``records`` counts by kind; ``heads`` counts tombstones too; ``root`` is the snapshot root in
    hex. The replica is sound when ``problems`` is empty. Of a database whose pages are damaged
    nothing else is read: the numbers are 0 and ``root`` is empty.
    """

    directory: str
    txn_id: int
    generation: int
    records: Mapping[str, int]
    heads: int
    root: str
    problems: tuple[str, ...]


def verify(folder: str) -> Report:
    """Check the replica in ``folder`` (``<replica root>/<environment>``).

    Raises:
        Unavailable | ReplicaInvalid: it is not there, or cannot be opened.
    """
    directory = current_folder(folder)
    problems = _database_problems(os.path.join(directory, "data.mdb"))
    if problems:
        # LMDB may end the process on such pages, so nothing is read through it.
        return _unread(directory, problems)
    replica = open_replica(directory)
    try:
        heads_handle = replica.database("heads")
        with replica.view() as view:
            problems += _lasting_header_problems(replica, view.txn_id, view.generation)
            records, faults = _decode_records(view.scan(b"", limit=1 << 62))
            problems += faults
            heads, faults = _decode_heads(view.scan(b"", limit=1 << 62, database=heads_handle))
            problems += faults
            problems += _generation_problems(records, heads, view.generation)
            problems += _missing_records(records, heads)
            count, root = snapshot_root(snapshot_line(key, head) for key, head in heads.items())
            return Report(
                directory=directory,
                txn_id=view.txn_id,
                generation=view.generation,
                records=_count_kinds(records),
                heads=count,
                root=root,
                problems=tuple(problems),
            )
    finally:
        replica.close()


def _unread(directory: str, problems: list[str]) -> Report:
    """Report on a database that is not fit to be opened."""
    return Report(
        directory=directory,
        txn_id=0,
        generation=0,
        records={},
        heads=0,
        root="",
        problems=tuple(problems),
    )


def _database_problems(path: str) -> list[str]:
    # The walk reads the newest snapshot's meta page once and then pages that the writer pins. Only
    # that first read can meet a commit, so a second walk that finds nothing settles it.
    for _ in range(2):
        try:
            found: list[str] = verify_database(path)  # type: ignore[no-untyped-call]
        except VerifyError as error:
            found = [str(error)]
        except OSError as error:
            raise ReplicaUnavailable(
                f"{path}: expected a database, found {error.strerror}; start the daemon to "
                "rebuild the replica"
            ) from error
        if not found:
            break
    return [f"database: expected sound pages, found: {problem}" for problem in found]


def _lasting_header_problems(replica: Replica, txn_id: int, generation: int) -> list[str]:
    # The writer commits, then writes the header word by word: in between they differ and all is
    # well, so only what stays so is a problem.
    deadline = time.monotonic() + _UNTOLD_SECONDS
    while found := list(_header_problems(replica, txn_id, generation)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    return found


def _header_problems(replica: Replica, txn_id: int, generation: int) -> Iterator[str]:
    words = replica.words
    published = words[8 * TXN_ID]
    # Later words belong to later commits, so only a header at the same transaction is compared.
    if published < txn_id:
        yield f"header: expected transaction {txn_id}, found {published}; start the daemon"
    elif published == txn_id and words[8 * GENERATION] < generation:
        yield f"header: expected generation {generation}, found {words[8 * GENERATION]}"
    if words[8 * SAFE_TXNID] > words[8 * TXN_ID]:
        yield (
            f"header: expected a safe transaction up to {words[8 * TXN_ID]}, found "
            f"{words[8 * SAFE_TXNID]}; start the daemon"
        )
    for word in CLASS_REVISIONS:
        # Classes are raised before the revision, so one read first is never above it.
        revision = words[8 * word]
        if revision > words[8 * REVISION]:
            yield (
                f"header: expected word {word} up to {words[8 * REVISION]}, found {revision}; "
                "start the daemon"
            )


def _decode_records(pairs: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, Record], list[str]]:
    records, problems = {}, []
    for key, data in pairs:
        try:
            records[key] = decode_record(key, data)
        except ReplicaInvalid as error:
            problems.append(str(error))
    return records, problems


def _decode_heads(pairs: list[tuple[bytes, bytes]]) -> tuple[dict[Key, Head], list[str]]:
    heads, problems = {}, []
    for raw, data in pairs:
        try:
            heads[Key(*parse_head_key(raw))] = Head.decode(data)
        except ControlPlaneError as error:
            problems.append(str(error))
    return heads, problems


def _generation_problems(
    records: Mapping[bytes, Record], heads: Mapping[Key, Head], generation: int
) -> Iterator[str]:
    for key, record in records.items():
        name = describe_key(key)
        if not record.served_generation <= record.head_generation <= generation:
            yield (
                f"{name}: expected served <= head <= {generation}, found "
                f"{record.served_generation} and {record.head_generation}"
            )
        if record.kind not in KIND_NAMES:
            yield f"{name}: expected a kind up to {max(KIND_NAMES)}, found {record.kind}"
        if record.status == DELETED and record.body:
            yield f"{name}: expected a deleted record to be empty, found {len(record.body)} bytes"
    for head_key, head in heads.items():
        if head.generation > generation:
            yield f"{head_key}: expected a head up to {generation}, found {head.generation}"


def _missing_records(records: Mapping[bytes, Record], heads: Mapping[Key, Head]) -> Iterator[str]:
    expected: set[bytes] = set()
    for head_key, head in heads.items():
        key = _record_of(head_key)
        if key is None or not head.live:
            continue
        expected.add(key)
        if key not in records or records[key].status == DELETED:
            yield f"{head_key}: expected a record for the head, found none"
    for key, record in records.items():
        if record.kind in _HEADED and record.status == SERVED and key not in expected:
            yield f"{describe_key(key)}: expected a live head for the served record, found none"


def _record_of(head: Key) -> bytes | None:
    """Return the key of the record that a live head leaves; None where there are many."""
    kind, name, part = head
    letter, _, rest = part.partition("/")
    if kind in ("flag", "kill"):
        return record_key(FLAG, name)
    if kind == "segment":
        return record_key(SEGMENT, name, rest) if part else record_key(SEGMENT, name)
    if kind in _VERSIONED and letter == "v":
        return record_key(_VERSIONED[kind], name, rest)
    if kind in _VERSIONED and letter in ("c", "s"):
        return record_key(CHANNEL if letter == "c" else STATUS, kind, name, rest)
    return None


def _count_kinds(records: Mapping[bytes, Record]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records.values():
        name = KIND_NAMES.get(record.kind, str(record.kind))
        counts[name] = counts.get(name, 0) + 1
    return counts
