"""How a node gets log entries and blobs from a store, and when it asks again.

What this module decides:

- Nothing that arrives is believed. An answer is parsed within fixed bounds (8 MiB and a margin for
  a long poll, 32 MiB for a blob); anything out of form is the same as no answer. Bodies are never
  decompressed, so that the bounds are those of memory.
- A blob with other bytes than its digest promises is a failed fetch, not data. It is fetched again
  until the caller's patience ends, and then it is *missing*; what that means is the caller's rule.
- A store that cannot be connected to is `StoreUnreachable` at once: it says nothing about a blob.
- A blob answered with 410 was superseded and deleted: it is *gone*, which is not an error.
- Retries wait a random time below a bound that doubles from 0.1 s to 30 s, so that the nodes of a
  fleet whose store comes back do not all ask in the same moment.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import aiohttp
import msgpack

from control_plane.errors import (
    EpochMoved,
    InputInvalid,
    NotFound,
    StoreUnreachable,
    TokenRefused,
)
from control_plane.log.canonical import parse, sha256_hex
from control_plane.log.steps import Batch

POLL_SECONDS: Final = 20
MAX_FOLLOW_BYTES: Final = 9 << 20
MAX_BLOB_BYTES: Final = 32 << 20
CONCURRENT_FETCHES: Final = 16
PATIENCE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Followed:
    """One answer to a long poll. ``blobs`` have the digests they are filed under."""

    batch: Batch
    blobs: Mapping[str, bytes]
    more: bool


@dataclass(slots=True)
class Fetched:
    """What became of a list of digests: bytes, deleted after they were superseded, or neither."""

    found: dict[str, bytes] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)


class Answer(NamedTuple):
    """What an HTTP server answered; ``body`` as it was sent."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Source(Protocol):
    """Where a follower's entries and blobs come from."""

    async def follow(self, epoch: int, size: int, wait_seconds: int) -> Followed:
        """Entries from index ``size`` on; waits up to ``wait_seconds`` for the first.

        Raises:
            EpochMoved: this epoch has no more entries, and a later one is there.
        """

    async def fetch(self, epoch: int, digests: Iterable[str], patience_seconds: float) -> Fetched:
        """The blobs of these digests; each is tried again until the patience ends."""


class Backoff:
    """Waiting times that double from 0.1 to 30 seconds, each drawn between half and all of it."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._bound_seconds = 0.1

    def next_seconds(self) -> float:
        """How long to wait now; the following wait is drawn from twice the time."""
        bound = self._bound_seconds
        self._bound_seconds = min(30.0, bound * 2)
        return bound * (0.5 + self._draw() / 2)

    def reset(self) -> None:
        """Start again from 0.1 seconds, after a success."""
        self._bound_seconds = 0.1


class StoreSource:
    """Follows one environment of a store over HTTP; ``unix:PATH`` or ``http(s)://…``.

    Use as an asynchronous context manager, in one event loop.
    """

    def __init__(
        self,
        url: str,
        environment: str,
        token: str | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._environment = environment
        self._base = "http://store" if url.startswith("unix:") else url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._monotonic = monotonic
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> StoreSource:
        path = self.url.removeprefix("unix:") if self.url.startswith("unix:") else None
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(path)
            if path
            else aiohttp.TCPConnector(limit=CONCURRENT_FETCHES + 2)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={**self._headers, "Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def follow(self, epoch: int, size: int, wait_seconds: int) -> Followed:
        """Ask for the entries from index ``size`` on.

        Raises:
            StoreUnreachable: no answer, or one that is no store's.
            NoStore: an HTTP server that is none: it knows nothing of following.
            TokenRefused: the store wants another token.
            EpochMoved: the root of trust moved on to a newer epoch.
        """
        path = f"/v1/{self._environment}/follow?epoch={epoch}&size={size}&wait={wait_seconds}"
        status, body, _ = await self.get(path, MAX_FOLLOW_BYTES, wait_seconds + 15.0)
        if status == 404 and not _is_stores_refusal(body):
            raise NoStore(f"{self.url}: expected a store, found no answer at {_place(path)}")
        if status == 410:
            raise _moved(body, f"{self._environment}/{epoch}", self.url)
        self.require_ok(status, path)
        return _followed(body, self.url, epoch)

    async def fetch(
        self,
        epoch: int,
        digests: Iterable[str],
        patience_seconds: float,
        *,
        gone: Collection[int] = (410,),
    ) -> Fetched:
        """Fetch blobs by digest, at most 16 at a time; a status in ``gone`` says: deleted.

        Raises:
            StoreUnreachable: nobody answers at the store's address.
        """
        fetched = Fetched()
        slots = asyncio.Semaphore(CONCURRENT_FETCHES)
        deadline = self._monotonic() + patience_seconds

        async def one(digest: str) -> None:
            async with slots:
                await self._fetch_one(epoch, digest, deadline, fetched, gone)

        try:
            async with asyncio.TaskGroup() as group:
                for digest in dict.fromkeys(digests):
                    group.create_task(one(digest))
        except* StoreUnreachable as unreachable:
            raise unreachable.exceptions[0] from None
        return fetched

    async def _fetch_one(
        self, epoch: int, digest: str, deadline: float, fetched: Fetched, gone: Collection[int]
    ) -> None:
        backoff = Backoff()
        while True:
            try:
                data = await self._blob(epoch, digest, gone)
            except NotFound:
                fetched.gone.add(digest)
                return
            except _FetchFailed as failure:
                wait_seconds = backoff.next_seconds()
                if self._monotonic() + wait_seconds >= deadline:
                    fetched.missing[digest] = str(failure)
                    return
                await asyncio.sleep(wait_seconds)
                continue
            fetched.found[digest] = data
            return

    async def _blob(self, epoch: int, digest: str, gone: Collection[int]) -> bytes:
        path = f"/{self._environment}/{epoch}/blob/sha256/{digest}"
        try:
            status, body, _ = await self.get(path, MAX_BLOB_BYTES, 30.0)
        except AnswerInvalid as error:
            raise _FetchFailed(str(error)) from error
        if status in gone:
            raise NotFound(digest)
        if status != 200:
            raise _FetchFailed(f"expected blob {digest}, found status {status}")
        # (8) a blob's bytes have its digest; any others were never that blob.
        if (found := sha256_hex(body)) != digest:
            raise _FetchFailed(f"expected blob {digest}, found bytes of {found}")
        return body

    async def get(
        self,
        path: str,
        max_bytes: int,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """What a path is answered with; never more than ``max_bytes``, never unpacked.

        Raises:
            StoreUnreachable: nobody answers, or not with a whole answer.
        """
        if self._session is None:
            raise RuntimeError("expected an entered source, found one outside 'async with'")
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=5.0)
        try:
            async with self._session.get(
                self._base + path, timeout=timeout, allow_redirects=False, headers=headers
            ) as response:
                body = await self._bounded(response, max_bytes)
                return Answer(response.status, body, response.headers)
        except aiohttp.ClientConnectorError as error:
            reason = (error.strerror or str(error)).lower()
            raise StoreUnreachable(f"{self.url}: expected a store, found {reason}") from error
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            found = str(error) or type(error).__name__
            raise AnswerInvalid(f"{self.url}: expected a whole answer, found {found}") from error

    async def _bounded(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > max_bytes:
                raise AnswerInvalid(f"{self.url}: expected at most {max_bytes} bytes, found more")
        return bytes(body)

    def require_ok(self, status: int, path: str) -> None:
        """Refuse any status but 200.

        Raises:
            TokenRefused: the server wants a token, or another one.
            StoreUnreachable: any other status.
        """
        if status in (401, 403):
            raise TokenRefused(
                f"{self.url}: expected a token that may follow {self._environment}, found status"
                f" {status}; make one with 'control-plane token new NAME"
                f" --env {self._environment} --may follow'"
            )
        if status != 200:
            raise AnswerInvalid(
                f"{self.url}: expected status 200 at {_place(path)}, found {status}"
            )


class _FetchFailed(Exception):
    """One attempt at a blob that brought no blob."""


class AnswerInvalid(StoreUnreachable):
    """Something answered, and it was not a store's whole answer."""


class NoStore(AnswerInvalid):
    """What answers is no store; it may be a file server that has the log as plain files."""


def _is_stores_refusal(body: bytes) -> bool:
    """Whether a store wrote this answer, in the form of all its refusals."""
    try:
        value = parse(body, what="refusal", max_bytes=1 << 16)
    except InputInvalid:
        return False
    return isinstance(value, dict) and {"format", "code", "message"} <= value.keys()


def _place(path: str) -> str:
    return path.partition("?")[0]


def _followed(body: bytes, url: str, epoch: int) -> Followed:
    try:
        value = msgpack.unpackb(body, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, TypeError) as error:
        raise AnswerInvalid(f"{url}: expected a msgpack mapping, found {error}") from error
    if not isinstance(value, dict) or value.get("format") != 1 or value.get("epoch") != epoch:
        raise AnswerInvalid(
            f"{url}: expected a follow answer of format 1 and epoch {epoch}, found another"
        )
    more, proof = value.get("more"), value.get("proof")
    batch = Batch(
        first=_typed(value, "first", int, url),
        leaves=_bytes_list(value.get("entries"), "entries", url),
        checkpoint=_typed(value, "checkpoint", bytes, url),
        proof=_bytes_list(proof, "proof", url) if more is True else None,
    )
    if not isinstance(more, bool):
        raise AnswerInvalid(
            f"{url}: expected more to be true or false, found {type(more).__name__}"
        )
    if more and not batch.leaves:
        raise AnswerInvalid(f"{url}: expected entries where more are announced, found none")
    return Followed(batch, _blobs(value.get("blobs"), url), more)


def _typed(value: dict[str, Any], name: str, kind: type, url: str) -> Any:
    found = value.get(name)
    if type(found) is not kind:
        raise AnswerInvalid(
            f"{url}: expected {name} as {kind.__name__}, found {type(found).__name__}"
        )
    return found


def _bytes_list(value: object, name: str, url: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not all(isinstance(item, bytes) for item in value):
        raise AnswerInvalid(f"{url}: expected {name} as a list of bytes, found another value")
    return tuple(value)


def _blobs(value: object, url: str) -> dict[str, bytes]:
    """The blobs of an answer whose bytes have their digest; the others are fetched by digest."""
    if not isinstance(value, dict):
        raise AnswerInvalid(f"{url}: expected blobs as a mapping, found {type(value).__name__}")
    return {
        digest: data
        for digest, data in value.items()
        if isinstance(data, bytes) and sha256_hex(data) == digest
    }


def _moved(body: bytes, log: str, url: str) -> EpochMoved:
    """What a 410 answer says; epoch 0 when it names none: a hint, believed by nobody."""
    try:
        value = parse(body, what="follow answer", max_bytes=1 << 16)
    except InputInvalid:
        value = None
    epoch = value.get("epoch") if isinstance(value, dict) else None
    known = epoch if type(epoch) is int and epoch > 0 else 0
    return EpochMoved(f"{url}: expected {log} to go on, found epoch {known}", known)
