"""Four times the bytes cost about four times the work, and what is refused is refused early.

Work is counted, not timed: the calls a reader makes, of Python and of C. Where one C call could
hide a product (a YAML parser, a regular expression) the input is so large that such a call would
not end within the test's time limit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from control_plane.errors import ControlPlaneError, SyntaxInvalid
from control_plane.log.statements import Change, ChangesBlob, decode_change_list, encode_change_list
from control_plane.log.tiles import decode_entries
from control_plane.manifests.loader import load_json, load_yaml

SMALL = 500


def calls(read: Callable[[bytes], object], data: bytes) -> int:
    """How many calls reading makes, whether it ends in a value or a refusal."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        read(data)
    except ControlPlaneError:
        pass
    finally:
        sys.setprofile(before)
    return count


def change_list(size: int) -> bytes:
    changes = [Change(action="delete", kind="flag", name=f"f{i}", replaces=i) for i in range(size)]
    return encode_change_list(changes)


GROWING: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "keys": ("yaml", lambda size: b"".join(b"k%d: v\n" % i for i in range(size))),
    "items": ("yaml", lambda size: b"- x\n" * size),
    "flow items": ("yaml", lambda size: b"[" + b"x, " * size + b"]"),
    "branches": (
        "yaml",
        lambda size: b"".join(b"k%d: {a: [b, {c: d}]}\n" % i for i in range(size)),
    ),
    "comments": ("yaml", lambda size: b"# c\n" * size + b"a: b\n"),
    "document ends": ("yaml", lambda size: b"a\n" + b"...\n" * size),
    "members": ("json", lambda size: b"{" + b",".join(b'"k%d":1' % i for i in range(size)) + b"}"),
    "numbers": ("json", lambda size: b"[" + b"1.5," * size + b"0]"),
    "brackets": ("json", lambda size: b"[" + b"[[]]," * size + b"0]"),
    "brackets in text": ("json", lambda size: b'["' + b'\\"[{' * size + b'"]'),
    "escapes": ("json", lambda size: b'["' + b"\\\\" * size + b'","\\ud83d\\ude00"]'),
    "an end that never comes": ("json", lambda size: b"[" * 70 + b'"' + b'\\\\\\"' * size),
    "changes": ("changes", change_list),
    "the same change": ("changes", lambda size: change_list(1) * size),
    "leaves": ("bundle", lambda size: b"\0\1x" * size),
    "a bundle cut short": ("bundle", lambda size: b"\0\1x" * size + b"\xff"),
}
READERS: dict[str, Callable[[bytes], object]] = {
    "yaml": lambda data: load_yaml(data, what="x"),
    "json": lambda data: load_json(data, what="x"),
    "changes": lambda data: decode_change_list(data, ChangesBlob("", data.count(b"\n"))),
    "bundle": decode_entries,
}


@pytest.mark.parametrize("name", GROWING)
def test_work_grows_as_the_bytes_do(name: str) -> None:
    reader, grown = GROWING[name]
    read = READERS[reader]
    read_once = calls(read, grown(SMALL))
    assert calls(read, grown(4 * SMALL)) <= 5 * read_once + 200


@pytest.mark.timeout(20)
@pytest.mark.parametrize("before", [b"", b"a: 1\n", b"a\n...\n", b"# c\n\n...\n"])
def test_a_flood_of_directives_ends_at_the_first(before: bytes) -> None:
    flood = b"".join(b"%%TAG !a%d! tag:x,2000:\n" % i for i in range(300_000))
    with pytest.raises(SyntaxInvalid, match="expected no directive, found one at line"):
        load_yaml(before + flood + b"--- a\n", what="x")


def test_a_directive_after_the_document_has_its_line() -> None:
    with pytest.raises(SyntaxInvalid) as refused:
        load_yaml(b"a: \xc3\xa9\n...\n# c\n%YAML 1.1\n--- b\n", what="x")
    assert (refused.value.line, refused.value.column) == (4, 1)


def test_a_percent_sign_at_the_start_of_a_line_of_text_is_text() -> None:
    assert load_yaml(b'"a\n%b"\n', what="x") == "a %b"
    assert load_yaml(b"a: b\n# %TAG\n...\n# %TAG\n", what="x") == {"a": "b"}


HUGE = 4_000_000


def refusal(read: Callable[..., object], data: bytes) -> int:
    """How long the refusal's text is; 0 when the bytes were read."""
    try:
        read(data, what="x")
    except SyntaxInvalid as error:
        return len(str(error))
    return 0


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "data",
    [
        b"[" * HUGE, b"- " * HUGE, b"? " * HUGE, b"a: " + b"[" * HUGE, b"{a: " * HUGE,
        b'"' + b"\\" * HUGE, b"'" + b"'" * HUGE, b"a: |\n" + b" \n" * HUGE, b"!" + b"a" * HUGE,
        b"&" + b"a" * HUGE, b"1" * HUGE, b"a: 1." + b"1" * HUGE, b"\n" * HUGE, b"a" * HUGE + b":",
        b"- |\n  " + b"\\\n- " * 100_000, b"\xc2\x85" * HUGE,
    ],
    ids=range(16),
)  # fmt: skip
def test_large_bytes_of_every_token_end(data: bytes) -> None:
    for read in (load_yaml, load_json):
        assert refusal(read, data) in range(1000)
