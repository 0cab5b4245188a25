"""Flags with ``targeting`` against openfeature-flagd-core, flagd's own evaluator in Python."""

from __future__ import annotations

import copy
import logging
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.compile import check_flag
from control_plane.feature_flags.flag_manager import PinnedFlags
from control_plane.feature_flags.table import Library
from control_plane.replica.format import FLAG, encode_record, record_key

core = pytest.importorskip(
    "openfeature.contrib.tools.flagd.core", reason="needs openfeature-flagd-core"
)
from openfeature.evaluation_context import EvaluationContext  # noqa: E402
from openfeature.exception import OpenFeatureError  # noqa: E402

logging.getLogger("openfeature.contrib").addFilter(lambda record: False)

NAME = "new_checkout"
VARIANTS = {"on": "1", "off": "0", "true": "yes", "false": "no", "1": "one"}


class Snapshot:
    """One flag's record in memory, where a manager expects a view."""

    txn_id = 1

    def __init__(self, metadata: Any) -> None:
        self._key = record_key(FLAG, NAME)
        body = msgpack.packb({"m": metadata, "k": None})
        self._record = encode_record(self._key, FLAG, body, head_generation=1, served_generation=1)

    def read(self, *keys: bytes) -> list[bytes | None]:
        return [self._record if key == self._key else None for key in keys]


def ours(targeting: Any, default: str | None, attributes: Any) -> tuple[Any, ...]:
    metadata = {
        "variants": VARIANTS,
        "default": default,
        "disabled": None,
        "targeting": targeting,
    }
    check_flag(metadata)
    flags = PinnedFlags(Library(), Snapshot(metadata), None)  # type: ignore[arg-type]
    found = flags.evaluate(NAME, "code", context=attributes)
    return found.value, found.variant, found.reason, found.error_code


def theirs(targeting: Any, default: str | None, attributes: Any) -> tuple[Any, ...]:
    evaluator = core.FlagdCore()
    flag = {"state": "ENABLED", "variants": VARIANTS, "defaultVariant": default}
    evaluator.set_flags({"flags": {NAME: {**flag, "targeting": copy.deepcopy(targeting)}}})
    rest = {name: attributes[name] for name in attributes if name != "targetingKey"}
    context = EvaluationContext(attributes.get("targetingKey"), rest)
    try:
        found = evaluator.resolve_string_value(NAME, "code", context)
    except OpenFeatureError as error:
        return "code", None, "ERROR", error.error_code.value
    except Exception:
        # What the client around it makes of any other.
        return "code", None, "ERROR", "GENERAL"
    return found.value, found.variant, str(found.reason.value), None


TEXTS = st.sampled_from(
    ["", "a", "b", "ab", "on", "off", "true", "5", " 5 ", "1_0", "inf", "nan", "1e3", "é", "null",
     "a,b", "1.2.3", "v1.2", "1.2.3-rc.1", "2.0.0+x", "[object Object]", "infinity", "-1", "0"]
)  # fmt: skip
NUMBERS = st.sampled_from([0, 1, -1, 2, 5, 10, 0.5, 1.5, -2.5, 2**40, 1e30]) | st.integers(-3, 30)
SCALARS = TEXTS | NUMBERS | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, max_size=2)
    ),
    max_leaves=5,
)
NAMES = ["a", "b", "email", "user", "items", "version"]
PATHS = st.sampled_from(
    [*NAMES, "targetingKey", "user.name", "user.a.b", "items.0", "items.length", "email.length",
     "user.name.length", "$flagd.flagKey", "$flagd", "", "missing", "items.1.a", "user.", "items.x"]
)  # fmt: skip
CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(NAMES, VALUES),
        "items": st.lists(VALUES, max_size=4),
        "user": st.dictionaries(st.sampled_from(["a", "name"]), VALUES, max_size=2),
        "version": TEXTS | NUMBERS,
        "targetingKey": st.sampled_from(["", "u1", "u2", "u3", "jane@example.com", "é", "x" * 30]),
    },
)
EAGER = [
    "==", "!=", "===", "!==", "<", "<=", ">", ">=", "!", "!!", "+", "-", "*", "/", "%", "min",
    "max", "cat", "substr", "in", "merge", "starts_with", "ends_with", "sem_ver", "missing",
    "missing_some",
]  # fmt: skip
LAZY = ["if", "?:", "and", "or", "map", "filter", "reduce", "all", "some", "none"]
COMPARED = ["==", "!=", "===", "!==", "<", "<=", ">", ">="]


def operation(op: str, operands: Any) -> Any:
    return {op: operands}


def operations(inner: Any) -> Any:
    """Operators over expressions, those that flags have most first."""
    var = st.builds(operation, st.just("var"), PATHS | st.tuples(PATHS, inner).map(list))
    item = st.builds(
        operation, st.just("var"), st.sampled_from(["", "a", "current", "accumulator"])
    )
    each = item | st.builds(
        operation, st.sampled_from([*EAGER, "if", "and"]), st.lists(item | inner, max_size=3)
    )
    constant = st.builds(operation, st.sampled_from(COMPARED), st.tuples(var, SCALARS).map(list))
    flipped = st.builds(operation, st.sampled_from(COMPARED), st.tuples(SCALARS, var).map(list))
    listed = st.builds(
        operation, st.just("in"), st.tuples(var, st.lists(SCALARS, max_size=4)).map(list)
    )
    affix = st.builds(
        operation,
        st.sampled_from(["starts_with", "ends_with", "in"]),
        st.tuples(var, TEXTS).map(list) | st.tuples(TEXTS, var).map(list),
    )
    version = st.builds(
        operation,
        st.just("sem_ver"),
        st.tuples(var, st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "^", "~", "x"]), TEXTS)
        .map(list),
    )  # fmt: skip
    bucket = st.tuples(inner, st.integers(-2, 60) | inner).map(list) | inner.map(lambda v: [v])
    fixed = st.lists(
        st.tuples(st.sampled_from(["on", "off", None, True, 1]), st.integers(-2, 60)).map(list),
        min_size=1,
        max_size=4,
    )
    fraction = st.builds(
        operation,
        st.just("fractional"),
        fixed | st.tuples(inner, fixed).map(lambda both: [both[0], *both[1]])
        | st.lists(bucket, min_size=1, max_size=3),
    )  # fmt: skip
    eager = st.builds(operation, st.sampled_from(EAGER), st.lists(inner, max_size=4) | inner)
    lazy = st.builds(operation, st.sampled_from(LAZY[:4]), st.lists(inner, max_size=5))
    iterated = st.builds(
        operation,
        st.sampled_from(LAZY[4:]),
        st.tuples(var | inner, each).map(list) | st.tuples(var, each, SCALARS).map(list),
    )
    return st.one_of(
        var, var, constant, constant, flipped, listed, affix, version, fraction, eager, lazy,
        iterated, st.lists(inner, max_size=2),
    )  # fmt: skip


EXPRESSIONS = st.recursive(SCALARS, operations, max_leaves=8)
RESULTS = st.sampled_from(["on", "off", True, False, None, 1])
TARGETINGS = (
    operations(EXPRESSIONS)
    | st.builds(operation, st.just("if"), st.tuples(EXPRESSIONS, RESULTS, RESULTS).map(list))
    | st.builds(
        operation, st.just("if"),
        st.tuples(EXPRESSIONS, RESULTS, EXPRESSIONS, RESULTS, operations(EXPRESSIONS)).map(list),
    )
)  # fmt: skip


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(TARGETINGS, st.sampled_from(["off", None]), CONTEXTS)
@example({"==": [{"var": "a"}, 0]}, "off", {})
@example({"fractional": [{"var": "a"}, ["on", 1], ["off", 1]]}, "off", {"a": [["on", 1]]})
def test_an_accepted_expression_answers_as_flagd_core_does(
    targeting: Any, default: str | None, attributes: dict[str, Any]
) -> None:
    assume(isinstance(targeting, dict))
    try:
        answer = ours(targeting, default, attributes)
    except ManifestInvalid:
        assume(False)
    assert answer == theirs(targeting, default, attributes)


def var(name: str) -> dict[str, str]:
    return {"var": name}


def asks(condition: Any) -> dict[str, Any]:
    return {"if": [condition, "on", "off"]}


A, B = var("a"), var("b")
CASES: list[tuple[Any, list[Any]]] = [
    # Truth, of each kind of value, in each place that asks for it.
    *(
        (targeting, [None, False, True, 0, 1, -0.0, "", "0", [], [0], {}, {"a": 0}])
        for targeting in (
            asks(A), asks({"!": [A]}), asks({"!!": [A]}), asks({"and": [A, True]}), {"and": [A,
             "on"]},
            {"or": [A, "on"]}, {"if": [{"or": [A, 0]}, "on"]}, asks({"filter": [[1],
             {"!": [{"!": A}]}]}),
            asks({"if": [A, "", "x"]}), asks({"if": [A, "x"]}), {"and": [A, "", "on"]},
            asks({"and": [{"var": "$flagd.flagKey"}, A]}), {"or": [{"var": "$flagd.none"}, A]},
        )
    ),
    # Equality across kinds.
    *(
        (asks({op: [A, wanted]}), [None, True, False, 0, 1, 5, 5.0, "5", " 5", "", "a", [5], ["a"],
                                   [1, 2], "1,2", {}, "[object Object]", "null", "inf"])
        for op in ("==", "!=", "===", "!==")
        for wanted in (5, "5", True, False, None, "", "a", [5], ["a"], 0, "[object Object]", "inf")
    ),
    (asks({"==": [A, B]}), [[1], {"x": 1}, "x", None]),
    (asks({"===": [A, B]}), [[1], {"x": 1}, "x", None]),
    (asks({"==": [A, A]}), [[1], {}, float("inf")]),
    # Order.
    *(
        (asks({op: [A, wanted]}), [None, True, 4, 5, 6, 5.5, "5", "10", "b", "", [6], [], {}])
        for op in ("<", "<=", ">", ">=")
        for wanted in (5, "5", "a", None, [5])
    ),
    *((asks({op: [1, A, 5]}), [0, 1, 3, 5, 6, "3", None]) for op in ("<", "<=", ">", ">=")),
    # Lists and text.
    (asks({"in": [A, ["a", 1, None]]}), ["a", "b", "1", 1, 1.0, True, None, ["a"]]),
    (asks({"in": ["b", A]}), ["abc", "xyz", ["b"], ["abc"], None, {}]),
    (asks({"in": [A, "a1,b"]}), ["a", 1, "x", ["1", "b"], None, ""]),
    (asks({"starts_with": [A, "ab"]}), ["abc", "a", 1, None, ["abc"], ""]),
    ({"starts_with": [A, "ab"]}, ["abc", "a", 1, None]),
    ({"ends_with": ["abc", A]}, ["bc", "x", 1, None]),
    *(
        (asks({"==": [{"substr": ["abcdef", *rest]}, A]}), ["", "ab", "cde", "bcdef", "ef", "c",
         "f"])
        for rest in ([2, 3], [2, 1], [1], [-2], [-2, 1], [0, -4], [-9, 2], [9], ["x"], [2, "y"],
         [None, 2])
    ),
    (asks({"==": [{"cat": [A, "-", B, 1.5, True, None]}, "x-x1.5Truenull"]}), ["x", "y"]),
    (asks({"==": [{"merge": [A, 1, [2]]}, "1,1,2"]}), [1, [1], [[1]], None]),
    # Numbers.
    *(
        (asks({"==": [{op: [A, 3]}, wanted]}), [7, -7, "7", True, None, 1.5, [7], "x", {}])
        for op, wanted in (
            ("+", 10), ("-", 4), ("*", 21), ("%", 1), ("%", 2), ("min", 3), ("max", 7), ("max", 3),
            ("/", 0.5),
        )
    ),
    (asks({"<": [{"-": [A]}, 0]}), [1, -1, "1", None]),
    (asks({"/": [1, A]}), [0, 1, None, "x"]),
    # Attributes.
    *(
        (asks({"==": [{"var": [name, "d"]}, wanted]}), [None, 0, "", "xy", ["x", "y"],
         {"0": "x"}, {"b": "x"}])
        for name in ("a", "a.0", "a.b", "a.length", "a.1", "a.-1", "a.00", "a.x")
        for wanted in ("x", "d", 2, "y")
    ),
    (asks({"==": [{"var": [A, "d"]}, "d"]}), ["a", "b", 1, None, "", True]),
    (asks({"missing": [A, "b", "none"]}), ["a", ["a", "b"], [], None]),
    (asks({"missing": ["a", "b"]}), ["", 0, None, "x"]),
    (asks({"missing_some": [1, ["a", "none"]]}), ["", "x"]),
    # Versions.
    *(
        ({"sem_ver": [A, op, wanted]},
         ["1.2.3", "v1.2.3", "V1.2.3", "1.2", "1", 1, 1.2, "1.2.3-rc.1", "1.2.3-rc.2",
          "1.2.3-rc.10",
          "1.2.3-rc", "1.2.3-1", "1.2.3+b", "1.2.3-01", "01.2.3", "1.2.3.4", "", None, True,
           "1.3.0",
          "2.0.0", "1.2.3-", "1-a", "1.2.3-rc.1.1"])
        for op in ("=", "!=", "<", "<=", ">", ">=", "^", "~", "==")
        for wanted in ("1.2.3", "1.2.3-rc.2", "1")
    ),
    # Each member of a list.
    (asks({"some": [A, {"==": [var(""), 1]}]}), [[1], [2], [], None, "1"]),
    (asks({"all": [A, {"==": [var(""), 1]}]}), [[1], [1, 2], [], None]),
    (asks({"none": [A, {"==": [var("x"), 1]}]}), [[{"x": 1}], [{}], [], None]),
    (asks({"==": [{"reduce": [A, {"+": [var("current"), var("accumulator")]}, 1]}, 7]}), [[1, 5],
     [], 6]),
    (asks({"==": [{"map": [A, {"*": [var(""), 2]}]}, "2,4"]}), [[1, 2], [1], None]),
    (asks({"==": [{"filter": [A, {">": [var(""), 1]}]}, "2"]}), [[1, 2], [1], None]),
    # Fractions: units of each kind, computed weights and results.
    *(
        ({"fractional": [A, *buckets]},
         ["u", "", "x" * 24, 1, 1.0, 1.5, True, None, {"b": 1}, [], ["on", 1], ["on"], ["x", "y",
          "z"]])
        for buckets in (
            [["on", 1], ["off", 1]], [["on"], ["off", 3], ["true", 0]], [["on", -5], ["off", 1]],
            [["on", 0], ["off", 0]], [["on", {"+": [1, 1]}], ["off", 1]], [[A, 1], ["off", 0]],
            [[None, 1], ["on", 1]], [[True, 1], [1, 1]], [{"merge": ["on", 1]}, ["off", 1]],
            [["on", {"var": "b"}], ["off", 7]], [["on", {"-": [-9, 1]}], ["off", 7]],
        )
    ),
    ({"fractional": [["on", 1], ["off", 1], ["true", 1]]}, [1]),
    ({"fractional": [{"cat": [var("$flagd.flagKey"), A]}, ["on", 1], ["off", 1]]}, ["u", 1, None]),
    # Results.
    (A, ["on", "true", True, False, None, 1, 2, "", "none", [], {}, 1.5]),
]  # fmt: skip


@pytest.mark.parametrize(("targeting", "values"), CASES, ids=lambda case: str(case)[:60])
def test_this_expression_answers_as_flagd_core_does(targeting: Any, values: list[Any]) -> None:
    for value in values:
        for key in ("u1", "u2", "u3", ""):
            attributes = {"a": value, "b": copy.deepcopy(value), "targetingKey": key}
            found = ours(targeting, "off", attributes)
            assert found == theirs(targeting, "off", attributes), (value, key)
