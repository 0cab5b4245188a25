"""A new epoch: what may begin one, what its first two entries must be, and who goes on in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.errors import (
    EpochDiverged,
    InputInvalid,
    RolledBack,
    SignatureInvalid,
    StatementInvalid,
    SyntaxInvalid,
    TrustError,
    TrustExpired,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.epochs import begin_epoch, first_identity
from control_plane.log.leaf import Leaf
from control_plane.log.statements import Key, SnapshotStatement
from control_plane.log.steps import (
    Accepted,
    Batch,
    BlobMissing,
    EpochUnfounded,
    Position,
    Rejected,
    SnapshotMismatch,
    check_batch,
    judge,
)

ENVIRONMENT = "production"
LATER = datetime(2020, 1, 1, tzinfo=UTC)


def signer(log: Any, epoch: int = 2, key: str = "log") -> LogSigner:
    return LogSigner(f"acme/production/{epoch}", log.keys.private(key))


def root(log: Any, version: int = 2, epoch: int = 2, *, key: str = "log", **more: Any) -> bytes:
    """A root version that names a new epoch; ``more`` changes what it continues."""
    named = {"signers", "expires"} & set(more)
    metadata = {name: more.pop(name) for name in named}
    identity = log.identity(epoch, key, continues=log.continuation(**more))
    signed: bytes = log.root_of(version, identity, **metadata)
    return signed


def begin(log: Any, leaf: Leaf) -> Any:
    return begin_epoch(log.position, log.policy, ENVIRONMENT, leaf, log.blobs.get)


def test_a_log_goes_on_in_the_epoch_that_root_names(log: Any) -> None:
    position, identity = begin(log, log.trust_entry(signer(log), [root(log)]))
    assert position == Position("acme/production/2", continues_generation=3 + (1 << 20))
    assert (position.epoch, position.generation) == (2, 3 + (1 << 20))
    assert (identity.origin, identity.vkeys) == ("acme/production/2", tuple(signer(log).vkeys))


def test_a_new_epoch_may_have_another_key_and_skip_numbers(log: Any) -> None:
    leaf = log.trust_entry(signer(log, 5, "new-log"), [root(log, epoch=5, key="new-log")])
    position, identity = begin(log, leaf)
    assert position.origin == "acme/production/5"
    assert identity.key_id == log.keys.signer("new-log").public_key.keyid


def unsigned(log: Any) -> Leaf:
    envelope = log.trust_entry(signer(log), [root(log)]).envelope
    return Leaf(0, Envelope(envelope.payload_type, envelope.payload))


def another_environment(log: Any) -> bytes:
    return log.root_of(  # type: ignore[no-any-return]
        2, replace(log.identity(), environment="staging", origin="acme/staging/1",
                   vkeys=tuple(LogSigner("acme/staging/1", log.keys.private("log")).vkeys))
    )  # fmt: skip


def another_installation(log: Any) -> Leaf:
    stranger = LogSigner("evil/production/2", log.keys.private("log"))
    named = log.identity(2, continues=log.continuation())
    named = replace(named, origin=stranger.origin, vkeys=tuple(stranger.vkeys))
    return log.trust_entry(stranger, [log.root_of(2, named)])  # type: ignore[no-any-return]


FIRST: dict[str, tuple[Callable[[Any], Leaf], type[Exception], str]] = {
    "another statement": (
        lambda log: log.change("x"), StatementInvalid, "expected a trust entry",
    ),
    "no root": (
        lambda log: log.trust_entry(signer(log), []), StatementInvalid, "found acme/production/1",
    ),
    "the root in force": (
        lambda log: log.trust_entry(signer(log), log.roots), StatementInvalid,
        "found acme/production/1",
    ),
    "the root in force with the new one": (
        lambda log: log.trust_entry(signer(log), [*log.roots, root(log)]), RolledBack,
        "expected version 2, found 1",
    ),
    "a root version skipped": (
        lambda log: log.trust_entry(signer(log), [root(log, 3)]), SyntaxInvalid,
        "expected version 2, found 3",
    ),
    "a root by another key": (
        lambda log: log.trust_entry(signer(log), [root(log, signers=("eve",))]), SignatureInvalid,
        "by root version 1",
    ),
    "a root of the old epoch": (
        lambda log: log.trust_entry(signer(log, 1), [log.root_of(2, log.identity())]),
        StatementInvalid, "expected an epoch after 1",
    ),
    "a root that drops the log": (
        lambda log: log.trust_entry(signer(log), [another_environment(log)]), StatementInvalid,
        "found none for production",
    ),
    "another installation": (
        another_installation, SyntaxInvalid, "expected a log of installation acme",
    ),
    "another origin than the root's": (
        lambda log: log.trust_entry(signer(log), [root(log)], origin="acme/production/3"),
        StatementInvalid, "expected a root that names acme/production/3",
    ),
    "signed by the old log's key only": (
        lambda log: log.trust_entry(signer(log), [root(log, key="new-log")]), SignatureInvalid,
        "by the log's key",
    ),
    "unsigned": (unsigned, SignatureInvalid, "by the log's key"),
    "targets by another key": (
        lambda log: log.trust_entry(signer(log), [root(log)], log.targets.replace(b"ann", b"eve")
                                    .replace(b'"version":1', b'"version":2')),
        SignatureInvalid, "targets version 2",
    ),
    "other targets of one version": (
        lambda log: log.trust_entry(signer(log), [root(log)], log.targets_of(1, ("eve",))),
        RolledBack, "with other content",
    ),
    "an expired root": (
        lambda log: log.trust_entry(signer(log), [root(log, expires=LATER)]), TrustExpired,
        "root version 2",
    ),
    "a generation below ours": (
        lambda log: log.trust_entry(signer(log), [root(log, generation=2, size=1)]), RolledBack,
        "sign another epoch with --generation 3",
    ),
    "a smaller history": (
        lambda log: log.trust_entry(signer(log), [root(log, size=2)]), EpochDiverged, "at size 2",
    ),
    "a larger history": (
        lambda log: log.trust_entry(signer(log), [root(log, size=4)]), EpochDiverged, "at size 4",
    ),
    "another history": (
        lambda log: log.trust_entry(signer(log), [root(log, root="ab" * 32)]), EpochDiverged,
        "with root abab",
    ),
}  # fmt: skip

POSITIONED = ("history", "a generation below ours")
"""What only a position can tell: `begin_epoch` has one, `judge` has not."""


@pytest.mark.parametrize("wrong", FIRST)
def test_what_may_not_begin_an_epoch_is_refused_and_nothing_moves(log: Any, wrong: str) -> None:
    make, error, words = FIRST[wrong]
    leaf, before = make(log), (log.position, log.policy.digest)
    with pytest.raises(error, match=words) as refusal:
        begin(log, leaf)
    assert type(refusal.value) is error
    assert (log.position, log.policy.digest) == before
    assert begin(log, log.trust_entry(signer(log), [root(log)]))[0].origin == "acme/production/2"


def test_an_epoch_that_diverged_says_what_it_continues(log: Any) -> None:
    """Also when its targets are older than ours: a store that lost entries may have lost those."""
    log.append(log.trust_entry(log.newest.signer, [], log.targets_of(2)))
    leaf = log.trust_entry(signer(log), [root(log, size=2)], log.targets_of(1))
    with pytest.raises(EpochDiverged) as refusal:
        begin(log, leaf)
    error = refusal.value
    assert (error.origin, error.root_version, error.size) == ("acme/production/2", 2, 2)
    assert error.root == log.position.frontier.root().hex()


def test_a_node_that_knows_newer_roots_still_sees_that_an_epoch_diverged(log: Any) -> None:
    continued = root(log)
    log.append(log.trust_entry(log.newest.signer, [log.root_of(2, log.identity())]))
    third = log.root_of(3, log.identity(2, continues=log.continuation(size=3)))
    with pytest.raises(EpochDiverged):
        begin(log, log.trust_entry(signer(log), [log.root_of(2, log.identity()), third]))
    # Another second root than ours is no later one.
    with pytest.raises(StatementInvalid):
        begin(log, log.trust_entry(signer(log), [continued]))


def test_trust_metadata_that_is_not_at_hand_is_waited_for(log: Any) -> None:
    leaf = log.trust_entry(signer(log), [second := root(log)], log.targets_of(2))
    with pytest.raises(BlobMissing) as waiting:
        begin_epoch(log.position, log.policy, ENVIRONMENT, leaf, lambda digest: None)
    assert waiting.value.digest == sha256_hex(second)
    with pytest.raises(BlobMissing) as waiting:
        begin_epoch(log.position, log.policy, ENVIRONMENT, leaf, {sha256_hex(second): second}.get)
    assert waiting.value.digest == sha256_hex(log.targets_of(2))


def test_heads_generations_and_policy_carry_over_and_time_starts_anew(log: Any) -> None:
    log.put("late", at=1_800_000_000_000)
    before = dict(log.heads)
    log.begin(at=1_700_000_000_001)
    assert log.heads == before
    assert log.position.generation == 4 + (1 << 20) + 2
    assert log.policy.root_version == 2
    verdict = log.put("one", replaces=2)
    assert isinstance(verdict, Accepted)
    assert log.heads[Key("flag", "one")].generation == 4 + (1 << 20) + 3
    assert log.heads[Key("flag", "two")].generation == 3


def test_no_change_set_of_the_old_log_comes_again(log: Any) -> None:
    waiting = log.change("three")
    log.begin()
    verdict = log.append(waiting)
    assert isinstance(verdict, Rejected)
    assert verdict.code == "statement_invalid"


# The two entries that begin an epoch, as they are judged


def begun(log: Any) -> Any:
    """The log at the first entry of a second epoch that its root names."""
    leaf = log.trust_entry(signer(log), [second := root(log)])
    log.roots.append(second)
    log.position, _ = begin(log, leaf)
    return leaf


def test_a_first_entry_is_judged_by_the_policy_carried_over(log: Any) -> None:
    leaf = begun(log)
    verdict = log.judged(leaf)
    assert isinstance(verdict, Accepted)
    assert (verdict.generation, verdict.policy.root_version) == (4 + (1 << 20), 2)
    with pytest.raises(StatementInvalid, match="where the epoch before it ended"):
        log.judged(leaf, policy=None)
    with pytest.raises(StatementInvalid, match="where the epoch before it ended"):
        judge(
            7, leaf, origin=log.position.origin, environment=ENVIRONMENT, policy=log.policy,
            heads=log.heads.get, blobs=log.blobs.get,
        )  # fmt: skip


@pytest.mark.parametrize("wrong", [name for name in FIRST if not name.endswith(POSITIONED)])
def test_a_first_entry_that_begins_nothing_is_raised_and_never_rejected(
    log: Any, wrong: str
) -> None:
    leaf = FIRST[wrong][0](log)
    begun(log)
    with pytest.raises((StatementInvalid, SyntaxInvalid, TrustError)):
        log.judged(leaf)


def founded(log: Any, **other: Any) -> Leaf:
    continues = {**dict(log.policy.log(ENVIRONMENT).continues), **other.pop("continues", {})}
    return log.founding(signer(log), log.statement(continues=continues, **other))  # type: ignore[no-any-return]


def snapshot(log: Any) -> Leaf:
    count, fold = log.state()
    statement = SnapshotStatement(
        origin=log.position.origin, generation=log.position.generation, count=count, root=fold,
        policy=log.policy.digest,
    )  # fmt: skip
    envelope = Envelope(PAYLOAD_TYPE["snapshot"], statement.payload())
    return Leaf(0, signer(log).sign_envelope(envelope))


def by_another(log: Any) -> Leaf:
    envelope = founded(log).envelope
    return Leaf(0, log.keys.signed(Envelope(envelope.payload_type, envelope.payload), "ann"))


SECOND: dict[str, tuple[Callable[[Any], Leaf], type[Exception]]] = {
    "a change set": (lambda log: log.change("x"), SignatureInvalid),
    "a change set that the log signed too": (
        lambda log: Leaf(0, signer(log).sign_envelope(log.change("x").envelope)), EpochUnfounded,
    ),
    "a trust entry": (
        lambda log: log.trust_entry(signer(log), [], log.targets_of(2)), EpochUnfounded,
    ),
    "a snapshot": (snapshot, EpochUnfounded),
    "not by the log": (by_another, SignatureInvalid),
    "another epoch": (lambda log: founded(log, continues={"epoch": 3}), EpochUnfounded),
    "another size": (lambda log: founded(log, continues={"size": 9}), EpochUnfounded),
    "another root": (lambda log: founded(log, continues={"root": "00" * 32}), EpochUnfounded),
    "another generation": (lambda log: founded(log, continues={"generation": 9}), EpochUnfounded),
    "a state of another log": (
        lambda log: founded(log, origin="acme/production/1"), SnapshotMismatch,
    ),
    "a state of another time": (lambda log: founded(log, generation=9), SnapshotMismatch),
    "more heads": (lambda log: founded(log, count=9), SnapshotMismatch),
    "other heads": (lambda log: founded(log, root="00" * 32), SnapshotMismatch),
    "another policy": (lambda log: founded(log, policy="00" * 32), SnapshotMismatch),
    "out of form": (
        lambda log: Leaf(0, signer(log).sign_envelope(Envelope(PAYLOAD_TYPE["epoch"], b"{}"))),
        StatementInvalid,
    ),
    "sequenced after the policy expired": (
        lambda log: replace(founded(log), sequenced_at=1_900_000_000_000), TrustExpired,
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", SECOND)
def test_an_epoch_is_founded_by_its_second_entry_or_not_at_all(log: Any, wrong: str) -> None:
    log.append(begun(log))
    make, error = SECOND[wrong]
    leaf, before = make(log), dict(log.heads)
    with pytest.raises(error) as refusal:
        log.judged(leaf)
    assert type(refusal.value) is error
    assert log.heads == before
    assert isinstance(log.judged(founded(log)), Accepted)


def test_an_epoch_statement_anywhere_else_is_rejected(log: Any) -> None:
    continues = log.continuation()
    early = log.founding(signer(log, 1), log.statement(continues=continues))
    verdict = log.append(early)
    assert isinstance(verdict, Rejected)
    assert verdict.code == "epoch"
    log.begin()
    again = log.append(founded(log))
    assert isinstance(again, Rejected)
    assert again.code == "epoch"


def test_the_old_log_does_not_take_the_root_that_ends_it(log: Any) -> None:
    verdict = log.append(log.trust_entry(signer(log, 1), [root(log)]))
    assert isinstance(verdict, Rejected)
    assert log.policy.root_version == 1


# The log that a first entry names for itself


def test_a_first_entry_tells_which_log_it_is_of(log: Any) -> None:
    leaf = Leaf.decode(log.epochs[0].leaves[0])
    assert first_identity(ENVIRONMENT, leaf, log.blobs.get) == log.policy.log(ENVIRONMENT)
    with pytest.raises(BlobMissing):
        first_identity(ENVIRONMENT, leaf, lambda digest: None)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda log: log.change("x"), StatementInvalid),
        (lambda log: log.trust_entry(signer(log, 1), []), SyntaxInvalid),
        (lambda log: log.trust_entry(signer(log, 1, "eve"), log.roots), SignatureInvalid),
        (lambda log: log.trust_entry(signer(log, 2), log.roots), StatementInvalid),
        (
            lambda log: log.trust_entry(
                signer(log, 1), [log.root_of(1, log.identity(), signers=("eve",))]
            ),
            SignatureInvalid,
        ),
    ],
)
def test_a_first_entry_that_does_not_hold_together_names_no_log(
    log: Any, make: Callable[[Any], Leaf], error: type[Exception]
) -> None:
    with pytest.raises(error):
        first_identity(ENVIRONMENT, make(log), log.blobs.get)


# What a store could send instead

digests = st.sampled_from(["00" * 32, "root", "targets", "x"])
hostile = st.recursive(
    st.none() | st.integers(-1, 2**60) | digests | st.sampled_from(["acme/production/2", "é", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["origin", "root", "targets", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(["origin", "root", "targets"]), hostile), st.binary())
def test_whatever_begins_an_epoch_ends_in_one_family_of_errors(
    new_log: Any, fields: dict[str, Any], blob: bytes
) -> None:
    log = new_log()
    log.start()
    known = {sha256_hex(data): data for data in (*log.roots, log.targets, blob)}
    shown = {"root": sha256_hex(log.roots[0]), "targets": sha256_hex(log.targets),
             "x": sha256_hex(blob)}  # fmt: skip
    fields = {"origin": "acme/production/2", "root": ["x"], "targets": "targets", **fields}
    text = json.dumps(fields)
    for name, digest in shown.items():
        text = text.replace(f': "{name}"', f': "{digest}"').replace(f'["{name}"', f'["{digest}"')
    envelope = signer(log).sign_envelope(Envelope(PAYLOAD_TYPE["trust"], text.encode()))
    for take in (
        lambda: begin_epoch(log.position, log.policy, ENVIRONMENT, Leaf(0, envelope), known.get),
        lambda: first_identity(ENVIRONMENT, Leaf(0, envelope), known.get),
    ):
        with pytest.raises((InputInvalid, TrustError, BlobMissing)):
            take()


# Early and late agree


@settings(max_examples=30)
@given(st.data())
def test_live_and_late_nodes_agree_across_epochs(new_log: Any, data: st.DataObject) -> None:
    live = new_log()
    live.start()
    names = st.sampled_from(["a", "b", "c"])
    for step in data.draw(st.lists(st.sampled_from("ppprte"), max_size=10)):
        name = data.draw(names)
        head = live.heads.get(Key("flag", name))
        if step == "e":
            live.begin(live.position.epoch + data.draw(st.integers(1, 3)))
        elif step == "t":
            live.targets = live.targets_of(live.policy.targets_version + 1)
            live.append(live.trust_entry(live.newest.signer, [], live.targets))
        else:
            stale = step == "r"
            live.put(name, 77 if stale else (head.generation if head else None))
    late = new_log()
    late.blobs = live.blobs
    for epoch in live.epochs:
        first = Leaf.decode(epoch.leaves[0])
        if late.policy is not None:
            late.position, log_identity = begin(late, first)
            assert log_identity.origin == epoch.signer.origin
        late.epochs.append(type(epoch)(epoch.signer))
        for leaf in epoch.leaves:
            late.append(Leaf.decode(leaf))
        batch = Batch(0, tuple(epoch.leaves), epoch.checkpoint())
        start = Position(epoch.signer.origin)
        assert check_batch(start, batch, epoch.signer.vkeys).position.size == late.position.size
    assert {k: h.encode() for k, h in late.heads.items()} == {
        k: h.encode() for k, h in live.heads.items()
    }
    assert late.position == live.position
    assert late.policy.digest == live.policy.digest
    assert [type(each) for each in late.verdicts] == [type(each) for each in live.verdicts]
    generations = [each.generation for each in live.verdicts]
    assert generations == sorted(set(generations))
