"""The targets of ``fuzz_targets.py``, and how their valid bytes are changed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import strategies as st

HERE = Path(__file__).parent

NAMES = (
    "yaml", "place", "json", "strict", "canonical", "statement change-set", "statement trust",
    "statement snapshot", "statement epoch", "envelope", "submission", "trust offer", "leaf",
    "change file", "change list", "note", "checkpoint", "witnessed checkpoint",
    "checkpoint text", "vkey", "tile path",
    "entry bundle", "frontier", "head", "root", "targets", "policy root", "policy targets",
    "trust.json", "private key", "public key", "document flag", "document segment",
    "document config", "document agent", "document tool", "compiled", "resolved", "shard", "record",
    "head key", "held entry", "config record", "registry record", "manifest record",
    "header page", "flag record", "segment record", "follow", "moved epoch",
)  # fmt: skip
"""The targets; a list of its own, because making them takes keys and files."""

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 255, 1 << 31, (1 << 53) - 1, 1 << 53, 1 << 63, 0.5, -0.0, 1e308,
    "", "x", "\0", "\n", "a\nb", "\x1b[2J", "é", "\u2028", "*", "..", "/", "%s", "9" * 5000,
    "a" * 70_000, "==9", "1!1",
    [], {}, [[]], [{}], {"": None}, {"x": 1}, [None], ["a", "a"],
]  # fmt: skip
ODD_BYTES = (
    b"\0", b"\xff", b"\n", b"\r", b"\n\n", b'"', b"\\", b"{", b"[", b"]", b":", b",", b"%", b"&a ",
    b"*a ", b"!x ", b"- ", b"? ", b"---\n", b"...\n", b"\xe2\x80\x94 ", b"\xed\xa0\x80", b"1e999",
    b"NaN", b"\\ud800", b"9" * 30, b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xc7\x08\xff", b"\xd4\x01",
    b"\xef\xbb\xbf", b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8", b"\x1b[2J",
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``target_name`` once for each target."""
    if "target_name" in metafunc.fixturenames:
        metafunc.parametrize("target_name", NAMES)


@pytest.fixture
def target_names() -> tuple[str, ...]:
    """The names tests run for."""
    return NAMES


def _load() -> Any:
    # The fuzzer's own process imports the same file by its name; tests have no folder to import it.
    spec = importlib.util.spec_from_file_location("fuzz_targets", HERE / "fuzz_targets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_targets"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every target by name."""
    made: dict[str, Any] = _load().all_targets(tmp_path_factory.mktemp("targets"))
    return made


@pytest.fixture(scope="session")
def changed() -> Callable[[Any], st.SearchStrategy[bytes]]:
    """A target's valid bytes after a few changes, of the bytes or of what they hold."""
    return _changed


def _changed(target: Any) -> st.SearchStrategy[bytes]:
    @st.composite
    def draw_one(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(target.seeds))
        if target.form != "bytes" and draw(st.integers(0, 3)):
            return _of_another_content(draw, data, target.form)
        for _ in range(draw(st.integers(1, 3))):
            data = _of_other_bytes(draw, data)
        return data

    return draw_one()


def _of_other_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Flip, delete, duplicate, move or insert a part."""
    start = draw(st.integers(0, len(data)))
    stop = min(len(data), start + draw(st.integers(0, 40)))
    before, part, after = data[:start], data[start:stop], data[stop:]
    change = draw(st.sampled_from(("flip", "delete", "twice", "move", "insert", "cut")))
    if change == "flip":
        return (
            before
            + bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in part[:2])
            + data[start + 2 :]
        )
    if change == "delete":
        return before + after
    if change == "twice":
        return before + part + part + after
    if change == "move":
        return part + before + after
    if change == "insert":
        return before + draw(st.sampled_from(ODD_BYTES)) + part + after
    return before


def _of_another_content(draw: st.DrawFn, data: bytes, form: str) -> bytes:
    value = json.loads(data) if form == "json" else msgpack.unpackb(data)
    for _ in range(draw(st.integers(1, 2))):
        value = _replaced(draw, value)
    if form == "json":
        # Sorted and close, as the canonical form is for all but odd floats and keys.
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "surrogatepass")
    try:
        return bytes(msgpack.packb(value))
    except (OverflowError, ValueError):
        return b""


def _replaced(draw: st.DrawFn, value: Any) -> Any:
    """The value with one part of it deleted, doubled, exchanged for another part, or made odd."""
    places = list(_places(value, ()))
    place = draw(st.sampled_from(places))
    change = draw(st.sampled_from(("odd", "odd", "delete", "other", "wrap", "named")))
    if not place or change == "odd":
        return _put(value, place, draw(st.sampled_from(ODD)))
    if change == "other":
        return _put(value, place, _get(value, draw(st.sampled_from(places))))
    if change == "wrap":
        return _put(value, place, [_get(value, place)])
    if change == "named":
        return _put(value, (*place[:-1], draw(st.sampled_from(("x", "", 0)))), _get(value, place))
    return _put(value, place, _GONE)


_GONE = object()


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*path, key))


def _get(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, dict):
        inner = new if not rest else _put(value[key], rest, new)
        left = {name: item for name, item in value.items() if name != key}
        return left if inner is _GONE else {**left, str(key): inner}
    position = key if isinstance(key, int) else 0
    inner = new if not rest else _put(value[position], rest, new)
    return [*value[:position], *([] if inner is _GONE else [inner]), *value[position + 1 :]]
