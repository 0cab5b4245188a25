"""Process overrides: the highest layer of every configuration, for every tenant.

An override is text for a path, from a variable of the process (``CONTROL_PLANE__DATABASE__URL``).
At a value that is text, or where there is none, it is that text; at any other it is read as JSON,
so that numbers stay numbers. An override at a path that leads to other values replaces them all.
"""

from __future__ import annotations

from control_plane.configs.layers import decode_path
from control_plane.configs.merged import ABSENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def overridden(overrides: Mapping[tuple[str, ...], str], path: str, value: Any) -> Any:
    """``value`` with the process overrides at or below ``path`` laid over it.

    The empty path is that of the whole configuration. Nothing that was passed in changes.

    Raises:
        ValueError: text that is not JSON for such a value; names the key, never the text.
    """
    if not overrides:
        return value
    keys = decode_path(path) if path else ()
    for where, text in overrides.items():
        if where[: len(keys)] == keys:
            value = _with_override(value, where[len(keys) :], text, where)
        elif keys[: len(where)] == where:
            # The override is a leaf above: nothing is left below it.
            value = ABSENT
    return value


def _with_override(value: Any, below: tuple[str, ...], text: str, where: tuple[str, ...]) -> Any:
    if not below:
        return _converted(value, text, where)
    tree = dict(value) if isinstance(value, dict) else {}
    tree[below[0]] = _with_override(tree.get(below[0], ABSENT), below[1:], text, where)
    return tree


def _converted(value: Any, text: str, where: tuple[str, ...]) -> Any:
    if value is ABSENT or isinstance(value, str):
        return text
    from json import JSONDecodeError, loads

    try:
        return loads(text)
    except JSONDecodeError:
        variable = "__".join(("CONTROL_PLANE", *where)).upper()
        raise ValueError(
            f"{variable}: expected JSON for a {type(value).__name__}, found other text"
        ) from None
