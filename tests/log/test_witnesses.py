"""Witness lines: how many a checkpoint needs when root asks for them, and which count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from control_plane.errors import SignatureInvalid
from control_plane.log.checkpoint import Checkpoint, LogSigner, open_checkpoint
from control_plane.log.note import Note, NoteSignature
from control_plane.log.steps import Batch, Position, check_batch

ORIGIN = "acme/production/1"


@pytest.fixture
def signer(keys: Any) -> LogSigner:
    return LogSigner(ORIGIN, keys.private("log"))


@pytest.fixture
def note(keys: Any, signer: LogSigner) -> bytes:
    """A checkpoint of an empty log."""
    return signer.sign_checkpoint(Checkpoint(ORIGIN, 0, Position(ORIGIN).frontier.root()), 5)


def with_lines(note: bytes, *lines: NoteSignature) -> bytes:
    parsed = Note.parse(note)
    return Note(parsed.text, (*parsed.signatures, *lines)).encode()


def line_of(keys: Any, by: str, note: bytes, **other: Any) -> NoteSignature:
    """A witness's line on the note, with parts of it changed."""
    line = Note.parse(keys.witnessed(note, by)).signatures[-1]
    return NoteSignature(**{"name": line.name, "key_id": line.key_id, "value": line.value, **other})


@pytest.mark.parametrize(
    ("threshold", "cosigned", "enough"),
    [
        (0, (), True),
        (0, ("w1",), True),
        (1, (), False),
        (1, ("w2",), True),
        (2, ("w1",), False),
        (2, ("w1", "w1"), False),
        (2, ("w1", "stranger"), False),
        (2, ("w3", "w1"), True),
        (3, ("w1", "w2"), False),
        (3, ("w2", "stranger", "w3", "w1"), True),
    ],
)
def test_as_many_distinct_witnesses_as_root_asks_for_must_have_cosigned(
    keys: Any, signer: LogSigner, note: bytes, threshold: int, cosigned: tuple[str, ...],
    enough: bool,
) -> None:  # fmt: skip
    witnesses = keys.witnesses("w1", "w2", "w3", threshold=threshold)
    shown = keys.witnessed(note, *cosigned)
    batch = Batch(0, (), shown)
    if not enough:
        words = rf"expected cosignatures by {threshold} of 3 witnesses, found"
        with pytest.raises(SignatureInvalid, match=words):
            open_checkpoint(shown, signer.vkeys, witnesses=witnesses)
        with pytest.raises(SignatureInvalid, match=words):
            check_batch(Position(ORIGIN), batch, signer.vkeys, witnesses=witnesses)
    else:
        # The log's own time, not a witness's: theirs are not judged for freshness.
        assert open_checkpoint(shown, signer.vkeys, witnesses=witnesses).cosigned_at == 5
        checked = check_batch(Position(ORIGIN), batch, signer.vkeys, witnesses=witnesses)
        assert checked.position.checkpoint == shown


def test_without_witnesses_in_root_none_are_asked_for(
    keys: Any, signer: LogSigner, note: bytes
) -> None:
    nobody = keys.witnesses(threshold=0)
    assert open_checkpoint(note, signer.vkeys, witnesses=nobody).cosigned_at == 5
    assert open_checkpoint(note, signer.vkeys).cosigned_at == 5


BAD: dict[str, Callable[[Any, bytes], NoteSignature]] = {
    "a changed signature": lambda keys, note: line_of(keys, "w1", note, value=bytes(72)),
    "another time": lambda keys, note: line_of(
        keys, "w1", note, value=b"\1" + line_of(keys, "w1", note).value[1:]
    ),
    "too short": lambda keys, note: line_of(keys, "w1", note, value=bytes(64)),
    "of another checkpoint": lambda keys, note: line_of(
        keys, "w1", note.replace(b"\n0\n", b"\n1\n", 1)
    ),
    "by another witness": lambda keys, note: line_of(
        keys, "w2", note, name="w1.example", key_id=keys.witness("w1").key_id
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("threshold", [0, 1])
@pytest.mark.parametrize("after_a_good_one", [False, True])
def test_a_witness_line_that_does_not_verify_is_refused_however_many_are_asked_for(
    keys: Any, signer: LogSigner, note: bytes, bad: str, threshold: int, after_a_good_one: bool
) -> None:
    witnesses = keys.witnesses("w1", "w2", threshold=threshold)
    good = keys.witnessed(note, "w2", *(("w1",) if after_a_good_one else ()))
    shown = with_lines(good, BAD[bad](keys, note))
    with pytest.raises(SignatureInvalid, match=r"w1\.example"):
        open_checkpoint(shown, signer.vkeys, witnesses=witnesses)
    # Nobody's line where root names no such witness.
    assert open_checkpoint(shown, signer.vkeys, witnesses=keys.witnesses("w2", threshold=1))


def test_the_same_key_under_two_names_is_one_witness(
    keys: Any, signer: LogSigner, note: bytes
) -> None:
    """Root metadata with such a pair is refused; the count does not rest on that."""
    other = keys.witness("w1").of("other.example", 4, keys.public("w1"))
    value = line_of(keys, "w1", note).value
    shown = with_lines(keys.witnessed(note, "w1"), NoteSignature(other.name, other.key_id, value))
    pair: dict[str, Any] = {"vkeys": [keys.witness("w1").encode(), other.encode()], "threshold": 2}
    with pytest.raises(SignatureInvalid, match="by 2 of 2 witnesses, found 1"):
        open_checkpoint(shown, signer.vkeys, witnesses=pair)


def test_witnesses_do_not_stand_in_for_the_log(keys: Any, signer: LogSigner, note: bytes) -> None:
    text = Note.parse(note).text
    stranger = LogSigner(ORIGIN, keys.private("stranger"))
    shown = keys.witnessed(stranger.sign_checkpoint(Checkpoint.parse_text(text), 5), "w1", "w2")
    witnesses = keys.witnesses("w1", "w2", threshold=2)
    with pytest.raises(SignatureInvalid, match="by the log's key"):
        open_checkpoint(shown, signer.vkeys, witnesses=witnesses)
