"""Text of others as a log line shows it: names, paths and error texts may come from anywhere."""

from __future__ import annotations

MAX_SHOWN_NAME = 200
MAX_SHOWN_REASON = 1000


def shown(text: object, max_characters: int = MAX_SHOWN_REASON) -> str:
    """The start of the text, with what could forge a line or steer a terminal as escapes.

    The escapes are Python's, and come on top of ``max_characters``.
    """
    start = str(text)[:max_characters]
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in start)
