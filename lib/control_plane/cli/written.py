"""How a document is written to a file.

Fields come in the order people write them: the envelope's, then ``metadata``; inside it the order
of the document it replaces, as far as that has the same keys. Strings that another YAML reader, of
version 1.1 or 1.2, would take for something else are quoted: ``on``, ``1e3``, ``0o7``, ``12:30``.
"""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

FIELD_ORDER: Final = (
    "kind",
    "name",
    "version",
    "owner",
    "created_at",
    "changelog",
    "description",
    "deprecated",
    "metadata",
    "checksum_sha256",
    "signature",
)

# What some YAML reader takes for a number, a time, a truth or nothing, so that it is quoted.
_LIKE_NUMBER: Final = re.compile(r"[-+.]?[0-9][-+0-9a-fA-FoOxXTtZz_:. ]*|[-+.]+[0-9_:.]*")
_LIKE_WORD: Final = re.compile(
    r"y|n|yes|no|on|off|true|false|null|~|=|<<|[-+]?\.?(?:inf|infinity|nan)", re.IGNORECASE
)
# Line breaks to YAML 1.1 only: written as escapes, lest one reader folds what another keeps.
_OLD_BREAKS: Final = re.compile("[\x85\u2028\u2029]")


def dump(document: Mapping[str, Any], *, json: bool = False, like: Any = None) -> str:
    """The document as YAML, or JSON; ``like`` is an older version whose order of keys is kept."""
    ordered = _like(dict(document), like if like is not None else _conventional(document))
    if json:
        return json_module.dumps(ordered, indent=2, ensure_ascii=False) + "\n"
    return emit(ordered, width=100, default_flow_style=False)


def emit(value: Any, **options: Any) -> str:
    """PyYAML's text of a value, keys in their order, strings quoted where a reader could err."""
    import yaml

    text = yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True, **options)
    assert isinstance(text, str)
    return text


def reads_otherwise(text: str) -> bool:
    """Whether some YAML reader takes the bare text for something that is no string."""
    return bool(_LIKE_NUMBER.fullmatch(text) or _LIKE_WORD.fullmatch(text))


def leading_comments(text: str) -> str:
    """The comment lines a file begins with, such as an editor's modeline."""
    kept = []
    for line in text.splitlines(keepends=True):
        if not (line.startswith("#") or not line.strip()):
            break
        kept.append(line)
    return "".join(kept)


def _conventional(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in FIELD_ORDER if name in document}


def _like(value: Any, like: Any) -> Any:
    """``value`` with its keys in the order ``like`` has them, new keys behind."""
    if isinstance(value, dict):
        known = like if isinstance(like, dict) else {}
        names = [name for name in known if name in value]
        names += [name for name in value if name not in known]
        return {name: _like(value[name], known.get(name)) for name in names}
    if isinstance(value, list) and isinstance(like, list) and len(value) == len(like):
        return [_like(item, old) for item, old in zip(value, like, strict=True)]
    return value


def inline(value: Any, *, in_flow: bool = True) -> str:
    """A value in one line, as it may stand in a flow collection, or else only behind a colon."""
    if isinstance(value, str):
        shown = emit([value] if in_flow else {"k": value}, default_flow_style=in_flow, width=2**31)
        made = shown[1:-2] if in_flow else shown[3:-1]
        return made if made[0] not in "'\"" and "\n" not in made else quoted(value, '"')
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inline(k)}: {inline(item)}" for k, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return emit([value], default_flow_style=True, width=2**31)[1:-2]


def quoted(value: str, style: str) -> str:
    """A string in one line of these quotes, or in double ones where only those can hold it."""
    if style == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return emit([value], default_flow_style=True, default_style='"', width=2**31)[1:-2]


@cache
def _dumper() -> type[Any]:
    # Made on first use: PyYAML is an extra, and importing it costs what most verbs need not pay.
    import yaml

    class Dumper(yaml.SafeDumper):
        """The safe dumper with more strings quoted."""

    def string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None
        if _OLD_BREAKS.search(value):
            style = '"'
        elif reads_otherwise(value) and not dumper.default_style:
            style = "'"
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)

    Dumper.add_representer(str, string)
    return Dumper
