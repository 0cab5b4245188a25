"""How a document is written to a file.

Fields come in the order people write them: the envelope's, then ``metadata``; inside it the order
of the document it replaces, as far as that has the same keys. Strings that another YAML reader
would take for something else are quoted.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
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


def dump(document: Mapping[str, Any], *, json: bool = False, like: Any = None) -> str:
    """The document as YAML, or JSON; ``like`` is an older version whose order of keys is kept."""
    ordered = _like(dict(document), like if like is not None else _conventional(document))
    if json:
        return json_module.dumps(ordered, indent=2, ensure_ascii=False) + "\n"
    import yaml

    text = yaml.safe_dump(
        ordered, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False
    )
    assert isinstance(text, str)
    return text


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
