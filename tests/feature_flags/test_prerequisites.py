"""Flags that ask for other flags: ``$flag``."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from control_plane.errors import ReplicaBusy
from control_plane.feature_flags.table import Table
from control_plane.replica.reader import Replica
from control_plane.testing import replica

ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


def asking(*names: str, variant: str = "on", default: str = "off") -> dict[str, Any]:
    when = {"$flag": dict.fromkeys(names, variant)}
    return {**ON_OFF, "default": default, "rules": [{"name": "r", "when": when, "serve": "on"}]}


def test_a_rule_holds_while_the_other_flag_serves_that_variant_to_the_same_caller() -> None:
    tenants = {"name": "acme", "when": {"tenant_id": "acme"}, "serve": "on"}
    with replica(flags={"base": {**ON_OFF, "rules": [tenants]}, "new": asking("base")}) as client:
        assert client.is_enabled("new", tenant_id="acme")
        assert not client.is_enabled("new", tenant_id="other")
        assert client.is_enabled("new", context={"tenant_id": "acme"})
        assert client.evaluate("new", False, tenant_id="acme").rule == "r"


def test_the_very_next_call_sees_another_flag_changed_killed_and_gone() -> None:
    with replica(flags={"base": True, "new": asking("base")}) as client:
        handle = client.flags.flag("new")
        assert client.is_enabled("new")
        assert handle()
        client.kill("base")
        assert not client.is_enabled("new")
        assert not handle()
        client.unkill("base")
        assert client.is_enabled("new")
        assert handle()
        client.set_flag("base", None)
        assert not client.is_enabled("new")
        assert not handle()
        assert client.evaluate("new", True).reason == "DEFAULT"


def test_a_flag_that_serves_no_variant_is_none_of_those_asked_for() -> None:
    flags = {"new": asking("missing"), "not": {**ON_OFF, "rules": [
        {"name": "r", "when": {"$not": {"$flag": {"missing": "on"}}}, "serve": "on"}]}}  # fmt: skip
    with replica(flags=flags) as client:
        assert not client.is_enabled("new")
        assert client.is_enabled("not")


def test_several_flags_and_several_variants_may_be_asked_for() -> None:
    colour = {"variants": {"r": "red", "g": "green", "b": "blue"}, "default": "g", "disabled": "r"}
    when = {"$flag": {"colour": ["g", "b"], "base": "on"}}
    new = {**ON_OFF, "rules": [{"name": "r", "when": when, "serve": "on"}]}
    with replica(flags={"colour": colour, "base": True, "new": new}) as client:
        assert client.is_enabled("new")
        client.set_flag("base", False)
        assert not client.is_enabled("new")
        client.set_flag("base", True)
        client.kill("colour")
        assert not client.is_enabled("new")


@pytest.mark.parametrize("ring", [["a"], ["a", "b"], ["a", "b", "c", "d"]])
def test_flags_that_ask_in_a_ring_give_the_callers_default(ring: list[str]) -> None:
    flags = {
        name: asking(ring[(index + 1) % len(ring)], default="on") for index, name in enumerate(ring)
    }
    # As no publisher lets it through, the ring stands in the replica by two honest steps.
    with replica(flags={**dict.fromkeys(ring, True), "outside": asking(ring[0])}) as client:
        for name in ring:
            client.set_flag(name, flags[name])
        for name in [*ring, "outside"]:
            for default in (True, False):
                assert client.is_enabled(name, default=default) is default
            found = client.evaluate(name, False)
            assert (found.reason, found.error_code) == ("ERROR", "GENERAL")


def test_a_chain_of_flags_is_followed_to_its_end() -> None:
    flags: dict[str, Any] = {"f0": True}
    flags |= {f"f{number}": asking(f"f{number - 1}") for number in range(1, 60)}
    with replica(flags=flags) as client:
        assert client.is_enabled("f59")
        client.set_flag("f0", False)
        assert not client.is_enabled("f59")


def test_a_chain_without_bound_gives_the_callers_default() -> None:
    flags: dict[str, Any] = {"f0": True}
    flags |= {f"f{number}": asking(f"f{number - 1}") for number in range(1, 200)}
    with replica(flags=flags) as client:
        assert client.evaluate("f199", True).error_code == "GENERAL"
        assert client.is_enabled("f40")


def test_a_writer_that_outruns_every_read_costs_nobody_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    get, numbers = Replica.get, itertools.count(1_000)

    def moving(replica: Replica, key: bytes) -> tuple[int, bytes | None]:
        return next(numbers), get(replica, key)[1]

    with replica(flags={"base": True, "new": asking("base")}) as client:
        # Each read is of another transaction than the one before it, for ever.
        monkeypatch.setattr(Replica, "get", moving)
        handle = client.flags.flag("new")
        for _ in range(2):
            assert client.is_enabled("new")
            assert handle()
            assert client.flags.value("new", None) is True
            assert client.flags.variant("new") == "on"
            assert client.evaluate("new", False).rule == "r"
        assert next(numbers) > 1_000


def test_flags_that_share_what_they_ask_for_are_asked_once_each() -> None:
    """Two flags a storey, each asking both below it: 2^40 ways down and 80 flags."""
    flags: dict[str, Any] = {"a0": True, "b0": True}
    for number in range(1, 40):
        below = asking(f"a{number - 1}", f"b{number - 1}")
        flags |= {f"a{number}": below, f"b{number}": below}
    with replica(flags=flags) as client:
        assert client.is_enabled("a39")
        assert client.flags.explain("a39").evaluation.value is True
        client.set_flag("b0", False)
        assert not client.is_enabled("a39")


def test_a_chain_that_asks_its_next_link_by_two_rules_is_asked_once_each() -> None:
    def twice(name: str) -> dict[str, Any]:
        rules = [
            {"name": variant, "when": {"$flag": {name: variant}}, "serve": "on"}
            for variant in ("off", "on")
        ]
        return {**ON_OFF, "rules": rules}

    flags: dict[str, Any] = {"f0": True}
    flags |= {f"f{number}": twice(f"f{number - 1}") for number in range(1, 50)}
    with replica(flags=flags) as client:
        assert client.is_enabled("f49")


def test_a_flag_whose_records_cannot_be_read_now_gives_the_callers_default() -> None:
    with replica(flags={"base": True, "new": asking("base"), "newer": asking("new")}) as client:
        flags = client.flags
        assert flags.is_enabled("newer")
        table = flags._table

        def busy(*keys: bytes) -> Any:
            raise ReplicaBusy("expected a snapshot, found the writer moving")

        flags._table = Table(flags._library, busy, table.word, table.seen)
        for name in ("new", "newer"):
            assert flags.is_enabled(name, default=True)
            assert not flags.flag(name)()
            found = flags.evaluate(name, True)
            assert (found.value, found.error_code) == (True, "GENERAL")
        flags.refresh()
        assert flags.is_enabled("newer")


def test_two_flags_flipped_together_are_never_seen_apart() -> None:
    """``new`` is on exactly when ``base`` is, by a rule and by its default, flipped as one."""
    inverse = {"base": False, "new": asking("base", variant="off", default="off")}
    with replica(flags={"base": True, "new": asking("base")}) as client:
        wrong: list[str] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                # In each generation the one asked for is what base serves: always true.
                if client.is_enabled("new") is not True:
                    wrong.append("mixed")
                with client.pinned() as view:
                    if not view.is_enabled("new"):
                        wrong.append("mixed in a view")

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(60):
            flags = inverse if number % 2 == 0 else {"base": True, "new": asking("base")}
            client.set_flags(flags)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
