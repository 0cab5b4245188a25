"""Key files on a real disk."""

from __future__ import annotations

import json
import os
import stat
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.errors import InputInvalid, KeyFileRefused, NotFound, SyntaxInvalid
from control_plane.publish.keyfiles import (
    create_trust,
    list_keys,
    load_private_key,
    load_public,
    load_signer,
    new_key,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_key_is_its_owners_alone_and_its_public_half_everybodys(
    tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        made = new_key(tmp_path / "alice.pem")
    finally:
        os.umask(before)
    assert (mode(made.path), mode(made.public_path)) == (0o600, 0o644)
    assert sorted(contents(tmp_path)) == ["alice.pem", "alice.pem.pub"]
    assert load_signer(made.path).public_key.keyid == made.key_id
    assert load_public(made.path) == made
    value = json.loads(made.public_path.read_bytes())
    assert sorted(value) == ["keyid", "keytype", "keyval", "scheme"]


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    new_key(tmp_path / "alice.pem")
    before = contents(tmp_path)
    with pytest.raises(KeyFileRefused, match=r"alice\.pem: expected no file of that name"):
        new_key(tmp_path / "alice.pem")
    assert contents(tmp_path) == before


def test_an_existing_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "alice.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileRefused):
        new_key(tmp_path / "alice.pem")
    assert not (tmp_path / "elsewhere").exists()


def test_a_locked_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    made = new_key(tmp_path / "alice.pem", passphrase=b"correct horse")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in made.path.read_bytes()
    assert load_signer(made.path, b"correct horse").public_key.keyid == made.key_id
    for wrong, reason in ((b"wrong", "found another"), (None, "found none"), (b"", "another")):
        with pytest.raises(KeyFileRefused, match=reason) as refusal:
            load_signer(made.path, wrong)
        assert "\n" not in str(refusal.value)
        assert "correct horse" not in str(refusal.value)


def test_an_empty_passphrase_locks_nothing_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="expected at least one byte"):
        new_key(tmp_path / "alice.pem", passphrase=b"")
    assert contents(tmp_path) == {}


def test_a_passphrase_for_another_key_does_no_harm(tmp_path: Path) -> None:
    made = new_key(tmp_path / "log.pem")
    assert load_signer(made.path, b"of another").public_key.keyid == made.key_id


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o610, 0o644])
def test_a_key_that_others_can_reach_is_refused_with_the_cure(tmp_path: Path, bits: int) -> None:
    made = new_key(tmp_path / "alice.pem")
    made.path.chmod(bits)
    with pytest.raises(KeyFileRefused, match=rf"mode {bits:04o}; run 'chmod 600 .*alice\.pem'"):
        load_signer(made.path)


def test_a_key_too_short_for_its_kind_is_refused(tmp_path: Path) -> None:
    """One changed byte of a key file: an X448 key, of 32 bytes. OpenSSL has no word for it."""
    der = bytes.fromhex("302e020100300506032b656f04220420") + bytes(32)
    path = tmp_path / "alice.pem"
    body = b64encode(der).decode()
    path.write_text(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(SyntaxInvalid, match="expected a private key in PEM"):
        load_signer(path)


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "alice.pem"
    with pytest.raises(NotFound, match="make one with 'control-plane keys new'"):
        load_signer(path)
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileRefused, match="expected a file"):
        load_signer(path)
    path.unlink()
    curve = generate_private_key(SECP256R1())
    pem = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data, reason in ((b"", "a private key in PEM"), (pem, "expected an Ed25519 key")):
        path.write_bytes(data)
        path.chmod(0o600)
        for passphrase in (None, b"x"):
            with pytest.raises((SyntaxInvalid, KeyFileRefused)) as refusal:
                load_signer(path, passphrase)
            assert passphrase is not None or reason in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keyval":{"public":"zz"}}', '{"keyval":{"public":"00"}}', "[[[["]
)
def test_a_public_file_out_of_form_is_refused(tmp_path: Path, text: str) -> None:
    made = new_key(tmp_path / "alice.pem")
    made.public_path.write_text(text)
    with pytest.raises(SyntaxInvalid):
        load_public(made.path)


def test_a_public_file_that_names_another_id_is_refused(tmp_path: Path) -> None:
    made = new_key(tmp_path / "alice.pem")
    value = json.loads(made.public_path.read_bytes()) | {"keyid": "ab" * 32}
    made.public_path.write_text(json.dumps(value))
    with pytest.raises(SyntaxInvalid, match=f"expected the key {made.key_id}, found another id"):
        load_public(made.path)


def test_a_crash_between_key_and_public_half_leaves_a_key_that_is_listed(tmp_path: Path) -> None:
    made = new_key(tmp_path / "alice.pem")
    made.public_path.unlink()
    assert list_keys(tmp_path) == [made]
    with pytest.raises(NotFound):
        list_keys(tmp_path / "nowhere")


def test_a_new_installation_has_its_files_and_a_policy(tmp_path: Path, forge: Any) -> None:
    trust = create_trust(
        tmp_path / "new",
        environments=("production", "staging"),
        authors=("alice", "bob"),
        threshold=2,
        passphrase=b"secret",
    )
    assert sorted(contents(trust.trust_directory)) == ["1.root.json", "targets.json"]
    assert {mode(trust.keys_directory), mode(trust.trust_directory)} == {0o700}
    assert {mode(key.path) for key in trust.keys.values()} == {0o600}
    assert (trust.root_path.read_bytes(), trust.targets_path.read_bytes()) == (
        trust.root,
        trust.targets,
    )
    policy = trust.policy
    assert policy.environments == ("production", "staging")
    assert policy.root_key_ids == (trust.keys["root"].key_id,)
    assert policy.log("staging").key_id == trust.keys["log-staging"].key_id
    assert load_private_key(trust.keys["log-staging"].path)  # not locked: a service reads it
    with pytest.raises(KeyFileRefused):
        load_signer(trust.keys["alice"].path)
    assert sorted(key.name for key in list_keys(trust.keys_directory)) == sorted(trust.keys)


def test_an_installation_is_never_made_over_another(tmp_path: Path) -> None:
    create_trust(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(KeyFileRefused, match=r"1\.root\.json: expected a folder without keys"):
        create_trust(tmp_path)
    (tmp_path / "trust" / "1.root.json").unlink()
    with pytest.raises(KeyFileRefused, match=r"root\.pem"):
        create_trust(tmp_path)
    before.pop("trust/1.root.json")
    assert contents(tmp_path) == before


def test_a_plan_that_cannot_work_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="name more authors or lower the threshold"):
        create_trust(tmp_path / "new", threshold=2)
    assert not (tmp_path / "new").exists()
