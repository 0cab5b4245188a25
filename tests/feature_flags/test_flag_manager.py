"""What applications are promised by the manager, on a real replica written by another process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgpack
import pytest

from control_plane.feature_flags.bucketing import point_of, seed_of
from control_plane.feature_flags.evaluation import Evaluation
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.feature_flags.table import FEW
from control_plane.replica.format import DELETED, FLAG, NO_VALUE, record_key
from control_plane.replica.reader import OPEN

from .conftest import ON_OFF, Node

ON = {**ON_OFF, "default": "on"}
OFF = ON_OFF
COLOURS = {"variants": {"a": "red", "b": "green"}, "default": "a", "disabled": "b"}
PILOT = {
    **ON_OFF,
    "rules": [{"name": "pilot", "when": {"tenant_id": {"in": ["acme"]}}, "serve": "on"}],
}
HALF = {
    **ON_OFF,
    "rules": [
        {
            "name": "half",
            "serve": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}],
        }
    ],
}


def test_a_flag_answers_by_tenant(node: Node) -> None:
    generation = node.put("new_ai_model", PILOT)
    flags = node.manager()
    assert flags.is_enabled("new_ai_model", tenant_id="acme") is True
    assert flags.is_enabled("new_ai_model", tenant_id="other") is False
    found = flags.evaluate("new_ai_model", False, tenant_id="acme")
    assert found == Evaluation(True, "on", "TARGETING_MATCH", None, "pilot", generation)


def test_the_next_call_after_a_commit_sees_it(node: Node) -> None:
    flags, handle = node.manager(), None
    for number in range(20):
        node.put("f", ON if number % 2 else OFF)
        handle = handle or flags.flag("f")
        assert flags.is_enabled("f") is bool(number % 2)
        assert flags.variant("f") == ("on" if number % 2 else "off")
        assert handle() is bool(number % 2)


def test_a_record_that_did_not_change_is_not_compiled_again(node: Node) -> None:
    node.put("f", PILOT)
    flags = node.manager()
    flags.is_enabled("f")
    before = flags._table.enabled["f"]
    node.put("other")
    assert flags.is_enabled("f", tenant_id="acme") is True
    assert flags._table.enabled["f"] is before


def test_a_kill_serves_the_disabled_variant_until_it_is_lifted(node: Node) -> None:
    flags = node.manager()
    node.put("colour", COLOURS, {"variant": None})
    assert flags.value("colour", "none") == "green"
    assert flags.evaluate("colour", "none").reason == "DISABLED"
    node.put("colour", COLOURS, {"variant": "a"})
    assert flags.value("colour", "none") == "red"
    node.put("colour", COLOURS)
    assert flags.evaluate("colour", "none").reason == "STATIC"


@pytest.mark.parametrize(
    ("metadata", "kill"), [(ON, {"variant": "gone"}), (None, {"variant": "x"})]
)
def test_a_kill_that_names_nothing_served_gives_the_default(
    node: Node, metadata: Any, kill: Any
) -> None:
    generation = node.put("f", metadata, kill)
    flags = node.manager()
    assert flags.is_enabled("f", default=True) is True
    assert flags.is_enabled("f") is False
    assert flags.variant("f") is None
    assert flags.evaluate("f", 7) == Evaluation(7, None, "DISABLED", None, None, generation)


def test_a_disabled_flag_serves_its_disabled_variant(node: Node) -> None:
    node.put("f", {**PILOT, "enabled": False})
    assert node.manager().evaluate("f", True, tenant_id="acme").reason == "DISABLED"


def test_overrides_come_before_rules_and_users_before_tenants(node: Node) -> None:
    overrides = {
        "plan": {"pro": "on"},
        "tenant_id": {"acme": "off", "42": "on"},
        "user_id": {"u1": "on"},
    }
    node.put("f", {**PILOT, "overrides": overrides})
    flags = node.manager()
    assert flags.is_enabled("f", "u1", "acme") is True
    assert flags.is_enabled("f", "u2", "acme") is False
    assert flags.is_enabled("f", tenant_id=42) is True
    assert flags.is_enabled("f", tenant_id=42.0) is False  # type: ignore[arg-type]
    assert flags.is_enabled("f", context={"plan": "pro"}) is True
    assert flags.is_enabled("f", context={"tenant_id": "acme", "plan": "pro"}) is False


def test_reasons_are_those_of_openfeature(node: Node) -> None:
    node.commit(node.flag("static", ON), node.flag("rules", PILOT), node.flag("split", HALF))
    flags = node.manager()
    assert flags.evaluate("static", False).reason == "STATIC"
    assert flags.evaluate("rules", False, tenant_id="acme").reason == "TARGETING_MATCH"
    assert flags.evaluate("rules", False).reason == "DEFAULT"
    assert flags.evaluate("split", False, "u1").reason == "SPLIT"
    assert flags.evaluate("split", False).reason == "DEFAULT"
    assert flags.evaluate("absent", 1).error_code == "FLAG_NOT_FOUND"


def test_both_spellings_of_the_targeting_key_come_before_the_ids(node: Node) -> None:
    node.put("f", HALF)
    flags, seed = node.manager(), seed_of("f")
    one = next(u for u in map(str, range(99)) if point_of(u.encode(), seed, 2) == 0)
    two = next(u for u in map(str, range(99)) if point_of(u.encode(), seed, 2) == 1)
    assert flags.is_enabled("f", two, context={"targeting_key": one}) is True
    assert flags.is_enabled("f", two, context={"targetingKey": one}) is True
    assert flags.is_enabled("f", one, two) is True
    assert flags.is_enabled("f", tenant_id=one) is True
    assert flags.is_enabled("f", int(one)) is True


def test_a_percentage_narrows_a_flag_that_is_on(node: Node) -> None:
    node.commit(
        node.flag("on", {**ON, "salt": "s"}), node.flag("off", OFF), node.flag("half", HALF)
    )
    flags = node.manager()
    for user in map(str, range(200)):
        inside = point_of(user.encode(), seed_of("s"), 100_000) < 25_000
        assert flags.is_enabled("on", user, rollout_percentage=25) is inside
        assert flags.is_enabled("on", tenant_id=user, rollout_percentage=25) is inside
        assert flags.is_enabled("on", "t", user, rollout_percentage=100) is True
        assert flags.is_enabled("on", user, rollout_percentage=0) is False
        context = {"targetingKey": user}
        assert flags.is_enabled("on", context=context, rollout_percentage=25) is inside
        assert flags.is_enabled("off", user, rollout_percentage=100) is False
        own = flags.is_enabled("half", user)
        assert flags.is_enabled("half", user, rollout_percentage=1) is own
    assert flags.is_enabled("on", rollout_percentage=100) is False
    assert flags.is_enabled("absent", "u", default=True, rollout_percentage=0) is True


@pytest.mark.parametrize("percentage", [-0.1, 100.1, float("nan")])
def test_a_percentage_out_of_bounds_is_misuse(node: Node, percentage: float) -> None:
    node.put("off")
    for name in ("off", "absent"):
        with pytest.raises(ValueError, match="expected 0 to 100"):
            node.manager().is_enabled(name, "u", rollout_percentage=percentage)


@pytest.mark.parametrize("name", [None, 7, b"f", ["f"]])
def test_a_name_that_is_no_str_is_misuse(node: Node, name: Any) -> None:
    node.put("f")
    flags = node.manager()
    for call in (flags.is_enabled, flags.variant, flags.flag):
        with pytest.raises(TypeError):
            call(name)
    with pytest.raises(TypeError):
        flags.value(name, 1)
    with pytest.raises(TypeError):
        flags.evaluate(name, 1)


def test_typed_getters_convert_numbers_and_refuse_the_rest(node: Node) -> None:
    def of(**variants: Any) -> Any:
        return {"variants": variants, "default": "x", "disabled": "x"}

    node.commit(
        node.flag("whole", of(x=2.0, y=1)),
        node.flag("half", of(x=2.5, y=1)),
        node.flag("text", of(x="t", y="u")),
        node.flag("object", of(x={"a": [1]}, y={})),
        node.flag("array", of(x=[1], y=[])),
        node.flag("bool", {**ON, "default": "on"}),
    )
    flags = node.manager()
    assert (flags.get_int("whole", 0), flags.get_float("whole", 0.0)) == (2, 2.0)
    assert type(flags.get_int("whole", 0)) is int
    assert type(flags.value("whole", 1)) is int
    assert flags.get_int("half", 7) == 7
    assert flags.get_float("half", 0.0) == 2.5
    assert flags.get_str("text", "") == "t"
    assert flags.get_str("whole", "d") == "d"
    assert flags.get_int("bool", 7) == 7
    assert flags.get_bool("whole", True) is True
    assert flags.get_json("object", None) == {"a": [1]}
    assert flags.value("object", {}) == {"a": [1]}
    assert flags.value("object", []) == []
    assert flags.value("array", [2]) == [1]
    assert flags.evaluate("text", 1).error_code == "TYPE_MISMATCH"
    assert flags.is_enabled("text", default=True) is True
    assert flags.value("text", None) == "t"


def test_times_may_be_datetimes_with_an_offset(node: Node) -> None:
    rule = {"name": "new", "when": {"joined": {"after": "2026-01-31T12:00:00Z"}}, "serve": "on"}
    node.put("f", {**OFF, "rules": [rule]})
    node.put("tags", {**OFF, "rules": [{**rule, "when": {"tag": {"in": ["a"]}, **rule["when"]}}]})
    flags = node.manager()
    noon = datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))
    assert not flags.is_enabled("f", context={"joined": noon})
    later = noon + timedelta(seconds=1)
    assert flags.is_enabled("f", context={"joined": later})
    assert not flags.is_enabled("f", context={"joined": later.replace(tzinfo=None)})

    class Unhashable(str):
        __hash__ = None  # type: ignore[assignment]

    # The second evaluation, which is of plain values only.
    assert flags.is_enabled("tags", context={"tag": Unhashable("a"), "joined": later})


def test_what_was_decided_is_told_without_being_counted(node: Node) -> None:
    generation = node.put("f", {**ON, "flag_metadata": {"team": "growth"}})
    flags = FeatureFlagManager(replica=node.root, environment="production", counting=True)
    with flags:
        details, told = flags.decided("f")
        assert details == (True, "on", "STATIC", None, None, generation)
        assert told == {"team": "growth"}
        assert flags.counts() == {}
        for _ in range(3):
            flags.count("f", "on")
        assert flags.counts() == {("f", "on"): 3}


def test_what_a_caller_does_to_a_value_stays_with_the_caller(node: Node) -> None:
    node.put("f", {"variants": {"x": {"a": [1]}, "y": {}}, "default": "x", "disabled": "y"})
    flags = node.manager()
    flags.get_json("f", None)["a"].append(2)
    flags.evaluate("f", {}).value.clear()
    assert flags.get_json("f", None) == {"a": [1]}


def test_a_missing_replica_gives_the_default(tmp_path: Path) -> None:
    with FeatureFlagManager(replica=str(tmp_path), environment="production") as flags:
        assert flags.is_enabled("f", default=True) is True
        assert flags.is_enabled("f", "u", rollout_percentage=50) is False
        assert flags.variant("f", default="x") == "x"
        assert flags.evaluate("f", 3).error_code == "PROVIDER_NOT_READY"
        with flags.pinned() as view:
            assert view.is_enabled("f", default=True) is True


def test_a_replica_that_appears_later_is_picked_up_within_a_second(node: Node) -> None:
    flags = node.manager()
    handle = flags.flag("f")
    assert (flags.is_enabled("f"), handle()) == (False, False)
    node.put("f", ON)
    deadline = time.monotonic() + 3
    while not flags.is_enabled("f") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (flags.is_enabled("f"), handle()) == (True, True)


def test_a_swapped_replica_is_followed(node: Node) -> None:
    node.put("f", OFF)
    flags = node.manager()
    handle = flags.flag("f")
    assert (flags.is_enabled("f"), handle()) == (False, False)
    node.swap(node.flag("f", ON))
    assert (flags.is_enabled("f"), handle()) == (True, True)
    node.put("f", OFF)
    assert (flags.is_enabled("f"), handle()) == (False, False)


def test_a_record_out_of_form_gives_the_default(node: Node) -> None:
    key = record_key(FLAG, "f")
    flags = node.manager()
    for body in (b"\xc1", b"\x90", b"\x81\xa1m\x01", b"\x82\xa1m\x80\xa1k\xc0"):
        node.commit(node.raw(key, body))
        assert flags.is_enabled("f", default=True) is True
        assert flags.evaluate("f", 1).error_code == "PARSE_ERROR"
    node.put("f", ON)
    assert flags.is_enabled("f") is True


def test_a_flag_that_was_deleted_or_never_accepted_gives_the_default(node: Node) -> None:
    key = record_key(FLAG, "f")
    flags = node.manager()
    for record in (node.raw(key, b"", DELETED), node.raw(key, b"", NO_VALUE), node.raw(key, None)):
        node.put("f", ON)
        assert flags.is_enabled("f") is True
        node.commit(record)
        assert flags.is_enabled("f") is False
        assert flags.evaluate("f", 1).error_code == "FLAG_NOT_FOUND"


def test_a_name_is_complained_about_once_in_a_process(
    node: Node, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OPEN, "complained", set())
    node.put("f")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            flags = node.manager()
            flags.is_enabled("absent")
            flags.evaluate("absent", 1)
            node.put("f", ON)
    assert [r.getMessage() for r in caplog.records] == [
        "flag/absent: expected a flag, found no record; the caller's default is served"
    ]


def test_a_name_cannot_forge_a_log_line_or_steer_a_terminal(
    node: Node, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OPEN, "complained", set())
    node.put("f", COLOURS)
    flags = node.manager()
    with caplog.at_level(logging.WARNING):
        for name in ("a\nWARNING root: all is well", "b\x1b[2J", "c\u2028\u202e", "d" * 9_999_999):
            flags.is_enabled(name)
        flags.is_enabled("\ud800")
    lines = [record.getMessage() for record in caplog.records]
    assert [line[:13] for line in lines[:3]] == [
        "flag/a\\nWARNI",
        "flag/b\\x1b[2J",
        "flag/c\\u2028\\",
    ]
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert all(len(name) <= 200 for name in OPEN.complained)


def test_a_process_with_many_flags_unpacks_them_with_msgpack(node: Node) -> None:
    node.put("f")
    flags = node.manager()
    # Two threads may count past the number between them.
    flags._library._decoded = FEW + 1
    assert flags.variant("f") == "off"
    assert flags._library._unpack is msgpack.unpackb


def test_absent_names_do_not_fill_the_memory(node: Node) -> None:
    node.put("f")
    flags = node.manager()
    for number in range(5000):
        flags.is_enabled(f"absent-{number}")
    assert len(flags._table.enabled) <= 4096
    assert flags.is_enabled("f") is False
    assert "f" in flags._table.enabled


@pytest.mark.parametrize("bits", [None, 0, 3])
def test_a_segment_holds_its_members_and_nobody_else(node: Node, bits: int | None) -> None:
    members = [f"user-{number}" for number in range(400)] + ["7"]
    rule = {"name": "beta", "when": {"$segment": "testers"}, "serve": "on"}
    small = [node.members("testers", members)]
    records = small if bits is None else node.shards("testers", bits, members)
    node.commit(node.flag("f", {**ON_OFF, "rules": [rule]}), *records)
    flags = node.manager()
    assert all(flags.is_enabled("f", member) for member in members)
    assert not any(flags.is_enabled("f", f"other-{number}") for number in range(400))
    assert flags.is_enabled("f", 7) is True
    assert flags.is_enabled("f") is False
    assert flags.evaluate("f", False, "user-1").rule == "beta"


def test_a_segment_is_asked_about_the_unit_of_its_rule(node: Node) -> None:
    rule = {"name": "r", "when": {"$segment": "tenants"}, "by": "tenant_id", "serve": "on"}
    node.commit(node.flag("f", {**ON_OFF, "rules": [rule]}), node.members("tenants", ["acme"]))
    assert node.manager().is_enabled("f", "u1", "acme") is True


def test_a_segment_without_a_record_has_no_members_and_a_broken_one_is_an_error(
    node: Node,
) -> None:
    rule = {"name": "r", "when": {"$segment": "s"}, "serve": "on"}
    node.put("f", {**ON_OFF, "rules": [rule]})
    flags = node.manager()
    assert flags.evaluate("f", True, "u").reason == "DEFAULT"
    broken = node.members("s", ["u"])
    node.commit({**broken, "body": broken["body"][:-2]})
    assert flags.evaluate("f", True, "u").error_code == "PARSE_ERROR"
    assert flags.is_enabled("f", "u", default=True) is True
    node.commit(node.members("s", ["u"]))
    assert flags.evaluate("f", False, "u").reason == "TARGETING_MATCH"


def test_a_bound_manager_fills_in_its_caller(node: Node) -> None:
    rule = {"name": "r", "when": {"plan": "pro", "tenant_id": "acme"}, "serve": "on"}
    node.put("f", {**ON_OFF, "rules": [rule]})
    bound = node.manager().bind(tenant_id="acme", plan="pro")
    assert bound.is_enabled("f") is True
    assert bound.variant("f") == "on"
    assert bound.value("f", False) is True
    assert bound.evaluate("f", False).rule == "r"
    assert bound.is_enabled("f", tenant_id="other") is False
    assert bound.is_enabled("f", context={"plan": "free"}) is False
    assert bound.is_enabled("f", context={"region": "eu"}) is True


def test_what_a_call_gives_a_bound_manager_wins_over_what_was_bound(node: Node) -> None:
    rules = [
        {"name": "user", "when": {"user_id": "mine"}, "serve": "on"},
        {"name": "plan", "when": {"plan": "pro"}, "serve": "on"},
    ]
    node.put("checkout", {**ON_OFF, "rules": rules})
    flags = node.manager()
    assert flags.bind(user_id="other").is_enabled("checkout", context={"user_id": "mine"})
    assert not flags.bind(user_id="mine").is_enabled("checkout", context={"user_id": "other"})
    assert flags.bind(user_id="mine").is_enabled("checkout", context={"user_id": None})
    contexts: list[Any] = [{"age": 7}, MappingProxyType({"age": 7}), MappingProxyType({})]
    for context in contexts:
        assert flags.bind(plan="pro").is_enabled("checkout", context=context)
    contexts = [{"plan": "free"}, MappingProxyType({"plan": "free"})]
    for context in contexts:
        assert not flags.bind(plan="pro").is_enabled("checkout", context=context)
    found = flags.bind(plan="pro").evaluate("checkout", True, context=7)  # type: ignore[arg-type]
    assert found.error_code == "INVALID_CONTEXT"


def test_overrides_that_overlap_end_each_by_itself(node: Node) -> None:
    node.commit(node.flag("one", ON_OFF), node.flag("two", ON_OFF))
    flags = node.manager()
    first, second = flags.override({"one": True}), flags.override({"two": True})
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (flags.is_enabled("one"), flags.is_enabled("two")) == (False, True)
    second.__exit__(None, None, None)
    assert (flags.is_enabled("one"), flags.is_enabled("two")) == (False, False)
    with first, flags.override({"one": False}), first:
        assert flags.is_enabled("one")
    assert not flags.is_enabled("one")


def test_overrides_answer_views_and_explanations_without_a_replica(tmp_path: Path) -> None:
    with FeatureFlagManager(replica=tmp_path, environment="production") as flags:
        with flags.override({"checkout": True}):
            assert flags.is_enabled("checkout")
            with flags.pinned() as view:
                assert view.is_enabled("checkout")
            assert flags.explain("checkout").evaluation == flags.evaluate("checkout", None)
            assert set(flags.all_flags()) == {"checkout"}
        with flags.pinned() as view:
            assert not view.is_enabled("checkout")


def test_a_pinned_view_keeps_its_generation(node: Node) -> None:
    node.commit(node.flag("asked", ON), node.flag("later", ON))
    flags = node.manager()
    with flags.pinned() as view:
        assert view.is_enabled("asked") is True
        node.commit(node.flag("asked", OFF), node.flag("later", OFF))
        assert view.is_enabled("asked") is True
        assert view.flag("asked")() is True
        assert view.variant("later") == "on"
        assert (flags.is_enabled("asked"), flags.is_enabled("later")) == (False, False)
    assert view.evaluate("unasked", 1).error_code == "GENERAL"
    assert flags.variant("later") == "off"


def test_a_closed_manager_gives_defaults(node: Node) -> None:
    node.put("f", ON)
    # A path, as its siblings take one.
    flags = FeatureFlagManager(replica=node.root, environment="production")
    handle = flags.flag("f")
    assert (flags.is_enabled("f"), handle()) == (True, True)
    flags.close()
    assert flags.is_enabled("f") is False
    assert flags.evaluate("f", 1).error_code == "PROVIDER_NOT_READY"
    assert handle() is False


def test_a_forked_child_goes_on_reading(node: Node) -> None:
    node.put("f", OFF)
    flags = node.manager()
    assert flags.is_enabled("f") is False
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(10 + flags.is_enabled("f") + 2 * flags.is_enabled("g"))
    node.commit(node.flag("f", ON), node.flag("g", ON))
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13
    os.close(read)
    os.close(write)


COMMITS = 4000


def test_threads_never_see_a_stale_or_a_mixed_answer(node: Node) -> None:
    """Each commit counts a flag's value up by one and moves u to the other of two segments."""
    either = {
        "variants": {"s": "s", "t": "t", "neither": "neither"},
        "default": "neither",  # only an answer that mixes two commits
        "disabled": "neither",
        "rules": [
            {"name": "s", "when": {"$segment": "s"}, "serve": "s"},
            {"name": "t", "when": {"$segment": "t"}, "serve": "t"},
        ],
    }

    def state(number: int) -> list[dict[str, Any]]:
        value = {"variants": {"x": number, "y": -1}, "default": "x", "disabled": "y"}
        members = ["u"], ["x"]
        shards = [
            node.shards(name, 0, members[(number + turn) % 2])[1] for turn, name in enumerate("st")
        ]
        return [node.flag("n", value), node.flag("f", ON if number % 2 else OFF), *shards]

    bits = [node.shards(name, 0, [])[0] for name in "st"]
    node.commit(node.flag("either", either), *bits, *state(0))
    flags = node.manager()
    handle = flags.flag("f")
    assert flags.get_int("n", -1) == 0
    word = flags._table.word
    start, stop = word[0], threading.Event()
    wrong: list[Any] = []
    rounds: list[int] = []

    def evaluate() -> None:
        seen = set()
        while not stop.is_set():
            published = word[0] - start
            number, segment = flags.get_int("n", -1), flags.variant("either", "u")
            handle()
            flags.is_enabled("f")
            seen.add(number)
            if number < published or segment == "neither":
                wrong.append((published, number, segment))
        rounds.append(len(seen))

    threads = [threading.Thread(target=evaluate) for _ in range(3)]
    for thread in threads:
        thread.start()
    node.publisher.send("each", node.folder, states=[state(n) for n in range(1, COMMITS)])
    node.publisher.answer()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert word[0] - start == COMMITS - 1
    assert min(rounds) > 10
    last = bool((COMMITS - 1) % 2)
    assert (flags.is_enabled("f"), handle(), flags.get_int("n", -1)) == (last, last, COMMITS - 1)


IMPORTED = """
import sys
from control_plane.feature_flags.flag_manager import FeatureFlagManager
before = set(sys.modules)
flags = FeatureFlagManager(replica=sys.argv[1], environment="production")
assert flags.is_enabled("f", tenant_id="acme") is True
unwanted = {"asyncio", "ssl", "typing", "dataclasses", "json", "logging", "pathlib", "re",
            "threading", "ctypes", "inspect", "collections.abc", "hashlib"}
print(sorted(unwanted & set(sys.modules)))
"""


def test_a_first_evaluation_imports_nothing_heavy(node: Node) -> None:
    node.put("f", PILOT)
    library = Path(__file__).parents[2] / "lib"
    # -S leaves out site, which imports what it finds in .pth files.
    packages = [path for path in sys.path if path.endswith("site-packages")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", IMPORTED, str(node.root)],
        env={"PYTHONPATH": os.pathsep.join([str(library), *packages])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
