"""Conditions of a flag's rules put together while they are written, as importers do.

A condition is a ``when``, or True where it always holds, or False where it never does: a rule
without a ``when`` says the one, and a rule that is left out the other. What is put together stays
in the order it came, holds for exactly the same callers, and is as flat as that allows.
"""

from __future__ import annotations

from typing import Any, Final

When = dict[str, Any]
Condition = When | bool

_ANY: Final = "$any"
_ALL: Final = "$all"
_NOT: Final = "$not"
_FLAG: Final = "$flag"


def all_of(*conditions: Condition) -> Condition:
    """What holds where all of these do."""
    if any(condition is False for condition in conditions):
        return False
    parts: list[When] = []
    for condition in conditions:
        if not isinstance(condition, dict):
            continue
        for each in condition[_ALL] if set(condition) == {_ALL} else [condition]:
            _join(parts, each)
    if not parts:
        return True
    return dict(parts[0]) if len(parts) == 1 else {_ALL: parts}


def any_of(*conditions: Condition) -> Condition:
    """What holds where one of these does."""
    if any(condition is True for condition in conditions):
        return True
    parts: list[When] = []
    for condition in conditions:
        if isinstance(condition, dict):
            for each in condition[_ANY] if set(condition) == {_ANY} else [condition]:
                if each not in parts:
                    parts.append(each)
    if not parts:
        return False
    return parts[0] if len(parts) == 1 else {_ANY: parts}


def none_of(condition: Condition) -> Condition:
    """What holds where this one does not."""
    if not isinstance(condition, dict):
        return not condition
    if set(condition) == {_NOT}:
        inside: When = condition[_NOT]
        return inside
    return {_NOT: condition}


def asks(attribute: str, word: str, operand: Any) -> When:
    """One word about one attribute."""
    return {attribute: {word: operand}}


def is_there(attribute: str) -> When:
    """The attribute is there and not null."""
    return asks(attribute, "present", True)


def is_text_or_number(attribute: str) -> When:
    """The attribute is a scalar and no bool."""
    return asks(attribute, "not_in", [True, False])


def has_one(attribute: str, texts: list[str]) -> When:
    """The attribute is a list with one of these texts as a member.

    ``contains`` looks for parts of a text, too, so that a text has to be kept out.
    """
    wanted: Any = texts[0] if len(texts) == 1 else texts
    return {attribute: {"contains": wanted}, _NOT: is_text_or_number(attribute)}


def _join(parts: list[When], condition: When) -> None:
    """Add a condition to those that all have to hold: to the last where that says the same."""
    if condition in parts:
        return
    last = parts[-1] if parts else {}
    merged = dict(last)
    for name, operand in condition.items():
        known = merged.get(name)
        if name not in merged or known == operand:
            merged[name] = operand
        elif (name[0] != "$" or name == _FLAG) and _words_apart(known, operand):
            merged[name] = known | operand
        else:
            parts.append(condition)
            return
    if parts:
        parts[-1] = merged
    else:
        parts.append(merged)


def _words_apart(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict) and not set(one) & set(other)
