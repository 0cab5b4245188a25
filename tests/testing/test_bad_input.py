"""Whatever a test passes as a document: it is published, or refused and nothing has changed."""

from __future__ import annotations

import tempfile
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import ManifestInvalid
from control_plane.testing import replica

WORDS = st.sampled_from([
    "on", "off", "x", "variants", "default", "rules", "serve", "weight", "variant", "name", "by",
    "metadata", "values", "members", "shards", "version", "kind", "enabled", "tools", "when", "",
])  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text() | st.binary()
    | st.builds(object) | st.sets(st.integers(), max_size=2) | st.just("\ud800")
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | st.text(max_size=3) | st.integers(0, 1), inner, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=12,
)
NAMES = WORDS | st.text(max_size=4) | st.just("a@b") | SCALARS
DOCUMENT = {"name": "x", "metadata": {"description": "d"}}
CALLS = ["set_flag", "set_config", "set_segment", "kill", "put_agent", "put_tool", "set_status"]


def arguments(call: str) -> st.SearchStrategy[tuple[Any, ...]]:
    if call.startswith("put_"):
        return st.tuples(VALUES) | st.tuples(st.just(DOCUMENT), NAMES)
    return st.tuples(*[NAMES] * 4) if call == "set_status" else st.tuples(NAMES, VALUES)


@pytest.mark.parametrize("call", CALLS)
def test_whatever_is_passed_is_published_or_refused_in_one_line(call: str) -> None:
    with replica(flags={"keep": True}, config={"keep": {"v": 1}}) as kit:

        @settings(max_examples=60)
        @given(given=arguments(call))
        def publish_or_refuse(given: tuple[Any, ...]) -> None:
            before = kit.generation, kit._documents, kit._records
            try:
                published = getattr(kit, call)(*given)
            except ManifestInvalid as error:
                told = str(error)
            else:
                assert published == before[0] + 1 == kit.generation == kit.health().generation
                told = ""
            assert told.isprintable()
            assert not told or (kit.generation, kit._documents, kit._records) == before
            assert (kit.is_enabled("keep"), kit.config.get("keep.v")) == (True, 1)

        publish_or_refuse()


@pytest.mark.parametrize(
    ("call", "given", "told"),
    [
        (
            "set_flag",
            ("x", {"variants": {1: True}}),
            "flag/x: expected a string as key, found 1 at ",
        ),
        ("set_flag", ("x", {"default": object()}), "found object at metadata.default$"),
        (
            "set_config",
            ("n", {"a": [float("nan")]}),
            "a finite number, found nan at metadata.values.a.0",
        ),
        ("set_config", ("n", {"a": 2**53}), r"expected integers within ±\(2\^53 - 1\), found 9007"),
        ("set_config", ("n", {"a": "\ud800"}), "without lone surrogates, found '.ud800' at "),
        ("set_segment", ("s", "acme"), "segment/s: expected members or metadata, found str"),
        (
            "set_segment",
            ("s", ["a", 1]),
            r"segment/s metadata\.members\.1: expected text, found int",
        ),
        ("put_tool", ([],), "tool: expected a document as mapping, found list"),
        (
            "set_status",
            ("tool", "t", "1.0.0", "yanked"),
            "version that is published, found 'tool/t@1.0.0'",
        ),
        ("kill", (3,), "name of a flag: expected text, found int"),
    ],
)
def test_a_refusal_names_document_and_place(call: str, given: tuple[Any, ...], told: str) -> None:
    with replica() as kit, pytest.raises(ManifestInvalid, match=told):
        getattr(kit, call)(*given)


def test_a_document_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with replica() as kit, pytest.raises(ManifestInvalid, match="at most 64 levels, found more"):
        kit.set_config("n", endless)


class Word(str, Enum):  # noqa: UP042  # what a StrEnum was before there was one
    SHORT = "s"


def test_members_of_enums_are_the_values_they_hold() -> None:
    with replica(
        config={"n": {"word": Word.SHORT, "level": IntEnum("Level", "low")["low"]}}
    ) as kit:
        assert kit.config.get("n") == {"word": "s", "level": 1}


@pytest.mark.parametrize("environment", ["../outside", "", "a/b", "UPPER CASE", 5])
def test_what_is_no_environment_is_refused_before_anything_is_written(
    environment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inside").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "inside"))
    with (
        pytest.raises((TypeError, ValueError), match="environment"),
        replica(environment=environment),
    ):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]


def test_what_was_published_is_not_the_tests_to_change_afterwards() -> None:
    values = {"a": [1, 2]}
    with replica(config={"n": values}) as kit:
        values["a"].append(3)
        kit.set_flag("x", True)
        assert kit.config.get("n.a") == [1, 2]
