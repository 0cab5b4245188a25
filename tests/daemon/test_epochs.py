"""A log that goes on in a new epoch: who moves by itself, who asks first, and what each leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lmdb
import pytest

from control_plane.errors import (
    EpochDiverged,
    Forked,
    RolledBack,
    SignatureInvalid,
    StatementInvalid,
)
from control_plane.log.checkpoint import Checkpoint, LogSigner, cosigned_message
from control_plane.log.envelope import Envelope
from control_plane.log.leaf import Leaf
from control_plane.log.note import Note, NoteSignature, VerifierKey
from control_plane.log.steps import EpochUnfounded, SnapshotMismatch
from control_plane.replica.evidence import Offer, decode_bases
from control_plane.replica.format import FLAG, SERVED, TOOL, head_key, record_key
from control_plane.replica.header import (
    REJECTED,
    REVISION,
    TOMBSTONE,
    map_header,
)
from control_plane.replica.source import current_folder
from control_plane_daemon.follower import DiskFailed

PILOT = record_key(FLAG, "pilot")


def heads(log: Any) -> dict[bytes, bytes]:
    return {head_key(*key): head.encode() for key, head in log.heads.items()}


def at_end(node: Any, log: Any) -> bool:
    """Whether a node stands where a log ends, with its heads byte for byte."""
    position = node.follower.position
    where = (position.origin, position.size, position.generation, node.generation)
    assert where == (log.origin, len(log.leaves), log.generation, log.generation)
    return node.table("heads") == heads(log)


def left(node: Any) -> tuple[Any, ...]:
    """Everything a refusal must leave as it is."""
    return node.records(), node.table("heads"), node.follower.position, node.generation


# Moving on


def test_a_live_node_goes_on_in_the_epoch_that_continues_it(log: Any, node: Any, flag: Any) -> None:
    log.put(flag())
    node.follow()
    assert node.generation == 2
    shown, revision = map_header(f"{current_folder(str(node.folder))}/header"), node.word(REVISION)
    node.log = log.next_epoch()
    node.follow()
    assert at_end(node, node.log)
    assert node.generation == 2 + (1 << 20) + 2
    assert node.word(REVISION) > revision
    # The same folder: readers that had it open have it still, with the values it held.
    assert (shown[8 * TOMBSTONE], shown[8 * REVISION]) == (0, node.word(REVISION))
    assert node.record(PILOT).served_generation == 2
    node.log.put(flag(default="on"))
    node.follow()
    assert at_end(node, node.log)
    assert node.record(PILOT).served_generation == node.generation


def test_nodes_that_were_live_slept_or_are_new_agree_after_three_epochs(
    log: Any, make_node: Any, flag: Any, tool: Any
) -> None:
    live, slept, parts = make_node("live"), make_node("slept"), make_node("parts")
    slept.follow()
    enrolments = [log.enrolment()]
    for number in range(3):
        log.put(flag(default="on" if number % 2 else "off"))
        log.put(tool(f"1.{number}.0"))
        log.kill(f"flag{number}")
        parts.log = live.log = log = log.next_epoch(epoch=log.epoch + 1 + number)
        live.follow()
        assert at_end(live, log)
        enrolments.append(log.enrolment())
    slept.log = log
    slept.follow()
    parts.follow(2)
    new = [make_node(f"new {at}", of=log, enrolment=each) for at, each in enumerate(enrolments)]
    for each in new:
        each.follow(blobs=False)
    for each in (live, slept, parts, *new):
        assert at_end(each, log)
        assert each.records() == live.records()
        assert each.follower.position.frontier == live.follower.position.frontier
    assert decode_bases(live.table("log")[b"bases"]) == {
        epoch: each.base for epoch, each in log.epochs().items()
    }


@pytest.mark.parametrize("enrolled_in", [2, 3])
def test_a_new_node_shows_nothing_before_the_epoch_it_was_enrolled_in(
    log: Any, make_node: Any, flag: Any, enrolled_in: int
) -> None:
    log.put(flag())
    for _ in range(2):
        log = log.next_epoch()
        log.put(flag(f"in{log.epoch}"))
    anchor = log.epochs()[enrolled_in]
    node = make_node(of=log, enrolment=anchor.enrolment(3))
    for epoch in range(1, enrolled_in + 1):
        limit = 2 if epoch == enrolled_in else 9
        node.take(
            log.epochs()[epoch].followed(0, limit), node.follower.begin if epoch > 1 else None
        )
        assert node.follower.position.epoch == epoch
        assert node.generation == 0
    node.follow()
    assert at_end(node, log)


def test_a_log_that_goes_round_the_enrolled_tree_is_refused(
    log: Any, make_node: Any, flag: Any
) -> None:
    log.put(flag())
    second, third = log.next_epoch(), log.next_epoch(epoch=3)
    node = make_node(of=third, enrolment=second.enrolment())
    node.take(log.followed(0))
    before = node.follower.position
    with pytest.raises(Forked, match=r"to come to a/production/2 at size 2 \(trust.json\) first"):
        node.begin(third.followed(0))
    assert (node.follower.position, node.generation) == (before, 0)


def test_another_first_epoch_under_the_same_name_does_not_lead_to_the_enrolled_tree(
    log: Any, make_node: Any, flag: Any
) -> None:
    log.put(flag())
    second = log.next_epoch()
    node = make_node(of=second, enrolment=second.enrolment())
    # Nobody vouches for the first epoch while it is read: this one was never the log.
    other = type(log)(log.trust, log.clock)
    other.put(flag(default="on"))
    other.put(flag("more"))
    node.take(other.followed(0))
    with pytest.raises(EpochDiverged):
        node.begin(second.followed(0))
    assert node.generation == 0


def test_an_epoch_continues_a_log_that_stood_still_at_its_very_first_entry(
    log: Any, node: Any
) -> None:
    node.follow()
    node.log = log.next_epoch().next_epoch()
    node.follow()
    assert at_end(node, node.log)


def test_an_older_and_a_newer_trust_file_follow_the_same_log(
    log: Any, make_node: Any, flag: Any
) -> None:
    log.put(flag())
    first = log.enrolment()
    node = make_node(enrolment=first)
    node.follow()
    second = log.next_epoch()
    node = make_node(of=second, enrolment=second.enrolment())
    assert (node.follower.position.origin, node.opened.waiting) == ("a/production/1", False)
    node.follow()
    assert at_end(node, second)
    node = make_node(of=second, enrolment=first)
    assert (node.follower.position.origin, node.generation) == (second.origin, second.generation)
    second.put(flag(default="on"))
    node.follow()
    assert at_end(node, second)


# A crash in the middle


def test_a_crash_between_two_epochs_leaves_the_end_of_the_old_one(
    log: Any, make_node: Any, flag: Any
) -> None:
    log.put(flag())
    node = make_node()
    node.follow()
    second = log.next_epoch()
    before = left(node)
    node.follower.begin(second.followed(0))
    # Verified, and the process ends.
    node = make_node(of=second, enrolment=log.enrolment())
    assert left(node) == before
    node.follow()
    assert at_end(node, second)


def test_the_two_entries_that_begin_an_epoch_are_one_commit(
    log: Any, make_node: Any, flag: Any, monkeypatch: Any
) -> None:
    log.put(flag())
    node = make_node()
    node.follow()
    node.log = second = log.next_epoch()
    second.put(flag(default="on"))
    sizes = []
    commit = node.follower._commits.commit
    node.follower._commits.commit = lambda: (
        commit(), sizes.append((node.follower._commits.position.epoch, node.generation))
    )  # fmt: skip
    # Each entry fills a transaction.
    monkeypatch.setattr(type(node.follower._commits), "full", property(lambda self: self._dirty))
    node.follow()
    assert sorted({each for each in sizes if each[0] == 2}) == [
        (2, second.base + 2),
        (2, second.base + 3),
    ]


def test_a_disk_that_fails_while_an_epoch_begins_leaves_the_old_one(
    log: Any, node: Any, flag: Any, monkeypatch: Any
) -> None:
    log.put(flag())
    node.follow()
    node.log = log.next_epoch()
    before = left(node)
    add, added = type(node.follower._commits).add, []

    def fail(*arguments: Any) -> None:
        added.append(arguments)
        if len(added) == 2:
            raise lmdb.DiskError("no space")
        add(*arguments)

    with monkeypatch.context() as full:
        full.setattr(type(node.follower._commits), "add", fail)
        with pytest.raises(DiskFailed):
            node.follow()
    assert left(node) == before
    node.follow()
    assert at_end(node, node.log)


# What is no epoch


def second_entry(log: Any, envelope: Envelope) -> Any:
    """The log with another entry at index 1."""
    log.leaves[1:] = []
    log.append(log.log.sign_envelope(envelope))
    return log


def continued(log: Any, **other: Any) -> dict[str, Any]:
    before = log.earlier[1]
    named = {
        "epoch": 1, "size": len(before.leaves), "root": before.tree().hex(),
        "generation": log.base,
    }  # fmt: skip
    return named | other


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda new: new.leaves.__delitem__(1), StatementInvalid),
        (lambda new: second_entry(new, Leaf.decode(new.leaves[0]).envelope), EpochUnfounded),
        (lambda new: second_entry(new, new.epoch_statement(continued(new, size=1))),
         EpochUnfounded),
        (lambda new: second_entry(new, new.epoch_statement(continued(new), count=7)),
         SnapshotMismatch),
        (lambda new: second_entry(new, new.epoch_statement(continued(new), policy="0" * 64)),
         SnapshotMismatch),
        (lambda new: new.leaves.__setitem__(
            0, Leaf(0, Envelope("application/vnd.control-plane.new.v9+json", b"{}")).encode()),
         StatementInvalid),
        (lambda new: new.leaves.__setitem__(0, b'{"v":2}'), StatementInvalid),
    ],
    ids=["one entry", "another entry", "another continuation", "another state", "another policy",
         "an unknown entry", "an unknown leaf"],
)  # fmt: skip
def test_an_epoch_that_is_not_begun_rightly_moves_nothing(
    log: Any, make_node: Any, flag: Any, spoil: Any, error: type[Exception]
) -> None:
    log.put(flag())
    node = make_node()
    node.follow()
    second = log.next_epoch()
    spoil(second)
    before = left(node)
    with pytest.raises(error) as raised:
        node.begin(second.followed(0))
    # None of it stops the daemon for being too old: nobody vouched for these bytes.
    assert type(raised.value) is error
    node.follower.refuse(second.followed(0), raised.value, signed=False)
    assert left(node) == before
    node = make_node()
    assert left(node) == before
    node.log = log.next_epoch()
    node.follow()
    assert at_end(node, node.log)


def test_a_root_that_nobody_trusted_begins_no_epoch(
    log: Any, foreign_log: Any, node: Any, flag: Any
) -> None:
    log.put(flag())
    node.follow()
    before = left(node)
    eve = log.copy()
    eve.trust = replace(
        log.trust, signers={**log.trust.signers, "root": foreign_log.trust.signers["root"]},
        keys={**log.trust.keys, "root": foreign_log.trust.keys["root"]},
    )  # fmt: skip
    with pytest.raises(SignatureInvalid, match="by root version 1"):
        node.begin(eve.next_epoch().followed(0))
    assert left(node) == before


def test_a_generation_below_ours_is_never_gone_to(log: Any, node: Any, flag: Any) -> None:
    log.put(flag())
    log.put(flag(default="on"))
    node.follow()
    with pytest.raises(RolledBack, match="--generation 3"):
        node.begin(log.next_epoch(generation=2, size=2).followed(0))
    assert node.generation == 3


# Landmarks, held entries, blobs


def test_trees_shown_of_the_new_epoch_are_held_to_and_those_of_the_old_forgotten(
    log: Any, node: Any, flag: Any
) -> None:
    for number in range(4):
        log.put(flag(f"f{number}"))
    node.follow()
    second = log.next_epoch()
    for number in range(4):
        second.put(flag(f"f{number}", default="on"))
    node.log = second
    # Smaller than the old epoch, and no rollback.
    node.begin(second.followed(0, limit=3))
    assert node.follower.position.size == 3
    note = second.checkpoint(4)
    answer = second.followed(3, limit=1)
    batch = replace(answer.batch, checkpoint=note, proof=None)
    with pytest.raises(RolledBack, match="at least 6"):
        node.follower.check(replace(answer, batch=batch))
    node.follow()
    assert at_end(node, second)


def test_a_node_that_is_behind_believes_root_over_a_tree_it_was_only_shown(
    log: Any, make_node: Any, flag: Any
) -> None:
    for number in range(6):
        log.put(flag(f"f{number}"))
    node = make_node()
    node.take(log.followed(0, limit=3))
    restored = log.copy()
    restored.leaves[5:] = []
    backup = type(log)(log.trust, log.clock)
    backup.leaves, backup.blobs = restored.leaves, log.blobs
    for index in range(4):
        # The fold of the entries that the backup has.
        key = next(key for key in log.heads if key.name == f"f{index}")
        backup.heads[key] = log.heads[key]
    second = backup.next_epoch()
    second.earlier = {1: backup}
    old = backup.followed(3)
    with pytest.raises(RolledBack, match="at least 7"):
        node.follower.check(old)
    with pytest.raises(EpochDiverged) as diverged:
        node.follower.begin(second.followed(0))
    assert node.follower.diverge(second.followed(0), diverged.value) is None
    assert not node.state & REJECTED
    node.log = second
    node.follow()
    assert at_end(node, second)


def test_what_root_ends_an_epoch_with_is_held_to(log: Any, make_node: Any, flag: Any) -> None:
    for number in range(4):
        log.put(flag(f"f{number}"))
    node = make_node()
    node.take(log.followed(0, limit=3))
    second = log.next_epoch(root="ab" * 32)
    with pytest.raises(EpochDiverged) as diverged:
        node.follower.begin(second.followed(0))
    assert node.follower.diverge(second.followed(0), diverged.value) is None
    with pytest.raises(Forked, match=r"size 5 \(root version 2\)"):
        node.follow()
    # Another branch than root's: from now on the node asks.
    with pytest.raises(EpochDiverged) as again:
        node.follower.begin(second.followed(0))
    offer = node.follower.diverge(second.followed(0), again.value)
    assert (offer.size, offer.held_size, offer.keeps) == (5, 3, 0)
    assert node.state & REJECTED


def test_an_entry_held_in_one_epoch_heals_in_the_next(
    log: Any, make_node: Any, flag: Any, tool: Any
) -> None:
    node = make_node()
    log.put(flag())
    change = log.change(tool())
    data = log.blobs.pop(change.digest)
    held = log.submit(change)
    assert node.follow() is None
    assert list(node.follower.held) == [held]
    node.log = second = log.next_epoch()
    node.follow()
    assert at_end(node, second)
    assert list(node.follower.held) == [held]
    node = make_node(of=second, enrolment=log.enrolment())
    assert node.follower.held_missing() == (change.digest,)
    assert node.follower.heal({change.digest: data}) == 1
    record = node.record(record_key(TOOL, "crm_tool", "1.2.0"))
    assert (record.status, record.served_generation) == (SERVED, held)
    assert at_end(node, second)


def test_a_held_key_is_put_again_in_the_next_epoch(log: Any, node: Any, flag: Any) -> None:
    log.put(flag())
    node.follow()
    change = log.change(flag(default="on"))
    log.blobs.pop(change.digest)
    log.submit(change)
    node.follow()
    assert len(node.follower.held) == 1
    node.log = second = log.next_epoch()
    second.put(flag(default="on", salt="new"))
    node.follow()
    assert not node.follower.held
    assert at_end(node, second)
    assert node.record(PILOT).served_generation == second.generation


def test_a_new_node_fetches_what_an_old_epoch_needs_and_leaves_what_was_deleted(
    log: Any, make_node: Any, flag: Any
) -> None:
    gone = log.change(flag())
    log.submit(gone)
    second = log.next_epoch()
    second.put(flag(default="on"))
    second.deleted.add(gone.digest)
    node = make_node(of=second, enrolment=second.enrolment())
    node.follow(blobs=False)
    assert at_end(node, second)
    # Superseded in the epoch after: until that is read its key waits, and nobody is alarmed.
    assert (node.follower.held, node.record(PILOT).status) == ({}, SERVED)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_blob_superseded_in_the_next_epoch_keeps_nothing_else_of_its_set_from_being_served(
    log: Any, make_node: Any, flag: Any, restarted: bool
) -> None:
    gone = log.change(flag("gone"))
    log.submit(gone, log.change(flag("stays", default="on")))
    second = log.next_epoch()
    second.put(flag("gone", default="on"))
    second.deleted.add(gone.digest)
    second.earlier[1].deleted.add(gone.digest)
    node = make_node(of=second, enrolment=log.enrolment())
    node.log = log
    node.follow(blobs=False)
    assert list(node.follower.held) == [2]
    if restarted:
        node = make_node(of=second, enrolment=log.enrolment())
    node.log = second
    node.follow(blobs=False)
    assert at_end(node, second)
    assert not node.follower.held
    assert node.record(record_key(FLAG, "stays")).status == SERVED
    live = make_node("live", of=second, enrolment=log.enrolment())
    second.deleted.clear()
    log.deleted.clear()
    live.follow()
    assert node.records() == live.records()


# An epoch that leaves what is held


def restored(log: Any, size: int) -> Any:
    """The log as a store has it whose database was put back to what it was at a size."""
    backup = type(log)(log.trust, log.clock)
    backup.blobs = log.blobs
    backup.leaves = log.leaves[:size]
    backup.heads = {key: head for key, head in log.heads.items() if head.generation <= size}
    return backup


def offered(node: Any, log: Any) -> Any:
    """Offer an epoch that leaves what the node holds; what it kept of that."""
    followed = log.followed(0)
    before = left(node)
    with pytest.raises(EpochDiverged) as diverged:
        node.follower.begin(followed)
    offer = node.follower.diverge(followed, diverged.value)
    assert left(node) == before
    assert node.state & REJECTED
    assert Offer.decode(node.table("log")[b"offered"]) == offer
    return offer


@pytest.fixture
def ahead(log: Any, make_node: Any, flag: Any) -> Any:
    """A node that has five entries."""
    for number in range(4):
        log.put(flag(f"f{number}"))
    node = make_node()
    node.follow()
    return node


def test_a_node_ahead_keeps_the_offer_and_what_it_holds(log: Any, ahead: Any) -> None:
    second = restored(log, 3).next_epoch(generation=(1 << 20) + 5)
    offer = offered(ahead, second)
    assert offer == Offer(second.origin, 2, 1, 3, log.tree(3).hex(), "a/production/1", 5, keeps=3)


def test_a_node_on_another_branch_keeps_the_offer_and_counts_all_it_holds(
    log: Any, ahead: Any, flag: Any
) -> None:
    branch = restored(log, 3)
    branch.put(flag("other"))
    branch.put(flag("branch"))
    offer = offered(ahead, branch.next_epoch())
    assert (offer.size, offer.held_size, offer.keeps) == (5, 5, 0)


def test_an_offer_outlives_a_restart_and_a_newer_one_takes_its_place(
    log: Any, make_node: Any, ahead: Any
) -> None:
    second = restored(log, 3).next_epoch(generation=(1 << 20) + 5)
    offered(ahead, second)
    node = make_node()
    assert node.state & REJECTED
    assert Offer.decode(node.table("log")[b"offered"]).origin == second.origin
    offer = offered(node, restored(log, 2).next_epoch(epoch=3, generation=(1 << 20) + 5))
    assert (offer.origin, offer.size, offer.keeps) == ("a/production/3", 2, 2)


def test_a_log_that_goes_on_from_what_is_held_withdraws_the_offer(
    log: Any, ahead: Any, flag: Any
) -> None:
    offered(ahead, restored(log, 3).next_epoch(generation=(1 << 20) + 5))
    log.put(flag("after"))
    ahead.follow()
    assert at_end(ahead, log)
    assert not ahead.state & REJECTED
    assert b"offered" not in ahead.table("log")


def test_a_node_in_an_epoch_that_was_lost_is_told_where_the_one_before_goes_on(
    log: Any, ahead: Any, flag: Any
) -> None:
    lost = log.next_epoch()
    lost.put(flag("lost"))
    ahead.log = lost
    ahead.follow()
    found = restored(log, 4).next_epoch(epoch=3, version=3, generation=1 << 30)
    # The root that named the lost epoch is known to whoever signs the next one.
    founding = found.leaves.pop()
    found.leaves.clear()
    found._append_trust(lost.trust.root, found.trust.root)
    found.leaves.append(founding)
    offer = offered(ahead, found)
    assert (offer.epoch, offer.size, offer.keeps) == (1, 4, 4)
    assert (offer.held_origin, offer.held_size) == (lost.origin, 3)


# Witnesses


def test_checkpoints_need_the_witnesses_that_root_asks_for(
    log: Any, foreign_log: Any, make_node: Any, flag: Any
) -> None:
    name = "witness.example/w"
    witness = LogSigner(name, foreign_log.trust.log_key("production"))
    vkey = next(v for v in witness.vkeys if VerifierKey.parse(v).algorithm == 4)
    second = log.next_epoch(witnesses={"vkeys": [vkey], "threshold": 1})
    second.put(flag())
    node = make_node()
    node.take(log.followed(0))
    before = left(node)
    followed = second.followed(0)
    with pytest.raises(SignatureInvalid, match="expected cosignatures by 1 of 1 witnesses"):
        node.begin(followed)
    assert left(node) == before
    note = Note.parse(followed.batch.checkpoint)
    seen = Note.parse(
        witness.sign_checkpoint(Checkpoint(name, 1, b"\0" * 32), second.clock.ms // 1000)
    )
    key = VerifierKey.parse(vkey)
    stranger = next(line for line in seen.signatures if line.key_id == key.key_id)
    lied = replace(note, signatures=(*note.signatures, stranger))
    with pytest.raises(SignatureInvalid):
        node.begin(replace(followed, batch=replace(followed.batch, checkpoint=lied.encode())))
    assert left(node) == before
    signed = cosigned(foreign_log.trust.log_key("production"), key, note, second.clock.ms // 1000)
    good = replace(followed, batch=replace(followed.batch, checkpoint=signed))
    node.begin(good)
    assert node.follower.position.origin == second.origin
    with pytest.raises(SignatureInvalid, match="found 0"):
        node.follower.check(second.followed(3))
    with pytest.raises(SignatureInvalid, match="found 0"):
        make_node("new", of=second, enrolment=second.enrolment())
    enrolment = replace(second.enrolment(), checkpoints={"production": signed})
    new = make_node("new", of=second, enrolment=enrolment)
    new.take(log.followed(0))
    new.begin(good)
    assert at_end(new, second)


def cosigned(private: Any, key: Any, note: Any, time_s: int) -> bytes:
    value = time_s.to_bytes(8, "big") + private.sign(cosigned_message(note.text, time_s))
    line = NoteSignature(key.name, key.key_id, value)
    return bytes(replace(note, signatures=(*note.signatures, line)).encode())
