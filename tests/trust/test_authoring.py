"""What is written: pinned bytes, and plans that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.errors import InputInvalid, SyntaxInvalid
from control_plane.log.canonical import sha256_hex
from control_plane.trust import authoring


def test_equal_metadata_has_the_same_bytes_for_ever(forge: Any) -> None:
    root, targets = forge.root(), forge.targets()
    assert sha256_hex(root) == "c60037517455fc2e76d873f6fa6356fa48e0299464ca465689954a51b6b7e039"
    assert sha256_hex(targets) == "6b20adcb2be4f1933e56690aa551a5279bbf8116b61c902113ab718525415bc8"
    assert json.loads(root)["signatures"] == [
        {
            "keyid": "fd912492258bc2d0da5bfa4268c02811b4bc3ea671b024341009d29b7b8edd9e",
            "sig": "284aae979af45bc3ace64591a33577b2ffe2de566ae0470b1a906073c15c7c5b"
            "dca4ac4af08456e69ddd690fcd29c1eb8127b0329045a75e84a4e748f489f104",
        }
    ]
    assert (
        forge.policy().digest == "7d9394a8b726ae170879130db747e87d123aefe80a653fdc5a12bfc82c4c0176"
    )


def test_signatures_are_sorted_and_added_to_those_there(forge: Any) -> None:
    names = ("root", "second", "third")
    data = forge.root(keys=names, threshold=2)
    listed = [signature["keyid"] for signature in json.loads(data)["signatures"]]
    assert listed == sorted(forge.key_id(name) for name in names)
    metadata = authoring.new_root(
        version=1,
        expires=forge.expires,
        root_keys=[forge.public(name) for name in names],
        root_threshold=2,
        targets_keys=[forge.public("targets")],
        logs=[forge.log()],
    )
    for name in reversed(names):
        later = authoring.signed(metadata, [forge.signer(name)])
    assert later == data


def test_metadata_that_nobody_could_replace_is_not_written(forge: Any) -> None:
    with pytest.raises(SyntaxInvalid, match="role root: expected at least 2 keys, found 1"):
        forge.root(threshold=2)


def test_the_first_delegations_let_one_person_kill_and_need_all_to_change(forge: Any) -> None:
    keys = [forge.public("alice"), forge.public("bob")]
    grants = authoring.first_delegations(("production", "staging"), keys, 2)
    assert [(grant.patterns[0], grant.threshold) for grant in grants] == [
        ("production/kill/*", 1),
        ("production/*/*", 2),
        ("staging/kill/*", 1),
        ("staging/*/*", 2),
        ("author/*/*", 1),
    ]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (("Hello", ["production"], ["a"], 1), "installation: expected a name like"),
        (("hello", ["author"], ["a"], 1), "and not 'author'"),
        (("hello", ["a/b"], ["a"], 1), "environment: expected a name like"),
        (("hello", [], ["a"], 1), "environments: expected one or more"),
        (("hello", ["p", "p"], ["a"], 1), "each once"),
        (("hello", ["production"], ["root"], 1), "not a role's or a log's"),
        (("hello", ["production"], ["log-production"], 1), "not a role's or a log's"),
        (("hello", ["production"], ["../a"], 1), "author: expected a name like"),
        (("hello", ["production"], ["a", "a"], 1), "each once"),
        (("hello", ["production"], ["a"], 2), "expected 1 to 1, the number of authors, found 2"),
        (("hello", ["production"], ["a"], 0), "found 0"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(plan: Any, reason: str) -> None:
    with pytest.raises(InputInvalid, match=reason):
        authoring.check_plan(*plan)
