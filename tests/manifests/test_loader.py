"""Which text is read, as which value, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import InputInvalid, SyntaxInvalid
from control_plane.log.canonical import canonical, parse
from control_plane.manifests.loader import (
    document_files,
    load_file,
    load_json,
    load_paths,
    load_yaml,
    locate,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda number: not 2**53 <= abs(number) < 1e21
    )
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8), inner, max_size=4
        )
    ),
    max_leaves=20,
)


def test_only_null_true_false_and_json_numbers_are_not_strings() -> None:
    text = b"""
plain: [null, true, false, 0, -1, 2.5, 1e3, 1.0]
strings: [on, "off", yes, Null, True, ~, 1.0.0, 2024-01-01, 0x10, 0o7, 1_000, +1, .5, 007, 12:30]
"""
    assert load_yaml(text, what="x") == {
        "plain": [None, True, False, 0, -1, 2.5, 1000, 1],
        "strings": ["on", "off", "yes", "Null", "True", "~", "1.0.0", "2024-01-01", "0x10",
                    "0o7", "1_000", "+1", ".5", "007", "12:30"],
    }  # fmt: skip


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    for text in (b"[1, 1.0, 10e-1]", b"[1.0, 1, 1]"):
        assert [type(value) for value in load_yaml(text, what="x")] == [int, int, int]  # type: ignore[union-attr]
        assert canonical(load_json(b"[1, 1.0, 1e0]", what="x")) == b"[1,1,1]"


REFUSED = {
    "anchor": (b"a: &x 1", "expected no anchor, found &x at line 1 column 4"),
    "alias": (b"a: *x", "expected values written out, found the alias *x at line 1 column 4"),
    "merge key": (b"a:\n  <<: {b: 1}",
                  "expected keys written out, found the merge key << at line 2 column 3"),
    "tag": (b"a: !!str 1", "expected no tag, found tag:yaml.org,2002:str at line 1 column 4"),
    "own tag": (b"a: !x 1", "expected no tag, found !x at line 1 column 4"),
    "python tag": (b"!!python/object:os.system {}",
                   "expected no tag, found tag:yaml.org,2002:python/object:os.system"
                   " at line 1 column 1"),
    "two documents": (b"a: 1\n---\nb: 1",
                      "expected one document, found a second one at line 2 column 1"),
    "directive": (b"%YAML 1.1\n---\na: 1", "expected no directive, found one at line 1 column 1"),
    "no document": (b"# nothing\n", "expected one document, found none"),
    "duplicate key": (b"a: 1\n'a': 2",
                      "expected each key once, found 'a' again at line 2 column 1"),
    "number as key": (b"1: a", "expected a string as key, found the number 1 at line 1 column 1;"
                               ' write "1"'),
    "null as key": (b"null: a", "expected a string as key, found the word null at line 1 column 1;"
                                ' write "null"'),
    "mapping as key": (b"? {a: 1}\n: 2",
                       "expected a string as key, found a mapping at line 1 column 3"),
    "NaN": (b"a: NaN",
            "expected a finite number, found NaN at line 1 column 4; quote it if it is text"),
    ".inf": (b"a: -.inf",
             "expected a finite number, found -.inf at line 1 column 4; quote it if it is text"),
    "too large a float": (b"a: 1e999", "expected a finite number, found 1e999 at line 1 column 4"),
    "integer past 2^53": (b"a: 9007199254740993",
                          "expected integers within ±(2^53 - 1), found 9007199254740993"
                          " at line 1 column 4; write it as a string"),
    "long integer": (b"a: " + b"9" * 5000,
                     "expected integers within ±(2^53 - 1), found 999999999999999999999999"
                     " at line 1 column 4; write it as a string"),
    "empty value": (b"a:\nb: 1",
                    'expected a value, found none at line 1 column 3; write null or ""'),
    "invalid UTF-8": (b"ab: 1\nc: \xff",
                      "expected UTF-8, found the byte 0xff at line 2 column 4"),
    "byte order mark": (b"\xef\xbb\xbfa: 1",
                        "expected UTF-8 without a byte order mark, found one at line 1 column 1"),
    "UTF-16": ("a: 1".encode("utf-16"), "expected UTF-8, found the byte 0xff at line 1 column 1"),
    "depth bomb": (b"[" * 200_000, "expected at most 64 levels, found more at line 1 column 65"),
    "mapping bomb": (b'{"a":' * 20_000,
                     "expected at most 64 levels, found more at line 1 column 321"),
    "sequence bomb": (b"- " * 200_000,
                      "expected at most 64 levels, found more at line 1 column 129"),
    "broken": (b"a: [1,", "expected YAML, found expected node content at line 2 column 1"),
    "lone surrogate": (b'a: "\\ud800"',
                       "expected YAML, found invalid Unicode character escape code"
                       " at line 1 column 7"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_yaml_is_refused_with_line_and_column(case: str, tmp_path: Path) -> None:
    data, message = REFUSED[case]
    file = tmp_path / "x.yaml"
    file.write_bytes(data)
    with pytest.raises(SyntaxInvalid) as refused:
        load_file(file)
    assert str(refused.value) == f"{file}: {message}"
    assert file.read_bytes() == data
    assert list(tmp_path.iterdir()) == [file]


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(SyntaxInvalid, match="expected no anchor, found &a0 at line 1 column 5"):
        load_yaml("\n".join(lines).encode(), what="bomb")


def test_an_oversize_file_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"a: " + b"x" * 2000)
    with pytest.raises(SyntaxInvalid, match=r"x.yaml: expected at most 1000 bytes, found more$"):
        load_file(file, max_bytes=1000)
    assert load_file(file, max_bytes=2003).value["a"] == "x" * 2000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "a": 2}', "expected each key once, found 'a' twice"),
        (b'{"a": NaN}', "expected a finite number, found NaN"),
        (b'{"a": 1e20}', "found 1e20"),
        (b"[" * 100_000, "levels of nesting, found more"),
        (b"[1]", "expected a mapping at the top, found a sequence"),
    ],
)
def test_json_files_are_read_as_strictly(data: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(data)
    with pytest.raises(SyntaxInvalid) as refused:
        load_file(file)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{file}: ")


@pytest.mark.parametrize("name", ["x.toml", "missing.yaml"])
def test_what_is_no_manifest_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(SyntaxInvalid, match=name):
        load_file(tmp_path / name)


def test_a_folder_gives_its_manifests_in_order_without_hidden_files_and_schemas(
    tmp_path: Path,
) -> None:
    for name in ("b/y.yml", "a.yaml", "b/x.json", ".hidden/z.yaml", "s/flag.schema.json", "n.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        kind_and_name = {"kind": "flag", "name": file.stem}
        file.write_text(json.dumps(kind_and_name))
    found = [document.reference for document in load_paths([tmp_path, tmp_path / "a.yaml"])]
    assert found == ["flag/a", "flag/x", "flag/y"]
    assert document_files([tmp_path])[0] == tmp_path / "a.yaml"


def test_one_manifest_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("kind: flag\nname: x\n")
    with pytest.raises(
        SyntaxInvalid, match=r"b.yaml: expected each manifest once, found flag/x in"
    ):
        load_paths([tmp_path])


TEXT = b"""# comment
kind: flag
metadata:
  rules:
    - name: a
      when: {x: 1}
    - name: b
      when: {x: 2}
  z: {x: 3}
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (2, 1)),
        (("kind",), (2, 1)),
        (("metadata", "rules", 1), (7, 7)),
        (("metadata", "rules", 1, "when", "x"), (8, 14)),
        (("metadata", "rules", 0, "when", "missing"), (6, 7)),
        (("metadata", "rules", 2, "when"), (4, 3)),
        (("metadata", "z", "x"), (9, 7)),
        (("missing", "x"), (2, 1)),
    ],
)
def test_a_path_is_located_where_its_key_stands(
    path: tuple[str | int, ...], place: tuple[int, int]
) -> None:
    assert locate(TEXT, path) == place


def test_bytes_that_are_no_yaml_have_no_place() -> None:
    assert locate(b"a: [", ("a",)) is None


@given(json_values)
def test_json_text_read_as_yaml_is_the_value_its_canonical_form_says(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    loaded = load_yaml(text, what="x")
    assert canonical(loaded) == canonical(value)
    # What was read is what a node reads back from the bytes that are signed, types included.
    again = parse(canonical(loaded), what="x")
    assert repr(loaded) == repr(load_json(text, what="x"))
    assert again == loaded


@given(
    st.binary(max_size=300)
    | st.text(alphabet="a:-[]{}&*!|>'\"%#? \n\t<0.", max_size=80).map(str.encode)
)
def test_arbitrary_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    value, refused = outcome(data)
    if refused is None:
        assert parse(canonical(value), what="x") == value
    else:
        assert "\n" not in refused


def outcome(data: bytes) -> tuple[Any, str | None]:
    try:
        return load_yaml(data, what="x"), None
    except InputInvalid as error:
        return None, str(error)
