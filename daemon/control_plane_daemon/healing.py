"""When held entries are tried again, and in which order.

- They are tried when a blob they lacked has come, and once at the start, where a newer version may
  understand what an older one held.
- Those that hold configuration are tried when other configuration was served: what they are merged
  with, or refer to, may be what they waited for.
- They are tried when newer entries took keys from one and it lacks nothing any more: what kept the
  rest of a change set from being served may have been superseded in a later answer, or epoch, and
  its blob deleted since.
- Always in the order of the log, so that of two entries the newer one is served last.
- An entry that heals may be what another waited for (a channel, its version): while one heals, all
  of those that lack nothing are tried once more.
- What is served late may matter to any reader: every class of readers looks again.

Position and heads moved when the entries were held, so nothing of that moves here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from control_plane.log.canonical import sha256_hex
from control_plane.log.leaf import Leaf
from control_plane.log.statements import Key
from control_plane.replica.header import CLASS_REVISIONS
from control_plane.replica.held import HeldEntry
from control_plane_daemon.commits import Commits
from control_plane_daemon.entries import Entries

ASKED_AT_ONCE: Final = 64
"""How many missing blobs of held entries are asked for in one attempt."""

logger = logging.getLogger("control_plane_daemon")


class Healing:
    """Tries the held entries of one environment again."""

    def __init__(self, environment: str, commits: Commits, entries: Entries) -> None:
        self._environment = environment
        self._commits = commits
        self._entries = entries
        self._turn = 0
        self._keys = self._held_keys()
        self._namespaces_served = entries.namespaces_served

    def is_loosened(self) -> bool:
        """Whether newer entries, since this was last asked, took from an entry all that it lacked.

        One that was not there then is not counted: it was judged with what is at hand now.
        """
        before, self._keys = self._keys, self._held_keys()
        served, self._namespaces_served = self._namespaces_served, self._entries.namespaces_served
        if served != self._namespaces_served and any(
            not entry.missing and any(key.kind == "config" for key in entry.keys)
            for entry in self._entries.held.entries.values()
        ):
            return True
        return any(
            not self._entries.held.entries[generation].missing
            and before.get(generation, keys) != keys
            for generation, keys in self._keys.items()
        )

    def _held_keys(self) -> dict[int, tuple[Key, ...]]:
        entries = self._entries.held.entries
        return {generation: entry.keys for generation, entry in entries.items()}

    def missing(self) -> tuple[str, ...]:
        """Digests that held entries lack; when there are many, the next ones each time."""
        entries = self._entries.held.entries.values()
        digests = list(dict.fromkeys(d for entry in entries for d in entry.missing.values()))
        if len(digests) <= ASKED_AT_ONCE:
            return tuple(digests)
        # Those that never come must not keep the others from being asked for.
        start = self._turn % len(digests)
        self._turn = start + ASKED_AT_ONCE
        return tuple([*digests[start:], *digests[:start]][:ASKED_AT_ONCE])

    def heal(self, found: Mapping[str, bytes]) -> int:
        """Try what these blobs were missing for, or everything when there are none.

        How many are served now; the caller commits them.
        """
        blobs = {digest: data for digest, data in found.items() if sha256_hex(data) == digest}
        healed, everything = 0, not found
        while True:
            healed_before = healed
            for generation in sorted(self._entries.held.entries):
                entry = self._entries.held.entries[generation]
                arrived = {d: blobs[d] for d in entry.missing.values() if d in blobs}
                if arrived:
                    entry = self._keep(entry, arrived)
                if not entry.missing and (arrived or everything) and self._serve(entry):
                    healed += 1
                    everything = True
            if healed == healed_before:
                break
        if healed:
            self._commits.writing().touched.update(CLASS_REVISIONS)
        return healed

    def _keep(self, entry: HeldEntry, arrived: Mapping[str, bytes]) -> HeldEntry:
        entry, plan = self._entries.arrived(entry, arrived)
        self._commits.add(plan, self._commits.position)
        return entry

    def _serve(self, entry: HeldEntry) -> bool:
        plan = self._entries.plan_again(entry)
        if plan is None:
            return False
        self._commits.add(plan, self._commits.position)
        logger.info(
            "%s: entry %d healed", self._environment, entry.generation,
            extra={
                "environment": self._environment, "generation": entry.generation,
                "change": Leaf.decode(entry.leaf).envelope.identity,
            },
        )  # fmt: skip
        return True
