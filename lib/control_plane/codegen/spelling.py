"""How foreign words stand in Python source: as literals that give them back, and in class names.

Names of manifests, variants and configuration keys are data that somebody else wrote. They enter
the source as string literals made here, and in the names of classes with every character left out
that is no ASCII letter or digit; no other way leads in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from keyword import iskeyword

_WORD = re.compile(r"[A-Za-z0-9]+")


def literal(value: object) -> str:
    """The Python literal of a str, int, bool or None; text in double quotes and ASCII alone.

    Which other characters can be printed differs between versions of Python, and the text may not.
    """
    if not isinstance(value, str):
        return repr(value)
    return '"' + "".join([_character(each) for each in value]) + '"'


def _character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    point = ord(character)
    if 0x20 <= point < 0x7F:
        return character
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def is_attribute(key: str) -> bool:
    """Whether a key may be a field in the body of a class.

    Not so a keyword, a name that Python would mangle, or one that is another once normalised.
    """
    return key.isascii() and key.isidentifier() and not iskeyword(key) and not key.startswith("__")


class ClassNames:
    """Gives out class names, each once; what is asked for in one order is named alike each time."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def of(self, words: Iterable[str], ending: str) -> str:
        """``("answer_style",)`` and ``Variant`` as ``AnswerStyleVariant``, numbered if taken."""
        parts = [part for word in words for part in _WORD.findall(word)]
        name = "".join([part[0].upper() + part[1:] for part in parts]) + ending
        if name[0].isdigit():
            name = f"N{name}"
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}{number}"
        self._taken.add(found)
        return found
