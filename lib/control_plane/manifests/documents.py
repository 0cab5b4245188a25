"""What a manifest is apart from its spelling: its name, and the bytes that are signed and stored.

- *content* is the canonical JSON (RFC 8785) of the document without ``checksum_sha256`` and
  ``signature``; ``checksum_sha256`` is its SHA-256 and the signature is made over it.
- *blob* is the canonical JSON of the whole document; a change names its SHA-256.
- A *reference* is ``kind/name`` or, where versions are published, ``kind/name@version``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from control_plane.errors import ManifestInvalid
from control_plane.log.canonical import Json, canonical, sha256_hex
from control_plane.names import MANIFEST_KINDS, MAX_DEPTH, VERSIONED_KINDS, is_name

KINDS = MANIFEST_KINDS
SEALS = ("checksum_sha256", "signature")
"""The envelope's fields that say something about the content and are not part of it."""

_SIGNATURE_PARTS = 3


def content(document: Mapping[str, Json]) -> bytes:
    """The bytes an author signs.

    Raises:
        SyntaxInvalid: for a value that has no canonical form.
    """
    return canonical({key: value for key, value in document.items() if key not in SEALS})


def checksum(document: Mapping[str, Json]) -> str:
    """SHA-256 of the content, in hex."""
    return sha256_hex(content(document))


def blob(document: Mapping[str, Json]) -> bytes:
    """The bytes that travel and are stored.

    Raises:
        SyntaxInvalid: for a value that has no canonical form.
    """
    return canonical(dict(document))


def reference(document: Mapping[str, Any]) -> str:
    """``tool/crm_tool@1.2.0``, ``flag/new_ai_model``; never raises, so that errors can use it."""
    kind, name = document.get("kind"), document.get("name")
    version = document.get("version")
    written = f"{_word(kind)}/{_word(name)}"
    return f"{written}@{_word(version)}" if kind in VERSIONED_KINDS and version else written


def parse_reference(text: str) -> tuple[str, str, str | None]:
    """Kind, name and version of ``tool/crm_tool@1.2.0``; the version is None where none is given.

    The part after ``@`` of a config is its tenant and belongs to the name.

    Raises:
        ManifestInvalid: for an unknown kind or a name outside its pattern.
    """
    kind, _, rest = text.partition("/")
    name, at, version = rest.partition("@") if kind in VERSIONED_KINDS else (rest, "", "")
    if kind not in KINDS or not is_name(kind, name) or (at and not version):
        raise ManifestInvalid(
            f"expected a reference like tool/crm_tool@1.2.0 or flag/new_ai_model, found {text!r}"
        )
    return kind, name, version or None


def signature_of(document: Mapping[str, Json]) -> tuple[str, bytes] | None:
    """Key id and raw signature of ``ed25519:<key id>:<base64>``, None without a signature.

    Raises:
        ManifestInvalid: when the field has another form.
    """
    written = document.get("signature")
    if written is None:
        return None
    parts = written.split(":") if isinstance(written, str) else []
    if len(parts) == _SIGNATURE_PARTS and parts[0] == "ed25519" and parts[1]:
        try:
            return parts[1], base64.b64decode(parts[2], validate=True)
        except binascii.Error:
            pass
    raise ManifestInvalid(
        f"{reference(document)}: expected ed25519:<key id>:<base64>, found another signature",
        ("signature",),
    )


def sealed(document: Mapping[str, Json], key_id: str, signature: bytes) -> dict[str, Json]:
    """The document with its checksum and this signature over its content."""
    bare = {key: value for key, value in document.items() if key not in SEALS}
    text = base64.b64encode(signature).decode("ascii")
    return {
        **bare,
        "checksum_sha256": checksum(bare),
        "signature": f"ed25519:{key_id}:{text}",
    }


def containers(root: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every mapping and list with its path, without recursion, and not below the depth allowed."""
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), root)]
    while pending:
        path, value = pending.pop()
        yield path, value
        if len(path) < MAX_DEPTH:
            steps = value.items() if isinstance(value, dict) else enumerate(value)
            pending.extend(
                ((*path, step), inner) for step, inner in steps if isinstance(inner, (dict, list))
            )


def _word(value: Any) -> str:
    """A field of a document nobody has checked, short and on one line."""
    if not isinstance(value, str):
        return "?"
    return value if value.isprintable() and len(value) <= 128 else ascii(value[:64])
