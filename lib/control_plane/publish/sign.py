"""Who wrote a manifest: its checksum and its author's signature.

What this module decides:

- ``checksum_sha256`` is the SHA-256 of the content, the canonical bytes without those two fields;
  ``signature`` is ``ed25519:<key id>:<base64>`` over DSSE's PAE of the same bytes.
- A checksum that is there and wrong is refused, never corrected: somebody changed the document
  after it was signed, and only its author may say that this was meant. ``resign`` is how.
- Signing a file in place changes those two lines and no other byte, so comments and order stay.
  A file where that cannot be done (one line, flow style) is refused, and read back to be sure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from control_plane.errors import ChecksumMismatch, InputInvalid, ManifestInvalid
from control_plane.log.envelope import MANIFEST_PAYLOAD_TYPE, pae
from control_plane.manifests.documents import SEALS, checksum, content, reference, sealed
from control_plane.manifests.loader import load_yaml
from control_plane.names import VERSIONED_KINDS

if TYPE_CHECKING:
    from control_plane.log.canonical import Json
    from control_plane.publish.keyfiles import KeySigner

_YAML_LINE = {name: re.compile(rf"^{name}[ \t]*:.*$", re.MULTILINE) for name in SEALS}
_JSON_LINE = {
    name: re.compile(rf'^([ \t]*)"{name}"[ \t]*:[ \t]*"[^"\n]*"', re.MULTILINE) for name in SEALS
}


def check_checksum(document: Mapping[str, Any]) -> None:
    """Refuse a document whose checksum is not its content's; one without a checksum passes.

    Raises:
        ChecksumMismatch: naming the document and both checksums.
    """
    expected = document.get("checksum_sha256")
    if expected is not None and (found := checksum(dict(document))) != expected:
        raise ChecksumMismatch(
            f"{reference(dict(document))}: expected checksum {expected}, found {found};"
            " if the change is meant, its author runs 'control-plane sign' again"
        )


def signed(document: Mapping[str, Any], signer: KeySigner) -> dict[str, Any]:
    """A copy of the document with its checksum and the signer's signature.

    Raises:
        ManifestInvalid: for a kind that carries neither; its change set's signature is enough.
    """
    copy = {name: value for name, value in document.items() if name not in SEALS}
    if copy.get("kind") not in VERSIONED_KINDS:
        raise ManifestInvalid(
            f"{reference(copy)}: expected an agent or a tool, found a {copy.get('kind')};"
            " other kinds are signed by their change set"
        )
    signature = signer.sign(pae(MANIFEST_PAYLOAD_TYPE, content(copy)))
    return sealed(copy, signer.public_key.keyid, bytes.fromhex(signature.signature))


def is_signed(document: Mapping[str, Any]) -> bool:
    """Whether both fields are there; says nothing about their truth."""
    return all(document.get(name) is not None for name in SEALS)


def signed_text(text: str, document: Mapping[str, Any], *, json: bool, what: str) -> str:
    """The file's text with the two lines of the signed ``document`` and nothing else changed.

    Raises:
        InputInvalid: the text has no place for two lines of their own.
    """
    edit = _json_line if json else _yaml_line
    for name in SEALS:
        text = edit(text, name, str(document[name]))
    if _read(text, what) != dict(document):
        raise InputInvalid(
            f"{what}: expected a document with one field a line, found another form;"
            " sign a copy with --out"
        )
    return text


def _yaml_line(text: str, name: str, value: str) -> str:
    line = f'{name}: "{value}"' if ":" in value else f"{name}: {_plain(value)}"
    if _YAML_LINE[name].search(text):
        return _YAML_LINE[name].sub(line, text, count=1)
    return text + ("" if text.endswith("\n") else "\n") + line + "\n"


def _plain(value: str) -> str:
    """A digest without a letter, or like ``12e3…``, would be read as a number by YAML tools."""
    return value if re.search("[a-df]", value) else f'"{value}"'


def _json_line(text: str, name: str, value: str) -> str:
    line = f'"{name}": "{value}"'
    if found := _JSON_LINE[name].search(text):
        return text[: found.start()] + found.group(1) + line + text[found.end() :]
    # A new field goes before the closing brace, indented as the fields above it are.
    body = text.rstrip().removesuffix("}").rstrip()
    indent = re.search(r'\n([ \t]*)"', text)
    tail = text[len(text.rstrip()) :]
    return f"{body},\n{indent.group(1) if indent else '  '}{line}\n}}{tail}"


def _read(text: str, what: str) -> Json:
    return load_yaml(text.encode(), what=what)
