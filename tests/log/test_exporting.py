"""A log of several epochs as plain files: written whole, read back through all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import EpochDiverged, Forked, NotFound, Refused, RolledBack
from control_plane.log.canonical import sha256_hex
from control_plane.publish.replay import History, replay
from control_plane.publish.static_log import FolderFiles, StaticLog, check_live_blobs, export

ENVIRONMENT = "production"


@pytest.fixture
def two(log: Any) -> Any:
    """A log of two epochs; the second replaced one of two flags."""
    log.begin()
    log.put("one", replaces=2)
    return log


def exported(log: Any, folder: Path) -> Any:
    return export(log, ENVIRONMENT, log.enrolment(), folder)


def read_back(log: Any, folder: Path, enrolment: Any = None) -> tuple[StaticLog, History]:
    static = StaticLog(FolderFiles(folder))
    return static, replay(static, ENVIRONMENT, enrolment or log.enrolment())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def blobs(folder: Path, epoch: int) -> set[str]:
    return {path.name for path in (folder / ENVIRONMENT / str(epoch) / "blob/sha256").iterdir()}


def test_every_epoch_is_written_and_read_back_as_the_same_history(log: Any, tmp_path: Path) -> None:
    enrolments = [log.enrolment()]
    for epoch in (2, 5, 6):
        log.begin(epoch)
        enrolments.append(log.enrolment())
        log.put(f"x{epoch}")
    done = exported(log, tmp_path)
    assert done.folder == tmp_path / ENVIRONMENT / "6"
    assert {path.name for path in (tmp_path / ENVIRONMENT).iterdir()} == {"1", "2", "5", "6"}
    for enrolment in enrolments:
        static, history = read_back(log, tmp_path, enrolment)
        assert history.heads == log.heads
        assert history.position == done.history.position
        assert history.roots == done.history.roots
        assert static.check_tiles() == 4
        assert check_live_blobs(static, history) == 5


def test_a_gap_of_epoch_numbers_is_bridged_by_who_is_enrolled_behind_it(
    log: Any, tmp_path: Path
) -> None:
    before = log.enrolment()
    log.begin(50)
    exported(log, tmp_path)
    assert read_back(log, tmp_path)[1].position.epoch == 50
    # A file server cannot tell; whoever is enrolled before the gap does not know of it.
    assert read_back(log, tmp_path, before)[1].position.epoch == 1


def test_each_epochs_folder_holds_what_its_followers_read(two: Any, tmp_path: Path) -> None:
    done = exported(two, tmp_path)
    heads = {key.name: head.digest for key, head in two.heads.items()}
    old = done.history.changes_at(3)
    roots, targets = [sha256_hex(root) for root in two.roots], sha256_hex(two.targets)
    flags = {change.digest for change in old.values()}
    assert blobs(tmp_path, 1) == flags | {roots[0], targets}
    assert blobs(tmp_path, 2) == {heads["one"], heads["two"], roots[1], targets}
    assert (done.blobs, done.gone) == (8, 0)


def test_a_blob_superseded_in_a_later_epoch_may_be_gone(two: Any, tmp_path: Path) -> None:
    one = exported(two, tmp_path / "before").history.changes_at(2)
    (superseded,) = {change.digest for change in one.values()}
    del two.blobs[superseded]
    done = exported(two, tmp_path / "after")
    assert (done.blobs, done.gone) == (7, 1)
    static, history = read_back(two, tmp_path / "after")
    assert history.heads == two.heads
    assert check_live_blobs(static, history) == 2
    # A folder that had it keeps it.
    again = exported(two, tmp_path / "before")
    assert (again.blobs, again.gone) == (8, 0)


def test_a_live_blob_that_is_missing_leaves_the_new_epoch_without_a_checkpoint(
    two: Any, tmp_path: Path
) -> None:
    before = replace(two.enrolment(), root=two.roots[0], checkpoints={})
    missing = two.heads[next(key for key in two.heads if key.name == "one")].digest
    kept = two.blobs.pop(missing)
    with pytest.raises(NotFound, match=missing):
        exported(two, tmp_path)
    assert (tmp_path / ENVIRONMENT / "1" / "checkpoint").exists()
    assert not (tmp_path / ENVIRONMENT / "2" / "checkpoint").exists()
    assert read_back(two, tmp_path, before)[1].position.epoch == 1
    two.blobs[missing] = kept
    exported(two, tmp_path)
    assert read_back(two, tmp_path)[1].heads == two.heads


def test_an_export_goes_on_where_the_log_does_and_changes_no_tile(log: Any, tmp_path: Path) -> None:
    exported(log, tmp_path)
    before = contents(tmp_path)
    log.put("late")
    log.begin()
    exported(log, tmp_path)
    after = contents(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {"production/1/checkpoint"}
    assert [epoch.position.size for epoch in read_back(log, tmp_path)[1].epochs] == [4, 2]


def test_a_folder_with_an_epoch_of_another_history_is_left_as_it_is(
    log: Any, new_log: Any, tmp_path: Path
) -> None:
    """Epoch 2 was lost with its store; a root that passes its number went on from epoch 1."""
    lost = new_log()
    lost.start()
    lost.put("one")
    lost.put("two")
    lost.begin()
    exported(lost, tmp_path)
    before = contents(tmp_path)
    log.begin(3)
    with pytest.raises(Refused, match=r"expected epochs 1, 3 of .* found epoch 2; export to"):
        exported(log, tmp_path)
    assert contents(tmp_path) == before
    # Nor is an older state of a log written over a newer one.
    del lost.epochs[1:]
    with pytest.raises(Refused, match=r"expected epochs 1 of .* found epoch 2"):
        export(lost, ENVIRONMENT, replace(lost.enrolment(), root=lost.roots[0]), tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_that_holds_more_than_a_new_epoch_continues_is_left_as_it_is(
    log: Any, new_log: Any, tmp_path: Path
) -> None:
    ahead = new_log()
    ahead.start()
    for name in ("one", "two", "lost"):
        ahead.put(name)
    exported(ahead, tmp_path)
    before = contents(tmp_path)
    log.begin()
    with pytest.raises(RolledBack, match="acme/production/1: expected at least 4 entries"):
        exported(log, tmp_path)
    assert contents(tmp_path) == before


def test_files_of_an_epoch_that_ends_elsewhere_are_no_log(two: Any, tmp_path: Path) -> None:
    exported(two, tmp_path)
    (tmp_path / ENVIRONMENT / "1" / "checkpoint").write_bytes(two.epochs[0].checkpoint(2))
    width = tmp_path / ENVIRONMENT / "1" / "tile" / "entries" / "000.p"
    (width / "2").write_bytes(b"".join(
        len(leaf).to_bytes(2, "big") + leaf for leaf in two.epochs[0].leaves[:2]
    ))  # fmt: skip
    with pytest.raises(EpochDiverged, match="at size 2"):
        read_back(two, tmp_path)


def test_a_changed_tile_of_an_older_epoch_is_found(two: Any, tmp_path: Path) -> None:
    exported(two, tmp_path)
    path = tmp_path / ENVIRONMENT / "1" / "tile" / "0" / "000.p" / "3"
    path.write_bytes(bytes(len(path.read_bytes())))
    static, history = read_back(two, tmp_path)
    assert history.heads == two.heads
    with pytest.raises(Forked, match="the hashes of the entries in production/1/tile/0/000"):
        static.check_tiles()
