"""The fold: what moves a head, what never fits twice, and the snapshot's lines."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import SyntaxInvalid
from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.fold import Head, Rejection, fold, snapshot_line, snapshot_root
from control_plane.log.statements import Change, Key

DIGEST, OTHER = "ab" * 32, "cd" * 32
PUT = Change(action="put", kind="flag", name="x", replaces=None, digest=DIGEST)
DELETE = Change(action="delete", kind="flag", name="x", replaces=1)
PUBLISH = Change(
    action="put", kind="tool", name="t", replaces=None, version="1.0.0", digest=DIGEST,
    checksum=OTHER,
)  # fmt: skip
ACTIVATE = Change(
    action="activate", kind="tool", name="t", replaces=None, channel="stable", version="1.0.0"
)


class Log:
    """A fold over single change sets, for tests."""

    def __init__(self) -> None:
        self.heads: dict[Key, Head] = {}
        self.generation = 0

    def add(self, *changes: Change) -> dict[Key, Head]:
        moved = fold(
            changes, self.heads.get, generation=self.generation + 1, verb="apply", key_ids=("k",)
        )
        self.generation += 1
        self.heads.update(moved)
        return moved


def refused(log: Log, *changes: Change) -> Rejection:
    before = dict(log.heads)
    with pytest.raises(Rejection) as rejection:
        log.add(*changes)
    assert log.heads == before
    return rejection.value


def test_a_put_moves_the_head() -> None:
    log = Log()
    assert log.add(PUT) == {Key("flag", "x"): Head(1, DIGEST, "", "apply", ("k",))}


def test_a_stale_replaces_rejects_the_whole_set_and_lists_every_conflict() -> None:
    log = Log()
    log.add(PUT)
    other = replace(PUT, name="y", replaces=5)
    rejection = refused(log, PUT, other, replace(PUT, name="z"))
    assert rejection.code == "conflict"
    assert rejection.conflicts == (
        {"key": "flag/x", "expected": None, "found": 1},
        {"key": "flag/y", "expected": 5, "found": None},
    )


def test_no_change_fits_twice_not_even_after_a_delete_or_a_revert() -> None:
    log = Log()
    log.add(PUT)
    refused(log, PUT)
    log.add(replace(PUT, replaces=1, digest=OTHER))
    log.add(replace(PUT, replaces=2))
    refused(log, replace(PUT, replaces=1, digest=OTHER))
    log.add(replace(DELETE, replaces=3))
    assert refused(log, PUT).conflicts[0]["found"] == 4
    assert refused(log, replace(DELETE, replaces=3)).code == "conflict"


def test_a_deletion_leaves_a_tombstone_with_its_generation_and_checksum() -> None:
    log = Log()
    log.add(PUBLISH)
    removed = Change(action="delete", kind="tool", name="t", replaces=1, version="1.0.0")
    moved = log.add(removed)
    assert moved == {Key("tool", "t", "v/1.0.0"): Head(2, "", OTHER, "apply", ("k",))}


def test_deleting_what_is_not_live_is_rejected() -> None:
    log = Log()
    assert refused(log, replace(DELETE, replaces=None)).code == "not_live"
    log.add(PUT)
    log.add(DELETE)
    assert refused(log, replace(DELETE, replaces=2)).code == "not_live"


def test_a_published_version_keeps_its_checksum_even_after_deletion() -> None:
    log = Log()
    log.add(PUBLISH)
    changed = replace(PUBLISH, replaces=1, checksum=DIGEST)
    assert refused(log, changed).code == "republished"
    log.add(Change(action="delete", kind="tool", name="t", replaces=1, version="1.0.0"))
    assert refused(log, replace(changed, replaces=2)).code == "republished"
    log.add(replace(PUBLISH, replaces=2, digest=OTHER))


def test_an_unknown_action_leaves_a_published_version_sealed() -> None:
    log = Log()
    log.add(PUBLISH)
    unknown = Change(action="archive", kind="tool", name="t", replaces=1, version="1.0.0")
    moved = log.add(unknown)
    assert moved[Key("tool", "t", "v/1.0.0")].checksum == PUBLISH.checksum
    assert refused(log, replace(PUBLISH, replaces=2, checksum=DIGEST)).code == "republished"
    assert refused(log, replace(unknown, replaces=2, checksum=DIGEST)).code == "republished"


@pytest.mark.parametrize(
    "change",
    [
        ACTIVATE,
        Change(
            action="status", kind="tool", name="t", replaces=None, version="1.0.0", status="yanked"
        ),
    ],
)
def test_activation_and_status_need_a_version_live_after_the_set(change: Change) -> None:
    log = Log()
    assert refused(log, change).code == "not_live"
    log.add(PUBLISH, change)
    gone = Change(action="delete", kind="tool", name="t", replaces=1, version="1.0.0")
    refused(log, gone, replace(change, replaces=1))
    log.add(gone)
    refused(log, replace(change, replaces=1))


def test_a_head_without_a_blob_has_the_digest_of_its_change() -> None:
    log = Log()
    kill = Change(action="put", kind="kill", name="x", replaces=None, value={"variant": "off"})
    head = log.add(kill)[Key("kill", "x")]
    assert head.digest == sha256_hex(
        canonical({"action": "put", "kind": "kill", "name": "x", "value": {"variant": "off"}})
    )


def test_an_unknown_change_moves_its_head_too() -> None:
    log = Log()
    unknown = Change(action="put", kind="policy", name="x", replaces=None, unknown={"part": "p"})
    assert list(log.add(unknown)) == [Key("policy", "x", "p")]


def test_snapshot_lines_and_root_are_these_bytes() -> None:
    live = snapshot_line(Key("flag", "x"), Head(3, DIGEST))
    dead = snapshot_line(Key("tool", "t", "v/1.0.0"), Head(4, "", OTHER))
    assert live == b"flag\0x\0\x003\0" + DIGEST.encode() + b"\0\n"
    assert dead == b"tool\0t\0v/1.0.0\x004\0\0" + OTHER.encode() + b"\n"
    count, root = snapshot_root([dead, live])
    assert (count, root) == snapshot_root([live, dead])
    assert (count, root) == (2, GOLDEN_ROOT)
    assert snapshot_root([]) == (0, sha256_hex(b""))


@given(
    st.integers(0, 2**53),
    st.sampled_from(["", DIGEST]),
    st.sampled_from(["", OTHER]),
    st.text(max_size=10),
    st.lists(st.text(max_size=5)),
)
def test_heads_read_back(
    generation: int, digest: str, checksum: str, verb: str, key_ids: list[str]
) -> None:
    head = Head(generation, digest, checksum, verb, tuple(key_ids))
    assert Head.decode(head.encode()) == head


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x01", b"\x95\x01"])
def test_a_head_out_of_form_is_refused(data: bytes) -> None:
    with pytest.raises(SyntaxInvalid):
        Head.decode(data)


@pytest.mark.parametrize(
    "fields",
    [
        ["1", DIGEST, "", "apply", []],
        [True, DIGEST, "", "apply", []],
        [-1, DIGEST, "", "apply", []],
        [1.0, DIGEST, "", "apply", []],
        [1, None, "", "apply", []],
        [1, b"ab", "", "apply", []],
        [1, DIGEST, 0, "apply", []],
        [1, DIGEST, "", ["apply"], []],
        [1, DIGEST, "", "apply", "keys"],
        [1, DIGEST, "", "apply", {"k": 1}],
        [1, DIGEST, "", "apply", ["k", 2]],
        [1, DIGEST, "", "apply", [], 1],
    ],
)
def test_a_head_with_fields_of_other_types_is_refused(fields: list[object]) -> None:
    with pytest.raises(SyntaxInvalid, match="head: expected five packed fields"):
        Head.decode(msgpack.packb(fields))


GOLDEN_ROOT = "30fad86ca98011f4e3fe68fe26fe9075d5b23f09df00d4ba487a014d5af342a4"
