"""A unit for a variant: found by the flag's real rules, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane import ControlPlaneClient
from control_plane.testing import replica


def split(on: int, off: int, **more: Any) -> dict[str, Any]:
    shares = [{"variant": "on", "weight": on}, {"variant": "off", "weight": off}]
    return {
        "variants": {"on": True, "off": False},
        "default": "off",
        "rules": [{"name": "rollout", "serve": shares, **more}],
    }


def test_the_unit_is_served_the_variant_by_every_reader_and_next_time_too() -> None:
    for _ in range(2):
        with replica(flags={"x": split(1, 999)}) as kit, ControlPlaneClient(kit.replica) as other:
            inside, outside = kit.unit_for("x", "on"), kit.unit_for("x", "off")
            assert (kit.variant("x", inside), other.variant("x", inside)) == ("on", "on")
            assert kit.variant("x", outside) == "off"
            assert (inside, outside) == ("unit-756", "unit-0")


def test_a_unit_can_be_a_tenant_or_an_attribute_and_the_rest_of_the_caller_counts() -> None:
    rule = {"by": "account.id", "when": {"plan": "pro", "account.new": True}}
    flags = {"t": split(25, 75, by="tenant_id"), "a": split(25, 75, **rule)}
    with replica(flags=flags) as kit:
        tenant = kit.unit_for("t", "on", by="tenant_id")
        assert kit.is_enabled("t", "whoever", tenant_id=tenant)
        context = {"plan": "pro", "account": {"new": True}}
        account = kit.unit_for("a", "on", by="account.id", context=context)
        assert context == {"plan": "pro", "account": {"new": True}}
        assert kit.is_enabled("a", context={"plan": "pro", "account": {"new": True, "id": account}})


def test_candidates_can_be_the_tests_own() -> None:
    with replica(flags={"x": split(50, 50)}) as kit:
        number = kit.unit_for("x", "on", among=range(1, 100))
        assert number in range(1, 100)
        assert kit.is_enabled("x", number)
        with pytest.raises(ValueError, match=r"^flag x: expected candidates to try, found none$"):
            kit.unit_for("x", "on", among=())


@pytest.mark.parametrize(
    ("flag", "arguments", "told"),
    [
        (split(0, 100), ("on",), "no override, no weight above 0 and no default serves"),
        (split(25, 75), ("no",), "expected one of the variants on, off, found 'no'"),
        (
            split(25, 75) | {"enabled": False},
            ("on",),
            "found 'off' 1; .*: enabled is false: serves",
        ),
        (
            split(25, 75, by="tenant_id"),
            ("on", "user_id"),
            "expected a user_id that is served 'on', found 'off' 100000; it is served by rule "
            r"rollout \(25 of 100 by tenant_id\); user_id 'unit-99999': rule rollout: expected a "
            "unit in tenant_id, found none; no rule matched: serves off",
        ),
        (True, ("off",), "found 'on' 1; user_id 'unit-0': the default: serves on"),
    ],
)
def test_the_impossible_is_refused_in_one_line_that_says_why(
    flag: Any, arguments: tuple[str, ...], told: str
) -> None:
    with replica(flags={"x": flag}) as kit, pytest.raises(ValueError, match=told) as refused:
        kit.unit_for("x", *arguments)
    assert "\n" not in str(refused.value)


def test_a_flag_that_is_not_there_is_refused() -> None:
    with (
        replica() as kit,
        pytest.raises(ValueError, match="expected a flag of this kit, found none"),
    ):
        kit.unit_for("x", "on")


def test_kills_overrides_and_the_environments_own_rules_count() -> None:
    own = {"environments": {"test": {"rules": [{"name": "rollout", "serve": "on"}]}}}
    with replica(flags={"x": split(0, 100) | own, "y": split(0, 100)}) as kit:
        assert kit.unit_for("x", "on") == "unit-0"
        kit.set_flag("y", split(0, 100) | {"overrides": {"user_id": {"unit-7": "on"}}})
        assert kit.unit_for("y", "on") == "unit-7"
        kit.kill("y", "on")
        assert kit.unit_for("y", "on") == "unit-0"
        with pytest.raises(ValueError, match=r"'on' 1; .*: killed: serves on"):
            kit.unit_for("y", "off")


def test_looking_for_a_unit_counts_nothing() -> None:
    with replica(flags={"x": split(1, 99)}) as kit, kit.recording() as evaluations:
        kit.unit_for("x", "on")
        assert (evaluations.counts, kit.flags.counts()) == ({}, {})


@settings(max_examples=20)
@given(on=st.integers(1, 100), off=st.integers(1, 100), salt=st.text("abc", min_size=1))
def test_any_weight_above_0_is_found(on: int, off: int, salt: str) -> None:
    with replica(flags={"x": split(on, off) | {"salt": salt}}) as kit:
        for variant in ("on", "off"):
            assert kit.variant("x", kit.unit_for("x", variant)) == variant
