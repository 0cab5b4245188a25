"""The commands that write a store's and an author's files, killed at each of their effects.

In every row the command is run again. Where it then refuses it names the file that is in its way;
once those are removed it succeeds. No private key or token can be read by others at any moment, and
what has its final name is whole.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from control_plane.publish.keyfiles import load_signer
from control_plane.trust.enrolment import Enrolment
from control_plane.trust.state import restore
from control_plane_store.database import Database
from control_plane_store.tokens import sha256_of

# (effect, what a crash right before or after it leaves, who picks it up)
INIT = (
    ("mkdir *", "nothing, or an empty folder", "the next init"),
    ("create store.sqlite3.new", "a database nobody opens", "the next init removes it"),
    ("unlink store.sqlite3.new*", "a database nobody opens", "the next init removes it"),
    ("commit *", "a database nobody opens", "the next init removes it"),
    ("close store.sqlite3.new", "a database nobody opens", "the next init removes it"),
    ("* audit.jsonl", "lines of tokens that never held", "nobody: the file decides nothing"),
    ("* trust.json", "an enrolment in no log, perhaps cut short", "the next init names it"),
    ("* tokens/*.token", "tokens that never held, perhaps cut short", "the next init names it"),
    ("rename store.sqlite3", "those files, or the whole store", "the next init names them"),
    ("fsync .", "a store", "nobody need"),
)  # fmt: skip
KEYS = (
    ("mkdir *", "empty folders", "the next keys init"),
    ("create *.TEMPORARY", "an empty file of mode 0600 or less", "nobody: nothing reads it"),
    ("fchmod *.TEMPORARY", "an empty file of mode 0600 or less", "nobody: nothing reads it"),
    ("fsync *.TEMPORARY", "a whole file under another name", "nobody: nothing reads it"),
    ("link keys/*.pem", "that, or a key without its .pub", "list_keys; keys init names it"),
    ("link trust/*", "keys without all metadata", "keys init names what is there"),
    ("unlink *.TEMPORARY", "a file under two names", "nobody: nothing reads the other"),
    ("replace *.pem.pub", "a key without its .pub", "list_keys reads the key"),
    ("fsync keys", "some of the keys", "keys init names one"),
    ("fsync trust", "keys without all metadata, or all there is", "keys init names what is there"),
)  # fmt: skip

Again = Callable[[], Any]


def rows_without(table: Any, trace: list[str]) -> tuple[list[str], list[str]]:
    """Effects without a row, and rows without an effect."""
    alone = [e for e in dict.fromkeys(trace) if not any(fnmatch(e, row[0]) for row in table)]
    unmet = [row[0] for row in table if not any(fnmatch(e, row[0]) for e in trace)]
    return alone, unmet


def make_room(again: Again) -> int:
    """Run a command again, removing what it says is in its way; how many files that were."""
    for removed in range(8):
        done = again()
        if done.code == 0:
            return removed
        named = re.search(r"(/\S+): expected no file, found one", done.complained())
        assert named, done.complained()
        Path(named[1]).unlink()
    raise AssertionError("expected the command to succeed, found file after file in its way")


def others_can_read(folder: Path, *patterns: str) -> list[Path]:
    """Files of these names, and half-made ones, that not only their owner can read."""
    return [
        path
        for path in folder.rglob("*")
        if any(fnmatch(path.name, pattern) for pattern in patterns)
        if path.stat().st_mode & 0o077
    ]


def check_store(installation: Any) -> None:
    """A store is whole: every log signed to its end, the enrolment in it, both tokens in force."""
    assert len(installation.leaves()) == 1
    enrolment = Enrolment.decode((installation.place / "trust.json").read_bytes())
    database = Database.open(installation.database)
    with database.read() as snapshot:
        log = snapshot.log("production")
        assert log is not None
        assert enrolment.checkpoint("production") == log.note
        for may in ("follow", "submit"):
            secret = (installation.place / "tokens" / f"{may}.token").read_text().strip()
            found = snapshot.token(sha256_of(secret), "production")
            assert found is not None
            assert found.may == may
    database.close()


@pytest.fixture(scope="module")
def bare(world: Any) -> Any:
    """Keys and trust of an installation without a store."""
    return world.installation(store=False)


def init_killed(world: Any, bare: Any, at: tuple[str, int] | None, when: str) -> list[str]:
    installation = world.copy(bare)
    run = world.launcher.run
    died = run(installation.place, *installation.init_arguments(), at=at, when=when, umask=0)
    assert died.code == (0 if at is None else -signal.SIGKILL), died.complained()
    assert others_can_read(installation.place, "*.token", "store.sqlite3*", "audit.jsonl") == []
    if not installation.database.exists():
        make_room(lambda: run(installation.place, *installation.init_arguments()))
    check_store(installation)
    shutil.rmtree(installation.place)
    return list(died.effects())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_store_init_leaves_a_whole_store_or_none(
    world: Any, bare: Any, one_a_row: Any, when: str
) -> None:
    trace = init_killed(world, bare, None, when)
    assert rows_without(INIT, trace) == ([], [])
    for effect in one_a_row(INIT, trace, when):
        init_killed(world, bare, effect, when)


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_init_killed_anywhere_leaves_a_whole_store_or_none(
    world: Any, bare: Any, numbered: Any, when: str
) -> None:
    for effect in numbered(init_killed(world, bare, None, when)):
        init_killed(world, bare, effect, when)


def keys_killed(world: Any, at: tuple[str, int] | None, when: str) -> list[str]:
    place = world.new()
    arguments = ["keys", "init", "--directory", place, "--installation", "a", "-e", "production"]
    died = world.launcher.run(place, *arguments, at=at, when=when, umask=0)
    assert died.code == (0 if at is None else -signal.SIGKILL), died.complained()
    assert others_can_read(place, "*.pem", ".*.pem.????????") == []
    for key in place.glob("keys/*.pem"):
        assert load_signer(key).public_key.keyid
    if (place / "trust" / "targets.json").exists():
        policy = restore(
            (place / "trust" / "1.root.json").read_bytes(),
            (place / "trust" / "targets.json").read_bytes(),
        )
        key = load_signer(place / "keys" / "log-production.pem").public_key
        assert policy.log("production").key_id == key.keyid
    else:
        again = world.launcher.run(place, *arguments)
        assert again.code == 0 or f"{place}/" in again.complained()
        shutil.rmtree(place)
        assert world.launcher.run(place, *arguments).code == 0
    shutil.rmtree(place)
    return list(died.effects())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_keys_init_leaves_whole_keys_that_only_their_owner_reads(
    world: Any, one_a_row: Any, when: str
) -> None:
    trace = keys_killed(world, None, when)
    assert rows_without(KEYS, trace) == ([], [])
    for effect in one_a_row(KEYS, trace, when):
        keys_killed(world, effect, when)


@pytest.mark.torture
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_keys_init_killed_anywhere_leaves_whole_keys_that_only_their_owner_reads(
    world: Any, numbered: Any, when: str
) -> None:
    for effect in numbered(keys_killed(world, None, when)):
        keys_killed(world, effect, when)
