"""Which texts a segment may list: what a unit's key can be, and a person can see.

Authors and the store refuse others. A node does not: what is in the log stays served.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from control_plane.errors import ManifestInvalid

MAX_MEMBER_BYTES: Final = 512

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


def check_member(member: str, where: str) -> str:
    """The member, if a segment may list it; ``where`` begins the message if not.

    Raises:
        ManifestInvalid: it is empty, too long, or has characters that nobody sees.
    """
    try:
        size = len(member.encode())
    except UnicodeEncodeError as error:
        raise ManifestInvalid(f"{where}: expected a member in UTF-8, found other bytes") from error
    if not 0 < size <= MAX_MEMBER_BYTES:
        raise ManifestInvalid(
            f"{where}: expected a member of 1 to {MAX_MEMBER_BYTES} bytes, found {size}"
        )
    if found := _CONTROL.search(member):
        raise ManifestInvalid(
            f"{where}: expected a member without control characters, found"
            f" U+{ord(found.group()):04X} at character {found.start() + 1}"
        )
    return member


def check_listed(document: Mapping[str, Any]) -> None:
    """Refuse a segment whose manifest lists or excludes what ``check_member`` refuses.

    Raises:
        ManifestInvalid: with the path of the first of them.
    """
    for field in ("members", "exclude"):
        for index, member in enumerate(document["metadata"].get(field, ())):
            check_member(member, f"segment/{document['name']}: metadata.{field}[{index}]")
