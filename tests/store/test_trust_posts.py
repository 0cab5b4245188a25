"""Trust metadata that is offered to a running store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.checkpoint import LogSigner
from control_plane.log.envelope import PAYLOAD_TYPE
from control_plane.log.leaf import Leaf
from control_plane.log.statements import TrustStatement, parse_statement

PATH = "/v1/production/trust"


def audited(served: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.audit.path.read_bytes().splitlines()]


async def test_a_rotation_over_two_roots_is_one_entry(served: Any) -> None:
    kit = served.installation
    kit.new_root()
    kit.new_root()
    answer = await served.offer()
    assert (answer.status, answer.body["generation"], answer.body["index"]) == (201, 2, 1)
    leaf = Leaf.decode((await served.follow(1))["entries"][0])
    assert leaf.envelope.identity == answer.body["statement"]
    statement = parse_statement(leaf.envelope)
    assert isinstance(statement, TrustStatement)
    assert statement.root == tuple(map(sha256_hex, kit.roots[1:]))
    policy = served.store.sequencer.position("production").policy
    assert (policy.root_version, policy.targets_version) == (3, 1)


async def test_metadata_comes_to_followers_with_its_entry(served: Any) -> None:
    kit = served.installation
    kit.new_root()
    kit.new_targets()
    await served.offer()
    blobs = (await served.follow(1))["blobs"]
    assert blobs == {sha256_hex(data): data for data in (kit.roots[1], kit.targets)}


async def test_metadata_in_force_is_answered_with_where_it_stands(served: Any) -> None:
    served.installation.new_root()
    first = await served.offer()
    await served.publish(served.installation.flag())
    before = await served.standing()
    again = await served.offer()
    assert (again.status, again.body) == (200, first.body)
    older = await served.offer(root=[sha256_hex(served.installation.roots[0])])
    assert (older.status, older.body) == (200, first.body)
    assert await served.standing() == before


async def test_each_environment_takes_its_own_copy(served: Any) -> None:
    served.installation.new_root()
    await served.offer("production")
    assert served.log("staging").frontier.size == 1
    assert (await served.offer("staging")).status == 201
    assert served.log("staging").frontier.size == 2


async def test_a_revoked_key_counts_no_more_after_the_entry(served: Any) -> None:
    kit = served.installation
    kit.new_targets(without=(kit.alice,))
    assert (await served.offer()).status == 201
    await served.put_blob(kit.flag())
    answer = await served.submit(kit.envelope(kit.put(kit.flag())))
    assert (answer.status, answer.body["code"]) == (403, "signature_invalid")


async def test_a_restarted_store_goes_on_under_the_newest_root(serve: Any) -> None:
    async with serve() as served:
        for _ in range(3):
            served.installation.new_root()
            served.installation.new_targets()
            assert (await served.offer()).status == 201
        before = await served.standing()
    async with serve() as served:
        assert await served.standing() == before
        assert served.store.sequencer.position("production").policy.root_version == 4
        assert (await served.offer()).status == 200


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [("follow", 403, "token_refused"), (None, 401, "token_refused")],
)
async def test_only_who_may_submit_may_offer(
    served: Any, token: str | None, status: int, code: str
) -> None:
    kit = served.installation
    kit.new_root()
    await served.put_blob(kit.roots[1])
    body = canonical(
        {"format": 1, "root": [sha256_hex(kit.roots[1])], "targets": sha256_hex(kit.targets)}
    )
    answer = await served.request("POST", PATH, body, token=token)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert served.log().frontier.size == 1


async def test_metadata_that_was_not_put_is_named(served: Any) -> None:
    kit = served.installation
    before = await served.standing()
    kit.new_root()
    kit.new_targets()
    named = [sha256_hex(data) for data in (kit.roots[1], kit.targets)]
    body = canonical({"format": 1, "root": named[:1], "targets": named[1]})
    answer = await served.request("POST", PATH, body)
    assert (answer.status, answer.body["code"]) == (409, "blob_missing")
    assert answer.body["missing"] == named
    # What another environment was given is not at hand in this one.
    await served.put_blob(kit.roots[1], "staging")
    assert (await served.request("POST", PATH, body)).body["missing"] == named
    assert await served.standing() == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"format":1}',
        canonical({"format": 2, "root": [], "targets": "0" * 64}),
        canonical({"format": 1, "root": "0" * 64, "targets": "0" * 64}),
        canonical({"format": 1, "root": ["0" * 64] * 2, "targets": "0" * 64}),
        canonical({"format": 1, "root": [{}], "targets": "0" * 64}),
        canonical({"format": 1, "root": [], "targets": "X" * 64}),
        canonical({"format": 1, "root": [], "targets": "0" * 64, "more": 1}),
        b'{"format": 1, "root": [], "targets": "' + b"0" * 64 + b'"}',
    ],
)
async def test_a_body_out_of_form_is_refused_and_told(served: Any, body: bytes) -> None:
    before = await served.standing()
    answer = await served.request("POST", PATH, body)
    assert (answer.status, answer.body["code"]) == (400, "syntax_invalid")
    assert await served.standing() == before
    assert audited(served)[-1]["code"] == "syntax_invalid"


async def test_an_environment_that_is_not_here_takes_nothing(served: Any) -> None:
    answer = await served.request("POST", "/v1/other/trust", b"{}")
    assert (answer.status, answer.body["code"]) == (401, "token_refused")


def skipped(kit: Any) -> None:
    kit.new_root()
    kit.new_root()
    del kit.roots[1]


def unchained(kit: Any) -> None:
    kit.new_root(by=kit.stranger)


def another_key_for_the_log(kit: Any) -> None:
    kit.signers["production"] = LogSigner("test/production/1", kit.stranger.private)
    kit.new_root()


def rolled_back(kit: Any) -> None:
    kit.new_root()
    kit.targets_version -= 1
    kit.new_targets(without=(kit.bob,))


def expired(kit: Any) -> None:
    kit.new_targets(expires=datetime(2020, 1, 1, tzinfo=UTC))


def dropped(kit: Any) -> None:
    del kit.signers["production"]
    kit.new_root()


def not_metadata(kit: Any) -> None:
    kit.targets = b"{}"


def too_large(kit: Any) -> None:
    kit.targets = b" " * (1 << 20) + kit.targets


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (skipped, 400, "syntax_invalid"),
        (unchained, 403, "signature_invalid"),
        (another_key_for_the_log, 400, "syntax_invalid"),
        (rolled_back, 403, "rolled_back"),
        (expired, 403, "trust_expired"),
        (dropped, 403, "environment_dropped"),
        (not_metadata, 400, "syntax_invalid"),
        (too_large, 400, "syntax_invalid"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_metadata_without_authority_is_refused_and_told(
    served: Any, spoil: Any, status: int, code: str
) -> None:
    await served.publish(served.installation.flag())
    before = await served.standing()
    spoil(served.installation)
    answer = await served.offer()
    assert (answer.status, answer.body["code"]) == (status, code), answer.body
    assert await served.standing() == before
    line = audited(served)[-1]
    assert (line["event"], line["code"], line["token"]) == ("refused", code, "submit")
    # What was refused left nothing that a restart would read.
    with served.database.read() as snapshot:
        types = snapshot.leaves_of_type(snapshot.log("production"), PAYLOAD_TYPE["trust"])
    assert len(types) == 1


async def test_roots_together_are_bounded(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = served.installation
    before = await served.standing()
    kit.new_root()
    total = sum(map(len, (*kit.roots, kit.targets)))
    monkeypatch.setattr("control_plane_store.epochs.MAX_REQUEST_BYTES", total - 1)
    answer = await served.offer()
    assert (answer.status, answer.body["code"]) == (400, "syntax_invalid")
    assert await served.standing() == before
    monkeypatch.setattr("control_plane_store.epochs.MAX_REQUEST_BYTES", total)
    assert (await served.offer()).status == 201
