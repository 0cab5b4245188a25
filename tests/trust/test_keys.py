"""Public keys and their ids."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import SSlibKey

from control_plane.errors import SyntaxInvalid
from control_plane.trust.keys import key_id_of, public_key_of, raw_of

PRIME = 2**255 - 19
SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
)


def test_a_key_id_is_the_one_securesystemslib_computes(forge: Any) -> None:
    key = SSlibKey.from_crypto(forge.private("alice").public_key())
    assert key_id_of(forge.public("alice")) == key.keyid
    assert raw_of(public_key_of(forge.public("alice"))) == forge.public("alice")


def test_a_key_id_never_changes() -> None:
    # RFC 8032 section 7.1, TEST 1.
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert key_id_of(public) == "74c181c7ad8a0855d4b55e44d2ba87aabdddb196832571f15f92fece332e4916"


@pytest.mark.parametrize("encoding", SMALL_ORDER)
def test_the_eight_points_of_small_order_are_refused(encoding: str) -> None:
    with pytest.raises(SyntaxInvalid, match="a point of large order"):
        public_key_of(bytes.fromhex(encoding))


def test_the_refusal_of_small_order_is_needed() -> None:
    """What the library below accepts: one signature for every message, by nobody."""
    nobody = Ed25519PublicKey.from_public_bytes(bytes.fromhex(SMALL_ORDER[0]))
    forged = bytes.fromhex(SMALL_ORDER[0]) + bytes(32)
    nobody.verify(forged, b"any message")
    nobody.verify(forged, b"any other message")


@pytest.mark.parametrize("y", [PRIME, PRIME + 1, PRIME + 18])
def test_a_second_spelling_of_a_point_is_refused(y: int) -> None:
    with pytest.raises(SyntaxInvalid, match="the shortest encoding"):
        public_key_of(y.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(SyntaxInvalid, match=f"expected 32 bytes, found {length}"):
        key_id_of(b"\x09" * length)
