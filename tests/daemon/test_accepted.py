"""What the commands make of a node's folder: what is saved, consented to, and shown as evidence."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from control_plane.cli import main
from control_plane.errors import EpochDiverged, Forked, RolledBack
from control_plane.log.checkpoint import Checkpoint
from control_plane.replica.evidence import (
    NOTHING,
    PROOF,
    SIGN,
    Evidence,
    consent_path,
    read_consent,
    read_standing,
    write_consent,
)


@pytest.fixture
def command(monkeypatch: Any, tmp_path: Path, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTROL_PLANE_REPLICA", str(tmp_path / "node"))

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*arguments, "-e", "production"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def offered(node: Any, log: Any, size: int, heartbeat_ns: int = 1) -> None:
    """Offer the node an epoch that continues its log at an earlier size; the daemon ends."""
    backup = type(log)(log.trust, log.clock)
    backup.leaves, backup.blobs = log.leaves[:size], log.blobs
    second = backup.next_epoch(generation=1 << 20)
    with pytest.raises(EpochDiverged) as diverged:
        node.follower.begin(second.followed(0))
    node.follower.diverge(second.followed(0), diverged.value)
    node.writer.heartbeat(heartbeat_ns)
    node.close()


@pytest.fixture
def ahead(log: Any, make_node: Any, flag: Any, tool: Any) -> Any:
    """A node whose entries after the third only it has."""
    node = make_node()
    log.put(flag("kept"))
    log.put(flag("moved"), flag("gone"))
    log.put(flag("moved", default="on"))
    log.delete("flag", "gone")
    log.put(tool())
    log.activate("tool", "crm_tool", "1.2.0")
    log.kill("kept", "off")
    log.put({"kind": "config", "name": "app", "metadata": {"values": {"v": 1}}})
    change = log.change(tool("2.0.0"))
    log.blobs.pop(change.digest)
    log.submit(change)
    held = log.change(flag("moved", default="off", salt="held"))
    log.blobs.pop(held.digest)
    log.submit(held)
    node.follow()
    return node


def test_what_only_this_node_has_is_saved_with_its_values(
    log: Any, ahead: Any, command: Any, tmp_path: Path, flag: Any
) -> None:
    offered(ahead, log, 3)
    code, said, _ = command("replica", "accept-epoch")
    assert code == 0
    assert "production: saved 7 keys that are dropped to dropped-production-2.json" in said
    assert "the daemon follows it once it runs" in said
    saved = json.loads((tmp_path / "dropped-production-2.json").read_bytes())
    values = {entry["key"]: entry["value"] for entry in saved["dropped"]}
    tool = values.pop("tool/crm_tool v/1.2.0")
    assert (tool["version"], tool["signature"][:8]) == ("1.2.0", "ed25519:")
    assert values == {
        "config/app": {"kind": "config", "name": "app", "metadata": {"values": {"v": 1}}},
        "flag/gone": None,
        # Held as well: the document that is served still is another one.
        "flag/moved": None,
        "kill/kept": {"variant": "off"},
        "tool/crm_tool c/stable": {"version": "1.2.0"},
        # Held: its head moved, and this node never had the bytes.
        "tool/crm_tool v/2.0.0": None,
    }
    by_key = {entry["key"]: entry for entry in saved["dropped"]}
    assert (by_key["flag/gone"]["digest"], by_key["flag/gone"]["generation"]) == (None, 5)
    assert by_key["flag/moved"]["verb"] == "apply"
    assert len(by_key["flag/moved"]["key_ids"][0]) == 64
    assert (tmp_path / "dropped-production-2.json").stat().st_mode & 0o777 == 0o600
    assert read_consent(str(ahead.folder)) == "a/production/2"


def test_a_file_that_is_there_is_not_written_over_and_nothing_is_consented_to(
    log: Any, ahead: Any, command: Any, tmp_path: Path
) -> None:
    offered(ahead, log, 3)
    file = tmp_path / "dropped-production-2.json"
    file.write_text("mine")
    code, _, said = command("replica", "accept-epoch")
    assert (code, "expected no file of that name" in said) == (1, True)
    assert (file.read_text(), read_consent(str(ahead.folder))) == ("mine", None)
    code, _, said = command("replica", "accept-epoch", "--out", str(tmp_path / "no" / "file"))
    assert (code, "no such file" in said) == (1, True)
    assert read_consent(str(ahead.folder)) is None


def test_accepting_again_saves_nothing_more(
    log: Any, ahead: Any, command: Any, tmp_path: Path
) -> None:
    offered(ahead, log, 3)
    assert command("replica", "accept-epoch")[0] == 0
    before = (tmp_path / "dropped-production-2.json").read_bytes()
    code, said, _ = command("replica", "accept-epoch", "--json")
    assert (code, json.loads(said)["saved"], json.loads(said)["daemon"]) == (0, None, False)
    assert (tmp_path / "dropped-production-2.json").read_bytes() == before


def test_consent_to_an_earlier_offer_is_replaced(log: Any, ahead: Any, command: Any) -> None:
    offered(ahead, log, 3)
    write_consent(str(ahead.folder), "a/production/9")
    assert command("replica", "accept-epoch")[0] == 0
    assert read_consent(str(ahead.folder)) == "a/production/2"


def test_a_daemon_that_does_not_come_to_the_epoch_in_time_is_told(
    log: Any, ahead: Any, command: Any
) -> None:
    offered(ahead, log, 3, heartbeat_ns=time.time_ns())
    code, _, said = command("replica", "accept-epoch", "--timeout", "0")
    assert (code, "to follow a/production/2 within 0 s" in said) == (1, True)
    assert read_consent(str(ahead.folder)) == "a/production/2"


@pytest.mark.parametrize("data", [b"", b"a/production/2", b"x" * 300 + b"\n"])
def test_consent_that_is_not_whole_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v1").mkdir()
    consent_path(str(tmp_path)).write_bytes(data)
    assert read_consent(str(tmp_path)) == ""


# Evidence


def refuse(node: Any, followed: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        node.follower.check(followed)
    node.follower.refuse(followed, raised.value)


def forked(log: Any, flag: Any, size: int) -> Any:
    """Another log of that name, of this size."""
    other = type(log)(log.trust, log.clock)
    while len(other.leaves) < size:
        other.put(flag(f"forged{len(other.leaves)}"))
    return other


@pytest.mark.parametrize(("size", "weight"), [(3, PROOF), (4, SIGN), (6, SIGN)])
def test_both_checkpoints_of_a_fork_are_printed_whatever_their_sizes(
    log: Any, make_node: Any, flag: Any, command: Any, tmp_path: Path, size: int, weight: str
) -> None:
    log.put(flag())
    log.put(flag("more"))
    node = make_node()
    node.follow()
    other = forked(log, flag, size)
    refuse(node, other.followed(3), Forked)
    node.close()
    # A restart, and nonsense that nobody signed, displace nothing.
    node = make_node()
    followed = other.followed(3)
    node.follower.refuse(
        replace(followed, batch=replace(followed.batch, checkpoint=b"nonsense")), Forked("x"),
        signed=False,
    )  # fmt: skip
    node.close()
    code, said, _ = command("log", "prove-fork", "--json")
    evidence = json.loads(said)["evidence"]
    assert (code, evidence["weight"]) == (0, weight)
    assert evidence["ours"].encode() == log.checkpoint()
    assert evidence["theirs"].encode() == other.checkpoint()
    code, said, _ = command("log", "prove-fork", "--out", str(tmp_path / "out"))
    assert code == 0
    for line in (*log.checkpoint().decode().splitlines(), *evidence["vkeys"]):
        assert line in said
    assert (tmp_path / "out" / "ours.note").read_bytes() == log.checkpoint()
    assert command("log", "prove-fork", "--out", str(tmp_path / "out"))[0] == 1


def test_a_proof_is_displaced_by_nothing_and_carried_into_the_next_epoch(
    log: Any, make_node: Any, flag: Any, command: Any
) -> None:
    log.put(flag())
    log.put(flag("more"))
    node = make_node()
    node.follow()
    proof = forked(log, flag, 3)
    refuse(node, proof.followed(3), Forked)
    refuse(node, replace(log.followed(3), batch=replace(
        log.followed(3).batch, checkpoint=log.checkpoint(2))), RolledBack)  # fmt: skip
    refuse(node, forked(log, flag, 5).followed(3), Forked)
    node.log = log.next_epoch()
    node.follow()
    node.close()
    code, said, _ = command("log", "prove-fork", "--json")
    evidence = json.loads(said)["evidence"]
    assert (code, evidence["weight"]) == (0, PROOF)
    assert evidence["theirs"].encode() == proof.checkpoint()


def test_a_fork_from_a_tree_shown_before_keeps_the_checkpoint_that_showed_it(
    log: Any, make_node: Any, flag: Any
) -> None:
    for number in range(5):
        log.put(flag(f"f{number}"))
    node = make_node()
    node.take(log.followed(0, limit=2))
    shown = node.follower.position.checkpoint
    followed = log.followed(2, limit=2)
    lied = log.log.sign_checkpoint(Checkpoint(log.origin, 6, b"\1" * 32), log.clock.ms // 1000)
    batch = replace(followed.batch, leaves=(), proof=(), checkpoint=lied)
    with pytest.raises(Forked):
        node.follower.check(replace(followed, batch=batch))
    node.follower.refuse(replace(followed, batch=batch), Forked("as raised"))
    evidence = Evidence.decode(node.table("log")[b"evidence"])
    assert (evidence.ours, evidence.theirs, evidence.proof) == (shown, lied, True)


def test_a_new_node_keeps_the_checkpoint_it_was_enrolled_with_against_another_log(
    log: Any, make_node: Any, flag: Any, command: Any
) -> None:
    log.put(flag())
    node = make_node(enrolment=log.enrolment(2))
    other = forked(log, flag, 2)
    refuse(node, other.followed(0), Forked)
    evidence = Evidence.decode(node.table("log")[b"evidence"])
    assert (evidence.ours, evidence.theirs) == (log.checkpoint(), other.checkpoint())
    assert evidence.weight(log.log.vkeys) == PROOF


def test_what_the_log_did_not_sign_proves_nothing(
    log: Any, foreign_log: Any, make_node: Any, flag: Any, command: Any
) -> None:
    log.put(flag())
    node = make_node()
    node.follow()
    followed = log.followed(2)
    batch = replace(followed.batch, checkpoint=foreign_log.checkpoint())
    refuse(node, replace(followed, batch=batch), Exception)
    node.close()
    code, said, _ = command("log", "prove-fork", "--json")
    assert (code, json.loads(said)["evidence"]["weight"]) == (0, NOTHING)


def test_evidence_of_the_first_form_is_read(
    log: Any, make_node: Any, flag: Any, command: Any
) -> None:
    log.put(flag())
    node = make_node()
    node.follow()
    kept = {
        "ours": log.checkpoint(), "theirs": forked(log, flag, 2).checkpoint(), "size": 2,
        "reason": "r", "seen_at": 1, "proof": True,
    }  # fmt: skip
    with node.writer.write() as transaction:
        transaction.log.put(b"evidence", msgpack.packb(kept))
    node.close()
    assert read_standing(str(node.folder), "production").evidence.vkeys == ()
    code, said, _ = command("log", "prove-fork", "--json")
    assert (code, json.loads(said)["evidence"]["weight"]) == (0, PROOF)
