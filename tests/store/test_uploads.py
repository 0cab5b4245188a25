"""Many blobs in one request: all of them are kept, or none."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import ChecksumMismatch, SyntaxInvalid
from control_plane.log.canonical import sha256_hex
from control_plane_store import uploads
from control_plane_store.database import Database
from control_plane_store.uploads import MAX_BLOBS_A_REQUEST, read_blobs

PATH = "/v1/production/blobs"
GOOD = [b"one", b"two", b"", b"\x00" * 100_000]


def packed(*blobs: bytes) -> bytes:
    body: bytes = msgpack.packb({sha256_hex(data): data for data in blobs})
    return body


async def held(served: Any, *blobs: bytes) -> list[bool]:
    """Which of these the environment was given."""
    paths = [f"/v1/production/blob/sha256/{sha256_hex(data)}" for data in blobs]
    answers = [await served.request("GET", path) for path in paths]
    return [answer.status == 200 and answer.body == data
            for answer, data in zip(answers, blobs, strict=True)]  # fmt: skip


async def test_blobs_of_one_request_are_all_kept(served: Any) -> None:
    await served.put_blob(b"two")
    answer = await served.request("POST", PATH, packed(*GOOD))
    assert (answer.status, answer.body) == (201, {"format": 1, "count": len(GOOD)})
    assert await held(served, *GOOD) == [True] * len(GOOD)


async def test_the_same_request_again_has_the_same_answer(served: Any) -> None:
    first = await served.request("POST", PATH, packed(*GOOD))
    again = await served.request("POST", PATH, packed(*GOOD))
    assert (again.status, again.body) == (first.status, first.body)
    assert await held(served, *GOOD) == [True] * len(GOOD)


async def test_a_blob_another_environment_has_is_given_to_this_one(served: Any) -> None:
    await served.put_blob(b"one", "staging")
    assert await held(served, b"one") == [False]
    assert (await served.request("POST", PATH, packed(b"one"))).status == 201
    assert await held(served, b"one") == [True]


async def test_the_bytes_of_a_forgotten_blob_come_back(served: Any, database: Database) -> None:
    await served.put_blob(b"one")
    with database.write() as transaction:
        transaction.forget_blob(sha256_hex(b"one"))
    assert await held(served, b"one") == [False]
    assert (await served.request("POST", PATH, packed(b"one", b"two"))).status == 201
    assert await held(served, b"one", b"two") == [True, True]


async def test_one_wrong_digest_refuses_them_all(served: Any) -> None:
    body = msgpack.packb({sha256_hex(b"one"): b"one", "0" * 64: b"other"})
    answer = await served.request("POST", PATH, body)
    assert (answer.status, answer.body["code"]) == (400, "checksum_mismatch")
    assert await held(served, b"one", b"other") == [False, False]


DIGEST = sha256_hex(b"one")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80",
        b"\xc1",
        packed(b"one")[:-1],
        packed(b"one") + b"\x00",
        msgpack.packb([DIGEST]),
        msgpack.packb({DIGEST: "one"}),
        msgpack.packb({DIGEST: None}),
        msgpack.packb({DIGEST: {DIGEST: b"one"}}),
        msgpack.packb({DIGEST.encode(): b"one"}),
        msgpack.packb({DIGEST.upper(): b"one"}),
        msgpack.packb({"x": b"one"}),
        msgpack.packb({1: b"one"}),
        msgpack.packb({DIGEST: msgpack.ExtType(1, b"one")}),
        b"\x82" + 2 * packed(b"one")[1:],
        b"\x81" * 100_000,
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xdb\xff\xff\xff\xff",
    ],
)
async def test_a_body_of_another_form_is_refused_and_leaves_nothing(
    served: Any, body: bytes
) -> None:
    answer = await served.request("POST", PATH, body)
    assert (answer.status, answer.body["code"]) == (400, "syntax_invalid")
    assert await held(served, b"one") == [False]


async def test_more_blobs_than_a_transaction_should_take_are_refused(served: Any) -> None:
    many = [b"%d" % number for number in range(MAX_BLOBS_A_REQUEST + 1)]
    answer = await served.request("POST", PATH, packed(*many))
    assert (answer.status, answer.body["code"]) == (400, "syntax_invalid")
    assert f"at most {MAX_BLOBS_A_REQUEST} blobs" in answer.body["message"]
    assert await held(served, *many[:2]) == [False, False]
    assert (await served.request("POST", PATH, packed(*many[1:]))).status == 201


async def test_a_body_past_its_bound_is_refused_unread(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_store.service.MAX_REQUEST_BYTES", 1_000)
    answer = await served.request("POST", PATH, packed(b"one", bytes(1_000)))
    assert (answer.status, answer.body["code"]) == (413, "too_large")
    assert await held(served, b"one") == [False]


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("follow", 403)])
async def test_only_who_may_submit_may_send_blobs(
    served: Any, token: str | None, status: int
) -> None:
    answer = await served.request("POST", PATH, packed(b"one"), token=token)
    assert answer.status == status
    assert await held(served, b"one") == [False]


async def test_blobs_of_one_request_are_durable_together(
    served: Any, database: Database, tmp_path: Path
) -> None:
    assert (await served.request("POST", PATH, packed(*GOOD))).status == 201
    # What a killed process leaves: the file and its write-ahead log as they are now.
    for suffix in ("", "-wal"):
        shutil.copy(f"{database.path}{suffix}", tmp_path / f"left.sqlite3{suffix}")
    left = Database.open(tmp_path / "left.sqlite3")
    with left.read() as snapshot:
        found = [snapshot.blob("production", sha256_hex(data)) for data in GOOD]
    left.close()
    assert found == GOOD


@given(st.binary(max_size=200) | st.dictionaries(st.text(), st.binary()).map(msgpack.packb))
def test_any_bytes_are_blobs_or_refused_in_form(body: bytes) -> None:
    blobs: dict[str, bytes] = {}
    with contextlib.suppress(SyntaxInvalid, ChecksumMismatch):
        blobs = read_blobs(body, "production")
    assert blobs == {sha256_hex(data): data for data in blobs.values()}


@given(st.sets(st.binary(max_size=50), min_size=1, max_size=uploads.MAX_BLOBS_A_REQUEST))
def test_what_a_client_packs_is_read_back(blobs: set[bytes]) -> None:
    assert set(read_blobs(packed(*blobs), "production").values()) == blobs
