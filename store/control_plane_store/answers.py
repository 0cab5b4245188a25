"""How the store says no: one table from error classes to HTTP statuses, one form of body.

The body is ``{"format": 1, "code": …, "message": …}`` and, where a program needs more than the
code, the error's own values. The message is the error's line, so that an author reads the same
words as if the check had run at home.
"""

from __future__ import annotations

from collections.abc import Mapping

from control_plane.errors import (
    ChecksumMismatch,
    Conflict,
    ControlPlaneError,
    EpochDiverged,
    EpochMoved,
    InputInvalid,
    NotFound,
    Refused,
    ThresholdNotReached,
    TokenRefused,
    TrustError,
    Unavailable,
)
from control_plane_store.admission import BlobsMissing, NotLive, Republished
from control_plane_store.feed import Superseded
from control_plane_store.tokens import TokenForbidden

FORMAT = 1


class TooLarge(InputInvalid):
    """A body past its bound."""

    code = "too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"request: expected a body of at most {max_bytes} bytes, found more")


# The first class an error is an instance of decides.
_STATUS: tuple[tuple[type[ControlPlaneError], int], ...] = (
    (TokenForbidden, 403),
    (TokenRefused, 401),
    (Superseded, 410),
    (EpochMoved, 410),
    (NotFound, 404),
    (Conflict, 409),
    (Republished, 409),
    (NotLive, 409),
    (BlobsMissing, 409),
    (EpochDiverged, 409),
    (TooLarge, 413),
    (InputInvalid, 400),
    (ChecksumMismatch, 400),
    (Refused, 403),
    (TrustError, 403),
    (Unavailable, 503),
)


def status_of(error: ControlPlaneError) -> int:
    """The HTTP status of an error; 500 for one no request can cause."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def body_of(error: ControlPlaneError) -> dict[str, object]:
    """The JSON body of an error."""
    body: dict[str, object] = {"format": FORMAT, "code": error.code, "message": str(error)}
    if isinstance(error, Conflict):
        body["conflicts"] = list(error.conflicts)
    elif isinstance(error, ThresholdNotReached):
        body |= {"threshold": error.threshold, "found": error.found}
    elif isinstance(error, EpochMoved):
        body["epoch"] = error.epoch
    elif isinstance(error, BlobsMissing):
        body["missing"] = list(error.missing)
    return body


def plain(code: str, message: str, **values: object) -> Mapping[str, object]:
    """The body of a refusal that HTTP itself decides: a path, a method, a size."""
    return {"format": FORMAT, "code": code, "message": message, **values}
