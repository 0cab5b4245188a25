"""Copies of JSON values, so that what is shared inside a process is never handed out."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def fresh(value: Any) -> Any:
    """The value in mappings and lists of its own; scalars cannot change and stay the same."""
    if type(value) is dict:
        return {key: fresh(item) for key, item in value.items()}
    if type(value) is list:
        return [fresh(item) for item in value]
    return value
