"""Who may ask over TCP, decided by the tokens of one file.

- The file has a token a line; empty lines and those that begin with ``#`` are none. Several are in
  force at once, so that one can be replaced without a moment in which neither is.
- It is read again when it is another file or has another time or size, looked at once a second:
  a token that is gone is refused from then on. A file that cannot be read, or has no token in it,
  leaves those in force that were, with one line in the log.
- Only SHA-256 digests are kept and compared, each presented token with all of them in constant
  time. No message has a token in it.
"""

from __future__ import annotations

import hmac
import logging
import os
from hashlib import sha256
from pathlib import Path
from typing import Final

from control_plane.errors import InputInvalid, NotFound

MIN_TOKEN_CHARACTERS: Final = 16
MAX_TOKENS: Final = 64
MAX_FILE_BYTES: Final = 64 << 10

_log = logging.getLogger("control_plane.sidecar")

Stamp = tuple[int, int, int, int]


def tokens_of(text: bytes) -> tuple[bytes, ...]:
    """The digests of a file's tokens.

    Raises:
        InputInvalid: there is none, too many, or one that is too short or no token.
    """
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith(b"#")]
    if not 1 <= len(found) <= MAX_TOKENS:
        raise InputInvalid(f"expected 1 to {MAX_TOKENS} tokens, found {len(found)}")
    for line in found:
        if len(line) < MIN_TOKEN_CHARACTERS or not all(0x21 <= byte <= 0x7E for byte in line):
            raise InputInvalid(
                f"expected tokens of at least {MIN_TOKEN_CHARACTERS} visible ASCII characters,"
                " found another"
            )
    return tuple(sha256(line).digest() for line in found)


class Tokens:
    """The tokens in force, of one file."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            NotFound: it cannot be read.
            InputInvalid: as `tokens_of`.
        """
        self._path = path
        self._complained = ""
        try:
            self._stamp, self._digests = _read(path)
        except OSError as error:
            reason = (error.strerror or "nothing").lower()
            raise NotFound(f"{path}: expected a readable token file, found {reason}") from error
        except InputInvalid as error:
            raise InputInvalid(f"{path}: {error}") from error

    def refresh(self) -> None:
        """Take over what the file has become; on any fault what was in force stays."""
        try:
            if _stamp(os.stat(self._path)) == self._stamp:  # noqa: PTH116
                return
            self._stamp, self._digests = _read(self._path)
            self._complained = ""
        except (OSError, InputInvalid) as error:
            if str(error) != self._complained:
                self._complained = str(error)
                _log.warning("%s: %s; the tokens read before stay in force", self._path, error)

    def holder(self, presented: str | None) -> str | None:
        """A name for who presents this token, the same for all who do; None for no token."""
        if presented is None:
            return None
        digest = sha256(presented.encode("utf-8", "surrogateescape")).digest()
        held = False
        for each in self._digests:
            held |= hmac.compare_digest(digest, each)
        return digest.hex() if held else None


def presented_of(authorization: str | None, api_key: str | None) -> str | None:
    """The token that a request's ``Authorization: Bearer`` and ``X-API-Key`` headers present.

    Either will do; two that differ are none, as one of them is wrong.
    """
    if authorization is None:
        return api_key
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or api_key not in (None, token):
        return None
    return token


def _read(path: Path) -> tuple[Stamp, tuple[bytes, ...]]:
    with path.open("rb") as file:
        stamp = _stamp(os.fstat(file.fileno()))
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InputInvalid(f"expected at most {MAX_FILE_BYTES} bytes, found more")
    return stamp, tokens_of(data)


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
