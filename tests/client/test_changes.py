"""Changes as an asynchronous iterator: no thread for each, and nothing left when it ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from control_plane.configs import changes as changes_module
from control_plane.configs.watch import Change

WAIT_SECONDS = 10


async def taken(changes: Any) -> Change:
    async with asyncio.timeout(WAIT_SECONDS):
        return await anext(changes)


def watching_threads() -> int:
    return sum(thread.name == "control-plane-watch" for thread in threading.enumerate())


def live_watches(config: Any) -> int:
    groups = config._watcher._groups.values()
    return sum(not watch.closed for group in groups for watch in group.watches)


async def test_changes_come_in_order_from_the_call_on(stocked: Any) -> None:
    config = stocked.client().config
    changes = config.changes("database.url")
    generations = [stocked.config("database", {"url": "u1"})]
    assert (await taken(changes)).new == "u1"
    generations.append(stocked.config("database", {"url": "u2"}))
    change = await taken(changes)
    assert (change.old, change.new, change.generation) == ("u1", "u2", generations[1])
    await changes.aclose()


async def test_all_iterators_of_a_manager_share_one_thread(stocked: Any) -> None:
    config = stocked.client().config
    all_changes = [config.changes("database.url") for _ in range(20)]
    stocked.config("database", {"url": "u1"})
    assert [(await taken(changes)).new for changes in all_changes] == ["u1"] * 20
    assert watching_threads() == 1


async def test_a_loop_that_is_left_ends_its_watch(stocked: Any) -> None:
    config = stocked.client().config
    stocked.config("limits", {"a": 1})
    changes = config.changes("limits.a")
    stocked.config("limits", {"a": 2})
    async for change in changes:
        assert change.new == 2
        break
    assert live_watches(config) == 1
    del changes
    gc.collect()
    assert live_watches(config) == 0


async def test_a_cancelled_consumer_leaves_nothing_and_disturbs_nobody(stocked: Any) -> None:
    config = stocked.client().config

    async def consume() -> None:
        async with config.changes("database.url") as changes:
            async for _ in changes:
                pass

    task = asyncio.create_task(consume())
    other = config.changes("database.url")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert live_watches(config) == 1
    stocked.config("database", {"url": "u1"})
    assert (await taken(other)).new == "u1"


async def test_a_wait_that_times_out_loses_no_change(stocked: Any) -> None:
    changes = stocked.client().config.changes("database.url")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(changes)
    stocked.config("database", {"url": "u1"})
    assert (await taken(changes)).new == "u1"


async def test_a_closed_manager_ends_the_iteration_after_what_waits(stocked: Any) -> None:
    client = stocked.client()
    changes, heard = client.config.changes("database.url"), threading.Event()
    client.config.watch("database.url", lambda _: heard.set())
    stocked.config("database", {"url": "u1"})
    assert heard.wait(WAIT_SECONDS)
    await asyncio.to_thread(client.close)
    assert [change.new async for change in changes] == ["u1"]
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


async def test_what_waits_is_bounded_and_ends_with_the_newest(
    stocked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "MAX_WAITING", 2)
    changes = stocked.client().config.changes("limits.a")
    for number in range(1, 6):
        stocked.config("limits", {"a": number})
        await asyncio.sleep(0.05)
    waiting = [await taken(changes), await taken(changes)]
    assert [(change.old, change.new) for change in waiting] == [(None, 1), (1, 5)]


def test_a_loop_that_is_gone_is_no_error_for_the_others(stocked: Any) -> None:
    config = stocked.client().config

    async def make() -> Any:
        return config.changes("database.url")

    left = asyncio.run(make())
    heard = threading.Event()
    config.watch("database.url", lambda _: heard.set())
    stocked.config("database", {"url": "u1"})
    assert heard.wait(WAIT_SECONDS)
    del left


def test_outside_of_a_loop_it_is_refused_and_nothing_watches(stocked: Any) -> None:
    config = stocked.client().config
    with pytest.raises(RuntimeError, match="no running event loop"):
        config.changes("database.url")
    assert watching_threads() == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_keeps_no_iterator_of_the_parents_loop(
    stocked: Any, in_child: Callable[..., str]
) -> None:
    config = stocked.client().config
    changes = config.changes("database.url")
    assert in_child(lambda: (live_watches(config), watching_threads())) == "(0, 0)"
    stocked.config("database", {"url": "u1"})
    assert (await taken(changes)).new == "u1"
