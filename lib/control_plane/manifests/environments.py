"""What a flag is in one environment: its own metadata with the environment's block laid over it.

Mappings merge key by key, lists and scalars replace, null is a value; ``rules`` merge by name:
the environment's rule replaces the base's in its place, a new one comes after the others.
``targeting`` is one expression, so the environment's replaces the base's whole. Base
and block stay as they are. What is for people only (``description``) and ``environments`` are not
part of the result: it is what a reader evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.configs.layers import merge

ENVIRONMENTS = "environments"
RULES = "rules"
TARGETING = "targeting"
DESCRIPTION = "description"


def environments_of(document: Mapping[str, Any]) -> list[str]:
    """The environments a flag or config names, in order."""
    return sorted(document["metadata"].get(ENVIRONMENTS, {}))


def merged_flag(metadata: Mapping[str, Any], environment: str | None) -> dict[str, Any]:
    """The flag's metadata as that environment sees it; None is one that has no block."""
    block = metadata.get(ENVIRONMENTS, {}).get(environment, {})
    merged: dict[str, Any] = merge(metadata, block)
    if isinstance(metadata.get(RULES), list) and isinstance(block.get(RULES), list):
        merged[RULES] = merged_rules(metadata[RULES], block[RULES])
    if TARGETING in block:
        merged[TARGETING] = block[TARGETING]
    if isinstance(merged.get(RULES), list):
        merged[RULES] = [_evaluated(rule) for rule in merged[RULES]]
    return {key: value for key, value in merged.items() if key not in (DESCRIPTION, ENVIRONMENTS)}


def merged_rules(base: list[Any], over: list[Any]) -> list[Any]:
    """The rules of both by name, the base's order first."""
    names = {_name(rule) for rule in base}
    replacing = {_name(rule): rule for rule in over}
    kept = [replacing.get(_name(rule), rule) for rule in base]
    return kept + [rule for rule in over if _name(rule) not in names]


def _name(rule: Any) -> str | None:
    """A rule's name; what has none is left for the flag's own rules to refuse."""
    name = rule.get("name") if isinstance(rule, Mapping) else None
    return name if isinstance(name, str) else None


def _evaluated(rule: Any) -> Any:
    if not isinstance(rule, Mapping):
        return rule
    return {key: value for key, value in rule.items() if key != DESCRIPTION}
