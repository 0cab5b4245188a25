"""The store as its operator runs it: a real process, real key files."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.errors import ControlPlaneError, InputInvalid, Refused
from control_plane.log.statements import Change, change_set
from control_plane.publish.client import StoreClient
from control_plane.publish.keyfiles import NEVER, Trust, create_trust, sign_envelope
from control_plane.trust import authoring
from control_plane.trust.enrolment import Enrolment
from control_plane_store.command import _sequencer, store, token
from control_plane_store.database import Database
from control_plane_store.listening import Listen, check_reach, tls_context
from control_plane_store.sequencer import Sequencer


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return create_trust(
        tmp_path_factory.mktemp("installation"), environments=("production", "staging")
    )


def run(command: Any, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


@pytest.fixture
def folder(trust: Trust, tmp_path: Path) -> Path:
    """A folder with a new store, its enrolment and first tokens."""
    result = run(
        store, "init", "--database", tmp_path / "store.sqlite3",
        "--trust", trust.trust_directory, "--keys", trust.keys_directory,
        "--enrolment", tmp_path / "trust.json", "--tokens", tmp_path / "tokens",
    )  # fmt: skip
    assert result.exception is None, result.output
    return tmp_path


@contextmanager
def running(
    folder: Path, trust: Trust, listen: str = "127.0.0.1:0", *options: str | Path
) -> Iterator[tuple[Any, str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "control_plane", "store", "--database", folder / "store.sqlite3",
         "--keys", trust.keys_directory, "--listen", listen, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("store ready at "), process.stderr.read()
        yield process, line.removeprefix("store ready at ").strip()
    finally:
        process.kill()
        process.communicate()


def secret(folder: Path, name: str) -> str:
    return (folder / "tokens" / f"{name}.token").read_text().strip()


def kill_flag(trust: Trust, name: str, now_ms: int) -> Any:
    change = Change(action="put", kind="kill", name=name, replaces=None, value={"variant": None})
    statement, _ = change_set(
        "hello/production/1", [change],
        created_at=now_ms, not_after=now_ms + 60_000, reason="", verb="kill",
    )  # fmt: skip
    return sign_envelope(statement.envelope(), trust.signers["author"])


def test_init_makes_all_a_first_start_needs(folder: Path, trust: Trust) -> None:
    enrolment = Enrolment.decode((folder / "trust.json").read_bytes())
    assert sorted(enrolment.checkpoints) == ["production", "staging"]
    assert enrolment.root == trust.root
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["audit.jsonl", "store.sqlite3", "tokens", "trust.json"]
    private = [folder / "store.sqlite3", *(folder / "tokens").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert len(list((folder / "tokens").iterdir())) == 2


def test_init_never_overwrites(folder: Path, trust: Trust) -> None:
    before = (folder / "store.sqlite3").read_bytes()
    result = run(
        store, "init", "--database", folder / "store.sqlite3",
        "--trust", trust.trust_directory, "--keys", trust.keys_directory,
    )  # fmt: skip
    assert isinstance(result.exception, Refused)
    assert (folder / "store.sqlite3").read_bytes() == before


def test_what_a_store_took_survives_its_being_killed(folder: Path, trust: Trust) -> None:
    with running(folder, trust) as (process, url):
        now_ms = os.stat(folder / "trust.json").st_mtime_ns // 1_000_000  # noqa: PTH116
        envelope = kill_flag(trust, "pilot", now_ms)
        with StoreClient(url, secret(folder, "submit")) as client:
            taken = client.submit("production", envelope)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with running(folder, trust) as (_, url), StoreClient(url, secret(folder, "submit")) as client:
        again = client.submit("production", envelope)
        assert (taken.generation, again.generation, again.repeated) == (2, 2, True)
        assert client.checkpoint("production", 1).startswith(b"hello/production/1\n2\n")


def test_a_terminated_store_drains_and_ends_with_0(folder: Path, trust: Trust) -> None:
    with running(folder, trust) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""
    assert not (folder / "store.sqlite3-wal").exists()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the bound moves in glibc only")
def test_what_a_large_request_took_is_given_back(folder: Path, trust: Trust) -> None:
    data = bytes(4 << 20)
    with running(folder, trust) as (process, url):
        before = heap_bytes(process.pid)
        with StoreClient(url, secret(folder, "submit")) as client:
            for _ in range(3):
                client.put_blob("production", data)
        after = heap_bytes(process.pid)
    assert after - before < len(data) // 2


def heap_bytes(process: int) -> int:
    """How far a process's heap reaches, in use or not."""
    lines = Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines()
    start, end = next(line for line in lines if line.endswith("[heap]")).split()[0].split("-")
    return int(end, 16) - int(start, 16)


def test_a_unix_socket_serves_its_owner(folder: Path, trust: Trust) -> None:
    path = folder / "socket"
    with running(folder, trust, f"unix:{path}") as (_, url):
        assert url == f"unix:{path}"
        assert path.stat().st_mode & 0o077 == 0
        with StoreClient(url, secret(folder, "follow")) as client:
            assert client.follow("production", epoch=1, size=0)["first"] == 0


def opened_writer(folder: Path, trust: Trust, metadata: Path) -> Sequencer:
    """The writer as the service makes it, and its database closed again."""
    opened = Database.open(folder / "store.sqlite3")
    try:
        return _sequencer(opened, trust.keys_directory, metadata, None, lambda *_: None)
    finally:
        opened.close()


def test_newer_trust_metadata_is_appended_at_start_and_once(
    folder: Path, trust: Trust, tmp_path: Path
) -> None:
    metadata = tmp_path / "trust"
    shutil.copytree(trust.trust_directory, metadata)
    assert opened_writer(folder, trust, metadata).position("production").log.frontier.size == 1
    grants = authoring.first_delegations(trust.environments, [trust.keys["author"].public], 1)
    newer = authoring.new_targets(version=2, expires=NEVER, delegations=grants)
    signed = authoring.signed(newer, [trust.signers["targets"]])
    (metadata / "targets.json").write_bytes(signed)
    for _ in range(2):
        position = opened_writer(folder, trust, metadata).position("production")
        assert (position.log.frontier.size, position.policy.targets_version) == (2, 2)


def test_tokens_are_made_listed_and_revoked(folder: Path) -> None:
    database = folder / "store.sqlite3"
    made = run(token, "new", "ci", "-e", "production", "--may", "submit", "--database", database)
    assert made.output.startswith("cpt_")
    listed = json.loads(run(token, "list", "--json", "--database", database).output)
    assert ("ci", "submit", None) in {
        (row["name"], row["may"], row["revoked_at"]) for row in listed["tokens"]
    }
    assert made.output.strip() not in json.dumps(listed)
    run(token, "revoke", "ci", "--database", database)
    again = run(token, "revoke", "ci", "--database", database)
    assert isinstance(again.exception, ControlPlaneError)
    events = [json.loads(line) for line in (folder / "audit.jsonl").read_bytes().splitlines()]
    assert [event["event"] for event in events[-2:]] == ["token-new", "token-revoked"]


@pytest.mark.parametrize("place", ["127.0.0.1:7840", "[::1]:0", "localhost:1", "unix:/run/s"])
def test_local_places_need_no_tls(place: str) -> None:
    check_reach(Listen.parse(place), tls=False, behind_proxy=False)


def test_beyond_loopback_the_store_wants_tls_or_a_proxy() -> None:
    everywhere = Listen.parse("0.0.0.0:7840")
    with pytest.raises(Refused, match="--behind-proxy"):
        check_reach(everywhere, tls=False, behind_proxy=False)
    check_reach(everywhere, tls=True, behind_proxy=False)
    check_reach(everywhere, tls=False, behind_proxy=True)


@pytest.mark.parametrize(
    "place", ["7840", "host:", ":1", "host:65536", "unix:", "host:-1", "host:" + "9" * 5000]
)
def test_a_place_of_another_form_is_refused(place: str) -> None:
    with pytest.raises(InputInvalid, match="--listen"):
        Listen.parse(place)


def test_a_certificate_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(InputInvalid, match="expected a certificate"):
        tls_context(folder / "trust.json", folder / "trust.json")


def test_a_store_with_a_certificate_speaks_tls(folder: Path, trust: Trust) -> None:
    certificate, key = self_signed(folder)
    with running(
        folder, trust, "127.0.0.1:0", "--tls-certificate", certificate, "--tls-key", key
    ) as (_, url):
        assert url.startswith("https://127.0.0.1:")
        with StoreClient(url, secret(folder, "follow"), certificates=certificate) as client:
            assert client.follow("production", epoch=1, size=0)["first"] == 0


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(pem)
    return folder / "tls.crt", folder / "tls.key"


def test_a_taken_port_is_named(folder: Path, trust: Trust, tmp_path: Path) -> None:
    with running(folder, trust) as (_, url):
        place = url.removeprefix("http://")
        (tmp_path / "other").mkdir()
        other = tmp_path / "other" / "store.sqlite3"
        run(
            store, "init", "--database", other,
            "--trust", trust.trust_directory, "--keys", trust.keys_directory,
        )  # fmt: skip
        result = run(store, "--database", other, "--keys", trust.keys_directory, "--listen", place)
    assert isinstance(result.exception, Refused)
    assert "expected a free port, found address already in use" in str(result.exception)
