"""What a store client makes of answers, good, bad and absent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from control_plane.errors import (
    ChecksumMismatch,
    Conflict,
    EpochMoved,
    ManifestInvalid,
    NotFound,
    Refused,
    StoreUnreachable,
    ThresholdNotReached,
    TokenRefused,
    TrustError,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.envelope import Envelope
from control_plane.publish.client import BLOB_BYTES_A_REQUEST, StoreClient
from control_plane.publish.publisher import Publisher

Start = Callable[..., Any]
POSITION = {"format": 1, "origin": "x/production/1", "epoch": 1, "heads": [], "next": None}


def test_an_address_nobody_listens_on_is_unreachable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with StoreClient(url) as client, pytest.raises(StoreUnreachable, match="connection refused"):
        client.pending("production")


def test_a_unix_socket_that_is_absent_is_unreachable() -> None:
    with (
        StoreClient("unix:/nowhere/store.sock") as client,
        pytest.raises(StoreUnreachable, match=r"unix:/nowhere/store\.sock: expected a store"),
    ):
        client.pending("production")


def test_many_blobs_go_in_few_requests_and_are_counted(answering: Start) -> None:
    server, counted = answering((201, {"format": 1, "count": 512})), []
    blobs = [b"blob %d" % number for number in range(1200)]
    with StoreClient(server.url) as client:
        client.put_blobs("production", blobs, counted.append)
    assert server.asked == ["POST /v1/production/blobs"] * 3
    assert counted == [512, 1024, 1200]


def test_a_large_blob_goes_alone(answering: Start) -> None:
    server, large = answering((201, {"format": 1})), bytes(BLOB_BYTES_A_REQUEST)
    with StoreClient(server.url) as client:
        client.put_blobs("production", [b"a", large, b"b", b"c"])
    assert server.asked == [
        f"PUT /v1/production/blob/sha256/{sha256_hex(b'a')}",
        f"PUT /v1/production/blob/sha256/{sha256_hex(large)}",
        "POST /v1/production/blobs",
    ]


def test_blobs_that_are_refused_end_the_others(answering: Start) -> None:
    refusal = (401, {"format": 1, "code": "token_refused", "message": "expected a token"})
    server = answering((201, {"format": 1, "count": 512}), refusal)
    with StoreClient(server.url) as client, pytest.raises(TokenRefused):
        client.put_blobs("production", [b"%d" % number for number in range(2000)])
    assert len(server.asked) == 2


@pytest.mark.parametrize("url", ["", "ftp://host", "127.0.0.1:7840", "http://"])
def test_a_url_of_another_form_is_misuse(url: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        StoreClient(url)


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"[]", b'{"a":1,"a":2}', b"\xff"])
@pytest.mark.parametrize("status", [200, 502])
def test_an_answer_that_is_no_stores_is_unreachable(
    answering: Start, status: int, body: bytes
) -> None:
    server = answering((status, body))
    with StoreClient(server.url) as client, pytest.raises(StoreUnreachable):
        client.pending("production")


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("manifest_invalid", 400, ManifestInvalid),
        ("token_refused", 401, TokenRefused),
        ("not_found", 404, NotFound),
        ("a_code_of_tomorrow", 403, TokenRefused),
        ("a_code_of_tomorrow", 409, Refused),
        ("a_code_of_tomorrow", 503, StoreUnreachable),
    ],
)
def test_a_refusal_becomes_the_error_its_code_names(
    answering: Start, code: str, status: int, error: type[Exception]
) -> None:
    server = answering((status, {"format": 1, "code": code, "message": "the store's words"}))
    with StoreClient(server.url) as client, pytest.raises(error, match="the store's words"):
        client.pending("production")


def test_a_conflict_carries_every_stale_key(answering: Start) -> None:
    conflicts = [{"key": "flag/x", "expected": 1, "found": 4}]
    body = {"format": 1, "code": "conflict", "message": "moved", "conflicts": conflicts}
    server = answering((409, body))
    with StoreClient(server.url) as client, pytest.raises(Conflict) as caught:
        client.submit("production", Envelope("t", b"{}"))
    assert caught.value.conflicts == tuple(conflicts)


def test_a_threshold_carries_its_numbers(answering: Start) -> None:
    body = {
        "format": 1,
        "code": "threshold_not_reached",
        "message": "m",
        "threshold": 2,
        "found": 0,
    }
    with (
        StoreClient(answering((403, body)).url) as client,
        pytest.raises(ThresholdNotReached) as caught,
    ):
        client.submit("production", Envelope("t", b"{}"))
    assert (caught.value.threshold, caught.value.found) == (2, 0)


def test_a_kept_connection_that_was_closed_is_opened_again(answering: Start) -> None:
    server = answering((200, POSITION), close_after_each=True)
    with StoreClient(server.url) as client:
        client.position("production")
        client.position("production")
    assert len(server.asked) == 2


def test_heads_are_read_page_by_page(answering: Start) -> None:
    first = {**POSITION, "heads": [{"kind": "flag", "name": "a", "part": ""}], "next": "flag/a"}
    last = {**POSITION, "heads": [{"kind": "flag", "name": "b", "part": ""}]}
    server = answering((200, first), (200, last))
    with StoreClient(server.url) as client:
        assert [head["name"] for head in client.heads("production")["heads"]] == ["a", "b"]
    assert server.asked[1] == "GET /v1/production/heads?after=flag%2Fa"


def test_a_blob_with_other_bytes_is_refused(answering: Start) -> None:
    digest = sha256_hex(b"what was asked for")
    server = answering((200, POSITION), (200, b"something else"))
    with StoreClient(server.url) as client, pytest.raises(ChecksumMismatch, match=digest):
        client.blob("production", digest)


def test_a_store_cannot_turn_staging_into_production(answering: Start, signer: Any) -> None:
    server = answering((200, {**POSITION, "origin": "x/production/1"}))
    with Publisher(server.url, signer) as publisher:
        change = publisher.change("staging", "r")
        change.kill("x")
        with pytest.raises(TrustError, match="staging: expected an origin of it"):
            publisher.submit(change)
    assert server.asked == ["GET /v1/staging/heads?key=kill%2Fx"]


def test_a_store_with_another_origin_than_trusted_gets_no_signature(
    answering: Start, signer: Any
) -> None:
    server = answering((200, POSITION))
    origins = {"production": "ours/production/1"}
    with Publisher(server.url, signer, origins=origins) as publisher:
        change = publisher.change("production", "r")
        change.kill("x")
        with pytest.raises(TrustError, match="expected origin ours/production/1"):
            publisher.submit(change)
    assert not [line for line in server.asked if line.startswith("POST")]


@pytest.mark.parametrize(("body", "epoch"), [({"epoch": 4}, 4), ({}, 0), ({"epoch": "4"}, 0)])
def test_an_epoch_that_moved_on_is_told_with_its_number(
    answering: Start, body: dict[str, object], epoch: int
) -> None:
    refusal = {"format": 1, "code": "epoch_moved", "message": "the log goes on", **body}
    server = answering((410, refusal))
    with StoreClient(server.url) as client, pytest.raises(EpochMoved) as moved:
        client.follow("production", epoch=1, size=9)
    assert moved.value.epoch == epoch
    assert str(moved.value) == "the log goes on"


FOLLOWED: dict[str, object] = {
    "format": 1, "epoch": 1, "checkpoint": b"note", "first": 0, "entries": [b"leaf"],
    "blobs": {"ab": b"blob"}, "more": True, "proof": [b"hash"],
}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"format": 2}, {"format": None}, {"checkpoint": "note"}, {"checkpoint": None},
        {"first": "0"}, {"first": None}, {"first": True}, {"entries": None}, {"entries": ["leaf"]},
        {"entries": {}}, {"blobs": None}, {"blobs": []}, {"blobs": {"ab": "blob"}},
        {"blobs": {1: b"blob"}}, {"proof": ["hash"]}, {"proof": None}, {"proof": b"hash"},
    ],
)  # fmt: skip
def test_a_follow_answer_of_another_shape_is_no_stores(
    answering: Start, other: dict[str, object]
) -> None:
    server = answering((200, msgpack.packb({**FOLLOWED, **other})), (200, msgpack.packb(FOLLOWED)))
    with StoreClient(server.url) as client:
        with pytest.raises(StoreUnreachable, match="expected a follow answer of format 1"):
            client.follow("production", epoch=1, size=0)
        assert client.follow("production", epoch=1, size=0) == FOLLOWED


@pytest.mark.parametrize("name", ["checkpoint", "first", "entries", "blobs", "proof"])
def test_a_follow_answer_without_a_field_is_no_stores(answering: Start, name: str) -> None:
    lacking = {each: value for each, value in FOLLOWED.items() if each != name}
    server = answering((200, msgpack.packb(lacking)))
    with (
        StoreClient(server.url) as client,
        pytest.raises(StoreUnreachable, match="expected a follow answer of format 1"),
    ):
        client.follow("production", epoch=1, size=0)
