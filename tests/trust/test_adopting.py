"""Which metadata may follow which."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.errors import (
    NotFound,
    RolledBack,
    SignatureInvalid,
    SyntaxInvalid,
    TrustExpired,
)
from control_plane.log.canonical import sha256_hex
from control_plane.log.note import VerifierKey
from control_plane.trust import authoring
from control_plane.trust.state import adopt, restore

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def test_the_first_policy_vouches_for_itself_from_any_root_version(forge: Any) -> None:
    root, targets = forge.root(7), forge.targets(3)
    policy = adopt(None, [root], targets, at_ms=forge.before_expiry_ms)
    assert (policy.root_version, policy.targets_version) == (7, 3)
    assert (policy.root_bytes, policy.targets_bytes) == (root, targets)
    joined = bytes.fromhex(sha256_hex(root) + sha256_hex(targets))
    assert policy.digest == sha256_hex(joined)
    assert policy.log("production").origin == "hello/production/1"
    assert policy.log("production").key_id == forge.key_id("log")
    with pytest.raises(NotFound, match=r"staging: expected one of production"):
        policy.log("staging")


def test_a_first_policy_needs_a_root(forge: Any) -> None:
    with pytest.raises(SyntaxInvalid, match="expected a root to begin with"):
        adopt(None, [], forge.targets(), at_ms=0)


def test_a_root_signed_by_old_and_new_keys_follows(forge: Any) -> None:
    policy = forge.policy()
    second = forge.root(2, keys=("new",), signers=("new", "root"))
    third = forge.root(3, keys=("newer",), signers=("newer", "new"))
    after = adopt(policy, [second, third], policy.targets_bytes, at_ms=forge.before_expiry_ms)
    assert (after.root_version, after.root_key_ids) == (3, (forge.key_id("newer"),))
    assert policy.root_version == 1


@pytest.mark.parametrize(("signer", "missing"), [("new", 1), ("root", 2)])
def test_a_root_signed_by_one_side_only_is_refused(forge: Any, signer: str, missing: int) -> None:
    policy = forge.policy()
    second = forge.root(2, keys=("new",), signers=(signer,))
    with pytest.raises(SignatureInvalid, match=rf"by root version {missing}: .* found 0"):
        adopt(policy, [second], policy.targets_bytes, at_ms=forge.before_expiry_ms)


def test_a_threshold_of_two_needs_two_root_keys(forge: Any) -> None:
    keys = ("root", "second")
    held = forge.root(1, keys=keys, threshold=2)
    policy = adopt(None, [held], forge.targets(), at_ms=forge.before_expiry_ms)
    one = forge.root(2, keys=keys, threshold=2, signers=("root",))
    both = forge.root(2, keys=keys, threshold=2)
    with pytest.raises(SignatureInvalid, match=r"expected good signatures by 2 keys .* found 1"):
        adopt(policy, [one], policy.targets_bytes, at_ms=forge.before_expiry_ms)
    assert adopt(policy, [both], policy.targets_bytes, at_ms=0).root_version == 2


def test_a_forged_root_is_refused(forge: Any) -> None:
    def raise_threshold(signed: dict[str, Any]) -> None:
        signed["roles"]["targets"]["keyids"] = signed["roles"]["root"]["keyids"]

    forged = forge.resigned(forge.root(2), ("mallory",), raise_threshold)
    policy = forge.policy()
    with pytest.raises(SignatureInvalid, match="root version 2: by root version 1"):
        adopt(policy, [forged], policy.targets_bytes, at_ms=0)
    changed = forge.root(1).replace(b'"version":1', b'"version":2')
    with pytest.raises(SignatureInvalid, match="found 0"):
        adopt(None, [changed], policy.targets_bytes, at_ms=0)


def test_a_skipped_root_version_is_refused(forge: Any) -> None:
    policy = forge.policy()
    with pytest.raises(SyntaxInvalid, match="expected version 2, found 3; give each version"):
        adopt(policy, [forge.root(3)], policy.targets_bytes, at_ms=0)
    with pytest.raises(SyntaxInvalid, match="expected version 3, found 4"):
        adopt(policy, [forge.root(2), forge.root(4)], policy.targets_bytes, at_ms=0)


def test_an_older_or_the_same_root_is_refused(forge: Any) -> None:
    policy = restore(forge.root(2), forge.targets())
    for version in (1, 2):
        with pytest.raises(RolledBack, match=f"root: expected version 3, found {version}"):
            adopt(policy, [forge.root(version)], policy.targets_bytes, at_ms=0)


def test_new_targets_need_no_new_root(forge: Any) -> None:
    policy = forge.policy()
    after = adopt(policy, [], forge.targets(2), at_ms=forge.before_expiry_ms)
    assert (after.root_digest, after.targets_version) == (policy.root_digest, 2)


def test_the_same_bytes_may_come_again(forge: Any) -> None:
    policy = forge.policy()
    after = adopt(policy, [], policy.targets_bytes, at_ms=forge.before_expiry_ms)
    assert after.digest == policy.digest


def test_older_targets_and_other_targets_of_the_same_version_are_refused(forge: Any) -> None:
    policy = restore(forge.root(), forge.targets(2))
    with pytest.raises(RolledBack, match="expected a version after 2, found 1"):
        adopt(policy, [], forge.targets(1), at_ms=0)
    other = forge.targets(2, grants=[forge.grant("production/*/*", ("mallory",))])
    with pytest.raises(RolledBack, match="found 2 with other content"):
        adopt(policy, [], other, at_ms=0)


def test_targets_are_judged_by_the_newest_root(forge: Any) -> None:
    policy = forge.policy()
    second = forge.root(2, targets=("new-targets",))
    with pytest.raises(SignatureInvalid, match="targets version 1: by root version 2"):
        adopt(policy, [second], policy.targets_bytes, at_ms=0)
    moved = forge.targets(2, signers=("new-targets",))
    assert adopt(policy, [second], moved, at_ms=0).targets_version == 2


def test_only_the_newest_root_and_targets_must_not_be_expired(forge: Any) -> None:
    policy = restore(forge.root(expires=PAST), forge.targets(expires=PAST))
    now = forge.before_expiry_ms
    second, third = forge.root(2, expires=PAST), forge.root(3)
    with pytest.raises(TrustExpired, match="targets version 1: expected an expiry after"):
        adopt(policy, [second, third], policy.targets_bytes, at_ms=now)
    with pytest.raises(TrustExpired, match="root version 2: expected an expiry after"):
        adopt(policy, [second], forge.targets(2), at_ms=now)
    after = adopt(policy, [second, third], forge.targets(2), at_ms=now)
    assert policy.expired_at(now)
    assert not after.expired_at(now)


def test_a_policy_expires_at_its_first_expiry_to_the_millisecond(forge: Any) -> None:
    policy = restore(forge.root(), forge.targets(expires=datetime(2031, 1, 1, tzinfo=UTC)))
    assert not policy.expired_at(forge.expires_ms - 1)
    assert policy.expired_at(forge.expires_ms)


def test_a_restart_takes_an_expired_policy_and_no_forged_one(forge: Any) -> None:
    root, targets = forge.root(expires=PAST), forge.targets(expires=PAST)
    assert restore(root, targets).expired_at(forge.before_expiry_ms)
    with pytest.raises(SignatureInvalid, match="targets version 1"):
        restore(root, forge.targets(signers=("mallory",)))
    with pytest.raises(SignatureInvalid, match="root version 1"):
        restore(forge.root(signers=("mallory",)), targets)


def test_an_epoch_never_falls_and_keeps_what_it_continues(forge: Any) -> None:
    before = {"epoch": 1, "size": 5, "root": "0" * 64, "generation": 1 << 20}
    second = forge.log(epoch=2, continues=before)
    held = adopt(forge.policy(), [forge.root(2, logs=[second])], forge.targets(), at_ms=0)
    assert held.log("production").continues == before
    with pytest.raises(RolledBack, match="log production: expected epoch 2 or later, found 1"):
        adopt(held, [forge.root(3)], forge.targets(), at_ms=0)
    moved = forge.log(epoch=2, continues={**before, "size": 6})
    with pytest.raises(SyntaxInvalid, match="a new epoch takes a new number"):
        adopt(held, [forge.root(3, logs=[moved])], forge.targets(), at_ms=0)


def test_a_logs_key_stays_for_the_whole_epoch(forge: Any) -> None:
    policy = forge.policy()
    rekeyed = forge.root(2, logs=[forge.log(key="other")])
    with pytest.raises(SyntaxInvalid, match="another key takes a new epoch"):
        adopt(policy, [rekeyed], forge.targets(2), at_ms=0)
    continues = {"epoch": 1, "size": 5, "root": "0" * 64, "generation": 1 << 20}
    moved = forge.root(2, logs=[forge.log(key="other", epoch=2, continues=continues)])
    assert adopt(policy, [moved], forge.targets(2), at_ms=0).log("production").epoch == 2


def witnesses(forge: Any, *names: str, threshold: int = 1) -> dict[str, Any]:
    vkeys = [VerifierKey.cosigner(f"{name}.example", forge.public(name)).encode() for name in names]
    return {"vkeys": vkeys, "threshold": threshold}


@pytest.mark.parametrize(
    ("before", "after"), [((), ("w1",)), (("w1", "w2"), ("w1",)), (("w1", "w2"), ("w2", "w1"))]
)
def test_witnesses_stay_for_the_whole_epoch(
    forge: Any, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    held = forge.log(witnesses=witnesses(forge, *before, threshold=min(1, len(before))))
    policy = adopt(None, [forge.root(1, logs=[held])], forge.targets(), at_ms=0)
    other = witnesses(forge, *after)
    second = forge.root(2, logs=[forge.log(witnesses=other)])
    with pytest.raises(SyntaxInvalid, match="other witnesses take a new epoch"):
        adopt(policy, [second], forge.targets(2), at_ms=0)
    same = forge.root(2, logs=[held])
    assert adopt(policy, [same], forge.targets(2), at_ms=0).root_version == 2
    continues = {"epoch": 1, "size": 5, "root": "0" * 64, "generation": 1 << 20}
    moved = forge.root(2, logs=[forge.log(epoch=2, continues=continues, witnesses=other)])
    reached = adopt(policy, [moved], forge.targets(2), at_ms=0)
    assert reached.log("production").witnesses == other


def test_a_witness_threshold_stays_for_the_whole_epoch(forge: Any) -> None:
    asked = forge.log(witnesses=witnesses(forge, "w1", "w2", threshold=2))
    policy = adopt(None, [forge.root(1, logs=[asked])], forge.targets(), at_ms=0)
    fewer = forge.log(witnesses=witnesses(forge, "w1", "w2", threshold=1))
    with pytest.raises(SyntaxInvalid, match="other witnesses take a new epoch"):
        adopt(policy, [forge.root(2, logs=[fewer])], forge.targets(2), at_ms=0)


def test_a_log_is_no_witness_of_its_own(forge: Any) -> None:
    with pytest.raises(SyntaxInvalid, match="expected witnesses other than the log itself"):
        forge.root(logs=[forge.log(witnesses=witnesses(forge, "w1", "log"))])


def test_a_logs_installation_stays_in_every_epoch(forge: Any) -> None:
    continues: dict[str, Any] = {
        "epoch": 1, "size": 5, "root": "0" * 64, "generation": 1 << 20
    }  # fmt: skip
    other = authoring.new_log(
        "evil", "production", forge.public("log"), epoch=2, continues=continues
    )
    with pytest.raises(SyntaxInvalid, match="expected a log of installation hello, found one of"):
        adopt(forge.policy(), [forge.root(2, logs=[other])], forge.targets(2), at_ms=0)


def test_a_log_dropped_by_one_root_does_not_come_back_as_another(forge: Any) -> None:
    policy, without = forge.policy(), forge.root(2, logs=[forge.log("staging")])
    back = forge.root(3)
    assert adopt(policy, [without, back], forge.targets(2), at_ms=0).root_version == 3
    other = forge.root(3, logs=[forge.log(key="other")])
    with pytest.raises(SyntaxInvalid, match="another key takes a new epoch"):
        adopt(policy, [without, other], forge.targets(2), at_ms=0)


def test_one_public_key_under_two_ids_across_root_and_targets_is_refused(forge: Any) -> None:
    other_id = "ab" * 32

    def alias(signed: dict[str, Any]) -> None:
        key = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {}}
        signed["delegations"]["keys"][other_id] = {
            **key, "keyval": {"public": forge.public("root").hex()}
        }  # fmt: skip

    targets = forge.resigned(forge.targets(), ("targets",), alias)
    with pytest.raises(SyntaxInvalid, match="one id for each public key") as refusal:
        restore(forge.root(), targets)
    assert other_id in str(refusal.value)
    assert forge.key_id("root") in str(refusal.value)


def test_one_id_with_two_public_keys_is_refused(forge: Any) -> None:
    def swap(signed: dict[str, Any]) -> None:
        signed["delegations"]["keys"][forge.key_id("root")] = {
            "keytype": "ed25519",
            "scheme": "ed25519",
            "keyval": {"public": forge.public("mallory").hex()},
        }

    targets = forge.resigned(forge.targets(), ("targets",), swap)
    with pytest.raises(SyntaxInvalid, match="expected one public key under the id"):
        restore(forge.root(), targets)


def test_a_logs_key_may_not_authorise_changes(forge: Any) -> None:
    targets = forge.targets(grants=[forge.grant("production/*/*", ("log",))])
    with pytest.raises(SyntaxInvalid, match="expected keys that sign no log"):
        restore(forge.root(), targets)
