"""What a node keeps of a log that contradicted itself, or went on without it; and its owner's word.

Beside the position in the ``log`` sub-database stand

- the *evidence*: the checkpoint of a refused batch and ours, for a person to look at;
- the *offer*: an epoch that root signed but that leaves the history this node holds. The node
  serves on and waits. Only its owner can say that what came after the point where the two part may
  be dropped;
- the *bases*: at which generation each epoch began that was read.

*Consent* is a file beside the numbered folders, ``accept-epoch``, that holds the origin which was
offered and a line end. It counts for that epoch and no other, and it appears whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import msgpack

from control_plane.errors import (
    ReplicaCorrupt,
    ReplicaUnwritable,
    SignatureInvalid,
    SyntaxInvalid,
)
from control_plane.log.checkpoint import Checkpoint, open_checkpoint
from control_plane.replica.header import HEARTBEAT_NS, map_header
from control_plane.replica.reader import open_replica
from control_plane.replica.source import FORMAT_FOLDER, current_folder
from control_plane.trust.state import restore

# Keys of the `log` sub-database that are read without a daemon.
ORIGIN: Final = b"origin"
ROOT: Final = b"root"
TARGETS: Final = b"targets"
EVIDENCE: Final = b"evidence"
OFFERED: Final = b"offered"
BASES: Final = b"bases"

CONSENT: Final = "accept-epoch"
MAX_CONSENT_BYTES: Final = 256
ALIVE_NS: Final = 5_000_000_000

PROOF: Final = "proof"
SIGN: Final = "sign"
NOTHING: Final = "nothing"

Kept = TypeVar("Kept", "Evidence", "Offer")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two checkpoints of one log: what we held, ``size`` entries of it applied, and what came.

    ``proof`` says that both are signed and name two roots for one size. ``vkeys`` are those the
    log had then, ``seen_at`` is in milliseconds.
    """

    ours: bytes
    theirs: bytes
    size: int
    reason: str
    seen_at: int
    proof: bool
    vkeys: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The value under ``evidence``."""
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Read what ``encode`` wrote.

        Raises:
            ReplicaCorrupt: for anything else.
        """
        return _decode(cls, data)

    def weight(self, vkeys: Iterable[str]) -> str:
        """What it is worth: `PROOF` to anybody, a `SIGN`, or `NOTHING` that the log signed.

        A smaller checkpoint, or one of another size, is a sign: only who has the entries can tell
        that no history leads from one to the other.
        """
        keys = list(self.vkeys or vkeys)
        theirs = _opened(self.theirs, keys)
        if theirs is None:
            return NOTHING
        ours = _opened(self.ours, keys)
        return PROOF if ours is not None and contradict(ours, theirs) else SIGN


@dataclass(frozen=True, slots=True)
class Offer:
    """An epoch that root signed and that does not continue what this node holds.

    It is called ``origin``, named by ``root_version``, and continues ``epoch`` at ``size`` with the
    root hash ``root`` (hex). Of what is held here, ``held_origin`` at ``held_size``, everything
    after generation ``keeps`` is dropped when it is accepted.
    """

    origin: str
    root_version: int
    epoch: int
    size: int
    root: str
    held_origin: str
    held_size: int
    keeps: int

    def encode(self) -> bytes:
        """The value under ``offered``."""
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Offer:
        """Read what ``encode`` wrote.

        Raises:
            ReplicaCorrupt: for anything else.
        """
        return _decode(cls, data)


def contradict(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two signed checkpoints name two roots for one size of one log."""
    return (one.origin, one.size) == (other.origin, other.size) and one.root != other.root


def encode_bases(bases: Mapping[int, int]) -> bytes:
    """The value under ``bases``: epoch → generation before its first entry."""
    packed: bytes = msgpack.packb(sorted(bases.items()))
    return packed


def decode_bases(data: bytes | None) -> dict[int, int]:
    """Read what `encode_bases` wrote; the first epoch begins at 0.

    Raises:
        ReplicaCorrupt: for anything else.
    """
    try:
        return {1: 0} | ({} if data is None else {int(e): int(g) for e, g in msgpack.unpackb(data)})
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ReplicaCorrupt(f"epochs: expected their generations, found {error!r}") from error


# A replica's folder, read beside its daemon or without one


@dataclass(frozen=True, slots=True)
class Standing:
    """What a replica says of its log; ``vkeys`` are those of the policy in force, if any.

    ``bases`` has the generation before the first entry of each epoch that was read.
    """

    origin: str
    generation: int
    vkeys: tuple[str, ...]
    evidence: Evidence | None
    offer: Offer | None
    bases: Mapping[int, int]


def read_standing(folder: str, environment: str) -> Standing:
    """What the replica in ``folder`` (``<replica root>/<environment>``) keeps of its log.

    Raises:
        Unavailable | ReplicaInvalid: it is not there, or cannot be opened.
    """
    replica = open_replica(current_folder(folder))
    try:
        database = replica.database("log")
        with replica.view() as view:
            stored = dict(view.scan(b"", database=database))
            generation = view.generation
    finally:
        replica.close()
    evidence, offer = stored.get(EVIDENCE), stored.get(OFFERED)
    return Standing(
        stored.get(ORIGIN, b"").decode("ascii", "replace"),
        generation,
        _vkeys(stored, environment),
        None if evidence is None else Evidence.decode(evidence),
        None if offer is None else Offer.decode(offer),
        decode_bases(stored.get(BASES)),
    )


def has_daemon(folder: str, now_ns: int) -> bool:
    """Whether a daemon gave a sign of life in ``folder`` within 5 s of ``now_ns``.

    Raises:
        Unavailable | ReplicaInvalid: there is no replica, or none that can be read.
    """
    words = map_header(os.path.join(current_folder(folder), "header"))
    return abs(now_ns - words[8 * HEARTBEAT_NS]) < ALIVE_NS


# Consent


def consent_path(folder: str) -> Path:
    """Where consent for the replica in ``folder`` is written."""
    return Path(folder) / FORMAT_FOLDER / CONSENT


def read_consent(folder: str) -> str | None:
    """The origin consented to; None without consent, empty where the file is out of form."""
    try:
        with consent_path(folder).open("rb") as file:
            data = file.read(MAX_CONSENT_BYTES + 1)
    except OSError:
        return None
    if len(data) > MAX_CONSENT_BYTES or not data.endswith(b"\n"):
        return ""
    return data[:-1].decode("ascii", "replace")


def write_consent(folder: str, origin: str) -> Path:
    """Consent to an epoch; durable when this returns, and whole if it is there at all.

    Raises:
        ReplicaUnwritable: the file system refused.
    """
    path = consent_path(folder)
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            file.write(origin.encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A crash before the rename leaves a file nobody reads, which the next consent overwrites.
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ReplicaUnwritable(
            f"{path}: expected to write it, found: {error.strerror}; run it as the daemon's user"
        ) from error
    return path


def remove_consent(folder: str) -> None:
    """Take consent back, or away after it was followed; none is fine.

    Where the file system refuses it stays, and counts for no other epoch.
    """
    path = consent_path(folder)
    try:
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError:
        return


def _opened(note: bytes, vkeys: list[str]) -> Checkpoint | None:
    """The checkpoint of a note that the log signed, None of any other bytes."""
    try:
        return open_checkpoint(note, vkeys).checkpoint
    except (SyntaxInvalid, SignatureInvalid):
        return None


def _vkeys(stored: Mapping[bytes, bytes], environment: str) -> tuple[str, ...]:
    root, targets = stored.get(ROOT), stored.get(TARGETS)
    if root is None or targets is None:
        return ()
    return restore(root, targets).log(environment).vkeys


def _encode(kept: Evidence | Offer) -> bytes:
    packed: bytes = msgpack.packb(asdict(kept))
    return packed


def _decode(kind: type[Kept], data: bytes) -> Kept:
    try:
        value: dict[str, Any] = msgpack.unpackb(data)
        known = {field.name: value[field.name] for field in fields(kind) if field.name in value}
        if "vkeys" in known:
            known["vkeys"] = tuple(known["vkeys"])
        return kind(**known)
    except (ValueError, LookupError, TypeError, msgpack.UnpackException) as error:
        what = kind.__name__.lower()
        raise ReplicaCorrupt(f"{what}: expected its fields, found {error!r}") from error


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
