"""The order of versions, PEP 440's, for versions in its normal form.

``packaging`` has the same order and reads every spelling; the bare library does without it.
Versions that are published are in normal form, so what is compared here is:

- the epoch, the release by number (1.9.0 before 1.10.0);
- then ``.dev`` before ``a``, ``b``, ``rc``, the release itself, ``.post``; by number within each;
- a local part (``+seed``) after the version without; its numbers after its words.

A text that is no such version has a place as well, the same each time; nothing here raises.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEV_ONLY, _FINAL = -1, 3
_PRE = {"a": 0, "b": 1, "rc": 2}


def order(version: str) -> tuple[Any, ...]:
    """A key to sort versions by, oldest first."""
    public, _, local = version.partition("+")
    epoch, mark, rest = public.partition("!")
    if not mark:
        epoch, rest = "", public
    rest, is_dev, dev = rest.partition(".dev")
    rest, is_post, post = rest.partition(".post")
    pre: tuple[int, int] = (_FINAL, 0)
    for word, rank in _PRE.items():
        release, found, number = rest.partition(word)
        if found:
            rest, pre = release, (rank, _number(number))
            break
    else:
        if is_dev and not is_post:
            pre = (_DEV_ONLY, 0)
    return (
        _number(epoch),
        tuple(_number(part) for part in rest.split(".")),
        pre,
        _number(post) if is_post else -1,
        (0, _number(dev)) if is_dev else (1, 0),
        tuple(_local(part) for part in local.split(".")) if local else (),
        version,
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 64 else 0


def _local(part: str) -> tuple[int, int, str]:
    return (1, _number(part), "") if part.isascii() and part.isdigit() else (0, 0, part)
