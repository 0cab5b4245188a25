"""Notes, checkpoints, cosignatures and tiles against the examples their specifications print."""

from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import ControlPlaneError, SignatureInvalid, SyntaxInvalid
from control_plane.log.checkpoint import (
    Checkpoint,
    LogSigner,
    cosigned_message,
    open_checkpoint,
)
from control_plane.log.note import Note, NoteSignature, VerifierKey
from control_plane.log.tiles import decode_entries, encode_entries, parse_tile_path, tile_path

# c2sp.org/signed-note, first example
POEM = """\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""  # noqa: E501
# c2sp.org/tlog-checkpoint, example
CHECKPOINT = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""  # noqa: E501
# c2sp.org/tlog-cosignature, example
COSIGNED = (
    CHECKPOINT
    + "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"  # noqa: E501
)

SEED = bytes(range(32))
ORIGIN = "acme/production/1"


@pytest.fixture
def signer() -> LogSigner:
    return LogSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(SEED))


@pytest.mark.parametrize("text", [POEM, CHECKPOINT, COSIGNED])
def test_the_published_examples_print_back_byte_for_byte(text: str) -> None:
    assert Note.parse(text.encode()).encode() == text.encode()


def test_the_published_checkpoint_has_its_parts() -> None:
    note = Note.parse(COSIGNED.encode())
    checkpoint = Checkpoint.parse_text(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert base64.b64encode(checkpoint.root) == b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    assert checkpoint.text() == note.text
    witness = note.signatures[1]
    assert witness.name == "witness.example.com/w1"
    # The example's message carries the time that its signature line carries.
    assert int.from_bytes(witness.value[:8], "big") == 1679315147
    assert cosigned_message(note.text, 1679315147).startswith(
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
    )


def test_a_signed_checkpoint_is_these_bytes(signer: LogSigner) -> None:
    checkpoint = Checkpoint(ORIGIN, 3, bytes(range(32)))
    note = signer.sign_checkpoint(checkpoint, 1_700_000_000)
    assert note.decode() == GOLDEN_CHECKPOINT
    assert signer.vkeys == GOLDEN_VKEYS
    opened = open_checkpoint(note, signer.vkeys)
    assert (opened.checkpoint, opened.cosigned_at) == (checkpoint, 1_700_000_000)


def test_a_foreign_line_is_ignored_and_kept(signer: LogSigner) -> None:
    note = Note.parse(signer.sign_checkpoint(Checkpoint(ORIGIN, 0, bytes(32)), 5))
    stranger = NoteSignature("stranger", b"abcd", bytes(64))
    mixed = Note(note.text, (stranger, *note.signatures)).encode()
    assert open_checkpoint(mixed, signer.vkeys).cosigned_at == 5
    assert Note.parse(mixed).signatures[0] == stranger


@pytest.mark.parametrize("line", [0, 1])
@pytest.mark.parametrize("at", [0, 70])
def test_a_changed_signature_is_refused(signer: LogSigner, line: int, at: int) -> None:
    note = Note.parse(signer.sign_checkpoint(Checkpoint(ORIGIN, 1, bytes(32)), 5))
    lines = list(note.signatures)
    value = bytearray(lines[line].value)
    value[min(at, len(value) - 1)] ^= 1
    lines[line] = NoteSignature(lines[line].name, lines[line].key_id, bytes(value))
    with pytest.raises(SignatureInvalid):
        open_checkpoint(Note(note.text, tuple(lines)).encode(), signer.vkeys)


def test_a_checkpoint_without_the_logs_signature_is_refused(signer: LogSigner) -> None:
    other = LogSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    note = other.sign_checkpoint(Checkpoint(ORIGIN, 1, bytes(32)), 5)
    with pytest.raises(SignatureInvalid, match="found none"):
        open_checkpoint(note, signer.vkeys)


def test_a_checkpoint_of_another_origin_is_refused(signer: LogSigner) -> None:
    note = signer.sign_checkpoint(Checkpoint("acme/staging/1", 1, bytes(32)), 5)
    with pytest.raises(SignatureInvalid, match="expected the origin acme/production/1"):
        open_checkpoint(note, signer.vkeys)


@pytest.mark.parametrize(
    "text",
    [
        "", "a\n1\n", "a\n01\nAA==\n", "a\n1\nAA==\n", "a\n-1\n" + "A" * 43 + "=\n",
        "\n1\n" + "A" * 43 + "=\n", "a\n1\n" + "A" * 43 + "=\nextension\n",
        "a\n1\n" + "A" * 42 + "B=\n", "a\n9223372036854775808\n" + "A" * 43 + "=\n",
        "a\n٣\n" + "A" * 43 + "=\n",
    ],
)  # fmt: skip
def test_a_checkpoint_text_out_of_form_is_refused(text: str) -> None:
    with pytest.raises(SyntaxInvalid):
        Checkpoint.parse_text(text)


@pytest.mark.parametrize(
    "data",
    [
        b"text\n", b"text\n\n", b"text\n\nname QUFBQUE=\n", "t\n\n— name QUFBQUE=".encode(),
        "t\n\n— a b QUFBQUE=\n".encode(), "t\n\n— a+b QUFBQUE=\n".encode(),
        "t\n\n— a QUFBQQ\n".encode(), "t\n\n— a QUFBQQ==\n".encode(),
        "t\tx\n\n— a QUFBQUE=\n".encode(),
        b"\xff\n\n", ("t\n\n" + "— a QUFBQUE=\n" * 65).encode(), b"x" * 70_000,
    ],
)  # fmt: skip
def test_a_note_out_of_form_is_refused(data: bytes) -> None:
    with pytest.raises(SyntaxInvalid):
        Note.parse(data)


@pytest.mark.parametrize(
    "text", ["", "a+b", "a+00000000+AAAA", "a b+00000000+AQ==", "a+00000000+" + "A" * 44]
)
def test_a_vkey_out_of_form_is_refused(text: str) -> None:
    with pytest.raises(SyntaxInvalid):
        VerifierKey.parse(text)


def test_a_vkey_with_anothers_id_is_refused(signer: LogSigner) -> None:
    plain = signer.vkeys[0]
    assert VerifierKey.parse(plain).encode() == plain
    name, key_id, material = plain.split("+", 2)
    with pytest.raises(SyntaxInvalid, match=f"expected the id {key_id}"):
        VerifierKey.parse(f"{name}+00000000+{material}")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_one_family_of_errors(data: bytes) -> None:
    with contextlib.suppress(ControlPlaneError):
        assert Note.parse(data).encode() == data


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (1, 17, 17, "tile/1/017.p/17"),
        ("entries", 273, 112, "tile/entries/273.p/112"),
        (63, 999, 1, "tile/63/999.p/1"),
        ("entries", 1000, 256, "tile/entries/x001/000"),
    ],
)
def test_tile_paths_are_spelled_as_specified(
    level: int | str, index: int, width: int, path: str
) -> None:
    assert tile_path(level, index, width) == path
    assert parse_tile_path(path) == (level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0", "tile/0/0000", "tile/00/000", "tile/64/000", "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/000.p/0", "tile/0/000.p/256",
        "tile/0/000.p/257", "tile/0/000.p/01", "tile/-1/000", "tile/0/٠٠٠",
        "tile/entry/000", "tile/0/000/", "/tile/0/000", "tile/0/000\n",
    ],
)  # fmt: skip
def test_any_other_spelling_of_a_tile_path_is_refused(path: str) -> None:
    with pytest.raises(SyntaxInvalid):
        parse_tile_path(path)


@given(st.lists(st.binary(max_size=70), max_size=20))
def test_entry_bundles_read_back(leaves: list[bytes]) -> None:
    data = encode_entries(leaves)
    assert decode_entries(data) == leaves
    if data:
        with pytest.raises(SyntaxInvalid):
            decode_entries(data + b"\x00")


def test_an_entry_bundle_is_these_bytes() -> None:
    assert encode_entries([b"", b"abc"]) == b"\x00\x00\x00\x03abc"


GOLDEN_VKEYS = [
    "acme/production/1+acd294ce+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
    "acme/production/1+85884398+BAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
]
GOLDEN_CHECKPOINT = """\
acme/production/1
3
AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=

— acme/production/1 rNKUzoEccFrynvOOCXWn5iFFj0wXgdJgfQHUEXkFV9JQymykbfBykC0GT0x9USJbfRbuGXsfBCVSz00H6Q0j65oUkg8=
— acme/production/1 hYhDmAAAAABlU/EAtEwo6qZh+FbYZIucnjmU1MUDpboZEBIvl4N3veKcgvfacvBYRzHK5vzJ9fK1SoitnNRdj8lnwxVzlbXhSqcfCg==
"""  # noqa: E501
