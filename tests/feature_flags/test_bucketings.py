"""Other systems' bucketings put every unit where their own SDKs put it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import accumulate
from typing import Any

import growthbook.core as growthbook
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ldclient.context import Context
from ldclient.impl.evaluator_common import _bucket_context, _variation_index_for_context
from ldclient.impl.model import AttributeRef, FeatureFlag, VariationOrRollout
from UnleashClient._context import _safe_value
from yggdrasil_engine.engine import UnleashEngine

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.bucketing import point_of, seed_of, unit_of
from control_plane.feature_flags.bucketings import (
    GROWTHBOOK_1,
    GROWTHBOOK_2,
    IMPORTED,
    LAUNCHDARKLY,
    NAMES,
    UNLEASH,
    range_hashing,
    split_ends,
    split_hashing,
)
from control_plane.feature_flags.compile import DETAILS, VARIANTS, Compiler, plain, source_of
from control_plane.feature_flags.definition import parse_definition, parse_segment_rules
from control_plane.feature_flags.explaining import Asking, Walk
from control_plane.feature_flags.rebucketing import moves, sample, split_attribute

VARIANTS_ABC = {"variants": {"a": "1", "b": "2", "c": "3"}, "default": None, "disabled": None}

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
salts = st.one_of(texts.filter(bool), st.sampled_from(["x", "checkout", "Zürich", "実験", "🙂"]))
units = st.one_of(
    texts,
    st.sampled_from(["", "0", "é", "🙂", "user-1", "a" * 300]),
    st.integers(),
    st.integers(-(10**25), 10**25),
    st.booleans(),
    st.floats(),
    st.sampled_from([1e21, 1e20, 123456789012345680000.0, 1e-6, 1.5e-7, -0.0, 5e-324, 0.1 + 0.2]),
    st.none(),
)


# --- one unit, one hash ----------------------------------------------------------------------

FIXED = [
    # (bucketing, salt, unit, point): taken from the SDKs' own functions, growthbook 4.0.0,
    # yggdrasil-engine 2.0.0 and launchdarkly-server-sdk 9.18.0.
    (GROWTHBOOK_1, "s", "u", 0.089),
    (GROWTHBOOK_2, "s", "u", 0.1444),
    (GROWTHBOOK_1, "s", "é", 0.141),
    (GROWTHBOOK_2, "s", 1.5, 0.7264),
    (UNLEASH, "s", "u", 0.93),
    (UNLEASH, "s", "é", 0.14),
    (LAUNCHDARKLY, "s", "u", 0.4578551259348426),
    (LAUNCHDARKLY, "s", "", 0.3353160248231025),
    (LAUNCHDARKLY, "s", 1, 0.3289482654062844),
    (LAUNCHDARKLY, "s", 1.5, 0.0),
]


@pytest.mark.parametrize(("name", "salt", "unit", "point"), FIXED)
def test_a_unit_stays_where_it_is_for_ever(name: str, salt: str, unit: Any, point: float) -> None:
    assert range_hashing(name, salt).point(unit) == point


@given(salts, units)
@example("s", "\ud800")
def test_growthbook_hashes_as_its_sdk(salt: str, unit: Any) -> None:
    hashable = growthbook._is_hashable(unit)
    for version, name in ((1, GROWTHBOOK_1), (2, GROWTHBOOK_2)):
        theirs = (
            growthbook.gbhash(salt, growthbook._hash_string(unit), version) if hashable else None
        )
        assert range_hashing(name, salt).point(unit) == theirs


@given(salts, units)
def test_launchdarkly_hashes_as_its_sdk(salt: str, unit: Any) -> None:
    hashing = range_hashing(LAUNCHDARKLY, f"flag.{salt}")
    by = AttributeRef.from_literal("by")
    context = Context.builder("k").set("by", unit).build()
    assert hashing.point(unit) == _bucket_context(None, context, None, "flag", salt, by)
    seeded = range_hashing(LAUNCHDARKLY, "61")
    assert seeded.point(unit) == _bucket_context(61, context, None, "flag", salt, by)


class Unleash:
    """Unleash's own engine with one flag for each percentage, or one split."""

    def __init__(self, features: list[dict[str, Any]]) -> None:
        self._engine = UnleashEngine()
        self._engine.take_state(json.dumps({"version": 2, "features": features}))

    def on(self, unit: Any) -> set[str]:
        """The features that are on for a value of the attribute u, as the Python SDK passes it."""
        given = {"userId": "x", "properties": {} if unit is None else {"u": _safe_value(unit)}}
        return {name for name in self._names() if self._engine.is_enabled(name, given).is_enabled}

    def variant(self, name: str, unit: Any) -> str | None:
        given = {"userId": "x", "properties": {"u": _safe_value(unit)}}
        return self._engine.get_variant(name, given).variant.name

    def _names(self) -> list[str]:
        return [str(toggle.name) for toggle in self._engine.list_known_toggles()]


def rollout(name: str, percentage: int, group: str, **more: Any) -> dict[str, Any]:
    parameters = {"rollout": str(percentage), "stickiness": "u", "groupId": group}
    strategy = {"name": "flexibleRollout", "parameters": parameters, **more}
    return {"name": name, "enabled": True, "strategies": [strategy]}


@pytest.mark.parametrize("salt", ["x", "checkout", "Zürich", "実験 🙂"])
def test_unleash_hashes_as_its_engine(salt: str) -> None:
    engine = Unleash([rollout(str(p), p, salt) for p in range(101)])
    hashing = range_hashing(UNLEASH, salt)
    values = ["", "é", "🙂", "a b", 0, 1, -5, 10**30, 1.5, 1e21, True, *map(str, range(40))]
    for unit in values:
        on = engine.on(unit)
        found = hashing.of(unit)
        assert found is not None
        assert on == {str(p) for p in range(101) if found < hashing.bound(p / 100)}
        assert len(on) == 100 - found


WEIGHTS = [[500, 500], [1, 998, 1], [333, 333, 334], [0, 1000], [250, 0, 250, 500], [10, 20, 30]]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("salt", ["x", "Zürich"])
def test_unleash_splits_as_its_engine(weights: list[int], salt: str) -> None:
    names = "abcd"[: len(weights)]
    variants = [
        {"name": name, "weight": weight, "weightType": "fix", "stickiness": "u"}
        for name, weight in zip(names, weights, strict=True)
    ]
    engine = Unleash([rollout("flag", 100, salt, variants=variants)])
    serve = [{"variant": n, "weight": w} for n, w in zip(names, weights, strict=True)]
    ask = asking(serve, UNLEASH, salt)
    values = ["", "é", "🙂", 0, 1, 10**30, 1.5, True, *map(str, range(1_500))]
    assert [ask(unit) for unit in values] == [engine.variant("flag", unit) for unit in values]


# --- splits ----------------------------------------------------------------------------------


def asking(serve: Any, name: str, salt: str, when: Any = None) -> Any:
    rule = {
        "name": "r",
        "serve": serve,
        "by": "u",
        "salt": salt,
        **({"when": when} if when else {}),
    }
    flag = {
        "variants": dict.fromkeys("abcd", "v"), "default": None, "disabled": None,
        "bucketing": name, "rules": [rule],
    }  # fmt: skip
    answer = Compiler().compile("flag", flag).bound(VARIANTS)
    return lambda unit: answer(None, None, {"u": unit})


splits = st.lists(st.integers(0, 100_000), min_size=2, max_size=4).filter(lambda w: sum(w) > 0)


@given(splits, salts, units, st.sampled_from([None, 61, -5]))
def test_launchdarkly_splits_as_its_sdk(
    weights: list[int], salt: str, unit: Any, seed: int | None
) -> None:
    # Theirs are out of 100,000, and the last variation has what is left.
    scaled = [weight * 100_000 // sum(weights) for weight in weights]
    scaled[-1] += 100_000 - sum(scaled)
    variations = [{"variation": i, "weight": w} for i, w in enumerate(scaled)]
    rollout = {"variations": variations, "bucketBy": "by", "seed": seed}
    flag = FeatureFlag({"key": "flag", "version": 1, "salt": salt})
    context = Context.builder("k").set("by", unit).build()
    index, _ = _variation_index_for_context(flag, VariationOrRollout({"rollout": rollout}), context)
    assert index is not None
    serve = [{"variant": "abcd"[i], "weight": w} for i, w in enumerate(scaled)]
    ours = asking(serve, LAUNCHDARKLY, f"flag.{salt}" if seed is None else str(seed))
    assert ours(unit) == "abcd"[index]


@given(splits, salts, units, st.sampled_from([1, 2]))
def test_growthbook_splits_as_its_sdk(
    weights: list[int], salt: str, unit: Any, version: int
) -> None:
    total = sum(weights)
    ranges = growthbook.getBucketRanges(len(weights), 1, [w / total for w in weights])
    theirs = None
    if growthbook._is_hashable(unit):
        n = growthbook.gbhash(salt, growthbook._hash_string(unit), version)
        assert n is not None
        theirs = "abcd"[growthbook.chooseVariation(n, ranges)]
    serve = [{"variant": "abcd"[i], "weight": w} for i, w in enumerate(weights)]
    assert asking(serve, f"growthbook-v{version}", salt)(unit) == theirs


fractions = st.one_of(
    st.floats(0, 1), st.integers(0, 10_000).map(lambda n: n / 10_000), st.sampled_from([0, 1, 0.1])
)
ranges = st.tuples(fractions, fractions).map(sorted).filter(lambda r: r[0] < r[1])


@given(ranges, salts, units, st.sampled_from(NAMES))
def test_a_range_holds_the_points_from_its_start_to_before_its_end(
    bounds: list[float], salt: str, unit: Any, name: str
) -> None:
    point = range_hashing(name, salt).point(unit)
    holds = point is not None and bounds[0] <= point < bounds[1]
    asked = {"$bucket": {"range": bounds, "by": "u", "salt": salt}}
    assert (asking("a", name, "other", asked)(unit) == "a") is holds
    assert (asking("a", name, "other", {"$not": asked})(unit) == "a") is not holds
    # Its own bucketing wins over the flag's.
    asked["$bucket"]["bucketing"] = name
    assert (asking("a", "xxh3-v1", salt, {"$any": [asked]})(unit) == "a") is holds


@given(salts, units, st.integers(1, 99))
def test_a_range_from_0_has_the_units_of_the_first_of_two_variants(
    salt: str, unit: Any, share: int
) -> None:
    serve = [{"variant": "a", "weight": share}, {"variant": "b", "weight": 100 - share}]
    when = {"$bucket": {"range": [0, share / 100]}}
    for name in ("xxh3-v1", GROWTHBOOK_1, GROWTHBOOK_2, LAUNCHDARKLY):
        ours = asking("a", name, salt, when)(unit) == "a"
        assert ours is (asking(serve, name, salt)(unit) == "a")


@given(st.sampled_from([0.25, 1 / 3, 0.1, 0.7, 1]), salts, units)
def test_ranges_of_xxh3_meet_where_its_weights_do(end: float, salt: str, unit: Any) -> None:
    found = unit_of(plain(unit))
    point = range_hashing("xxh3-v1", salt).point(unit)
    if found is None:
        assert point is None
    else:
        assert point == point_of(found, seed_of(salt), 1 << 32) / (1 << 32)


@given(st.sampled_from(NAMES), salts, units, fractions.filter(lambda f: f > 0))
def test_a_bound_is_the_first_hash_that_is_not_below_the_end(
    name: str, salt: str, unit: Any, end: float
) -> None:
    hashing = range_hashing(name, salt)
    found, point = hashing.of(unit), hashing.point(unit)
    if found is None or point is None:
        assert found is point
    else:
        assert (found < hashing.bound(end)) is (point < end)  # type: ignore[operator]


# --- the engine ------------------------------------------------------------------------------

EXPERIMENT = {
    **VARIANTS_ABC,
    "bucketing": GROWTHBOOK_2,
    "salt": "exp",
    "rules": [
        {"name": "out", "serve": "c",
         "when": {"$bucket": {"range": [0.9, 1], "salt": "__ns", "bucketing": GROWTHBOOK_1}}},
        {"name": "zero", "serve": "a", "when": {"$bucket": {"range": [0, 0.2]}}},
        {"name": "one", "serve": "b",
         "when": {"plan": "pro", "$not": {"$bucket": {"range": [0, 0.7]}}}},
        {"name": "rest", "when": {"plan": "free"},
         "serve": [{"variant": "a", "weight": 1}, {"variant": "b", "weight": 3}]},
    ],
}  # fmt: skip


@settings(max_examples=300)
@given(
    st.sampled_from(NAMES),
    st.one_of(units, st.builds(type("Text", (str,), {}), texts), st.lists(st.text())),
    st.sampled_from(["pro", "free", None]),
)
def test_what_explains_a_flag_finds_what_its_code_finds(name: str, unit: Any, plan: Any) -> None:
    flag = {**EXPERIMENT, "bucketing": name}
    context = {"targeting_key": unit, "plan": plan}
    details = Compiler().compile("flag", flag).bound(DETAILS)(None, None, context)
    asked = Asking(lambda *_: False, lambda *_: None, lambda: 0.0)
    walk = Walk("flag", parse_definition(flag), None, asked, None, None, context)
    assert (walk.variant, walk.rule) == (details[1], details[3])
    assert details[2] == ("DEFAULT" if details[3] is None else "SPLIT")


def test_what_explains_a_flag_names_points() -> None:
    context = {"targeting_key": "y", "plan": "free"}
    asked = Asking(lambda *_: False, lambda *_: None, lambda: 0.0)
    walk = Walk("flag", parse_definition(EXPERIMENT), None, asked, None, None, context)
    assert walk.steps[0] == "rule out: expected a point of 0.9 to 1, found 0.877000"
    assert walk.steps[1] == "rule zero: expected a point of 0 to 0.2, found 0.739000"
    assert "targeting_key y falls on 0.739000 by growthbook-v2" in walk.steps[-1]
    walk = Walk("flag", parse_definition(EXPERIMENT), None, asked, None, None, {"plan": "free"})
    assert walk.steps[0] == "rule out: expected a point of 0.9 to 1, found no unit"
    assert walk.steps[-2] == "rule rest: expected a unit in targeting_key, found none"


def test_a_unit_is_hashed_once_however_many_ranges_ask_for_it() -> None:
    rules = [
        {"name": f"r{n}", "serve": "a", "when": {"$bucket": {"range": [n / 4, n / 4 + 0.1]}}}
        for n in range(4)
    ]
    flag = Compiler().compile("flag", {**VARIANTS_ABC, "rules": rules})
    hashed: list[Any] = []

    class Seen(type(flag._constants[0])):  # type: ignore[misc]
        def of(self, value: Any) -> Any:
            hashed.append(value)
            return super().of(value)

    flag._constants = tuple(
        Seen("flag") if type(each) is type(flag._constants[0]) else each for each in flag._constants
    )
    answer = flag.bound(VARIANTS)
    for number in range(20):
        answer(f"u{number}", None, None)
    assert hashed == [f"u{number}" for number in range(20)]


def test_ranges_with_one_salt_exclude_each_other_and_leave_gaps() -> None:
    first, second = (
        asking("a", "xxh3-v1", "group", {"$bucket": {"range": bounds}})
        for bounds in ([0, 0.4], [0.4, 0.7])
    )
    counts = Counter((first(unit), second(unit)) for unit in sample(10_000))
    assert set(counts) == {("a", None), (None, "a"), (None, None)}
    assert abs(counts[None, None] - 3_000) < 300


def test_a_segment_s_rule_may_ask_for_a_part_with_a_salt_of_its_own() -> None:
    when = {"$bucket": {"range": [0, 0.5], "salt": "segment.1", "bucketing": LAUNCHDARKLY}}
    flag = parse_segment_rules([{"name": "half", "when": when}])
    members = Compiler().compiled("", flag).bound(VARIANTS)
    half = range_hashing(LAUNCHDARKLY, "segment.1")
    for unit in sample(100):
        point = half.point(unit)
        assert point is not None
        assert (members(unit, None, None) == "in") is (point < 0.5)
    with pytest.raises(ManifestInvalid, match=r"salt: expected text, found nothing; a segment has"):
        parse_segment_rules([{"name": "half", "when": {"$bucket": {"range": [0, 0.5]}}}])


@pytest.mark.parametrize(
    ("bucket", "message"),
    [
        ({}, r"\$bucket\.range: expected a value, found nothing"),
        ({"range": [0.5, 0.5]}, "the second one larger"),
        ({"range": [0, 1.5]}, "from 0 to 1"),
        ({"range": [0, True]}, r"range\.1: expected a number"),
        ({"range": [0]}, r"such as \[0, 0\.25\]"),
        ({"range": [0, float("nan")]}, "from 0 to 1"),
        ({"range": [0, 1], "salt": ""}, r"salt: expected text"),
        ({"range": [0, 1], "by": "a..b"}, r"by: expected an attribute"),
        ({"range": [0, 1], "bucketing": "flagd-v3"}, "xxh3-v1, growthbook-v1"),
        ({"range": [0, 1], "bucketing": ["unleash"]}, "xxh3-v1, growthbook-v1"),
        ({"range": [0, 1], "seed": 1}, "one of the fields bucketing, by, range, salt"),
    ],
)
def test_a_part_out_of_form_is_refused_with_its_place(bucket: Any, message: str) -> None:
    rule = {"name": "r", "serve": "a", "when": {"$bucket": bucket}}
    with pytest.raises(ManifestInvalid, match=message) as refused:
        parse_definition({**VARIANTS_ABC, "rules": [rule]})
    assert refused.value.path[:4] == ("rules", 0, "when", "$bucket")


@pytest.mark.parametrize("name", ["md5", "", None, 1, "flagd-v3"])
def test_another_bucketing_is_refused(name: Any) -> None:
    with pytest.raises(ManifestInvalid, match="bucketing: expected xxh3-v1, growthbook-v1"):
        parse_definition({**VARIANTS_ABC, "bucketing": name})


def test_a_change_of_the_bucketing_is_reported_by_what_its_range_goes_by() -> None:
    before = {**VARIANTS_ABC, "rules": [
        {"name": "r", "serve": "a", "when": {"$bucket": {"range": [0, 0.5], "by": "u"}}},
    ]}  # fmt: skip
    assert split_attribute(before) == "u"
    after = {**before, "bucketing": GROWTHBOOK_2}
    found = moves("x", before, after, sample(10_000), by="u", context={}, now=0.0)
    assert abs(found.moved / found.units - 0.5) < 0.05


def test_code_of_a_flag_without_another_bucketing_is_as_it_was() -> None:
    split = [{"variant": "a", "weight": 1}, {"variant": "b", "weight": 3}]
    rule = {"name": "r", "when": {"plan": "pro"}, "serve": split, "by": "user_id"}
    flag = Compiler().compile("flag", {**VARIANTS_ABC, "rules": [rule]})
    assert source_of(flag._shape) == (  # type: ignore[arg-type]
        "def flag(user_id, tenant_id, context):\n"
        " if user_id is None and context is not None: user_id = context.get('user_id')\n"
        " if context is None: context = EMPTY\n"
        " if (a0 := context.get('k0')) == 'k1':\n"
        "  if user_id is not None:\n"
        "   try: h = hash64(user_id.encode(), 'k2')\n"
        "   except Exception: h = hashed(user_id, 'k2')\n"
        "   if h is not None:\n"
        "    if h < 'k3': return 'r0'\n"
        "    return 'r1'\n"
        " return 'r2'\n"
    )


def test_who_uses_no_other_bucketing_loads_none() -> None:
    program = (
        "import sys; from control_plane.feature_flags.compile import Compiler\n"
        "split = [{'variant': 'a', 'weight': 1}, {'variant': 'b', 'weight': 1}]\n"
        "flag = {'variants': {'a': 1, 'b': 2}, 'default': 'a', 'disabled': 'a',"
        " 'rules': [{'name': 'r', 'serve': split}]}\n"
        "Compiler().compile('x', flag).bound('values')('u', None, None)\n"
        "names = ('control_plane.feature_flags.bucketings', 'hashlib')\n"
        "sys.exit(', '.join(name for name in names if name in sys.modules) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- spreading -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("salt", ["new_ai_model", "x"])
def test_units_spread_evenly(name: str, salt: str) -> None:
    """Over 50 parts, with ids as unlike as real ones: FNV sees too little in counted ones.

    Chi-square with 49 degrees of freedom is above 106.9 once in a million samples; hashes are
    fixed, so a test has one sample.
    """
    hashing = range_hashing(name, salt)
    counts = Counter(
        int((hashing.point(f"{seed_of(str(n)):016x}") or 0.0) * 50 + 1e-9) for n in range(50_000)
    )
    assert sum((counts[part] - 1_000) ** 2 / 1_000 for part in range(50)) < 106.9


@given(
    st.sampled_from(IMPORTED),
    st.lists(st.integers(0, 1000), min_size=2, max_size=4).filter(lambda w: w[-1] > 0),
    st.integers(1, 1000),
    salts,
    units,
)
def test_growing_the_first_at_the_cost_of_the_last_moves_nobody_out_of_the_first(
    name: str, weights: list[int], more: int, salt: str, unit: Any
) -> None:
    more = min(more, weights[-1])
    grown = [weights[0] + more, *weights[1:-1], weights[-1] - more]
    before, after = (
        asking(
            [{"variant": v, "weight": w} for v, w in zip("abcd", each, strict=False)], name, salt
        )
        for each in (weights, grown)
    )
    if before(unit) == "a":
        assert after(unit) == "a"


@given(st.sampled_from(IMPORTED), st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_the_parts_of_a_split_end_in_order(name: str, weights: list[int]) -> None:
    ends = split_ends(name, weights, sum(weights))
    assert ends == sorted(ends)
    assert ends == pytest.approx([part / sum(weights) for part in accumulate(weights)])
    bounds = [split_hashing(name, "s", sum(weights)).bound(end) for end in ends[:-1]]
    assert bounds == sorted(bounds)  # type: ignore[type-var]
