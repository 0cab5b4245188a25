"""``log new-epoch``: a log goes on under another origin, and nodes with its history go along."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import load_public
from control_plane.publish.trustfolder import TrustFolder
from control_plane.trust.enrolment import Enrolment

GAP = 1 << 20
LOGS = ("production", "staging")


def kill(governed: Any, name: str, environment: str = "production") -> int:
    """Kill a flag; the generation it got."""
    return int(governed.done("kill", name, "-e", environment)["generation"])


def roots(governed: Any) -> dict[str, int]:
    """The root version that each place has."""
    private = governed.private
    return {name: governed.history(name).policy.root_version for name in LOGS} | {
        "folder": max(TrustFolder.read(private / "trust").versions()),
        "enrolment": Enrolment.decode((private / "trust.json").read_bytes()).policy().root_version,
    }


def everywhere(version: int) -> dict[str, int]:
    return dict.fromkeys((*LOGS, "folder", "enrolment"), version)


def test_a_log_goes_on_with_its_heads_and_far_higher_generations(governed: Any) -> None:
    kill(governed, "one")
    kill(governed, "two")
    before = governed.history()
    told = governed.done("log", "new-epoch", "-e", "production")
    assert told["continues"] == {
        "epoch": 1, "size": 3, "root": before.position.frontier.root().hex(),
        "generation": 3 + GAP,
    }  # fmt: skip
    after = governed.history()
    assert (told["epoch"], after.position.origin) == (2, "acme/production/2")
    assert (after.position.size, after.position.generation) == (2, 3 + GAP + 2)
    assert after.heads == before.heads
    assert governed.history("staging").position.origin == "acme/staging/1"
    assert roots(governed) == everywhere(2)
    assert kill(governed, "three") == 3 + GAP + 3
    # A change replaces a head of the old epoch.
    assert governed("unkill", "one", "-e", "production").code == 0


def test_nodes_with_the_history_that_is_continued_go_along(governed: Any) -> None:
    first = governed.project.folder / "first-trust.json"
    first.write_bytes((governed.private / "trust.json").read_bytes())
    kill(governed, "one")
    governed.start_node("live")
    sleeper = governed.start_node("slept")
    governed.held("slept", 2)
    sleeper.stop()
    kill(governed, "two")
    governed.done("log", "new-epoch", "-e", "production", "--new-log-key")
    kill(governed, "three")
    governed.done("keys", "rotate-root")
    governed.done("log", "new-epoch", "-e", "production")
    generation = kill(governed, "four")
    governed.start_node("slept", first, wait=False)
    governed.start_node("late")
    governed.start_node("later", first)
    held = [governed.held(name, generation) for name in ("live", "slept", "late", "later")]
    assert held[1:] == held[:1] * 3
    history = governed.history()
    assert (history.position.origin, held[0]["policy"]) == (
        "acme/production/3", history.policy.digest,
    )  # fmt: skip
    assert len(held[0]["heads"]) == len(history.heads) == 4


def test_the_log_gets_another_key_and_keeps_it_in_later_epochs(governed: Any) -> None:
    keys = governed.private / "keys"
    governed.done("log", "new-epoch", "-e", "production", "--new-log-key")
    second = load_public(keys / "log-production.2.pem").key_id
    assert governed.history().policy.log("production").key_id == second
    governed.done("log", "new-epoch", "-e", "production")
    assert governed.history().policy.log("production").key_id == second
    assert load_public(keys / "log-production.3.pem").key_id == second
    governed.stop_store()
    governed.start_store()
    assert kill(governed, "x") == governed.history().position.generation


def test_a_log_key_made_elsewhere_is_named_by_its_public_half(
    governed: Any, tmp_path: Path
) -> None:
    elsewhere, keys = tmp_path / "store", governed.private / "keys"
    made = governed.done("keys", "new", "log-production.2", "--directory", elsewhere)
    safe = tmp_path / "safe"
    shutil.copytree(governed.private, safe)
    shutil.copy(f"{made['file']}.pub", safe / "keys")
    shutil.copy(made["file"], keys)  # the store's own folder
    governed.done("log", "new-epoch", "-e", "production", "--new-log-key", "--directory", safe)
    shutil.copy(safe / "trust.json", governed.private)
    assert governed.history().policy.log("production").key_id == made["key_id"]
    assert not (safe / "keys" / "log-production.2.pem").exists()


def test_generations_begin_above_what_a_node_has_seen(governed: Any) -> None:
    told = governed.done("log", "new-epoch", "-e", "production", "--generation", 5_000_000)
    assert told["continues"]["generation"] == 5_000_000 + GAP


def test_what_an_earlier_epoch_let_in_rests_on_its_key_still(governed: Any) -> None:
    kill(governed, "one")
    governed.done("log", "new-epoch", "-e", "production")
    governed.done("keys", "revoke", "author", "--reapprove", "--replace-with", "next")
    history = governed.history()
    (head,) = history.heads.values()
    assert head.key_ids == (load_public(governed.private / "keys" / "next.pem").key_id,)
    assert head.generation == history.position.generation > GAP
    assert history.rejected == []


def test_a_dry_run_and_too_few_keys_change_nothing(governed: Any, tmp_path: Path) -> None:
    keys = governed.private / "keys"
    names = sorted(keys.iterdir())
    told = governed.done("log", "new-epoch", "-e", "production", "--new-log-key", "--dry-run")
    assert told["next"]["origin"] == "acme/production/2"
    away = tmp_path / "root.pem"
    (keys / "root.pem").rename(away)
    ran = governed("log", "new-epoch", "-e", "production", "--new-log-key")
    assert ran.code == 1
    assert "root version 1: expected keys to sign with, 1 of" in ran.err
    assert roots(governed) == everywhere(1)
    assert sorted(keys.iterdir()) == [name for name in names if name.name != "root.pem"]
    governed.done("log", "new-epoch", "-e", "production", "--key", away)
    ran = governed("log", "new-epoch", "-e", "nowhere", "--key", away)
    assert ran.code == 1
    assert "nowhere: expected one of production, staging" in ran.err


def growing(monkeypatch: pytest.MonkeyPatch, governed: Any, times: int) -> list[str]:
    """Let another person's change arrive just before new trust metadata, so many times."""
    post = StoreClient.post_trust
    grown: list[str] = []

    def after_another(self: StoreClient, environment: str, *given: Any) -> Any:
        if len(grown) < times and environment == "production":
            grown.append(f"meanwhile-{len(grown)}")
            command = [sys.executable, "-m", "control_plane", "kill", grown[-1], "-e", environment]
            subprocess.run(command, cwd=governed.project.folder, check=True, capture_output=True)
        return post(self, environment, *given)

    monkeypatch.setattr(StoreClient, "post_trust", after_another)
    return grown


def test_a_log_that_grew_meanwhile_is_looked_at_again(
    governed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = growing(monkeypatch, governed, 2)
    told = governed.done("log", "new-epoch", "-e", "production")
    assert told["continues"]["size"] == 1 + len(grown) == 3
    history = governed.history()
    assert {str(key) for key in history.changes} == {f"kill/{name}" for name in grown}
    assert roots(governed) == everywhere(2)


def test_a_log_that_never_rests_is_told_and_nothing_of_the_root_stays(
    governed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing(monkeypatch, governed, 9)
    ran = governed("log", "new-epoch", "-e", "production")
    assert ran.code == 6
    assert "size" in ran.err
    monkeypatch.undo()
    assert roots(governed) == everywhere(1)
    assert governed.history().position.size == 4


KILLED = """\
import os, signal, sys
from control_plane.cli import main
from control_plane.publish import levelling
from control_plane.publish.client import StoreClient
at = os.environ.pop("AT")
def die(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)
post, sent = StoreClient.post_trust, []
def posting(self, *given):
    if at == f"post {len(sent)}":
        die()
    sent.append(given)
    return post(self, *given)
StoreClient.post_trust = posting
if at == "enrolment":
    levelling.write_over = die
if at == "folder":
    write_trust, calls = levelling.write_trust, []
    def keeping(*given):
        calls.append(given)
        return die() if len(calls) == 2 else write_trust(*given)
    levelling.write_trust = keeping
main(sys.argv[1:])
"""


@pytest.mark.parametrize("at", ["post 0", "post 1", "folder", "enrolment"])
def test_a_killed_run_is_ended_by_the_same_command(governed: Any, at: str) -> None:
    kill(governed, "one")
    command = ["log", "new-epoch", "-e", "production", "--new-log-key"]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *command], cwd=governed.project.folder, check=False,
        env={**os.environ, "AT": at}, capture_output=True,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr
    told = governed.done(*command)
    assert told["epoch"] == 2
    finished = at != "post 0"
    assert told["outcome"] == ("finished what an earlier run began" if finished else "done")
    assert roots(governed) == everywhere(2)
    assert governed.history().position.origin == "acme/production/2"
    assert kill(governed, "two") > GAP
    assert sorted((governed.private / "keys").glob("log-production.*.pem")) == [
        governed.private / "keys" / "log-production.2.pem"
    ]


def test_a_store_restored_from_an_older_backup_goes_on(governed: Any, tmp_path: Path) -> None:
    kill(governed, "kept")
    governed.stop_store()
    backup = tmp_path / "backup"
    shutil.copytree(governed.private, backup, ignore=shutil.ignore_patterns("keys", "trust*"))
    governed.start_store()
    kill(governed, "lost")
    governed.done("keys", "rotate-root")  # trust.json knows the newer size and root from here
    kill(governed, "lost-too")
    seen = governed.history().position.generation
    governed.stop_store()
    for file in governed.private.glob("store.sqlite3*"):
        file.unlink()
    for file in backup.glob("store.sqlite3*"):
        shutil.copy(file, governed.private / file.name)
    governed.start_store()
    refused = governed("log", "new-epoch", "-e", "production")
    assert refused.code == 6
    assert "run 'control-plane log new-epoch -e production --restored'" in refused.err
    told = governed.done("log", "new-epoch", "-e", "production", "--restored", "--generation", seen)
    assert told["continues"]["size"] == 2
    assert told["continues"]["generation"] == seen + GAP
    history = governed.history()
    assert {str(key) for key in history.changes} == {"kill/kept"}
    assert history.position.origin == "acme/production/2"
    assert history.policy.root_version == 3
    # The other log lost entries too: it is left as it is until its own turn comes.
    assert list(told["diverged"]) == ["staging"]
    assert told["environments"]["staging"]["size"] == 1
    assert "--restored" in governed("keys", "rotate-root").err
    told = governed.done("log", "new-epoch", "-e", "staging", "--restored")
    assert told["diverged"] == {}
    assert roots(governed) == everywhere(4)
    assert kill(governed, "x") > seen + GAP
