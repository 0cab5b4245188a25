"""How a node follows a log that lies as plain files on any HTTP server, such as an export.

What this module decides:

- An address is a store's until it answers that it knows nothing of following, not even how a store
  refuses; then the files below ``<environment>/<epoch>/`` are followed. As soon as these cannot be
  had either, the next attempt begins with the store again. Nothing has to be configured.
- Nothing read is believed. Entries up to the checkpoint's size are handed on in parts, each with a
  consistency proof made of the hash tiles, and the follower's steps 1 to 3 judge all of it. A file
  out of form or not there is no answer: it may be on its way there.
- The checkpoint is asked for every two seconds. A server that answers "not modified" is believed
  for ten: an entity tag made of a time and a length does not tell two files of one second apart.
- A tile is asked for by the width it has under the checkpoint, and once a full one replaced it, by
  its full name. None is kept: parts end where bundles do, so a full one is read once, and after a
  batch that was refused everything is read again.
- Nobody says that a log goes on in another epoch. So the checkpoints of the next epochs are looked
  for where the log is at its end and its checkpoint has not been renewed for a minute, or was not
  seen before; and at once where it ends before what the node holds. A number may be skipped, three
  in a row are the end.
- A blob that is not there was deleted after it was superseded, as an export leaves it out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from control_plane.errors import EpochMoved, InputInvalid, StoreUnreachable, SyntaxInvalid
from control_plane.log.checkpoint import Checkpoint
from control_plane.log.merkle import EMPTY, HASH_BYTES, consistency_proof
from control_plane.log.note import MAX_NOTE_BYTES, Note
from control_plane.log.steps import Batch
from control_plane.log.tiles import TILE_WIDTH, decode_entries, tile_of_subtree, tile_path
from control_plane.names import MAX_LEAF_BYTES
from control_plane_daemon.source import AnswerInvalid, Fetched, Followed, NoStore, StoreSource

LOOK_SECONDS: Final = 2.0
UNMODIFIED_SECONDS: Final = 10.0
RENEWED_SECONDS: Final = 60.0
PROBE_SECONDS: Final = 10.0
SKIPPED_EPOCHS: Final = 3
MAX_PROBES: Final = 64
PART_BYTES: Final = 8 << 20
BUNDLES_A_PART: Final = 32
BUNDLES_AT_ONCE: Final = 4
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_LEAF_BYTES)
_FILE_SECONDS: Final = 30.0

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[object]]

logger = logging.getLogger("control_plane_daemon")


@dataclass(frozen=True, slots=True)
class _Shown:
    """A checkpoint as a server showed it, unverified; times are the monotonic clock's.

    ``changed_at`` is when it replaced another, minus infinity for the first that was seen.
    """

    epoch: int
    note: bytes
    size: int
    tag: str | None
    read_at: float
    changed_at: float


class StaticSource:
    """Follows one environment's log from plain files, over the connections of ``server``."""

    def __init__(
        self,
        server: StoreSource,
        environment: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._server = server
        self._environment = environment
        self._monotonic = monotonic
        self._sleep = sleep
        self._shown: _Shown | None = None
        self._given_note = b""
        self._probe_due = 0.0
        self._probed_note = b""
        self._newest_epoch = 0

    async def follow(self, epoch: int, size: int, wait_seconds: int) -> Followed:
        """Entries from index ``size`` on; waits for the first, or for a renewed checkpoint.

        Raises:
            StoreUnreachable: no answer, or a file that is missing or out of form.
            TokenRefused: the server wants a token, or another one.
            EpochMoved: the files of a later epoch are there.
        """
        deadline = self._monotonic() + wait_seconds
        while True:
            shown = self._shown = await self._look(epoch)
            if shown.size > size:
                return self._given(shown, await self._part(shown, size))
            if shown.size <= size:
                await self._probe(shown, has_ended=shown.size < size)
            remaining = deadline - self._monotonic()
            # A smaller log than ours is handed on as well: that it is refused is the follower's.
            if shown.size < size or shown.note != self._given_note or remaining <= 0:
                return self._given(shown, Batch(size, (), shown.note))
            await self._sleep(min(LOOK_SECONDS, remaining))

    def _given(self, shown: _Shown, batch: Batch) -> Followed:
        self._given_note = shown.note
        return Followed(batch, {}, batch.proof is not None)

    async def fetch(self, epoch: int, digests: Iterable[str], patience_seconds: float) -> Fetched:
        """Fetch blobs by digest; those that are not there count as deleted.

        Raises:
            StoreUnreachable: nobody answers at the address.
        """
        return await self._server.fetch(epoch, digests, patience_seconds, gone=(404, 410))

    # The checkpoint

    async def _look(self, epoch: int) -> _Shown:
        """The checkpoint of an epoch as it is now."""
        known = self._shown if self._shown is not None and self._shown.epoch == epoch else None
        now = self._monotonic()
        headers = {"Cache-Control": "no-cache"}
        if known is not None and known.tag and now - known.read_at < UNMODIFIED_SECONDS:
            headers["If-None-Match"] = known.tag
        path = self._path(epoch, "checkpoint")
        answer = await self._server.get(path, MAX_NOTE_BYTES, _FILE_SECONDS, headers)
        if known is not None and answer.status == 304 and "If-None-Match" in headers:
            return known
        if answer.status == 404:
            self._require_newest(epoch, await self._newest_after(epoch))
            raise NoStore(
                f"{self._server.url}: expected a store, or {path} of a log, found neither"
            )
        self._server.require_ok(answer.status, path)
        size = self._parsed(answer.body, path).size
        changed_at = now
        if known is None:
            changed_at = float("-inf")
        elif known.note == answer.body:
            changed_at = known.changed_at
        return _Shown(epoch, answer.body, size, answer.headers.get("ETag"), now, changed_at)

    def _parsed(self, note: bytes, path: str) -> Checkpoint:
        try:
            return Checkpoint.parse_text(Note.parse(note).text)
        except InputInvalid as error:
            raise self._invalid(path, "a checkpoint", str(error)) from error

    # Later epochs

    async def _probe(self, shown: _Shown, *, has_ended: bool) -> None:
        """Say that a later epoch is there when this one seems to have ended.

        Files are looked for once for each checkpoint, then every ten seconds. In between the answer
        is the same, so that a node which cannot follow there hears of nothing else meanwhile.
        """
        now = self._monotonic()
        if not has_ended and now - shown.changed_at < RENEWED_SECONDS:
            return
        if now >= self._probe_due or shown.note != self._probed_note:
            self._probe_due = now + PROBE_SECONDS
            self._probed_note = shown.note
            self._newest_epoch = await self._newest_after(shown.epoch)
        self._require_newest(shown.epoch, self._newest_epoch)

    def _require_newest(self, epoch: int, newest: int) -> None:
        if newest > epoch:
            raise EpochMoved(
                f"{self._server.url}: expected {self._environment}/{epoch} to go on, found epoch"
                f" {newest}",
                newest,
            )

    async def _newest_after(self, epoch: int) -> int:
        """The newest epoch that has files, this one when there is no later."""
        newest, number = epoch, epoch + 1
        while number <= newest + SKIPPED_EPOCHS and number <= epoch + MAX_PROBES:
            if await self._has(number):
                newest = number
            number += 1
        return newest

    async def _has(self, epoch: int) -> bool:
        path = self._path(epoch, "checkpoint")
        answer = await self._server.get(path, MAX_NOTE_BYTES, _FILE_SECONDS)
        if answer.status != 200:
            return False
        try:
            origin = self._parsed(answer.body, path).origin
        except AnswerInvalid:
            return False
        return origin.endswith(f"/{self._environment}/{epoch}")

    # Entries and hashes

    async def _part(self, shown: _Shown, size: int) -> Batch:
        """The entries from ``size`` on, as many as make one answer."""
        leaves: list[bytes] = []
        first, read = size // TILE_WIDTH, 0
        last = min(-(-shown.size // TILE_WIDTH), first + BUNDLES_A_PART)
        index = first
        while index < last and read < PART_BYTES:
            indices = range(index, min(index + BUNDLES_AT_ONCE, last))
            for bundle in await _all(self._bundle(shown, each) for each in indices):
                leaves += bundle
                read += sum(map(len, bundle))
            index = indices.stop
        leaves = leaves[size - first * TILE_WIDTH :]
        stop = size + len(leaves)
        proof = await self._proof(shown, stop) if stop < shown.size else None
        return Batch(size, tuple(leaves), shown.note, proof)

    async def _bundle(self, shown: _Shown, index: int) -> list[bytes]:
        width = min(TILE_WIDTH, shown.size - index * TILE_WIDTH)
        path = tile_path("entries", index, width)
        data = await self._tile(shown, "entries", index, width, MAX_BUNDLE_BYTES)
        try:
            entries = decode_entries(data)
        except SyntaxInvalid as error:
            raise self._invalid(path, f"{width} entries", str(error)) from error
        if len(entries) < width:
            raise self._invalid(path, f"{width} entries", f"{len(entries)}")
        return entries[:width]

    async def _proof(self, shown: _Shown, stop: int) -> tuple[bytes, ...]:
        """The consistency proof from ``stop`` entries to all that the checkpoint covers."""
        places: list[tuple[int, int, int]] = []

        def note(level: int, index: int) -> bytes:
            places.append(tile_of_subtree(level, index, shown.size)[:3])
            return bytes(HASH_BYTES)

        consistency_proof(stop, shown.size, note)
        wanted = list(dict.fromkeys(places))
        read = await _all(self._hash_tile(shown, *place) for place in wanted)
        tiles = dict(zip(wanted, read, strict=True))

        def root(level: int, index: int) -> bytes:
            *place, span = tile_of_subtree(level, index, shown.size)
            hashes = tiles[place[0], place[1], place[2]]
            return EMPTY.extended(hashes[at] for at in span).root()

        return tuple(consistency_proof(stop, shown.size, root))

    async def _hash_tile(self, shown: _Shown, level: int, index: int, width: int) -> list[bytes]:
        data = await self._tile(shown, level, index, width, TILE_WIDTH * HASH_BYTES)
        if len(data) < width * HASH_BYTES:
            path = tile_path(level, index, width)
            raise self._invalid(path, f"{width} hashes", f"{len(data)} bytes")
        return [data[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(width)]

    async def _tile(
        self, shown: _Shown, level: int | str, index: int, width: int, max_bytes: int
    ) -> bytes:
        """A tile of at least ``width``: servers may drop a partial one once it is full."""
        if width < TILE_WIDTH:
            path = self._path(shown.epoch, tile_path(level, index, width))
            answer = await self._server.get(path, max_bytes, _FILE_SECONDS)
            if answer.status != 404:
                self._server.require_ok(answer.status, path)
                return answer.body
        path = self._path(shown.epoch, tile_path(level, index))
        answer = await self._server.get(path, max_bytes, _FILE_SECONDS)
        self._server.require_ok(answer.status, path)
        return answer.body

    def _path(self, epoch: int, path: str) -> str:
        return f"/{self._environment}/{epoch}/{path}"

    def _invalid(self, path: str, expected: str, found: str) -> AnswerInvalid:
        return AnswerInvalid(f"{self._server.url}: {path}: expected {expected}, found {found}")


class StoreOrFiles:
    """Follows a store where there is one, else the plain files of a log at the same address.

    Use as an asynchronous context manager, in one event loop.
    """

    def __init__(self, url: str, environment: str, token: str | None) -> None:
        self._environment = environment
        self._store = StoreSource(url, environment, token)
        self._files = StaticSource(self._store, environment)
        self._has_files = False

    async def __aenter__(self) -> StoreOrFiles:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._store.__aexit__(*reason)

    async def follow(self, epoch: int, size: int, wait_seconds: int) -> Followed:
        """As the store's or the files' own; which of them is found out here."""
        if not self._has_files:
            try:
                return await self._store.follow(epoch, size, wait_seconds)
            except NoStore:
                pass
        try:
            followed = await self._files.follow(epoch, size, wait_seconds)
        except StoreUnreachable:
            self._has_files = False
            raise
        if not self._has_files:
            logger.info(
                "%s: following plain files at %s", self._environment, self._store.url,
                extra={"environment": self._environment},
            )  # fmt: skip
        self._has_files = True
        return followed

    async def fetch(self, epoch: int, digests: Iterable[str], patience_seconds: float) -> Fetched:
        """As the store's or the files' own."""
        source = self._files if self._has_files else self._store
        return await source.fetch(epoch, digests, patience_seconds)


async def _all(works: Iterable[Awaitable[T]]) -> Sequence[T]:
    """The results in order; the first failure is raised and ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
