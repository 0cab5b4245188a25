"""What followers are given, and that it proves itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from control_plane.errors import Refused
from control_plane.log.canonical import sha256_hex
from control_plane.log.fold import Head
from control_plane.log.statements import Key
from control_plane.log.steps import Accepted, Batch, Position, check_batch, judge
from control_plane_store import feed


def batch_of(answer: dict[str, Any]) -> Batch:
    proof = tuple(answer["proof"]) if answer["more"] else None
    return Batch(answer["first"], tuple(answer["entries"]), answer["checkpoint"], proof)


async def test_a_long_poll_wakes_with_the_change(served: Any) -> None:
    kit = served.installation
    waiting = asyncio.create_task(served.follow(1, wait=20))
    await served.put_blob(kit.flag())
    assert not waiting.done()
    await served.submit(kit.envelope(kit.put(kit.flag())))
    # Half the poll's own end, so that only being woken can answer in time.
    answer = await asyncio.wait_for(waiting, 10)
    assert (answer["first"], len(answer["entries"])) == (1, 1)
    assert answer["blobs"] == {sha256_hex(kit.flag()): kit.flag()}
    assert answer["more"] is False


async def test_a_poll_wakes_with_the_change_though_reading_ahead_for_it_failed(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit, real, failed = served.installation, feed.part, []

    def fails_once(*arguments: Any) -> bytes:
        if not failed:
            failed.append(arguments)
            raise OperationalError("SELECT", {}, OSError("no answer"))
        return real(*arguments)

    waiting = asyncio.create_task(served.follow(1, wait=20))
    await served.put_blob(kit.flag())
    monkeypatch.setattr(feed, "part", fails_once)
    refused = await served.submit(kit.envelope(kit.put(kit.flag())))
    # Sooner than the next renewal, which would wake the poll as well.
    answer = await asyncio.wait_for(waiting, 5)
    assert (refused.status, refused.body["code"]) == (503, "store_failed")
    assert (answer["first"], len(answer["entries"])) == (1, 1)
    again = await served.submit(kit.envelope(kit.put(kit.flag())))
    assert (again.status, again.body["index"]) == (200, 1)


async def test_a_poll_that_waits_for_nothing_ends_with_a_checkpoint(served: Any) -> None:
    answer = await served.follow(1, wait=0)
    assert answer["entries"] == []
    assert answer["checkpoint"].startswith(b"test/production/1\n1\n")


async def test_polls_that_wait_are_answered_when_the_store_stops(served: Any) -> None:
    waiting = asyncio.create_task(served.follow(1, wait=20))
    await asyncio.sleep(0.05)
    await served.store.stop()
    # Sooner than the next renewal, which would wake the poll as well.
    assert (await asyncio.wait_for(waiting, 5))["entries"] == []


async def test_a_change_elsewhere_wakes_nobody_here(served: Any) -> None:
    kit = served.installation
    waiting = asyncio.create_task(served.follow(1, "staging", wait=20))
    await served.publish(kit.flag())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_follower_ahead_gets_the_checkpoint_alone(served: Any) -> None:
    answer = await served.follow(7, wait=20)
    assert (answer["entries"], answer["first"], answer["more"]) == ([], 1, False)


async def test_an_epoch_that_is_not_is_not_found(served: Any) -> None:
    answer = await served.request("GET", "/v1/production/follow?epoch=2&size=0")
    assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_parts_of_a_log_prove_themselves_and_fold_to_the_stores_heads(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = served.installation
    generations: dict[str, int] = {}
    for number in range(20):
        name = f"f{number % 7}"
        data = kit.flag(name, salt=str(number))
        generations[name] = await served.publish(data, generations.get(name))
    monkeypatch.setattr(feed, "MAX_ENTRIES", 4)
    origin, vkeys = "test/production/1", kit.signers["production"].vkeys
    position, policy, parts = Position(origin), None, 0
    heads: dict[Key, Head] = {}
    while True:
        answer = await served.follow(position.size)
        checked = check_batch(position, batch_of(answer), vkeys)
        for offset, leaf in enumerate(checked.leaves):
            verdict = judge(
                position.generation + offset + 1, leaf,
                origin=origin, environment="production", policy=policy,
                heads=heads.get, blobs=answer["blobs"].get,
            )  # fmt: skip
            assert isinstance(verdict, Accepted)
            policy = verdict.policy
            heads |= verdict.heads or {}
        position, parts = checked.position, parts + 1
        if not answer["more"]:
            break
    assert parts == 6
    shown = (await served.standing())["heads"]
    assert {(head["name"], head["generation"], head["digest"]) for head in shown["heads"]} == {
        (key.name, head.generation, head.digest) for key, head in heads.items()
    }


async def test_only_blobs_that_are_still_a_head_are_sent(served: Any) -> None:
    kit = served.installation
    await served.publish(kit.flag())
    await served.publish(kit.flag(default="on"), replaces=2)
    blobs = (await served.follow(1))["blobs"]
    assert list(blobs) == [sha256_hex(kit.flag(default="on"))]


async def test_blobs_that_do_not_fit_are_left_to_be_fetched(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = served.installation
    large = kit.agent("large", system_prompt="s" * 100_000)
    await served.publish(large)
    await served.publish(kit.flag("small"))
    monkeypatch.setattr(feed, "PART_BYTES", 20_000)
    blobs = (await served.follow(1))["blobs"]
    assert list(blobs) == [sha256_hex(kit.flag("small"))]
    fetched = await served.request("GET", f"/production/1/blob/sha256/{sha256_hex(large)}")
    assert fetched.body == large


async def test_a_part_ends_before_the_entry_whose_blobs_do_not_fit(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = served.installation
    manifests = [kit.agent(f"agent-{number}", system_prompt="s" * 6_000) for number in range(7)]
    for data in manifests:
        await served.publish(data)
    monkeypatch.setattr(feed, "PART_BYTES", 40_000)
    monkeypatch.setattr(feed, "_SLICE", 2)
    position, sizes, came = Position("test/production/1"), [], []
    while (answer := await served.follow(position.size))["entries"]:
        position = check_batch(position, batch_of(answer), kit.signers["production"].vkeys).position
        sizes.append(len(answer["entries"]))
        came += answer["blobs"]
        assert answer["more"] == (position.size < 8)
    assert len(sizes) > 1
    assert sum(sizes) == 8
    assert [digest for digest in came if digest in set(map(sha256_hex, manifests))] == [
        sha256_hex(data) for data in manifests
    ]


async def test_a_forgotten_blob_is_gone_and_its_entry_stays(served: Any, database: Any) -> None:
    kit = served.installation
    await served.publish(kit.flag())
    await served.publish(kit.flag(default="on"), replaces=2)
    with database.write() as transaction:
        transaction.forget_blob(sha256_hex(kit.flag()))
    path = f"/v1/production/blob/sha256/{sha256_hex(kit.flag())}"
    answer = await served.request("GET", path)
    assert (answer.status, answer.body["code"]) == (410, "superseded")
    assert len((await served.follow(0))["entries"]) == 3


async def test_a_blob_in_use_is_not_forgotten(served: Any, database: Any) -> None:
    kit = served.installation
    await served.publish(kit.flag())
    for digest in (sha256_hex(kit.flag()), sha256_hex(kit.targets)):
        with pytest.raises(Refused), database.write() as transaction:
            transaction.forget_blob(digest)
    found = await served.request("GET", f"/production/1/blob/sha256/{sha256_hex(kit.flag())}")
    assert found.body == kit.flag()
