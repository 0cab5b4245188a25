"""An edit starts from what the log proves, whatever the store says stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from control_plane.log.canonical import canonical
from control_plane.publish.client import StoreClient

Cli = Callable[..., Any]
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch, project: Any) -> Callable[..., None]:
    """Let the store claim that another document, which it has, stands under a name."""

    def lie(document: Any, key: tuple[str, str, str], **claimed: Any) -> None:
        token = project.private / "tokens" / "submit.token"
        with StoreClient(project.store, token.read_text().strip()) as client:
            digest = client.put_blob("production", canonical(document))
        honest = StoreClient.heads

        def heads(self: StoreClient, *arguments: Any, **named: Any) -> dict[str, Any]:
            answer = honest(self, *arguments, **named)
            for head in answer["heads"]:
                if (head["kind"], head["name"], head["part"]) == key:
                    head.update({"digest": digest, **claimed})
                    head["change"]["digest"] = digest
            return answer

        monkeypatch.setattr(StoreClient, "heads", heads)

    return lie


def shown(cli: Cli, project: Any, name: str) -> dict[str, Any]:
    ran = cli("get", name, "-e", "production", "--json", cwd=project.folder)
    document: dict[str, Any] = ran.json["document"]
    return document


def test_a_store_gets_no_document_of_its_own_signed(
    cli: Cli,
    project: Any,
    write: Callable[..., Any],
    flag: Make,
    lying: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cli("apply", "-f", write(flag("s_forged")), "-e", "production", cwd=project.folder)
    forged = flag("s_forged", default="on", disabled="on")
    lying(forged, ("flag", "s_forged", ""))
    ran = cli("flag", "off", "s_forged", "-e", "production", cwd=project.folder)
    assert ran.code == 0, ran.err
    monkeypatch.undo()
    metadata = shown(cli, project, "flag/s_forged")["metadata"]
    assert metadata["default"] == "off"
    assert "disabled" not in metadata
    assert metadata["environments"] == {"production": {"enabled": False}}


def test_an_edit_replaces_only_the_generation_it_started_from(
    cli: Cli, project: Any, write: Callable[..., Any], flag: Make, lying: Callable[..., None]
) -> None:
    document = flag("s_moved")
    cli("apply", "-f", write(document), "-e", "production", cwd=project.folder)
    lying(document, ("flag", "s_moved", ""), generation=1)
    ran = cli("flag", "off", "s_moved", "-e", "production", cwd=project.folder)
    assert ran.code == 5
    assert "run it again" in ran.err


def test_a_store_gets_no_members_of_its_own_signed(
    cli: Cli,
    project: Any,
    write: Callable[..., Any],
    lying: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segment = {"kind": "segment", "name": "s_team", "metadata": {"members": ["ann"]}}
    cli("apply", "-f", write(segment), "-e", "production", cwd=project.folder)
    forged = {**segment, "metadata": {"members": ["mallory"]}}
    lying(forged, ("segment", "s_team", ""))
    ran = cli("segment", "add", "s_team", "bob", "-e", "production", cwd=project.folder)
    assert ran.code == 0, ran.err
    monkeypatch.undo()
    members = shown(cli, project, "segment/s_team")["metadata"]["members"]
    assert members == ["ann", "bob"], json.dumps(members)
