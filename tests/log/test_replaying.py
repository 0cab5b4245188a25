"""Replaying a log through its epochs: what comes out, and what a source cannot make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.errors import (
    EpochDiverged,
    EpochMoved,
    Forked,
    NotFound,
    SignatureInvalid,
    StatementInvalid,
    StoreUnreachable,
    SyntaxInvalid,
    TrustError,
)
from control_plane.log.checkpoint import LogSigner
from control_plane.log.statements import Key
from control_plane.log.steps import SnapshotMismatch
from control_plane.publish.replay import History, replay

ENVIRONMENT = "production"
JUMP = 1 << 20


@pytest.fixture
def three(log: Any) -> Any:
    """A log of the epochs 1, 2 and 5, the last with another key; each changed something."""
    log.begin()
    log.put("one", replaces=2)
    log.put("one", replaces=2)  # rejected
    log.begin(5, "new-log")
    log.put("three")
    return log


def replayed(log: Any, enrolment: Any = None) -> History:
    return replay(log, ENVIRONMENT, enrolment or log.enrolment())


@pytest.mark.parametrize("part", [1, 2, 3, 8192])
def test_a_replay_leads_through_every_epoch_to_the_logs_own_state(three: Any, part: int) -> None:
    three.part = part
    history = replayed(three)
    assert history.heads == three.heads
    assert replace(history.position, checkpoint=b"") == three.position
    assert [epoch.log.epoch for epoch in history.epochs] == [1, 2, 5]
    assert [epoch.position.size for epoch in history.epochs] == [3, 4, 3]
    assert history.roots == {1: three.roots[0], 2: three.roots[1], 3: three.roots[2]}
    assert (len(history.accepted), len(history.rejected)) == (9, 1)


def test_a_log_is_replayed_from_an_enrolment_in_any_of_its_epochs(log: Any) -> None:
    enrolments = [log.enrolment()]
    log.put("more")
    for epoch in (2, 7):
        log.begin(epoch)
        enrolments.append(log.enrolment())
        log.put(f"x{epoch}")
    reached = {replayed(log, enrolment).position for enrolment in enrolments}
    assert len(reached) == 1


def test_the_past_of_every_epoch_can_be_asked_for(three: Any) -> None:
    history = replayed(three)
    first, second = history.changes_at(3), history.changes
    assert set(first) == {Key("flag", "one"), Key("flag", "two")}
    assert set(second) == {Key("flag", "one"), Key("flag", "two"), Key("flag", "three")}
    assert first[Key("flag", "one")].digest != second[Key("flag", "one")].digest
    begun = 3 + JUMP + 1
    assert history.changes_at(begun) == first
    assert history.state_at(begun) == history.state_at(3) != history.state()
    for generation in (0, 4, begun - 1, history.position.generation + 1):
        assert not history.holds(generation)
        with pytest.raises(NotFound, match=f"expected a generation from 1 to 3 or {begun} to"):
            history.changes_at(generation)


def test_a_new_epoch_with_other_witnesses_is_verified_by_those(log: Any) -> None:
    log.begin(witnesses=log.keys.witnesses("w1", "w2", threshold=2))
    log.witnesses = ("w1", "w2")
    enrolment = log.enrolment()
    assert replayed(log, enrolment).epochs[1].log.witnesses["threshold"] == 2
    # The checkpoint shown today must have them, and the enrolled one.
    bare = replace(enrolment, checkpoints={ENVIRONMENT: log.newest.checkpoint()})
    with pytest.raises(SignatureInvalid, match="by 2 of 2 witnesses, found 0"):
        replayed(log, bare)
    log.witnesses = ("w2",)
    with pytest.raises(SignatureInvalid, match="by 2 of 2 witnesses, found 1"):
        replayed(log, enrolment)


# A source that lies


class Lying:
    """The log as a source whose answers pass through ``lie``."""

    def __init__(self, log: Any, lie: Callable[..., Any]) -> None:
        self._log = log
        self._lie = lie

    def follow(self, environment: str, *, epoch: int, size: int) -> Any:
        try:
            answer = self._log.follow(environment, epoch=epoch, size=size)
        except EpochMoved as moved:
            answer = moved
        answer = self._lie(answer, epoch, size) or answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def blob(self, *arguments: Any) -> Any:
        return self._log.blob(*arguments)


def hide(*numbers: int) -> Callable[..., Any]:
    """An epoch that the source says nothing of."""

    def lie(answer: Any, epoch: int, size: int) -> None:
        if epoch in numbers:
            raise NotFound("none")

    return lie


def cut(epoch: int, size: int) -> Callable[[Any], Callable[..., Any]]:
    """One epoch shown as it was at a smaller size, truly signed, then the next one."""

    def of(log: Any) -> Callable[..., Any]:
        shown = next(each for each in log.epochs if each.number == epoch)

        def lie(answer: Any, asked: int, start: int) -> Any:
            if asked != epoch:
                return None
            if start >= size:
                raise EpochMoved("moved", log.newest.number)
            entries = shown.leaves[start:size]
            return {**answer, "entries": entries, "checkpoint": shown.checkpoint(size)}

        return lie

    return of


def itself(log: Any) -> Callable[..., Any]:
    return lambda answer, epoch, size: EpochMoved("moved", 1) if size else None


def endless(log: Any) -> Callable[..., Any]:
    return lambda answer, epoch, size: EpochMoved("moved", 1 << 40) if size or epoch > 1 else None


LIES: dict[str, tuple[Callable[[Any], Callable[..., Any]], type[Exception], str]] = {
    "a shorter first epoch": (cut(1, 2), EpochDiverged, "at size 2"),
    "a shorter second epoch": (cut(2, 3), EpochDiverged, "at size 3"),
    "an epoch left out": (lambda log: hide(2), SyntaxInvalid, "expected version 2, found 3"),
    "the newest epochs hidden": (
        lambda log: hide(2, 5), StoreUnreachable, "expected a later epoch up to 5, found none",
    ),
    "an epoch that goes on in itself": (itself, StoreUnreachable, "goes on in epoch 1"),
    "an epoch far away": (endless, StoreUnreachable, "expected a later epoch up to"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_source_that_lies_about_epochs_is_found_out(three: Any, lie: str) -> None:
    make, error, words = LIES[lie]
    with pytest.raises(error, match=words):
        replay(Lying(three, make(three)), ENVIRONMENT, three.enrolment())


def test_a_source_that_shows_the_old_epoch_only_is_behind_the_enrolment(log: Any) -> None:
    log.begin()
    enrolment = log.enrolment()
    log.epochs.pop()
    with pytest.raises(Forked, match="production/2: expected at least 2 entries as enrolled"):
        replayed(log, enrolment)


def test_a_later_epoch_is_withheld_only_by_who_withholds_it(log: Any) -> None:
    """An enrolment in epoch 1 cannot know of epoch 2: the source's word ends the replay."""
    enrolment = log.enrolment()
    log.begin()
    shown = Lying(log, lambda answer, epoch, size: None)
    log.epochs.append(log.epochs.pop(0))
    assert replay(shown, ENVIRONMENT, enrolment).position.epoch == 1


def test_a_first_epoch_that_nobody_enrolled_is_believed_only_as_far_as_it_is_confirmed(
    log: Any, new_log: Any
) -> None:
    """Somebody with no key of ours makes a first epoch; ours does not continue it."""
    log.begin()
    enrolment = log.enrolment()
    forged = new_log()
    forged.start()
    forged.put("evil")
    forged.put("two")
    log.epochs[0] = forged.epochs[0]
    log.blobs |= forged.blobs
    with pytest.raises(EpochDiverged):
        replayed(log, enrolment)


def test_a_first_epoch_that_nobody_enrolled_goes_on_no_further_than_root_says(
    log: Any, new_log: Any
) -> None:
    """Somebody with no key of ours sends entries for ever: they end where ours ended."""
    ended = log.position.size
    log.begin()
    enrolment = log.enrolment()
    forged = new_log()
    forged.start()
    for number in range(4 * ended):
        forged.put(f"evil{number}")
    log.epochs[0] = forged.epochs[0]
    log.blobs |= forged.blobs
    log.part = 1
    with pytest.raises(StatementInvalid, match=f"at most {ended} entries of epoch 1 before"):
        replayed(log, enrolment)


def test_a_first_epoch_of_another_installation_is_refused(log: Any) -> None:
    log.begin()
    enrolment = log.enrolment()
    stranger = LogSigner("evil/production/1", log.keys.private("log"))
    named = replace(log.identity(), origin=stranger.origin, vkeys=tuple(stranger.vkeys))
    leaf = log.trust_entry(stranger, [log.root_of(1, named)])
    log.epochs[0] = type(log.epochs[0])(stranger, [leaf.encode()])
    with pytest.raises(SignatureInvalid, match="expected the origin"):
        replayed(log, enrolment)


def test_an_epoch_continued_by_nobodys_root_is_refused(log: Any) -> None:
    """A store holds the log's key, and no root key: it cannot begin an epoch."""
    enrolment = log.enrolment()
    log.root_of = lambda *arguments, **named: type(log).root_of(
        log, *arguments, **{**named, "signers": ("eve",)}
    )
    with pytest.raises(SignatureInvalid, match="by root version 1"):
        log.begin()
    log.newest.leaves.append(log.trust_entry(log.newest.signer, log.roots[-1:]).encode())
    with pytest.raises(SignatureInvalid, match="by root version 1"):
        replayed(log, enrolment)


# An enrolment that does not fit


def test_a_log_of_another_past_than_enrolled_in_a_later_epoch_is_refused(three: Any) -> None:
    enrolment = three.enrolment()
    other = three.newest.signer.sign_checkpoint(
        replace(replayed(three).checkpoint.checkpoint, root=bytes(32)), 5  # type: ignore[union-attr]
    )  # fmt: skip
    with pytest.raises(Forked, match=r"acme/production/5: expected root 0000.* as enrolled"):
        replayed(three, replace(enrolment, checkpoints={ENVIRONMENT: other}))


def test_an_epoch_that_ended_before_the_enrolled_size_is_refused(log: Any) -> None:
    ahead = type(log.epochs[0])(log.epochs[0].signer, [*log.epochs[0].leaves])
    ahead.leaves.append(log.change("lost").encode())
    enrolment = replace(log.enrolment(), checkpoints={ENVIRONMENT: ahead.checkpoint()})
    log.begin()
    with pytest.raises(Forked, match="expected at least 4 entries as enrolled, found 3"):
        replayed(log, enrolment)


def test_an_enrolled_root_that_the_log_never_adopted_is_refused(log: Any) -> None:
    """Also when the log has gone on to a later version."""
    other = log.root_of(2, log.identity(), expires=datetime(2031, 1, 1, tzinfo=UTC))
    enrolment = replace(log.enrolment(), root=other)
    with pytest.raises(Forked, match="expected the enrolled root metadata version 2"):
        replayed(log, enrolment)
    for version in (2, 3):
        log.append(log.trust_entry(log.newest.signer, [log.root_of(version, log.identity())]))
    with pytest.raises(Forked, match="expected the enrolled root metadata version 2"):
        replayed(log, enrolment)


# Entries that begin an epoch wrongly, in a log that its store signed


def test_an_epoch_with_another_state_than_ours_stops_the_replay(
    log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "state", lambda: (9, "ab" * 32))
    log.begin()
    with pytest.raises(SnapshotMismatch, match="expected the snapshot"):
        replayed(log)


def test_an_epoch_without_a_statement_is_refused(log: Any) -> None:
    log.begin()
    epoch = log.newest
    epoch.leaves[1] = log.change("x").encode()
    with pytest.raises(TrustError):
        replayed(log, replace(log.enrolment(), checkpoints={}))


def test_a_first_entry_that_is_no_trust_entry_begins_nothing(log: Any) -> None:
    log.begin()
    log.newest.leaves.reverse()
    with pytest.raises(StatementInvalid, match="expected a trust entry"):
        replayed(log, replace(log.enrolment(), checkpoints={}))
