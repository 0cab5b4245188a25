"""Public keys and their ids.

A key is Ed25519 (RFC 8032) and nothing else, and its id is the TUF key id: the SHA-256 of the key's
canonical JSON as securesystemslib computes it. Two kinds of encoding are refused, because with them
"one key, one holder" would not hold:

 * an encoding that is not the shortest for its point (RFC 8032 section 5.1.3), since two spellings
   of one key would count as two keys;
 * a point of small order, since signatures that verify with it can be made without a private key.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import SSlibKey

from control_plane.errors import SyntaxInvalid

PUBLIC_BYTES = 32

_FIELD_PRIME = 2**255 - 19
_SIGN_BIT = 1 << 255
_ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y coordinates of the eight points whose order divides eight: order 1, 2, 4, and 8 twice.
_SMALL_ORDER_Y = frozenset((1, _FIELD_PRIME - 1, 0, _ORDER_8_Y, _FIELD_PRIME - _ORDER_8_Y))


def public_key_of(raw: bytes) -> Ed25519PublicKey:
    """A key that verifies, from its 32 raw bytes.

    Raises:
        SyntaxInvalid: not 32 bytes, not the shortest encoding of a point, or of small order.
    """
    if len(raw) != PUBLIC_BYTES:
        raise SyntaxInvalid(f"public key: expected {PUBLIC_BYTES} bytes, found {len(raw)}")
    y = int.from_bytes(raw, "little") & (_SIGN_BIT - 1)
    if y >= _FIELD_PRIME:
        raise SyntaxInvalid(
            f"public key {raw.hex()}: expected the shortest encoding of a point, found a longer one"
        )
    if y in _SMALL_ORDER_Y:
        raise SyntaxInvalid(
            f"public key {raw.hex()}: expected a point of large order,"
            " found one that verifies forged signatures"
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def raw_of(key: Ed25519PublicKey) -> bytes:
    """The 32 raw bytes of a key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def tuf_key_of(raw: bytes) -> SSlibKey:
    """The key as TUF metadata carries it, with its id computed.

    Raises:
        SyntaxInvalid: as `public_key_of`.
    """
    return SSlibKey.from_crypto(public_key_of(raw))


def key_id_of(raw: bytes) -> str:
    """The TUF key id (64 hex digits) of a key given by its 32 raw bytes.

    Raises:
        SyntaxInvalid: as `public_key_of`.
    """
    return str(tuf_key_of(raw).keyid)
