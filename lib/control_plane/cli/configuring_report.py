"""How changes of merged configuration look: lines for people, fields of a JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from control_plane.configs.layers import written
from control_plane.configs.merged import ABSENT
from control_plane.shown import shown

if TYPE_CHECKING:
    from control_plane.publish.preflight import Impact, LeafChange

MAX_LEAVES: Final = 20
"""Values listed for the base and for each tenant; all are in the JSON."""

MAX_TENANTS: Final = 20
"""Tenants that are listed."""

MAX_CHARACTERS: Final = 100
"""Characters of one value."""


def value_text(value: Any) -> str:
    """A value in one line, cut where it is long; nothing is said of one that is not there."""
    if value is ABSENT:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    short = text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
    return shown(short, MAX_CHARACTERS)


def key_text(path: str) -> str:
    """A path as people pass it to ``config get``, on one line."""
    key = written(path)
    return shown(key if isinstance(key, str) else path, 500)


def leaf_lines(changes: Iterable[LeafChange], indent: str = "  ") -> Iterator[str]:
    """``+`` for a value that comes, ``-`` for one that goes, ``~`` for one that is another."""
    listed = list(changes)
    for change in listed[:MAX_LEAVES]:
        key = key_text(change.path)
        if change.old is ABSENT:
            yield f"{indent}+ {key}: {value_text(change.new)}"
        elif change.new is ABSENT:
            yield f"{indent}- {key}: {value_text(change.old)}"
        else:
            yield f"{indent}~ {key}: {value_text(change.old)} -> {value_text(change.new)}"
    if len(listed) > MAX_LEAVES:
        yield f"{indent}and {len(listed) - MAX_LEAVES:,} more"


def impact_lines(impact: Impact) -> Iterator[str]:
    """What moves in one environment: counts first, then the base, then each tenant."""
    name = impact.environment or "without an environment"
    if impact.empty:
        yield f"{name}: no merged value changes, for the base and {impact.known:,} tenants"
        return
    yield (
        f"{name}: {len(impact.base):,} merged"
        f" value{'s change' if len(impact.base) != 1 else ' changes'} for the base, some for"
        f" {len(impact.tenants):,} of {impact.known:,} tenants"
    )
    yield from leaf_lines(impact.base)
    own = [each for each in impact.tenants if each.own]
    for each in own[:MAX_TENANTS]:
        yield f"  tenant {each.tenant}: {len(each.own):,} of its own, {each.shared:,} with the base"
        yield from leaf_lines(each.own, "    ")
    if len(own) > MAX_TENANTS:
        yield f"  and {len(own) - MAX_TENANTS:,} more tenants with values of their own"
    sharing = len(impact.tenants) - len(own)
    if sharing:
        yield f"  {sharing:,} tenant{'s' if sharing != 1 else ''} with the base alone"


def impact_json(impact: Impact) -> dict[str, Any]:
    """The same, whole; a tenant's ``shared`` counts changes that it has with the base."""
    return {
        "environment": impact.environment,
        "tenants_known": impact.known,
        "tenants_changed": len(impact.tenants),
        "base": [change.to_json() for change in impact.base],
        "tenants": [
            {
                "tenant": each.tenant,
                "count": each.count,
                "shared": each.shared,
                "own": [change.to_json() for change in each.own],
            }
            for each in impact.tenants
        ],
    }
