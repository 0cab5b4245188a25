"""``keys revoke``: a key signs nothing any more, and what rested on it is decided at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.log.canonical import parse
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import leaf_hash
from control_plane.log.statements import Change, Key, change_set
from control_plane.log.steps import Position
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import (
    create_trust,
    load_private_key,
    load_public,
    load_signer,
    new_key,
    sign_envelope,
)
from control_plane.publish.levelling import Levelling
from control_plane.publish.publisher import Publisher
from control_plane.publish.replay import replay
from control_plane.publish.trust_changes import next_targets
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.keys import tuf_key_of


def id_of(governed: Any, name: str) -> str:
    return load_public(governed.private / "keys" / f"{name}.pem").key_id


def documents(folder: Path) -> Path:
    """One document of every kind, in a folder of their own."""
    folder.mkdir()
    tool = {"description": "a tool", "inputs_schema": {"type": "object"}}
    agent = {"description": "an agent", "tools": ["crm"], "capabilities": []}
    made = [
        {"kind": "flag", "name": "f", "metadata": {
            "variants": {"on": True, "off": False}, "default": "off"}},
        {"kind": "config", "name": "c", "metadata": {"values": {"url": "x"}}},
        {"kind": "segment", "name": "s", "metadata": {"members": ["u1", "u2"]}},
        {"kind": "tool", "name": "crm", "version": "1.0.0", "metadata": tool},
        {"kind": "agent", "name": "support", "version": "1.0.0", "metadata": agent},
    ]  # fmt: skip
    for document in made:
        (folder / f"{document['name']}.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture
def peopled(governed: Any, tmp_path: Path) -> Any:
    """A project where author and second may sign, and author let in one record of every kind."""
    second(governed)
    governed.done("apply", "-f", documents(tmp_path / "documents"), "-e", "production")
    governed.done("kill", "f", "-e", "production")
    governed.done("kill", "f", "-e", "staging")
    return governed


def second(governed: Any) -> None:
    """A second person, who may sign all that author may; there is no verb for it."""
    made = new_key(governed.private / "keys" / "second.pem")
    token = (governed.private / "tokens" / "submit.token").read_text().strip()
    with StoreClient(governed.project.store, token) as client:
        work = Levelling(client, governed.private / "trust", governed.private / "trust.json")
        standing = work.look()
        metadata = next_targets(standing.policy, expires=datetime(9999, 1, 1, tzinfo=UTC))
        for name in [each.name for each in standing.policy.delegations]:
            metadata.signed.add_key(tuf_key_of(made.public), name)
        signer = load_signer(governed.private / "keys" / "targets.pem")
        work.add(standing, root=None, targets=authoring.signed(metadata, [signer]))
        work.enrol()


def by_second(governed: Any) -> tuple[str, Path]:
    return ("--key", governed.private / "keys" / "second.pem")


def resting_keys(governed: Any, name: str, environment: str = "production") -> set[str]:
    """The live keys whose change set that key signed."""
    history = governed.history(environment)
    wanted = id_of(governed, name)
    return {str(key) for key in history.changes if wanted in history.heads[key].key_ids}


EVERYTHING = {
    "flag/f", "config/c", "tool/crm v/1.0.0", "tool/crm c/stable", "agent/support v/1.0.0",
    "agent/support c/stable", "segment/s", "kill/f",
}  # fmt: skip


def test_a_key_with_live_records_is_not_revoked_unless_they_are_decided(peopled: Any) -> None:
    before = peopled.history().position
    ran = peopled("keys", "revoke", "author")
    assert ran.code == 1
    assert "expected --reapprove or --delete, found 9 live records that rest on it" in ran.err
    assert "nothing was changed" in ran.err
    for key in EVERYTHING:
        assert key in ran.out
    assert "staging" in ran.out
    listed = peopled.done("keys", "revoke", "author", "--dry-run")
    assert {each["key"] for each in listed["records"]} == EVERYTHING
    assert {each["why"] for each in listed["records"]} == {"let in", "signed as its author"}
    assert peopled.history().position == before


def test_records_are_approved_again_with_digest_checksum_and_verb(peopled: Any) -> None:
    before = peopled.history()
    told = peopled.done("keys", "revoke", "author", "--reapprove", *by_second(peopled))
    assert told["revoked"] is True
    after = peopled.history()
    assert set(map(str, after.changes)) == EVERYTHING
    assert resting_keys(peopled, "author") == resting_keys(peopled, "author", "staging") == set()
    for key, change in after.changes.items():
        assert change.checksum == before.changes[key].checksum
        assert after.heads[key].verb == before.heads[key].verb
        assert after.heads[key].key_ids == (id_of(peopled, "second"),)
        if not key.part.startswith("v/"):
            assert change.digest == before.changes[key].digest
    assert after.rejected == []
    # The enrolment file vouches for the revocation: a new node starts from there.
    enrolment = Enrolment.decode((peopled.private / "trust.json").read_bytes())
    assert id_of(peopled, "author") not in set(enrolment.policy().keys())


def test_files_that_were_applied_stand_as_before_after_a_reapproval(
    peopled: Any, tmp_path: Path
) -> None:
    """The verb is kept, so nothing asks for a pull, and another signature is no change."""
    peopled.done("keys", "revoke", "author", "--reapprove", *by_second(peopled))
    applied = ("apply", "-f", tmp_path / "documents", "-e", "production", *by_second(peopled))
    before = peopled.history().position
    peopled.done(*applied)
    assert peopled.history().position.size == before.size
    flag = tmp_path / "documents" / "f.yaml"
    flag.write_text(flag.read_text().replace("default: 'off'", "default: 'on'"))
    assert len(peopled.done(*applied)["changed"]) == 1


def test_agents_and_tools_get_another_authors_signature_over_the_same_content(
    peopled: Any,
) -> None:
    before = published(peopled, "tool/crm@1.0.0")
    peopled.done("keys", "revoke", "author", "--reapprove", *by_second(peopled))
    after = published(peopled, "tool/crm@1.0.0")
    assert before["signature"].split(":")[1] == id_of(peopled, "author")
    assert after["signature"].split(":")[1] == id_of(peopled, "second")
    assert {**before, "signature": ""} == {**after, "signature": ""}


def published(governed: Any, reference: str) -> dict[str, Any]:
    with StoreClient(governed.project.store, token_of(governed)) as client:
        return Publisher(client).document("production", reference)


def token_of(governed: Any) -> str:
    return str((governed.private / "tokens" / "submit.token").read_text().strip())


def test_records_are_deleted_with_what_points_to_them(peopled: Any) -> None:
    kept = peopled.done("kill", "kept", "-e", "production", *by_second(peopled))
    told = peopled.done("keys", "revoke", "author", "--delete", *by_second(peopled))
    assert told["action"] == "delete"
    history = peopled.history()
    assert {str(key): history.heads[key].generation for key in history.changes} == {
        "kill/kept": kept["generation"]
    }
    assert peopled.history("staging").changes == {}


def test_what_a_revoked_key_signs_is_refused_and_what_it_signed_before_is_served(
    peopled: Any,
) -> None:
    waiting = peopled.project.folder / "waiting.json"
    yaml_file = peopled.project.folder / "late.yaml"
    yaml_file.write_text(yaml.safe_dump({"kind": "flag", "name": "late", "metadata": {
        "variants": {"on": True, "off": False}, "default": "off"}}))  # fmt: skip
    assert peopled("apply", "-f", yaml_file, "-e", "production", "--out", waiting).code == 0
    peopled.start_node("live")
    peopled.done("keys", "revoke", "author", "--reapprove", *by_second(peopled))
    refused = peopled("submit", waiting)
    assert refused.code in (1, 6)
    assert "expected signatures by keys" in refused.err
    assert Key("flag", "late") not in peopled.history().heads
    generation = peopled.history().position.generation
    held = peopled.held("live", generation)
    assert held["policy"] == peopled.history().policy.digest
    root = peopled.root("live")
    served = peopled("get", "flag/f", "-e", "production")
    assert served.code == 0
    assert root.is_dir()


def test_nodes_that_watched_came_late_or_slept_agree_on_a_revocation(peopled: Any) -> None:
    first = peopled.project.folder / "first-trust.json"
    first.write_bytes((peopled.private / "trust.json").read_bytes())
    peopled.start_node("live")
    sleeper = peopled.start_node("slept")
    peopled.held("slept", peopled.history().position.generation)
    sleeper.stop()
    peopled.done("keys", "revoke", "author", "--reapprove", "--replace-with", "third")
    third = ("--key", peopled.private / "keys" / "third.pem")
    peopled.done("kill", "more", "-e", "production", *third)
    peopled.done("keys", "revoke", "third", "--delete", *by_second(peopled))
    generation = peopled.history().position.generation
    peopled.start_node("slept", first, wait=False)
    peopled.start_node("late")
    held = [peopled.held(name, generation) for name in ("live", "slept", "late")]
    assert held[1:] == held[:1] * 2
    history = peopled.history()
    assert held[0]["policy"] == history.policy.digest
    assert len(held[0]["heads"]) == len(history.heads)


def test_an_entry_by_a_revoked_key_is_rejected_by_who_replays_the_log(peopled: Any) -> None:
    """The store is not asked: here it has sequenced the entry and signed the log with it."""
    peopled.done("keys", "revoke", "author", "--reapprove", *by_second(peopled))
    served = peopled.history()
    enrolment = Enrolment.decode((peopled.private / "trust.json").read_bytes())
    for name, judged in (("author", "not_delegated"), ("second", "")):
        with StoreClient(peopled.project.store, token_of(peopled)) as client:
            lying = Sequencing(peopled, client, name, served.position)
            history = replay(lying, "production", enrolment)
        assert history.position.size == served.position.size + 1
        assert [each.code for each in history.rejected] == ([judged] if judged else [])
        assert (Key("kill", "forced") in history.heads) is not bool(judged)
        assert {key: history.heads[key] for key in served.heads} == served.heads


class Sequencing:
    """A store that has taken one entry more, signed by a key of the project."""

    def __init__(self, governed: Any, client: StoreClient, name: str, end: Position) -> None:
        self._client = client
        keys = governed.private / "keys"
        kill = Change(
            action="put", kind="kill", name="forced", replaces=None, value={"variant": None}
        )
        statement, _ = change_set(
            end.origin, [kill], created_at=1, not_after=1 << 50, reason="r", verb="kill"
        )
        envelope = sign_envelope(statement.envelope(), load_signer(keys / f"{name}.pem"))
        self._leaf = Leaf(end.sequenced_at, envelope).encode()
        longer = end.frontier.extended([leaf_hash(self._leaf)])
        signer = LogSigner(end.origin, load_private_key(keys / "log-production.pem"))
        checkpoint = Checkpoint(end.origin, longer.size, longer.root())
        self._size, self._note = longer.size, signer.sign_checkpoint(checkpoint, int(time.time()))

    def follow(self, environment: str, *, epoch: int, size: int) -> dict[str, Any]:
        answer = self._client.follow(environment, epoch=epoch, size=min(size, self._size - 1))
        if size < self._size:
            answer["entries"].append(self._leaf)
        return {**answer, "first": size, "checkpoint": self._note}

    def blob(self, environment: str, digest: str, epoch: int | None = None) -> bytes:
        return self._client.blob(environment, digest, epoch)


def test_the_only_key_is_revoked_once_another_takes_its_places(governed: Any) -> None:
    governed.done("kill", "x", "-e", "production")
    before = governed.history().position
    ran = governed("keys", "revoke", "author", "--reapprove")
    assert ran.code == 1
    assert "expected 1 keys that may sign it without" in ran.err
    assert "found 0; name a key that takes its place with --replace-with NAME" in ran.err
    assert governed.history().position == before
    listed = governed.done("keys", "revoke", "author", "--dry-run")
    assert [each["key"] for each in listed["records"]] == ["kill/x"]
    told = governed.done("keys", "revoke", "author", "--reapprove", "--replace-with", "next")
    assert told["replaced_with"].endswith("/keys/next.pem")
    assert resting_keys(governed, "next") == {"kill/x"}
    assert resting_keys(governed, "author") == set()
    assert governed("kill", "y", "-e", "production").code == 6
    governed.done("kill", "y", "-e", "production", "--key", told["replaced_with"])


def test_a_refused_revocation_leaves_no_key_file_behind(peopled: Any) -> None:
    names = sorted((peopled.private / "keys").iterdir())
    assert peopled("keys", "revoke", "author", "--replace-with", "next").code == 1
    targets = peopled.private / "keys" / "targets.pem"
    targets.rename(targets.with_suffix(".away"))
    ran = peopled("keys", "revoke", "author", "--replace-with", "next", "--reapprove")
    assert ran.code == 1
    assert "targets: expected keys to sign with, 1 of" in ran.err
    assert "name each key file with --targets-key FILE" in ran.err
    targets.with_suffix(".away").rename(targets)
    assert sorted((peopled.private / "keys").iterdir()) == names


def test_keys_of_roles_and_logs_are_sent_to_their_own_verbs(governed: Any) -> None:
    for name, cure in (
        ("root", "keys rotate-root --role root"),
        ("targets", "keys rotate-root --role targets"),
        ("log-staging", "log new-epoch -e staging --new-log-key"),
    ):
        ran = governed("keys", "revoke", name)
        assert ran.code == 1
        assert cure in ran.err
    ran = governed("keys", "revoke", "nobody")
    assert ran.code == 1
    assert "nobody: expected the name or the id of a key, found none" in ran.err
    assert governed("keys", "revoke", "author", "--reapprove", "--delete").code == 2
    assert governed.history().position.size == 1


def test_a_key_is_named_by_the_beginning_of_its_id(peopled: Any) -> None:
    key_id = id_of(peopled, "second")
    told = peopled.done("keys", "revoke", key_id[:12])
    assert (told["key_id"], told["records"], told["revoked"]) == (key_id, [], True)
    assert peopled("kill", "z", "-e", "production", *by_second(peopled)).code == 6


KILLED = """\
import os, signal, sys
from control_plane.cli import main
from control_plane.publish.client import StoreClient
names = ("post_trust", "submit")
calls, wanted = [], int(os.environ.pop("AT_CALL"))
def killing(name):
    called = getattr(StoreClient, name)
    def call(self, *given, **named):
        calls.append(name)
        if len(calls) == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return called(self, *given, **named)
    return call
for name in names:
    setattr(StoreClient, name, killing(name))
main(sys.argv[1:])
"""


# post, post, and one set for each verb and environment
@pytest.mark.parametrize("at_call", [2, 3, 5])
def test_a_killed_run_is_ended_by_the_same_command(peopled: Any, at_call: int) -> None:
    arguments = ["keys", "revoke", "author", "--reapprove", "--replace-with", "third"]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=peopled.project.folder, check=False,
        env={**os.environ, "AT_CALL": str(at_call)}, capture_output=True,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr
    left = len(resting_keys(peopled, "author")) + len(resting_keys(peopled, "author", "staging"))
    assert left > 0
    peopled.done(*arguments)
    assert resting_keys(peopled, "author") == resting_keys(peopled, "author", "staging") == set()
    assert set(map(str, peopled.history().changes)) == EVERYTHING
    digests = {peopled.history(name).policy.digest for name in ("production", "staging")}
    enrolled = Enrolment.decode((peopled.private / "trust.json").read_bytes()).policy()
    assert digests == {enrolled.digest}
    assert peopled.done(*arguments)["records"] == []


def test_a_record_that_two_others_approved_does_not_rest_on_the_third(
    governed: Any, tmp_path: Path
) -> None:
    """Thresholds count: with two of three needed, all three signed one set and two another."""
    made = persons(governed, tmp_path)
    flag = {"kind": "flag", "metadata": {"variants": {"on": True, "off": False}, "default": "off"}}
    for name, holders in (("three", "abc"), ("two", "ac")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**flag, "name": name}))
        keys = [word for each in holders for word in ("--key", made["keys"] / f"{each}.pem")]
        governed.done("apply", "-f", path, "-e", "production", *made["at"], *keys)
    where = ["--directory", made["folder"], *made["at"]]
    listed = governed.done("keys", "revoke", "c", *where, "--dry-run")
    assert [each["key"] for each in listed["records"]] == ["flag/two"]
    few = governed("keys", "revoke", "c", *where, "--reapprove",
                   "--key", made["keys"] / "a.pem")  # fmt: skip
    assert few.code == 1
    assert "production/flag/two: expected keys to sign with, 2 of" in few.err
    assert governed.done("keys", "revoke", "c", *where, "--dry-run") == listed
    both = ["--key", made["keys"] / "a.pem", "--key", made["keys"] / "b.pem"]
    told = governed.done("keys", "revoke", "c", *where, "--reapprove", *both)
    assert [each["key"] for each in told["records"]] == ["flag/two"]
    refused = governed("keys", "revoke", "b", *where, "--reapprove", *both)
    assert refused.code == 1
    assert "production/*/*: expected 2 keys that may sign it without" in refused.err


def test_a_waiting_set_goes_on_without_the_revoked_signature(governed: Any, tmp_path: Path) -> None:
    made = persons(governed, tmp_path)
    keys = {name: ("--key", made["keys"] / f"{name}.pem") for name in "abc"}
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"kind": "flag", "name": "x", "metadata": {
        "variants": {"on": True, "off": False}, "default": "off"}}))  # fmt: skip
    waits = governed("apply", "-f", path, "-e", "production", *made["at"], *keys["c"])
    assert "waits in the store" in waits.err
    (waiting,) = governed.done("pending", "-e", "production", *made["at"])["pending"]
    governed.done("keys", "revoke", "c", "--directory", made["folder"], *made["at"])
    approve = ("approve", waiting["statement"][:16], "-e", "production", *made["at"])
    first = governed(*approve, *keys["a"])
    assert "expected 2 signatures, found 1" in first.err
    assert governed(*approve, *keys["b"]).code == 0
    listed = governed.done("list", "-e", "production", *made["at"])
    assert "flag/x" in str(listed)


def persons(governed: Any, tmp_path: Path) -> dict[str, Any]:
    """Another installation, where two of a, b and c must sign; its store takes the socket."""
    governed.stop_store()
    folder = tmp_path / "persons"
    trust = create_trust(
        folder, installation="acme", environments=["production"], authors=["a", "b", "c"],
        threshold=2,
    )  # fmt: skip
    database = governed.private / "store.sqlite3"
    for left in governed.private.glob("store.sqlite3*"):
        left.unlink()
    shutil.rmtree(governed.private / "keys")
    shutil.copytree(trust.keys_directory, governed.private / "keys")
    tokens = folder / "tokens"
    (governed.private / "audit.jsonl").unlink(missing_ok=True)
    ran = governed(
        "store", "init", "--database", database, "--trust", trust.trust_directory,
        "--keys", trust.keys_directory, "--enrolment", folder / "trust.json", "--tokens", tokens,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    shutil.copy(folder / "trust.json", governed.private / "trust.json")
    governed.start_store()
    at = ["--store", governed.project.store, "--token-file", tokens / "submit.token"]
    return {"folder": folder, "keys": trust.keys_directory, "at": at}


def test_a_segment_in_shards_is_approved_again_whole(governed: Any, tmp_path: Path) -> None:
    second(governed)
    segment = tmp_path / "big.yaml"
    segment.write_text(
        yaml.safe_dump({"kind": "segment", "name": "big", "metadata": {"shards": 2}})
    )
    governed.done("apply", "-f", segment, "-e", "production")
    members = tmp_path / "members"
    members.write_text("\n".join(f"user-{number}" for number in range(1200)))
    governed.done("segment", "add", "big", "--from", members, "-e", "production")
    before = governed.history().changes
    assert len(before) == 5
    governed.done("keys", "revoke", "author", "--reapprove", *by_second(governed))
    after = governed.history()
    assert {key: change.digest for key, change in after.changes.items()} == {
        key: change.digest for key, change in before.items()
    }
    assert resting_keys(governed, "author") == set()
    token = token_of(governed)
    with StoreClient(governed.project.store, token) as client:
        shards = [
            parse(client.blob("production", str(change.digest)), what="shard")
            for change in after.changes.values() if change.shard
        ]  # fmt: skip
    assert sum(len(each) for each in shards if isinstance(each, list)) == 1200
