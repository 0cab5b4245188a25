"""`log verify`: what a log must prove, and to whose enrolment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import ChecksumMismatch, Forked, TrustError
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import load_private_key
from control_plane.publish.replay import replay
from control_plane.trust.enrolment import Enrolment

Cli = Callable[..., Any]
ORIGIN = "acme/production/1"


@pytest.fixture
def enrolment(project: Any) -> Enrolment:
    return Enrolment.decode((project.private / "trust.json").read_bytes())


@pytest.fixture
def store(project: Any, cli: Cli) -> Any:
    """A client of a store that holds a few entries."""
    for name in ("one", "two", "three"):
        assert cli("kill", name, "-e", "production", cwd=project.folder).code == 0
    token = (project.private / "tokens" / "follow.token").read_text().strip()
    with StoreClient(project.store, token) as client:
        yield client


def enrolled_at(project: Any, enrolment: Enrolment, size: int, root: bytes) -> Enrolment:
    """An enrolment whose checkpoint, truly signed by the log's key, says something else."""
    key = load_private_key(project.private / "keys" / "log-production.pem")
    note = LogSigner(ORIGIN, key).sign_checkpoint(Checkpoint(ORIGIN, size, root), 1_700_000_000)
    return replace(enrolment, checkpoints={**enrolment.checkpoints, "production": note})


class Lying:
    """A store whose follow answers pass through ``lie``."""

    def __init__(self, store: StoreClient, lie: Callable[[dict[str, Any]], object]) -> None:
        self._store = store
        self._lie = lie

    def follow(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        answer = self._store.follow(*arguments, **named)
        self._lie(answer)
        return answer

    def blob(self, *arguments: Any, **named: Any) -> bytes:
        return self._store.blob(*arguments, **named)


def test_a_verified_log_has_the_heads_it_leads_to(store: Any, enrolment: Enrolment) -> None:
    history = replay(store, "production", enrolment)
    assert {str(key) for key in history.changes} >= {"kill/one", "kill/two", "kill/three"}
    assert history.position.size == len(history.accepted) + len(history.rejected)
    assert history.changes_at(1) == {}


def test_a_log_of_another_past_than_enrolled_is_refused(
    store: Any, project: Any, enrolment: Enrolment
) -> None:
    with pytest.raises(Forked, match="at size 2 as enrolled"):
        replay(store, "production", enrolled_at(project, enrolment, 2, b"\x01" * 32))


def test_a_log_shorter_than_enrolled_is_refused(
    store: Any, project: Any, enrolment: Enrolment
) -> None:
    with pytest.raises(Forked, match="expected at least 9999 entries as enrolled"):
        replay(store, "production", enrolled_at(project, enrolment, 9999, b"\x01" * 32))


@pytest.mark.parametrize(
    "lie",
    [
        lambda answer: answer["entries"].pop(),
        lambda answer: answer["entries"].pop(1),
        lambda answer: answer["entries"].reverse(),
        lambda answer: answer["entries"].append(answer["entries"][1]),
        lambda answer: answer.update(first=1),
        lambda answer: answer.update(checkpoint=answer["checkpoint"].replace(b"1\n", b"2\n", 1)),
        lambda answer: answer["entries"].__setitem__(1, answer["entries"][1].replace(b"7", b"8")),
    ],
    ids=["truncated", "gap", "reordered", "replayed", "shifted", "unsigned", "forged"],
)
def test_a_lying_store_is_found_out(
    store: Any, enrolment: Enrolment, lie: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(TrustError):
        replay(Lying(store, lie), "production", enrolment)  # type: ignore[arg-type]


def test_swapped_trust_metadata_is_not_taken(store: Any, enrolment: Enrolment) -> None:
    def swap(answer: dict[str, Any]) -> None:
        answer["blobs"] = dict.fromkeys(answer["blobs"], b"{}")

    # Bytes without their digest are no blob; the right ones are fetched by name.
    history = replay(Lying(store, swap), "production", enrolment)  # type: ignore[arg-type]
    assert history.policy is not None
    assert history.policy.root_bytes == enrolment.root


def test_another_installations_enrolment_verifies_nothing(
    cli: Cli, store: Any, project: Any, tmp_path: Path
) -> None:
    assert cli("init", "other", "-e", "production", "--installation", "acme").code == 0
    trust = tmp_path / "other" / ".control-plane" / "trust.json"
    ran = cli("log", "verify", "-e", "production", "--trust", trust, cwd=project.folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (6, "", 1)


def test_bytes_of_another_digest_never_become_a_document(
    project: Any, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = store.request("GET", "/production/1/checkpoint")
    monkeypatch.setattr(store, "request", lambda *_: answer)
    with pytest.raises(ChecksumMismatch):
        store.blob("production", "0" * 64, epoch=1)
