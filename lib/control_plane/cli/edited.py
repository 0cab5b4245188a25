"""An author's text with another document in it.

The parser says where each key and value stands, and only the pieces that differ are cut out and
replaced; all other bytes stay, with their comments, blank lines, quotes, indents and flow style.
(A round-trip library writes the whole file anew in its own indents, and hangs the comment above a
key on the key before it, so that it goes when that one goes.)

- A value that changed is replaced, in quotes where the author quoted; the comment behind it stays.
- A key that is gone goes with the comment behind it and the comment lines directly above it; a
  comment that a blank line sets apart stays.
- A new key comes behind the others of its mapping; in the envelope, at its customary place.
- Items of a list are the same when they are equal, or carry the same ``name``, or stand at the same
  place; they move with their comments.
- A flow mapping or list stays one, unless it has grown past the width of a line: then it becomes a
  block, if that loses no comment.

The text made is read again with the strict loader and must hold the very document that was wanted;
the caller hears ``None`` otherwise, as for a text in a form that is not cut here (complex keys,
line breaks that only YAML 1.1 knows).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from control_plane.cli.matching import paired, placed, same
from control_plane.cli.written import emit, inline, quoted
from control_plane.errors import InputInvalid
from control_plane.manifests.loader import load_yaml

WIDTH: Final = 100
_STEP: Final = 2
_FOREIGN_BREAKS: Final = re.compile("[\r\x85\u2028\u2029]")


def edited(text: str, wanted: Mapping[str, Any]) -> str | None:
    """The YAML ``text`` changed so that it holds ``wanted``; None where that cannot be done.

    Raises:
        SyntaxInvalid: ``text`` is not a document to begin with.
    """
    old = load_yaml(text.encode(), what="text")
    # A file that mixes line breaks is left to the caller: its own could not be given back.
    breaks = "\r\n" if 0 < text.count("\r\n") == text.count("\n") else "\n"
    # A comment below a block text may be taken for a part of it; then it is written in quotes.
    for blocks in (True, False):
        try:
            made = _edited(text.replace(breaks, "\n"), old, dict(wanted), blocks)
            made = made.replace("\n", breaks)
            if same(load_yaml(made.encode(), what="text"), dict(wanted)):
                return made
        except (_NotCut, InputInvalid):
            continue
    return None


class _NotCut(Exception):
    """The text is in a form in which pieces cannot be told apart safely."""


def _edited(text: str, old: Any, wanted: dict[str, Any], blocks: bool) -> str:
    import yaml

    if _FOREIGN_BREAKS.search(text) or not isinstance(old, dict):
        raise _NotCut
    whole = text if text.endswith("\n") else text + "\n"
    root: Any = yaml.compose(whole, Loader=yaml.CLoader)
    author = _Author(whole, root, blocks)
    start = root.start_mark.index
    if root.flow_style:
        end = root.end_mark.index
        made = whole[:start] + author.flow(root, old, wanted) + whole[end:]
    else:
        begin = author.line_start(start)
        end = author.line_end(author.end(root))
        made = whole[:begin] + author.block(root, begin, old, wanted, envelope=True) + whole[end:]
    return made if whole is text else made.removesuffix("\n")


@dataclass(slots=True)
class _Entry:
    """A key with its value, or an item: where it starts, and the comments above and below it.

    ``lead`` are the lines above that are not another's; ``tail`` those below that are indented
    deeper than the entry, so that they can only be its own.
    """

    start: int
    value: Any
    key: Any = None
    lead: str = ""
    tail: str = ""


class _Author:
    """The text of one file, and the pieces of it with new values in them."""

    def __init__(self, text: str, root: Any, blocks: bool) -> None:
        self._text = text
        self._blocks = blocks
        nodes = list(_nodes(root))
        self._flows = any(node.flow_style for node in nodes if not _is_scalar(node))
        self._dash = next((dash for node in nodes for dash in _dashes(node)), _STEP)

    # --- where things are

    def line_start(self, at: int) -> int:
        return self._text.rfind("\n", 0, at) + 1

    def line_end(self, at: int) -> int:
        """Behind the line break of the line in which ``at`` is."""
        return self._text.index("\n", at) + 1

    def end(self, node: Any) -> int:
        """Behind the last character of a value; before the line break of a block scalar."""
        if not _is_scalar(node) and not node.flow_style:
            last = node.value[-1]
            return self.end(last[1] if isinstance(last, tuple) else last)
        start, end = node.start_mark.index, node.end_mark.index
        if not _is_block_scalar(node):
            return int(end)
        lines = self._text[start:end].split("\n")
        kept = "+" in lines[0].partition("#")[0]
        while len(lines) > 1 and (not lines[-1] if kept else not lines[-1].strip()):
            lines.pop()
            if kept:
                break
        return int(start) + len("\n".join(lines))

    def _entries(self, node: Any, begin: int) -> list[_Entry]:
        """The entries of a block collection, the lines between them dealt out."""
        column = node.start_mark.column
        entries: list[_Entry] = []
        at = begin
        for child in node.value:
            key, value = child if isinstance(child, tuple) else (None, child)
            start = key.start_mark.index if key is not None else self._dash_at(at, column)
            if start == begin:
                lead = ""
            else:
                line = self.line_start(start)
                if self._text[line:start].strip(" ") or start - line != column:
                    raise _NotCut
                lead = self._text[at:line]
            if entries:
                entries[-1].tail, lead = _dealt(lead, column)
            entries.append(_Entry(start, value, key, lead))
            at = self.line_end(self.end(value))
        return entries

    def _dash_at(self, at: int, column: int) -> int:
        """Where the next item's dash is, from the start of a line on or from the dash itself."""
        if self._text[at] == "-":
            return at
        while True:
            stop = self.line_end(at)
            bare = self._text[at:stop].strip()
            if bare and not bare.startswith("#"):
                break
            at = stop
        if self._text[at + column] != "-":
            raise _NotCut
        return at + column

    # --- block collections

    def block(self, node: Any, begin: int, old: Any, new: Any, *, envelope: bool = False) -> str:
        """The lines of a block collection from ``begin`` on, with a new value that is not empty.

        A first entry on the line of its dash begins there, and so does the text returned.
        """
        entries = self._entries(node, begin)
        compact = begin == entries[0].start != self.line_start(begin)
        column = node.start_mark.column
        if isinstance(old, dict):
            chunks = self._mapping(entries, column, old, new, envelope)
        else:
            chunks = self._sequence(entries, column, old, new)
        lines = "".join(lead + " " * column + body for lead, body in chunks)
        if not compact:
            return lines
        return lines[column:] if not chunks[0][0] else "\n" + lines

    def _mapping(
        self, entries: list[_Entry], column: int, old: Any, new: Any, envelope: bool
    ) -> list[tuple[str, str]]:
        chunks: dict[str, tuple[str, str]] = {}
        carried = ""
        for entry in entries:
            name = entry.key.value
            lead = _joined(carried, entry.lead)
            carried = ""
            if name in new:
                chunks[name] = (lead, self._entry(entry, column, old[name], new[name]))
            else:
                carried = _set_apart(lead)
        added = {name: value for name, value in new.items() if name not in old}
        if carried.strip() and chunks:
            last = next(reversed(chunks))
            chunks[last] = (chunks[last][0], chunks[last][1] + carried)
        for name, value in added.items():
            chunks[name] = ("", self._new_entry(_key(name) + ":", value, column))
        if not envelope:
            return list(chunks.values())
        return [chunks[name] for name in placed(list(chunks), added)]

    def _sequence(
        self, entries: list[_Entry], column: int, old: Any, new: Any
    ) -> list[tuple[str, str]]:
        pairs = paired(old, new)
        kept = set(pairs)
        carried = ""
        for at, entry in enumerate(entries):
            entry.lead = _joined(carried, entry.lead)
            carried = "" if at in kept else _set_apart(entry.lead)
        chunks = []
        for place, value in zip(pairs, new, strict=True):
            if place is None:
                chunks.append(("", self._new_item(value, column)))
            else:
                entry = entries[place]
                chunks.append((entry.lead, self._entry(entry, column, old[place], value)))
        if carried.strip():
            chunks[-1] = (chunks[-1][0], chunks[-1][1] + carried)
        return chunks

    def _entry(self, entry: _Entry, column: int, old: Any, new: Any) -> str:
        """One entry from its key or dash to the end of its last line, and its tail."""
        stop = self.line_end(self.end(entry.value))
        if same(old, new):
            return self._text[entry.start : stop] + entry.tail
        if self._is_block(entry.value):
            return self._block_entry(entry, column, old, new) + entry.tail
        return self._inline_entry(entry, column, old, new) + entry.tail

    def _block_entry(self, entry: _Entry, column: int, old: Any, new: Any) -> str:
        value, mark = entry.value, self._mark_end(entry)
        first = value.start_mark.index
        begin = self.line_end(mark)
        if first < begin:
            begin = first
        if new and isinstance(new, type(old)):
            head, body = self._text[entry.start : begin], self.block(value, begin, old, new)
            return (head.rstrip(" ") if body.startswith("\n") else head) + body
        said = "" if begin == first else self._text[mark : begin - 1]
        head = self._text[entry.start : mark]
        if _is_full(new):
            return self._headed(head, said, new, column, in_list=entry.key is None)
        return self._valued(head + " ", self._scalar(new, None, column), said)

    def _inline_entry(self, entry: _Entry, column: int, old: Any, new: Any) -> str:
        """A scalar or a flow collection replaced; what stands behind it on its line stays."""
        node = entry.value
        end = self.end(node)
        said = self._text[end : self.line_end(end) - 1]
        start = int(node.start_mark.index)
        head = self._text[entry.start : start]
        if _is_block_scalar(node):
            _, mark, comment = self._text[start : self.line_end(start) - 1].partition("#")
            said = f"  #{comment}" if mark else ""
        if not _is_scalar(node) and isinstance(new, type(old)):
            made = self.flow(node, old, new)
            if "\n" in made or not new or not self._too_wide(start, made, self._text[start:end]):
                return f"{head}{made}{said}\n"
        elif not _is_full(new):
            return self._valued(head, self._scalar(new, node, column), said)
        before = head.rstrip()
        if before.count("\n") or "#" in before[self._mark_end(entry) - entry.start :]:
            raise _NotCut
        return self._headed(before, said, new, column, in_list=entry.key is None)

    def _valued(self, head: str, made: str, said: str) -> str:
        """A key or dash with a scalar; the comment stands behind its first line."""
        first, line_break, rest = made.partition("\n")
        return f"{head}{first}{_behind(said)}{line_break}{rest}\n"

    def _too_wide(self, start: int, made: str, before: str) -> bool:
        indent = start - self.line_start(start)
        return indent + len(made) > WIDTH and indent + len(before) <= WIDTH

    def _headed(self, head: str, said: str, new: Any, column: int, *, in_list: bool) -> str:
        """A key or dash with a collection that is new: in one line if the author writes so."""
        if short := self._short(new, column + len(head) + 1):
            return f"{head} {short}{_behind(said)}\n"
        if in_list and not said.strip():
            lines = self._lines(new, column + _STEP)
            return f"{head} " + lines[column + _STEP :]
        inner = column + (_STEP if in_list or isinstance(new, dict) else self._dash)
        return f"{head}{_behind(said)}\n" + self._lines(new, inner)

    def _mark_end(self, entry: _Entry) -> int:
        """Behind an entry's colon or dash."""
        if entry.key is None:
            return entry.start + 1
        at = entry.key.end_mark.index
        return self._text.index(":", at) + 1

    def _is_block(self, node: Any) -> bool:
        return not _is_scalar(node) and not node.flow_style

    # --- new pieces

    def _new_entry(self, head: str, value: Any, column: int) -> str:
        if _is_full(value):
            return self._headed(head, "", value, column, in_list=False)
        return f"{head} {self._scalar(value, None, column)}\n"

    def _new_item(self, value: Any, column: int) -> str:
        if _is_full(value):
            return self._headed("-", "", value, column, in_list=True)
        return f"- {self._scalar(value, None, column)}\n"

    def _lines(self, value: Any, column: int) -> str:
        """The lines of a collection in block style."""
        indent = " " * column
        if isinstance(value, dict):
            return "".join(
                indent + self._new_entry(_key(name) + ":", item, column)
                for name, item in value.items()
            )
        return "".join(indent + self._new_item(item, column) for item in value)

    def _short(self, value: Any, indent: int) -> str:
        """A collection of scalars in one line, if the author writes some so and it fits."""
        if not self._flows or any(map(_is_full, _items(value))):
            return ""
        made = inline(value)
        return made if indent + len(made) <= WIDTH else ""

    def _scalar(self, value: Any, node: Any, column: int) -> str:
        """A scalar or an empty collection; ``node`` is the one it takes the place of."""
        if not isinstance(value, str):
            return inline(value)
        if node is not None and _is_scalar(node) and node.style in ("'", '"') and "\n" not in value:
            return quoted(value, node.style)
        last = value.removesuffix("\n").rpartition("\n")[2]
        if self._blocks and "\n" in value and last.strip():
            made = emit({"k": value}, default_style="|", width=2**31).removeprefix('"k": ')
            header, *lines = made.removesuffix("\n").split("\n")
            if header in ("|", "|-"):
                return "\n".join([header, *(" " * column + line if line else "" for line in lines)])
        return inline(value, in_flow=False)

    # --- flow collections

    def flow(self, node: Any, old: Any, new: Any) -> str:
        """A flow collection's text with a new value in it."""
        start, end = node.start_mark.index, node.end_mark.index
        text = self._text[start:end]
        if same(old, new):
            return text
        if text[0] not in "{[" or not isinstance(new, type(old)):
            return inline(new)
        spans = [
            (
                (pair[0].start_mark.index - start, pair[1].end_mark.index - start)
                if isinstance(pair, tuple)
                else (pair.start_mark.index - start, pair.end_mark.index - start)
            )
            for pair in node.value
        ]
        if isinstance(old, dict):
            names = [pair[0].value for pair in node.value]
            places: list[int | None] = [i for i, name in enumerate(names) if name in new]
            made = [self._flow_pair(node.value[i], old, new) for i in places if i is not None]
            added = [name for name in new if name not in old]
            places += [None] * len(added)
            made += [f"{_key(name)}: {inline(new[name])}" for name in added]
        else:
            places = paired(old, new)
            made = [
                inline(value) if place is None else self._flow_item(node, place, old, value)
                for place, value in zip(places, new, strict=True)
            ]
        if not new or all(place is None for place in places):
            if "#" in text and "\n" in text:
                raise _NotCut
            return inline(new)
        return _woven(text, spans, places, made)

    def _flow_pair(self, pair: Any, old: Any, new: Any) -> str:
        name = pair[0].value
        head = self._text[pair[0].start_mark.index : pair[1].start_mark.index]
        return head + self._flow_value(pair[1], old[name], new[name])

    def _flow_item(self, node: Any, place: int, old: Any, value: Any) -> str:
        return self._flow_value(node.value[place], old[place], value)

    def _flow_value(self, node: Any, old: Any, new: Any) -> str:
        if same(old, new):
            return self._text[node.start_mark.index : node.end_mark.index]
        if not _is_scalar(node):
            return self.flow(node, old, new)
        if isinstance(new, str) and node.style in ("'", '"'):
            return quoted(new, node.style)
        return inline(new)


# --- pieces of text


def _woven(
    text: str, spans: Sequence[tuple[int, int]], places: Sequence[int | None], made: Sequence[str]
) -> str:
    """A flow collection of the pieces ``made``; the text between those that stayed is kept."""
    stayed = [place for place in places if place is not None]
    between = text[spans[0][1] : spans[1][0]] if len(spans) > 1 else ", "
    if stayed != sorted(stayed) or "#" in between:
        between = ", "
    commented = "\n" in text and "#" in text
    if commented and (stayed != sorted(stayed) or len(stayed) < len(spans)):
        raise _NotCut
    parts = [text[: spans[0][0]]]
    last: int | None = None
    for count, (place, piece) in enumerate(zip(places, made, strict=True)):
        if count:
            follows = place is not None and last is not None and place == last + 1
            gap = text[spans[last][1] : spans[place][0]] if follows else between  # type: ignore[index]
            parts.append(gap)
        parts.append(piece)
        last = place
    return "".join(parts) + text[spans[-1][1] :]


def _dealt(lines: str, column: int) -> tuple[str, str]:
    """The lines between two entries: those of the one above, those of the one below."""
    split = lines.splitlines(keepends=True)
    own = 0
    for place, line in enumerate(split, 1):
        bare = line.lstrip(" ")
        if bare.startswith("#") and len(line) - len(bare) > column:
            own = place
    return "".join(split[:own]), "".join(split[own:])


def _set_apart(lead: str) -> str:
    """Of the lines above an entry that goes, those that a blank line sets apart from it."""
    lines = lead.splitlines(keepends=True)
    while lines and lines[-1].strip():
        lines.pop()
    return "".join(lines)


def _joined(above: str, below: str) -> str:
    """Two runs of lines, without the blank lines that now stand twice between them."""
    if below.startswith("\n") and above.endswith("\n"):
        above = above.rstrip("\n")
        above += "\n" if above else ""
    return above + below


def _behind(said: str) -> str:
    """The comment behind a value, set apart from it."""
    bare = said.rstrip()
    return bare if not bare or bare[0] == " " else f"  {bare}"


def _key(name: str) -> str:
    made = inline(name)
    if len(made) > 1000:
        raise _NotCut  # no simple key to YAML
    return made


def _is_scalar(node: Any) -> bool:
    return isinstance(node.value, str)


def _is_block_scalar(node: Any) -> bool:
    return _is_scalar(node) and node.style in ("|", ">")


def _is_full(value: Any) -> bool:
    """Whether it is a collection with something in it, which has lines of its own."""
    return isinstance(value, (dict, list)) and bool(value)


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _nodes(node: Any) -> Iterable[Any]:
    yield node
    if not _is_scalar(node):
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                yield from _nodes(part)


def _dashes(node: Any) -> Iterable[int]:
    """How far the dashes of a block mapping's lists are indented: 0 or a step."""
    if _is_scalar(node) or node.flow_style or not isinstance(node.value[0], tuple):
        return
    for key, value in node.value:
        if not _is_scalar(value) and not value.flow_style and not isinstance(value.value[0], tuple):
            yield _STEP if value.start_mark.column > key.start_mark.column else 0
