"""What signatures are worth under a policy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import DelegatedRole

from control_plane.errors import NotDelegated, SignatureInvalid, ThresholdNotReached
from control_plane.log.envelope import MANIFEST_PAYLOAD_TYPE, Envelope, Signature, pae
from control_plane.trust.state import Policy


def ids(forge: Any, *names: str) -> tuple[str, ...]:
    return tuple(sorted(forge.key_id(name) for name in names))


def test_one_delegated_signature_reaches_threshold_one(forge: Any) -> None:
    found = forge.policy().authorise(["production/kill/x"], forge.envelope("alice"))
    assert found == ids(forge, "alice")


def test_two_persons_are_needed_for_threshold_two(forge: Any) -> None:
    policy = forge.policy()
    with pytest.raises(ThresholdNotReached) as refusal:
        policy.authorise(["production/flag/x"], forge.envelope("alice"))
    assert (refusal.value.threshold, refusal.value.found) == (2, 1)
    both = policy.authorise(["production/flag/x"], forge.envelope("alice", "bob"))
    assert both == ids(forge, "alice", "bob")


def test_an_unsigned_set_reaches_no_threshold(forge: Any) -> None:
    with pytest.raises(ThresholdNotReached) as refusal:
        forge.policy().authorise(["production/kill/x"], forge.envelope())
    assert (refusal.value.threshold, refusal.value.found) == (1, 0)


def test_a_key_that_is_not_delegated_counts_for_nothing(forge: Any) -> None:
    policy = forge.policy()
    with pytest.raises(NotDelegated, match=r"production/kill/x: .*delegation 'production.kill.\*'"):
        policy.authorise(["production/kill/x"], forge.envelope("mallory"))
    with pytest.raises(ThresholdNotReached):
        policy.authorise(["production/flag/x"], forge.envelope("alice", "mallory"))
    found = policy.authorise(["production/kill/x"], forge.envelope("alice", "mallory"))
    assert found == ids(forge, "alice")


@pytest.mark.parametrize(
    "path",
    ["staging/flag/x", "production/flag", "production/flag/x/y", "", "production/flag/x\n/y"],
)
def test_a_path_without_a_delegation_is_nobodys(forge: Any, path: str) -> None:
    with pytest.raises(NotDelegated, match="expected a delegation that matches, found none"):
        forge.policy().authorise([path], forge.envelope("alice", "bob"))


def test_no_paths_are_authorised_by_nobody(forge: Any) -> None:
    with pytest.raises(NotDelegated, match="expected a name to authorise"):
        forge.policy().authorise([], forge.envelope("alice", "bob"))


def test_the_first_match_decides_even_when_a_later_one_is_wider(forge: Any) -> None:
    narrow = forge.grant("production/flag/payments_*", ("alice", "bob"), 2)
    wide = forge.grant("production/flag/*", ("carol",))
    policy = forge.policy(narrow, wide)
    with pytest.raises(NotDelegated):
        policy.authorise(["production/flag/payments_new"], forge.envelope("carol"))
    assert policy.authorise(["production/flag/other"], forge.envelope("carol"))
    turned = forge.policy(wide, narrow)
    assert turned.authorise(["production/flag/payments_new"], forge.envelope("carol"))


def test_every_path_of_a_set_is_decided_by_itself(forge: Any) -> None:
    policy = forge.policy(
        forge.grant("production/flag/a", ("alice",)), forge.grant("production/flag/b", ("bob",))
    )
    paths = ["production/flag/a", "production/flag/b"]
    with pytest.raises(NotDelegated, match="production/flag/b"):
        policy.authorise(paths, forge.envelope("alice"))
    assert policy.authorise(paths, forge.envelope("alice", "bob")) == ids(forge, "alice", "bob")


def test_a_bad_signature_by_a_delegated_key_refuses_the_set(forge: Any) -> None:
    envelope = forge.envelope("alice", "bob")
    for value in (bytes(64), b"", envelope.signatures[1].value[:-1]):
        broken = envelope.with_signature(Signature(forge.key_id("alice"), value))
        with pytest.raises(SignatureInvalid, match=forge.key_id("alice")):
            forge.policy().authorise(["production/kill/x"], broken)


def test_a_bad_signature_by_somebody_else_is_not_looked_at(forge: Any) -> None:
    envelope = forge.envelope("alice").with_signature(Signature("ff" * 32, bytes(64)))
    assert forge.policy().authorise(["production/kill/x"], envelope) == ids(forge, "alice")


def test_a_signature_does_not_move_to_another_payload_or_type(forge: Any) -> None:
    good = forge.envelope("alice", payload=b'{"a":1}')
    for moved in (
        Envelope(good.payload_type, b'{"a":2}', good.signatures),
        Envelope(good.payload_type + "x", good.payload, good.signatures),
    ):
        with pytest.raises(SignatureInvalid):
            forge.policy().authorise(["production/kill/x"], moved)


def test_a_revoked_key_leaves_a_threshold_that_nobody_reaches(forge: Any) -> None:
    policy = forge.policy(forge.grant("production/*/*", (), 1), forge.grant("author/*/*", ("bob",)))
    with pytest.raises(NotDelegated):
        policy.authorise(["production/flag/x"], forge.envelope("alice"))


def test_sixty_four_paths_verify_each_signature_once(
    forge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    real = Policy.authorise.__globals__["_verify"]

    def counted(key: Any, key_id: str, signature: bytes, message: bytes) -> None:
        verified.append(key_id)
        real(key, key_id, signature, message)

    monkeypatch.setitem(Policy.authorise.__globals__, "_verify", counted)
    paths = [f"production/flag/f{number}" for number in range(64)]
    forge.policy().authorise(paths, forge.envelope("alice", "bob", "mallory"))
    assert sorted(verified) == list(ids(forge, "alice", "bob"))


def test_a_manifest_is_signed_by_its_author_only(forge: Any) -> None:
    policy, content = forge.policy(), b'{"kind":"tool"}'
    value = bytes.fromhex(forge.signer("alice").sign(pae(MANIFEST_PAYLOAD_TYPE, content)).signature)
    policy.author("tool", "crm_tool", forge.key_id("alice"), value, content)
    with pytest.raises(SignatureInvalid):
        policy.author("tool", "crm_tool", forge.key_id("alice"), value, content + b" ")
    with pytest.raises(NotDelegated, match="author/tool/crm_tool"):
        policy.author("tool", "crm_tool", forge.key_id("bob"), value, content)
    with pytest.raises(NotDelegated):
        policy.author("tool/x", "crm_tool", forge.key_id("alice"), value, content)


def test_the_logs_key_signs_for_its_environment_alone(forge: Any) -> None:
    policy = forge.policy()
    policy.verify_by_log("production", forge.envelope("log", "mallory"))
    with pytest.raises(SignatureInvalid, match="expected a signature by the log's key"):
        policy.verify_by_log("production", forge.envelope("alice"))
    broken = forge.envelope("log").with_signature(Signature(forge.key_id("log"), bytes(64)))
    with pytest.raises(SignatureInvalid):
        policy.verify_by_log("production", broken)
    assert forge.key_id("log") not in set(policy.keys())


part = st.text("ab_.-*?", min_size=1, max_size=6)


@given(kind=part, name=part, asked=st.tuples(part, part))
def test_patterns_match_as_python_tuf_matches_them(
    kind: str, name: str, asked: tuple[str, str]
) -> None:
    from control_plane.trust.state import Delegation, _matchers

    pattern, path = f"production/{kind}/{name}", "production/" + "/".join(asked)
    ours = _matchers((Delegation("d", frozenset(), 1, (pattern,)),))["production"][0]
    theirs = DelegatedRole("d", [], 1, True, [pattern]).is_delegated_path(path)
    assert bool(ours[0](asked[0]) and ours[1](asked[1])) == theirs
