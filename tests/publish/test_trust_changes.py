"""The next root and targets, what rests on a key, and the folder that holds the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.errors import (
    EpochDiverged,
    Forked,
    InputInvalid,
    NotFound,
    Refused,
    RolledBack,
    SignatureInvalid,
    ThresholdNotReached,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.fold import Head
from control_plane.log.statements import Change, Key
from control_plane.publish.client import StoreClient
from control_plane.publish.durable import write_new
from control_plane.publish.keyfiles import KeySigner, Trust, create_trust
from control_plane.publish.sign import signed
from control_plane.publish.trust_changes import (
    Resting,
    RoleChange,
    approved_again,
    author_of,
    check_approvers,
    check_reachable,
    check_signers,
    deleted,
    next_root,
    next_targets,
    planned,
    resting,
    role_of,
    targets_without,
)
from control_plane.publish.trustfolder import TrustFolder, write_trust
from control_plane.trust import authoring
from control_plane.trust.keys import key_id_of, raw_of
from control_plane.trust.state import Policy, adopt

LATER = datetime(2040, 1, 1, tzinfo=UTC)
NOW_MS = 1_800_000_000_000


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    """Two of alice, bob and carol sign changes in production; any of them kills and writes."""
    return create_trust(
        tmp_path / "trust", installation="acme", environments=["production"],
        authors=["alice", "bob", "carol"], threshold=2,
    )  # fmt: skip


def id_of(trust: Trust, name: str) -> str:
    return trust.keys[name].key_id


def new_public() -> tuple[KeySigner, bytes]:
    private = Ed25519PrivateKey.generate()
    return KeySigner(private), raw_of(private.public_key())


def adopted(trust: Trust, *, root: Any = None, targets: Any = None) -> Policy:
    """The policy after metadata signed by the installation's first keys."""
    roots = [] if root is None else [authoring.signed(root, [trust.signers["root"]])]
    data = trust.targets
    if targets is not None:
        data = authoring.signed(targets, [trust.signers["targets"]])
    return adopt(trust.policy, roots, data, at_ms=NOW_MS)


# The next metadata


def test_the_next_root_is_the_same_but_for_version_expiry_and_one_role(trust: Trust) -> None:
    signer, public = new_public()
    change = RoleChange("root", (public,), frozenset([id_of(trust, "root")]))
    metadata = next_root(trust.policy, expires=LATER, change=change)
    data = authoring.signed(metadata, [trust.signers["root"], signer])
    policy = adopt(trust.policy, [data], trust.targets, at_ms=NOW_MS)
    assert (policy.root_version, policy.root_key_ids) == (2, (signer.public_key.keyid,))
    assert policy.targets_key_ids == trust.policy.targets_key_ids
    assert policy.log("production") == trust.policy.log("production")
    assert policy.expired_at(int(LATER.timestamp() * 1000)) is True
    assert json.loads(data)["signed"]["expires"] == "2040-01-01T00:00:00Z"


def test_the_next_root_takes_the_old_threshold_and_the_new(trust: Trust) -> None:
    signer, public = new_public()
    change = RoleChange("root", (public,), frozenset([id_of(trust, "root")]))
    for signers in ([trust.signers["root"]], [signer]):
        data = authoring.signed(next_root(trust.policy, expires=LATER, change=change), signers)
        with pytest.raises(SignatureInvalid, match="by root version"):
            adopt(trust.policy, [data], trust.targets, at_ms=NOW_MS)


def test_fields_that_other_tools_wrote_into_the_root_stay(trust: Trust) -> None:
    metadata = next_root(trust.policy, expires=LATER)
    metadata.signed.unrecognized_fields["x-tool"] = {"by": "somebody"}
    policy = adopted(trust, root=metadata)
    assert next_root(policy, expires=LATER).signed.unrecognized_fields["x-tool"] == {
        "by": "somebody"
    }


def test_a_log_of_another_epoch_takes_the_place_of_its_own_only(trust: Trust) -> None:
    before = trust.policy.log("production")
    continues: Any = {"epoch": 1, "size": 3, "root": "ab" * 32, "generation": 99}
    log = authoring.new_log("acme", "production", before.public, epoch=2, continues=continues)
    policy = adopted(trust, root=next_root(trust.policy, expires=LATER, logs=[log]))
    assert policy.log("production").origin == "acme/production/2"
    assert policy.log("production").continues == continues


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (RoleChange("root", remove=frozenset(["ab" * 32])), NotFound, "one of its keys to remove"),
        (RoleChange("root", threshold=2), InputInvalid, "threshold of 1 to 1, .* found 2; add"),
    ],
)
def test_a_role_that_could_not_sign_is_refused(
    trust: Trust, change: RoleChange, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        next_root(trust.policy, expires=LATER, change=change)


def test_a_role_that_would_lose_its_last_key_or_hold_one_twice_is_refused(trust: Trust) -> None:
    only = RoleChange("targets", remove=frozenset([id_of(trust, "targets")]))
    with pytest.raises(InputInvalid, match="threshold of 1 to 0"):
        next_root(trust.policy, expires=LATER, change=only)
    twice = RoleChange("root", add=(trust.keys["root"].public,))
    with pytest.raises(InputInvalid, match="a key that is not in it"):
        next_root(trust.policy, expires=LATER, change=twice)


def test_renewed_targets_are_the_same_but_for_version_and_expiry(trust: Trust) -> None:
    policy = adopted(trust, targets=next_targets(trust.policy, expires=LATER))
    assert policy.targets_version == 2
    assert policy.delegations == trust.policy.delegations
    assert role_of(policy, "targets") == (trust.policy.targets_key_ids, 1)


def test_a_revoked_key_is_in_no_delegation_and_all_else_stays(trust: Trust) -> None:
    carol = id_of(trust, "carol")
    policy = adopted(trust, targets=targets_without(trust.policy, carol, expires=LATER))
    assert carol not in set(policy.keys())
    for before, after in zip(trust.policy.delegations, policy.delegations, strict=True):
        assert after.key_ids == before.key_ids - {carol}
        assert (after.name, after.threshold, after.patterns) == (
            before.name, before.threshold, before.patterns,
        )  # fmt: skip


def test_a_key_takes_the_places_of_the_revoked_one(trust: Trust) -> None:
    signer, public = new_public()
    targets = targets_without(trust.policy, id_of(trust, "carol"), expires=LATER, instead=public)
    assert planned(trust.policy, targets).delegations == (
        adopted(trust, targets=targets).delegations
    )
    for delegation in adopted(trust, targets=targets).delegations:
        assert signer.public_key.keyid in delegation.key_ids


def test_a_threshold_out_of_reach_is_refused_with_its_cure(trust: Trust) -> None:
    carol, bob = id_of(trust, "carol"), id_of(trust, "bob")
    policy = adopted(trust, targets=targets_without(trust.policy, carol, expires=LATER))
    with pytest.raises(Refused) as refused:
        check_reachable(policy, bob, targets_without(policy, bob, expires=LATER))
    assert str(refused.value) == (
        f"production/*/*: expected 2 keys that may sign it without {bob[:12]}, found 1;"
        " name a key that takes its place with --replace-with NAME"
    )
    # Somebody who may sign already is no second person.
    alice = targets_without(policy, bob, expires=LATER, instead=trust.keys["alice"].public)
    with pytest.raises(Refused, match="expected 2 keys"):
        check_reachable(policy, bob, alice)
    another = targets_without(policy, bob, expires=LATER, instead=new_public()[1])
    check_reachable(policy, bob, another)


def test_too_few_signers_are_one_line_that_says_how_many(trust: Trust) -> None:
    ids = [id_of(trust, name) for name in ("alice", "bob")]
    check_signers("root version 1", ids, 2, set(ids))
    with pytest.raises(ThresholdNotReached, match=r"2 of .*, found 1; .* --key FILE") as found:
        check_signers("root version 1", ids, 2, {ids[0], "another"})
    assert (found.value.threshold, found.value.found) == (2, 1)
    assert "\n" not in str(found.value)


# What rests on a key


def put(name: str, kind: str = "flag", **fields: Any) -> Change:
    values: dict[str, Any] = {"digest": "ab" * 32} | fields
    return Change(action="put", kind=kind, name=name, replaces=None, **values)


def head(*key_ids: str, verb: str = "apply", generation: int = 2) -> Head:
    return Head(generation, "ab" * 32, "", verb, tuple(sorted(key_ids)))


def found_on(
    trust: Trust,
    name: str,
    log: Sequence[tuple[Change, Head]],
    document: Callable[[Change], Any] = lambda change: {},
) -> list[Resting]:
    after = planned(trust.policy, targets_without(trust.policy, id_of(trust, name), expires=LATER))
    changes = {change.key: change for change, _ in log}
    heads = {change.key: each for change, each in log}
    return resting(id_of(trust, name), after, "production", changes, heads, document)


def test_a_record_rests_on_a_key_without_which_its_signatures_do_not_suffice(
    trust: Trust,
) -> None:
    alice, bob, carol = (id_of(trust, name) for name in ("alice", "bob", "carol"))
    two, three = put("two"), put("three")
    kill = Change(action="put", kind="kill", name="two", replaces=None, value={"variant": None})
    log = [
        (two, head(bob, carol)),
        (three, head(alice, bob, carol)),
        (put("others"), head(alice, bob)),
        (kill, head(alice, carol)),
    ]
    assert [each.change for each in found_on(trust, "carol", log)] == [two]
    assert found_on(trust, "carol", log)[0].why == "let in"


def test_signatures_of_keys_revoked_before_do_not_suffice_either(trust: Trust) -> None:
    alice, carol = id_of(trust, "alice"), id_of(trust, "carol")
    log = [(put("x"), head(alice, carol, "cd" * 32))]
    assert len(found_on(trust, "carol", log)) == 1


def test_an_agent_rests_on_its_author_whoever_let_it_in(trust: Trust) -> None:
    document = signed(
        {"kind": "agent", "name": "a", "version": "1.0.0", "metadata": {}}, trust.signers["carol"]
    )
    alice, bob = id_of(trust, "alice"), id_of(trust, "bob")
    log = [(put("a", "agent", version="1.0.0"), head(alice, bob))]
    (found,) = found_on(trust, "carol", log, lambda change: document)
    assert (found.document, found.why) == (document, "signed as its author")
    assert found_on(trust, "bob", log, lambda change: document)[0].document is None


def test_a_status_of_a_version_that_is_gone_says_nothing_and_rests_on_nobody(
    trust: Trust,
) -> None:
    status = Change(
        action="status", kind="tool", name="t", replaces=None, version="1.0.0", status="yanked"
    )
    carol = id_of(trust, "carol")
    assert found_on(trust, "carol", [(status, head(carol))]) == []
    tool = put("t", "tool", version="1.0.0")
    alice, bob = id_of(trust, "alice"), id_of(trust, "bob")
    found = found_on(trust, "carol", [(status, head(carol)), (tool, head(alice, bob))])
    assert [each.change for each in found] == [status]


# Approving again, deleting


def test_approving_again_keeps_the_verb_each_record_had() -> None:
    off, applied = put("off"), put("applied")
    records = [Resting(off, head(verb="flag off")), Resting(applied, head())]
    proposals = approved_again("production", records, "why", lambda document: document)
    assert [(each.verb, list(each.changes)) for each in proposals] == [
        ("flag off", [off.key]), ("apply", [applied.key]),
    ]  # fmt: skip
    assert all(set(each.changes) == each.rewritten for each in proposals)


def test_an_agent_gets_another_signature_over_the_same_content(trust: Trust) -> None:
    document = signed(
        {"kind": "tool", "name": "t", "version": "1.0.0", "metadata": {}}, trust.signers["carol"]
    )
    change = put("t", "tool", version="1.0.0", checksum=document["checksum_sha256"])
    (proposal,) = approved_again(
        "production", [Resting(change, head(), document)], "why",
        lambda old: signed(old, trust.signers["alice"]),
    )  # fmt: skip
    made = proposal.changes[change.key]
    assert made.checksum == change.checksum
    again = json.loads(proposal.blobs[str(made.digest)])
    assert again["signature"].split(":")[1] == id_of(trust, "alice")
    assert {**again, "signature": ""} == {**document, "signature": ""}


def test_what_is_deleted_leaves_nothing_that_points_to_it() -> None:
    tool = put("t", "tool", version="1.0.0")
    channel = Change(
        action="activate", kind="tool", name="t", replaces=None, version="1.0.0", channel="stable"
    )
    other = replace(channel, channel="next", version="2.0.0")
    status = Change(
        action="status", kind="tool", name="t", replaces=None, version="1.0.0", status="yanked"
    )
    segment, shard = put("s", "segment"), put("s", "segment", shard="0001")
    changes = {each.key: each for each in (tool, channel, other, status, segment, shard)}
    records = [Resting(tool, head()), Resting(segment, head()), Resting(status, head())]
    (proposal,) = deleted("production", records, changes, "why")
    assert {str(key): change.action for key, change in proposal.changes.items()} == {
        "tool/t c/stable": "delete", "tool/t v/1.0.0": "delete", "segment/s": "delete",
        "segment/s s/0001": "delete",
    }  # fmt: skip
    assert next(map(str, proposal.changes)) == "tool/t c/stable"


def test_a_part_that_alone_rests_on_the_key_leaves_a_whole_record() -> None:
    tool = put("t", "tool", version="1.0.0")
    status = Change(
        action="status", kind="tool", name="t", replaces=None, version="1.0.0", status="yanked",
        reason="bad",
    )  # fmt: skip
    segment, shard = put("s", "segment"), put("s", "segment", shard="0001")
    changes = {each.key: each for each in (tool, status, segment, shard)}
    records = [Resting(status, head()), Resting(shard, head())]
    (proposal,) = deleted("production", records, changes, "why")
    made = proposal.changes
    assert set(made) == {status.key, shard.key}
    assert (made[status.key].status, made[status.key].reason) == ("active", None)
    assert proposal.blobs[str(made[shard.key].digest)] == b"[]"
    assert deleted("production", [], changes, "why") == []


def test_approvers_are_counted_for_every_name(trust: Trust) -> None:
    alice, bob = id_of(trust, "alice"), id_of(trust, "bob")
    paths = ["production/flag/x", "production/kill/x"]
    check_approvers(trust.policy, "production", paths, {alice, bob})
    check_approvers(trust.policy, "production", paths[1:], {alice})
    with pytest.raises(ThresholdNotReached, match="production/flag/x: expected keys"):
        check_approvers(trust.policy, "production", paths, {alice})
    assert author_of(trust.policy, "tool", "t", ["another", bob]) == bob
    with pytest.raises(ThresholdNotReached, match="author/tool/t"):
        author_of(trust.policy, "tool", "t", ["another"])


# The folder


def next_of(trust: Trust) -> bytes:
    return authoring.signed(next_root(trust.policy, expires=LATER), [trust.signers["root"]])


def test_a_folder_gets_what_it_lacks_and_the_rest_again_without_harm(trust: Trust) -> None:
    folder, root = trust.trust_directory, next_of(trust)
    targets = authoring.signed(
        next_targets(trust.policy, expires=LATER), [trust.signers["targets"]]
    )
    for _ in range(2):
        write_trust(folder, {1: trust.root, 2: root}, targets)
    read = TrustFolder.read(folder)
    assert (read.versions(), read.targets) == ({1: trust.root, 2: root}, targets)
    assert sorted(path.name for path in folder.iterdir()) == [
        "1.root.json", "2.root.json", "targets.json",
    ]  # fmt: skip


def test_a_folder_never_takes_another_root_of_a_version_it_has(trust: Trust) -> None:
    other = authoring.signed(
        next_root(trust.policy, expires=datetime(2041, 1, 1, tzinfo=UTC)), [trust.signers["root"]]
    )
    folder = trust.trust_directory
    write_trust(folder, {2: next_of(trust)}, trust.targets)
    with pytest.raises(Forked, match=r"2\.root\.json: expected root version 2 as it is here"):
        write_trust(folder, {2: other}, trust.targets)
    assert TrustFolder.read(folder).roots[1] == next_of(trust)


def test_a_folder_never_takes_older_or_other_targets_of_its_version(trust: Trust) -> None:
    folder = trust.trust_directory
    newer = authoring.signed(next_targets(trust.policy, expires=LATER), [trust.signers["targets"]])
    write_trust(folder, {}, newer)
    with pytest.raises(RolledBack, match="expected targets after version 2, found 1"):
        write_trust(folder, {}, trust.targets)
    other = next_targets(trust.policy, expires=datetime(2041, 1, 1, tzinfo=UTC))
    with pytest.raises(Forked, match="expected targets version 2 as it is here"):
        write_trust(folder, {}, authoring.signed(other, [trust.signers["targets"]]))
    assert TrustFolder.read(folder).targets == newer


def test_a_crash_between_the_roots_leaves_a_chain_without_a_gap(
    trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = adopted(trust, root=next_root(trust.policy, expires=LATER))
    third = authoring.signed(next_root(second, expires=LATER), [trust.signers["root"]])
    written: list[str] = []

    def dying(path: Path, data: bytes, mode: int) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write_new(path, data, mode)

    monkeypatch.setattr("control_plane.publish.trustfolder.write_new", dying)
    with pytest.raises(KeyboardInterrupt):
        write_trust(trust.trust_directory, {3: third, 2: second.root_bytes}, trust.targets)
    assert written == ["2.root.json"]
    monkeypatch.undo()
    write_trust(trust.trust_directory, {3: third, 2: second.root_bytes}, trust.targets)
    assert set(TrustFolder.read(trust.trust_directory).versions()) == {1, 2, 3}


# Handing it in


def test_metadata_is_handed_in_after_its_bytes(answering: Callable[..., Any]) -> None:
    server = answering(
        (201, {"format": 1}), (201, {"format": 1}),
        (201, {"format": 1, "generation": 7, "index": 6, "statement": "ab" * 32}),
    )  # fmt: skip
    with StoreClient(server.url) as client:
        taken = client.post_trust("production", [b"{}"], b"[]")
    assert server.asked == [
        f"PUT /v1/production/blob/sha256/{sha256_hex(b'{}')}",
        f"PUT /v1/production/blob/sha256/{sha256_hex(b'[]')}",
        "POST /v1/production/trust",
    ]
    assert (taken.generation, taken.index, taken.identity) == (7, 6, "ab" * 32)
    assert taken.repeated is False


def test_metadata_in_force_already_may_stand_nowhere(answering: Callable[..., Any]) -> None:
    server = answering(
        (201, {}), (200, {"format": 1, "generation": None, "index": None, "statement": None})
    )
    with StoreClient(server.url) as client:
        taken = client.post_trust("production", [], b"[]")
    assert (taken.repeated, taken.generation, taken.identity) == (True, None, "")


def test_a_log_that_grew_meanwhile_is_told_by_its_code(answering: Callable[..., Any]) -> None:
    refusal = {"format": 1, "code": "epoch_diverged", "message": "expected size 4, found 5"}
    server = answering((201, {}), (409, refusal))
    with StoreClient(server.url) as client, pytest.raises(EpochDiverged, match="found 5"):
        client.post_trust("production", [], b"[]")


def test_keys_of_a_role_are_told_with_its_threshold(trust: Trust) -> None:
    assert role_of(trust.policy, "root") == ((key_id_of(trust.keys["root"].public),), 1)
    assert Key("flag", "x") == put("x").key
