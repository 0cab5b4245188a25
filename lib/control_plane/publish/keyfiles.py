"""Private keys on disk, and the first trust metadata of an installation.

A key file is a PKCS#8 PEM (RFC 5958) with an Ed25519 key, mode 0600, locked with a passphrase where
one is given. Beside it lies ``<file>.pub``, the public half as TUF's JSON with its id (0644).

 * A key file appears whole or not at all, and never in place of another: it is written and synced
   under a temporary name and then linked to its own.
 * A key file that group or others can read is refused; somebody may have copied it already.
 * The private key comes first, its ``.pub`` second: a crash between the two leaves a key that
   signs, and `list_keys` reads its public half from the key itself.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from control_plane.errors import InputInvalid, KeyFileRefused, NotFound, SyntaxInvalid
from control_plane.log.canonical import parse
from control_plane.log.envelope import Envelope, Signature
from control_plane.publish.durable import write_new, write_over
from control_plane.trust import authoring
from control_plane.trust.keys import key_id_of, raw_of, tuf_key_of
from control_plane.trust.state import Policy, restore

MAX_KEY_FILE_BYTES = 1 << 16
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The expiry of metadata that is given none; the command line always gives one."""

KeySigner = CryptoSigner
"""What signs: ``.public_key.keyid`` is the TUF key id, ``.sign(data).signature`` the hex of it."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key on disk: its file, the name people call it by, and its public half."""

    path: Path
    name: str
    key_id: str
    public: bytes

    @property
    def public_path(self) -> Path:
        """The file with the public half."""
        return _public_path(self.path)


@dataclass(frozen=True, slots=True)
class Trust:
    """What `create_trust` made: the files, their exact bytes and the keys that can sign."""

    directory: Path
    installation: str
    environments: tuple[str, ...]
    root: bytes
    targets: bytes
    keys: dict[str, KeyFile]
    signers: dict[str, KeySigner]

    @property
    def keys_directory(self) -> Path:
        """Where the key files are."""
        return self.directory / "keys"

    @property
    def trust_directory(self) -> Path:
        """Where root and targets metadata are."""
        return self.directory / "trust"

    @property
    def root_path(self) -> Path:
        """The root metadata, version 1."""
        return self.trust_directory / "1.root.json"

    @property
    def targets_path(self) -> Path:
        """The targets metadata, version 1."""
        return self.trust_directory / "targets.json"

    @property
    def policy(self) -> Policy:
        """The policy the two make together."""
        return restore(self.root, self.targets)

    def log_key(self, environment: str) -> Ed25519PrivateKey:
        """The private key of an environment's log."""
        return load_private_key(self.keys[log_key_name(environment)].path)


def log_key_name(environment: str) -> str:
    """What the key file of an environment's log is called, without ``.pem``."""
    return f"log-{environment}"


def new_key(
    path: str | os.PathLike[str],
    name: str | None = None,
    passphrase: bytes | None = None,
    *,
    private: Ed25519PrivateKey | None = None,
) -> KeyFile:
    """Make a key file (0600) and its ``.pub`` (0644); durable when this returns.

    ``name`` is the file's stem unless given. A ``private`` key that is given is written instead of
    a new one.

    Raises:
        KeyFileRefused: there is a file of that name; it is not touched.
        OSError: the folder is missing or not writable.
    """
    path = Path(path)
    key = private or Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _locked_with(passphrase))
    _write_new(path, pem, 0o600)
    made = _key_file(path, name, raw_of(key.public_key()))
    _write_public(made)
    return made


def load_private_key(
    path: str | os.PathLike[str], passphrase: bytes | None = None
) -> Ed25519PrivateKey:
    """Read the Ed25519 key of a key file.

    Raises:
        NotFound: there is no such file.
        KeyFileRefused: group or others can read it, or the passphrase is missing or wrong.
        SyntaxInvalid: it holds something else than a PKCS#8 Ed25519 key in PEM.
    """
    path = Path(path)
    pem = _read_private(path)
    if passphrase is None and b"BEGIN ENCRYPTED PRIVATE KEY" in pem:
        raise KeyFileRefused(f"{path}: expected a passphrase for a locked key, found none")
    if b"BEGIN PRIVATE KEY" in pem:
        # An unlocked key needs no passphrase; the one given may be meant for another file.
        passphrase = None
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        if passphrase is not None:
            raise KeyFileRefused(
                f"{path}: expected the passphrase that locks it, found another"
            ) from error
        raise SyntaxInvalid(f"{path}: expected a private key in PEM, found other bytes") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SyntaxInvalid(f"{path}: expected an Ed25519 key, found another kind of key")
    return key


def load_signer(path: str | os.PathLike[str], passphrase: bytes | None = None) -> KeySigner:
    """The signer of a key file; its key id is the TUF key id of the key.

    Raises:
        NotFound, KeyFileRefused, SyntaxInvalid: as `load_private_key`.
    """
    return CryptoSigner(load_private_key(path, passphrase))


def load_public(path: str | os.PathLike[str]) -> KeyFile:
    """What ``<path>.pub`` tells about the key file at ``path``, which is not opened.

    Raises:
        NotFound: there is no such file.
        SyntaxInvalid: it is not a TUF key with the id of its public half.
    """
    path = Path(path)
    public_path = _public_path(path)
    try:
        data = public_path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{public_path}: expected a public key file, found none") from error
    value = parse(data, what=str(public_path), max_bytes=MAX_KEY_FILE_BYTES)
    try:
        public = bytes.fromhex(value["keyval"]["public"])  # type: ignore[index, call-overload, arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise SyntaxInvalid(f"{public_path}: expected a TUF key, found other JSON") from error
    found = _key_file(path, None, public)
    if value != _public_json(found):
        raise SyntaxInvalid(f"{public_path}: expected the key {found.key_id}, found another id")
    return found


def sign_envelope(envelope: Envelope, signer: KeySigner) -> Envelope:
    """The envelope with one more signature; the same key's older one is replaced."""
    signature = signer.sign(envelope.pae())
    return envelope.with_signature(Signature(signature.keyid, bytes.fromhex(signature.signature)))


def create_trust(
    directory: str | os.PathLike[str],
    *,
    installation: str = "hello",
    environments: Sequence[str] = ("development",),
    authors: Sequence[str] = ("author",),
    threshold: int = 1,
    expires: datetime = NEVER,
    passphrase: bytes | None = None,
) -> Trust:
    """Make the keys, root version 1 and targets version 1 of a new installation.

    Files: ``keys/{root,targets,<author>,log-<environment>}.pem`` and
    ``trust/{1.root.json,targets.json}``; both folders are 0700. Authors may change everything with
    ``threshold`` signatures, kill flags with one, and sign manifests. The passphrase locks the keys
    that people hold; a log's key is read by a service that starts alone.

    Metadata comes last, so a folder without ``trust/targets.json`` was not finished: nothing can
    rest on it, and it is to be removed.

    Raises:
        InputInvalid: names out of form, or fewer authors than the threshold; nothing was written.
        KeyFileRefused: the folder holds keys already; nothing was written.
    """
    made = Path(directory)
    authoring.check_plan(installation, environments, authors, threshold)
    people = ("root", "targets", *authors)
    services = tuple(log_key_name(environment) for environment in environments)
    _refuse_taken(made, (*people, *services))
    for folder in (made / "keys", made / "trust"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = {name: new_key(made / "keys" / f"{name}.pem", name, passphrase) for name in people}
    keys |= {name: new_key(made / "keys" / f"{name}.pem", name) for name in services}
    signers = {name: load_signer(keys[name].path, passphrase) for name in people}
    root = authoring.new_root(
        version=1,
        expires=expires,
        root_keys=[keys["root"].public],
        targets_keys=[keys["targets"].public],
        logs=[
            authoring.new_log(installation, environment, keys[log_key_name(environment)].public)
            for environment in environments
        ],
    )
    targets = authoring.new_targets(
        version=1,
        expires=expires,
        delegations=authoring.first_delegations(
            environments, [keys[name].public for name in authors], threshold
        ),
    )
    trust = Trust(
        made,
        installation,
        tuple(environments),
        authoring.signed(root, [signers["root"]]),
        authoring.signed(targets, [signers["targets"]]),
        keys,
        signers,
    )
    _write_new(trust.root_path, trust.root, 0o644)
    _write_new(trust.targets_path, trust.targets, 0o644)
    return trust


def list_keys(directory: str | os.PathLike[str], passphrase: bytes | None = None) -> list[KeyFile]:
    """The key files of a folder by name; a private key is read only where its ``.pub`` is missing.

    Raises:
        NotFound: there is no such folder.
        SyntaxInvalid: a ``.pub`` file is out of form.
        KeyFileRefused: a key has no ``.pub`` and is readable by others, or locked and not by this
            passphrase.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise NotFound(f"{folder}: expected a folder of keys, found none")
    return [_public_half(path, passphrase) for path in sorted(folder.glob("*.pem"))]


def finish_key(path: str | os.PathLike[str], passphrase: bytes | None = None) -> KeyFile:
    """A key file that is there, with its ``.pub``, which a crash may have kept it from.

    Raises:
        NotFound, KeyFileRefused, SyntaxInvalid: as `load_private_key`; only without a ``.pub``.
    """
    key = _public_half(Path(path), passphrase)
    if not key.public_path.exists():
        _write_public(key)
    return key


def _public_half(path: Path, passphrase: bytes | None = None) -> KeyFile:
    if _public_path(path).exists():
        return load_public(path)
    return _key_file(path, None, raw_of(load_private_key(path, passphrase).public_key()))


def _refuse_taken(directory: Path, names: Sequence[str]) -> None:
    for path in (directory / "trust" / "1.root.json", *_key_paths(directory, names)):
        if path.exists():
            raise KeyFileRefused(
                f"{path}: expected a folder without keys and trust, found this file;"
                " choose another folder"
            )


def _key_paths(directory: Path, names: Sequence[str]) -> list[Path]:
    return [directory / "keys" / f"{name}.pem" for name in names]


def _public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _key_file(path: Path, name: str | None, public: bytes) -> KeyFile:
    return KeyFile(path, name or path.stem, key_id_of(public), public)


def _public_json(key: KeyFile) -> dict[str, object]:
    return {"keyid": key.key_id, **tuf_key_of(key.public).to_dict()}


def _locked_with(passphrase: bytes | None) -> KeySerializationEncryption:
    if passphrase is None:
        return NoEncryption()
    if not passphrase:
        raise InputInvalid("passphrase: expected at least one byte, found none")
    return BestAvailableEncryption(passphrase)


def _read_private(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound(
            f"{path}: expected a key file, found none; make one with 'control-plane keys new'"
        ) from error
    except PermissionError as error:
        raise NotFound(
            f"{path}: expected a key file, found {str(error.strerror).lower()}; run as its owner"
        ) from error
    try:
        # The open file is asked, not the path, which may be swapped in between.
        _check_private(path, os.fstat(handle).st_mode)
        return os.read(handle, MAX_KEY_FILE_BYTES)
    finally:
        os.close(handle)


def _check_private(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise KeyFileRefused(
            f"{path}: expected a file with a key, found something else; make one with"
            " 'control-plane keys new'"
        )
    if mode & 0o077:
        raise KeyFileRefused(
            f"{path}: expected a key file that only its owner can read, found mode"
            f" {mode & 0o777:04o}; run 'chmod 600 {path}', and replace the key if others"
            " may have read it"
        )


def _write_public(key: KeyFile) -> None:
    data = json.dumps(_public_json(key), sort_keys=True, indent=2).encode() + b"\n"
    # Replacing is right here: the private key was new a moment ago, so an older .pub is an orphan.
    write_over(key.public_path, data, 0o644)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        write_new(path, data, mode)
    except FileExistsError as error:
        raise KeyFileRefused(
            f"{path}: expected no file of that name, found one; it was left as it is"
        ) from error
