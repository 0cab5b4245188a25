"""The store over HTTP: requests in, answers out; what is decided is decided elsewhere.

- Every path but ``/healthz`` wants a token of its environment, unless the store is public; then
  reads do not. The token is checked before anything about the environment is told.
- What reads or writes the database runs in threads; a waiting long poll is only a coroutine. The
  token's row alone is read on the event loop, by its index, anew for each request: a thread would
  take several times as long.
- All followers that ask for the same part share one answer, so a change for a thousand nodes is
  read once. Those who had all there was will ask for what came since: the writer's thread reads
  that part before it wakes them.
- Requests are bounded: 32 MiB of body, ``BODY_SECONDS`` to send it, ``MAX_BLOBS`` of them
  at once. Bodies are taken as they are, never decompressed.
- Connections that ask for nothing are bounded, see ``doorway``.
- Errors have one form, see ``answers``.
- When it stops, waiting polls are answered with what there is and work already taken is finished.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from control_plane.errors import (
    ChecksumMismatch,
    ControlPlaneError,
    EpochMoved,
    NotFound,
    SyntaxInvalid,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.statements import ChangeSet
from control_plane.names import DIGEST, MAX_LEAF_BYTES, MAX_REQUEST_BYTES
from control_plane.telemetry.trace_context import HEADER as TRACE_HEADER
from control_plane.telemetry.trace_context import trace_of, traceparent
from control_plane_store import answers, feed, insight, tokens
from control_plane_store.admission import read_change_set
from control_plane_store.database import Database
from control_plane_store.doorway import Doorway
from control_plane_store.epochs import read_named
from control_plane_store.requests import Requests
from control_plane_store.sequencer import Outcome, Pending, Receipt, Sequencer, refusal
from control_plane_store.transactions import Log, Snapshot, TokenRow
from control_plane_store.uploads import read_blobs

MAX_WAIT_SECONDS = 20.0
BODY_SECONDS = 60.0
IDLE_SECONDS = 75.0
MAX_BLOBS = 16
# Hashing so much takes as long as handing it to a thread does.
MAX_INLINE_HASH_BYTES = 64 << 10
MAX_ENVELOPE_BYTES = 2 * MAX_LEAF_BYTES
MAX_REQUEST_LINE_BYTES = 64 << 10
MSGPACK = "application/vnd.msgpack"
NEVER_CHANGES = "max-age=31536000, immutable"

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Published:
    """What the event loop knows of a log: its newest checkpoint, and who waits for the next."""

    log: Log
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    parts: dict[tuple[int, int], asyncio.Future[bytes]] = field(default_factory=dict)
    """Answers being given now, by epoch and size."""


class Store:
    """The running service: one database, its sequencer, and who waits for changes.

    ``public`` lets anyone read. The sequencer is given ``store.published`` to call; ``run`` ties
    both to an application's lifetime.
    """

    def __init__(
        self,
        database: Database,
        *,
        public: bool = False,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._database = database
        self._public = public
        self._now_ms = now_ms
        self._logs: dict[str, Published] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._blobs = asyncio.Semaphore(MAX_BLOBS)
        self.sequencer: Sequencer | None = None
        self.requests = Requests()

    @property
    def sizes(self) -> dict[str, int]:
        """How many entries each log shows its followers."""
        return {name: known.log.note_size for name, known in self._logs.items()}

    def published(self, environment: str, log: Log) -> None:
        """Tell the followers of a log of its new checkpoint; called from the writer's thread."""
        if self._loop is None:
            return
        known = self._logs.get(environment)
        # Those who waited in an earlier epoch are told that it moved, and begin at the first entry.
        size = known.log.note_size if known and known.log.epoch == log.epoch else 0
        part: bytes | None = None
        try:
            with self._database.read() as snapshot:
                part = feed.part(snapshot, log, size)
        finally:
            # The checkpoint stands also when its part could not be read: who asks reads it then.
            self._loop.call_soon_threadsafe(self._wake, environment, log, size, part)

    def _wake(self, environment: str, log: Log, size: int, part: bytes | None) -> None:
        known = self._logs.get(environment)
        newest = self._logs[environment] = Published(log)
        if part is not None:
            done = newest.parts[log.epoch, size] = asyncio.get_running_loop().create_future()
            done.set_result(part)
        if known is not None:
            known.moved.set()

    async def run(self, application: web.Application) -> AsyncIterator[None]:
        """Start the sequencer with the application, stop it after the last request."""
        sequencer = self._sequencer()
        self._loop = asyncio.get_running_loop()
        for environment in sequencer.environments:
            self._logs[environment] = Published(sequencer.position(environment).log)
        await asyncio.to_thread(sequencer.start)
        yield
        await asyncio.to_thread(sequencer.close)

    async def stop(self, application: web.Application | None = None) -> None:
        """Answer all who wait, with what there is."""
        self._stopping.set()
        for known in self._logs.values():
            known.moved.set()

    # Writing

    async def put_blob(self, request: web.Request) -> web.Response:
        """``PUT /v1/<env>/blob/sha256/<hex>``: 201 once the bytes are durable."""
        environment, digest = request.match_info["environment"], request.match_info["digest"]
        self._token(request, "submit")
        # Blobs wait for one another's memory; a submission, which may be a kill, waits for none.
        async with self._blobs:
            data = await self._body(request, MAX_REQUEST_BYTES)
        if len(data) <= MAX_INLINE_HASH_BYTES:
            found = sha256_hex(data)
        else:
            found = await asyncio.to_thread(sha256_hex, data)
        if found != digest:
            raise ChecksumMismatch(f"{environment}: expected blob {digest}, found {found}")
        self._sequencer().position(environment)
        await asyncio.wrap_future(self._sequencer().put_blob(environment, digest, data))
        return _json({"format": 1, "digest": digest}, status=201)

    async def put_blobs(self, request: web.Request) -> web.Response:
        """``POST /v1/<env>/blobs``: 201 once the bytes of all are durable; see ``uploads``."""
        environment = request.match_info["environment"]
        self._token(request, "submit")
        async with self._blobs:
            data = await self._body(request, MAX_REQUEST_BYTES)
        if len(data) <= MAX_INLINE_HASH_BYTES:
            blobs = read_blobs(data, environment)
        else:
            blobs = await asyncio.to_thread(read_blobs, data, environment)
        del data
        self._sequencer().position(environment)
        await asyncio.wrap_future(self._sequencer().put_blobs(environment, blobs))
        return _json({"format": 1, "count": len(blobs)}, status=201)

    async def submit(self, request: web.Request) -> web.Response:
        """``POST /v1/<env>/changes[?dry_run=1]``: 201, 200 when repeated, 202 when it waits."""
        environment = request.match_info["environment"]
        dry_run = request.query.get("dry_run", "0") not in ("0", "")
        token = self._token(request, "submit")
        data = await self._body(request, MAX_ENVELOPE_BYTES)
        sequencer = self._sequencer()
        sequencer.position(environment)
        try:
            envelope, statement = read_change_set(data)
        except ControlPlaneError as error:
            if not dry_run:
                line = refusal(self._now_ms(), environment, _name(token), error)
                await asyncio.wrap_future(sequencer.record(line))
            raise
        outcome: Outcome = await asyncio.wrap_future(
            sequencer.submit(environment, envelope, statement, dry_run=dry_run, token=_name(token))
        )
        if not dry_run:
            _tell(environment, outcome, statement, request)
        return _outcome(outcome)

    async def trust(self, request: web.Request) -> web.Response:
        """``POST /v1/<env>/trust``: 201, 200 when in force; the root it brings may begin an epoch.

        The body names roots and targets by digest; their bytes were put before.
        """
        environment = request.match_info["environment"]
        token = self._token(request, "submit")
        data = await self._body(request, MAX_ENVELOPE_BYTES)
        sequencer = self._sequencer()
        sequencer.position(environment)
        try:
            named = read_named(data)
        except ControlPlaneError as error:
            line = refusal(self._now_ms(), environment, _name(token), error)
            await asyncio.wrap_future(sequencer.record(line))
            raise
        taken = sequencer.offer_trust(environment, named, token=_name(token))
        receipt: Receipt = await asyncio.wrap_future(taken)
        return _outcome(receipt)

    # Reading

    async def heads(self, request: web.Request) -> web.Response:
        """``GET /v1/<env>/heads?key=…`` or ``?kind=&name=&prefix=&after=&limit=``."""
        query = request.query
        wanted = insight.HeadQuery(
            keys=tuple(query.getall("key", ())),
            kind=query.get("kind", ""),
            name=query.get("name", ""),
            prefix=query.get("prefix", ""),
            after=query.get("after", ""),
            limit=_number(request, "limit", insight.MAX_HEADS),
        )
        return await self._shown(
            request, lambda snapshot, log: insight.heads(snapshot, log, wanted)
        )

    async def history(self, request: web.Request) -> web.Response:
        """``GET /v1/<env>/history?kind=&name=&part=&before=&limit=``."""
        query = request.query
        wanted = insight.HistoryQuery(
            kind=query.get("kind", ""),
            name=query.get("name", ""),
            part=query.get("part"),
            before=_number(request, "before", 0) if "before" in query else None,
            limit=_number(request, "limit", 100),
        )
        return await self._shown(
            request, lambda snapshot, log: insight.history(snapshot, log, wanted)
        )

    async def pending(self, request: web.Request) -> web.Response:
        """``GET /v1/<env>/pending``."""
        return await self._shown(request, insight.pending)

    async def blob(self, request: web.Request) -> web.Response:
        """A blob by digest, below ``/v1/<env>`` or below an epoch's static files."""
        environment, digest = request.match_info["environment"], request.match_info["digest"]
        self._token(request, "follow")
        if "epoch" in request.match_info:
            await self._read(lambda snapshot: self._log(snapshot, request))
        data = await self._read(lambda snapshot: feed.blob(snapshot, environment, digest))
        return self._file(data, "application/octet-stream", NEVER_CHANGES)

    async def static_file(self, request: web.Request) -> web.Response:
        """Checkpoint and tiles of one epoch, as a plain file server would have them."""
        path = request.match_info["path"]
        self._token(request, "follow")
        if path != "checkpoint" and not path.startswith("tile/"):
            raise NotFound(f"expected checkpoint, tile/… or blob/sha256/…, found {path[:80]!r}")
        data = await self._read(
            lambda snapshot: feed.static_file(snapshot, self._log(snapshot, request), path)
        )
        if path == "checkpoint":
            return self._file(data, "text/plain; charset=utf-8", "no-cache")
        return self._file(data, "application/octet-stream", NEVER_CHANGES)

    async def follow(self, request: web.Request) -> web.Response:
        """``GET /v1/<env>/follow?epoch=&size=&wait=``: entries behind ``size``, waited for.

        Of an earlier epoch the entries that are left are given at once, then where it moved.
        """
        environment = request.match_info["environment"]
        self._token(request, "follow")
        size, wait = _number(request, "size", 0), _number(request, "wait", 0)
        epoch = _number(request, "epoch", 0)
        deadline = asyncio.get_running_loop().time() + min(wait, MAX_WAIT_SECONDS)
        while True:
            # The event is taken with the log it belongs to: a checkpoint published from here on
            # sets exactly this event, so none is slept through.
            known = self._known(environment)
            if known.log.epoch != epoch:
                log = await self._earlier(known.log, epoch, size)
                break
            log = known.log
            if known.log.note_size != size or self._stopping.is_set():
                break
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                break
            try:
                async with asyncio.timeout(remaining):
                    await known.moved.wait()
            except TimeoutError:
                break
        data = await self._part(known, log, size)
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=data, content_type=MSGPACK, headers=headers)

    async def healthz(self, request: web.Request) -> web.Response:
        """``GET /healthz``: 200 while the store serves; tells nothing of what it holds."""
        return _json({"format": 1, "status": "stopping" if self._stopping.is_set() else "ok"})

    # Shared steps

    def _sequencer(self) -> Sequencer:
        if self.sequencer is None:
            raise RuntimeError("expected store.sequencer to be set before the application starts")
        return self.sequencer

    def _known(self, environment: str) -> Published:
        try:
            return self._logs[environment]
        except KeyError as error:
            raise NotFound(
                f"expected an environment of this store, found {environment!r}"
            ) from error

    def _token(self, request: web.Request, action: str) -> TokenRow | None:
        environment = request.match_info["environment"]
        if self._public and action == "follow":
            return None
        authorization = request.headers.get("Authorization")
        with self._database.read() as snapshot:
            return tokens.check(snapshot, authorization, environment, action)

    async def _read(self, reading: Callable[[Snapshot], T]) -> T:
        def read() -> T:
            with self._database.read() as snapshot:
                return reading(snapshot)

        return await asyncio.to_thread(read)

    async def _body(self, request: web.Request, max_bytes: int) -> bytes:
        if request.content_length is not None and request.content_length > max_bytes:
            raise answers.TooLarge(max_bytes)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                data = await request.read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        except web.HTTPRequestEntityTooLarge as error:
            raise answers.TooLarge(max_bytes) from error
        if len(data) > max_bytes:
            raise answers.TooLarge(max_bytes)
        return data

    async def _shown(
        self, request: web.Request, reading: Callable[[Snapshot, Log], Mapping[str, object]]
    ) -> web.Response:
        self._token(request, "follow")
        data = await self._read(
            lambda snapshot: _dump(reading(snapshot, self._log(snapshot, request)))
        )
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=data, content_type="application/json", headers=headers)

    def _log(self, snapshot: Snapshot, request: web.Request) -> Log:
        environment, epoch = request.match_info["environment"], request.match_info.get("epoch")
        log = snapshot.log(environment, None if epoch is None else int(epoch))
        if log is None:
            place = environment if epoch is None else f"{environment}/{epoch}"
            raise NotFound(f"expected a log of this store, found {place!r}")
        return log

    async def _earlier(self, newest: Log, epoch: int, size: int) -> Log:
        """The log of an earlier epoch for a follower who does not have all of it.

        Raises:
            EpochMoved: the follower has all, or that epoch is not known here.
            NotFound: an epoch after the newest.
        """
        place = f"{newest.environment}: expected epoch {newest.epoch}, found {epoch}"
        if epoch > newest.epoch:
            raise NotFound(place)
        log = await self._read(lambda snapshot: snapshot.log(newest.environment, epoch))
        if log is None or size >= log.note_size:
            raise EpochMoved(place, newest.epoch)
        return log

    async def _part(self, known: Published, log: Log, size: int) -> bytes:
        """One part, read once for all who ask for it while the newest checkpoint stands."""
        place = (log.epoch, size)
        part = known.parts.get(place)
        if part is None:
            if len(known.parts) >= 4:
                known.parts.pop(next(iter(known.parts)))
            part = asyncio.create_task(self._read(lambda snapshot: feed.part(snapshot, log, size)))
            known.parts[place] = part
            part.add_done_callback(lambda done: _drop_failed(known.parts, place, done))
        # One follower hanging up must not take the answer from the others.
        return await asyncio.shield(part)

    def _file(self, data: bytes, content_type: str, caching: str) -> web.Response:
        scope = "public" if self._public else "private"
        headers = {"Cache-Control": f"{scope}, {caching}", "Content-Type": content_type}
        return web.Response(body=data, headers=headers)


def create_app(store: Store) -> web.Application:
    """The application of a store whose sequencer is set; its lifetime is the sequencer's."""
    application = web.Application(
        client_max_size=MAX_REQUEST_BYTES, middlewares=[store.requests.count, _errors_as_answers]
    )
    application.cleanup_ctx.append(store.run)
    application.on_shutdown.append(store.stop)
    v1, static = "/v1/{environment}", r"/{environment}/{epoch:[1-9][0-9]{0,9}}"
    blob = f"blob/sha256/{{digest:{DIGEST.pattern}}}"
    application.add_routes(
        [
            web.get("/healthz", store.healthz),
            web.put(f"{v1}/{blob}", store.put_blob),
            web.get(f"{v1}/{blob}", store.blob),
            web.post(f"{v1}/blobs", store.put_blobs),
            web.post(f"{v1}/changes", store.submit),
            web.post(f"{v1}/trust", store.trust),
            web.get(f"{v1}/heads", store.heads),
            web.get(f"{v1}/history", store.history),
            web.get(f"{v1}/pending", store.pending),
            web.get(f"{v1}/follow", store.follow),
            web.get(f"{static}/{blob}", store.blob),
            web.get(static + "/{path:.+}", store.static_file),
        ]
    )
    return application


def new_runner(application: web.Application) -> web.AppRunner:
    """A runner with this service's limits; ``cleanup`` drains it."""
    runner = web.AppRunner(
        application,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=IDLE_SECONDS,
        max_line_size=MAX_REQUEST_LINE_BYTES,
        shutdown_timeout=10.0,
    )
    doorway = Doorway(runner)
    application.middlewares.insert(0, doorway.attend)
    application.cleanup_ctx.append(doorway.run)
    return runner


@web.middleware
async def _errors_as_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ControlPlaneError as error:
        headers = {"WWW-Authenticate": "Bearer"} if answers.status_of(error) == 401 else {}
        return _json(answers.body_of(error), status=answers.status_of(error), headers=headers)
    except web.HTTPException as error:
        return _json(_plain(error), status=error.status)
    except asyncio.CancelledError:
        raise
    except Exception:
        # The outermost loop of a request: the connection goes on, the cause is in the log.
        logger.exception("%s %s: expected an answer, found an error", request.method, request.path)
        return _json(answers.plain("internal", "expected an answer, found an error"), status=500)


def _plain(error: web.HTTPException) -> Mapping[str, object]:
    found = {404: "not_found", 405: "method_not_allowed", 408: "timeout"}
    return answers.plain(
        found.get(error.status, "http"),
        f"expected a path and method of the store, found {error.reason.lower()}",
    )


def _tell(environment: str, outcome: Outcome, statement: ChangeSet, request: web.Request) -> None:
    """A line for a change set that was taken, or that waits; a refused one is in the audit."""
    # What the author signed goes before what a request says.
    trace = trace_of(statement.reason) or traceparent(request.headers.get(TRACE_HEADER))
    told: dict[str, object] = {
        "environment": environment, "change": outcome.statement, "verb": statement.verb,
    }  # fmt: skip
    if trace is not None:
        told["traceparent"] = trace
    if isinstance(outcome, Receipt):
        told["generation"] = outcome.generation
        again = " before" if outcome.repeated else ""
        logger.info("%s: entry %d sequenced%s", environment, outcome.generation, again, extra=told)
    elif isinstance(outcome, Pending):
        logger.info(
            "%s: change set waits, %d of %d signatures",
            environment, outcome.found, outcome.threshold, extra=told,
        )  # fmt: skip


def _outcome(outcome: Outcome) -> web.Response:
    body: dict[str, object] = {"format": 1, "statement": outcome.statement}
    if isinstance(outcome, Receipt):
        body |= {"generation": outcome.generation, "index": outcome.index}
        return _json(body, status=200 if outcome.repeated else 201)
    if isinstance(outcome, Pending):
        body |= {"threshold": outcome.threshold, "found": outcome.found}
        return _json(body, status=202)
    body |= {"dry_run": True, "generation": outcome.generation}
    if outcome.generation is None:
        body |= {"threshold": outcome.threshold, "found": outcome.found}
    return _json(body)


def _drop_failed(
    parts: dict[tuple[int, int], asyncio.Future[bytes]],
    place: tuple[int, int],
    done: asyncio.Future[bytes],
) -> None:
    """Keep no answer that is an error: the next follower asks the database again."""
    if (done.cancelled() or done.exception() is not None) and parts.get(place) is done:
        del parts[place]


def _name(token: TokenRow | None) -> str:
    return "" if token is None else token.name


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise SyntaxInvalid(f"{name}: expected a whole number, found {text[:24]!r}")
    return int(text)


def _dump(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _json(
    value: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=_dump(value), status=status, content_type="application/json", headers=headers
    )
