"""Which text is a manifest at all: YAML as a way to write JSON, read so that nobody reads it twice.

- Of the plain scalars only ``null``, ``true``, ``false`` and JSON numbers are not strings: ``on``,
  ``1.0.0`` and dates stay text. An empty value is refused: nobody can see whether it is ``null``
  or ``""``. So are ``NaN`` and ``.inf``, which JSON cannot hold.
- A number is the one its canonical form prints: ``1.0`` is ``1``. Digits that a double cannot hold
  exactly (beyond 2^53 - 1) are refused; they are written as strings.
- Anchors, aliases, merge keys, tags, directives, a second document, duplicate keys and keys that
  are no strings are refused, with line and column counted from 1.
- Bytes are UTF-8 without a byte order mark, bounded in size, and at most 64 levels deep. The
  parser's events are folded here with a stack of our own, so depth cannot exhaust Python's, and
  what lies beyond the bound stays unread, but for what libyaml looks ahead.

JSON files go through the strict JSON reader and end as the same values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from control_plane.errors import InputInvalid, MissingExtra, SyntaxInvalid
from control_plane.log.canonical import Json, parse
from control_plane.manifests.documents import reference
from control_plane.names import MAX_CONFIG_BYTES, MAX_DEPTH, MAX_INTEGER

SUFFIXES = (".yaml", ".yml", ".json")

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)|NaN|[-+]?Infinity")
_MAX_SHOWN = 60
# libyaml's own bound, from 0.2.6 on: 1,000 levels, met while it looks ahead of the event asked for.
_TOO_DEEP = "exceeded maximum nesting depth"
_WORDS: dict[str, Json] = {"null": None, "true": True, "false": False}
# RFC 8785 writes a number from here on with an exponent, so that it is no integer to its reader.
_EXPONENT_FORM = 1e21


class _Mark(Protocol):
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest and where it came from."""

    value: dict[str, Json]
    source: str
    data: bytes = field(repr=False, default=b"")

    @property
    def reference(self) -> str:
        """``tool/crm_tool@1.2.0``."""
        return reference(self.value)

    def place(self, path: tuple[str | int, ...]) -> str:
        """``file:line:column`` of the value at this path, as editors and terminals link it."""
        found = locate(self.data, path, what=self.source) if self.data else None
        return f"{self.source}:{found[0]}:{found[1]}" if found else self.source


def load_yaml(data: bytes, *, what: str, max_bytes: int = MAX_CONFIG_BYTES) -> Json:
    """The one value these bytes write; ``what`` names them in errors.

    Raises:
        SyntaxInvalid: for all that the rules above refuse, with line and column.
        MissingExtra: without the package pyyaml.
    """
    builder = _Builder(what)
    for event in _events(data, what, max_bytes):
        builder.take(event)
    return builder.value()


def load_json(data: bytes, *, what: str, max_bytes: int = MAX_CONFIG_BYTES) -> Json:
    """The value of strict JSON, as ``load_yaml`` would have read it.

    Raises:
        SyntaxInvalid: as the strict JSON reader, and for digits beyond 2^53 - 1.
    """
    return _whole_numbers(parse(data, what=what, max_bytes=max_bytes), what)


def load_file(path: str | os.PathLike[str], *, max_bytes: int = MAX_CONFIG_BYTES) -> Document:
    """The one document of a ``.yaml``, ``.yml`` or ``.json`` file.

    Raises:
        SyntaxInvalid: when the file is not one JSON object, is too large or cannot be read.
    """
    what, file = str(path), Path(path)
    if file.suffix not in SUFFIXES:
        raise SyntaxInvalid(f"{what}: expected a file named {', '.join(SUFFIXES)}, found another")
    try:
        with file.open("rb") as stream:
            # One byte more than allowed tells an oversize file without reading all of it.
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise SyntaxInvalid(f"{what}: expected a readable file, found {error.strerror}") from error
    load = load_json if file.suffix == ".json" else load_yaml
    value = load(data, what=what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise SyntaxInvalid(f"{what}: expected a mapping at the top, found {_name(value)}", 1, 1)
    return Document(value, what, data)


def load_paths(paths: Iterable[str | os.PathLike[str]]) -> list[Document]:
    """Every manifest of these files and folders, in order of path.

    Folders are walked; hidden files and folders and ``*.schema.json`` are left out.

    Raises:
        SyntaxInvalid: as ``load_file``, and when two files hold the same manifest.
    """
    seen: dict[str, str] = {}
    documents = []
    for file in document_files(paths):
        document = load_file(file)
        name = reference(document.value)
        if name in seen:
            raise SyntaxInvalid(
                f"{document.source}: expected each manifest once, found {name} in {seen[name]} too"
            )
        seen[name] = document.source
        documents.append(document)
    return documents


def document_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files ``load_paths`` reads, each once: those named, and those in the folders named."""
    return list(dict.fromkeys(file for path in paths for file in _files(Path(path))))


def locate(data: bytes, path: Iterable[str | int], *, what: str = "") -> tuple[int, int] | None:
    """Line and column, from 1, of the value at a path: of its key in a mapping.

    The nearest place above it when the path itself is not there; None when the bytes are not YAML.
    """
    tracker = _Builder(what, track=tuple(path))
    try:
        for event in _events(data, what, MAX_CONFIG_BYTES):
            tracker.take(event)
    except InputInvalid:
        return None
    return tracker.place


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for child in sorted(path.iterdir()):
        hidden = child.name.startswith(".") or child.name.endswith(".schema.json")
        if not hidden and (child.is_dir() or child.suffix in SUFFIXES):
            yield from _files(child)


def _events(data: bytes, what: str, max_bytes: int) -> Iterator[Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra.of("pyyaml", "publish") from error
    _check_bytes(data, what, max_bytes)
    given = 0
    try:
        _refuse_directives(data, what)
        for event in yaml.parse(data, Loader=yaml.CLoader):
            yield event
            given += 1
            if isinstance(event, yaml.DocumentEndEvent):
                mark: Any = event.end_mark
                _refuse_directives(data.decode("utf-8")[mark.index :], what, mark.line)
    except yaml.MarkedYAMLError as error:
        problem = _one_line(error.problem or error.context or "another text")
        problem = problem.removeprefix("found ").removeprefix("did not find ")
        mark = error.problem_mark or error.context_mark
        if problem == _TOO_DEEP and mark is not None:
            # The levels before it: the reader refuses the first that is one too many for it.
            text = data.decode("utf-8")[: mark.index]
            with suppress(yaml.YAMLError):
                yield from islice(yaml.parse(text, Loader=yaml.CLoader), given, None)
        raise _refusal(what, "YAML", problem, mark) from error
    except yaml.YAMLError as error:
        raise SyntaxInvalid(f"{what}: expected YAML, found {_one_line(str(error))}") from error


def _refuse_directives(text: bytes | str, what: str, line: int = 0) -> None:
    """Refuse a directive before the next document; ``line`` is where the text begins.

    Here and not at the document's event: the parser reads all directives first, and compares each
    with all before it, so that some 100,000 of them would take minutes.
    """
    import yaml

    for token in yaml.scan(text, Loader=yaml.CLoader):
        if isinstance(token, yaml.DirectiveToken):
            place = f"at line {line + token.start_mark.line + 1} column 1"
            raise SyntaxInvalid(
                f"{what}: expected no directive, found one {place}",
                line + token.start_mark.line + 1,
                1,
            )
        if not isinstance(token, (yaml.StreamStartToken, yaml.DocumentEndToken)):
            return


def _check_bytes(data: bytes, what: str, max_bytes: int) -> None:
    if len(data) > max_bytes:
        found = len(data) if len(data) > max_bytes + 1 else "more"
        raise SyntaxInvalid(f"{what}: expected at most {max_bytes} bytes, found {found}")
    if data.startswith(b"\xef\xbb\xbf"):
        raise SyntaxInvalid(
            f"{what}: expected UTF-8 without a byte order mark, found one at line 1 column 1", 1, 1
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        raise SyntaxInvalid(
            f"{what}: expected UTF-8, found the byte 0x{data[error.start]:02x} "
            f"at line {line} column {column}",
            line,
            column,
        ) from error


class _Open:
    """A mapping or sequence whose end has not come yet."""

    __slots__ = ("awaits_key", "items", "key")

    def __init__(self, items: dict[str, Json] | list[Json]) -> None:
        self.items = items
        self.key: str | int = ""
        self.awaits_key = isinstance(items, dict)


class _Builder:
    """Folds the parser's events into one value, refusing what the module's rules refuse."""

    def __init__(self, what: str, track: tuple[str | int, ...] | None = None) -> None:
        self._what = what
        self._open: list[_Open] = []
        self._documents = 0
        self._value: Json = None
        self._track = track
        self._tracked = 0
        self.place: tuple[int, int] | None = None

    def value(self) -> Json:
        if not self._documents:
            raise SyntaxInvalid(f"{self._what}: expected one document, found none", 1, 1)
        return self._value

    def take(self, event: Any) -> None:
        handler = _HANDLERS.get(type(event).__name__)
        if handler is not None:
            handler(self, event)

    def document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._refusal("one document", "a second one", event.start_mark)
        if event.version or event.tags:
            raise self._refusal("no directive", "one", event.start_mark)

    def alias(self, event: Any) -> None:
        raise self._refusal(
            "values written out", f"the alias *{event.anchor[:_MAX_SHOWN]}", event.start_mark
        )

    def scalar(self, event: Any) -> None:
        self._refuse_marks(event)
        parent = self._open[-1] if self._open else None
        plain = not event.style
        value: Json = self._plain(event) if plain else event.value
        if parent is not None and parent.awaits_key:
            self._key(parent, value, event, plain)
        else:
            self._add(value, event)

    def mapping(self, event: Any) -> None:
        self._begin({}, event)

    def sequence(self, event: Any) -> None:
        self._begin([], event)

    def end(self, event: Any) -> None:
        self._open.pop()
        self._completed()

    def _begin(self, items: dict[str, Json] | list[Json], event: Any) -> None:
        self._refuse_marks(event)
        if self._open and self._open[-1].awaits_key:
            raise self._refusal("a string as key", _name(items), event.start_mark)
        if len(self._open) >= MAX_DEPTH:
            raise self._refusal(f"at most {MAX_DEPTH} levels", "more", event.start_mark)
        self._add(items, event, leaf=False)
        self._open.append(_Open(items))

    def _key(self, parent: _Open, value: Json, event: Any, plain: bool) -> None:
        if plain and event.value == "<<":
            raise self._refusal("keys written out", "the merge key <<", event.start_mark)
        if not isinstance(value, str):
            written = event.value[:_MAX_SHOWN]
            found = f"{_name(value)} {written}"
            raise self._refusal("a string as key", found, event.start_mark, f'write "{written}"')
        if value in parent.items:
            raise self._refusal("each key once", f"{value[:_MAX_SHOWN]!r} again", event.start_mark)
        parent.key, parent.awaits_key = value, False
        self._mark(parent, event)

    def _add(self, value: Json, event: Any, leaf: bool = True) -> None:
        if not self._open:
            self._value = value
            self._mark_root(event)
            return
        parent = self._open[-1]
        if isinstance(parent.items, dict):
            parent.items[str(parent.key)] = value
            parent.awaits_key = True
        else:
            parent.key = len(parent.items)
            parent.items.append(value)
            self._mark(parent, event)
        if leaf:
            self._completed()

    # Places are wanted only for an error's message, so that reading itself keeps none: a second
    # pass follows one path. `_tracked` counts its leading steps that lead to where we are.

    def _mark_root(self, event: Any) -> None:
        if self._track is not None:
            self.place = (event.start_mark.line + 1, event.start_mark.column + 1)

    def _mark(self, parent: _Open, event: Any) -> None:
        depth = len(self._open) - 1
        if self._track is None or self._tracked != depth or depth >= len(self._track):
            return
        if self._track[depth] == parent.key:
            self._tracked = depth + 1
            self.place = (event.start_mark.line + 1, event.start_mark.column + 1)

    def _completed(self) -> None:
        """A value has ended; when the path led into it, nothing that follows is nearer."""
        if self._tracked and self._tracked >= len(self._open):
            self._track = None

    def _plain(self, event: Any) -> Json:
        text: str = event.value
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.fullmatch(text):
            return _number(text, self._what, event.start_mark)
        if not text:
            raise self._refusal("a value", "none", event.start_mark, 'write null or ""')
        if _NOT_JSON.fullmatch(text):
            raise self._refusal("a finite number", text, event.start_mark, "quote it if it is text")
        return text

    def _refuse_marks(self, event: Any) -> None:
        if event.anchor is not None:
            raise self._refusal("no anchor", f"&{event.anchor[:_MAX_SHOWN]}", event.start_mark)
        if event.tag is not None:
            raise self._refusal("no tag", _one_line(event.tag)[:_MAX_SHOWN], event.start_mark)

    def _refusal(self, expected: str, found: str, mark: _Mark, cure: str = "") -> SyntaxInvalid:
        return _refusal(self._what, expected, found, mark, cure)


_HANDLERS = {
    "DocumentStartEvent": _Builder.document,
    "AliasEvent": _Builder.alias,
    "ScalarEvent": _Builder.scalar,
    "MappingStartEvent": _Builder.mapping,
    "SequenceStartEvent": _Builder.sequence,
    "MappingEndEvent": _Builder.end,
    "SequenceEndEvent": _Builder.end,
}


def _number(text: str, what: str, mark: _Mark | None) -> Json:
    # 16 digits and a sign hold every integer allowed; int() is quadratic in longer ones.
    if text.lstrip("-").isdigit():
        number: int | float = int(text) if len(text) <= 17 else MAX_INTEGER + 1
    else:
        number = float(text)
    return _whole_number(number, text, what, mark)


def _whole_number(number: int | float, text: str, what: str, mark: _Mark | None) -> int | float:
    """The number its canonical form prints, if it prints one that JSON readers agree on."""
    if number in (float("inf"), float("-inf")):
        raise _refusal(what, "a finite number", text[:24], mark)
    if isinstance(number, float) and (not number.is_integer() or abs(number) >= _EXPONENT_FORM):
        return number
    if abs(number) > MAX_INTEGER:
        raise _refusal(what, "integers within ±(2^53 - 1)", text[:24], mark, "write it as a string")
    return int(number)


def _whole_numbers(value: Json, what: str) -> Json:
    """The value with each float that is whole as the integer its canonical form prints."""
    if isinstance(value, float):
        return _whole_number(value, repr(value), what, None)
    # The strict reader has bounded the depth, so this recursion is bounded too.
    if isinstance(value, list):
        return [_whole_numbers(item, what) for item in value]
    if isinstance(value, dict):
        return {key: _whole_numbers(item, what) for key, item in value.items()}
    return value


def _refusal(
    what: str, expected: str, found: str, mark: _Mark | None, cure: str = ""
) -> SyntaxInvalid:
    line = mark.line + 1 if mark is not None else None
    column = mark.column + 1 if mark is not None else None
    place = f" at line {line} column {column}" if mark is not None else ""
    return SyntaxInvalid(
        f"{what}: expected {expected}, found {found}{place}" + (f"; {cure}" if cure else ""),
        line,
        column,
    )


def _name(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return "the word"
    if isinstance(value, (int, float)):
        return "the number"
    return {"dict": "a mapping", "list": "a sequence", "str": "a string"}[type(value).__name__]


def _one_line(text: str) -> str:
    return " ".join(text.split())
