"""What another system's tool is called here, and which version it has.

- A *name* outside our pattern is written in lower case, every character that names do not have is
  ``_``, and ``_``, ``.`` and ``-`` at its beginning are dropped:
  ``io.github.apify/actors-mcp-server`` is ``io.github.apify_actors-mcp-server``.
- A *version* that PEP 440 reads is its normal form with three numbers: ``v1.2`` is ``1.2.0``,
  ``1.0.0-beta.1`` is ``1.0.0b1``. Of any other the leading numbers are the release and the rest is
  the local part, so that nothing is said about its order among releases: ``0.0.1-seed`` is
  ``0.0.1+seed``, ``latest`` is ``0.0.0+latest``. More than three numbers go there too: ``1.2.3.4``
  is ``1.2.3+4``.

Two of theirs can become one of ours; importers refuse the second.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from control_plane.errors import MissingExtra
from control_plane.names import MAX_NAME_BYTES, MAX_VERSION_BYTES, is_name

if TYPE_CHECKING:
    from packaging.version import Version

_NO_NAME: Final = re.compile(r"[^a-z0-9_.-]")
_NO_LOCAL: Final = re.compile(r"[^a-z0-9]+")
_NUMBERS: Final = re.compile(r"v?([0-9]+(?:\.[0-9]+)*)")
_RELEASE: Final = 3
_MAX_READ: Final = 256


def tool_name(original: str) -> str | None:
    """The name of ours, or None where nothing is left of it.

    >>> tool_name("Alarm_1_AddAlarm")
    'alarm_1_addalarm'
    """
    if is_name("tool", original):
        return original
    name = _NO_NAME.sub("_", original.lower()).lstrip("_.-")[:MAX_NAME_BYTES]
    return name if is_name("tool", name) else None


def tool_version(original: str) -> str | None:
    """The version of ours, or None where it is empty or does not fit.

    >>> tool_version("0.0.1-seed")
    '0.0.1+seed'

    Raises:
        MissingExtra: without ``packaging``; names need no package.
    """
    try:
        from packaging.version import InvalidVersion, Version
    except ImportError as error:
        raise MissingExtra.of("packaging", "publish") from error

    if not original.strip() or len(original) > _MAX_READ:
        return None
    try:
        version = _of_pep_440(Version(original))
    except InvalidVersion:
        version = _with_local(original.strip().lower())
    return version if version and len(version) <= MAX_VERSION_BYTES else None


def _of_pep_440(read: Version) -> str:
    numbers, more = _three(list(read.release))
    epoch = f"{read.epoch}!" if read.epoch else ""
    pre = "".join(map(str, read.pre)) if read.pre else ""
    post = f".post{read.post}" if read.post is not None else ""
    dev = f".dev{read.dev}" if read.dev is not None else ""
    local = _local([*more, *([read.local] if read.local else [])])
    return f"{epoch}{numbers}{pre}{post}{dev}{local}"


def _with_local(text: str) -> str:
    found = _NUMBERS.match(text)
    leading = found.group(1) if found else ""
    numbers, more = _three([int(number) for number in leading.split(".") if number])
    rest = _NO_LOCAL.sub(".", text[found.end() if found else 0 :]).strip(".")
    return numbers + _local([*more, *([rest] if rest else [])])


def _three(release: list[int]) -> tuple[str, list[str]]:
    """The first three numbers, and the others that say something."""
    numbers = [*release, 0, 0, 0][:_RELEASE]
    more = release[_RELEASE:]
    while more and not more[-1]:
        more.pop()
    return ".".join(map(str, numbers)), list(map(str, more))


def _local(parts: list[str]) -> str:
    words = ".".join(parts).split(".") if parts else []
    normal = [str(int(word)) if word.isdigit() else word for word in words if word]
    return "+" + ".".join(normal) if normal else ""
