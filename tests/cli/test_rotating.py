"""``keys rotate-root``: every node ends with the same policy, whatever it slept through."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from control_plane.publish.client import StoreClient
from control_plane.publish.durable import write_over
from control_plane.publish.keyfiles import load_public, load_signer, new_key
from control_plane.publish.levelling import Levelling
from control_plane.publish.trust_changes import next_root, next_targets
from control_plane.publish.trustfolder import TrustFolder, write_trust
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.state import restore

LOGS = ("production", "staging")


class Crash(BaseException):
    """A run that ends here."""


def in_force(governed: Any) -> dict[str, Any]:
    """Where folder, enrolment file and both logs stand; they must agree when a run has ended."""
    folder = TrustFolder.read(governed.private / "trust")
    enrolment = Enrolment.decode((governed.private / "trust.json").read_bytes())
    logs = {name: governed.history(name) for name in ("production", "staging")}
    digests = {each.policy.digest for each in logs.values()}
    digests |= {restore(folder.roots[-1], folder.targets).digest, enrolment.policy().digest}
    assert len(digests) == 1
    assert sorted(folder.versions()) == list(range(1, len(folder.roots) + 1))
    policy = enrolment.policy()
    return {
        "root": policy.root_version,
        "targets": policy.targets_version,
        "root_keys": policy.root_key_ids,
        "targets_keys": policy.targets_key_ids,
        "roots_of_production": sorted(logs["production"].roots),
    }


def id_of(governed: Any, name: str) -> str:
    return load_public(governed.private / "keys" / f"{name}.pem").key_id


def test_live_late_and_sleeping_nodes_agree_after_three_root_versions(governed: Any) -> None:
    first = governed.project.folder / "first-trust.json"
    first.write_bytes((governed.private / "trust.json").read_bytes())
    assert governed("kill", "one", "-e", "production").code == 0
    governed.start_node("live")
    sleeper = governed.start_node("slept")
    governed.held("slept", 2)
    sleeper.stop()
    for role in ("root", "targets", "root"):
        assert governed("keys", "rotate-root", "--role", role).code == 0
        governed.done("kill", f"after-{governed.history().position.size}", "-e", "production")
    generation = governed.history().position.generation
    governed.start_node("slept", first, wait=False)
    governed.start_node("late")
    governed.start_node("later", first)
    held = [governed.held(name, generation) for name in ("live", "slept", "late", "later")]
    assert held[1:] == held[:1] * 3
    assert held[0]["policy"] == governed.history().policy.digest
    assert len(held[0]["heads"]) == len(governed.history().heads) == 4
    assert in_force(governed)["root"] == 4


def test_the_one_key_of_a_role_is_replaced_by_a_new_one(governed: Any) -> None:
    told = governed.done("keys", "rotate-root")
    assert (told["root_version"], told["names"]) == (2, ["root-2"])
    assert told["file"].endswith("/keys/root-2.pem")
    assert Path(told["file"]).stat().st_mode & 0o777 == 0o600
    state = in_force(governed)
    assert state["root_keys"] == (id_of(governed, "root-2"),)
    assert governed.done("keys", "rotate-root")["replaced"] == "root-2"
    assert in_force(governed)["roots_of_production"] == [1, 2, 3]


def test_another_targets_key_takes_a_root_and_targets_signed_again(governed: Any) -> None:
    told = governed.done("keys", "rotate-root", "--role", "targets", "--valid-days", 30)
    state = in_force(governed)
    assert (told["root_version"], told["targets_version"]) == (2, 2)
    assert state["targets_keys"] == (id_of(governed, "targets-2"),)
    assert state["root_keys"] == (id_of(governed, "root"),)
    assert governed("kill", "x", "-e", "production").code == 0


def test_several_keys_and_a_threshold(governed: Any) -> None:
    for name in ("ann", "ben"):
        assert governed("keys", "new", name).code == 0
    added = ("--add", "ann", "--add", governed.private / "keys" / "ben.pem.pub")
    told = governed.done("keys", "rotate-root", *added, "--threshold", 2)
    assert (told["threshold"], sorted(told["names"])) == (2, ["ann", "ben", "root"])
    again = governed.done("keys", "rotate-root", *added, "--threshold", 2)
    assert (again["outcome"], again["root_version"]) == ("stands already", 2)
    refused = governed("keys", "rotate-root")
    assert refused.code == 1
    assert "expected one key to replace, found 3; say which with --add and --remove" in refused.err
    removed = governed.done("keys", "rotate-root", "--remove", "root", "--remove", "ann",
                            "--threshold", 1)  # fmt: skip
    assert removed["names"] == ["ben"]
    assert in_force(governed)["root"] == 3


def test_too_few_keys_are_told_in_a_line_and_nothing_changes(governed: Any, tmp_path: Path) -> None:
    for name in ("ann", "ben"):
        governed("keys", "new", name)
    governed.done("keys", "rotate-root", "--add", "ann", "--add", "ben", "--threshold", 3)
    away = tmp_path / "away"
    away.mkdir()
    for name in ("ann", "ben"):
        (governed.private / "keys" / f"{name}.pem").rename(away / f"{name}.pem")
    before = in_force(governed)
    for named in ((), ("--key", away / "ann.pem")):
        ran = governed("keys", "rotate-root", "--remove", "root", "--threshold", 1, *named)
        assert ran.code == 1
        assert "root version 2: expected keys to sign with, 3 of " in ran.err
        assert f"found {1 + bool(named)}; name each key file with --key FILE" in ran.err
        assert ran.err.count("\n") == 1
    assert in_force(governed) == before
    both = ("--key", away / "ann.pem", "--key", away / "ben.pem")
    governed.done("keys", "rotate-root", "--remove", id_of(governed, "root")[:12],
                  "--threshold", 2, *both)  # fmt: skip
    assert in_force(governed)["root"] == 3


def test_the_next_root_needs_its_own_threshold_at_hand(governed: Any, tmp_path: Path) -> None:
    for role in ("root", "targets"):
        pub = new_key(tmp_path / f"ann-{role}.pem").public_path
        ran = governed("keys", "rotate-root", "--role", role, "--add", pub, "--threshold", 2)
        assert ran.code == 1
        assert f"the next {role}: expected keys to sign with, 2 of " in ran.err
    assert in_force(governed)["root"] == 1
    pub = tmp_path / "ann-root.pem.pub"
    governed.done("keys", "rotate-root", "--add", pub)  # one of the two is enough here
    assert in_force(governed)["root"] == 2


def test_a_threshold_out_of_reach_is_refused_with_its_cure(governed: Any) -> None:
    ran = governed("keys", "rotate-root", "--threshold", 2)
    assert ran.code == 1
    assert "expected a threshold of 1 to 1, its number of keys, found 2; add keys" in ran.err
    ran = governed("keys", "rotate-root", "--remove", "root")
    assert "expected a threshold of 1 to 0" in ran.err
    assert in_force(governed)["root"] == 1


def test_expiry_moves_without_other_keys(governed: Any) -> None:
    told = governed.done("keys", "rotate-root", "--renew", "--valid-days", 90)
    assert (told["root_version"], told["names"]) == (2, ["root"])
    told = governed.done("keys", "rotate-root", "--renew", "--role", "targets", "--valid-days", 90)
    assert (told["root_version"], told["targets_version"]) == (2, 2)
    policy = governed.history().policy
    now_ms = governed.history().position.sequenced_at
    days = 86_400_000
    assert (policy.expired_at(now_ms + 89 * days), policy.expired_at(now_ms + 91 * days)) == (
        False, True,
    )  # fmt: skip
    assert in_force(governed)["root"] == 2


@pytest.mark.parametrize("role", ["root", "targets"])
def test_what_expired_together_is_renewed_together(governed: Any, role: str) -> None:
    signers = {
        name: load_signer(governed.private / "keys" / f"{name}.pem") for name in ("root", "targets")
    }
    token = (governed.private / "tokens" / "submit.token").read_text().strip()
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    with StoreClient(governed.project.store, token) as client:
        work = Levelling(client, governed.private / "trust", governed.private / "trust.json")
        standing = work.look()
        root = authoring.signed(next_root(standing.policy, expires=soon), [signers["root"]])
        again = next_targets(standing.policy, expires=soon)
        work.add(standing, root=root, targets=authoring.signed(again, [signers["targets"]]))
        work.enrol()
    time.sleep(3)
    assert governed("kill", "x", "-e", "production").code == 6
    names = sorted((governed.private / "keys").iterdir())
    for other in (("keys", "revoke", "author", "--replace-with", "next"),
                  ("log", "new-epoch", "-e", "staging", "--new-log-key")):  # fmt: skip
        ran = governed(*other)
        assert ran.code == 6
        assert "run 'control-plane keys rotate-root --renew' first" in ran.err
    assert sorted((governed.private / "keys").iterdir()) == names
    governed.done("keys", "rotate-root", "--role", role, "--renew")
    state = in_force(governed)
    assert (state["root"], state["targets"]) == (3, 3)
    governed.done("kill", "x", "-e", "production")


def test_doctor_tells_what_expires_soon_and_what_to_run(governed: Any) -> None:
    governed.start_node("live")
    governed.done("keys", "rotate-root", "--renew", "--valid-days", 20)
    governed.held("live", 2)
    told = governed("doctor", "-e", "production", "--json").json["findings"]
    (found,) = [each for each in told if each["check"] == "trust" and each["state"] == "wrong"]
    assert "root metadata valid for 30 days, found 19 days" in found["found"]
    governed.done(*found["cure"].split("'")[1].split()[1:])
    governed.held("live", 3)
    told = governed("doctor", "-e", "production", "--json").json["findings"]
    assert {each["state"] for each in told if each["check"] == "trust"} == {"ok"}


def test_a_dry_run_writes_nothing(governed: Any) -> None:
    before, files = in_force(governed), sorted((governed.private / "keys").iterdir())
    told = governed.done("keys", "rotate-root", "--dry-run")
    assert told["dry_run"] is True
    assert in_force(governed) == before
    assert sorted((governed.private / "keys").iterdir()) == files


def test_locked_keys_ask_for_their_passphrase(governed: Any, tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_text("open sesame\n")
    governed.done("keys", "new", "locked", "--passphrase-file", word)
    governed.done("keys", "rotate-root", "--add", "locked", "--remove", "root",
                  "--passphrase-file", word)  # fmt: skip
    ran = governed("keys", "rotate-root")
    assert ran.code == 1
    assert "expected a passphrase for a locked key, found none" in ran.err
    told = governed.done("keys", "rotate-root", "--passphrase-file", word)
    assert b"ENCRYPTED" in Path(told["file"]).read_bytes()
    assert in_force(governed)["root"] == 3


# Runs that end in the middle

STEPS = ("before the first log", "between the logs", "before the folder", "in the folder",
         "before the enrolment")  # fmt: skip


def crash_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Let the next run end at a step."""
    post = StoreClient.post_trust
    posts: list[str] = []

    def posting(self: StoreClient, environment: str, *given: Any) -> Any:
        if len(posts) == STEPS.index(step):
            raise Crash
        posts.append(environment)
        return post(self, environment, *given)

    def keeping(*given: Any) -> None:
        # The first call brings folder and logs level, before anything is new.
        if posts and step == "before the folder":
            raise Crash
        write_trust(*given)
        if posts and step == "in the folder":
            raise Crash

    def enrolling(*given: Any) -> None:
        if step == "before the enrolment":
            raise Crash
        write_over(*given)

    monkeypatch.setattr(StoreClient, "post_trust", posting)
    monkeypatch.setattr("control_plane.publish.levelling.write_trust", keeping)
    monkeypatch.setattr("control_plane.publish.levelling.write_over", enrolling)


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_ended_in_the_middle_is_ended_by_the_same_command(
    governed: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patched:
        crash_at(patched, step)
        with pytest.raises(Crash):
            governed("keys", "rotate-root", "--json")
    told = governed.done("keys", "rotate-root")
    again = step != "before the first log"
    assert told["outcome"] == ("finished what an earlier run began" if again else "done")
    state = in_force(governed)
    assert (state["root"], state["root_keys"]) == (2, (id_of(governed, "root-2"),))
    assert state["roots_of_production"] == [1, 2]
    # And it is ended: the next run is a new rotation.
    assert governed.done("keys", "rotate-root")["root_version"] == 3


KILLED = """\
import os, signal, sys
from control_plane.cli import main
from control_plane.publish.client import StoreClient
post, sent = StoreClient.post_trust, []
def posting(self, *given):
    if sent:
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(given)
    return post(self, *given)
StoreClient.post_trust = posting
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments",
    [("--role", "targets"), ("--add", "ann"), ("--renew",)],
)
def test_a_killed_run_is_ended_by_the_same_command(
    governed: Any, arguments: tuple[str, ...]
) -> None:
    new_key(governed.private / "keys" / "ann.pem")
    command = ["keys", "rotate-root", *arguments]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *command], cwd=governed.project.folder, check=False,
        env=dict(os.environ), capture_output=True,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL
    versions = {name: governed.history(name).policy.root_version for name in LOGS}
    assert sorted(versions.values()) == [1, 2]
    governed.done(*command)
    # To renew once more is all that a second run to renew can mean.
    assert in_force(governed)["root"] == (3 if arguments == ("--renew",) else 2)


def test_a_log_that_another_person_changed_is_brought_into_the_folder(
    governed: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(governed.private, other)
    governed.done("keys", "rotate-root", "--directory", other)
    told = governed.done("keys", "rotate-root", "--key", other / "keys" / "root-2.pem")
    assert told["root_version"] == 3
    assert in_force(governed)["roots_of_production"] == [1, 2, 3]


def test_two_roots_of_one_version_are_told_and_nothing_is_signed(
    governed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(governed.private, other)
    with monkeypatch.context() as patched:
        crash_at(patched, "between the logs")
        with pytest.raises(Crash):
            governed("keys", "rotate-root", "--directory", other)
    forged = governed.private / "trust" / "2.root.json"
    policy = Enrolment.decode((governed.private / "trust.json").read_bytes()).policy()
    metadata = next_root(policy, expires=datetime(2050, 1, 1, tzinfo=UTC))
    signer = load_signer(governed.private / "keys" / "root.pem")
    forged.write_bytes(authoring.signed(metadata, [signer]))
    ran = governed("keys", "rotate-root")
    assert ran.code == 6
    assert "expected root version 2 as the trust folder or another log has it" in ran.err
    assert sorted(governed.history(name).policy.root_version for name in LOGS) == [1, 2]
