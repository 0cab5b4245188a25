"""Flags with ``targeting`` through the calls applications make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.compile import DETAILS, Compiler, check_flag
from control_plane.feature_flags.flag_manager import FeatureFlagManager
from control_plane.feature_flags.rebucketing import moves, sample, split_attribute
from control_plane.feature_flags.targeting_interpreter import OPERATORS
from control_plane.replica.reader import OPEN
from control_plane.testing import replica

ON_OFF = {"on": True, "off": False}
MINE = {"==": [{"var": "plan"}, "pro"]}

Flags = Callable[..., FeatureFlagManager]


@pytest.fixture
def flags() -> Iterator[Flags]:
    """A manager of one flag ``f`` with these fields."""
    held = []

    def made(targeting: Any, **metadata: Any) -> FeatureFlagManager:
        whole = {"variants": ON_OFF, "default": "off", "targeting": targeting, **metadata}
        kit = replica(flags={"f": whole}, now=lambda: 1_700_000_000.9)
        held.append(kit)
        return kit.__enter__().flags

    yield made
    for kit in held:
        kit.__exit__(None, None, None)


@pytest.mark.parametrize("counting", [True, False])
def test_every_call_serves_the_callers_default_where_targeting_decides_nothing(
    counting: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OPEN, "complained", set())
    metadata = {"variants": ON_OFF, "targeting": {"if": [MINE, "off", None]}}
    with (
        replica(flags={"f": metadata}) as kit,
        FeatureFlagManager(kit, counting=counting) as manager,
    ):
        handle = manager.flag("f")
        for default in (True, False):
            assert manager.is_enabled("f", default=default) is default
            assert handle(default=default) is default
            assert manager.value("f", default) is default
            assert manager.bind(plan="free").is_enabled("f", default=default) is default
            with manager.pinned() as view:
                assert view.is_enabled("f", default=default) is default
        assert manager.variant("f", default="mine") == "mine"
        assert manager.variant("f", context={"plan": "pro"}, default="mine") == "off"
        assert manager.is_enabled("f", context={"plan": "pro"}, default=True) is False
        assert manager.evaluate("f", True).reason == "DEFAULT"
    assert not caplog.records


@pytest.mark.parametrize("counting", [True, False])
def test_what_is_served_is_counted_and_the_callers_default_is_not(counting: bool) -> None:
    metadata = {"variants": ON_OFF, "targeting": {"if": [MINE, "on", None]}}
    with (
        replica(flags={"f": metadata}) as kit,
        FeatureFlagManager(kit, counting=counting) as manager,
    ):
        for plan in ("pro", "free", "pro"):
            manager.is_enabled("f", context={"plan": plan})
        assert manager.counts() == ({("f", "on"): 2} if counting else {})


def test_ids_and_key_are_the_calls_and_else_the_contexts(flags: Flags) -> None:
    shown = {"cat": [{"var": "user_id"}, ".", {"var": "tenant_id"}, ".", {"var": "targetingKey"}]}
    variants = {name: name for name in ("1.null.1", "u.t.k", "u.t.u", "null.t.t", "a.t.k")}
    manager = flags(shown, variants=variants, default=None, disabled=None)
    assert manager.variant("f", 1) == "1.null.1"
    assert manager.variant("f", "u", "t", {"targeting_key": "k"}) == "u.t.k"
    assert manager.variant("f", "u", "t", {"user_id": "x"}) == "u.t.u"
    assert manager.variant("f", context={"tenant_id": "t"}) == "null.t.t"
    assert manager.variant("f", "a", "t", {"targetingKey": "k"}) == "a.t.k"


def test_the_flag_key_is_the_salt_and_the_time_is_the_managers_clock(flags: Flags) -> None:
    variants = dict.fromkeys(("headerColor-1700000000", "f-1700000000"), True)
    shown = {"cat": [{"var": "$flagd.flagKey"}, "-", {"var": "$flagd.timestamp"}]}
    found = flags(shown, variants=variants, default=None, disabled=None, salt="headerColor")
    assert found.variant("f") == "headerColor-1700000000"
    whole = {"cat": [{"var": ["$flagd.flagKey", {"var": "x"}]}, "-", {"var": "$flagd.timestamp"}]}
    found = flags(whole, variants=variants, default=None, disabled=None)
    assert found.variant("f") == "f-1700000000"


def test_an_int_is_the_same_unit_as_its_decimal(flags: Flags) -> None:
    manager = flags({"fractional": [["on", 1], ["off", 1]]})
    found = [manager.variant("f", number) for number in range(20)]
    assert found == [manager.variant("f", str(number)) for number in range(20)]
    assert set(found) == {"on", "off"}


def test_a_context_that_is_none_is_told_apart_from_a_failing_expression(flags: Flags) -> None:
    manager = flags({"if": [{"/": [1, {"var": "a"}]}, "on"]})
    wrong: Any = "text"
    assert manager.evaluate("f", False, context=wrong).error_code == "INVALID_CONTEXT"
    assert manager.evaluate("f", False, context={}).error_code == "GENERAL"
    assert manager.evaluate("f", False).error_code == "GENERAL"


def test_a_kill_enabled_and_overrides_come_before_targeting() -> None:
    metadata: dict[str, Any] = {
        "variants": ON_OFF,
        "default": "off",
        "overrides": {"tenant_id": {"7": "on"}, "user.id": {"u": "on"}},
        "targeting": {"if": [MINE, "on", None]},
    }
    flags = {"f": metadata, "off": metadata | {"enabled": False, "disabled": None}}
    with replica(flags=flags) as kit:
        found = kit.flags
        assert found.evaluate("f", False, tenant_id=7).reason == "TARGETING_MATCH"
        assert found.is_enabled("f", context={"user": {"id": "u"}}) is True
        assert found.is_enabled("f", tenant_id=8) is False
        assert found.evaluate("off", True, tenant_id=7).reason == "DISABLED"
        assert found.is_enabled("off", tenant_id=7, default=True) is True
        kit.kill("f", "on")
        assert found.evaluate("f", False).reason == "DISABLED"
        assert found.is_enabled("f") is True


def test_an_environments_targeting_replaces_the_whole_expression() -> None:
    metadata = {
        "variants": ON_OFF,
        "default": "off",
        "targeting": {"if": [MINE, "on", None]},
        "environments": {
            "test": {"targeting": {"!": [{"var": "x"}]}, "variants": {"true": True, "yes": True}}
        },
    }
    with replica(flags={"f": metadata}, environment="test") as kit:
        assert kit.flags.variant("f") == "true"
    with replica(flags={"f": metadata}, environment="other") as kit:
        assert kit.flags.variant("f", context={"plan": "pro"}) == "on"


def test_flag_metadata_is_told_with_every_evaluation_and_is_the_callers_own(flags: Flags) -> None:
    told = {"owner": "growth", "ticket": 7}
    manager = flags({"if": [MINE, "on"]}, flag_metadata=told)
    for evaluation in (manager.evaluate("f", False), manager.evaluate("f", "mismatch")):
        assert evaluation.flag_metadata == told
        evaluation.flag_metadata.clear()
    assert manager.evaluate("f", False).flag_metadata == told
    assert manager.evaluate("missing", False).flag_metadata == {}


@pytest.mark.parametrize(
    ("targeting", "context"),
    [
        ({"/": [1, {"var": "zero"}]}, {"zero": 0}),
        ({"var": "plan"}, {"plan": "enterprise"}),
        ({"var": "plan"}, {"plan": ["on"]}),
        ({"if": [MINE, {"/": [1, 0]}, "on"]}, {"plan": "pro"}),
        ({"fractional": [{"var": "unit"}, ["on", 1]]}, {"unit": "\ud800"}),
        ({"reduce": [{"var": "l"}, {"cat": [{"var": "accumulator"}] * 2}, "x"]}, {"l": [1] * 99}),
        ({"reduce": [{"var": "l"}, {"*": [{"var": "accumulator"}] * 2}, 9]}, {"l": [1] * 99}),
        ({"reduce": [{"var": "l"}, {"merge": [{"var": "accumulator"}] * 2}, [1]]}, {"l": [1] * 99}),
        (
            {"if": [{"map": [{"var": "l"}, {"map": [{"var": ""}, 1]}]}, "on", "off"]},
            {"l": [[1] * 999] * 999},
        ),
    ],
)  # fmt: skip
def test_a_failing_evaluation_gives_the_callers_default_and_one_line(
    flags: Flags,
    targeting: Any,
    context: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OPEN, "complained", set())
    version = "flagd-v2" if "fractional" in targeting else "flagd-v3"
    manager = flags(targeting, bucketing=version)
    for default in (True, False):
        found = manager.evaluate("f", default, context=context)
        assert (found.value, found.reason, found.error_code) == (default, "ERROR", "GENERAL")
        assert manager.is_enabled("f", context=context, default=default) is default
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("flag/f: targeting: expected a ")


class Hostile:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("asked")

    __hash__ = None  # type: ignore[assignment]


class Word(str):
    """Text that says of itself that it is something else."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("asked")

    def encode(self, *_: Any) -> bytes:
        raise RuntimeError("asked")

    __hash__ = str.__hash__


class Plan(str, Enum):  # noqa: UP042  # as programs have them
    """What applications put into contexts."""

    PRO = "pro"


def endless() -> Any:
    """A list inside itself."""
    found: list[Any] = [1]
    found.append(found)
    return found


def doubled() -> Any:
    """Sixty objects that stand for 2^60."""
    found: list[Any] = ["x" * 1000]
    for _ in range(60):
        found = [found, found]
    return found


HOSTILE = [
    Hostile(), Word("pro"), Word("\ud800"), float("nan"), float("inf"), 10**400, 10**5000, -0.0,
    endless(), doubled(), "\ud800", "x" * 10**6, b"bytes", object, {1: 2}, {"a": {"b": Hostile()}},
    [Hostile()], (1, 2), {1, 2}, 1j, {f"k{n}": n for n in range(1000)}, [[]] * 1000, "\x00",
]  # fmt: skip
EXPRESSIONS: list[Any] = [
    {"==": [{"var": "a"}, "pro"]}, {"==": [{"var": "a"}, 5]}, {"!=": [{"var": "a"}, {"var": "b"}]},
    {"===": [{"var": "a"}, {"var": "b"}]}, {"<": [{"var": "a"}, 5]}, {"<": [{"var": "a"}, "x"]},
    {">=": [1, {"var": "a"}, {"var": "b"}]}, {"in": [{"var": "a"}, ["pro", 1]]},
    {"in": ["o", {"var": "a"}]}, {"in": [{"var": "a"}, {"var": "b"}]}, {"!": [{"var": "a"}]},
    {"starts_with": [{"var": "a"}, "p"]}, {"ends_with": [{"var": "a"}, {"var": "b"}]},
    {"sem_ver": [{"var": "a"}, ">", "1.0.0"]}, {"cat": [{"var": "a"}, {"var": "b"}]},
    {"cat": ["x", {"var": "a"}, "y"]}, {"+": [{"var": "a"}, 1]}, {"*": [{"var": "a"}, 2]},
    {"min": [{"var": "a"}, 1]}, {"substr": [{"var": "a"}, {"var": "b"}, -1]}, {"var": "a.b.length"},
    {"var": [{"var": "a"}, 1]}, {"var": ""}, {"missing": [{"var": "a"}]},
    {"and": [{"var": "a"}, 1]},
    {"missing_some": [1, {"var": "a"}]}, {"merge": [{"var": "a"}, {"var": "b"}]},
    {"map": [{"var": "a"}, {"var": ""}]}, {"some": [{"var": "a"}, {"==": [{"var": ""}, "x"]}]},
    {"reduce": [{"var": "a"}, {"+": [{"var": "current"}, {"var": "accumulator"}]}, 0]},
    {"fractional": [{"var": "a"}, ["on", 1], ["off", 1]]}, {"fractional": [["on", 1], ["off", 1]]},
    {"fractional": [{"cat": [{"var": "a"}, "x"]}, ["on", 1], ["off", 1]]},
    {"fractional": [["on", {"var": "a"}], ["off", 1]]}, {"%": [7, {"var": "a"}]},
]  # fmt: skip


@pytest.mark.parametrize("version", ["flagd-v1", "flagd-v2", "flagd-v3"])
def test_hostile_contexts_never_raise(version: str) -> None:
    flags = {
        f"f{number}": {
            "variants": ON_OFF,
            "default": "off",
            "bucketing": version,
            "targeting": expression,
        }
        for number, expression in enumerate(EXPRESSIONS)
    }
    with replica(flags=flags) as kit:
        for name in flags:
            for value in HOSTILE:
                other = {"a": value, "b": value, "targetingKey": value}
                found = kit.flags.evaluate(name, False, value, context=other)
                assert found.reason in ("TARGETING_MATCH", "DEFAULT", "ERROR"), (name, value)
                assert kit.flags.is_enabled(name, value, value, other) in (True, False)
                assert kit.flags.variant(name, None, value, {"a": value}) in ("on", "off", None)
            for context in (Hostile(), 7, "text", [("a", 1)]):
                assert kit.flags.is_enabled(name, "u", "t", context) in (True, False)  # type: ignore[arg-type]


def test_a_subclass_of_text_counts_as_the_text_it_holds(flags: Flags) -> None:
    manager = flags({"if": [MINE, "on", None]})
    assert manager.is_enabled("f", context={"plan": Plan.PRO}) is True
    assert manager.is_enabled("f", context={"plan": Word("pro")}) is True


BAD: list[tuple[Any, tuple[str | int, ...], str]] = [
    ("on", (), "one operator"),
    ({}, (), "one operator"),
    ({"==": [1, 2], "!": [1]}, (), "one operator"),
    ({"if": [{"a": 1, "b": 2}, "on"]}, ("if", 0), "one operator"),
    ({"equals": [1, 2]}, ("equals",), "an operator of flagd"),
    ({"if": [{"$ref": "mine"}, "on"]}, ("if", 0, "$ref"), "import flagd resolves"),
    ({"var": ["a", 1, 2]}, ("var",), "a name and perhaps a default"),
    ({"var": [["a", "b"]]}, ("var", 0), "the name of an attribute"),
    ({"if": [MINE, "onn"]}, ("if", 1), "one of the variants off, on"),
    ({"if": [MINE, "on", {"if": [MINE, 7]}]}, ("if", 2, "if", 1), "one of the variants"),
    ({"if": [MINE, True]}, ("if", 1), "one of the variants"),
    ({"fractional": [["on", 1], ["of", 1]]}, ("fractional", 1, 0), "one of the variants"),
    ({"fractional": []}, ("fractional",), "buckets"),
    ({"fractional": [{"var": "a"}]}, ("fractional",), "buckets"),
    ({"fractional": [["on", 0.5]]}, ("fractional", 0, 1), "an integer weight"),
    ({"fractional": [["on", True]]}, ("fractional", 0, 1), "an integer weight"),
    ({"fractional": [["on", "25"]]}, ("fractional", 0, 1), "an integer weight"),
    ({"fractional": [["on", None]]}, ("fractional", 0, 1), "an integer weight"),
    ({"fractional": [["on", 1, 2]]}, ("fractional", 0), "one or two members"),
    ({"fractional": [{"var": "a"}, "on"]}, ("fractional", 1), "a bucket"),
    ({"fractional": [["on", 2**31 - 1], ["off", 1]]}, ("fractional",), "2147483647"),
    ({"cat": ["a", "\ud800"]}, ("cat", 1), "surrogates"),
    ({"map": [{"var": "a"}, {"nope": 1}]}, ("map", 1, "nope"), "an operator of flagd"),
    ({"reduce": [[], 1, ["\ud800"]]}, ("reduce", 2), "surrogates"),
    ({"and": [{"var": "a"}] * 1000}, ("and", 999), "at most 1000 operators"),
    ({"cat": [b"x"]}, ("cat", 0), "an operator, list, string"),
]


@pytest.mark.parametrize(("targeting", "path", "said"), BAD, ids=lambda case: str(case)[:50])
def test_a_bad_expression_is_refused_with_its_place_and_what_is_expected(
    targeting: Any, path: tuple[str | int, ...], said: str
) -> None:
    with pytest.raises(ManifestInvalid, match=said) as refused:
        check_flag({"variants": ON_OFF, "targeting": targeting})
    assert refused.value.path == ("targeting", *path)
    assert "\n" not in str(refused.value)


def test_an_expression_too_deep_is_refused() -> None:
    for wrap in (lambda inner: {"!": inner}, lambda inner: [inner]):
        deep: Any = {"var": "a"}
        for _ in range(40):
            deep = wrap(deep)
        with pytest.raises(ManifestInvalid, match="at most 32"):
            check_flag({"variants": ON_OFF, "targeting": {"!": deep}})


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"rules": [{"name": "r", "serve": "on"}]}, ("targeting",)),
        ({"bucketing": "xxh3-v1"}, ("bucketing",)),
        ({"bucketing": "flagd-v4"}, ("bucketing",)),
        ({"targeting": None, "bucketing": "flagd-v3"}, ("bucketing",)),
        ({"default": "maybe"}, ("default",)),
        ({"flag_metadata": []}, ("flag_metadata",)),
        ({"flag_metadata": {"a": None}}, ("flag_metadata", "a")),
    ],
)
def test_fields_beside_targeting_are_checked(change: dict[str, Any], path: tuple[str, ...]) -> None:
    good = {"variants": ON_OFF, "default": "off", "targeting": {"if": [MINE, "on"]}}
    check_flag(good)
    with pytest.raises(ManifestInvalid) as refused:
        check_flag({**good, **change})
    assert refused.value.path == path


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(sorted(OPERATORS)) | st.text(max_size=3), inner, max_size=2
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(ANYTHING, ANYTHING, st.sampled_from(["flagd-v1", "flagd-v2", "flagd-v3"]))
def test_whatever_is_accepted_is_evaluated(targeting: Any, value: Any, version: str) -> None:
    metadata = {"variants": ON_OFF, "targeting": {"if": [{"!": [targeting]}, "on", "off"]}}
    metadata["bucketing"] = version
    try:
        compiled = Compiler().compile("f", metadata)
    except ManifestInvalid:
        return
    asked = tuple(int for _ in compiled.needs)
    function = compiled.bound(DETAILS, asked)
    for context in ({"a": value, "": value}, {"targetingKey": value}, None):
        answer = function("u", None, context) if callable(function) else function
        assert answer[2] in ("TARGETING_MATCH", "ERROR")


def test_another_version_of_the_buckets_moves_units_and_the_report_says_how_many() -> None:
    split = {"fractional": [["on", 1], ["off", 1]]}
    before = {"variants": ON_OFF, "targeting": split, "bucketing": "flagd-v2"}
    after = before | {"bucketing": "flagd-v3"}
    by = split_attribute(before)
    assert by == "targeting_key"

    def moved(one: Any, other: Any) -> int:
        return moves("f", one, other, sample(1000), by="targeting_key", context={}, now=0).moved

    assert moved(before, before) == 0
    assert 400 < moved(before, after) < 600
