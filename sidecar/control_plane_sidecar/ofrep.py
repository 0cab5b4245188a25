"""What an evaluation is in the words of the OpenFeature Remote Evaluation Protocol (OFREP) 0.3.

- A request's body is one JSON object whose ``context`` is an object with a ``targetingKey``, a
  string. ``user_id`` or ``tenant_id`` stand in for it, as they do everywhere here. Without any of
  them the answer is TARGETING_KEY_MISSING; other bodies are PARSE_ERROR or INVALID_CONTEXT.
- An answer has key, value, variant and reason. OFREP's reasons lack DEFAULT (no rule matched): it
  is said as UNKNOWN with DEFAULT as ``reason`` in the metadata. A flag that leaves the answer to
  the caller's code has neither value nor variant.
- Of a flag's own metadata the scalars are told, as the protocol allows no others.
- Statuses: 404 for FLAG_NOT_FOUND; 500 without a replica (PROVIDER_NOT_READY), which a client can
  try again; 400 for any other error.
- Bulk: every flag of one generation, those that cannot be evaluated as failures among the others.
  Its ETag is strong: the same generation, request body and (where rules go by the clock) answer.
- A change of flags is one server-sent event, ``refetchEvaluation``.

Bodies are ASCII JSON without white space. Nothing here does I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple, NoReturn

from control_plane.feature_flags.evaluation import (
    DEFAULT,
    FLAG_NOT_FOUND,
    GENERAL,
    INVALID_CONTEXT,
    PARSE_ERROR,
    PROVIDER_NOT_READY,
)

TARGETING_KEY_MISSING: Final = "TARGETING_KEY_MISSING"
UNKNOWN: Final = "UNKNOWN"
EVENTS_PATH: Final = "/ofrep/v1/events"
INACTIVITY_SECONDS: Final = 120
MAX_SECONDS_DIGITS: Final = 16
MAX_KEPT: Final = 4_096

EVENT_STREAMS: Final = [
    {
        "type": "sse",
        "endpoint": {"requestUri": EVENTS_PATH},
        "inactivityDelaySec": INACTIVITY_SECONDS,
    }
]

_STATUSES: Final = {FLAG_NOT_FOUND: 404, PROVIDER_NOT_READY: 500}
_DETAILS: Final = {
    FLAG_NOT_FOUND: "expected a flag, found none",
    PARSE_ERROR: "expected a flag that this version can read, found another",
    PROVIDER_NOT_READY: "expected a replica, found none; start the daemon",
}
_OTHER_DETAIL: Final = "expected an answer, found an error"
_SCALARS: Final = (bool, str, int, float)
_UNITS: Final = ("user_id", "tenant_id")
_BYTES_OF_TAG: Final = 16


class RequestRefused(Exception):
    """A request that asks for nothing that could be evaluated: OFREP's error code and why."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Answer(NamedTuple):
    """One flag's answer; ``variant`` is what was served, None where nothing was."""

    status: int
    body: dict[str, Any]
    variant: str | None


def dumped(body: object) -> bytes:
    """A body's bytes."""
    return _encode(body).encode("ascii")


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"expected a JSON number, found {text}")


_decode = json.JSONDecoder(parse_constant=_no_number).decode


def context_of(body: bytes) -> dict[str, Any]:
    """The evaluation context a request's body gives.

    Raises:
        RequestRefused: there is none; nothing of the body is repeated in it.
    """
    try:
        request = _decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise RequestRefused(PARSE_ERROR, "expected a body of JSON, found another") from error
    context = request.get("context") if request.__class__ is dict else None
    if context.__class__ is not dict:
        raise RequestRefused(INVALID_CONTEXT, "expected an object with a context, found another")
    key = context.get("targetingKey")
    if key.__class__ is str:
        return context
    if key is not None:
        raise RequestRefused(INVALID_CONTEXT, "expected targetingKey as a string, found another")
    if not any(context.get(unit).__class__ in (str, int) for unit in _UNITS):
        raise RequestRefused(
            TARGETING_KEY_MISSING, "expected targetingKey, user_id or tenant_id, found none"
        )
    # JSON's null is the absence of a key.
    context.pop("targetingKey", None)
    return context


def answer(key: str, details: tuple[Any, ...], told: Mapping[str, Any]) -> Answer:
    """The answer for one flag, of what ``FeatureFlagManager.decided`` found."""
    value, variant, reason, _, error, _ = details
    if error is not None:
        return Answer(_STATUSES.get(error, 400), failure(error, key=key), None)
    body: dict[str, Any] = {"key": key, "reason": reason}
    metadata = {name: told[name] for name in told if isinstance(told[name], _SCALARS)}
    if reason == DEFAULT:
        body["reason"] = UNKNOWN
        metadata.setdefault("reason", DEFAULT)
    if variant is not None:
        body["value"] = value
        body["variant"] = variant
    if metadata:
        body["metadata"] = metadata
    return Answer(200, body, variant)


class Answered(NamedTuple):
    """An answer's bytes, with what they were made of."""

    value: Any
    told: Mapping[str, Any]
    status: int
    body: bytes
    variant: str | None


class Bodies:
    """Answers as bytes, kept: most are given again and again.

    A kept one is given only for the very objects it was made of, which never change.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str | None, str], Answered] = {}

    def answer(self, key: str, details: tuple[Any, ...], told: Mapping[str, Any]) -> Answered:
        """As the function `answer`, in bytes."""
        value, variant, reason, _, error, _ = details
        place = (key, variant, reason)
        kept = self._kept.get(place)
        if kept is not None and kept.value is value and kept.told is told:
            return kept
        found = answer(key, details, told)
        answered = Answered(value, told, found.status, dumped(found.body), found.variant)
        if error is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[place] = answered
        return answered


def failure(code: str, details: str | None = None, key: str | None = None) -> dict[str, Any]:
    """The body of an error, of one flag or of a whole request."""
    body: dict[str, Any] = {} if key is None else {"key": key}
    body["errorCode"] = code if code in _KNOWN else GENERAL
    body["errorDetails"] = details or _DETAILS.get(code, _OTHER_DETAIL)
    return body


_KNOWN: Final = frozenset(
    {
        FLAG_NOT_FOUND,
        GENERAL,
        INVALID_CONTEXT,
        PARSE_ERROR,
        PROVIDER_NOT_READY,
        TARGETING_KEY_MISSING,
    }
)


def bulk(answers: Iterable[Answer], generation: int) -> bytes:
    """The body for all flags of one generation."""
    return dumped(
        {
            "flags": [each.body for each in answers],
            "metadata": {"generation": generation},
            "eventStreams": EVENT_STREAMS,
        }
    )


def tag_of(
    environment: str, generation: int, records: bytes, body: bytes, answered: bytes = b""
) -> str:
    """The ETag of a bulk answer to a request's body.

    ``records`` is a digest of the flags; ``answered`` what was answered where time decides, too.
    """
    digest = sha256(b"%s\0%s%d\0%s" % (environment.encode(), records, len(body), body))
    digest.update(answered)
    return f'"{generation}-{digest.hexdigest()[: 2 * _BYTES_OF_TAG]}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether a client that sent this ``If-None-Match`` has what the tag names (RFC 9110, 13.1.2).

    A tag without its quotes, as the protocol's examples have it, is taken for the same; ``*`` is
    for none.
    """
    if if_none_match is None:
        return False
    given = (each.strip().removeprefix("W/").strip('"') for each in if_none_match.split(","))
    return tag.strip('"') in given


def is_moment(text: str) -> bool:
    """Whether text is what ``flagConfigLastModified`` may hold: whole seconds or RFC 3339."""
    if text.isascii() and text.isdigit():
        return len(text) <= MAX_SECONDS_DIGITS
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    return moment.tzinfo is not None and "T" in text.upper()


def refetch(generation: int, modified_seconds: int) -> bytes:
    """The event that tells of changed flags, as bytes of an event stream."""
    data = dumped(
        {
            "type": "refetchEvaluation",
            "etag": str(generation),
            "lastModified": modified_seconds,
        }
    )
    return b"id: %d\nevent: message\ndata: %s\n\n" % (generation, data)
