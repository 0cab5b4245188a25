"""Which part of one document is which part of another: what ``edited`` keeps and what it moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from control_plane.cli.written import FIELD_ORDER
from control_plane.log.canonical import canonical


def same(left: Any, right: Any) -> bool:
    """Whether two values are one in JSON: ``true`` is not 1, and the order of keys says nothing."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def placed(names: list[str], added: Mapping[str, Any]) -> list[str]:
    """The names of an envelope, those added behind the one that customarily comes before them."""
    order = [name for name in names if name not in added]
    for name in (name for name in FIELD_ORDER if name in added):
        before = FIELD_ORDER[: FIELD_ORDER.index(name)]
        at = max((order.index(other) + 1 for other in before if other in order), default=0)
        order.insert(at, name)
    return order + [name for name in added if name not in order]


def paired(old: Sequence[Any], new: Sequence[Any]) -> list[int | None]:
    """For each new item the old one that it is: equal, of the same name, or at the same place."""
    pairs: list[int | None] = [None] * len(new)
    left = dict.fromkeys(range(len(old)))

    def pair(at: int, place: int) -> None:
        pairs[at] = place
        del left[place]

    # What is alike at both ends first: of equal items in between the one that stays is the same.
    shorter = min(len(old), len(new))
    ends = 0
    while ends < shorter and same(old[ends], new[ends]):
        pair(ends, ends)
        ends += 1
    back = 1
    while back <= shorter - ends and same(old[-back], new[-back]):
        pair(len(new) - back, len(old) - back)
        back += 1
    for like in (_written, _name):
        places: dict[str, list[int]] = {}
        for place in left:
            if (what := like(old[place])) is not None:
                places.setdefault(what, []).append(place)
        for at, value in enumerate(new):
            what = like(value)
            if pairs[at] is None and what is not None and places.get(what):
                pair(at, places[what].pop(0))
    for at, value in enumerate(new):
        if pairs[at] is None and at in left and (_name(value) is None or _name(old[at]) is None):
            pair(at, at)
    return pairs


def _written(item: Any) -> str:
    return canonical(item).decode()


def _name(item: Any) -> str | None:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None
