"""At the edge of types: the table of docs/openfeature.md, asked through the SDK's client."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.openfeature import ControlPlaneProvider
from control_plane.testing import replica
from openfeature import api

PAGE = Path(__file__).resolve().parents[2] / "docs" / "openfeature.md"
MISMATCH = "TYPE_MISMATCH"
OBJECT = {"a": [1, {"b": 2.5}]}

# What the flag serves, what is asked for with which default, what is answered.
TABLE: list[tuple[Any, str, Any, Any]] = [
    (True, "boolean", False, True),
    (1, "boolean", False, MISMATCH),
    ("true", "boolean", False, MISMATCH),
    ("1", "string", "d", "1"),
    (1, "string", "d", MISMATCH),
    (True, "string", "d", MISMATCH),
    (2, "integer", 7, 2),
    (2.0, "integer", 7, 2),
    (-0.0, "integer", 7, 0),
    (2.5, "integer", 7, MISMATCH),
    (2**53 - 1, "integer", 7, 2**53 - 1),
    (True, "integer", 7, MISMATCH),
    ("2", "integer", 7, MISMATCH),
    (2, "float", 0.7, 2.0),
    (2.5, "float", 0.7, 2.5),
    (2.5, "float", 7, 2.5),
    (True, "float", 0.7, MISMATCH),
    ("2.5", "float", 0.7, MISMATCH),
    (OBJECT, "object", {}, OBJECT),
    (OBJECT, "object", None, OBJECT),
    (OBJECT, "object", [], MISMATCH),
    ([1, "a"], "object", [], [1, "a"]),
    ([1, "a"], "object", (), [1, "a"]),
    ([1, "a"], "object", None, [1, "a"]),
    ([1, "a"], "object", {}, MISMATCH),
    ({}, "object", {"d": 1}, {}),
    ("{}", "object", {}, MISMATCH),
    (1, "object", {}, MISMATCH),
    (True, "object", None, MISMATCH),
    (OBJECT, "string", "d", MISMATCH),
    ([1], "boolean", True, MISMATCH),
]
OTHERS = {bool: (True, False), str: ("other", "more"), int: (3, 4), float: (3, 4)}
STRUCTURES: dict[type, tuple[Any, Any]] = {dict: ({"o": 1}, {"o": 2}), list: ([3], [4])}


def flag_serving(value: Any) -> dict[str, Any]:
    """A flag of the value's type that serves it."""
    first, second = {**OTHERS, **STRUCTURES}[type(value)]
    other = first if first != value else second
    return {"variants": {"it": value, "other": other}, "default": "it", "disabled": None}


@pytest.fixture(scope="module")
def flags() -> Iterator[Any]:
    named = {f"f{n}": flag_serving(row[0]) for n, row in enumerate(TABLE)}
    nothing = {"variants": {"a": {}, "b": {"c": 1}}, "default": None, "disabled": None}
    with replica(flags={**named, "nothing": nothing}) as kit:
        yield kit


@pytest.mark.parametrize(("number", "row"), list(enumerate(TABLE)))
def test_a_value_of_one_type_is_asked_for_as_another(
    flags: Any, number: int, row: tuple[Any, str, Any, Any]
) -> None:
    _, kind, default, answer = row
    api.set_provider(ControlPlaneProvider(flags))
    client = api.get_client()
    found = getattr(client, f"get_{kind}_details")(f"f{number}", default)
    awaited = asyncio.run(getattr(client, f"get_{kind}_details_async")(f"f{number}", default))
    if answer is MISMATCH:
        assert (found.error_code, found.reason, found.variant) == (MISMATCH, "ERROR", None)
        assert re.fullmatch(r"flag/f\d+ \(test\): expected \w+, found \w+", found.error_message)
        answer = default
    else:
        assert (found.error_code, found.reason, found.variant) == (None, "STATIC", "it")
    assert found.value == answer
    assert type(found.value) is type(answer)
    assert awaited == found


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        ("boolean", True),
        ("string", "d"),
        ("integer", 7),
        ("float", 0.7),
        ("float", 7),
        ("object", {"d": 1}),
        ("object", [1]),
    ],
)
def test_a_null_variant_is_the_codes_default_whatever_is_asked_for(
    flags: Any, kind: str, default: Any
) -> None:
    api.set_provider(ControlPlaneProvider(flags))
    found = getattr(api.get_client(), f"get_{kind}_details")("nothing", default)
    assert (found.value, found.variant, found.reason) == (default, None, "DEFAULT")
    assert found.error_code is None


DEFAULTS = {"boolean": False, "string": "d", "integer": 7, "float": 0.7, "object": {}}
ROW = re.compile(r"^\| `([^`]+)` \| (.+) \|$", re.MULTILINE)


def rows_of_the_page() -> list[tuple[Any, list[str]]]:
    """(value, what each getter answers) of each line about a value."""
    rows = [(found[1], found[2].split(" | ")) for found in ROW.finditer(PAGE.read_text("utf-8"))]
    return [
        (ast.literal_eval(value), cells)
        for value, cells in rows
        if len(cells) == 5 and value[0] != "d"
    ]


@pytest.mark.parametrize(("value", "cells"), rows_of_the_page())
def test_the_page_says_what_is_answered(value: Any, cells: list[str]) -> None:
    with replica(flags={"f": flag_serving(value)}) as kit:
        api.set_provider(ControlPlaneProvider(kit))
        client = api.get_client()
        found = [getattr(client, f"get_{kind}_details")("f", DEFAULTS[kind]) for kind in DEFAULTS]
        told = ["mismatch" if each.error_code else f"`{each.value!r}`" for each in found]
        assert told == cells


def test_the_page_has_a_line_for_every_scalar_type() -> None:
    assert {type(value) for value, _ in rows_of_the_page()} == {bool, int, float, str}
