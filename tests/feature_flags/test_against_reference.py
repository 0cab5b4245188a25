"""Generated code against a plain interpreter of the same rules."""

from __future__ import annotations

import enum
import hashlib
import operator
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from itertools import zip_longest
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from control_plane.feature_flags.comparing import contains, seconds_of
from control_plane.feature_flags.evaluation import Evaluation
from control_plane.feature_flags.flag_manager import PinnedFlags
from control_plane.feature_flags.table import Library
from control_plane.replica.format import FLAG, SEGMENT, encode_record, record_key

NOW = datetime.fromisoformat("2026-06-01T12:00:00Z").timestamp()
OTHERS = {"base": "on", "dead": "off"}
"""The variants that other flags serve; 'unknown' serves none."""

# --- the interpreter -------------------------------------------------------------------------


def reference(
    name: str, flag: Any, kill: Any, segments: Any, user_id: Any, tenant_id: Any, context: Any
) -> tuple[Any, str | None, str, str | None]:
    """(value, variant, reason, rule) by the rules as they are written."""

    def answer(variant: str | None, reason: str, rule: str | None = None) -> Any:
        return (None if variant is None else flag["variants"][variant]), variant, reason, rule

    disabled = flag.get("disabled") or next(
        v for v in flag["variants"] if flag["variants"][v] is False
    )
    if kill is not None:
        wanted = kill["variant"] or disabled
        return answer(wanted if wanted in flag["variants"] else None, "DISABLED")
    if not flag.get("enabled", True):
        return answer(disabled, "DISABLED")
    overrides, rules = flag.get("overrides", {}), flag.get("rules", [])
    if not any(overrides.values()) and not rules:
        return answer(flag["default"], "STATIC")

    def attribute(path: str) -> Any:
        return look_up(path, user_id, tenant_id, context)

    first = [a for a in ("user_id", "tenant_id") if a in overrides]
    for path in first + sorted(a for a in overrides if a not in first):
        unit = unit_text(attribute(path))
        if unit is not None and unit in overrides[path]:
            return answer(overrides[path][unit], "TARGETING_MATCH")
    for rule in rules:
        unit = unit_text(attribute(rule.get("by", "targeting_key")))
        if "from" in rule and moment(rule["from"]) > NOW:
            continue
        if "until" in rule and moment(rule["until"]) <= NOW:
            continue
        if not every(rule.get("when", {}), attribute, unit, segments):
            continue
        if isinstance(rule["serve"], str):
            return answer(rule["serve"], "TARGETING_MATCH", rule["name"])
        if unit is not None:
            served = split(rule["serve"], unit, rule.get("salt", flag.get("salt", name)))
            return answer(served, "SPLIT", rule["name"])
    return answer(flag["default"], "DEFAULT")


def look_up(path: str, user_id: Any, tenant_id: Any, context: Any) -> Any:
    context = context or {}
    user_id = context.get("user_id") if user_id is None else user_id
    tenant_id = context.get("tenant_id") if tenant_id is None else tenant_id
    key, *rest = path.split(".")
    if key == "user_id":
        value = user_id
    elif key == "tenant_id":
        value = tenant_id
    elif key in ("targeting_key", "targetingKey"):
        given = [context.get("targeting_key"), context.get("targetingKey"), user_id, tenant_id]
        value = next((each for each in given if each is not None), None)
    else:
        value = context.get(key)
    for step in rest:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def every(when: Any, attribute: Any, unit: str | None, segments: Any) -> bool:
    return all(holds(where, wanted, attribute, unit, segments) for where, wanted in when.items())


def holds(where: str, wanted: Any, attribute: Any, unit: str | None, segments: Any) -> bool:
    if where == "$not":
        return not every(wanted, attribute, unit, segments)
    if where in ("$any", "$all"):
        answers = [every(group, attribute, unit, segments) for group in wanted]
        return any(answers) if where == "$any" else all(answers)
    if where == "$segment":
        return unit is not None and unit in segments.get(wanted, ())
    if where == "$flag":
        allowed = {name: [v] if isinstance(v, str) else v for name, v in wanted.items()}
        return all(OTHERS.get(name) in allowed[name] for name in allowed)
    value = attribute(where)
    if not isinstance(wanted, dict):
        return same(value, wanted)
    return all(word_holds(word, value, operand) for word, operand in wanted.items())


def word_holds(word: str, value: Any, operand: Any) -> bool:
    if word == "present":
        return (value is not None) is operand
    if word == "in":
        return any(same(value, option) for option in operand)
    if word == "not_in":
        scalar = isinstance(value, (bool, str, int, float)) and value == value
        return scalar and not any(same(value, option) for option in operand)
    if word in ORDERS:
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        return numeric and ORDERS[word](value, operand)
    if word == "semver":
        return isinstance(value, str) and all(
            semver_order(value, other) is not None and ORDERS[order](semver_order(value, other), 0)
            for order, other in operand.items()
        )
    if word in ("before", "after"):
        found = moment(value)
        return found is not None and ORDERS["lt" if word == "before" else "gt"](
            found, moment(operand)
        )
    options = operand if isinstance(operand, list) else [operand]
    if word == "contains" and isinstance(value, (list, tuple)):
        return any(each in options for each in value if isinstance(each, str))
    if not isinstance(value, str):
        return False
    if word == "contains":
        return any(option in value for option in options)
    ask = value.startswith if word == "starts_with" else value.endswith
    return any(ask(option) for option in options)


ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
}  # fmt: skip
SEMVER = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?"
)
"""The expression that semver.org gives, in ASCII."""


def semver_order(one: str, other: str) -> int | None:
    """-1, 0 or 1 by section 11 of Semantic Versioning; None where one is no version."""
    left, right = SEMVER.fullmatch(one), SEMVER.fullmatch(other)
    if left is None or right is None:
        return None
    for mine, yours in zip(map(int, left.groups()[:3]), map(int, right.groups()[:3]), strict=True):
        if mine != yours:
            return -1 if mine < yours else 1
    if left[4] == right[4]:
        return 0
    if left[4] is None or right[4] is None:
        return 1 if left[4] is None else -1
    pairs = zip_longest(left[4].split("."), right[4].split("."))
    for mine, yours in pairs:
        if mine == yours:
            continue
        if mine is None or yours is None:
            return -1 if mine is None else 1
        if mine.isdigit() and yours.isdigit():
            return -1 if int(mine) < int(yours) else 1
        if mine.isdigit() or yours.isdigit():
            return -1 if mine.isdigit() else 1
        return -1 if mine < yours else 1
    return 0


RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def moment(value: Any) -> float | None:
    if isinstance(value, bool) or value != value:
        return None
    if isinstance(value, (int, float)):
        return value if abs(value) < 1e15 else None
    if not isinstance(value, str):
        return None
    if not RFC_3339.fullmatch(value):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if found.tzinfo is None else found.timestamp()


def same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, (int, float)) and isinstance(wanted, (int, float)):
        return value == wanted
    return isinstance(value, str) and isinstance(wanted, str) and value == wanted


def unit_text(value: Any) -> str | None:
    if isinstance(value, str):
        return None if any("\ud800" <= letter <= "\udfff" for letter in value) else value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def split(entries: Any, unit: str, salt: str) -> str:
    total = sum(entry["weight"] for entry in entries)
    digest = xxh3_64_intdigest(unit.encode(), xxh3_64_intdigest(salt.encode()))
    point = ((digest >> 32) * total) >> 32
    cumulative = 0
    for entry in entries:
        cumulative += entry["weight"]
        if point < cumulative:
            return str(entry["variant"])
    raise AssertionError("a point is below the total")


# --- the same question to both ---------------------------------------------------------------


class Snapshot:
    """Records in memory, where a manager expects a view."""

    txn_id = 1

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self._records = records

    def read(self, *keys: bytes) -> list[bytes | None]:
        return [self._records.get(key) for key in keys]


def flags_of(
    name: str, flag: Any, kill: Any, segments: dict[str, set[str]], counting: bool = False
) -> PinnedFlags:
    records = {}
    bodies = {record_key(FLAG, name): msgpack.packb({"m": flag, "k": kill})}
    for other, variant in OTHERS.items():
        plain = {"variants": {"on": True, "off": False}, "default": variant}
        bodies[record_key(FLAG, other)] = msgpack.packb({"m": plain, "k": None})
    for segment, members in segments.items():
        hashes = sorted(hashlib.sha256(m.encode()).digest()[:16] for m in members)
        packed = msgpack.packb({"members": b"".join(hashes)})
        bodies[record_key(SEGMENT, segment)] = packed
    for key, body in bodies.items():
        records[key] = encode_record(key, key[0], body, head_generation=1, served_generation=1)
    library = Library(counting, lambda: NOW)
    return PinnedFlags(library, Snapshot(records), None)  # type: ignore[arg-type]


WORDS = st.sampled_from(["a", "b", "acme", "0", "1", "", "pro", "é"])
SCALARS = WORDS | st.booleans() | st.sampled_from([0, 1, 2, -1, 0.0, 1.0, 1.5, 2**40])
PLACES = ["user_id", "tenant_id", "targeting_key", "targetingKey", "plan", "age", "user"]
ATTRIBUTES = st.sampled_from([*PLACES, "user.plan", "user.deep.plan", "user_id.x", "plan.x"])
SEGMENTS = {"beta": {"a", "acme", "1"}, "empty": set[str]()}
VARIANTS = st.sampled_from(
    [
        {"x": True, "y": False},
        {"x": "red", "y": "green", "z": "blue"},
        {"x": 1, "y": 2.5, "z": 0},
        {"x": {"a": [1]}, "y": {}},
    ]
)
HOSTILE = st.sampled_from(
    [["a"], ["pro", 1], [], {"a": 1}, b"a", ("a",), float("nan"), float("inf"), "\ud800", 10**400]
)
TIMES = st.sampled_from(
    [
        "2026-06-01T12:00:00Z",
        "2026-06-01T13:00:00+02:00",
        "2027-01-01T00:00:00.5Z",
        "2020-02-29T23:59:59-08:00",
    ]
)
TIMELIKE = TIMES | st.sampled_from(["2026-06-01", "2026-06-01T12:00:00", 0, 1780315200, 1e300])
VERSIONS = st.sampled_from(
    ["1.0.0", "1.2.0", "1.10.0", "1.2.0-rc.1", "1.2.0-rc.11", "1.2.0-rc.x", "1.2.0-1", "1.2.0+b"]
)
VERSIONLIKE = VERSIONS | st.sampled_from(
    ["1.2", "v1.2.0", "01.2.0", "1.2.0-", "1.2.0-01", "1.2.0+"]
)
VALUES = (
    st.none()
    | SCALARS
    | TIMELIKE
    | VERSIONLIKE
    | st.dictionaries(st.sampled_from(["plan", "deep", "x"]), SCALARS)
)
CONTEXTS = st.none() | st.dictionaries(
    st.sampled_from(PLACES),
    VALUES
    | HOSTILE
    | st.fixed_dictionaries({"deep": st.dictionaries(st.just("plan"), SCALARS | HOSTILE)}),
)
IDS = st.none() | WORDS | st.sampled_from([0, 1, 7]) | HOSTILE


TEXTS = WORDS.filter(bool)
NUMBERS = st.sampled_from([0, 1, 2, -1, 1.5, 2**40])


def a_word() -> st.SearchStrategy[dict[str, Any]]:
    lists, texts = st.lists(SCALARS, max_size=4), TEXTS | st.lists(TEXTS, min_size=1, max_size=3)
    operands = {
        "in": lists, "not_in": lists, "gt": NUMBERS, "gte": NUMBERS, "lt": NUMBERS, "lte": NUMBERS,
        "starts_with": texts, "ends_with": texts, "contains": texts, "present": st.booleans(),
        "before": TIMES, "after": TIMES,
        "semver": st.dictionaries(st.sampled_from(sorted(ORDERS)), VERSIONS, min_size=1),
    }  # fmt: skip
    words = st.sampled_from(sorted(operands)).flatmap(
        lambda word: st.fixed_dictionaries({word: operands[word]})
    )
    return st.lists(words, min_size=1, max_size=2).map(
        lambda several: {word: operand for each in several for word, operand in each.items()}
    )


def a_when(depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    attributes = st.dictionaries(ATTRIBUTES, SCALARS | a_word(), min_size=depth < 2, max_size=3)
    if depth == 0:
        return attributes
    inner = a_when(depth - 1).filter(bool)
    variants = st.sampled_from(["on", "off", ["on", "off"]])
    combining = {
        "$not": inner,
        "$any": st.lists(inner, min_size=1, max_size=3),
        "$all": st.lists(inner, min_size=1, max_size=3),
        "$segment": st.sampled_from(["beta", "empty", "unknown"]),
        "$flag": st.dictionaries(
            st.sampled_from(["base", "dead", "unknown"]), variants, min_size=1
        ),
    }
    combined = st.sampled_from(sorted(combining)).flatmap(
        lambda word: st.fixed_dictionaries({word: combining[word]})
    )
    return st.tuples(attributes, combined | st.just({})).map(lambda two: {**two[0], **two[1]})


@st.composite
def a_flag(draw: st.DrawFn) -> dict[str, Any]:
    variants = draw(VARIANTS)
    names = st.sampled_from(sorted(variants))
    flag: dict[str, Any] = {"variants": variants, "default": draw(names), "disabled": draw(names)}
    if draw(st.booleans()):
        flag["salt"] = draw(st.text("ab", min_size=1, max_size=3))
    if draw(st.integers(0, 9)) == 0:
        flag["enabled"] = False
    units = st.dictionaries(WORDS.filter(bool), names, max_size=3)
    flag["overrides"] = draw(st.dictionaries(ATTRIBUTES, units, max_size=2))
    rules = []
    for number in range(draw(st.integers(0, 4))):
        rule: dict[str, Any] = {"name": f"r{number}"}
        rule["when"] = draw(a_when())
        if draw(st.booleans()):
            rule["by"] = draw(ATTRIBUTES)
        if draw(st.integers(0, 3)) == 0:
            rule["salt"] = draw(st.text("ab", min_size=1, max_size=3))
        if draw(st.integers(0, 4)) == 0:
            times = sorted({draw(TIMES), draw(TIMES)}, key=lambda text: moment(text) or 0.0)
            rule |= dict(
                zip(draw(st.sampled_from([["from", "until"], ["until"]])), times, strict=False)
            )
        weights = draw(st.lists(st.integers(0, 5), min_size=2, max_size=4).filter(any))
        entries = [{"variant": draw(names), "weight": weight} for weight in weights]
        rule["serve"] = draw(names) if draw(st.booleans()) else entries
        rules.append(rule)
    flag["rules"] = rules
    return flag


KILLS = st.sampled_from([None] * 8 + [{"variant": None}, {"variant": "x"}, {"variant": "gone"}])


@settings(max_examples=300, deadline=None)
@given(a_flag(), KILLS, st.lists(st.tuples(IDS, IDS, CONTEXTS), min_size=1, max_size=6))
def test_generated_code_answers_as_the_rules_are_written(
    flag: Any, kill: Any, callers: list[tuple[Any, Any, Any]]
) -> None:
    flags = flags_of("checkout", flag, kill, SEGMENTS)
    default = object()
    for caller in callers:
        value, variant, reason, rule = reference("checkout", flag, kill, SEGMENTS, *caller)
        value = default if variant is None else value
        assert flags.evaluate("checkout", default, *caller) == Evaluation(
            value, variant, reason, None, rule, 1
        )
        assert flags.variant("checkout", *caller) == variant
        assert flags.value("checkout", default, *caller) == value
        on = value if value is True else False
        assert flags.is_enabled("checkout", *caller) is on
        assert flags.flag("checkout")(*caller) is on
        counted = flags_of("checkout", flag, kill, SEGMENTS, counting=True)
        assert counted.value("checkout", default, *caller) == value
        assert counted.variant("checkout", *caller) == variant
        assert counted.counts() == ({} if variant is None else {("checkout", variant): 2})
        told = flags.explain("checkout", *caller)
        assert told.evaluation.variant == variant
        assert told.steps[-1].endswith("default" if variant is None else f"serves {variant}")


COMPARED: list[Any] = [True, False, 0, 1, 0.0, 1.0, 1.5, 2, 2**40, "", "0", "1", "True", "pro"]
NEVER: list[Any] = [None, [], [1], {}, {"a": 1}, b"pro", ("pro",), float("nan"), "\ud800"]


@pytest.mark.parametrize("attribute", ["plan", "user.plan", "user_id"])
@pytest.mark.parametrize("wanted", COMPARED, ids=repr)
def test_values_compare_as_the_table_says(wanted: Any, attribute: str) -> None:
    """Every pair, asked by equality, in a list of one and in a list beside other types."""
    conditions = [wanted, {"in": [wanted]}, {"in": [wanted, "x", 7]}, {"in": [wanted, 1, True]}]
    for condition in conditions:
        rule = {"name": "r", "when": {attribute: condition}, "serve": "on"}
        flag = {"variants": {"on": True, "off": False}, "default": "off", "rules": [rule]}
        flags = flags_of("f", flag, None, {})
        for value in COMPARED + NEVER:
            context = {"plan": value, "user": {"plan": value}, "user_id": value}
            expected = holds(attribute, condition, lambda _, value=value: value, None, {})
            assert flags.is_enabled("f", context=context) is expected, (value, condition)


PLAIN_NUMBERS: list[Any] = [0, 1, -1, 1.0, 1.5, 2**53, 2**53 + 1, float(2**53)]
PLAIN_TEXTS: list[Any] = ["pro", "professional", "a pro", "p", "Pro", "é", "1"]
VERSION_TEXTS: list[Any] = [
    "1.0.0", "1.2.0", "1.10.0", "1.2.0-rc.1", "1.2.0-rc.11", "1.2.0-rc.x", "1.2.0-1", "1.2.0+b",
    "1.2", "v1.2.0", "01.2.0", "1.2.0-", "1.2.0-01", "1.2.0+", "1.2.0.0",
]  # fmt: skip
TIME_TEXTS: list[Any] = [
    "2026-06-01T12:00:00Z", "2026-06-01T14:00:00+02:00", "2026-06-01T12:00:00.001Z",
    "2020-02-29T23:59:59-08:00", "2026-06-01", "2026-06-01T12:00:00", "2026-W23-1T12:00:00Z",
    1780315200, 1780315200.5, "1780315200",
]  # fmt: skip
ODD: list[Any] = [None, True, False, [], ["pro"], ("a", "pro"), [1], {}, {"a": 1}, b"pro", "\ud800"]
ODD += [float("nan"), float("inf"), 10**400]
OPERANDS: dict[str, list[Any]] = {
    **dict.fromkeys(("gt", "gte", "lt", "lte"), PLAIN_NUMBERS),
    "starts_with": [*PLAIN_TEXTS, ["x", "pro"]],
    "ends_with": [*PLAIN_TEXTS, ["x", "pro"]],
    "contains": [*PLAIN_TEXTS, ["x", "pro"]],
    "semver": (
        [{order: text} for order in ORDERS for text in VERSION_TEXTS[:8]]
        + [{"gte": "1.0.0", "lt": "1.2.0"}]
    ),
    **dict.fromkeys(("before", "after"), TIME_TEXTS[:4]),
    "present": [True, False],
    "in": [[], ["pro", 1], [True, 0]],
    "not_in": [[], ["pro", 1], [True, 0]],
}


@pytest.mark.parametrize("word", OPERANDS)
def test_every_word_answers_as_its_table_says(word: str) -> None:
    """Every operand against every value, alone and turned around by $not."""
    for operand in OPERANDS[word]:
        when = {"plan": {word: operand}}
        flag = {"variants": {"on": True, "off": False}, "default": "off"}
        plain = flags_of(
            "f", {**flag, "rules": [{"name": "r", "when": when, "serve": "on"}]}, None, {}
        )
        turned = [{"name": "r", "when": {"$not": when}, "serve": "on"}]
        other = flags_of("f", {**flag, "rules": turned}, None, {})
        for value in PLAIN_NUMBERS + PLAIN_TEXTS + VERSION_TEXTS + TIME_TEXTS + ODD:
            expected = word_holds(word, value, operand)
            context = {"plan": value}
            assert plain.is_enabled("f", context=context) is expected, (operand, value)
            assert other.is_enabled("f", context=context) is not expected, (operand, value)
            # As beside a value of the application's own that cannot be compared.
            shown = plain.explain("f", context=context).steps[-1]
            assert shown.endswith("serves on" if expected else "serves off"), (operand, value)


class Raises:
    """A value of the application's own that cannot even be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __hash__(self) -> int:
        raise RuntimeError("no")


class Pretends:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no")


def deep(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"plan": found, "deep": found}
    return found


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found, "pro"]
    return found


FOREIGN: dict[str, Callable[[], Any]] = {
    "raises when compared": Raises,
    "raises when asked its class": Pretends,
    "huge text": lambda: "x" * 1_000_000,
    "deep object": lambda: deep(5000),
    "a thousand attributes": lambda: {f"a{number}": number for number in range(1000)},
    "huge int": lambda: 10**5000,
    "ellipsis": lambda: Ellipsis,
    "function": lambda: deep,
    "a million texts": lambda: ["x"] * 1_000_000,
    "deep list": lambda: nested(5000),
}
RULES = [
    {"name": "equal", "when": {"plan": "pro"}, "serve": "on"},
    {"name": "in", "when": {"plan": {"in": ["a", 1, True]}, "user.deep.plan": "x"}, "serve": "on"},
    {"name": "segment", "when": {"$segment": "beta"}, "by": "plan", "serve": "on"},
    {
        "name": "split",
        "when": {"tenant_id": "acme"},
        "by": "plan",
        "serve": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}],
    },
]
RULES += [
    {"name": word, "when": {"plan": {word: operand}, "user.deep": {"present": True}}, "serve": "on"}
    for word, operand in {
        "not_in": ["a", 1, True],
        "gt": 3,
        "lte": 2.5,
        "starts_with": "x",
        "ends_with": ["y", "z"],
        "contains": "pro",
        "semver": {"gte": "1.0.0"},
        "before": "2026-06-01T12:00:00Z",
    }.items()
]
FLAG_OF_RULES = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "overrides": {"plan": {"vip": "on"}, "user_id": {"u": "on"}},
    "rules": RULES,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_no_value_in_a_context_makes_a_call_raise(kind: str) -> None:
    value = FOREIGN[kind]()
    flags = flags_of("checkout", FLAG_OF_RULES, None, SEGMENTS)
    for context in ({"plan": value}, {"user": value}, {"user": {"deep": value}}, value):
        for ids in ((None, "acme"), (value, value)):
            answers = {
                flags.is_enabled("checkout", *ids, context),
                flags.get_bool("checkout", False, *ids, context),
                flags.flag("checkout")(*ids, context),
            }
            assert len(answers) == 1
            assert answers <= {True, False}
            assert flags.is_enabled("checkout", *ids, context, rollout_percentage=0) in answers
            assert flags.variant("checkout", *ids, context) in ("on", "off", None)


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T24:00:00Z", "2026-01-31T08:00:00+02:60", "2026-01-31T08:00:00-23:99"],
)
def test_hours_and_minutes_that_no_clock_shows_are_no_time(text: str) -> None:
    # Interpreters differ in what they read: a newer one takes hour 24, all take such offsets.
    assert seconds_of(text) is None


def test_an_explanation_ends_with_what_is_served_where_a_foreign_value_equals() -> None:
    rule = {"name": "r", "when": {"price": 1}, "serve": "on"}
    flag = {"variants": {"on": True, "off": False}, "default": "off", "rules": [rule]}
    told = flags_of("f", flag, None, {}).explain("f", context={"price": Decimal(1)})
    assert told.evaluation.variant == "on"
    assert told.steps[0] == "rule r: expected price to be 1, found a value of another type"
    assert told.steps[-1] == "a value of the application's own says otherwise: serves on"


class Plan(enum.StrEnum):
    PRO = "pro"


def test_a_text_of_the_applications_own_class_is_found_in_a_list() -> None:
    rule = {"name": "r", "when": {"plan": {"contains": "pro"}}, "serve": "on"}
    flag = {"variants": {"on": True, "off": False}, "default": "off", "rules": [rule]}
    flags = flags_of("f", flag, None, {})
    for context in ({"plan": [Plan.PRO]}, {"plan": ("x", Plan.PRO)}, {"plan": Plan.PRO}):
        assert flags.is_enabled("f", context=context)
        assert flags.explain("f", context=context).steps[-1].endswith("serves on")


def test_members_of_a_list_are_looked_up_and_not_compared_with_each_text() -> None:
    class Counted(str):
        asked = 0

        def __eq__(self, other: object) -> bool:
            Counted.asked += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    assert not contains(["x"] * 100, tuple(Counted(f"t{number}") for number in range(1000)))
    assert Counted.asked < 1000


@pytest.mark.parametrize("context", ["plan", 7, ["plan"], object()])
def test_a_flag_that_asks_nothing_is_explained_whatever_the_context(context: Any) -> None:
    flag = {"variants": {"on": True, "off": False}, "default": "on"}
    told = flags_of("f", flag, None, {}).explain("f", context=context)
    assert (told.evaluation.value, told.steps) == (True, ("the default: serves on",))


@pytest.mark.parametrize("context", ["plan", 7, ["plan"], object()])
def test_what_is_no_mapping_is_an_invalid_context(context: Any) -> None:
    flags = flags_of("checkout", FLAG_OF_RULES, None, SEGMENTS)
    found = flags.evaluate("checkout", True, None, "acme", context)
    assert (found.value, found.reason, found.error_code) == (True, "ERROR", "INVALID_CONTEXT")


def test_flags_of_one_shape_are_compiled_once() -> None:
    def flag(plan: str, weight: int) -> dict[str, Any]:
        entries = [{"variant": "on", "weight": weight}, {"variant": "off", "weight": 9}]
        rule = {"name": plan, "when": {"plan": plan}, "serve": entries}
        return {"variants": {"on": True, "off": False}, "default": "off", "rules": [rule]}

    from control_plane.feature_flags.compile import VALUES, VARIANTS, Compiler

    compiler = Compiler()
    one, two = compiler.compile("a", flag("pro", 1)), compiler.compile("b", flag("free", 90))
    functions = [one.bound(VALUES), one.bound(VARIANTS), two.bound(VALUES)]
    assert len({function.__code__.co_code for function in functions}) == 1
    assert len(compiler._templates._templates) == 1


def test_debuggers_can_hash_the_code_of_every_flag() -> None:
    from control_plane.feature_flags.compile import DETAILS, VALUES, VARIANTS, Compiler

    for variants in ({"on": {"a": [1]}, "off": {}}, {"on": [1], "off": []}):
        flag = Compiler().compile("f", {**FLAG_OF_RULES, "variants": variants, "disabled": "off"})
        for mode in (VALUES, VARIANTS, DETAILS):
            assert isinstance(hash(flag.bound(mode, (lambda *_: False,)).__code__), int)


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_no_text_of_a_flag_becomes_source(text: str) -> None:
    from control_plane.feature_flags.compile import VALUES, Compiler

    attribute = "a" + text.replace(".", "_")
    rule = {"name": text, "when": {attribute: text}, "serve": text}
    metadata = {"variants": {text: text, "other": "o"}, "default": "other", "disabled": "other"}
    function = Compiler().compile(text, {**metadata, "rules": [rule]}).bound(VALUES)
    assert function(None, None, {attribute: text}) == metadata["variants"][text]
    like = {**metadata, "rules": [{**rule, "when": {"plan": "pro"}}]}
    compiler = Compiler()
    compiler.compile(text, {**metadata, "rules": [rule]}).bound(VALUES)
    compiler.compile("f", like).bound(VALUES)
    assert len(compiler._templates._templates) == 1
    assert set(function.__code__.co_names) <= {"EMPTY", "get"}
