"""Whatever arrives is read or refused: one family of errors, for every reader of outside bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

NAMES = (
    "yaml", "place", "json", "strict", "canonical", "statement change-set", "statement trust",
    "statement snapshot", "statement epoch", "envelope", "submission", "leaf", "change file",
    "change list", "note", "checkpoint", "checkpoint text", "vkey", "tile path", "entry bundle",
    "frontier", "head", "root", "targets", "policy root", "policy targets", "trust.json",
    "private key", "public key", "document flag", "document segment", "document config",
    "document agent", "document tool", "compiled", "resolved", "shard", "record", "head key",
    "held entry", "config record", "registry record", "manifest record", "header page",
    "flag record", "segment record", "follow", "moved epoch",
)  # fmt: skip
EXAMPLES = 200


def test_every_target_is_tested(targets: dict[str, Any]) -> None:
    assert sorted(NAMES) == sorted(targets)


@pytest.mark.parametrize("name", NAMES)
def test_the_seeds_are_read(targets: dict[str, Any], name: str) -> None:
    for seed in targets[name].seeds:
        targets[name].read(seed)


@pytest.mark.parametrize("name", NAMES)
def test_changed_bytes_are_read_or_refused_in_form(
    targets: dict[str, Any], changed: Callable[[Any], st.SearchStrategy[bytes]], name: str
) -> None:
    target = targets[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(changed(target))
    def check(data: bytes) -> None:
        target.check(data)

    check()
