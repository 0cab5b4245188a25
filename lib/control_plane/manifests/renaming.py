"""Names of ours for another system's keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NoReturn

from control_plane.names import is_name

MAX_NAME: Final = 128

_NO_NAME: Final = re.compile(r"[^a-z0-9_.-]")


def name_of(
    kind: str,
    key: str,
    *,
    rename: bool,
    refuse: Callable[[str], NoReturn],
    longest: int = MAX_NAME,
) -> str:
    """A name of that kind for a key: the key where it is one, else with ``rename`` one like it.

    ``refuse`` is told what was expected.
    """
    if is_name(kind, key) and len(key) <= longest:
        return key
    name = _NO_NAME.sub("_", key.lower()).lstrip("_.-")[:longest]
    if not is_name(kind, name):
        refuse("a key of letters and digits")
    if not rename:
        refuse(
            f"a name of lower case letters, digits, '_', '.' and '-', at most {longest}"
            f" (--rename has it as {name}, split as before)"
        )
    return name
