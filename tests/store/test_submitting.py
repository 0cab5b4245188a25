"""What becomes of a change set that fits."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.envelope import Envelope
from control_plane.log.statements import Change, ChangesBlob, ChangeSet, change_set
from control_plane_store import gathering


def config(pool: int = 5) -> bytes:
    """A document two people must sign in production."""
    metadata = {"values": {"pool": {"size": pool}}}
    return canonical({"kind": "config", "name": "database", "metadata": metadata})


def statement_of(envelope: Envelope) -> ChangeSet:
    return ChangeSet.from_payload(envelope.payload)


async def test_a_change_set_that_fits_becomes_the_next_entry(served: Any) -> None:
    kit = served.installation
    data = kit.flag()
    await served.put_blob(data)
    envelope = kit.envelope(kit.put(data))
    answer = await served.submit(envelope)
    assert answer.status == 201
    assert answer.body == {
        "format": 1, "statement": envelope.identity, "generation": 2, "index": 1,
    }  # fmt: skip
    heads = (await served.standing())["heads"]
    assert heads["generation"] == 2
    assert [head["digest"] for head in heads["heads"]] == [sha256_hex(data)]
    assert heads["heads"][0]["key_ids"] == [kit.alice.key_id]


async def test_the_same_statement_again_has_the_same_answer(served: Any) -> None:
    kit = served.installation
    data = kit.flag()
    await served.put_blob(data)
    envelope = kit.envelope(kit.put(data))
    first = await served.submit(envelope)
    before = await served.standing()
    again = await served.submit(envelope)
    assert (again.status, again.body) == (200, first.body)
    assert await served.standing() == before


async def test_two_sets_for_one_head_never_both_fit(served: Any) -> None:
    kit = served.installation
    versions = [kit.flag(salt=f"salt{number}") for number in range(8)]
    for data in versions:
        await served.put_blob(data)
    answers = await asyncio.gather(
        *(served.submit(kit.envelope(kit.put(data))) for data in versions)
    )
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    assert (await served.standing())["heads"]["size"] == 2


async def test_a_dry_run_tells_the_generation_and_leaves_nothing(served: Any) -> None:
    kit = served.installation
    data = kit.flag()
    await served.put_blob(data)
    before = await served.standing()
    envelope = kit.envelope(kit.put(data))
    answer = await served.submit(envelope, dry_run=True)
    assert answer.status == 200
    assert answer.body == {
        "format": 1, "statement": envelope.identity, "dry_run": True, "generation": 2,
    }  # fmt: skip
    assert await served.standing() == before


async def test_a_dry_run_is_refused_as_the_real_one_and_not_audited(served: Any) -> None:
    kit = served.installation
    await served.publish(kit.flag())
    before = served.audit.path.read_bytes()
    stale = kit.envelope(kit.put(kit.flag(default="on")), reason="stale")
    await served.put_blob(kit.flag(default="on"))
    answer = await served.submit(stale, dry_run=True)
    assert (answer.status, answer.body["code"]) == (409, "conflict")
    assert served.audit.path.read_bytes() == before


async def test_a_set_waits_until_its_threshold_is_reached(served: Any) -> None:
    kit = served.installation
    await served.put_blob(config())
    envelope = kit.envelope(kit.put(config()))
    before = await served.standing()
    waiting = await served.submit(envelope)
    assert waiting.status == 202
    assert waiting.body == {
        "format": 1, "statement": envelope.identity, "threshold": 2, "found": 1,
    }  # fmt: skip
    between = await served.standing()
    assert between["heads"] == before["heads"]
    assert [each["statement"] for each in between["pending"]] == [envelope.identity]

    # The second signature alone is enough: the store holds the first.
    second = kit.envelope(kit.put(config()), by=(kit.bob,))
    accepted = await served.submit(second)
    assert (accepted.status, accepted.body["generation"]) == (201, 2)
    after = await served.standing()
    assert after["pending"] == []
    assert after["heads"]["heads"][0]["key_ids"] == sorted([kit.alice.key_id, kit.bob.key_id])


async def test_a_waiting_set_shows_the_envelope_others_sign(served: Any) -> None:
    kit = served.installation
    await served.put_blob(config())
    envelope = kit.envelope(kit.put(config()))
    await served.submit(envelope)
    shown = (await served.standing())["pending"][0]
    assert Envelope.from_json(shown["envelope"]) == envelope
    assert (shown["threshold"], shown["found"], shown["verb"]) == (2, 1, "apply")


async def test_a_set_that_could_never_fit_does_not_wait(served: Any) -> None:
    kit = served.installation
    await served.put_blob(config())
    before = await served.standing()
    answer = await served.submit(kit.envelope(kit.put(config(), replaces=1)))
    assert (answer.status, answer.body["code"]) == (409, "conflict")
    assert await served.standing() == before


async def test_a_dry_run_of_a_set_that_would_wait_says_so(served: Any) -> None:
    kit = served.installation
    await served.put_blob(config())
    answer = await served.submit(kit.envelope(kit.put(config())), dry_run=True)
    assert (answer.status, answer.body["generation"], answer.body["found"]) == (200, None, 1)
    assert (await served.standing())["pending"] == []


async def test_a_waiting_set_can_be_late_in_the_end(served: Any) -> None:
    kit = served.installation
    await served.put_blob(config())
    await served.submit(kit.envelope(kit.put(config())))
    served.clock.ms += 2 * 3_600_000
    answer = await served.submit(kit.envelope(kit.put(config()), by=(kit.bob,)))
    assert (answer.status, answer.body["code"]) == (403, "late")
    assert (await served.standing())["heads"]["size"] == 1


async def test_a_signature_by_a_key_revoked_since_no_longer_counts(
    served: Any, installation: Any
) -> None:
    await served.put_blob(config())
    await served.submit(installation.envelope(installation.put(config())))
    installation.new_targets(without=(installation.alice,))
    taken = served.store.sequencer.append_trust(
        "production", installation.roots, installation.targets
    )
    assert (await asyncio.wrap_future(taken)).generation == 2
    second = installation.envelope(installation.put(config()), by=(installation.bob,))
    answer = await served.submit(second)
    assert (answer.status, answer.body["found"]) == (202, 1)


async def test_a_set_of_more_than_64_changes_rests_on_its_list(served: Any) -> None:
    kit = served.installation
    flags = [kit.flag(f"f{number:03d}") for number in range(100)]
    statement, listed = change_set(
        "test/production/1",
        [kit.put(data) for data in flags],
        created_at=served.clock(),
        not_after=served.clock() + 1000,
        reason="many",
        verb="apply",
    )
    envelope = kit.alice.sign(statement.envelope())
    for data in flags:
        await served.put_blob(data)
    missing = await served.submit(envelope)
    assert missing.body["missing"] == [sha256_hex(listed)]
    await served.put_blob(listed)
    assert (await served.submit(envelope)).status == 201
    answer = await served.follow(1)
    assert listed in answer["blobs"].values()
    history = await served.request("GET", "/v1/production/history?kind=flag&name=f007")
    assert [change["name"] for change in history.body["entries"][0]["changes"]] == ["f007"]


async def test_a_kill_overtakes_what_waits(sequencer: Any, installation: Any) -> None:
    writer = sequencer()
    flags = [installation.flag(f"f{number}") for number in range(3)]
    for data in flags:
        writer.put_blob("production", sha256_hex(data), data)
    writer.work()
    sets = [installation.envelope(installation.put(data)) for data in flags]
    bulk = [writer.submit("production", each, statement_of(each)) for each in sets]
    kill = installation.envelope(installation.kill(), by=(installation.oncall,))
    killed = writer.submit("production", kill, statement_of(kill))
    writer.work()
    assert killed.result().index == 1
    assert [each.result().index for each in bulk] == [2, 3, 4]


async def test_time_in_the_log_never_falls(served: Any) -> None:
    kit = served.installation
    await served.publish(kit.flag("first"))
    served.clock.ms -= 1_800_000
    await served.publish(kit.flag("second"))
    entries = (await served.follow(0))["entries"]
    times = [json.loads(entry)["sequenced_at"] for entry in entries]
    assert times == sorted(times)


async def test_shards_of_a_segment_are_taken_with_it(served: Any) -> None:
    kit = served.installation
    manifest = canonical({"kind": "segment", "name": "s", "metadata": {"shards": 1}})
    members = sorted(f"user{number}" for number in range(50))
    shards = [
        [m for m in members if int(sha256_hex(m.encode())[0], 16) >> 3 == bit] for bit in (0, 1)
    ]
    changes = [kit.put(manifest)]
    await served.put_blob(manifest)
    for bit, listed in enumerate(shards):
        digest = await served.put_blob(canonical(listed))
        changes.append(
            Change(
                action="put",
                kind="segment",
                name="s",
                replaces=None,
                shard=f"{bit:04x}",
                digest=digest,
            )
        )
    assert (await served.submit(kit.envelope(*changes))).status == 201
    one = canonical(shards[0])
    again = Change(
        action="put", kind="segment", name="s", replaces=2, shard="0000", digest=sha256_hex(one)
    )
    assert (await served.submit(kit.envelope(again))).status == 201


async def test_history_tells_who_changed_a_key_and_why(served: Any) -> None:
    kit = served.installation
    await served.publish(kit.flag())
    await served.publish(kit.flag("other"))
    kill = kit.envelope(kit.kill(), by=(kit.oncall,), reason="fire")
    await served.submit(kill)
    answer = await served.request("GET", "/v1/production/history?kind=kill&name=pilot")
    entry = answer.body["entries"][0]
    assert (entry["generation"], entry["reason"], entry["key_ids"]) == (
        4,
        "fire",
        [kit.oncall.key_id],
    )
    whole = (await served.request("GET", "/v1/production/history?limit=2")).body
    assert [each["generation"] for each in whole["entries"]] == [4, 3]
    rest = (await served.request("GET", f"/v1/production/history?before={whole['next']}")).body
    assert [each["generation"] for each in rest["entries"]] == [2, 1]
    assert rest["next"] is None


async def test_heads_are_asked_for_by_key_kind_prefix_and_page(served: Any) -> None:
    kit = served.installation
    for name in ("alpha", "alpine", "beta"):
        await served.publish(kit.flag(name))
    await served.publish(kit.agent())

    async def names(query: str) -> list[str]:
        answer = await served.request("GET", f"/v1/production/heads?{query}")
        return [head["name"] for head in answer.body["heads"]]

    keys = "key=flag/beta&key=flag/none&key=agent/support%20v/1.0.0"
    assert sorted(await names(keys)) == ["beta", "support"]
    assert await names("kind=flag&prefix=alp") == ["alpha", "alpine"]
    assert await names("kind=flag&name=beta") == ["beta"]
    page = (await served.request("GET", "/v1/production/heads?limit=2")).body
    following = await names(f"after={page['next'].replace(' ', '%20')}")
    assert [head["name"] for head in page["heads"]] + following == [
        "support", "alpha", "alpine", "beta",
    ]  # fmt: skip


async def test_a_deleted_key_is_shown_as_a_tombstone(served: Any) -> None:
    kit = served.installation
    await served.publish(kit.flag())
    await served.submit(
        kit.envelope(Change(action="delete", kind="flag", name="pilot", replaces=2))
    )
    head = (await served.standing())["heads"]["heads"][0]
    assert (head["live"], head["generation"], head["digest"]) == (False, 3, "")


def shard_put(index: int, data: bytes, replaces: int | None = None) -> Change:
    return Change(
        action="put", kind="segment", name="s", replaces=replaces, shard=f"{index:04x}",
        digest=sha256_hex(data),
    )  # fmt: skip


async def test_another_number_of_shards_takes_all_of_them(served: Any) -> None:
    kit, empty = served.installation, canonical([])
    one, two, inline = (
        canonical({"kind": "segment", "name": "s", "metadata": metadata})
        for metadata in ({"shards": 1}, {"shards": 2}, {"members": ["ann"]})
    )
    for data in (one, two, inline, empty):
        await served.put_blob(data)
    shards = [shard_put(index, empty) for index in (0, 1)]
    assert (await served.submit(kit.envelope(kit.put(one), shards[0]))).status == 400
    assert (await served.submit(kit.envelope(kit.put(one), *shards))).status == 201
    gone = Change(action="delete", kind="segment", name="s", replaces=2, shard="0001")
    more = [shard_put(index, empty, 2 if index < 2 else None) for index in range(4)]
    before = await served.standing()
    for changes in (
        [kit.put(two, 2)],
        [kit.put(two, 2), *more[:3]],
        [kit.put(inline, 2)],
        [kit.put(inline, 2), gone],
        [gone],
    ):
        answer = await served.submit(kit.envelope(*changes))
        assert (answer.status, answer.body["code"]) == (400, "manifest_invalid")
        assert await served.standing() == before
    whole = kit.envelope(kit.put(two, 2), *more)
    assert (await served.submit(whole)).status == 201
    away = [replace(gone, shard=f"{index:04x}", replaces=3) for index in range(4)]
    back = kit.envelope(kit.put(inline, 3), *away)
    assert (await served.submit(back)).status == 201


def document(name: str, **metadata: Any) -> bytes:
    return canonical({"kind": "config", "name": name, "metadata": metadata})


async def test_a_namespaces_documents_fit_their_base_together(served: Any) -> None:
    kit = served.installation

    async def send(*blobs: bytes, replaces: int | None = None) -> Any:
        for data in blobs:
            await served.put_blob(data, "staging")
        changes = [kit.put(data, replaces) for data in blobs]
        return await served.submit(kit.envelope(*changes, environment="staging"), "staging")

    whole = {"properties": {"size": {"type": "integer"}}}
    assert (await send(document("db", schema=whole))).status == 201
    refused = await send(document("db@acme", values={"size": "big"}))
    assert (refused.status, refused.body["code"]) == (400, "manifest_invalid")
    assert "for tenant acme" in refused.body["message"]
    assert (await send(document("db@acme", values={"size": 5}))).status == 201
    assert (await send(document("dbx@acme", values={"size": "big"}))).status == 201
    small = {"properties": {"size": {"maximum": 4}}}
    before = await served.standing("staging")
    refused = await send(document("db", schema=small), replaces=2)
    assert (refused.status, refused.body["code"]) == (400, "manifest_invalid")
    assert await served.standing("staging") == before
    away = Change(action="delete", kind="config", name="db@acme", replaces=3)
    both = kit.envelope(kit.put(document("db", schema=small), 2), away, environment="staging")
    assert (await served.submit(both, "staging")).status == 201


async def test_a_shard_is_no_larger_than_nodes_take(served: Any) -> None:
    kit = served.installation
    manifest = canonical({"kind": "segment", "name": "s", "metadata": {"shards": 0}})
    members = canonical(sorted(f"{number:03}" + "x" * 2_000 for number in range(600)))
    shard = Change(
        action="put", kind="segment", name="s", replaces=None, shard="0000",
        digest=sha256_hex(members),
    )  # fmt: skip
    for data in (manifest, members):
        await served.put_blob(data)
    refused = await served.submit(kit.envelope(kit.put(manifest), shard))
    assert (refused.status, refused.body["code"]) == (400, "syntax_invalid")


async def test_without_a_known_keys_signature_no_change_list_is_read(served: Any) -> None:
    kit = served.installation
    listed = b"no change at all\n" * 65
    statement = ChangeSet(
        origin="test/production/1", created_at=served.clock(), not_after=served.clock() + 1,
        reason="", verb="apply", changes_blob=ChangesBlob(sha256_hex(listed), 65),
    )  # fmt: skip
    await served.put_blob(listed)
    envelope = statement.envelope()
    codes = [
        (await served.submit(each)).body["code"]
        for each in (envelope, kit.stranger.sign(envelope), kit.oncall.sign(envelope))
    ]
    assert codes == ["threshold_not_reached", "signature_invalid", "statement_invalid"]


async def test_one_key_cannot_take_all_places_of_waiting_sets(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_PENDING_A_KEY", 3)
    kit = served.installation
    sets = [document(f"c{number}") for number in range(4)]
    for data in sets:
        await served.put_blob(data)
    taken = [await served.submit(kit.envelope(kit.put(data))) for data in sets]
    assert [answer.status for answer in taken] == [202, 202, 202, 403]
    again = await served.submit(kit.envelope(kit.put(sets[0])))
    assert again.status == 202
    other = await served.submit(kit.envelope(kit.put(sets[3]), by=(kit.bob,)))
    assert other.status == 202
