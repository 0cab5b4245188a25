"""What a lying store, a wrong signature or a foreign log leaves behind: the last good replica.

Here a follower is driven by hand; lies over HTTP, and how a node comes back from them, are in
`test_lying_store.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from control_plane.errors import (
    Forked,
    ReplicaForeign,
    RolledBack,
    SignatureInvalid,
    StatementInvalid,
    SyntaxInvalid,
)
from control_plane.log.checkpoint import Checkpoint
from control_plane.log.envelope import Envelope
from control_plane.log.fold import Head, snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf, UnknownLeafVersion
from control_plane.log.statements import Change, UnknownPayloadType
from control_plane.log.steps import SnapshotMismatch
from control_plane.publish.keyfiles import NEVER, create_trust
from control_plane.replica.format import FLAG, record_key
from control_plane.replica.header import CLOCK, GENERATION, REJECTED, STALE, TXN_ID
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment

PILOT = record_key(FLAG, "pilot")


def left(node: Any) -> tuple[Any, ...]:
    """Everything a refusal must leave as it is."""
    position = node.follower.position
    return node.records(), node.table("heads"), position, node.generation, node.word(GENERATION)


def refused(node: Any, followed: Any, error: type[Exception]) -> dict[str, Any]:
    """Offer a batch, require its refusal and nothing changed; the evidence."""
    before = left(node)
    with pytest.raises(error) as raised:
        node.follower.check(followed)
    node.follower.refuse(followed, raised.value)
    assert left(node) == before
    assert node.state & REJECTED
    evidence: dict[str, Any] = msgpack.unpackb(node.table("log")[b"evidence"])
    return evidence


@pytest.fixture
def following(log: Any, node: Any, flag: Any) -> Any:
    log.put(flag())
    node.follow()
    return node


# 1-3


def test_a_checkpoint_by_another_key_is_refused(
    log: Any, foreign_log: Any, following: Any, flag: Any
) -> None:
    log.put(flag(default="on"))
    followed = log.followed(2)
    note = foreign_log.log.sign_checkpoint(Checkpoint(log.origin, 3, b"\0" * 32), 1_700_000_000)
    bad = replace(followed, batch=replace(followed.batch, checkpoint=note))
    evidence = refused(following, bad, SignatureInvalid)
    assert evidence["theirs"] == note
    following.take(followed)
    assert not following.state & REJECTED


def test_a_rolled_back_log_is_refused_with_both_checkpoints_kept(log: Any, following: Any) -> None:
    ours = following.follower.position.checkpoint
    followed = log.followed(2)
    old = replace(followed, batch=replace(followed.batch, checkpoint=log.checkpoint(1)))
    evidence = refused(following, old, RolledBack)
    assert (evidence["ours"], evidence["theirs"]) == (ours, log.checkpoint(1))


def test_a_rewritten_past_is_refused_with_both_checkpoints_kept(
    log: Any, following: Any, flag: Any
) -> None:
    log.leaves[1] = log.leaves[0]
    log.put(flag(default="on"))
    followed = log.followed(2)
    evidence = refused(following, followed, Forked)
    assert evidence["theirs"] == followed.batch.checkpoint
    assert evidence["ours"] == following.follower.position.checkpoint


def test_a_log_that_takes_back_what_it_showed_while_we_lagged_is_refused(
    log: Any, following: Any, flag: Any
) -> None:
    for default in ("on", "off", "on"):
        log.put(flag(default=default))
    following.take(log.followed(2, limit=1))
    shown = len(log.leaves)
    # Another history from the fourth entry on, consistent with all that this node holds.
    del log.leaves[3:]
    log.heads.clear()
    for _ in range(4):
        log.submit_as_is(Change(action="delete", kind="kill", name="x", replaces=None))
    assert len(log.leaves) > shown
    refused(following, log.followed(3), Forked)


def test_the_evidence_of_a_fork_is_not_displaced_by_unsigned_bytes(
    log: Any, following: Any
) -> None:
    followed = log.followed(2)
    old = replace(followed, batch=replace(followed.batch, checkpoint=log.checkpoint(1)))
    refused(following, old, RolledBack)
    note = followed.batch.checkpoint.replace(b"a/production/1\n2", b"a/production/1\n9")
    noise = replace(followed, batch=replace(followed.batch, checkpoint=note))
    evidence = refused(following, noise, SignatureInvalid)
    assert evidence["theirs"] == log.checkpoint(1)


def test_two_roots_signed_for_one_size_are_never_displaced(
    log: Any, following: Any, clock: Any
) -> None:
    followed = log.followed(2)
    other = Checkpoint(log.origin, 2, b"\1" * 32)
    note = log.log.sign_checkpoint(other, clock.ms // 1000)
    fork = replace(followed, batch=replace(followed.batch, checkpoint=note))
    assert refused(following, fork, Forked)["theirs"] == note
    old = replace(followed, batch=replace(followed.batch, checkpoint=log.checkpoint(1)))
    assert refused(following, old, RolledBack)["theirs"] == note
    gap = replace(followed, batch=replace(followed.batch, first=1))
    assert refused(following, gap, Forked)["theirs"] == note


# 4


def test_an_old_cosignature_makes_the_state_stale_and_blocks_nothing(
    log: Any, following: Any, clock: Any, flag: Any
) -> None:
    assert not following.state & STALE
    clock.ms += 61_000
    assert following.state & STALE
    log.put(flag(default="on"))
    followed = log.followed(2)
    old = log.checkpoint(time_s=clock.ms // 1000 - 61)
    following.take(replace(followed, batch=replace(followed.batch, checkpoint=old)))
    assert following.follower.position.size == 3
    assert following.state & STALE
    following.take(log.followed(3))
    assert not following.state & STALE


def test_a_cosignature_from_the_future_is_told_and_data_flows_on(
    log: Any, following: Any, clock: Any, flag: Any
) -> None:
    log.put(flag(default="on"))
    followed = log.followed(2)
    future = log.checkpoint(time_s=clock.ms // 1000 + 3600)
    following.take(replace(followed, batch=replace(followed.batch, checkpoint=future)))
    assert following.follower.position.size == 3
    assert following.state & CLOCK


# 5-7


def offered(log: Any, name: str, flag: Any) -> None:
    """Append an entry that no node may accept."""
    change = replace(log.change(flag(default="on")), replaces=2)
    if name == "unsigned":
        log.submit_as_is(change, signer=None)
    elif name == "by a key not delegated":
        log.submit_as_is(change, signer="root")
    elif name == "late":
        log.submit_as_is(change, not_after=log.clock.ms - 1)
    elif name == "for another environment":
        log.submit_as_is(change, origin="a/staging/1")
    elif name == "stale":
        log.submit_as_is(replace(change, replaces=1))
    elif name == "replayed":
        log.append(Leaf.decode(log.leaves[1]).envelope)
    elif name == "forged":
        envelope = Leaf.decode(log.leaves[1]).envelope
        payload = envelope.payload.replace(b"a test", b"a lie!")
        log.append(replace(envelope, payload=payload))


@pytest.mark.parametrize(
    "name",
    [
        "unsigned", "by a key not delegated", "late", "for another environment", "stale",
        "replayed", "forged",
    ],
)  # fmt: skip
def test_a_bad_entry_is_rejected_and_moves_nothing_but_the_position(
    log: Any, following: Any, flag: Any, name: str
) -> None:
    records, heads = following.records(), following.table("heads")
    offered(log, name, flag)
    following.follow()
    assert following.records() == records
    assert following.table("heads") == heads
    assert following.generation == 3
    assert following.state & REJECTED
    log.submit_as_is(replace(log.change(flag(default="on")), replaces=2))
    following.follow()
    assert following.record(PILOT).served_generation == 4
    assert not following.state & REJECTED


def test_the_wrong_bytes_of_a_blob_never_reach_the_replica(
    log: Any, following: Any, flag: Any
) -> None:
    change = log.change(flag(default="on"))
    log.submit(change)
    log.blobs[change.digest] = log.blobs[change.digest].replace(b"pilot", b"p1lot")
    before = following.record(PILOT).body
    followed = log.followed(2)
    verified = following.follower.check(followed)
    assert following.follower.take(verified).wanted == (change.digest,)
    fetched = log.fetched([change.digest])
    following.follower.deliver(fetched)
    assert following.follower.take(verified).wanted == (change.digest,)
    assert following.record(PILOT).body == before


@pytest.mark.parametrize("again", ["after a deletion", "after a revert", "republished"])
def test_what_was_published_once_fits_no_second_time(
    log: Any, following: Any, flag: Any, tool: Any, again: str
) -> None:
    first = log.change(flag("other"))
    generation = log.submit(first)
    published = log.change(tool("1.0.0"))
    log.submit(published)
    if again == "after a deletion":
        log.delete("flag", "other")
    elif again == "after a revert":
        log.submit(log.change(flag("other", default="on")))
        log.submit(first)
    following.follow()
    records, heads = following.records(), following.table("heads")
    if again == "republished":
        other = tool("1.0.0")
        other["metadata"] = {**other["metadata"], "description": "another text"}
        log.submit(log.change(other))
    else:
        log.append(Leaf.decode(log.leaves[generation - 1]).envelope)
    following.follow()
    assert (following.records(), following.table("heads")) == (records, heads)
    assert following.state & REJECTED


# The loop stops


def test_an_unknown_leaf_version_stops_before_anything_of_its_batch(
    log: Any, following: Any, flag: Any
) -> None:
    log.put(flag(default="on"))
    log.leaves.append(log.leaves[-1].replace(b'"v":1', b'"v":2'))
    before = left(following)
    with pytest.raises(UnknownLeafVersion, match="this version is too old"):
        following.take(log.followed(2))
    assert left(following) == before


def test_an_unknown_payload_type_stops_after_the_entries_before_it(
    log: Any, following: Any, flag: Any
) -> None:
    generation = log.put(flag(default="on"))
    log.append(Envelope("application/vnd.control-plane.policy.v1+json", b"{}"))
    log.put(flag())
    with pytest.raises(UnknownPayloadType, match="this version is too old"):
        following.take(log.followed(2))
    assert following.generation == generation == following.record(PILOT).served_generation


def test_a_snapshot_of_another_fold_stops_the_loop(log: Any, following: Any) -> None:
    lines = [snapshot_line(key, head) for key, head in log.heads.items()]
    count, root = snapshot_root(lines)
    log.snapshot(root, count)
    following.follow()
    assert following.generation == 3
    log.snapshot("0" * 64, count)
    with pytest.raises(SnapshotMismatch):
        following.follow()
    assert following.generation == 3


# Enrolment


def test_nothing_is_shown_before_the_enrolled_tree_is_reached(
    log: Any, make_node: Any, flag: Any
) -> None:
    log.put(flag())
    log.put(flag(default="on"))
    node = make_node(enrolment=log.enrolment(3))
    node.take(log.followed(0, limit=2))
    assert node.follower.position.size == 2
    assert node.generation == 0
    node.follow()
    assert node.generation == 3


def test_a_log_that_does_not_lead_to_the_enrolled_tree_is_refused(
    log: Any, make_node: Any, flag: Any
) -> None:
    log.put(flag())
    enrolment = log.enrolment(2)
    node = make_node(enrolment=enrolment)
    log.leaves.pop()
    log.heads.clear()
    log.put(flag(default="on"))
    log.put(flag())
    with pytest.raises(Forked, match=r"trust\.json"):
        node.follow()
    assert (node.generation, node.records()) == (0, {})


def test_a_log_that_reaches_another_root_of_trust_is_refused(
    log: Any, make_node: Any, tmp_path: Any
) -> None:
    other = create_trust(tmp_path / "other", installation="a", environments=["production"])
    ours = log.trust
    root = authoring.new_root(
        version=1, expires=NEVER, root_keys=[other.keys["root"].public],
        targets_keys=[other.keys["targets"].public],
        logs=[authoring.new_log("a", "production", ours.keys["log-production"].public)],
    )  # fmt: skip
    # Whoever holds the log's key begins it with a root of their own; the tree is the enrolled one.
    signed = authoring.signed(root, [other.signers["root"]])
    log.trust = replace(ours, root=signed, targets=other.targets)
    log.leaves.clear()
    log._append_trust()
    node = make_node(enrolment=Enrolment(ours.root, ours.targets, {"production": log.checkpoint()}))
    for _ in range(2):
        with pytest.raises(Forked, match=r"expected the root of trust\.json"):
            node.follow()
    assert (node.generation, node.records(), node.follower.position.size) == (0, {}, 0)


def test_a_checkpoint_not_signed_by_the_enrolled_log_is_no_enrolment(
    log: Any, foreign_log: Any, make_node: Any
) -> None:
    enrolment = Enrolment(
        log.trust.root, log.trust.targets, {"production": foreign_log.checkpoint()}
    )
    with pytest.raises(SignatureInvalid):
        make_node(enrolment=enrolment)


def test_a_replica_of_another_log_is_refused_and_left_alone(
    log: Any, following: Any, foreign_log: Any, make_node: Any
) -> None:
    before = following.records()
    with pytest.raises(
        ReplicaForeign, match="expected origin b/production/1, found a/production/1"
    ):
        make_node(of=foreign_log)
    node = make_node()
    assert node.records() == before


def test_a_first_entry_that_is_no_trust_entry_is_refused(
    log: Any, make_node: Any, flag: Any
) -> None:
    log.put(flag())
    log.leaves.pop(0)
    node = make_node()
    before = node.word(TXN_ID)
    with pytest.raises((StatementInvalid, SyntaxInvalid, Forked)):
        node.follow()
    assert (node.generation, node.word(TXN_ID), node.records()) == (0, before, {})


def test_heads_are_stored_as_the_log_folds_them(log: Any, following: Any) -> None:
    assert Head.decode(following.table("heads")[b"flag\0pilot\0"]).generation == 2
