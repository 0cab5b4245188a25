"""Many blobs in one request, so that a large set is neither a request nor a sync for each of them.

What this module decides:

- The body is one msgpack map from digests (64 hex digits, as text) to bytes, and nothing else. It
  names each digest once, one at least and ``MAX_BLOBS_A_REQUEST`` at most: they become durable in
  one transaction, and a kill must not wait long for it.
- Bytes with another digest than theirs refuse the request. Nothing of a refused request is kept.
"""

from __future__ import annotations

from typing import Any

import msgpack

from control_plane.errors import ChecksumMismatch, SyntaxInvalid
from control_plane.log.canonical import sha256_hex
from control_plane.names import DIGEST, MAX_REQUEST_BYTES

MAX_BLOBS_A_REQUEST = 512
DIGEST_CHARACTERS = 64


def read_blobs(data: bytes, environment: str) -> dict[str, bytes]:
    """The blobs of a request by digest; ``environment`` begins the message of a refusal.

    Raises:
        SyntaxInvalid: another form, a digest twice, or too many blobs.
        ChecksumMismatch: bytes with another digest than theirs.
    """
    blobs = dict(_pairs(data, environment))
    for digest, blob in blobs.items():
        if (found := sha256_hex(blob)) != digest:
            raise ChecksumMismatch(f"{environment}: expected blob {digest}, found {found}")
    return blobs


def _pairs(data: bytes, environment: str) -> list[tuple[str, bytes]]:
    try:
        value = msgpack.unpackb(
            data,
            object_pairs_hook=_Pairs,
            max_map_len=MAX_BLOBS_A_REQUEST + 1,
            max_str_len=DIGEST_CHARACTERS,
            max_bin_len=MAX_REQUEST_BYTES,
            max_array_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise _refusal(environment, "another form") from error
    if not isinstance(value, _Pairs) or not all(_is_pair(pair) for pair in value):
        raise _refusal(environment, "another form")
    if not 0 < len(value) <= MAX_BLOBS_A_REQUEST:
        raise _refusal(environment, "more" if value else "none")
    if len({digest for digest, _ in value}) < len(value):
        raise _refusal(environment, "a digest twice")
    return value


class _Pairs(list[tuple[Any, Any]]):
    """A map as it was written: a key that comes twice is still there twice."""


def _is_pair(pair: tuple[Any, Any]) -> bool:
    digest, blob = pair
    return isinstance(digest, str) and bool(DIGEST.fullmatch(digest)) and isinstance(blob, bytes)


def _refusal(environment: str, found: str) -> SyntaxInvalid:
    return SyntaxInvalid(
        f"{environment}: expected a msgpack map of digests to bytes, one blob and at most"
        f" {MAX_BLOBS_A_REQUEST} blobs, found {found}"
    )
