"""A log that goes on in a new epoch, seen by followers, authors and the next start."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.log.canonical import canonical, sha256_hex
from control_plane.log.checkpoint import open_checkpoint
from control_plane.log.epochs import begin_epoch, first_identity
from control_plane.log.fold import snapshot_line, snapshot_root
from control_plane.log.leaf import Leaf
from control_plane.log.statements import EpochStatement, Key, parse_statement
from control_plane.log.steps import (
    Accepted,
    Batch,
    Position,
    check_batch,
    judge,
)

GAP = 1 << 20
# A document two people must sign in production.
TWO_PEOPLES = canonical({"kind": "config", "name": "database", "metadata": {"values": {"pool": 5}}})


class Follower:
    """A node as it replays a log: it believes what the steps believe, and keeps the heads."""

    def __init__(self, served: Any, environment: str = "production") -> None:
        self.served = served
        self.environment = environment
        self.position: Position | None = None
        self.policy: Any = None
        self.heads: dict[Key, Any] = {}
        self.blobs: dict[str, bytes] = {}

    async def catch_up(self, epoch: int) -> None:
        """Follow one epoch to its end."""
        answer = await self.served.follow(
            0 if self.position is None or self.position.epoch != epoch else self.position.size,
            self.environment,
            epoch=epoch,
        )
        self.blobs |= answer["blobs"]
        if self.position is None:
            log = first_identity(
                self.environment, Leaf.decode(answer["entries"][0]), self.blobs.get
            )
            self.position = Position(log.origin)
        elif self.position.epoch != epoch:
            leaf = Leaf.decode(answer["entries"][0])
            self.position, log = begin_epoch(
                self.position, self.policy, self.environment, leaf, self.blobs.get
            )
        else:
            log = self.policy.log(self.environment)
        batch = Batch(answer["first"], tuple(answer["entries"]), answer["checkpoint"])
        checked = check_batch(self.position, batch, log.vkeys)
        for offset, leaf in enumerate(checked.leaves):
            verdict = judge(
                self.position.generation + offset + 1,
                leaf,
                origin=self.position.origin,
                environment=self.environment,
                policy=self.policy,
                heads=self.heads.get,
                blobs=self.blobs.get,
                state=lambda: snapshot_root(snapshot_line(*each) for each in self.heads.items()),
            )
            assert isinstance(verdict, Accepted), verdict
            self.policy = verdict.policy
            self.heads |= verdict.heads or {}
        self.position = checked.position


async def heads_of(served: Any) -> dict[Key, Any]:
    """The store's heads, by key."""
    with served.database.read() as snapshot:
        rows = snapshot.heads_from(snapshot.log("production"), b"")
    return {row.key: row.head for row in rows}


async def begin(served: Any, **named: Any) -> Any:
    """Sign a root with a new epoch of ``production`` and offer it."""
    served.installation.new_epoch(served.log(), **named)
    return await served.offer()


async def test_a_log_goes_on_in_a_new_epoch(lived_in: Any) -> None:
    old = lived_in.log()
    answer = await begin(lived_in)
    assert (answer.status, answer.body["index"]) == (201, 0)
    assert answer.body["generation"] == old.generation + GAP + 1
    heads = (await lived_in.request("GET", "/v1/production/heads")).body
    assert (heads["epoch"], heads["origin"], heads["size"]) == (2, "test/production/2", 2)
    assert await lived_in.publish(lived_in.installation.flag("later")) == old.generation + GAP + 3
    assert lived_in.log(epoch=1) == old


async def test_the_checkpoint_of_a_new_epoch_is_signed_by_its_key(lived_in: Any) -> None:
    kit = lived_in.installation
    key = Ed25519PrivateKey.generate()
    kit.held_keys.append(key)
    assert (await begin(lived_in, key=key)).status == 201
    note = (await lived_in.follow(0, epoch=2))["checkpoint"]
    found = open_checkpoint(note, kit.signers["production"].vkeys)
    assert (found.checkpoint.size, found.cosigned_at) == (2, lived_in.clock() // 1000)


async def test_a_late_node_replays_both_epochs_to_the_stores_heads(lived_in: Any) -> None:
    await begin(lived_in)
    await lived_in.publish(lived_in.installation.flag("later"))
    node = Follower(lived_in)
    await node.catch_up(1)
    await node.catch_up(2)
    assert node.heads == await heads_of(lived_in)
    assert node.position is not None
    assert node.position.generation == lived_in.log().generation


async def test_heads_are_carried_with_the_generations_they_had(lived_in: Any) -> None:
    kit = lived_in.installation
    before = await heads_of(lived_in)
    await begin(lived_in)
    assert await heads_of(lived_in) == before
    with lived_in.database.read() as snapshot:
        leaf = snapshot.leaf(snapshot.log("production"), 1)
        old = snapshot.log("production", 1)
        assert {row.key: row.head for row in snapshot.heads_from(old, b"")} == before
    statement = parse_statement(Leaf.decode(leaf).envelope)
    assert isinstance(statement, EpochStatement)
    lines = [snapshot_line(key, head) for key, head in before.items()]
    state = statement.state
    assert (state.count, state.root) == snapshot_root(lines)
    # A change of a carried key replaces the generation that the key had.
    assert await lived_in.publish(kit.flag("pilot", default="on"), 2) == 8 + GAP + 3


async def test_heads_beyond_one_page_are_all_committed_to(
    lived_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_store.epochs._PAGE", 2)
    assert len(await heads_of(lived_in)) > 2
    await begin(lived_in)
    node = Follower(lived_in)
    await node.catch_up(1)
    await node.catch_up(2)


async def test_a_waiting_follower_of_the_old_epoch_is_told_at_once(lived_in: Any) -> None:
    path = f"/v1/production/follow?epoch=1&size={lived_in.log().frontier.size}&wait=20"
    waiting = asyncio.create_task(lived_in.request("GET", path, token="follow"))
    await asyncio.sleep(0.05)
    await begin(lived_in)
    async with asyncio.timeout(5):
        answer = await waiting
    assert (answer.status, answer.body["code"], answer.body["epoch"]) == (410, "epoch_moved", 2)


async def test_an_ended_epoch_gives_what_is_left_of_it_without_waiting(lived_in: Any) -> None:
    before = await lived_in.follow(0)
    await begin(lived_in)
    async with asyncio.timeout(5):
        assert await lived_in.follow(0, wait=20) == before
        assert len((await lived_in.follow(6, wait=20))["entries"]) == 2
    for size in (8, 9):
        path = f"/v1/production/follow?epoch=1&size={size}"
        answer = await lived_in.request("GET", path, token="follow")
        assert (answer.status, answer.body["epoch"]) == (410, 2)


async def test_an_ended_epoch_keeps_the_blobs_of_its_heads(lived_in: Any) -> None:
    kit = lived_in.installation
    await begin(lived_in)
    await lived_in.publish(kit.flag("pilot", default="on"), 2)
    digest = sha256_hex(kit.flag("pilot"))
    assert (await lived_in.follow(0))["blobs"][digest] == kit.flag("pilot")
    assert digest not in (await lived_in.follow(0, epoch=2))["blobs"]
    with lived_in.database.write() as transaction:
        transaction.forget_blob(digest)  # superseded now, so it may go
    assert digest not in (await lived_in.follow(1))["blobs"]
    gone = await lived_in.request("GET", f"/production/1/blob/sha256/{digest}", token="follow")
    assert (gone.status, gone.body["code"]) == (410, "superseded")


async def test_a_carried_head_is_not_forgotten(lived_in: Any) -> None:
    await begin(lived_in)
    digest = sha256_hex(lived_in.installation.flag("pilot"))
    with (
        pytest.raises(Exception, match="found it in use"),
        lived_in.database.write() as transaction,
    ):
        transaction.forget_blob(digest)
    assert digest in (await lived_in.follow(0))["blobs"]


@pytest.mark.parametrize(("epoch", "status"), [(0, 410), (2, 410), (3, 200), (4, 404)])
async def test_epochs_that_are_not_here_are_answered_by_their_number(
    lived_in: Any, epoch: int, status: int
) -> None:
    assert (await begin(lived_in, epoch=3)).status == 201
    path = f"/v1/production/follow?epoch={epoch}&size=0"
    assert (await lived_in.request("GET", path, token="follow")).status == status


async def test_files_of_both_epochs_are_served(lived_in: Any) -> None:
    old = (await lived_in.request("GET", "/production/1/checkpoint")).body
    await begin(lived_in)
    assert (await lived_in.request("GET", "/production/1/checkpoint")).body == old
    new = (await lived_in.request("GET", "/production/2/checkpoint")).body
    assert new.startswith(b"test/production/2\n2\n")
    for epoch, width in ((1, 8), (2, 2)):
        tile = await lived_in.request("GET", f"/production/{epoch}/tile/0/000.p/{width}")
        assert (tile.status, len(tile.body)) == (200, 32 * width)
        blob = sha256_hex(lived_in.installation.flag("pilot"))
        path = f"/production/{epoch}/blob/sha256/{blob}"
        assert (await lived_in.request("GET", path)).status == 200


async def test_history_goes_on_into_earlier_epochs(lived_in: Any) -> None:
    await begin(lived_in)
    await lived_in.publish(lived_in.installation.flag("moved", default="on"), 7)

    async def generations(query: str) -> tuple[list[int], Any]:
        body = (await lived_in.request("GET", f"/v1/production/history?{query}")).body
        assert body["epoch"] == 2
        return [entry["generation"] for entry in body["entries"]], body["next"]

    first = 8 + GAP + 1
    everything = [first + 2, first + 1, first, *range(8, 0, -1)]
    assert await generations("") == (everything, None)
    assert await generations("limit=3") == (everything[:3], first)
    assert await generations(f"limit=3&before={first}") == ([8, 7, 6], 6)
    assert await generations("limit=9&before=6") == ([5, 4, 3, 2, 1], None)
    # A generation in the gap between the epochs, and one after all.
    assert await generations("limit=1&before=500") == ([8], 8)
    assert await generations(f"limit=1&before={first + 99}") == ([first + 2], first + 2)
    assert await generations("kind=flag&name=moved") == ([first + 2, 7, 6, 5], None)
    assert await generations("kind=flag&name=moved&limit=2") == ([first + 2, 7], 7)
    assert await generations("kind=flag&name=moved&part=&limit=2&before=7") == ([6, 5], None)


async def test_each_entry_of_a_history_names_its_epoch(lived_in: Any) -> None:
    await begin(lived_in)
    body = (await lived_in.request("GET", "/v1/production/history?limit=3")).body
    assert [(entry["epoch"], entry["index"]) for entry in body["entries"]] == [
        (2, 1), (2, 0), (1, 7),
    ]  # fmt: skip


async def test_what_waited_for_signatures_is_dropped_and_told(served: Any) -> None:
    kit = served.installation
    data = TWO_PEOPLES
    await served.put_blob(data)
    envelope = kit.envelope(kit.put(data))
    assert (await served.submit(envelope)).status == 202
    await begin(served)
    assert (await served.request("GET", "/v1/production/pending")).body["pending"] == []
    with served.database.read() as snapshot:
        assert snapshot.ended_pending() == []
    line = json.loads(served.audit.path.read_bytes().splitlines()[-1])
    told = (line["event"], line["code"], line["environment"], line["statement"])
    assert told == ("refused", "epoch_moved", "production", envelope.identity)
    late = await served.submit(
        kit.envelope(kit.put(data), by=(kit.bob,), origin="test/production/1")
    )
    assert (late.status, late.body["code"]) == (400, "statement_invalid")


async def test_a_set_of_an_earlier_epoch_is_answered_with_where_it_stands(served: Any) -> None:
    kit = served.installation
    data = kit.flag()
    await served.put_blob(data)
    envelope = kit.envelope(kit.put(data))
    first = await served.submit(envelope)
    await begin(served)
    await begin(served)
    before = await served.standing()
    # Its author was not answered, and sends the same bytes again.
    again = await served.submit(envelope)
    assert (again.status, again.body) == (200, first.body)
    dry = await served.submit(envelope, dry_run=True)
    assert (dry.status, dry.body["generation"]) == (200, first.body["generation"])
    other = kit.envelope(kit.put(data), reason="other", origin="test/production/1")
    refused = await served.submit(other)
    assert (refused.status, refused.body["code"]) == (400, "statement_invalid")
    assert await served.standing() == before


async def test_other_environments_stay_as_they_are(lived_in: Any) -> None:
    before = await lived_in.standing("staging")
    await begin(lived_in)
    assert await lived_in.standing("staging") == before
    # Their own copy of the metadata is one more entry of theirs.
    assert (await lived_in.offer("staging")).body["generation"] == 2
    assert lived_in.log("staging").epoch == 1


async def test_two_epochs_follow_each_other_at_once(lived_in: Any) -> None:
    assert (await begin(lived_in)).status == 201
    assert (await begin(lived_in)).status == 201
    log = lived_in.log()
    assert (log.epoch, log.generation) == (3, 8 + GAP + 2 + GAP + 2)
    node = Follower(lived_in)
    for epoch in (1, 2, 3):
        await node.catch_up(epoch)
    assert node.heads == await heads_of(lived_in)


async def test_a_repeated_offer_finds_the_epoch_begun(lived_in: Any) -> None:
    first = await begin(lived_in)
    before = await lived_in.standing()
    again = await lived_in.offer()
    assert (again.status, again.body) == (200, first.body)
    assert await lived_in.standing() == before


async def test_a_root_on_the_way_may_name_an_epoch_that_never_began(lived_in: Any) -> None:
    kit = lived_in.installation
    old = lived_in.log()
    # As after a backup: epoch 2 continued more than this store has, epoch 3 continues what it has.
    kit.new_epoch(old, size=old.frontier.size + 5, generation=old.generation + GAP)
    refused = await lived_in.offer()
    assert (refused.status, refused.body["code"]) == (409, "epoch_diverged")
    kit.new_epoch(old, epoch=3, generation=old.generation + 2 * GAP)
    assert (await lived_in.offer()).status == 201
    assert lived_in.log().epoch == 3


async def test_a_pinned_clock_is_mended_by_a_new_epoch(served: Any) -> None:
    kit, right = served.installation, served.clock()
    served.clock.ms += 10**11
    kill = kit.envelope(kit.kill(), by=(kit.oncall,), not_after=served.clock())
    assert (await served.submit(kill)).status == 201
    served.clock.ms = right
    assert (await begin(served)).status == 201
    assert served.log(epoch=1).sequenced_at == right + 10**11
    assert served.log().sequenced_at == right
    assert await served.publish(kit.flag()) == 2 + GAP + 3


async def test_a_restarted_store_goes_on_in_the_new_epoch(serve: Any) -> None:
    async with serve() as served:
        await served.publish(served.installation.flag())
        await begin(served)
        before = await served.standing()
    async with serve() as served:
        assert await served.standing() == before
        assert await served.publish(served.installation.flag("later")) == 2 + GAP + 3
        assert (await served.follow(0))["epoch"] == 1


def smaller(kit: Any, log: Any) -> None:
    kit.new_epoch(log, size=log.frontier.size - 1)


def larger(kit: Any, log: Any) -> None:
    kit.new_epoch(log, size=log.frontier.size + 1)


def another_root(kit: Any, log: Any) -> None:
    kit.new_epoch(log, root="ab" * 32)


def key_not_held(kit: Any, log: Any) -> None:
    kit.new_epoch(log, key=Ed25519PrivateKey.generate())


def not_chained(kit: Any, log: Any) -> None:
    kit.new_epoch(log)
    kit.roots.pop()
    kit.new_root(by=kit.stranger)


def targets_rolled_back(kit: Any, log: Any) -> None:
    kit.new_epoch(log)
    kit.targets_version -= 1
    kit.new_targets(without=(kit.bob,))


def targets_expired(kit: Any, log: Any) -> None:
    kit.new_epoch(log)
    kit.new_targets(expires=datetime(2020, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (smaller, 409, "epoch_diverged"),
        (larger, 409, "epoch_diverged"),
        (another_root, 409, "epoch_diverged"),
        (key_not_held, 403, "key_file_refused"),
        (not_chained, 403, "signature_invalid"),
        (targets_rolled_back, 403, "rolled_back"),
        (targets_expired, 403, "trust_expired"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_epoch_without_authority_leaves_all_as_it_was(
    lived_in: Any, spoil: Any, status: int, code: str
) -> None:
    before, checkpoint = await lived_in.standing(), lived_in.log().note
    signer = lived_in.installation.signers["production"]
    spoil(lived_in.installation, lived_in.log())
    answer = await lived_in.offer()
    assert (answer.status, answer.body["code"]) == (status, code), answer.body
    assert await lived_in.standing() == before
    with lived_in.database.read() as snapshot:
        assert len(snapshot.epochs("production")) == 1
    assert lived_in.log().note == checkpoint
    # The log goes on as if nothing had been offered.
    assert (await lived_in.follow(8))["epoch"] == 1
    lived_in.installation.signers["production"] = signer
    assert await lived_in.publish(lived_in.installation.flag("later")) == 9


async def test_generations_never_fall_with_a_new_epoch(lived_in: Any) -> None:
    await begin(lived_in)
    before = await lived_in.standing()
    answer = await begin(lived_in, generation=lived_in.log().generation - 1)
    assert (answer.status, answer.body["code"]) == (403, "rolled_back")
    assert await lived_in.standing() == before


async def test_a_diverged_epoch_says_where_the_log_stands(lived_in: Any) -> None:
    log = lived_in.log()
    smaller(lived_in.installation, log)
    message = (await lived_in.offer()).body["message"]
    assert f"size {log.frontier.size} with root {log.frontier.root().hex()}" in message
    assert f"found epoch 1 at size {log.frontier.size - 1}" in message


async def test_entries_no_checkpoint_covered_yet_are_covered_before_the_epoch_ends(
    sequencer: Any, installation: Any, database: Any
) -> None:
    writer = sequencer()
    data = installation.flag()
    writer.put_blobs("production", {sha256_hex(data): data})
    envelope = installation.envelope(installation.put(data))
    taken = writer.submit("production", envelope, parse_statement(envelope))
    writer.work()
    assert taken.result().index == 1
    log = writer.position("production").log
    assert (log.note_size, log.frontier.size) == (1, 2)
    installation.new_epoch(log)
    begun = writer.append_trust("production", installation.roots, installation.targets)
    writer.work()
    assert begun.result().index == 0
    with database.read() as snapshot:
        old = snapshot.log("production", 1)
    named = json.loads(installation.roots[0])["signed"]["logs"]["production"]
    found = open_checkpoint(old.note, named["vkeys"]).checkpoint
    assert (found.size, found.root) == (2, log.frontier.root())


async def test_an_epoch_and_its_first_checkpoint_become_true_together(
    sequencer: Any, installation: Any, database: Any
) -> None:
    writer = sequencer()
    installation.new_epoch(writer.position("production").log)
    writer.append_trust("production", installation.roots, installation.targets)
    writer.work()  # one transaction, and nothing is published
    with database.read() as snapshot:
        log = snapshot.log("production")
    found = open_checkpoint(log.note, installation.signers["production"].vkeys).checkpoint
    assert (log.epoch, found.size, found.root) == (2, 2, log.frontier.root())


async def test_work_behind_the_root_in_one_transaction_meets_the_new_epoch(
    sequencer: Any, installation: Any
) -> None:
    writer = sequencer()
    installation.new_epoch(writer.position("production").log)
    begun = writer.append_trust("production", installation.roots, installation.targets)
    data = installation.flag()
    old = installation.put(data)
    writer.put_blobs("production", {sha256_hex(data): data})
    behind = installation.envelope(old, origin="test/production/1")
    refused = writer.submit("production", behind, parse_statement(behind))
    fresh = installation.envelope(old)
    taken = writer.submit("production", fresh, parse_statement(fresh))
    writer.work()
    assert begun.result().index == 0
    assert refused.exception().code == "statement_invalid"
    assert taken.result().index == 2


async def test_pending_sets_a_crash_left_are_dropped_and_told_at_start(
    sequencer: Any, installation: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = sequencer()
    data = TWO_PEOPLES
    writer.put_blobs("production", {sha256_hex(data): data})
    envelope = installation.envelope(installation.put(data))
    writer.submit("production", envelope, parse_statement(envelope))
    writer.work()
    installation.new_epoch(writer.position("production").log)
    with monkeypatch.context() as patch:
        patch.setattr(type(writer), "_drop_ended", lambda self: None)  # dies before (2b)
        writer.append_trust("production", installation.roots, installation.targets)
        writer.work()
    with database.read() as snapshot:
        assert len(snapshot.ended_pending()) == 1
    again = sequencer()
    again.start()
    again.close()
    with database.read() as snapshot:
        assert snapshot.ended_pending() == []
    lines = database.path.with_name("audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["statement"] for line in lines] == [envelope.identity]


async def test_a_log_that_continues_another_does_not_begin_in_an_empty_database(
    sequencer: Any, installation: Any, database: Any
) -> None:
    writer = sequencer()
    installation.new_epoch(writer.position("production").log)
    root = installation.roots[-1:]
    identity = next(each for each in installation.identities() if each.environment == "production")
    begun = writer.begin_logs([identity], root, installation.targets)
    writer.work()
    assert "expected a database with epoch 1 up to size 1" in str(begun.exception())
    with database.read() as snapshot:
        assert len(snapshot.logs()) == 2


async def test_an_environment_the_root_dropped_is_served_and_takes_no_change(serve: Any) -> None:
    async with serve() as served:
        kit = served.installation
        del kit.signers["staging"]
        kit.new_root()
        before = await served.standing("staging")
        assert (await served.offer("production")).status == 201
        kill = kit.envelope(
            kit.kill(), environment="staging", origin="test/staging/1", by=(kit.alice,)
        )
        refused = await served.submit(kill, "staging")
        assert (refused.status, refused.body["code"]) == (403, "environment_at_rest")
        assert await served.standing("staging") == before
        note = served.log("staging").note
    # Its key may be gone: nothing is signed for it any more.
    kit.held_keys.remove(kit.log_keys["staging"])
    served.clock.ms += 60_000
    async with serve() as served:
        assert await served.standing("staging") == before
        assert served.log("staging").note == note
        assert (await served.follow(0, "staging"))["checkpoint"] == note
        assert served.log("production").note != note


async def test_what_nobody_can_sign_any_more_keeps_the_others_from_nothing(
    sequencer: Any,
    installation: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("control_plane_store.sequencer.RENEW_SECONDS", 0.01)
    monkeypatch.setattr("control_plane_store.sequencer.RETRY_SECONDS", 0.01)
    writer = sequencer()
    envelope = installation.envelope(
        installation.kill(), environment="staging", by=(installation.alice,)
    )
    writer.submit("staging", envelope, parse_statement(envelope))
    writer.work()  # and dies before the checkpoint
    del installation.signers["staging"]
    installation.held_keys.remove(installation.log_keys["staging"])
    installation.new_root()
    renewed = threading.Semaphore(0)
    again = sequencer(published=lambda environment, log: renewed.release())
    taken = again.append_trust("production", installation.roots, installation.targets)
    again.work()
    assert taken.result().index == 1
    again.start()
    for _ in range(5):
        assert renewed.acquire(timeout=10)
    log = again.position("staging").log
    assert (log.note_size, log.frontier.size) == (1, 2)
    again.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_no_checkpoint_of_a_dropped_environment_is_renewed(
    sequencer: Any, installation: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane_store.sequencer.RENEW_SECONDS", 0.01)
    told: list[str] = []
    renewed = threading.Semaphore(0)

    def published(environment: str, log: Any) -> None:
        told.append(environment)
        renewed.release()

    writer = sequencer(published=published)
    writer.start()
    del installation.signers["staging"]
    installation.new_root()
    taken = writer.append_trust("production", installation.roots, installation.targets)
    taken.result(timeout=10)
    del told[:]
    while told.count("production") < 5:
        assert renewed.acquire(timeout=10)
    writer.close()
    assert "staging" not in told


async def test_an_environment_that_is_named_again_goes_on(serve: Any) -> None:
    async with serve() as served:
        kit = served.installation
        signer = kit.signers.pop("staging")
        kit.new_root()
        await served.offer("production")
    async with serve() as served:
        kit = served.installation
        kit.signers["staging"] = signer
        kit.new_root()
        assert (await served.offer("staging")).status == 201
        kill = kit.envelope(kit.kill(), environment="staging", by=(kit.alice,))
        assert (await served.submit(kill, "staging")).status == 201
        assert (await served.follow(2, "staging"))["entries"] != []
