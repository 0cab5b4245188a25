"""What a node makes of a store's answers: bounded, in form, or no answer at all."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from aiohttp import web

from control_plane.errors import EpochMoved, StoreUnreachable, TokenRefused
from control_plane.log.canonical import sha256_hex
from control_plane_daemon.source import Backoff, StoreSource


@pytest.fixture
async def source(served: Any) -> AsyncIterator[StoreSource]:
    async with StoreSource(served.url, "production", "cpt_secret") as source:
        yield source


async def test_an_answer_becomes_a_batch_and_the_blobs_that_fit_their_digests(
    served: Any, source: StoreSource, log: Any
) -> None:
    log.blobs["0" * 64] = b"not what the digest says"
    followed = await source.follow(1, 0, 0)
    assert followed.batch.leaves == tuple(log.leaves)
    assert set(followed.blobs) == set(log.blobs) - {"0" * 64}
    assert served.asked == ["/v1/production/follow?epoch=1&size=0&wait=0"]


async def test_the_token_is_sent(served: Any, source: StoreSource) -> None:
    seen: list[str] = []

    def refuse(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(status=401)

    served.follow = refuse
    with pytest.raises(TokenRefused, match="expected a token that may follow production"):
        await source.follow(1, 0, 0)
    assert seen == ["Bearer cpt_secret"]


JUNK = {
    "other bytes": b"\xc1",
    "another mapping": msgpack.packb({"format": 2}),
    "a list": msgpack.packb([1]),
    "nested too deep": b"\x91" * 100_000,
    "cut off": msgpack.packb({"format": 1, "epoch": 1})[:-1],
}


@pytest.mark.parametrize("name", JUNK)
async def test_an_answer_out_of_form_is_no_answer(
    served: Any, source: StoreSource, name: str
) -> None:
    served.follow = lambda request: web.Response(body=JUNK[name])
    with pytest.raises(StoreUnreachable):
        await source.follow(1, 0, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"entries": "x"}, {"entries": [1]}, {"first": True}, {"checkpoint": "text"},
        {"blobs": []}, {"more": 1}, {"more": True}, {"more": True, "proof": [1]}, {"epoch": 2},
        {"more": True, "proof": [], "entries": []},
    ],
)  # fmt: skip
async def test_a_field_of_another_type_is_no_answer(
    served: Any, source: StoreSource, changed: dict[str, Any]
) -> None:
    served.follow = lambda request: web.Response(body=served.packed(0, **changed))
    with pytest.raises(StoreUnreachable):
        await source.follow(1, 0, 0)


async def test_an_answer_larger_than_its_bound_is_cut_off(served: Any, source: StoreSource) -> None:
    served.follow = lambda request: web.Response(body=b"\0" * (10 << 20))
    with pytest.raises(StoreUnreachable, match="expected at most"):
        await source.follow(1, 0, 0)


async def test_a_compressed_answer_is_not_unpacked(served: Any, source: StoreSource) -> None:
    packed = gzip.compress(bytes(8 << 20))
    encoded = {"Content-Encoding": "gzip"}
    served.blob = lambda request: web.Response(body=packed, headers=encoded)
    fetched = await source.fetch(1, [sha256_hex(packed)], 0.3)
    assert fetched.found == {sha256_hex(packed): packed}


async def test_a_redirect_is_not_followed(served: Any, source: StoreSource) -> None:
    served.follow = lambda request: web.Response(status=302, headers={"Location": served.url})
    with pytest.raises(StoreUnreachable, match="found 302"):
        await source.follow(1, 0, 0)
    assert len(served.asked) == 1


async def test_a_moved_epoch_is_named(served: Any, source: StoreSource) -> None:
    served.follow = lambda request: web.json_response({"epoch": 2}, status=410)
    with pytest.raises(EpochMoved) as moved:
        await source.follow(1, 0, 0)
    assert moved.value.epoch == 2


async def test_nobody_listening_is_a_store_out_of_reach(served: Any) -> None:
    async with StoreSource("http://127.0.0.1:1", "production", None) as source:
        with pytest.raises(StoreUnreachable, match="expected a store, found"):
            await source.follow(1, 0, 0)
        with pytest.raises(StoreUnreachable):
            await source.fetch(1, ["0" * 64], 5.0)


async def test_wrong_bytes_are_a_failed_fetch_and_asked_for_again(
    served: Any, source: StoreSource
) -> None:
    data = b"right"
    answers = iter([b"wrong", b"also wrong", data])
    served.blob = lambda request: web.Response(body=next(answers))
    fetched = await source.fetch(1, [sha256_hex(data)], 5.0)
    assert fetched.found == {sha256_hex(data): data}


async def test_a_blob_is_missing_when_the_patience_ends(served: Any, source: StoreSource) -> None:
    served.blob = lambda request: web.Response(body=b"wrong")
    fetched = await source.fetch(1, ["0" * 64], 0.3)
    assert "found bytes of" in fetched.missing["0" * 64]
    assert len(served.asked) > 1


async def test_a_superseded_blob_is_gone_at_once(served: Any, source: StoreSource) -> None:
    served.blob = lambda request: web.Response(status=410)
    fetched = await source.fetch(1, ["0" * 64], 5.0)
    assert (fetched.gone, fetched.missing) == ({"0" * 64}, {})
    assert len(served.asked) == 1


async def test_at_most_sixteen_blobs_are_asked_for_at_once(
    served: Any, source: StoreSource, log: Any
) -> None:
    digests = [log.keep(bytes([number])) for number in range(40)]
    running, most = 0, 0
    answer = served.answer_blob

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return await answer(request)

    served.answer_blob = slow
    fetched = await source.fetch(1, digests, 5.0)
    assert len(fetched.found) == 40
    assert most <= 16


def test_waits_double_up_to_half_a_minute_and_are_spread() -> None:
    backoff = Backoff(lambda: 1.0)
    waits = [backoff.next_seconds() for _ in range(11)]
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits[-1] == 30.0
    backoff.reset()
    assert backoff.next_seconds() == 0.1
    assert Backoff(lambda: 0.0).next_seconds() == 0.05
