"""Which tables a store database has, in format 1. Queries live in ``transactions``.

A log is one epoch of one environment. ``entries`` and ``hashes`` are its tree and never change
once written; ``heads``, ``touches`` and the positions in ``logs`` are folds over the entries and
could be computed again. ``blobs`` are shared by all environments, ``grants`` says which
environment was given which blob. Tokens and pending change sets carry no authority over data.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

FORMAT = 1

METADATA = MetaData()

FORMATS = Table(
    "format",
    METADATA,
    Column("version", Integer, primary_key=True),
)

LOGS = Table(
    "logs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("environment", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("origin", String, nullable=False),
    Column("continues_generation", BigInteger, nullable=False),
    # The position: written in the transaction that appends the entries it counts.
    Column("frontier", LargeBinary, nullable=False),
    Column("sequenced_at", BigInteger, nullable=False),
    # The newest published checkpoint; it may cover fewer entries than the frontier for a moment.
    Column("note", LargeBinary, nullable=False),
    Column("note_size", BigInteger, nullable=False),
    Column("note_root", LargeBinary, nullable=False),
    UniqueConstraint("environment", "epoch"),
)

ENTRIES = Table(
    "entries",
    METADATA,
    Column("log", Integer, ForeignKey("logs.id"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("statement", String, nullable=False),
    Column("payload_type", String, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    UniqueConstraint("log", "statement"),
    Index("entries_by_type", "log", "payload_type", "position"),
)

HASHES = Table(
    "hashes",
    METADATA,
    Column("log", Integer, ForeignKey("logs.id"), primary_key=True),
    # A tile's level: a hash of level L covers 256**L entries.
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)

HEADS = Table(
    "heads",
    METADATA,
    Column("log", Integer, ForeignKey("logs.id"), primary_key=True),
    # kind NUL name NUL part, so that bytewise order is the order of snapshot lines.
    Column("key", LargeBinary, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Column("head", LargeBinary, nullable=False),
    # Canonical JSON of the last change, for what a head itself does not hold (a channel's version).
    Column("change", LargeBinary, nullable=False),
    Index("heads_by_generation", "log", "generation"),
    Index("heads_by_digest", "digest"),
)

TOUCHES = Table(
    "touches",
    METADATA,
    Column("log", Integer, ForeignKey("logs.id"), primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
)

REQUIRED = Table(
    "required",
    METADATA,
    # Blobs an entry cannot be judged without: trust metadata and change lists. Never deleted.
    Column("log", Integer, ForeignKey("logs.id"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String, primary_key=True),
    Index("required_by_digest", "digest"),
)

BLOBS = Table(
    "blobs",
    METADATA,
    Column("digest", String, primary_key=True),
    # None once a superseded blob was deleted: the row stays, to answer "gone" and not "unknown".
    Column("data", LargeBinary, nullable=True),
)

GRANTS = Table(
    "grants",
    METADATA,
    Column("environment", String, primary_key=True),
    Column("digest", String, ForeignKey("blobs.digest"), primary_key=True),
)

PENDING = Table(
    "pending",
    METADATA,
    Column("log", Integer, ForeignKey("logs.id"), primary_key=True),
    Column("statement", String, primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
    Column("threshold", Integer, nullable=False),
    Column("found", Integer, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
)

TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("sha256", String, nullable=False),
    Column("name", String, nullable=False),
    Column("environment", String, nullable=False),
    Column("may", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger, nullable=True),
    UniqueConstraint("sha256", "environment"),
    Index("tokens_by_name", "name"),
)
