"""Entries whose values this node could not serve, and what is kept to try them again.

- A held entry keeps its leaf, the keys it is still the head of, the digests it lacked, the reason,
  and, by digest, every blob it did have together with the change list and the trust metadata in
  force at its index: judged later, it is judged as it would have been then.
- Any newer accepted entry of a key, served or held, takes that key away from the older held one;
  an entry without keys is forgotten with its blobs. So an older value never replaces a newer one.
- An entry whose blob the store deleted after it was superseded is *skipped*: it waits for the newer
  entry that superseded it, which is on its way, and raises no alarm until the log's end is reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgpack

from control_plane.errors import ReplicaCorrupt
from control_plane.log.statements import Key
from control_plane.names import DIGEST
from control_plane.replica.plan import BLOBS, HELD, Plan, Table

SUPERSEDED = "superseded"
"""The reason of a skipped entry."""

_BLOB_PREFIX = b"held\0"


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """One held entry; ``root`` and ``targets`` are digests of the metadata in force there."""

    generation: int
    leaf: bytes
    keys: tuple[Key, ...]
    reason: str
    missing: Mapping[Key, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    root: str = ""
    targets: str = ""

    @property
    def skipped(self) -> bool:
        """Whether a newer entry is expected to serve its keys."""
        return self.reason == SUPERSEDED

    def encode(self) -> bytes:
        """The value under the generation in the ``held`` sub-database."""
        fields = {
            "entry": self.leaf,
            "keys": [list(key) for key in self.keys],
            "reason": self.reason,
            "missing": [[*key, digest] for key, digest in self.missing.items()],
            "kept": list(self.kept),
            "root": self.root,
            "targets": self.targets,
        }
        packed: bytes = msgpack.packb(fields)
        return packed

    @classmethod
    def decode(cls, key: bytes, data: bytes) -> HeldEntry:
        """Read what ``encode`` wrote.

        Raises:
            ReplicaCorrupt: for anything else.
        """
        try:
            fields = msgpack.unpackb(data)
            keys, missing, kept = fields["keys"], fields["missing"], fields["kept"]
            # Text is a sequence too: its characters must not pass for names and digests.
            if len(key) != 8 or not all(type(each) is list for each in (keys, missing, kept)):
                raise ValueError("other containers")
            entry = cls(
                int.from_bytes(key, "big"), fields["entry"],
                tuple(Key(kind, name, part) for kind, name, part in keys), fields["reason"],
                {Key(kind, name, part): digest for kind, name, part, digest in missing},
                tuple(kept), fields["root"], fields["targets"],
            )  # fmt: skip
            entry._check_types()
        except (ValueError, LookupError, TypeError, msgpack.UnpackException) as error:
            raise ReplicaCorrupt(f"held entry: expected its fields, found {error!r}") from error
        return entry

    def _check_types(self) -> None:
        digests = [*self.kept, *self.missing.values()]
        names = [part for key in (*self.keys, *self.missing) for part in key]
        texts = [*digests, *names, self.reason, self.root, self.targets]
        if type(self.leaf) is not bytes or not all(type(text) is str for text in texts):
            raise TypeError("fields of other types")
        if not all(DIGEST.fullmatch(digest) for digest in digests):
            raise ValueError("text that is no digest")


def held_key(generation: int) -> bytes:
    """The key of a held entry: its generation, so that they lie in the order of the log."""
    return generation.to_bytes(8, "big")


def held_blob_key(digest: str) -> bytes:
    """Where the ``blobs`` sub-database keeps a blob for a held entry."""
    return _BLOB_PREFIX + bytes.fromhex(digest)


@dataclass(slots=True)
class Held:
    """The held entries of a replica, mirrored in memory; every change goes through a plan too."""

    entries: dict[int, HeldEntry] = field(default_factory=dict)
    _by_key: dict[Key, int] = field(default_factory=dict)
    _kept: Counter[str] = field(default_factory=Counter)

    @classmethod
    def load(cls, table: Table) -> Held:
        """The held entries of a replica just opened."""
        held = cls()
        for key, data in table.items():
            held._remember(HeldEntry.decode(key, data))
        return held

    def holds(self, key: Key) -> bool:
        """Whether the key's head is held, and not merely skipped."""
        generation = self._by_key.get(key)
        return generation is not None and not self.entries[generation].skipped

    def add(self, plan: Plan, entry: HeldEntry, blobs: Mapping[str, bytes]) -> None:
        """Keep an entry and the blobs it has; ``entry.kept`` is set to their digests."""
        for digest, data in blobs.items():
            if digest not in self._kept:
                plan.put(BLOBS, held_blob_key(digest), data)
        entry = replace(entry, kept=tuple(blobs))
        plan.put(HELD, held_key(entry.generation), entry.encode())
        self._remember(entry)

    def release(self, plan: Plan, keys: Iterable[Key]) -> None:
        """Take keys away from the entries that hold them: something newer speaks for them."""
        released: dict[int, set[Key]] = {}
        for key in keys:
            generation = self._by_key.pop(key, None)
            if generation is not None:
                released.setdefault(generation, set()).add(key)
        for generation, gone in released.items():
            self._shrink(plan, self.entries[generation], gone)

    def arrived(self, plan: Plan, entry: HeldEntry, blobs: Mapping[str, bytes]) -> HeldEntry:
        """Keep blobs an entry had lacked; what is still missing stays listed."""
        for digest, data in blobs.items():
            plan.put(BLOBS, held_blob_key(digest), data)
        self._kept.update(blobs.keys())
        found = replace(
            entry,
            missing={key: digest for key, digest in entry.missing.items() if digest not in blobs},
            kept=(*entry.kept, *blobs),
        )
        plan.put(HELD, held_key(entry.generation), found.encode())
        self.entries[entry.generation] = found
        return found

    def _remember(self, entry: HeldEntry) -> None:
        self.entries[entry.generation] = entry
        self._kept.update(entry.kept)
        self._by_key.update(dict.fromkeys(entry.keys, entry.generation))

    def _shrink(self, plan: Plan, entry: HeldEntry, gone: set[Key]) -> None:
        keys = tuple(key for key in entry.keys if key not in gone)
        if keys:
            missing = {key: digest for key, digest in entry.missing.items() if key not in gone}
            smaller = replace(entry, keys=keys, missing=missing)
            self.entries[entry.generation] = smaller
            plan.put(HELD, held_key(entry.generation), smaller.encode())
            return
        del self.entries[entry.generation]
        plan.remove(HELD, held_key(entry.generation))
        for digest in entry.kept:
            self._kept[digest] -= 1
            if not self._kept[digest]:
                del self._kept[digest]
                plan.remove(BLOBS, held_blob_key(digest))
