"""Splits spread units evenly, independently and monotonously."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from control_plane.feature_flags.bucketing import point_of, seed_of, served, threshold
from control_plane.feature_flags.rebucketing import Moves, moves, sample, split_attribute

ON_OFF = {"variants": {"on": True, "off": False}, "default": "off", "disabled": "off"}
UNITS = [f"unit-{number}".encode() for number in range(1_000_000)]
BINS = 1_000

# The chi-square statistic with 999 degrees of freedom is above this once in a million samples
# (Wilson and Hilferty's approximation, z = 4.753); hashes are fixed, so a test has one sample.
CRITICAL_999 = 999 * (1 - 2 / (9 * 999) + 4.753 * (2 / (9 * 999)) ** 0.5) ** 3


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


@pytest.mark.parametrize("salt", ["new_ai_model", "x", "é", "checkout_button"])
def test_a_million_units_spread_evenly_over_a_thousand_points(salt: str) -> None:
    seed = seed_of(salt)
    counts = Counter(point_of(unit, seed, BINS) for unit in UNITS)
    assert chi_square([counts[point] for point in range(BINS)]) < CRITICAL_999


@pytest.mark.parametrize("salts", [("a", "b"), ("flag-1", "flag-2"), ("x", "xx")])
def test_where_one_flag_puts_a_unit_says_nothing_about_another(salts: tuple[str, str]) -> None:
    one, other = map(seed_of, salts)
    counts = Counter((point_of(u, one, 25), point_of(u, other, 40)) for u in UNITS)
    cells = [counts[a, b] for a in range(25) for b in range(40)]
    assert chi_square(cells) < CRITICAL_999


@given(
    st.lists(st.integers(0, 1000), min_size=2, max_size=5).filter(lambda w: w[-1] > 0),
    st.integers(1, 1000),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=1, max_size=20),
)
def test_growing_the_first_at_the_cost_of_the_last_moves_nobody_out_of_the_first(
    weights: list[int], more: int, seed: int, unit: bytes
) -> None:
    more = min(more, weights[-1])
    grown = [weights[0] + more, *weights[1:-1], weights[-1] - more]
    point = point_of(unit, seed, sum(weights))
    before = served(list(zip("abcde", weights, strict=False)), point)
    after = served(list(zip("abcde", grown, strict=False)), point)
    if before == "a":
        assert after == "a"
    # Compiled rules compare the hash with bounds instead: the same answer.
    total, whole = sum(weights), xxh3_64_intdigest(unit, seed)
    for cumulative in accumulate(weights[:-1]):
        assert (whole < threshold(cumulative, total)) is (point < cumulative)


ON_OFF: dict[str, Any] = {"variants": {"on": True, "off": False}, "default": "off"}


def split(on: int, **more: Any) -> dict[str, Any]:
    serve = [{"variant": "on", "weight": on}, {"variant": "off", "weight": 100 - on}]
    return {**ON_OFF, "rules": [{"name": "r", "serve": serve, "by": "tenant_id"}], **more}


def report(before: dict[str, Any], after: dict[str, Any], **context: Any) -> Moves:
    return moves("x", before, after, sample(20_000), by="tenant_id", context=context, now=0.0)


def test_a_growing_rollout_moves_its_growth_and_in_one_direction() -> None:
    found = report(split(25), split(40))
    assert set(found.pairs) == {("on", "on"), ("off", "on"), ("off", "off")}
    assert abs(found.pairs["off", "on"] / found.units - 0.15) < 0.01
    assert found.moved == found.pairs["off", "on"]


def test_another_salt_moves_as_many_units_as_chance_does() -> None:
    found = report(split(25), split(25, salt="other"))
    assert abs(found.moved / found.units - 2 * 0.25 * 0.75) < 0.01


def test_the_same_definition_moves_nobody() -> None:
    found = report(split(25), split(25))
    assert (found.moved, found.units) == (0, 20_000)


def test_constants_and_conditions_are_asked_too() -> None:
    rule = {"name": "r", "when": {"plan": "pro"}, "serve": "on"}
    found = report(ON_OFF, {**ON_OFF, "rules": [rule]}, plan="pro")
    assert found.pairs == {("off", "on"): 20_000}
    assert report(ON_OFF, {**ON_OFF, "rules": [rule]}, plan="free").moved == 0


def test_units_go_by_what_the_first_split_goes_by() -> None:
    assert split_attribute(split(25)) == "tenant_id"
    assert split_attribute(ON_OFF) is None


def test_a_report_keeps_the_attributes_beside_the_unit_whatever_they_are() -> None:
    split = [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 0}]
    when = {"user.plan": "pro", "$not": {"tags": {"in": ["a"]}}}
    after = {**ON_OFF, "rules": [{"name": "r", "when": when, "serve": split, "by": "user.id"}]}
    context = {"user": {"plan": "pro"}, "tags": ["a"]}
    found = moves("x", ON_OFF, after, sample(10), by="user.id", context=context, now=0.0)
    assert found.pairs == {("off", "on"): 10}
    assert context == {"user": {"plan": "pro"}, "tags": ["a"]}
