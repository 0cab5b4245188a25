"""What one commit of a replica changes, and which readers have to hear of it.

- Records are what readers see. Storing the bytes that are there already is no change, and only a
  class of which a record changed has its revision raised.
- The other sub-databases are the writer's own memory; no reader looks into them, but for two
  things in ``log``: ``generation``, which tells a view the generation of its snapshot, and which
  configuration records the last commits changed (`changed.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import lmdb

from control_plane.replica import format
from control_plane.replica.changed import MAX_NAMED_KEYS, note_changes
from control_plane.replica.header import CONFIG_REVISION, FLAGS_REVISION, REGISTRY_REVISION

DATABASES = ("records", "heads", "held", "blobs", "log", "staging")
GENERATION_KEY = b"generation"  # in `log`: u64 little-endian

CLASS_OF_KIND = {
    format.FLAG: FLAGS_REVISION,
    format.SEGMENT: FLAGS_REVISION,
    format.CONFIG: CONFIG_REVISION,
    format.AGENT: REGISTRY_REVISION,
    format.TOOL: REGISTRY_REVISION,
    format.CHANNEL: REGISTRY_REVISION,
    format.STATUS: REGISTRY_REVISION,
    format.RESOLUTION: REGISTRY_REVISION,
}


class Table:
    """One sub-database inside a write transaction, used like a small dict of bytes."""

    __slots__ = ("_database", "_transaction")

    def __init__(self, transaction: lmdb.Transaction[bytes], database: lmdb._Database) -> None:
        self._transaction = transaction
        self._database = database

    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None."""
        return self._transaction.get(key, None, self._database)

    def put(self, key: bytes, value: bytes) -> None:
        """Store the value; the key has 1 to 511 bytes."""
        self._transaction.put(key, value, db=self._database)

    def delete(self, key: bytes) -> None:
        """Remove the key if it is there."""
        self._transaction.delete(key, db=self._database)

    def items(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) in key order; collect them before changing the table."""
        cursor = self._transaction.cursor(self._database)
        if not (cursor.set_range(prefix) if prefix else cursor.first()):
            return
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key, value


class WriteTransaction:
    """Changes that become visible together when the ``with`` block of `ReplicaWriter.write` ends.

    ``generation`` is the snapshot's generation; set it to the last entry's. ``heads``, ``held``,
    ``blobs``, ``log`` and ``staging`` are the sub-databases no reader looks into (but for the keys
    of ``log`` that `finish` writes, which belong to this class).
    """

    __slots__ = (
        "_before",
        "_configs",
        "_records",
        "blobs",
        "generation",
        "heads",
        "held",
        "log",
        "staging",
        "touched",
    )

    def __init__(
        self, transaction: lmdb.Transaction[bytes], databases: dict[str, lmdb._Database]
    ) -> None:
        self._records = Table(transaction, databases["records"])
        self.heads = Table(transaction, databases["heads"])
        self.held = Table(transaction, databases["held"])
        self.blobs = Table(transaction, databases["blobs"])
        self.log = Table(transaction, databases["log"])
        self.staging = Table(transaction, databases["staging"])
        self._before = int.from_bytes(self.log.get(GENERATION_KEY) or b"", "little")
        self.generation = self._before
        self._configs: set[bytes] = set()  # the configuration records that this one changed
        self.touched: set[int] = set()  # the class revision words this transaction will raise

    def get_record(self, key: bytes) -> format.Record | None:
        """Return the record as it stands in this transaction.

        Raises:
            ReplicaCorrupt | FormatUnsupported: as `decode_record`.
        """
        data = self._records.get(key)
        return None if data is None else format.decode_record(key, data)

    def put_record(
        self,
        key: bytes,
        kind: int,
        body: bytes,
        *,
        head_generation: int,
        served_generation: int,
        status: int = format.SERVED,
    ) -> None:
        """Store a record. One that is there already, byte for byte, counts as no change.

        Raises:
            ValueError: the key does not begin with the kind.
        """
        if key[0] != kind:
            raise ValueError(f"expected a key of kind {kind}, found {format.describe_key(key)}")
        data = format.encode_record(
            key,
            kind,
            body,
            head_generation=head_generation,
            served_generation=served_generation,
            status=status,
        )
        self.put_encoded(key, data)

    def put_encoded(self, key: bytes, data: bytes) -> None:
        """Store a record that `encode_record` made for this key, as ``put_record`` does."""
        if self._records.get(key) != data:
            self._records.put(key, data)
            self._touch(key)

    def delete_record(self, key: bytes) -> None:
        """Remove a record if it is there."""
        if self._records.get(key) is not None:
            self._records.delete(key)
            self._touch(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, format.Record]]:
        """Yield (key, record) in key order; collect them before changing records."""
        for key, data in self._records.items(prefix):
            yield key, format.decode_record(key, data)

    def finish(self) -> None:
        """Write down what this transaction is; called last, right before it commits."""
        if self.generation != self._before:
            self.log.put(GENERATION_KEY, self.generation.to_bytes(8, "little"))
        if self._configs:
            note_changes(self.log, self._configs)

    def _touch(self, key: bytes) -> None:
        self.touched.add(CLASS_OF_KIND[key[0]])
        # One more than a slot names says enough: a huge change set is not gathered here as well.
        if key[0] == format.CONFIG and len(self._configs) <= MAX_NAMED_KEYS:
            self._configs.add(key)
