"""What each annotation takes, exactly, and how a refusal names the place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.configs.conversion import Unfit, converter


class Level(Enum):
    LOW = 1
    HIGH = "high"


@dataclass
class Item:
    name: str
    inner: Item | None = None


@dataclass
class All:
    whole: int = 0
    number: float = 0.0
    text: str = ""
    flag: bool = False
    maybe: int | None = None
    either: int | str = 0
    one_of: Literal["a", 2, True] = "a"
    level: Level = Level.LOW
    items: list[Item] = field(default_factory=list)
    fixed: tuple[int, ...] = ()
    limits: dict[str, float] = field(default_factory=dict)
    table: Mapping[str, list[int]] = field(default_factory=dict)
    at: datetime | None = None
    path: Path = Path()
    anything: Any = None
    model: str = field(default="", metadata={"key": "gpt-4.1"})
    made: int = field(default=7, init=False)


TAKEN: list[tuple[str, Any, Any]] = [
    ("whole", 5, 5),
    ("whole", 5.0, 5),
    ("number", 5, 5.0),
    ("number", 0.5, 0.5),
    ("text", "5", "5"),
    ("flag", True, True),
    ("maybe", None, None),
    ("maybe", 3.0, 3),
    ("either", "x", "x"),
    ("one_of", 2, 2),
    ("one_of", True, True),
    ("level", "high", Level.HIGH),
    ("items", [{"name": "a", "inner": {"name": "b"}}], [Item("a", Item("b"))]),
    ("fixed", [1, 2.0], (1, 2)),
    ("limits", {"a": 1}, {"a": 1.0}),
    ("table", {"a": [1]}, {"a": [1]}),
    ("at", "2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
    ("path", "/srv/x", Path("/srv/x")),
    ("anything", {"a": [None]}, {"a": [None]}),
]

REFUSED: list[tuple[str, Any, str, tuple[str | int, ...]]] = [
    ("whole", True, "expected a whole number, found true", ("whole",)),
    ("whole", 0.5, "expected a whole number, found a number with a fraction", ("whole",)),
    ("whole", "5", "expected a whole number, found text", ("whole",)),
    ("whole", None, "expected a whole number, found null", ("whole",)),
    ("number", False, "expected a number, found false", ("number",)),
    ("text", 5, "expected text, found a number", ("text",)),
    ("flag", 1, "expected true or false, found a number", ("flag",)),
    ("flag", "true", "expected true or false, found text", ("flag",)),
    ("maybe", "x", "expected a whole number or null, found text", ("maybe",)),
    ("one_of", 1, "expected one of a, 2, True, found a number", ("one_of",)),
    ("one_of", "b", "expected one of a, 2, True, found other text", ("one_of",)),
    ("level", True, "expected one of 1, high, found true", ("level",)),
    ("items", {}, "expected a list, found a mapping", ("items",)),
    ("items", [{"name": 1}], "expected text, found a number", ("items", 0, "name")),
    (
        "items",
        [{"name": "a", "inner": {"name": "b", "inner": {}}}],
        "expected a value, found none",
        ("items", 0, "inner", "inner", "name"),
    ),
    ("fixed", [1, "2"], "expected a whole number, found text", ("fixed", 1)),
    ("limits", {"a.b": None}, "expected a number, found null", ("limits", "a.b")),
    (
        "at",
        "2026-01-01",
        "expected a time in ISO 8601 with an offset or null, found a time without one",
        ("at",),
    ),
    ("path", 1, "expected text, found a number", ("path",)),
]


@pytest.mark.parametrize(("name", "value", "converted"), TAKEN)
def test_a_value_that_is_taken_is_of_its_type(name: str, value: Any, converted: Any) -> None:
    found = getattr(converter(All)({name: value}), name)
    assert (found, type(found)) == (converted, type(converted))


@pytest.mark.parametrize(("name", "value", "message", "path"), REFUSED)
def test_a_value_that_is_not_is_refused_by_its_place(
    name: str, value: Any, message: str, path: tuple[str | int, ...]
) -> None:
    with pytest.raises(Unfit) as refused:
        converter(All)({name: value})
    assert (str(refused.value), refused.value.path) == (message, path)


def test_a_field_may_have_another_key_and_unknown_keys_are_left_out() -> None:
    made = converter(All)({"gpt-4.1": "x", "model": "y", "made": 9, "unknown": 1})
    assert (made.model, made.made) == ("x", 7)


def test_what_a_class_refuses_itself_is_told() -> None:
    @dataclass
    class Window:
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    with pytest.raises(Unfit, match=r"values it refuses \(low is above high\)"):
        converter(Window)({"low": 2, "high": 1})


@pytest.mark.parametrize(
    "annotation", [set[int], tuple[int, str], dict[int, str], complex, list[bytes]]
)
def test_an_annotation_without_a_rule_is_misuse(annotation: Any) -> None:
    broken = dataclass(type("Broken", (), {"__annotations__": {"field": annotation}}))
    with pytest.raises(TypeError, match=r"Broken\.field: expected a type"):
        converter(broken)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = [each for each, _, _ in TAKEN]


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_json_is_converted_or_refused_in_one_line(values: dict[str, Any]) -> None:
    refused = None
    try:
        made = converter(All)(values)
    except Unfit as error:
        refused = error
    if refused is None:
        assert isinstance(made, All)
    else:
        assert refused.path[0] in values
        assert "\n" not in str(refused)
