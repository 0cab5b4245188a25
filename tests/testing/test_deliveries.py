"""Watches that fire when the test says so: here, now, once per generation that changed a value."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from control_plane import ConfigManager
from control_plane.configs.watch import Change
from control_plane.testing import replica


def test_delivery_calls_once_per_changing_generation_in_order_in_this_thread() -> None:
    heard: list[tuple[Any, Any, int, int]] = []

    def callback(change: Change) -> None:
        heard.append((change.old, change.new, change.generation, threading.get_ident()))

    with replica(config={"n": {"v": 1, "w": 0}}, watch_thread=False) as kit:
        kit.config.watch("n.v", callback)
        threads = threading.active_count()
        for value in (2, 2, 3):
            kit.set_config("n", {"v": value, "w": value})
        kit.set_flag("x", True)
        assert (heard, threading.active_count()) == ([], threads)
        delivered = kit.deliver()
        here = threading.get_ident()
        assert heard == [(1, 2, 2, here), (2, 3, 4, here)]
        assert [(change.key, change.generation) for change in delivered] == [("n.v", 2), ("n.v", 4)]
        assert (kit.deliver(), len(heard)) == ([], 2)


def test_every_manager_of_the_client_is_reached_in_the_order_of_generations() -> None:
    heard: list[tuple[str, int]] = []
    with replica(config={"n": {"v": 1}}, watch_thread=False) as kit, ConfigManager(kit) as own:
        own.watch("n", lambda change: heard.append(("own", change.generation)))
        kit.config.watch("n.v", lambda change: heard.append(("kit", change.generation)), "acme")
        kit.set_config("n", {"v": 2})
        kit.set_config("n", {"v": 3})
        kit.deliver()
        assert sorted(heard[:2]) == [("kit", 2), ("own", 2)]
        assert sorted(heard[2:]) == [("kit", 3), ("own", 3)]


def test_a_watch_hears_nothing_from_before_it_was_made_or_after_it_was_closed() -> None:
    heard: list[Change] = []
    with replica(config={"n": {"v": 1}}, watch_thread=False) as kit:
        kit.set_config("n", {"v": 2})
        watch = kit.config.watch("n.v", heard.append)
        assert kit.deliver() == []
        kit.set_config("n", {"v": 3})
        watch.close()
        assert (kit.deliver(), heard) == ([], [])


def test_a_change_that_a_callback_publishes_is_delivered_too() -> None:
    with replica(config={"n": {"v": 1}}, watch_thread=False) as kit:

        def callback(change: Change) -> None:
            if change.new < 3:
                kit.set_config("n", {"v": change.new + 1})

        kit.config.watch("n.v", callback)
        kit.set_config("n", {"v": 2})
        assert [change.new for change in kit.deliver()] == [2, 3]


def test_what_a_callback_raises_comes_out_and_the_next_call_goes_on() -> None:
    heard: list[int] = []

    def callback(change: Change) -> None:
        heard.append(change.new)
        if change.new == 2:
            raise LookupError("boom")

    with replica(config={"n": {"v": 1}}, watch_thread=False) as kit:
        kit.config.watch("n.v", callback)
        for value in (2, 3):
            kit.set_config("n", {"v": value})
        with pytest.raises(LookupError, match="boom"):
            kit.deliver()
        assert [change.new for change in kit.deliver()] == [3]
        assert heard == [2, 3]


async def test_what_iterates_over_changes_is_fed_by_a_delivery() -> None:
    with replica(config={"n": {"v": 1}}, watch_thread=False) as kit:
        async with kit.config.changes("n.v") as changes:
            for value in (2, 2, 3):
                kit.set_config("n", {"v": value})
            threads = threading.active_count()
            kit.deliver()
            heard = [await asyncio.wait_for(anext(changes), 10) for _ in range(2)]
        assert [(each.new, each.generation) for each in heard] == [(2, 2), (3, 4)]
        assert threading.active_count() == threads


def test_one_generation_of_several_changes_is_one_delivery() -> None:
    with replica(config={"a": {"v": 1}, "b": {"v": 1}}, watch_thread=False) as kit:
        kit.config.watch("a", lambda change: None)
        kit.config.watch("b.v", lambda change: None)
        with kit.one_generation() as generation:
            kit.set_config("a", {"v": 2})
            kit.set_config("a", {"v": 3})
            kit.set_config("b", None)
        delivered = {change.key: (change.new, change.generation) for change in kit.deliver()}
        assert delivered == {"a": ({"v": 3}, generation), "b.v": (None, generation)}


def test_a_kit_whose_watches_have_a_thread_says_how_to_make_one_without() -> None:
    with replica() as kit, pytest.raises(RuntimeError, match=r"make it with watch_thread=False$"):
        kit.deliver()
