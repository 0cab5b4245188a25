"""Steps 1 to 4: which answers of a store are believed, against everything a store could do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import ControlPlaneError, Forked, RolledBack, SignatureInvalid
from control_plane.log.checkpoint import Checkpoint, LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE, Envelope
from control_plane.log.leaf import Leaf, UnknownLeafVersion
from control_plane.log.merkle import Frontier, consistency_proof, leaf_hash, subtree_reader
from control_plane.log.steps import Batch, Position, check_batch, staleness

ORIGIN = "acme/production/1"
SIGNER = LogSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
VKEYS = SIGNER.vkeys


def leaves_of(size: int, salt: str = "") -> list[bytes]:
    envelope = Envelope(PAYLOAD_TYPE["trust"], salt.encode())
    return [Leaf(1000 + index, envelope).encode() for index in range(size)]


LEAVES = leaves_of(20)


def checkpoint(leaves: list[bytes], signer: LogSigner = SIGNER) -> bytes:
    root = Frontier().extended(map(leaf_hash, leaves)).root()
    return signer.sign_checkpoint(Checkpoint(signer.origin, len(leaves), root), 1_700_000_000)


def part(first: int, end: int, leaves: list[bytes]) -> Batch:
    """What an honest store answers for leaves first..end of its log."""
    reader = subtree_reader([leaf_hash(leaf) for leaf in leaves])
    proof = None if end == len(leaves) else tuple(consistency_proof(end, len(leaves), reader))
    return Batch(first, tuple(leaves[first:end]), checkpoint(leaves), proof)


def followed(size: int) -> Position:
    return check_batch(Position(ORIGIN), part(0, size, LEAVES[:size]), VKEYS).position


@given(st.lists(st.integers(0, 20), max_size=6))
def test_an_honest_log_is_followed_in_any_parts(cuts: list[int]) -> None:
    position = Position(ORIGIN)
    for end in sorted({*cuts, 20}):
        checked = check_batch(position, part(position.size, end, LEAVES), VKEYS)
        position = checked.position
        assert position.size == end
        assert [leaf.encode() for leaf in checked.leaves] == LEAVES[end - len(checked.leaves) : end]
    assert position.frontier.root() == Frontier().extended(map(leaf_hash, LEAVES)).root()
    assert position.generation == 20
    assert position.sequenced_at == 1019


def test_an_unchanged_log_is_no_news() -> None:
    position = followed(5)
    again = check_batch(position, part(5, 5, LEAVES[:5]), VKEYS)
    assert again.position == position
    assert again.leaves == ()


OTHER = LEAVES[:7] + leaves_of(20, "another history")[7:]
STRANGER = LogSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
HONEST = part(5, 12, LEAVES)
LIES = {
    "rolled back": (Batch(5, (), checkpoint(LEAVES[:4])), RolledBack),
    "forked, same size": (Batch(5, (), checkpoint(leaves_of(5, "x"))), Forked),
    "forked, larger": (part(5, 12, leaves_of(12, "x")), Forked),
    "forked after our position": (replace(HONEST, checkpoint=checkpoint(OTHER)), Forked),
    "a gap": (part(6, 12, LEAVES), Forked),
    "an overlap": (part(4, 12, LEAVES), Forked),
    "reordered": (replace(HONEST, leaves=HONEST.leaves[::-1]), Forked),
    "truncated without a proof": (replace(HONEST, proof=None), Forked),
    "truncated with another proof": (replace(HONEST, proof=part(0, 11, LEAVES).proof), Forked),
    "withheld": (Batch(5, (), checkpoint(LEAVES)), Forked),
    "more than signed": (Batch(5, tuple(LEAVES[5:9]), checkpoint(LEAVES[:8])), Forked),
    "a forged leaf": (replace(HONEST, leaves=(leaves_of(1, "x")[0], *HONEST.leaves[1:])), Forked),
    "signed by a stranger": (Batch(5, (), checkpoint(LEAVES[:5], STRANGER)), SignatureInvalid),
    "a proof too long": (replace(HONEST, proof=(*(HONEST.proof or ()), bytes(32))), Forked),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_and_our_position_stays(lie: str) -> None:
    position = followed(5)
    batch, error = LIES[lie]
    before = replace(position)
    with pytest.raises(error) as refusal:
        check_batch(position, batch, VKEYS)
    assert position == before
    assert "expected" in str(refusal.value)
    assert check_batch(position, HONEST, VKEYS).position.size == 12


def test_time_that_falls_refuses_the_batch() -> None:
    leaves = [*LEAVES[:3], Leaf(1001, Envelope(PAYLOAD_TYPE["trust"], b"")).encode()]
    with pytest.raises(Forked, match="entry 3 at 1002 ms or later, found 1001"):
        check_batch(Position(ORIGIN), part(0, 4, leaves), VKEYS)


def test_a_leaf_of_a_newer_version_stops_the_loop() -> None:
    leaves = [*LEAVES[:2], LEAVES[2].replace(b'"v":1}', b'"v":2}')]
    with pytest.raises(UnknownLeafVersion):
        check_batch(Position(ORIGIN), part(0, 3, leaves), VKEYS)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    other = LogSigner("acme/staging/1", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    with pytest.raises(SignatureInvalid, match="expected the origin"):
        check_batch(Position(ORIGIN), Batch(0, (), checkpoint([], other)), other.vkeys)


def test_generations_go_on_where_an_epoch_says() -> None:
    position = replace(Position(ORIGIN), continues_generation=1 << 20)
    assert check_batch(position, part(0, 3, LEAVES[:3]), VKEYS).position.generation == (1 << 20) + 3


@pytest.mark.parametrize(
    ("cosigned_at", "state"),
    [(None, "stale"), (940, "fresh"), (939, "stale"), (1060, "fresh"), (1061, "clock")],
)
def test_a_minute_without_a_cosignature_is_stale(cosigned_at: int | None, state: str) -> None:
    assert staleness(cosigned_at, 1000) == state


@given(st.binary(max_size=200), st.lists(st.binary(max_size=50), max_size=3))
def test_arbitrary_answers_raise_one_family_of_errors(note: bytes, leaves: list[bytes]) -> None:
    for batch in (Batch(0, tuple(leaves), note), Batch(0, tuple(leaves), checkpoint(leaves))):
        if batch.leaves or batch.checkpoint == note:
            with pytest.raises(ControlPlaneError):
                check_batch(Position(ORIGIN), batch, VKEYS)
