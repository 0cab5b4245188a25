"""Every reader of bytes from outside, with valid bytes for it and the errors it may raise.

A target reads some bytes or raises a leaf of ``ControlPlaneError`` whose message is one printable
line; ``form`` says how its bytes are built, so that what they hold can be changed and not only the
bytes. Tests change the seeds here; ``fuzz_bytes.py`` hands the same targets to a fuzzer that looks
for branches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.configs import merged
from control_plane.errors import (
    ControlPlaneError,
    InputInvalid,
    ReplicaInvalid,
    SyntaxInvalid,
    Unavailable,
)
from control_plane.feature_flags.compile import VALUES, VARIANTS
from control_plane.feature_flags.segments import Memberships
from control_plane.feature_flags.table import Library, Table
from control_plane.log.canonical import canonical, parse, parse_canonical, sha256_hex
from control_plane.log.checkpoint import Checkpoint, LogSigner, cosigned_message, open_checkpoint
from control_plane.log.envelope import PAYLOAD_TYPE, STATEMENTS, Envelope
from control_plane.log.fold import Head
from control_plane.log.leaf import Leaf
from control_plane.log.merkle import Frontier, leaf_hash
from control_plane.log.note import Note, NoteSignature, VerifierKey
from control_plane.log.statements import (
    Change,
    ChangesBlob,
    Continuation,
    EpochStatement,
    Key,
    SnapshotStatement,
    TrustStatement,
    change_set,
    decode_change_list,
    encode_change_list,
    parse_statement,
)
from control_plane.log.tiles import decode_entries, encode_entries, parse_tile_path, tile_path
from control_plane.manifests.documents import blob
from control_plane.manifests.loader import load_file, load_json, load_yaml, locate
from control_plane.manifests.validation import validate_blob
from control_plane.names import MANIFEST_KINDS, is_name
from control_plane.publish.changefile import SignedChange
from control_plane.publish.keyfiles import create_trust, load_private_key, load_public
from control_plane.registries import registry_manager
from control_plane.replica import format, header
from control_plane.replica.compile import (
    flag_body,
    leaf_body,
    segment_body,
    shard_body,
)
from control_plane.replica.held import HeldEntry
from control_plane.replica.resolution import Offered, resolve
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.metadata import read_root, read_targets
from control_plane.trust.state import restore
from control_plane_daemon import source
from control_plane_store.admission import read_change_set
from control_plane_store.epochs import read_named

ORIGIN = "hello/production/1"
DIGEST = sha256_hex(b"")


@dataclass(frozen=True)
class Target:
    """One reader. ``form`` is ``bytes``, ``json`` or ``msgpack``.

    A refusal is one of ``errors``, in one line; what it quotes is escaped where it is printed.
    """

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    form: str = "bytes"
    errors: tuple[type[ControlPlaneError], ...] = (InputInvalid,)

    def check(self, data: bytes) -> None:
        """Read the bytes; whatever is no refusal in form comes out."""
        try:
            self.read(data)
        except self.errors as error:
            if type(error) is ControlPlaneError or len(str(error).splitlines()) != 1:
                raise ValueError(f"expected one line of a leaf, found {error!r}") from error


MANIFESTS = Path(__file__).parents[2] / "manifests"
FLAG = load_file(MANIFESTS / "flags" / "tenant_pilot_order_refunds.yaml").value
DOCUMENTS = [
    load_file(path).value
    for path in sorted(MANIFESTS.rglob("*.yaml"))
    if path.parent.name in ("flags", "agents", "tools", "configs", "segments")
]
SEGMENT: dict[str, Any] = {"kind": "segment", "name": "s", "metadata": {"members": ["a", "b"]}}
CHANGES = (
    Change(action="put", kind="flag", name="a", replaces=None, digest=DIGEST, scope="x"),
    Change(action="put", kind="kill", name="a", replaces=4, value={"variant": "on"}),
    Change(action="put", kind="tool", name="t", replaces=None, digest=DIGEST, checksum=DIGEST,
           version="1.0.0"),
    Change(action="activate", kind="agent", name="a", replaces=1, channel="c", version="1.0.0"),
    Change(action="status", kind="tool", name="t", replaces=2, version="1.0.0", status="yanked",
           reason="bad", successor="1.0.1"),
    Change(action="delete", kind="segment", name="s", replaces=3, shard="000a"),
    Change(action="melt", kind="flag", name="b", replaces=3, unknown={"part": "p", "heat": 3}),
)  # fmt: skip


def all_targets(folder: Path) -> dict[str, Target]:
    """The targets by name; key files and header pages are written below ``folder``."""
    return {
        **_texts(),
        **_log_targets(),
        **_trust_targets(folder),
        **_document_targets(),
        **_replica_targets(folder),
        **_flag_targets(),
        **_answers(),
    }


def _texts() -> dict[str, Target]:
    texts = [json.dumps(document).encode() for document in DOCUMENTS]
    yaml = b"a: 1\nb:\n  - x\n  - 'y'\n  - \"z\\n\"\nc: |\n  text\nd: {e: [null, true, -1e3]}\n"
    return {
        "yaml": Target(lambda data: load_yaml(data, what="x"), [yaml, *texts]),
        "place": Target(lambda data: locate(data, ("d", "e", 1)), [yaml, *texts]),
        "json": Target(lambda data: load_json(data, what="x"), texts, "json"),
        "strict": Target(lambda data: parse(data, what="x"), texts, "json"),
        "canonical": Target(lambda data: parse_canonical(data, what="x"),
                            [canonical(each) for each in DOCUMENTS], "json"),
    }  # fmt: skip


def _log_targets() -> dict[str, Target]:
    signer = LogSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"l" * 32))
    statement, _ = change_set(
        ORIGIN, CHANGES[:-1], created_at=1, not_after=2, reason="why", verb="apply"
    )
    state = SnapshotStatement(origin=ORIGIN, generation=3, count=2, root=DIGEST, policy=DIGEST)
    before = Continuation(epoch=1, size=3, root=DIGEST, generation=3)
    payloads = {
        "change-set": statement.payload(),
        "trust": TrustStatement(origin=ORIGIN, root=(DIGEST,), targets=DIGEST).payload(),
        "snapshot": state.payload(),
        "epoch": EpochStatement(origin=ORIGIN, continues=before, state=state).payload(),
    }
    envelope = signer.sign_envelope(statement.envelope())
    leaf = Leaf(1_760_000_000_000, envelope).encode()
    note = signer.sign_checkpoint(Checkpoint(ORIGIN, 3, bytes(32)), 1_760_000_000)
    witnessed, witnesses = _witnessed(note)
    change = SignedChange("production", envelope, {}).to_json()
    lines = encode_change_list(CHANGES)
    frontier = Frontier().extended([leaf_hash(bytes([each])) for each in range(7)])
    head = Head(3, DIGEST, DIGEST, "apply", (DIGEST,))

    def say(name: str) -> Callable[[bytes], object]:
        return lambda data: parse_statement(Envelope(PAYLOAD_TYPE[name], data))

    return {
        **{f"statement {name}": Target(say(name), [payloads[name]], "json") for name in STATEMENTS},
        "envelope": Target(Envelope.decode, [envelope.encode()], "json"),
        "submission": Target(read_change_set, [envelope.encode()], "json"),
        "trust offer": Target(
            read_named,
            [canonical({"format": 1, "root": [DIGEST, "0" * 64], "targets": DIGEST})], "json"),
        "leaf": Target(Leaf.decode, [leaf], "json"),
        "change file": Target(lambda data: SignedChange.decode(data, what="x"),
                              [canonical(change)], "json", (ControlPlaneError,)),
        "change list": Target(
            lambda data: decode_change_list(data, ChangesBlob(DIGEST, data.count(b"\n"))), [lines]),
        "note": Target(Note.parse, [note]),
        "checkpoint": Target(lambda data: open_checkpoint(data, signer.vkeys), [note],
                             errors=(ControlPlaneError,)),
        "witnessed checkpoint": Target(
            lambda data: open_checkpoint(data, signer.vkeys, witnesses=witnesses), [witnessed],
            errors=(ControlPlaneError,)),
        "checkpoint text": Target(lambda data: Checkpoint.parse_text(_text(data)),
                                  [Note.parse(note).text.encode()]),
        "vkey": Target(lambda data: VerifierKey.parse(_text(data)),
                       [vkey.encode() for vkey in signer.vkeys]),
        "tile path": Target(lambda data: parse_tile_path(_text(data)),
                            [tile_path(0, 1_234_067, 3).encode(), b"tile/entries/x001/000.p/7"]),
        "entry bundle": Target(decode_entries, [encode_entries([leaf, b"", b"x" * 300])]),
        "frontier": Target(Frontier.decode, [frontier.encode()]),
        "head": Target(Head.decode, [head.encode()], "msgpack"),
    }  # fmt: skip


def _witnessed(note: bytes) -> tuple[bytes, dict[str, Any]]:
    """The note with a witness's line, and what a root says that asks for one."""
    parsed, key = Note.parse(note), Ed25519PrivateKey.from_private_bytes(b"w" * 32)
    witness = VerifierKey.cosigner("witness.example", key.public_key().public_bytes_raw())
    value = (7).to_bytes(8, "big") + key.sign(cosigned_message(parsed.text, 7))
    line = NoteSignature(witness.name, witness.key_id, value)
    asked: dict[str, Any] = {"vkeys": [witness.encode()], "threshold": 1}
    return Note(parsed.text, (*parsed.signatures, line)).encode(), asked


def _text(data: bytes) -> str:
    """Text as a command line or a header gives it: bytes that are no UTF-8 become surrogates."""
    return data.decode("utf-8", "surrogateescape")


def _trust_targets(folder: Path) -> dict[str, Target]:
    made = create_trust(folder / "trust", environments=("production", "staging"))
    key = made.keys["author"]
    note = LogSigner(ORIGIN, made.log_key("production")).sign_checkpoint(
        Checkpoint(ORIGIN, 1, bytes(32)), 1
    )
    enrolment = Enrolment(made.root, made.targets, {"production": note}).encode()

    def written(path: Path, mode: int, read: Callable[[], object]) -> Callable[[bytes], object]:
        def at(data: bytes) -> object:
            path.write_bytes(data)
            path.chmod(mode)
            return read()

        return at

    private, public = folder / "one.pem", folder / "two.pem"
    return {
        "root": Target(read_root, [made.root], "json"),
        "targets": Target(read_targets, [made.targets], "json"),
        "policy root": Target(lambda data: restore(data, made.targets), [made.root], "json",
                              (ControlPlaneError,)),
        "policy targets": Target(lambda data: restore(made.root, data), [made.targets], "json",
                                 (ControlPlaneError,)),
        "trust.json": Target(Enrolment.decode, [enrolment], "json", (InputInvalid, ReplicaInvalid)),
        "private key": Target(written(private, 0o600, lambda: load_private_key(private)),
                              [key.path.read_bytes()], errors=(ControlPlaneError,)),
        "public key": Target(
            written(public.with_name("two.pem.pub"), 0o644, lambda: load_public(public)),
            [key.public_path.read_bytes()], "json"),
    }  # fmt: skip


def _document_targets() -> dict[str, Target]:
    # The bytes are made canonical before they are judged, or nearly every change would end there.
    def validated(data: bytes) -> dict[str, Any]:
        document = parse(data, what="document")
        said = document if isinstance(document, dict) else {}
        kind, name, version = (said.get(field) for field in ("kind", "name", "version"))
        # A change has passed these before its blob is looked at.
        if kind not in MANIFEST_KINDS or not isinstance(name, str) or not is_name(kind, name):
            raise SyntaxInvalid("document: expected a kind and a name, found others")
        version = version if isinstance(version, str) and version.isprintable() else None
        return validate_blob(kind, name, version, canonical(document), None)

    def compiled(data: bytes) -> object:
        document = validated(data)
        if document["kind"] == "segment":
            return segment_body(document)
        return flag_body(document, {"variant": "on"}, 3)

    def resolved(data: bytes) -> object:
        offered = Offered({"1.0.0": DIGEST, "2.0.0rc1": DIGEST}, {"1.0.0": "yanked"}, "1.0.0")
        return resolve(validated(data), lambda tool: offered)

    by_kind = {
        kind: [blob(each) for each in DOCUMENTS if each["kind"] == kind]
        for kind in ("flag", "segment", "config", "agent", "tool")
    }
    return {
        **{
            f"document {kind}": Target(validated, seeds, "json", (ControlPlaneError,))
            for kind, seeds in by_kind.items()
        },
        "compiled": Target(compiled, [*by_kind["flag"], blob(SEGMENT)], "json",
                           (ControlPlaneError,)),
        "resolved": Target(resolved, by_kind["agent"], "json", (ControlPlaneError,)),
        "shard": Target(shard_body, [canonical(["a", "b"])], "json"),
    }  # fmt: skip


def _replica_targets(folder: Path) -> dict[str, Target]:
    key = format.record_key(format.FLAG, "pilot")
    record = format.encode_record(key, format.FLAG, b"body", head_generation=2, served_generation=2)
    held = HeldEntry(
        3,
        b"leaf",
        (Key("flag", "a"),),
        "why",
        {Key("flag", "a"): DIGEST},
        (DIGEST,),
        DIGEST,
        DIGEST,
    )
    page = folder / "header"
    header.create_header(str(page), {header.REVISION: 3})

    def mapped(data: bytes) -> object:
        page.write_bytes(data)
        return bytes(header.map_header(str(page)))

    corrupt = (ReplicaInvalid,)
    head = format.head_key("agent", "support", "v/1.0.0")
    return {
        "record": Target(lambda data: format.decode_record(key, data), [record], errors=corrupt),
        "head key": Target(format.parse_head_key, [head], errors=corrupt),
        "held entry": Target(lambda data: HeldEntry.decode(b"\0" * 8, data), [held.encode()],
                             "msgpack", corrupt),
        "config record": Target(
            lambda data: merged._decode(*_record(format.CONFIG, data, "", "database.url")),
            [leaf_body("database.url", ("u", "base", False, ()), 3)], "msgpack", corrupt),
        "registry record": Target(
            lambda data: registry_manager._body(*_record(format.CHANNEL, data, "agent", "a", "c")),
            [msgpack.packb({"version": "1.0.0"}), msgpack.packb({"status": "yanked"}),
             msgpack.packb({"crm_tool": {"version": "1.0.0", "problem": None}})],
            "msgpack", corrupt),
        "manifest record": Target(
            lambda data: registry_manager._parsed(
                format.record_key(format.AGENT, "support", "1.0.0"), data),
            [canonical({"name": "a", "metadata": {"tools": ["t"]}})], "json", corrupt),
        "header page": Target(mapped, [page.read_bytes()], errors=(ReplicaInvalid, Unavailable)),
    }  # fmt: skip


def _record(kind: int, body: bytes, *fields: str) -> tuple[bytes, bytes]:
    """A key and a sound record of it around any body: the hash is no signature."""
    key = format.record_key(kind, *fields)
    raw = format.encode_record(key, kind, body, head_generation=2, served_generation=2)
    return key, raw


def _flag_targets() -> dict[str, Target]:
    """Evaluation never raises for a record; a membership that cannot be read does, inside it."""
    word = memoryview(bytes(8)).cast("Q")

    def evaluate(body: bytes) -> object:
        raw = _record(format.FLAG, body, "pilot")[1]
        table = Table(Library(), lambda key: (1, raw), word, 0)
        for load in (Table.load_enabled, Table.load_variant, Table.load_value):
            load(table, "pilot")
        answering = table.flag("pilot")
        for form in (VALUES, VARIANTS):
            answer = answering.bound(form, lambda segment, value: False)
            if callable(answer):
                answer("u1", "acme", {"country": "DE"})
        return answering

    def contains(body: bytes) -> object:
        raw = _record(format.SEGMENT, body, "beta")[1]
        memberships = Memberships(lambda key: (1, raw), Library().segment)
        return memberships.contains("beta", "a", None, None, {"country": "DE"})

    inline = segment_body(SEGMENT)
    return {
        "flag record": Target(
            evaluate, [flag_body(FLAG, None, 3), flag_body(FLAG, {"variant": "on"}, 3)],
            "msgpack", ()),
        "segment record": Target(contains, [inline, msgpack.packb({"members": b""})], "msgpack",
                                 (ReplicaInvalid,)),
    }  # fmt: skip


def _answers() -> dict[str, Target]:
    follow = {
        "format": 1, "epoch": 1, "checkpoint": b"note", "first": 0, "entries": [b"leaf"],
        "blobs": {DIGEST: b""}, "more": True, "proof": [bytes(32)],
    }  # fmt: skip
    moved = canonical({"format": 1, "code": "epoch_moved", "message": "m", "epoch": 2})
    return {
        "follow": Target(lambda data: source._followed(data, "http://store", 1),
                         [msgpack.packb(follow)], "msgpack", (Unavailable,)),
        "moved epoch": Target(lambda data: source._moved(data, "x", "http://store"),
                              [moved], "json", ()),
    }  # fmt: skip
