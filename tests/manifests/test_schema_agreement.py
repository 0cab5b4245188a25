"""A flag's JSON Schema and the reader's own check refuse the same flags.

An editor shows what the schema says, nodes and readers go by ``check_flag``. Only the schema says
how long a text may be and how a name is written, and only the check can compare one part of a flag
with another. A document with every word of the language is changed in one place, or two, by
anything else JSON can hold.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from control_plane.errors import ManifestInvalid
from control_plane.feature_flags.compile import check_flag
from control_plane.schemas import schema

FLAG: dict[str, Any] = {
    "variants": {"on": True, "off": False},
    "default": "off",
    "disabled": "off",
    "enabled": True,
    "salt": "s",
    "bucketing": "xxh3-v1",
    "flag_metadata": {"team": "a", "tier": 2, "live": True},
    "overrides": {"user_id": {"u1": "on"}, "plan.name": {"pro": "off"}},
    "rules": [
        {"name": "r1", "when": {"plan": "pro", "seats": {"gte": 1, "lt": 9}}, "serve": "on"},
        {
            "name": "r2",
            "when": {
                "$any": [{"$segment": "beta"}, {"$flag": {"other": ["on", "dim"]}}],
                "$all": [{"$not": {"country": {"in": ["DE", 1, True]}}}],
                "region": {"not_in": ["eu"]},
            },
            "from": "2026-01-01T00:00:00Z",
            "until": "2027-01-01T00:00:00Z",
            "serve": [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 3}],
            "by": "tenant_id",
            "salt": "t",
        },
        {
            "name": "r3",
            "when": {
                "a": {"starts_with": "x", "ends_with": ["y", "z"], "contains": "w"},
                "b": {"semver": {"gte": "1.2.0", "lt": "2.0.0-rc.1"}},
                "c": {"before": "2026-01-01T00:00:00Z", "after": "2025-01-01T00:00:00+01:00"},
                "d": {"present": False},
                "$flag": {"another": "on"},
                "$bucket": {
                    "range": [0, 0.5],
                    "by": "e",
                    "salt": "u",
                    "bucketing": "growthbook-v1",
                },
            },
            "serve": "off",
        },
    ],
}
WHOLE = schema("flag")
VALIDATOR = Draft202012Validator(
    {**WHOLE["properties"]["metadata"], "$defs": WHOLE["$defs"]},
    format_checker=Draft202012Validator.FORMAT_CHECKER,
)
LENGTHS = {f"{most}{what}" for most in ("min", "max") for what in ("Length", "Items", "Properties")}
NAMES = (WHOLE["properties"]["name"]["pattern"], WHOLE["$defs"]["variant_name"]["pattern"])
# Begins of what only somebody who compares two parts of a flag can say.
COMPARED = (
    "one of the variants ",
    "a name no other rule has",
    "weights with a sum",
    "two numbers from 0 to 1, the second one larger",
    "a time after",
    "a variant (only a flag with one false variant has one)",
    "no targeting beside rules",
    # Of the second variant, as the first is of that type.
    *("bool, ", "string, ", "number, ", "object, ", "array, "),
)

Path = tuple[str | int, ...]


def paths(part: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a document."""
    yield path
    entries: Any = part.items() if isinstance(part, dict) else ()
    for step, inner in enumerate(part) if isinstance(part, list) else entries:
        yield from paths(inner, (*path, step))


WORDS = sorted({step for path in paths(FLAG) for step in path if isinstance(step, str)})
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.just(0.5), st.sampled_from(WORDS),
    st.sampled_from(["", "x", "$x", "a..b", "2026-01-01T00:00:00Z", "1.2.0", "1.2"]),
    st.just("targetingKey"),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*WORDS, "x", "$x", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """The flag with one place or two changed, taken away or put beside another."""
    flag: Any = copy.deepcopy(FLAG)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from([each for each in paths(flag) if each]))
        holder = flag
        for step in path[:-1]:
            holder = holder[step]
        how = draw(st.sampled_from(["set", "take", "add"]))
        if how == "take":
            del holder[path[-1]]
        elif how == "set":
            holder[path[-1]] = draw(VALUES)
        elif isinstance(holder, list):
            holder.append(draw(VALUES))
        else:
            holder[draw(st.sampled_from([*WORDS, "x", "$x", ""]))] = draw(VALUES)
        if not flag:
            break
    return dict(flag)


def refused_by_check(flag: dict[str, Any]) -> str | None:
    """What the reader's check expected instead, None where it is content."""
    try:
        check_flag(flag)
    except ManifestInvalid as error:
        return str(error).partition("expected ")[2]
    return None


def of_length_or_name(error: Any) -> bool:
    """Whether only a length or a name made a document fail, on one branch at least."""
    branches: dict[Any, list[Any]] = {}
    for each in error.context:
        branches.setdefault(each.schema_path[0], []).append(each)
    if not branches:
        return error.validator in LENGTHS or error.validator_value in NAMES
    return any(all(map(of_length_or_name, branch)) for branch in branches.values())


def test_the_whole_language_is_sound() -> None:
    assert refused_by_check(FLAG) is None
    assert list(VALIDATOR.iter_errors(FLAG)) == []


@settings(max_examples=1500, deadline=None)
@given(flag=changed())
def test_the_schema_refuses_what_the_check_refuses_and_nothing_else(flag: dict[str, Any]) -> None:
    expected = refused_by_check(flag)
    errors = list(VALIDATOR.iter_errors(flag))
    if expected is None:
        assert all(map(of_length_or_name, errors)), errors
    elif not errors:
        assert expected.startswith(COMPARED), expected


@pytest.mark.parametrize("path", list(paths(FLAG))[1:], ids=lambda path: ".".join(map(str, path)))
def test_an_object_in_any_place_is_refused_by_both_or_by_none(path: Path) -> None:
    flag: Any = copy.deepcopy(FLAG)
    holder = flag
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = {"": None}
    # Only the check compares a variant with the one before it.
    if path[0] != "variants" or len(path) == 1:
        assert (refused_by_check(flag) is None) is VALIDATOR.is_valid(flag)
