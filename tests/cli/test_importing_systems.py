"""``import growthbook|unleash|launchdarkly``: from a file of theirs to an application's answers.

The files go through the store and a daemon; a node then answers as the system's own SDK does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane import ControlPlaneClient

USERS = [f"user-{number}" for number in range(60)]

GROWTHBOOK: dict[str, Any] = {
    "features": {
        "newCheckout": {
            "defaultValue": False,
            "rules": [
                {"condition": {"id": {"$inGroup": "staff"}}, "force": True},
                {"coverage": 0.4, "hashAttribute": "id", "hashVersion": 2, "force": True},
            ],
        },
        "button": {
            "defaultValue": "grey",
            "rules": [{"variations": ["red", "green", "blue"], "hashVersion": 1, "key": "exp-1"}],
        },
    },
    "savedGroups": {"staff": ["user-1", "user-2"]},
}
UNLEASH: dict[str, Any] = {
    "version": 2,
    "features": [
        {
            "name": "checkout",
            "enabled": True,
            "strategies": [
                {
                    "name": "flexibleRollout",
                    "parameters": {"rollout": "40", "stickiness": "userId", "groupId": "checkout"},
                    "constraints": [],
                }
            ],
            "variants": [
                {"name": name, "weight": 500, "stickiness": "userId"} for name in ("red", "blue")
            ],
        }
    ],
}


def taken_over(
    governed: Any, system: str, file: dict[str, Any], folder: Path, *options: str
) -> Any:
    """What the import says of a file, with its manifests on the node ``live``."""
    path = folder / "theirs.json"
    path.write_text(json.dumps(file), encoding="utf-8")
    out = folder / "manifests"
    told = governed.done("import", system, path, "--out", out, *options)
    assert (told["ok"], told["problems"]) == (True, [])
    reason = f"moved from {system}"
    applied = governed.done("apply", "-f", out, "-e", "production", "--reason", reason)
    governed.start_node("live")
    governed.held("live", applied["generations"][-1])
    return told


def served(governed: Any, ask: Callable[[ControlPlaneClient, str], Any]) -> list[Any]:
    """What the node's applications are answered, for each user."""
    root = str(governed.root("live"))
    with ControlPlaneClient(replica=root, environment="production") as client:
        return [ask(client, user) for user in USERS]


def test_features_of_growthbook_go_from_their_file_to_the_answers_of_their_sdk(
    governed: Any, tmp_path: Path
) -> None:
    growthbook = pytest.importorskip("growthbook")
    told = taken_over(governed, "growthbook", GROWTHBOOK, tmp_path, "--rename")
    assert sorted(Path(path).name for path in told["written"]) == [
        "button.yaml",
        "newcheckout.yaml",
    ]
    theirs = []
    for user in USERS:
        sdk = growthbook.GrowthBook(
            attributes={"id": user},
            features=GROWTHBOOK["features"],
            saved_groups=GROWTHBOOK["savedGroups"],
        )
        theirs.append((sdk.is_on("newCheckout"), sdk.get_feature_value("button", None)))
        sdk.destroy()
    ours = served(
        governed,
        lambda client, user: (
            client.is_enabled("newcheckout", context={"id": user}),
            client.value("button", "none", context={"id": user}),
        ),
    )
    assert ours == theirs
    assert {answer for answer, _ in ours} == {True, False}
    assert {answer for _, answer in ours} == {"red", "green", "blue"}


def test_features_of_unleash_go_from_their_file_to_the_answers_of_their_sdk(
    governed: Any, tmp_path: Path
) -> None:
    unleash = pytest.importorskip("UnleashClient")
    caches = pytest.importorskip("UnleashClient.cache")
    told = taken_over(governed, "unleash", UNLEASH, tmp_path)
    assert [Path(path).name for path in told["written"]] == [
        "checkout.yaml", "checkout.variant.yaml",
    ]  # fmt: skip
    cache = caches.FileCache("moved", directory=str(tmp_path / "cache"))
    cache.bootstrap_from_dict(UNLEASH)
    sdk = unleash.UnleashClient(
        "http://127.0.0.1:9/api", "moved", cache=cache, disable_metrics=True,
        disable_registration=True,
    )  # fmt: skip
    theirs = []
    for user in USERS:
        variant = sdk.get_variant("checkout", {"userId": user})
        name = variant["name"] if variant["enabled"] else None
        theirs.append((sdk.is_enabled("checkout", {"userId": user}), name))
    sdk.destroy()
    ours = served(
        governed,
        lambda client, user: (
            client.is_enabled("checkout", user_id=user),
            client.variant("checkout.variant", user_id=user),
        ),
    )
    assert ours == theirs
    assert {answer for _, answer in ours} == {"red", "blue", None}


@pytest.mark.parametrize(
    ("system", "good", "bad", "said"),
    [
        (
            "growthbook",
            {"features": {"good": {"defaultValue": True}}},
            {"features": {"good": {"defaultValue": True}, "bad": {"defaultValue": None}}},
            "flag bad: expected a value that is not null",
        ),
        (
            "unleash",
            {"version": 2, "features": [{"name": "good", "enabled": True, "strategies": []}]},
            {
                "version": 2,
                "features": [
                    {"name": "good", "enabled": True, "strategies": []},
                    {"name": "bad", "enabled": True, "strategies": [{"name": "ours"}]},
                ],
            },
            "flag bad: expected",
        ),
    ],
)
def test_a_feature_that_is_refused_is_one_line_and_nothing_is_written_until_told(
    cli: Any, tmp_path: Path, system: str, good: Any, bad: Any, said: str
) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(bad), encoding="utf-8")
    refused = cli("import", system, path, "--out", tmp_path / "m")
    [line] = refused.err.splitlines()
    assert refused.code == 1
    assert line.startswith(f"control-plane: {path}:")
    assert said in line
    assert not (tmp_path / "m").exists()
    assert cli("import", system, path, "--out", tmp_path / "m", "--partial").code == 1
    assert [each.name for each in (tmp_path / "m" / "flags").iterdir()] == ["good.yaml"]
    path.write_text(json.dumps(good), encoding="utf-8")
    again = cli("import", system, path, "--out", tmp_path / "m", "--json")
    assert (again.code, again.json["written"]) == (0, [])
