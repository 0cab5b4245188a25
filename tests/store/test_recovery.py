"""What a crash between two effects leaves, and who picks it up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from control_plane.errors import Forked, FormatUnsupported, NotFound
from control_plane.log.canonical import sha256_hex
from control_plane.log.checkpoint import open_checkpoint
from control_plane.log.merkle import Frontier
from control_plane.log.statements import ChangeSet
from control_plane_store.database import Database, StoreHeld
from control_plane_store.transactions import Transaction


def take(writer: Any, installation: Any, data: bytes) -> Any:
    """Give the writer a blob and its change, unfinished."""
    writer.put_blob("production", sha256_hex(data), data)
    envelope = installation.envelope(installation.put(data))
    return writer.submit("production", envelope, ChangeSet.from_payload(envelope.payload))


def checkpoint_of(log: Any, installation: Any) -> Any:
    return open_checkpoint(log.note, installation.signers[log.environment].vkeys)


def test_a_crash_before_the_transaction_leaves_only_the_blob(
    sequencer: Any, installation: Any, database: Any
) -> None:
    writer = sequencer()
    data = installation.flag()
    writer.put_blob("production", sha256_hex(data), data)
    writer.work()
    again = sequencer()
    with database.read() as snapshot:
        assert snapshot.blob("production", sha256_hex(data)) == data
        assert snapshot.log("production").frontier.size == 1
    taken = take(again, installation, data)
    again.work()
    assert taken.result().index == 1


def test_a_crash_before_the_checkpoint_is_finished_by_the_next_start(
    sequencer: Any, installation: Any
) -> None:
    writer = sequencer()
    taken = take(writer, installation, installation.flag())
    writer.work()  # (2) took place, (3) did not
    unpublished = writer.position("production").log
    assert (taken.result().index, unpublished.note_size) == (1, 1)

    told: list[tuple[str, int]] = []
    again = sequencer(published=lambda environment, log: told.append((environment, log.note_size)))
    again.start()
    published_before_serving = list(told)
    again.close()
    assert ("production", 2) in published_before_serving
    found = checkpoint_of(again.position("production").log, installation).checkpoint
    assert (found.size, found.root) == (2, unpublished.frontier.root())


def test_a_crash_after_the_checkpoint_answers_the_author_who_asks_again(
    sequencer: Any, installation: Any
) -> None:
    writer = sequencer()
    take(writer, installation, installation.flag())
    writer.work()
    writer.publish_all()  # (3) took place, the answer did not
    again = sequencer()
    taken = take(again, installation, installation.flag())
    again.work()
    assert (taken.result().index, taken.result().repeated) == (1, True)
    assert again.position("production").log.frontier.size == 2


def test_a_transaction_that_fails_leaves_nothing_and_tells_the_author(
    sequencer: Any, installation: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = sequencer()
    writer.start()

    def full(*_: object, **__: object) -> None:
        raise OperationalError("INSERT", {}, OSError("disk full"))

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "set_heads", full)
        failed = take(writer, installation, installation.flag())
        assert failed.exception(timeout=10).code == "store_failed"
    with database.read() as snapshot:
        assert snapshot.log("production").frontier.size == 1
    taken = take(writer, installation, installation.flag())
    assert taken.result(timeout=10).index == 1
    writer.close()


def test_a_transaction_that_fails_after_it_was_persisted_is_found_again(
    sequencer: Any, installation: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = sequencer()
    writer.start()
    real = database.write

    @contextmanager
    def failing_late(*, synced: bool = True) -> Iterator[Transaction]:
        with real(synced=synced) as transaction:
            yield transaction
        raise OperationalError("COMMIT", {}, OSError("no answer"))

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", failing_late)
        failed = take(writer, installation, installation.flag())
        assert failed.exception(timeout=10).code == "store_failed"
    repeated = take(writer, installation, installation.flag())
    following = take(writer, installation, installation.flag("second"))
    assert (repeated.result(timeout=10).index, repeated.result().repeated) == (1, True)
    assert following.result(timeout=10).index == 2
    writer.close()


def test_a_checkpoint_that_cannot_be_stored_is_published_once_it_can(
    sequencer: Any, installation: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = sequencer()
    writer.start()

    def full(*_: object, **__: object) -> None:
        raise OperationalError("UPDATE", {}, OSError("disk full"))

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "set_note", full)
        failed = take(writer, installation, installation.flag())
        assert failed.exception(timeout=10).code == "store_failed"
    repeated = take(writer, installation, installation.flag()).result(timeout=10)
    writer.close()
    assert (repeated.index, repeated.repeated) == (1, True)
    with database.read() as snapshot:
        log = snapshot.log("production")
    assert checkpoint_of(log, installation).checkpoint.size == 2


def test_a_checkpoint_is_renewed_while_nothing_changes(
    sequencer: Any, installation: Any, clock: Any
) -> None:
    writer = sequencer()
    before = writer.position("production").log
    clock.ms += 9_000
    writer.publish_checkpoint("production")
    after = writer.position("production").log
    old, new = (checkpoint_of(log, installation) for log in (before, after))
    assert new.checkpoint == old.checkpoint
    assert new.cosigned_at - old.cosigned_at == 9


def test_another_tree_than_the_signed_one_is_never_signed(
    sequencer: Any, installation: Any, database: Any, tmp_path: Path
) -> None:
    writer = sequencer()
    shutil.copy(database.path, tmp_path / "backup.sqlite3")
    take(writer, installation, installation.flag())
    writer.work()
    writer.publish_all()
    published = writer.position("production").log
    # The database goes back to the backup's position, its note stays.
    with database.write() as transaction:
        backup = Database.open(tmp_path / "backup.sqlite3")
        with backup.read() as snapshot:
            transaction.move(snapshot.log("production"))
        backup.close()
    with pytest.raises(Forked):
        writer.publish_checkpoint("production")
    with pytest.raises(Forked):
        sequencer()
    with database.read() as snapshot:
        assert snapshot.log("production").note == published.note


def test_a_tree_somebody_else_wrote_is_not_signed(
    sequencer: Any, installation: Any, database: Any
) -> None:
    writer = sequencer()
    take(writer, installation, installation.flag())
    writer.work()
    log = writer.position("production").log
    other = replace(log, frontier=Frontier().extended([b"a" * 32, b"b" * 32]))
    with database.write() as transaction:
        transaction.move(other)
    with pytest.raises(Forked, match="expected the database at size 2 as written"):
        writer.publish_checkpoint("production")
    with database.read() as snapshot:
        assert snapshot.log("production").note_size == 1


def test_a_second_store_is_refused_and_the_holder_named(database: Any) -> None:
    database.hold()
    second = Database.open(database.path)
    with pytest.raises(StoreHeld, match=r"found process \d+ on "):
        second.hold()
    second.close()
    database.close()
    third = Database.open(database.path)
    third.hold()
    third.close()


def test_a_database_of_a_newer_format_is_refused(database: Any) -> None:
    with database.write() as transaction:
        transaction.connection.exec_driver_sql("UPDATE format SET version = 2")
    with pytest.raises(FormatUnsupported, match="expected format 1, found 2"):
        Database.open(database.path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "store.sqlite3"
    other.write_bytes(b"no database" * 100)
    with pytest.raises(FormatUnsupported):
        Database.open(other)
    assert other.read_bytes() == b"no database" * 100
    with pytest.raises(NotFound):
        Database.open(tmp_path / "absent.sqlite3")


def test_a_store_without_a_logs_key_does_not_start(sequencer: Any, installation: Any) -> None:
    installation.held_keys.remove(installation.log_keys["staging"])
    with pytest.raises(NotFound, match="log key of test/staging/1"):
        sequencer().start()


async def test_a_served_store_goes_on_after_a_restart(serve: Any) -> None:
    async with serve() as served:
        await served.publish(served.installation.flag())
        before = await served.standing()
    async with serve() as served:
        assert await served.standing() == before
        assert await served.publish(served.installation.flag("second")) == 3
