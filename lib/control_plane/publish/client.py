"""One connection to a store, over TCP, TLS or a unix socket.

What this module decides:

- A store is named ``http://host:port``, ``https://host[:port]`` or ``unix:/path/to/socket``.
- Every request may be sent twice without harm: blobs are named by their digest, change sets by
  their statement. So a kept connection that turns out to be closed is opened anew, once; any
  other failure to get an answer is ``StoreUnreachable``.
- A refusal becomes the error of this package whose ``code`` the body names; an answer that is
  not in the store's format is ``StoreUnreachable`` too, because whoever sent it is not a store.
- Bytes fetched by digest are hashed before they are returned.
- Many blobs go together, as many in a request as a store takes and a few megabytes allow: they
  are one request and one sync there.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from control_plane import errors
from control_plane._version import __version__
from control_plane.errors import (
    ChecksumMismatch,
    Conflict,
    ControlPlaneError,
    EpochMoved,
    NotFound,
    Refused,
    StoreUnreachable,
    SyntaxInvalid,
    ThresholdNotReached,
    TokenRefused,
)
from control_plane.log.canonical import Json, canonical, parse, sha256_hex
from control_plane.log.envelope import Envelope
from control_plane.telemetry.trace_context import HEADER as TRACE_HEADER

MAX_KEYS_A_REQUEST: Final = 30
"""Keys of up to 200 bytes stay well inside a request line; for more, all heads are read."""

MAX_BLOBS_A_REQUEST: Final = 512
BLOB_BYTES_A_REQUEST: Final = 4 << 20
"""A larger blob goes alone; a request of this size is sent, and hashed, in a moment."""

MAX_ANSWER_BYTES: Final = 128 << 20
"""More than any answer of a store: the follow answer is bounded at 8 MiB, a blob at 32 MiB."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers in lower case and body of one answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What the store made of a change set.

    ``generation`` is None while it waits for signatures (``pending``), ``found`` of ``threshold``;
    after a dry run it is the one it would have got. ``repeated`` says that the log held it already.
    """

    environment: str
    identity: str
    generation: int | None = None
    index: int | None = None
    repeated: bool = False
    pending: bool = False
    threshold: int = 0
    found: int = 0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket; the host is only what the Host header says."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class StoreClient:
    """Speaks the store's HTTP interface; one thread at a time; close it when done.

    ``timeout_seconds`` bounds each wait for bytes, not the whole call. ``certificates`` is a PEM
    file to trust instead of the system's authorities.

    Raises:
        ValueError: for a URL of another form.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        certificates: str | os.PathLike[str] | None = None,
    ) -> None:
        self.url = url
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._certificates = certificates
        self._prefix = ""
        self._connection: http.client.HTTPConnection | None = None
        self._epochs: dict[str, int] = {}
        self._new_connection()  # a wrong URL is found here, not at the first request

    def close(self) -> None:
        """Close the kept connection; the client may be used again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> StoreClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Changes

    def put_blob(self, environment: str, data: bytes) -> str:
        """Store ``data`` for ``environment`` and return its SHA-256 in hex."""
        digest = sha256_hex(data)
        self._call("PUT", f"/v1/{environment}/blob/sha256/{digest}", data)
        return digest

    def put_blobs(
        self,
        environment: str,
        blobs: Iterable[bytes],
        done: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Store many blobs; ``done`` is called with the number stored so far.

        After an error some of them may have been stored; nothing names them yet.
        """
        count = 0
        for together in _requests(blobs):
            if len(together) == 1:
                self.put_blob(environment, together[0])
            else:
                # Loaded for many blobs only: a kill has none, and should be quick.
                import msgpack

                body = msgpack.packb({sha256_hex(data): data for data in together})
                self._call("POST", f"/v1/{environment}/blobs", body)
            count += len(together)
            done(count)

    def submit(
        self,
        environment: str,
        envelope: Envelope,
        *,
        dry_run: bool = False,
        traceparent: str | None = None,
    ) -> Submission:
        """Hand in a signed change set; ``traceparent`` names the trace the request belongs to.

        Raises:
            Conflict: a ``replaces`` is not the key's head.
            Refused: for every other reason the store gives.
        """
        path = f"/v1/{environment}/changes" + ("?dry_run=1" if dry_run else "")
        headers = {} if traceparent is None else {TRACE_HEADER: traceparent}
        answer = self._call("POST", path, envelope.encode(), headers)
        value = self._object(answer)
        generation = _integer(value, "generation")
        return Submission(
            environment=environment,
            identity=envelope.identity,
            generation=generation,
            index=_integer(value, "index"),
            repeated=answer.status == 200 and not dry_run,
            pending=generation is None,
            threshold=_integer(value, "threshold") or 0,
            found=_integer(value, "found") or 0,
        )

    def post_trust(self, environment: str, roots: Sequence[bytes], targets: bytes) -> Submission:
        """Hand in trust metadata: the roots after the one in force, oldest first, and the targets.

        Roots that the log has are skipped by the store. ``repeated`` says that all of it is in
        force already; there may be no ``identity``, index and generation then.

        Raises:
            EpochDiverged: a root lets the log go on from where it does not end.
            Refused, TrustError, InputInvalid: for every other reason the store gives.
        """
        body: dict[str, Json] = {
            "format": 1,
            "root": [self.put_blob(environment, root) for root in roots],
            "targets": self.put_blob(environment, targets),
        }
        answer = self._call("POST", f"/v1/{environment}/trust", canonical(body))
        self._epochs.pop(environment, None)
        value = self._object(answer)
        return Submission(
            environment=environment,
            identity=str(value.get("statement") or ""),
            generation=_integer(value, "generation"),
            index=_integer(value, "index"),
            repeated=answer.status == 200,
        )

    # Reading

    def heads(
        self, environment: str, keys: Sequence[str] = (), kind: str = "", name: str = ""
    ) -> dict[str, Any]:
        """Heads with the log's position: those of ``keys`` (``"flag/x"``), of a kind, or all.

        With ``name`` those of that name of the kind: versions, channels and statuses.
        """
        path, filters = f"/v1/{environment}/heads", {"kind": kind, "name": name}
        if 0 < len(keys) <= MAX_KEYS_A_REQUEST:
            return self._noted(environment, self._query(path, key=list(keys)))
        answer = self._noted(environment, self._query(path, **filters))
        page = answer
        while page.get("next") is not None:
            page = self._query(path, **filters, after=page["next"])
            answer["heads"] += page["heads"]
        if keys:
            wanted = set(keys)
            answer["heads"] = [head for head in answer["heads"] if _printed(head) in wanted]
        return answer

    def history(self, environment: str, **filters: object) -> dict[str, Any]:
        """Log entries, newest first; filters: kind, name, part, before (generation), limit."""
        return self._query(f"/v1/{environment}/history", **filters)

    def pending(self, environment: str) -> dict[str, Any]:
        """Change sets that wait for more signatures."""
        return self._query(f"/v1/{environment}/pending")

    def follow(self, environment: str, *, epoch: int, size: int, wait: float = 0) -> dict[str, Any]:
        """Entries from index ``size`` on with a checkpoint, as an unpacked msgpack mapping.

        Raises:
            EpochMoved: that epoch has no more entries; ``epoch`` is the newest there is.
        """
        import msgpack

        query = urlencode({"epoch": epoch, "size": size, "wait": int(wait)})
        answer = self._call("GET", f"/v1/{environment}/follow?{query}")
        try:
            value = msgpack.unpackb(answer.body, strict_map_key=False)
        except (ValueError, msgpack.UnpackException) as error:
            raise self._not_a_store("a msgpack mapping") from error
        if not _is_followed(value):
            raise self._not_a_store("a follow answer of format 1")
        return dict(value)

    def checkpoint(self, environment: str, epoch: int | None = None) -> bytes:
        """The newest signed checkpoint, unverified."""
        number = self.epoch(environment) if epoch is None else epoch
        return self._call("GET", f"/{environment}/{number}/checkpoint").body

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        """The bytes whose SHA-256 is ``digest``.

        Raises:
            NotFound: the store has none, or deleted them after they were superseded.
            ChecksumMismatch: the store sent other bytes.
        """
        number = self.epoch(environment) if epoch is None else epoch
        data = self._call("GET", f"/{environment}/{number}/blob/sha256/{digest}").body
        if (found := sha256_hex(data)) != digest:
            raise ChecksumMismatch(f"{environment}: expected blob {digest}, found {found}")
        return data

    def position(self, environment: str) -> dict[str, Any]:
        """Origin, epoch, size and generation of the environment's log, as the store tells them."""
        return self._noted(environment, self._query(f"/v1/{environment}/heads", limit=1))

    def epoch(self, environment: str) -> int:
        """The number of the environment's newest epoch, asked once."""
        if environment not in self._epochs:
            self.position(environment)
        return self._epochs[environment]

    def _noted(self, environment: str, answer: dict[str, Any]) -> dict[str, Any]:
        epoch, heads = answer.get("epoch"), answer.get("heads")
        if not isinstance(epoch, int) or not isinstance(heads, list):
            raise self._not_a_store("heads with their epoch")
        self._epochs[environment] = epoch
        return answer

    # Requests

    def _query(self, path: str, **parameters: object) -> dict[str, Any]:
        given = {key: value for key, value in parameters.items() if value not in (None, [], "")}
        query = urlencode(given, doseq=True, quote_via=quote)
        return self._object(self._call("GET", path + (f"?{query}" if query else "")))

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = self.request(method, path, body, more)
        if answer.status >= 300:
            raise self._refusal(answer, path)
        return answer

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request, with ``more`` headers, and read the whole answer of any status."""
        headers = {"User-Agent": f"control-plane/{__version__}", "Accept": "*/*", **(more or {})}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        kept = self._connection is not None
        try:
            return self._exchange(method, path, body, headers)
        except (http.client.HTTPException, OSError) as first:
            self.close()
            if not (kept and isinstance(first, (http.client.HTTPException, ConnectionError))):
                raise self._unreachable(first) from first
        try:
            return self._exchange(method, path, body, headers)
        except (http.client.HTTPException, OSError) as second:
            self.close()
            raise self._unreachable(second) from second

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        if self._connection is None:
            self._connection = self._new_connection()
        self._connection.request(method, self._prefix + path, body, headers)
        response = self._connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        lowered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, lowered, data)

    def _new_connection(self) -> http.client.HTTPConnection:
        if self.url.startswith("unix:"):
            return _UnixConnection(self.url.removeprefix("unix:"), self._timeout_seconds)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"store: expected http://host:port, https://host or unix:/path, found {self.url!r}"
            )
        self._prefix = parts.path.rstrip("/")
        if parts.scheme == "http":
            return http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=self._timeout_seconds
            )
        cafile = None if self._certificates is None else os.fspath(self._certificates)
        context = ssl.create_default_context(cafile=cafile)
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=self._timeout_seconds, context=context
        )

    # Answers

    def _object(self, answer: Answer) -> dict[str, Any]:
        try:
            value: Json = parse(answer.body, what=self.url, max_bytes=MAX_ANSWER_BYTES)
        except SyntaxInvalid as error:
            raise self._not_a_store("a JSON object") from error
        if not isinstance(value, dict):
            raise self._not_a_store("a JSON object")
        return value

    def _refusal(self, answer: Answer, path: str) -> ControlPlaneError:
        try:
            value = self._object(answer)
        except StoreUnreachable:
            value = {}
        code, message = value.get("code"), value.get("message")
        if not (isinstance(code, str) and isinstance(message, str)):
            return StoreUnreachable(
                f"{self.url}: expected an answer of a store, found status {answer.status}"
                f" at {path.partition('?')[0]}"
            )
        if answer.status == 409 and "conflicts" in value:
            return Conflict(message, tuple(value["conflicts"] or ()))
        if code == ThresholdNotReached.code:
            threshold, found = _integer(value, "threshold"), _integer(value, "found")
            return ThresholdNotReached(message, threshold or 0, found or 0)
        if code == EpochMoved.code:
            return EpochMoved(message, _integer(value, "epoch") or 0)
        return _leaf(code, answer.status)(message)

    def _not_a_store(self, expected: str) -> StoreUnreachable:
        return StoreUnreachable(f"{self.url}: expected {expected}, found other bytes")

    def _unreachable(self, error: Exception) -> StoreUnreachable:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return StoreUnreachable(
            f"{self.url}: expected a store, found {(what or type(error).__name__).lower()};"
            " start it with 'control-plane store', or name another with --store"
        )


def _requests(blobs: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The blobs in order, in lists that fit in one request."""
    together: list[bytes] = []
    size = 0
    for data in blobs:
        full = len(together) >= MAX_BLOBS_A_REQUEST or size + len(data) > BLOB_BYTES_A_REQUEST
        if together and full:
            yield together
            together, size = [], 0
        together.append(data)
        size += len(data)
    if together:
        yield together


def _leaf(code: str, status: int) -> type[ControlPlaneError]:
    """The error class a refusal's code names; by status where a newer store has a newer code."""
    for name in dir(errors):
        found = getattr(errors, name)
        if (
            isinstance(found, type)
            and issubclass(found, ControlPlaneError)
            and found.__dict__.get("code") == code
        ):
            return found
    if status in (401, 403):
        return TokenRefused
    if status in (404, 410):
        return NotFound
    return StoreUnreachable if status >= 500 else Refused


def _is_followed(value: object) -> bool:
    """Whether an unpacked answer has the fields that readers take from it; a part has a proof."""
    if not isinstance(value, dict) or value.get("format") != 1:
        return False
    blobs, proof = value.get("blobs"), value.get("proof", [])
    return (
        type(value.get("first")) is int
        and isinstance(value.get("checkpoint"), bytes)
        and _all(value.get("entries"), bytes)
        and isinstance(blobs, dict)
        and _all(list(blobs), str)
        and _all(list(blobs.values()), bytes)
        and _all(proof, bytes)
        and (not value.get("more") or "proof" in value)
    )


def _all(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _printed(head: Mapping[str, Any]) -> str:
    """A head's key as it prints: ``flag/x``, ``agent/a v/1.0.0``."""
    return f"{head['kind']}/{head['name']} {head['part']}".rstrip()


def _integer(value: Mapping[str, Any], name: str) -> int | None:
    found = value.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
